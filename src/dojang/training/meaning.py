"""What arrays of samples mean: which axis is the channel, and what the values stand for."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dojang.base.errors import DataError
from dojang.training.asked import NOTHING, WHITE, Asked
from dojang.training.labels import narrowed

Array = NDArray[Any]

PICTURE_CHANNELS = (1, 3, 4)
"""Channels of a picture: grey, colour, colour with transparency."""

_BLOCK = 4096  # samples that are looked at together, so that a look does not copy the data

AS_IT_IS, NEW_CHANNEL, LAST_FIRST, FLAT = "as it is", "one channel", "channels last", "flattened"
"""How stored samples become (c, …)."""


def samples_of(parts: Sequence[tuple[Array, str]], asked: Asked = NOTHING) -> tuple[list[Array], tuple[str, ...]]:
    """The parts (array, where it stands) of one data set as (n, c, …) of uint8 or float32, and what was understood.

    All parts are read alike. Whole numbers from 0 to at most 255 that reach 128, in the form of pictures, are stored as
    uint8, which is exact. Raises DataError for types and shapes that are no samples, and for what cannot be told apart.
    """
    notes: list[str] = []
    out: list[Array] = []
    for x, where in parts:
        check_samples(x, where)
        how = layout_of(x.shape, x.dtype == np.uint8, asked, where)
        if how in SAID and SAID[how] not in notes:
            notes.append(SAID[how])
        x = laid_out(x, how)
        out.append(np.ascontiguousarray(x) if x.dtype == np.uint8 else narrowed(x, where))
    return _valued(out, [where for _, where in parts], asked, notes), tuple(notes)


SAID = {
    LAST_FIRST: "the channel is the last axis of the stored samples",
    FLAT: "the axes of a sample are flattened, row by row",
}
"""What is said of a reading that is not the plain one."""


def check_samples(x: Array, where: str) -> None:
    """Raise DataError unless `x` is an array of numbers with samples in it."""
    if x.dtype.kind not in "buif":
        raise DataError(f"{where}: samples are of type {x.dtype}; use uint8 or floats")
    if x.ndim < 2 or prod(x.shape) == 0:
        raise DataError(f"{where}: samples have shape {x.shape}; use (n, c, h, w) with every size at least 1")


def layout_of(shape: Sequence[int], pictures: bool, asked: Asked, where: str) -> str:
    """How stored samples (n, …) become (n, c, …), told by the network's input where there is one.

    Without a network rank 3 is (n, h, w), and rank 4 has its channels last where only that axis has 1, 3 or 4 of them.
    """
    own: tuple[int, ...] = tuple(shape[1:])
    wanted = asked.shape
    if asked.layout is not None and len(own) >= 2 and (wanted is None or len(wanted) == len(own)):
        return LAST_FIRST if asked.layout == "channels-last" else AS_IT_IS
    if wanted is None:
        if len(own) == 2:
            return NEW_CHANNEL
        last = len(own) == 3 and own[-1] in PICTURE_CHANNELS and own[0] not in PICTURE_CHANNELS
        return LAST_FIRST if last else AS_IT_IS
    if own == wanted:
        return AS_IT_IS
    if len(own) == len(wanted) and len(own) >= 2:
        if own == (*wanted[1:], wanted[0]):
            return LAST_FIRST
        first, last = own[0] == wanted[0], own[-1] == wanted[0]
        if pictures and not first and not last:  # the colour may have to be converted
            first, last = own[0] in PICTURE_CHANNELS, own[-1] in PICTURE_CHANNELS
        if first and last:
            raise DataError(
                f"{where}: samples of {sizes(own)} may have their channel first or last; say which "
                "(--layout channels-first or channels-last)"
            )
        return LAST_FIRST if last else AS_IT_IS
    if len(wanted) == 1 and prod(own) == wanted[0]:
        return FLAT
    if len(own) == len(wanted) - 1:
        return NEW_CHANNEL
    return AS_IT_IS


def laid_out(x: Array, how: str) -> Array:
    """Stored samples (n, …), read as `layout_of` says."""
    if how == NEW_CHANNEL:
        return x[:, None]
    if how == LAST_FIRST:
        return np.moveaxis(x, -1, 1)
    return x.reshape(len(x), -1) if how == FLAT else x


def _valued(parts: list[Array], wheres: list[str], asked: Asked, notes: list[str]) -> list[Array]:
    """The parts with their values as `asked`, or as pictures where they are without doubt."""
    if asked.values in ("as-is", "normalised"):
        return [x.astype(np.float32, copy=False) for x in parts]
    if asked.values == "0-65535":
        for x, where in zip(parts, wheres, strict=True):
            _within(x, WHITE[asked.values], where)
        return [x.astype(np.float32) / np.float32(WHITE[asked.values]) for x in parts]
    if all(x.dtype == np.uint8 for x in parts):
        return parts
    if asked.values == "0-255":
        for x, where in zip(parts, wheres, strict=True):
            _within(x, WHITE[asked.values], where)
        if all(x.dtype == np.uint8 or _whole(x) for x in parts):
            return [x.astype(np.uint8, copy=False) for x in parts]
        return [x.astype(np.float32) / np.float32(WHITE[asked.values]) for x in parts]
    rank = {x.ndim for x in parts} == {4} and all(x.shape[1] in PICTURE_CHANNELS for x in parts)
    if rank and all(x.dtype == np.uint8 or _bytes(x) for x in parts) and max(float(x.max()) for x in parts) >= 128:
        notes.append("whole numbers from 0 to 255 are read as pictures (--values as-is takes them as they stand)")
        return [x.astype(np.uint8, copy=False) for x in parts]
    return parts


def _within(x: Array, most: int, where: str) -> None:
    low, high = float(x.min()), float(x.max())
    if not 0 <= low <= high <= most:
        raise DataError(f"{where}: values go from {low:g} to {high:g}, not within 0-{most}; give other --values")


def _bytes(x: Array) -> bool:
    """Whether all values are whole and within 0 … 255."""
    first = x[: min(len(x), 8)]  # most arrays of other values are told by their first samples
    if not ((first >= 0) & (first <= 255)).all() or not _whole(first):
        return False
    return bool(x.min() >= 0 and x.max() <= 255) and _whole(x)


def _whole(x: Array) -> bool:
    return all(bool((np.rint(b) == b).all()) for b in (x[i : i + _BLOCK] for i in range(0, len(x), _BLOCK)))


def sizes(shape: Sequence[int]) -> str:
    """A shape as messages about data write it: 3×32×32."""
    return "×".join(str(s) for s in shape)
