"""Sentences that the page says in the language of its reader: a key of its words, with values, beside the English."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, final

from dojang.base.errors import DojangError

Failure = TypeVar("Failure", bound=DojangError)

_SLOT = "page_words"


@final
@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence: in English, and for the page as a `key` of `report/web/words.mjs` with `values`.

    >>> str(Sentence("whyWeights", "the network has no weights"))
    'the network has no weights'
    """

    key: str
    english: str
    values: Mapping[str, str | int] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.english

    def to_dict(self) -> dict[str, Any]:
        """The parts, as the page reads them."""
        return {"key": self.key, "english": self.english, "values": dict(self.values)}


def saying(kind: type[Failure], sentence: Sentence) -> Failure:
    """An error that the page can say in its own words."""
    error = kind(sentence.english)
    error.__dict__[_SLOT] = sentence
    return error


def sentence_of(error: BaseException) -> Sentence | None:
    """The sentence of an error that was made by `saying`; None of any other."""
    found = error.__dict__.get(_SLOT)
    return found if isinstance(found, Sentence) else None
