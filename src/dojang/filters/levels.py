"""Levels of a filtered picture: which level stands for a response of 0, and how many responses lie beyond the levels.

A picture of integers has no negative levels. A kernel whose response has both signs (`signed`) is therefore shown
around the middle level, unless the user gives an offset; and what the levels cannot hold is measured (`Saturation`) and
reported.
"""

from __future__ import annotations

from math import hypot
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dojang.filters.job import Job, Options, result_dtype
from dojang.filters.kernels.parse import Kernel
from dojang.filters.plain import respond

BY_NAME = frozenset({"gabor"})
"""Kernels of both signs whose taps do not add up to exactly 0."""
ON_BLACK = frozenset({"outline"})
"""Kernels that are meant to draw light lines on black, although their response has both signs."""
SAMPLED_ROWS = 64
SAMPLED_WORK = 1 << 26
"""How many rows of a result are looked at, and the most multiplications for it."""


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

    Measured on up to 64 rows spread evenly over the result, in float64, by the definition. Alpha and unused channels do
    not count.
    """

    def __init__(self, job: Job, channels: int) -> None:
        """`channels` are those that count, the first ones."""
        self.job, self.channels = job, channels
        height, width = job.out_size
        taps = sum(int(np.count_nonzero(part)) for part in job.kernel.parts)
        count = min(SAMPLED_ROWS, height, max(1, SAMPLED_WORK // (taps * width * job.channels)))
        self._rows = np.unique(np.linspace(0, height - 1, count).round().astype(np.int64)) if self._may() else ()
        self._beyond = 0

    def _may(self) -> bool:
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

    def look(self, image: Any, result: NDArray, first: int = 0) -> None:
        """Counts in `result` (rows, ow, c), which begins at row `first`; `image` gives rows of the picture."""
        top = np.iinfo(self.job.out_dtype).max if len(self._rows) else 0
        for y in self._rows:
            if first <= y < first + len(result):
                row = result[y - first, :, : self.channels]
                if ((row == 0) | (row == top)).any():
                    wanted = respond(self.job, image, int(y), int(y) + 1)[0, :, : self.channels]
                    self._beyond += int(((wanted < -0.5) | (wanted > top + 0.5)).sum())

    @property
    def share(self) -> float:
        """0 to 1."""
        return self._beyond / (len(self._rows) * self.job.out_size[1] * self.channels) if len(self._rows) else 0.0


class PartOf:
    """Some rows of a picture, found by the numbers that they have in the whole."""

    def __init__(self, numbers: NDArray[np.int64], rows: NDArray) -> None:
        """`numbers` ascend, one for each of `rows`."""
        self.numbers, self.rows = numbers, rows

    def __getitem__(self, wanted: NDArray[np.int64]) -> NDArray:
        """The rows of these numbers; any row for the number −1."""
        return self.rows[np.searchsorted(self.numbers, wanted).clip(0, len(self.numbers) - 1)]
