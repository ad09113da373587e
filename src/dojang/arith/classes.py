"""The names of a network's classes, as the one text in which its `meta` keeps them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from dojang.base.showing import is_plain


def as_text(names: Sequence[str]) -> str:
    """The names in order: separated by commas where that can be read back, else as a JSON list.

    >>> as_text(["cat", "dog"]), as_text(["cat, tabby", "dog"])
    ('cat,dog', '["cat, tabby", "dog"]')
    """
    text = ",".join(names)
    plain = all(name == name.strip() != "" and "," not in name for name in names)
    return text if plain and is_plain(text) and not text.startswith("[") else json.dumps(list(names))


def from_text(text: str) -> tuple[str, ...]:
    """The names that `as_text` wrote; none where the text is empty or a damaged list.

    >>> from_text('["cat, tabby", "dog"]'), from_text("cat, dog"), from_text("")
    (('cat, tabby', 'dog'), ('cat', 'dog'), ())
    """
    if text.startswith("["):
        try:
            return tuple(str(name) for name in json.loads(text))
        except (ValueError, RecursionError):
            return ()
    return tuple(name.strip() for name in text.split(",")) if text else ()
