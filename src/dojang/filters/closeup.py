"""A filtered file seen from near: small copies of the picture before and after, the taps, and one window in numbers.

The window is one at which the kernel has something to find: among up to 32 rows the place where the response is
furthest from that of a flat area, if possible unsaturated, inside the border, and not weighted by alpha.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dojang.filters.alpha import top_of, weighs
from dojang.filters.borders import index_map
from dojang.filters.files import Filtered
from dojang.filters.job import Job, Options, check_dtype
from dojang.filters.kernels.parse import Kernel
from dojang.filters.large import SUFFIXES, as_stored, is_large, opened
from dojang.filters.pictures.images import Picture, turn
from dojang.filters.pictures.reading import read_picture
from dojang.filters.plain import finish, respond

SIDE = 480  # pixels of a small copy, at most
WINDOW = 7  # taps on a side that are shown in numbers, at most
ROWS, WORK = 32, 1 << 25  # rows that are looked at for a window, and multiplications for it

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class WindowPart:
    """One matrix of a kernel over the window: its middle taps, the pixels under them, and the sums of their products.

    `rest` is the sum of the products that are not shown. With `alpha` each product is also multiplied by it.
    """

    taps: Matrix
    values: Matrix
    alpha: Matrix | None
    total: float
    rest: float


@dataclass(frozen=True, slots=True)
class CloseUp:
    """One filtered file. `row` and `column` are those of the result pixel, from 0; `response` is its value in float64
    with the offset, `level` that in the result's dtype.
    """

    done: Filtered
    before: bytes
    after: bytes
    size: tuple[int, int]
    matrices: tuple[Matrix, ...]
    row: int
    column: int
    channel: str
    parts: tuple[WindowPart, ...]
    response: float
    level: float


@dataclass(frozen=True, slots=True)
class _Readable:
    """Rows of a picture, from memory or from a file. `mode` as in `Picture`."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[int, int], NDArray]
    mode: str
    alpha: bool
    orientation: int

    @property
    def channels(self) -> int:
        return 3 if self.mode == "RGBX" else self.shape[2] if len(self.shape) == 3 else 1

    def __getitem__(self, wanted: NDArray[np.int64]) -> NDArray:
        """Rows by number, (n, w, c); any row for −1."""
        numbers = wanted.clip(0)
        first, last = int(numbers.min()), int(numbers.max()) + 1
        if last - first <= 4 * len(numbers):
            rows = self.read(first, last)[numbers - first]
        else:  # the border of a circular picture: rows from both ends
            rows = np.concatenate([self.read(int(n), int(n) + 1) for n in numbers])
        return rows.reshape(len(numbers), self.shape[1], -1)


def close_up(done: Filtered, kernel: Kernel, options: Options, max_pixels: int | None = None) -> CloseUp:
    """The file `done` again from near; `options` are those of its call, the offset is its own. Raises `FileError`."""
    options = Options(options.border, options.stride, options.dilation, options.value, done.offset, options.dtype)
    reals = options.dtype is not None
    with _Opened(done.source, max_pixels, reals) as source:
        (kernel,), options = as_stored((kernel,), options, source.orientation)
        shape = (1, *source.shape) if len(source.shape) == 3 else (1, *source.shape, 1)
        job = Job.of(kernel, shape, check_dtype(source.dtype), options)
        y, x, c = _place(job, source)
        parts, response = _window(job, source, y, x, c)
        before = _small(source)
        names = {"RGB": "RGB", "RGBX": "RGB", "RGBA": "RGB", "CMYK": "CMYK", "L": "L", "LA": "L"}.get(source.mode, "")
        channel = {"R": "red", "G": "green", "B": "blue", "L": "grey"}.get(names[c : c + 1], f"channel {c + 1}")
    with _Opened(done.target, None, False) as target:
        after = _small(target)
    matrices = tuple(tuple(tuple(float(v) for v in row) for row in part) for part in kernel.parts)
    level = float(finish(np.array([response]), job.out_dtype)[0])
    return CloseUp(
        done, before, after, kernel.size, matrices, y, x, "grey" if source.channels == 1 else channel, parts, response,
        level,
    )  # fmt: skip


class _Opened:
    """A picture file, whole in memory and as displayed, or by rows as stored."""

    def __init__(self, path: str, max_pixels: int | None, reals: bool) -> None:
        self._path, self._most, self._reals = path, max_pixels, reals
        self._file: Any = None

    def __enter__(self) -> _Readable:
        if Path(self._path).suffix.lower() in SUFFIXES and is_large(self._path, reals=self._reals):
            self._file = opened(self._path, self._reals)
            found = self._file.__enter__()
            mode = found.layout.mode if found.layout else "DATA"
            return _Readable(found.shape, found.dtype, found.read, mode, found.alpha, found.orientation)
        picture: Picture = read_picture(self._path, self._most, reals=self._reals).upright()
        pixels = picture.pixels

        def read(first: int, last: int) -> Any:
            return pixels[first:last]

        return _Readable(pixels.shape, pixels.dtype, read, picture.mode, picture.alpha, 1)

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.__exit__(*error)


