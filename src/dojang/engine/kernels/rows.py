"""How a row of outputs is cut into tiles: by its length, or so that code serves rows of any length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.native.emit import Emit

MOST_PIXELS = ((16, 7), (32, 14))
"""Rows of any length: (length, pixels of a tile), those of shorter rows have at most so many pixels; so a short row
wastes little, and a layer has code for three tiles at most."""


@plain_repr
@dataclass(frozen=True)
class RowPiece:
    """Neighbouring tiles of `count` pixels with the same `border`, from pixel `start` on to `end`.

    Those that would begin behind `last` begin there, and compute some pixels again.
    """

    count: int
    border: Any
    start: Any
    end: Any
    last: Any = None

    def loop(self, b: Emit, body: Callable[[Any], None]) -> None:
        """`body(first pixel)` of each tile."""
        b.loop(self.start, self.end, self.count, lambda i, _: body(i if self.last is None else b.imin(i, self.last)))


Border = Callable[[int, int], Any]
"""What differs between tiles of as many pixels, of (first pixel, pixels)."""


def exact(tiles: Sequence[tuple[int, int]], border: Border) -> list[RowPiece]:
    """Tiles (first pixel, pixels) as they are; neighbours that are alike are one piece."""
    kinds = [(n, border(start, n)) for start, n in tiles]
    found = []
    for first, many in t.runs(kinds):
        (count, which), start = kinds[first], tiles[first][0]
        found.append(RowPiece(count, which, start, start + many * count))
    return found


@plain_repr
@dataclass(frozen=True)
class OpenRow:
    """A row of any length in tiles of `pixels`: one at its beginning if that is a border, one at its end likewise.

    `left` and `right` are these borders; `before` and `after` the pixels that they concern.
    """

    pixels: int
    inside: Any
    left: Any
    right: Any
    before: int
    after: int

    def pieces(self, length: Any) -> list[RowPiece]:
        """The tiles of a row of a length that is known at run time."""
        p, found = self.pixels, []
        if self.before:
            found.append(RowPiece(p, self.left, 0, p))
        end = length - p if self.after else length
        found.append(RowPiece(p, self.inside, p if self.before else 0, end, length - (self.after + p)))
        if self.after:
            found.append(RowPiece(p, self.right, length - p, length - p + 1))
        return found


def open_row(length: int, pixels: int, border: Border) -> OpenRow | None:
    """How rows like one of this length are cut; None where it is too short for that."""
    for below, most in MOST_PIXELS:
        if length < below:
            pixels = min(pixels, most)
            break
    if length < pixels:
        return None
    # Windows move on with the pixels, so all between two that see the same part of their window see it too.
    inside = border(length // 2, 1)
    before = next(i for i in range(length) if border(i, 1) == inside)
    after = next(i for i in range(length) if border(length - 1 - i, 1) == inside)
    if max(before, after) > pixels or length < pixels + before + after:
        return None
    middle = border(before, pixels)
    return OpenRow(
        pixels, middle, border(0, pixels) if before else middle, border(length - pixels, pixels) if after else middle,
        before, after,
    )  # fmt: skip
