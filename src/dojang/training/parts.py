"""The names that people give to the parts of a data set, and which part each one means."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dojang.base.errors import DataError

SYNONYMS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "eval", "evaluation", "dev", "development"),
    "test": ("test", "testing", "tst"),
}
"""Names of the three parts; upper and lower case are the same."""

_PART = {name: part for part, names in SYNONYMS.items() for name in names}
_ADDED = ("set", "data", "images", "imgs", "split", "part")


def part_of(name: str) -> str | None:
    """ "train", "val" or "test" for a name of such a part, else None.

    >>> part_of("Training"), part_of("VALID"), part_of("test_set"), part_of("trains")
    ('train', 'val', 'test', None)
    """
    word = re.sub(r"[\s_\-.]", "", name.casefold())
    for added in ("", *_ADDED):
        if word.endswith(added) and (found := _PART.get(word.removesuffix(added))):
            return found
    return None


def parts_of(names: Iterable[str], where: str) -> dict[str, str]:
    """The name of each part among `names`: {"train": "TRAIN", "test": "Eval"}.

    Raises DataError for two names of one part, and for names of no part beside them.
    """
    found: dict[str, str] = {}
    unknown = []
    for name in names:
        part = part_of(name)
        if part is None:
            unknown.append(name)
        elif part in found:
            raise DataError(f"{where}: {found[part]} and {name} both name the {part} part; take one away")
        else:
            found[part] = name
    if unknown:
        known = "; ".join(f"{part}: {', '.join(names)}" for part, names in SYNONYMS.items())
        raise DataError(
            f"{where}: {unknown[0]} stands beside {' and '.join(found.values())}, and names no part known here; put it "
            f"inside or take it away ({known})"
        )
    return found


def as_two(found: dict[str, str]) -> dict[str, str]:
    """The parts with one to test on: where there is no test part, the validation part is it."""
    if "test" not in found and "val" in found:
        return {"test" if part == "val" else part: name for part, name in found.items()}
    return found


def said(found: dict[str, str]) -> str:
    """Where the parts come from, in one sentence."""
    return f"the parts are {', '.join(f'{name} (to {DOES[part]})' for part, name in found.items())}"


PART_NAMES = {"test": "test part", "val": "validation part"}
"""What parts beside the train part are called in messages."""

DOES = {"train": "train on", "test": "test on", "val": "choose by"}
"""What each part is for."""
