"""The named kernels: one row each, with what it does, its source, and the formula of its taps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from inspect import signature
from math import ceil, comb, cos, exp, pi, radians, sin
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dojang.base.errors import UsageError
from dojang.base.record import plain_repr

Taps = NDArray[np.float64]


class Outer(Sequence[Taps]):
    """The only matrix of a kernel that is a column times a row; the matrix itself, which may be large, is made when it
    is needed.
    """

    __slots__ = ("_matrix", "column", "row")

    def __init__(self, column: Taps, row: Taps) -> None:
        """Both one axis of numbers."""
        self.column, self.row = column, row
        self._matrix: Taps | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(kh, kw)."""
        return len(self.column), len(self.row)

    @property
    def weight(self) -> float:
        """Σ |tap|."""
        return float(np.abs(self.column).sum() * np.abs(self.row).sum())

    def __len__(self) -> int:
        """One matrix."""
        return 1

    def __getitem__(self, i: Any) -> Any:
        """The matrix."""
        if self._matrix is None:
            matrix = np.outer(self.column, self.row)
            matrix.flags.writeable = False
            self._matrix = matrix
        return (self._matrix,)[i]

    def __repr__(self) -> str:
        """Its size."""
        return f"Outer({self.shape[0]}x{self.shape[1]})"


Combine = Literal["linear", "magnitude"]


MOST_TAPS = 1 << 22
"""The most taps of a kernel: 32 MiB, and several times that while it is planned."""
LARGE = 4096
"""Taps of a kernel that is a column times a row, above which its matrix is not made."""
MOST_LINE = 1 << 14
"""The most taps of a column or a row of which a kernel is the product."""
MOST_SIDE = 2048
"""The most taps on a side of a named kernel: the square root of `MOST_TAPS`."""
LEAST, MOST = 1e-6, 1e60
"""The least and the largest sigma, wavelength, amount and aspect: their fourth powers do not overflow."""


def _side(size: float, name: str) -> int:
    """Taps on a side of a named kernel, a whole number; checked before memory is allocated."""
    if not size <= MOST_SIDE:
        raise UsageError(f"kernel {name}: {size:g} taps on a side; at most {MOST_SIDE}")
    return int(size)


def _across(half: float, name: str) -> int:
    """2⌈half⌉ + 1 taps, enough for a kernel that is cut off at a distance of `half`."""
    _side(2 * half + 1, name)  # before the conversion to a whole number, which fails for infinity
    return 2 * ceil(half) + 1


def _odd(size: float, name: str, least: int = 1) -> int:
    if not size >= least or size % 2 != 1:
        raise UsageError(f"kernel {name}: size {size:g} must be an odd number, at least {least}")
    return _side(size, name)


def _positive(value: float, what: str, name: str) -> float:
    if not value > 0:
        raise UsageError(f"kernel {name}: {what} {value:g} must be above 0")
    if not LEAST <= value <= MOST:
        raise UsageError(f"kernel {name}: {what} {value:g} is out of range; use {LEAST:g} to {MOST:g}")
    return value


def _whole(size: float, name: str) -> int:
    if not size >= 1 or size % 1:
        raise UsageError(f"kernel {name}: size {size:g} must be a whole number, at least 1")
    return _side(size, name)


def _axis(size: int) -> Taps:
    return np.arange(size, dtype=np.float64) - size // 2


