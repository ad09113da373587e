"""Convolutions of long arrays by Fourier transforms, in blocks that overlap ("overlap-add"; Oppenheim and Schafer,
"Discrete-Time Signal Processing", section 8.7).

All in float64, by NumPy's transforms. A result is at most `ERROR` · ‖f‖₂ · ‖g‖₂ off, with the norms of the block of f
that it comes from and of g; where that would be more than the rounding of a float32 sum of typical values, or a number
is not finite, `unfit` says so, and the sums are done directly.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import product
from math import log2, prod

import numpy as np

from dojang.native.machine import Machine
from dojang.native.threads import default_threads

Array = np.ndarray
ERROR = 2.0**-46
"""Of ‖f‖₂ · ‖g‖₂: 2^-53 for each of three transforms, up to 2^7 roundings in a row. Measured: a hundredth of that."""
MOST_BLOCK, ROWS_TOGETHER = 1 << 20, 1 << 15  # elements of a block, and of blocks of one axis that are done together
TRANSFORM_NS, ROW_NS = 0.8, 0.4  # for each element and log2 of a block's; of one axis (one thread of Zen 4, 2026)
SUMS_PER_NS, ROW_SUMS_PER_NS = 2.5, 2.0  # products of float32; of one axis, for each number of a vector (`row`)
TYPICAL = 1 << 14  # elements that are looked at to find a typical one


def good_length(n: int) -> int:
    """The least number of at least n whose prime factors are 2, 3 and 5.

    >>> good_length(577), good_length(7)
    (600, 8)
    """
    best = 1 << max(n - 1, 0).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            two = three << max(-(-n // three) - 1, 0).bit_length()
            best = min(best, two)
            three *= 3
        five *= 5
    return best


@lru_cache(maxsize=256)
def block_lengths(size: tuple[int, ...], taps: tuple[int, ...]) -> list[int]:
    """For each axis the length of the transforms: the whole axis, or the length with the least work per result."""
    found = []
    room = MOST_BLOCK
    for i, (n, k) in enumerate(zip(size, taps, strict=True)):
        whole = good_length(n + k - 1)
        most = max(int(room ** (1 / (len(size) - i))), 2 * k)
        lengths = [1 << e for e in range(max(k - 1, 1).bit_length(), 26) if k <= 1 << e <= most]

        def work(m: int, n: int = n, k: int = k) -> float:
            """Of all blocks; longer ones leave the nearer caches."""
            return -(-n // (m - k + 1)) * m * log2(m + 1) * (1 + 0.15 * max(0.0, log2(m) - 14))

        found.append(min([whole, *lengths] if whole <= most or not lengths else lengths, key=work))
        room = max(room // found[-1], 1)
    return found


@lru_cache(maxsize=256)
def pays(size: tuple[int, ...], taps: tuple[int, ...], double: bool) -> bool:
    """Whether transforms are predicted to take clearly less time than direct sums."""
    lengths = block_lengths(size, taps)
    blocks = prod(-(-n // (m - k + 1)) for n, k, m in zip(size, taps, lengths, strict=True))
    each = prod(lengths)
    row = len(size) == 1
    by_transforms = (2 * blocks + 1) * each * log2(max(each, 2)) * (ROW_NS if row else TRANSFORM_NS) + 3e4
    sums = prod(n + k - 1 for n, k in zip(size, taps, strict=True)) * prod(taps)
    rate = ROW_SUMS_PER_NS * Machine.host().lanes(4) if row else SUMS_PER_NS
    return 1.25 * by_transforms < sums / rate / (1 if double else 2)


def unfit(f: Array, g: Array) -> bool:
    """Whether the rounding of transforms would reach what a float32 sum of typical values keeps: one number of 1e30
    among ones of 1 is too large. A typical value of f is the median of those that are not 0.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        a, b = float(np.linalg.norm(f.ravel())), float(np.linalg.norm(g.ravel()))
        weight = float(np.abs(g).sum())
    if not np.isfinite(a * b) or not np.isfinite(weight):
        return True
    some = np.abs(f.ravel()[:: max(1, f.size // TYPICAL)])
    some = some[some > 0]
    if not some.size or not weight:
        return False
    return 2.0**-50 * a * b > 2.0**-24 * float(np.median(some)) * weight


def rounds_to_whole(f: Array, g: Array) -> bool:
    """Whether results for whole numbers are less than 1/4 off, so that rounding makes them exact."""
    return ERROR * float(np.linalg.norm(f.ravel())) * float(np.linalg.norm(g.ravel())) < 0.25


def convolve_full(f: Array, g: Array, threads: int | None = None) -> Array:
    """Every place where f and g (float64, of one rank) meet: Σ f[m] · g[n − m], of size |f| + |g| − 1."""
    if g.size > f.size:
        f, g = g, f
    size, taps = f.shape, g.shape
    lengths = block_lengths(size, taps)
    axes = tuple(range(f.ndim))
    spectrum = np.fft.rfftn(g, lengths, axes)
    steps = [m - k + 1 for m, k in zip(lengths, taps, strict=True)]
    y = np.zeros([n + k - 1 for n, k in zip(size, taps, strict=True)])
    if f.ndim == 1 and steps[0] < size[0]:
        y = np.zeros(y.size + 2 * lengths[0])  # whole blocks, the last ones beyond the end
        _along(f, spectrum, lengths[0], steps[0], y, threads or default_threads())
        return y[: f.size + g.size - 1]

    def block(first: tuple[int, ...]) -> Array:
        part = f[tuple(slice(a, a + s) for a, s in zip(first, steps, strict=True))]
        return np.fft.irfftn(np.fft.rfftn(part, lengths, axes) * spectrum, lengths, axes)

    places = list(product(*(range(0, n, s) for n, s in zip(size, steps, strict=True))))
    for first, piece in zip(places, _mapped(block, places, threads or default_threads()), strict=True):
        target = y[tuple(slice(a, a + m) for a, m in zip(first, lengths, strict=True))]
        target += piece[tuple(slice(0, n) for n in target.shape)]
    return y


def _mapped(block, places: list, threads: int) -> Iterator[Array]:
    """The blocks in order; a few at a time, by several threads where there are several blocks."""
    if threads == 1 or len(places) == 1:
        yield from map(block, places)
        return
    with ThreadPoolExecutor(threads) as pool:
        for i in range(0, len(places), 4 * threads):
            yield from pool.map(block, places[i : i + 4 * threads])


def _along(f: Array, spectrum: Array, length: int, step: int, y: Array, threads: int) -> None:
    """One axis: many blocks as the rows of one array."""
    blocks = -(-f.size // step)
    many = max(1, min(ROWS_TOGETHER // length, -(-blocks // threads)))

    def pieces_of(first: int) -> Array:
        part = f[first : first + many * step]
        rows, whole = -(-part.size // step), part.size // step
        blocks = np.zeros((rows, length))
        blocks[:whole, :step] = part[: whole * step].reshape(whole, step)
        if whole < rows:
            blocks[whole, : part.size - whole * step] = part[whole * step :]
        return np.fft.irfft(np.fft.rfft(blocks) * spectrum, length)

    places = list(range(0, f.size, many * step))
    for first, pieces in zip(places, _mapped(pieces_of, places, threads), strict=True):
        # What sticks out of a block belongs to the next one: taps − 1 elements, at most a few blocks.
        for shift in range(0, length, step):
            width = min(step, length - shift)
            target = y[first + shift : first + shift + len(pieces) * step].reshape(len(pieces), step)
            target[:, :width] += pieces[:, shift : shift + width]
