"""Transforms of floats are used only where their rounding error stays below that of a direct sum of each window.

A transform of N rows in float64 has an error of at most about 2⁻⁵³ · log₂ N · X · Σ‖column of the kernel‖₂ everywhere
in its block, where X is the norm of the block's largest column, or if rows of M pixels are transformed, too, one of
2⁻⁵³ · log₂ NM · X · √(2M) · ‖kernel‖₂; a direct sum in float32 has one of 2⁻²⁴ of
Σ |tap · pixel| over its window. One pixel of 10⁶ among some of 0.01 makes the first larger than the second, and any
rounding error is too large for a window of zeros. So each block of rows is examined first: the largest pixel of its
rows bounds X from above; the largest pixel of each cell bounds the windows from below, with cells so small that every
window contains a whole one. Blocks that fail, or have values that are not finite, are summed directly. The decision
depends only on the pixels of the block, not on how the picture is divided into bands.
"""

from __future__ import annotations

from math import log2

import numpy as np
from numpy.typing import NDArray

from dojang.filters.code.fourier import Fourier
from dojang.filters.job import Job


class Guard:
    """Decides for blocks of `program.grid * program.together` result rows.

    `rows` are the padded rows' indices in the image; −1 is the fill.
    """

    def __init__(self, program: Fourier, job: Job, rows: NDArray[np.int64]) -> None:
        self.grid, self.extent, self.rows = program.grid * program.together, job.extent[0], rows
        taps = job.kernel.parts[0]
        mean = float(np.abs(taps).mean())
        steps = log2(program.length * max(program.wide, 1))
        if program.wide:  # X of all columns of the tile, the real and the imaginary ones
            norms = float(np.linalg.norm(taps)) * (2.0 * program.wide) ** 0.5
        else:
            norms = float(np.sqrt((taps * taps).sum(axis=0)).sum())
        # The least largest pixel of a window, relative to X.
        self.least = 2.0**-29 * steps * norms / mean if mean else np.inf
        self.cell = tuple(
            (min(size, least) + 1) // 2 for size, least in zip((job.height, job.width), _inside(job), strict=True)
        )
        self.fill = abs(job.fill)

    def blocks(self, image: NDArray) -> NDArray[np.bool_]:
        """For each block whether it must be summed directly. `image` is (h, w, c)."""
        count = -(-(self.rows.size - self.extent + 1) // self.grid)
        with np.errstate(invalid="ignore", over="ignore"):
            return np.array([not self._safe(image, b * self.grid) for b in range(count)])

    def _safe(self, image: NDArray, first: int) -> bool:
        places = self.rows[first : first + self.grid + self.extent - 1]
        (cy, cx), n, (w, c) = self.cell, len(places), image.shape[1:]
        ordered = places[-1] - places[0] == n - 1 and places[0] >= 0 and (np.diff(places) == 1).all()
        block = image[places[0] : places[-1] + 1] if ordered else image[np.maximum(places, 0)]
        whole = n // cy
        lines = _largest(block[: whole * cy].reshape(whole, cy, w * c), 1)  # (whole, w * c)
        tops = lines.max(axis=1)
        norm = cy * float((tops.astype(np.float64) ** 2).sum())
        if whole * cy < n:
            norm += (n - whole * cy) * float(_largest(block[whole * cy :].reshape(-1), 0)) ** 2
        norm += self.extent * self.fill**2
        bound = self.least * norm**0.5
        if not np.isfinite(bound):
            return False
        inside = (places[: whole * cy].reshape(whole, cy) >= 0).all(axis=1)  # cells of the fill are ignored
        across = w // cx
        whole_cells = lines[inside].reshape(-1, w, c)[:, : across * cx]
        if not whole_cells.size:
            return False
        starts = np.arange(0, across * cx, cx)
        least = min(float(np.maximum.reduceat(whole_cells[:, :, i], starts, axis=1).min()) for i in range(c))
        return least >= bound


def _inside(job: Job) -> tuple[int, int]:
    """The fewest rows and columns of the picture that a window covers, at the picture's edges."""
    if job.options.border == "valid":
        return job.extent
    least = [min(b, a) + 1 for b, a in zip(job.before, job.after, strict=True)]
    return least[0], least[1]


def _largest(x: NDArray, axis: int) -> NDArray:
    """The largest magnitudes along an axis; NaN if there is a NaN."""
    top = x.max(axis=axis)
    return top if x.dtype.kind == "u" else np.maximum(top, -x.min(axis=axis))
