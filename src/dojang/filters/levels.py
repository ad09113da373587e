"""Levels of a filtered picture: which level stands for a response of 0, and how many responses lie beyond the levels.

A picture of integers has no negative levels. A kernel whose response has both signs (`signed`) is therefore shown
around the middle level, unless the user gives an offset; and what the levels cannot hold is measured (`Saturation`) and
reported.
"""

from __future__ import annotations

from math import hypot

import numpy as np
from numpy.typing import NDArray

from dojang.filters.borders import index_map
from dojang.filters.job import Job, Options, result_dtype
from dojang.filters.kernels.parse import Kernel

BY_NAME = frozenset({"gabor"})
"""Kernels of both signs whose taps do not add up to exactly 0."""
ON_BLACK = frozenset({"outline"})
"""Kernels that are meant to draw light lines on black, although their response has both signs."""
SAMPLED_SIDE = 128
SAMPLED_WORK = 1 << 20
"""A result is looked at in at most so many rows and columns, with at most so many multiplications."""


def signed(kernel: Kernel) -> bool:
    """Whether flat areas give 0 and others both signs: a linear kernel of positive and negative taps that add up to 0,
    other than `ON_BLACK`.

    >>> from dojang.filters.kernels.parse import as_kernel
    >>> [name for name in ("sobel-x", "sobel", "log", "gabor", "sharpen", "-1 0 1") if signed(as_kernel(name))]
    ['sobel-x', 'log', 'gabor', '-1 0 1']
    """
    taps = kernel.parts[0]
    name = kernel.name.partition(":")[0]
    if kernel.combine != "linear" or not (taps.min() < 0 < taps.max()) or name in ON_BLACK:
        return False
    return abs(taps.sum()) <= 1e-9 * np.abs(taps).sum() or name in BY_NAME


def middle(kernel: Kernel, dtype: np.dtype, options: Options) -> float:
    """The offset at which the result shows both signs: the middle level (128, 32768) where integers hold the response
    of a signed kernel, else 0.
    """
    out = result_dtype(dtype, options.dtype)
    return float((np.iinfo(out).max + 1) // 2) if out.kind == "u" and signed(kernel) else 0.0


def warning_of(kernel: Kernel, dtype: np.dtype, offset: float, share: float) -> str:
    """What to say of a result most of which saturates because of the kernel, not of the picture: even an area of middle
    grey becomes black or white, as under a kernel whose taps add up to 16. "" otherwise.
    """
    if kernel.combine != "linear" or dtype.kind != "u" or signed(kernel) or share < 0.5:
        return ""
    top, total = float(np.iinfo(dtype).max), float(kernel.parts[0].sum())
    if -0.5 <= offset + total * top / 2 <= top + 0.5:
        return ""
    remedy = f"divide them by {total:g}" if total > 1 else "add to the values with --offset"
    return (
        f"{share:.0%} of the values saturate, because the taps of {kernel.name} add up to {total:g}; {remedy}, or keep "
        "the values as they are with --dtype float32"
    )


class Saturation:
    """The share of a result's values that lie beyond the levels of its integers before they are rounded.

    Measured on a grid of up to 128 rows and 128 columns of the result, in float64, by the definition. Alpha and unused
    channels do not count.
    """

    def __init__(self, job: Job, channels: int) -> None:
        """`channels` are those that count, the first ones."""
        self.job, self.channels = job, channels
        self._rows, self._columns = (_spread(size) for size in job.out_size)
        self._may = self._could()
        self._beyond = 0.0

    def _could(self) -> bool:
        """Whether any picture could give a value beyond the levels."""
        job = self.job
        if job.out_dtype.kind != "u" or self.channels < 1:
            return False
        top, offset = float(np.iinfo(job.out_dtype).max), job.options.offset
        highest = [float(part.clip(0).sum()) * top for part in job.kernel.parts]
        lowest = [float(part.clip(None, 0).sum()) * top for part in job.kernel.parts]
        if job.kernel.combine != "linear":
            highest = [hypot(*(max(h, -low) for h, low in zip(highest, lowest, strict=True)))]
            lowest = [0.0]
        return offset + highest[0] > top + 0.5 or offset + lowest[0] < -0.5

    def look(self, rows: PartOf, result: NDArray, first: int = 0) -> None:
        """Counts in `result` (rows, ow, c), which begins at row `first`; `rows` are those of the picture it needs."""
        if not self._may:
            return
        top = np.iinfo(self.job.out_dtype).max
        ys = self._rows[(self._rows >= first) & (self._rows < first + len(result))]
        sampled = result[ys - first][:, self._columns, : self.channels]
        y, x, c = np.nonzero((sampled == 0) | (sampled == top))  # those that may have been beyond
        if not len(y):
            return
        taps = sum(int(np.count_nonzero(part)) for part in self.job.kernel.parts)
        step = -(-len(y) * taps // SAMPLED_WORK)
        wanted = self._responses(rows, ys[y[::step]], self._columns[x[::step]], c[::step])
        beyond = (wanted < -0.5) | (wanted > top + 0.5)
        self._beyond += float(beyond.mean()) * len(y)

    def _responses(self, rows: PartOf, y: NDArray, x: NDArray, c: NDArray) -> NDArray[np.float64]:
        """The response with the offset at single places of the result."""
        job = self.job
        (sy, sx), (dy, dx) = job.options.stride, job.options.dilation
        ys = index_map(job.height, job.before[0], job.after[0], job.options.border)
        xs = index_map(job.width, job.before[1], job.after[1], job.options.border)
        sums = []
        for part in job.kernel.parts:
            total = np.zeros(len(y))
            for i, j in np.argwhere(part):
                row, column = ys[y * sy + i * dy], xs[x * sx + j * dx]
                pixels = rows.at(row, column, c).astype(np.float64)
                pixels[(row < 0) | (column < 0)] = job.fill
                total += part[i, j] * pixels
            sums.append(total)
        return (sums[0] if job.kernel.combine == "linear" else np.hypot(*sums)) + job.options.offset

    @property
    def share(self) -> float:
        """0 to 1."""
        return self._beyond / (len(self._rows) * len(self._columns) * self.channels) if self._may else 0.0


def _spread(size: int) -> NDArray[np.int64]:
    """Up to `SAMPLED_SIDE` places from the first to the last."""
    return np.unique(np.linspace(0, size - 1, min(size, SAMPLED_SIDE)).round().astype(np.int64))


class PartOf:
    """Some rows of a picture (rows, w, c), found by the numbers that they have in the whole."""

    def __init__(self, numbers: NDArray[np.int64], rows: NDArray) -> None:
        """`numbers` ascend, one for each of `rows`."""
        self.numbers, self.rows = numbers, rows

    def _places(self, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self.numbers, wanted).clip(0, len(self.numbers) - 1)

    def __getitem__(self, wanted: NDArray[np.int64]) -> NDArray:
        """The rows of these numbers; any row for the number −1."""
        return self.rows[self._places(wanted)]

    def at(self, row: NDArray[np.int64], column: NDArray[np.int64], channel: NDArray[np.int64]) -> NDArray:
        """Single values; any for −1."""
        return self.rows[self._places(row), column, channel]
