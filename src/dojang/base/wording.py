"""Parts of messages: a number with its noun, and a hint at the name that may have been meant. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

LONGEST = 60
"""Letters of a name up to which it is compared: a file may hold names of any length."""

SHORT_CUTOFF = 0.55
"""In words of five letters and less two that changed places make more of a difference."""

MOST = 1000
"""Names that are compared, at most."""


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """The number and its noun, which is in the plural unless the number is 1.

    >>> counted(1, "layer"), counted(53002, "parameter"), counted(2, "pass"), counted(3, "pair of passes", "pairs")
    ('1 layer', '53,002 parameters', '2 passes', '3 pairs')
    >>> counted(2, "batch"), counted(2, "epoch")
    ('2 batches', '2 epochs')
    """
    return f"{count:,} {noun if count == 1 else plural or _plural(noun)}"


def _plural(noun: str) -> str:
    if noun.endswith(("s", "x", "ch", "sh")) and not noun.endswith("epoch"):  # whose ch is spoken k
        return f"{noun}es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def did_you_mean(word: str, names: Iterable[str], otherwise: str, most: int = 3) -> str:
    """A question with the names that are nearest to a misspelt one; `otherwise` if none is near.

    >>> did_you_mean("alxnet", ["alexnet", "vgg16"], "`dojang list networks` lists them all")
    'did you mean alexnet?'
    >>> did_you_mean("mcas", ["mac", "flop"], ""), did_you_mean("AlexNet", ["alexnet", "vgg16"], "")
    ('did you mean mac?', 'did you mean alexnet?')
    """
    from difflib import get_close_matches

    short = list(islice((name for name in names if len(name) <= LONGEST), MOST))
    folded = {name.casefold(): name for name in reversed(short)}
    asked = word[:LONGEST].casefold()
    close = get_close_matches(asked, folded, most) or get_close_matches(asked, folded, 1, SHORT_CUTOFF)[: len(word) < 6]
    near = [folded[name] for name in close]
    return f"did you mean {' or '.join(near)}?" if near else otherwise
