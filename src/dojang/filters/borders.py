"""The border of a picture as index maps: for each padded position, the position from which it is copied."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dojang.base.errors import UsageError
from dojang.base.wording import did_you_mean

Border = Literal["zero", "constant", "replicate", "reflect", "circular", "valid"]
BORDERS: tuple[str, ...] = get_args(Border)


def check_border(border: str) -> Border:
    """The border; for other text an error that lists the borders."""
    if border not in BORDERS:
        hint = did_you_mean(str(border), BORDERS, f"use {', '.join(BORDERS)}")
        raise UsageError(f'border "{border}" is not known; {hint}')
    return border  # type: ignore[return-value]


@lru_cache(maxsize=256)
def index_map(size: int, before: int, after: int, border: Border) -> NDArray[np.int64]:
    """Source index of each of the before + size + after positions; −1 stands for the constant.

    `reflect` mirrors without repeating the edge, several times if the padding exceeds the picture (NumPy's "reflect");
    a picture one pixel wide is repeated. `valid` has no padding.

    >>> index_map(4, 2, 3, "reflect").tolist()
    [2, 1, 0, 1, 2, 3, 2, 1, 0]
    >>> index_map(3, 2, 1, "circular").tolist(), index_map(2, 1, 1, "zero").tolist()
    ([1, 2, 0, 1, 2, 0], [-1, 0, 1, -1])
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