def _bell(sigma: float, size: float, name: str) -> Taps:
    """Samples of exp(−x²/2σ²) that sum to 1; `size` 0 means 2⌈3σ⌉ + 1."""
    _positive(sigma, "sigma", name)
    n = _odd(size or _across(3 * sigma, name), name)
    width = 2 * sigma * sigma
    half = [exp(-x * x / width) for x in range(n // 2, 0, -1)]
    bell = np.array([*half, 1.0, *reversed(half)])
    return bell / bell.sum()


def _identity() -> Taps:
    return np.ones((1, 1))


def _blur(size: float = 3) -> Outer:
    n = _whole(size, "blur")
    return Outer(np.full(n, 1 / (n * n)), np.ones(n))


def _gaussian(sigma: float = 1, size: float = 0) -> Outer:
    bell = _bell(sigma, size, "gaussian")
    return Outer(bell, bell)


def _motion(size: float = 9, angle: float = 0) -> Taps:
    n = _odd(size, "motion")
    r, c, s = n // 2, cos(radians(angle)), sin(radians(angle))
    taps = np.zeros((n, n))
    steps = 8 * n  # sub-pixel steps along the path, each shared bilinearly by the four pixels around it
    for t in (np.arange(steps) + 0.5) * (2 * r / steps) - r if r else [0.0]:
        y, x = r - t * s, r + t * c
        y0, x0 = min(int(y), n - 1), min(int(x), n - 1)
        for yy, wy in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
            for xx, wx in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
                if wy * wx > 1e-12 and yy < n and xx < n:
                    taps[yy, xx] += wy * wx
    return taps / taps.sum()


def _sharpen(amount: float = 1) -> Taps:
    a = _positive(amount, "amount", "sharpen")
    return np.array([[0, -a, 0], [-a, 1 + 4 * a, -a], [0, -a, 0]])


def _unsharp(sigma: float = 1, amount: float = 1) -> Taps:
    taps = -_positive(amount, "amount", "unsharp") * _gaussian(sigma)[0]
    taps[taps.shape[0] // 2, taps.shape[1] // 2] += 1 + amount
    return taps


def _emboss(size: float = 3) -> Taps:
    n = _odd(size, "emboss", 3)
    taps = _axis(n)[:, None] + _axis(n)[None, :]
    taps[n // 2, n // 2] = 1
    return taps


def _outline(size: float = 3) -> Taps:
    n = _odd(size, "outline", 3)
    taps = -np.ones((n, n))
    taps[n // 2, n // 2] = n * n - 1
    return taps


def _binomial(n: int) -> Taps:
    return np.array([comb(n - 1, i) for i in range(n)], dtype=np.float64)


def _sobel_axis(size: float, name: str) -> tuple[Taps, Taps]:
    n = _odd(size, name, 3)
    if n > 511:
        raise UsageError(f"kernel {name}: size {n} is more than 511; larger binomial numbers overflow float64")
    return np.convolve(_binomial(n - 2), [-1.0, 0.0, 1.0]), _binomial(n)


def _sobel_x(size: float = 3) -> Taps:
    slope, smooth = _sobel_axis(size, "sobel-x")
    return np.outer(smooth, slope)


def _sobel_y(size: float = 3) -> Taps:
    return _sobel_x(size).T


def _scharr_x() -> Taps:
    return np.outer([3.0, 10.0, 3.0], [-1.0, 0.0, 1.0])


def _scharr_y() -> Taps:
    return _scharr_x().T


def _prewitt_x(size: float = 3) -> Taps:
    n = _odd(size, "prewitt-x", 3)
    return np.outer(np.ones(n), np.sign(_axis(n)))


def _prewitt_y(size: float = 3) -> Taps:
    return _prewitt_x(size).T


def _laplacian(neighbours: float = 4) -> Taps:
    if neighbours not in (4, 8):
        raise UsageError(f"kernel laplacian: neighbours {neighbours:g} must be 4 or 8")
    around = 1.0 if neighbours == 8 else 0.0
    return np.array([[around, 1, around], [1, -neighbours, 1], [around, 1, around]])


def _log(sigma: float = 1.4, size: float = 0) -> Taps:
    _positive(sigma, "sigma", "log")
    n = _odd(size or _across(4 * sigma, "log"), "log", 3)
    r2 = _axis(n)[:, None] ** 2 + _axis(n)[None, :] ** 2
    taps = (r2 - 2 * sigma**2) / sigma**4 * np.exp(-r2 / (2 * sigma**2)) / (2 * pi * sigma**2)
    return taps - taps.mean()  # cut off at its edge it would not sum to 0, and flat areas would not become 0


def _gabor(
    wavelength: float = 8, angle: float = 0, sigma: float = 0, aspect: float = 0.5, phase: float = 0, size: float = 0
) -> Taps:
    wave = _positive(wavelength, "wavelength", "gabor")
    s = sigma or 0.56 * wave  # a bandwidth of one octave (Petkov and Kruizinga 1997)
    _positive(s, "sigma", "gabor")
    g = _positive(aspect, "aspect", "gabor")
    n = _odd(size or _across(2.5 * s, "gabor"), "gabor")
    y, x = -_axis(n)[:, None], _axis(n)[None, :]
    c, d = cos(radians(angle)), sin(radians(angle))
    along, across = x * c + y * d, -x * d + y * c
    taps = np.exp(-(along**2 + g * g * across**2) / (2 * s * s)) * np.cos(2 * pi * along / wave + radians(phase))
    return taps / np.abs(taps).sum()


@plain_repr
@dataclass(frozen=True, slots=True)
class NamedKernel:
    """A row of `NAMED`: what the kernel does, its source, and how its taps are computed."""

    name: str
    does: str
    source: str
    make: tuple[Callable[..., Taps | Outer], ...]
    combine: Combine = "linear"

    @property
    def options(self) -> Mapping[str, float]:
        """The options with their defaults."""
        return _options(self.make[0])


@cache
def _options(make: Callable[..., Taps | Outer]) -> Mapping[str, float]:
    return MappingProxyType({p.name: p.default for p in signature(make).parameters.values()})


_SOBEL = "Sobel and Feldman 1968; sizes above 3 by repeated binomial smoothing"
_PREWITT = "Prewitt, Object enhancement and extraction, 1970"
_SCHARR = "Scharr, Optimal operators in digital image processing, 2000"

NAMED: Mapping[str, NamedKernel] = {
    row.name: row
    for row in (
        NamedKernel("identity", "leaves the picture as it is", "the unit of convolution", (_identity,)),
        NamedKernel("blur", "mean of a square window", "lecture notes: a 3x3 filter of 1/9", (_blur,)),
        NamedKernel("gaussian", "smooth blur", "sampled normal density, cut at 3 sigma, sum 1", (_gaussian,)),
        NamedKernel("motion", "blur along a line", "a straight path of constant speed, shared bilinearly", (_motion,)),
        NamedKernel("sharpen", "lifts edges", "identity minus the 4-neighbour Laplacian", (_sharpen,)),
        NamedKernel("unsharp", "lifts edges above a scale", "unsharp mask: (1+a) identity - a gaussian", (_unsharp,)),
        NamedKernel("emboss", "light from the upper left", "a slope along the diagonal plus identity", (_emboss,)),
        NamedKernel(
            "outline", "differences from the surroundings", "n*n identity minus the sum of the window", (_outline,)
        ),
        NamedKernel("sobel", "edge strength", _SOBEL, (_sobel_x, _sobel_y), "magnitude"),
        NamedKernel("sobel-x", "slope to the right", _SOBEL, (_sobel_x,)),
        NamedKernel("sobel-y", "slope downwards", _SOBEL, (_sobel_y,)),
        NamedKernel("scharr", "edge strength, evener by angle", _SCHARR, (_scharr_x, _scharr_y), "magnitude"),
        NamedKernel("scharr-x", "slope to the right", _SCHARR, (_scharr_x,)),
        NamedKernel("scharr-y", "slope downwards", _SCHARR, (_scharr_y,)),
        NamedKernel("prewitt", "edge strength", _PREWITT, (_prewitt_x, _prewitt_y), "magnitude"),
        NamedKernel("prewitt-x", "slope to the right", _PREWITT, (_prewitt_x,)),
        NamedKernel("prewitt-y", "slope downwards", _PREWITT, (_prewitt_y,)),
        NamedKernel("laplacian", "second difference", "the 5-point or 9-point stencil", (_laplacian,)),
        NamedKernel("log", "blobs and edges of one scale", "Laplacian of Gaussian, Marr and Hildreth 1980", (_log,)),
        NamedKernel("gabor", "waves of one length and angle", "Daugman 1985; parameters as Petkov 1997", (_gabor,)),
    )
}

ALIASES: Mapping[str, str] = {"box": "blur", "mean": "blur", "edge": "outline"}