def _place(job: Job, source: _Readable) -> tuple[int, int, int]:
    """Row, column and channel of the result at which to look."""
    height, width = job.out_size
    taps = sum(int(np.count_nonzero(part)) for part in job.kernel.parts)
    count = min(ROWS, height, max(1, WORK // (taps * width * job.channels)))
    colours = max(1, source.channels - int(source.alpha))
    (sy, sx), (oy, ox) = job.options.stride, job.origin
    best: tuple[tuple[int, float], tuple[int, int, int]] = ((-1, 0.0), (0, 0, 0))
    columns = np.arange(width) * sx + ox
    flat = float(job.kernel.parts[0].sum()) if job.kernel.combine == "linear" else 0.0
    inside_x = (columns >= job.before[1]) & (columns < job.width - job.after[1])
    for y in np.unique(np.linspace(0, height - 1, count + 2)[1:-1].round().astype(int)):
        response = respond(job, cast(Any, source), int(y), int(y) + 1)[0]
        row = source[np.array([y * sy + oy])][0]
        change = np.abs(response - job.options.offset - flat * row[columns])[:, :colours]
        change[~np.isfinite(change)] = 0
        kept = finish(response, job.out_dtype)[:, :colours].astype(float)
        whole = np.abs(response[:, :colours] - kept) <= 0.5  # not saturated
        opaque = (row[columns, -1] == top_of(job.dtype)) if source.alpha else np.ones(width, bool)
        inside = inside_x & (job.before[0] <= y * sy + oy < job.height - job.after[0])
        rank = 4 * opaque[:, None] + 2 * inside[:, None] + whole.astype(int)
        for level in np.unique(rank)[::-1][:1]:
            masked = np.where(rank == level, change, -1.0)
            at = np.unravel_index(int(masked.argmax()), masked.shape)
            score = (int(level), float(masked[at]))
            if score > best[0]:
                best = (score, (int(y), int(at[0]), int(at[1])))
    return best[1]


def _window(job: Job, source: _Readable, y: int, x: int, c: int) -> tuple[tuple[WindowPart, ...], float]:
    """The window's numbers at a result pixel, and the response there with the offset."""
    (kh, kw), (sy, sx), (dy, dx) = job.kernel.size, job.options.stride, job.options.dilation
    ys = index_map(job.height, *_around(job, 0), job.options.border)[y * sy : y * sy + job.extent[0] : dy]
    xs = index_map(job.width, *_around(job, 1), job.options.border)[x * sx : x * sx + job.extent[1] : dx]
    pixels = source[ys][:, xs].astype(np.float64)
    values, alpha = pixels[..., c].copy(), pixels[..., -1].copy()
    beyond = (ys < 0)[:, None] | (xs < 0)[None, :]
    values[beyond], alpha[beyond] = job.fill, top_of(job.dtype)
    alpha /= top_of(job.dtype)
    weighted = source.alpha and weighs(job.kernel) and bool((alpha != 1).any()) and bool((alpha != 0).any())
    rows, columns = (slice(max(0, (n - WINDOW) // 2), max(0, (n - WINDOW) // 2) + WINDOW) for n in (kh, kw))
    parts, totals = [], []
    for taps in job.kernel.parts:
        products = taps * values * (alpha if weighted else 1.0)
        shown = products[rows, columns]
        total = float(products.sum())
        part = WindowPart(
            _matrix(taps[rows, columns]), _matrix(values[rows, columns]),
            _matrix(alpha[rows, columns]) if weighted else None, total, total - float(shown.sum()),
        )  # fmt: skip
        parts.append(part)
        totals.append(total / float((taps * alpha).sum()) * float(taps.sum()) if weighted else total)
    response = totals[0] if job.kernel.combine == "linear" else float(np.hypot(*totals))
    return tuple(parts), response + job.options.offset


def _around(job: Job, axis: int) -> tuple[int, int]:
    return job.before[axis], job.after[axis]


def _matrix(values: NDArray) -> Matrix:
    return tuple(tuple(float(v) for v in row) for row in values)


def _small(picture: _Readable) -> bytes:
    """A PNG of at most `SIDE` pixels a side: means of blocks; floats and other channels are shown as `_shown` says."""
    height, width = picture.shape[:2]
    step = -(-max(height, width) // SIDE)
    across = min(step, width)
    rows = []
    for y in range(0, max(1, height - height % step if height >= step else height), step):
        block = picture.read(y, min(y + step, height)).astype(np.float64)
        block = block.reshape(len(block), width, -1)[:, : width - width % across]
        rows.append(block.reshape(len(block), width // across, across, -1).mean(axis=(0, 2)))
    pixels = turn(np.stack(rows), picture.orientation)
    buffer = io.BytesIO()
    _shown(pixels, picture).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _shown(pixels: NDArray, picture: _Readable) -> Image.Image:
    """Levels of 8 bits. Floats: 0 to the largest value, or mid-grey as 0 where there are negative ones; more than four
    channels, and those without a meaning: the first three, or the first.
    """
    if picture.dtype.kind == "u":
        eight = pixels * (255 / np.iinfo(picture.dtype).max)
    else:
        finite = np.where(np.isfinite(pixels), pixels, 0)
        reach = float(np.abs(finite).max()) or 1.0
        eight = 128 + 127 * finite / reach if finite.min() < 0 else 255 * finite / reach
        if picture.alpha:
            eight[..., -1] = 255 * finite[..., -1].clip(0, 1)
    whole = np.ascontiguousarray(np.rint(eight).clip(0, 255).astype(np.uint8))
    mode = {"RGBX": "RGB", "RGB": "RGB", "RGBA": "RGBA", "LA": "LA", "CMYK": "CMYK"}.get(picture.mode, "")
    if len(mode) != whole.shape[2] and mode != "RGB":
        mode = "RGB" if whole.shape[2] >= 3 else "L"
    whole = np.ascontiguousarray(whole[..., : {"L": 1, "LA": 2, "RGB": 3}.get(mode, 4)])
    image = Image.frombytes(mode, (whole.shape[1], whole.shape[0]), whole.tobytes())
    return image.convert("RGB") if mode == "CMYK" else image
