"""Tiles of Fourier convolution: what of a kernel meets the image, how long transforms must be, where a tile lies."""

from __future__ import annotations

from dataclasses import dataclass

from dojang.base.record import plain_repr
from dojang.engine.kernels.task import Task
from dojang.native.emit import Value


@plain_repr
@dataclass(frozen=True, slots=True)
class FourierAxis:
    """One axis of a layer without the taps that never meet the input: `extent` places from the first tap to the last,
    the first of them `pad` places before the output's; `skipped` places were left out before it."""

    size: int
    out: int
    extent: int
    pad: int
    skipped: int

    @property
    def whole(self) -> int:
        """The least length of a circular transform with all outputs: what wraps around falls on padding."""
        return max(self.size + self.pad, self.out + self.extent - 1 - self.pad, self.out)


def axis_of(size: int, kernel: int, dilation: int, pad: int, out: int) -> FourierAxis:
    """The axis without useless taps.

    >>> axis_of(14, 31, 1, 15, 14)
    FourierAxis(size=14, out=14, extent=27, pad=13, skipped=2)
    """
    first, last = max(0, pad - out + 1), min(dilation * (kernel - 1), size - 1 + pad)
    return FourierAxis(size, out, max(1, last - first + 1), pad - first, first)


def axes_of(task: Task) -> tuple[FourierAxis, FourierAxis]:
    """Down and across, of a task of two dimensions."""
    c = task.conv
    down, across = (
        axis_of(s, k, d, p, o)
        for s, k, d, (p, _), o in zip(c.size, c.kernel, c.dilation, c.padding, c.out_size, strict=True)
    )
    return down, across


@plain_repr
@dataclass(frozen=True, slots=True)
class FourierBlocking:
    """How a layer is cut: lengths of the transforms (height 1: rows by themselves), outputs of a tile down and across.

    `spread`: lanes are tiles, for layers of one channel. `pixels` and `vectors` are the register tile of the products
    between channels, 0 where each channel stays by itself.
    """

    height: int
    width: int
    down: int
    across: int
    spread: bool = False
    pixels: int = 0
    vectors: int = 0


@plain_repr
@dataclass(frozen=True, slots=True)
class TilePlace:
    """Where a tile lies: bytes of its first input and output, rows and columns that are in the image, outputs left."""

    x: Value
    pixel: Value
    rows: tuple[Value, Value]
    columns: tuple[Value, Value]
    out_rows: Value
    out_columns: Value
