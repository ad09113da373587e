"""The border of a picture as index maps: for each padded position, the position from which it is copied."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dojang.base.errors import UsageError
from dojang.base.wording import did_you_mean

Border = Literal["zero", "constant", "replicate", "reflect", "symmetric", "circular", "valid"]
BORDERS: tuple[str, ...] = get_args(Border)

OTHER_NAMES: dict[str, tuple[str, dict[str, str]]] = {
    "zero": ("000|abcd|000", {"torch": "zeros"}),
    "constant": (
        "vvv|abcd|vvv",
        {"scipy": "constant, grid-constant", "opencv": "BORDER_CONSTANT", "numpy": "constant", "torch": "constant"},
    ),
    "replicate": (
        "aaa|abcd|ddd",
        {"scipy": "nearest", "opencv": "BORDER_REPLICATE", "numpy": "edge", "torch": "replicate, border"},
    ),
    "reflect": (
        "dcb|abcd|cba",
        {"scipy": "mirror", "opencv": "BORDER_REFLECT_101, BORDER_DEFAULT", "numpy": "reflect", "torch": "reflect"},
    ),
    "symmetric": (
        "cba|abcd|dcb",
        {"scipy": "reflect, grid-mirror", "opencv": "BORDER_REFLECT", "numpy": "symmetric", "torch": ""},
    ),
    "circular": (
        "bcd|abcd|abc",
        {"scipy": "wrap, grid-wrap", "opencv": "BORDER_WRAP", "numpy": "wrap", "torch": "circular"},
    ),
    "valid": ("abcd", {"opencv": "", "scipy": "", "numpy": "", "torch": ""}),
}
"""For each border what it puts around a row abcd, and its names in SciPy, OpenCV, NumPy and PyTorch."""


def _aliases() -> dict[str, str]:
    """ "scipy:mirror" and the like, and OpenCV's names. Others are not taken: some mean two borders."""
    found: dict[str, set[str]] = {}
    for border, (_, names) in OTHER_NAMES.items():
        for library, text in names.items():
            for name in filter(None, text.split(", ")):
                found.setdefault(f"{library}:{name}", set()).add(border)
                if name.startswith("BORDER_"):
                    found.setdefault(name, set()).add(border)
    return {name: next(iter(borders)) for name, borders in found.items() if len(borders) == 1}


ALIASES: dict[str, str] = _aliases()


def check_border(border: str) -> Border:
    """The border, also by its name in another library (`OTHER_NAMES`); for other text an error that lists the borders.

    >>> check_border("reflect"), check_border("scipy:reflect"), check_border("BORDER_REFLECT")
    ('reflect', 'symmetric', 'symmetric')
    """
    found = ALIASES.get(border, border) if isinstance(border, str) else border
    if found not in BORDERS:
        theirs = [name for name in ALIASES if name.endswith(f":{border}")]
        if theirs:
            same = ", ".join(f'"{ALIASES[name]}" for {name}' for name in theirs)
            raise UsageError(f'border "{border}" is not known; use {same}')
        hint = did_you_mean(str(border), BORDERS, f"use {', '.join(BORDERS)}")
        raise UsageError(f'border "{border}" is not known; {hint}')
    return found  # type: ignore[return-value]


@lru_cache(maxsize=256)
def index_map(size: int, before: int, after: int, border: Border) -> NDArray[np.int64]:
    """Source index of each of the before + size + after positions; −1 stands for the constant.

    `reflect` mirrors without repeating the edge, several times if the padding exceeds the picture (NumPy's "reflect");
    a picture one pixel wide is repeated. `symmetric` mirrors with the edge repeated (SciPy's "reflect"). `valid` has no
    padding.

    >>> index_map(4, 2, 3, "reflect").tolist()
    [2, 1, 0, 1, 2, 3, 2, 1, 0]
    >>> index_map(3, 2, 1, "circular").tolist(), index_map(2, 1, 1, "zero").tolist()
    ([1, 2, 0, 1, 2, 0], [-1, 0, 1, -1])
    >>> index_map(3, 4, 2, "symmetric").tolist()
    [2, 2, 1, 0, 0, 1, 2, 2, 1]
    """
    places = np.arange(-before, size + after, dtype=np.int64)
    if border in ("zero", "constant"):
        places[(places < 0) | (places >= size)] = -1
    elif border == "replicate":
        places = places.clip(0, size - 1)
    elif border == "circular":
        places %= size
    elif border == "reflect":
        period = max(2 * size - 2, 1)
        places %= period
        places = np.where(places >= size, period - places, places)
    elif border == "symmetric":
        places %= 2 * size
        places = np.where(places >= size, 2 * size - 1 - places, places)
    elif before or after:
        raise UsageError("a valid border has no padding")
    places.flags.writeable = False
    return places


def pad(image: NDArray, rows: tuple[int, int], cols: tuple[int, int], border: Border, value: float = 0.0) -> NDArray:
    """`image` (h, w, …) with `rows` and `cols` (before, after) added as `border` says; `value` is for "constant"."""
    ys = index_map(image.shape[0], *rows, border)
    xs = index_map(image.shape[1], *cols, border)
    padded = image[ys][:, xs]
    if border == "constant" or border == "zero":
        fill = value if border == "constant" else 0
        padded[ys < 0] = fill
        padded[:, xs < 0] = fill
    return padded
