"""Kernels for pictures: named ones, matrices as text, arrays, and `.npy` files.

Kernels are applied as correlation; a matrix that a user gives is neither flipped nor normalised. Axes: rows (y, down)
first, columns (x, right) second.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import isfinite
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

from dojang.arith.conv import by
from dojang.base.errors import DataError, FileError, ShapeError, UsageError
from dojang.base.record import plain_repr
from dojang.base.wording import did_you_mean
from dojang.filters.given import as_numbers, as_taps
from dojang.filters.kernels.named import ALIASES, LARGE, MOST_LINE, MOST_TAPS, NAMED, Combine, Outer, Taps
from dojang.filters.npy import mapped


@plain_repr
@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """One or two matrices of taps, (kh, kw) float64, and how their responses become one picture.

    `linear` has one part and its response is the picture. `magnitude` has two, a horizontal and a vertical slope,
    and gives √(gx² + gy²). `anchor` is the tap at the output pixel, (kh // 2, kw // 2) unless given.
    Equal kernels have equal `key`. `parts` of a kernel that is known to be a column times a row is an `Outer`, whose
    matrix is made when it is needed.
    """

    name: str
    parts: Sequence[Taps]
    combine: Combine = "linear"
    anchor: tuple[int, int] = (-1, -1)
    source: str = ""
    key: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        """Checks the taps, fills in the anchor and the key."""
        outer = _checked_outer(self.parts, self.name) if isinstance(self.parts, Outer) else None
        parts: Sequence[Taps] = outer or tuple(_checked(p, self.name) for p in self.parts)
        kh, kw = outer.shape if outer else parts[0].shape
        check_anchor(self.anchor)
        if outer is None and any(p.shape != (kh, kw) for p in parts):
            raise ShapeError(f"kernel {self.name}: its parts have different sizes {[p.shape for p in parts]}")
        if len(parts) != (2 if self.combine == "magnitude" else 1):
            raise ShapeError(f"kernel {self.name}: {self.combine} does not go with {len(parts)} parts")
        ay, ax = (kh // 2 if self.anchor[0] < 0 else self.anchor[0], kw // 2 if self.anchor[1] < 0 else self.anchor[1])
        if ay >= kh or ax >= kw:
            raise ShapeError(f"kernel {self.name}: anchor ({ay}, {ax}) lies outside its {kh}x{kw} taps")
        object.__setattr__(self, "parts", parts)
        object.__setattr__(self, "anchor", (ay, ax))
        text = repr((self.combine, self.anchor, (kh, kw))).encode()
        large = outer is not None and kh * kw > LARGE
        arrays = (outer.column, outer.row) if outer is not None and large else parts
        object.__setattr__(self, "key", text + b"*" * large + b"".join(p.tobytes() for p in arrays))

    def __eq__(self, other: object) -> bool:
        """Equal taps, anchor and name."""
        return isinstance(other, Kernel) and self.key == other.key and self.name == other.name

    def __hash__(self) -> int:
        """Of the key."""
        return hash(self.key)

    @property
    def size(self) -> tuple[int, int]:
        """(kh, kw)."""
        kh, kw = self.parts.shape if isinstance(self.parts, Outer) else self.parts[0].shape
        return kh, kw

    @property
    def pair(self) -> tuple[Taps, Taps] | None:
        """The column and the row of which the matrix is known to be the product, or None."""
        return (self.parts.column, self.parts.row) if isinstance(self.parts, Outer) else None

    @property
    def weight(self) -> float:
        """The largest Σ |tap| of a part."""
        return self.parts.weight if isinstance(self.parts, Outer) else max(float(np.abs(p).sum()) for p in self.parts)

    @property
    def matrix(self) -> Taps:
        """The taps of a linear kernel."""
        if len(self.parts) != 1:
            raise UsageError(f"kernel {self.name} is made of {len(self.parts)} matrices; see its parts")
        return self.parts[0]

    def turned(self, orientation: int) -> Kernel:
        """The kernel for pixels stored with an EXIF `orientation` (1 to 8) that filters the picture as it is displayed.

        Source: EXIF 2.32, tag 0x0112. Exact: taps are only moved.
        """
        if orientation not in _TURNS:
            return self
        swap, flip_y, flip_x = _TURNS[orientation]
        kh, kw = self.size
        ay, ax = self.anchor
        ay, ax = (kh - 1 - ay if flip_y else ay), (kw - 1 - ax if flip_x else ax)
        if self.pair:
            column, row = self.pair[0][:: -1 if flip_y else 1], self.pair[1][:: -1 if flip_x else 1]
            parts = Outer(row, column) if swap else Outer(column, row)
            return Kernel(self.name, parts, self.combine, (ax, ay) if swap else (ay, ax), self.source)
        moved = [p[:: -1 if flip_y else 1, :: -1 if flip_x else 1] for p in self.parts]
        if swap:
            moved, (ay, ax) = [p.T for p in moved], (ax, ay)
        return Kernel(self.name, tuple(moved), self.combine, (ay, ax), self.source)


# orientation: (swap axes after the flips?, flip rows, flip columns) from displayed to stored pixels
_TURNS: Mapping[int, tuple[bool, bool, bool]] = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def check_anchor(anchor: object) -> None:
    """Raises unless it is a (row, column) of whole numbers; −1 means the middle."""
    pair = anchor if isinstance(anchor, (tuple, list)) else ()
    if len(pair) != 2 or not all(isinstance(v, (int, np.integer)) and v >= -1 for v in pair):
        raise UsageError(f"anchor {anchor!r} must be a tap's (row, column), counted from 0")


def _checked(taps: object, name: str) -> Taps:
    array = as_numbers(taps, f"kernel {name}")
    if array.size > MOST_TAPS:  # before it is copied
        raise ShapeError(f"kernel {name}: {by(array.shape)} taps are more than {MOST_TAPS:,}; use a smaller kernel")
    array = as_taps(array, f"kernel {name}")
    if array.ndim != 2 or 0 in array.shape:
        raise ShapeError(f"kernel {name}: a matrix of at least 1x1 taps is needed, got shape {array.shape}")
    if not np.isfinite(array).all():
        y, x = np.argwhere(~np.isfinite(array))[0]
        raise DataError(f"kernel {name}: tap ({y}, {x}) is {array[y, x]}; every tap must be a finite number")
    array.flags.writeable = False
    return array


def _checked_outer(parts: Outer, name: str) -> Outer:
    vectors = []
    for given, what in ((parts.column, "column"), (parts.row, "row")):
        place = f"kernel {name}, its {what}"
        vector = as_taps(as_numbers(given, place), place)
        if vector.ndim != 1 or not vector.size:
            raise ShapeError(f"kernel {name}: its {what} must have one axis and at least one tap, got {vector.shape}")
        if vector.size > MOST_LINE:
            raise ShapeError(f"kernel {name}: {vector.size:,} taps in its {what} are more than {MOST_LINE:,}")
        if not np.isfinite(vector).all():
            at = int(np.argmin(np.isfinite(vector)))
            raise DataError(f"kernel {name}: tap {at} of its {what} is {vector[at]}; every tap must be a finite number")
        vector.flags.writeable = False
        vectors.append(vector)
    outer = Outer(*vectors)
    if not np.isfinite(outer.weight):
        raise DataError(f"kernel {name}: the products of its column and its row overflow; scale them down")
    return outer


def named(name: str, anchor: tuple[int, int] = (-1, -1), **options: float) -> Kernel:
    """The named kernel, adjusted by its options; `NAMED[name].options` lists them.

    >>> named("sharpen").matrix.tolist()
    [[0.0, -1.0, 0.0], [-1.0, 5.0, -1.0], [0.0, -1.0, 0.0]]
    >>> named("gaussian", sigma=2).size
    (13, 13)
    """
    row = NAMED.get(ALIASES.get(name, name))
    if row is None:
        hint = did_you_mean(name, NAMED, f'use {", ".join(NAMED)}, a matrix "0 -1 0; ..." or FILE.npy')
        raise UsageError(f'kernel "{name}" is not known; {hint}')
    allowed = row.options
    for key in options:
        if key not in allowed:
            has = f"it has {', '.join(allowed)}" if allowed else "it has none"
            raise UsageError(f'kernel {name}: option "{key}" is not known; {did_you_mean(key, allowed, has)}')
    for key, value in options.items():
        if not isfinite(value):
            raise UsageError(f"kernel {name}: {key} {value:g} must be a finite number")
    full = name + ":" * bool(options) + ",".join(f"{key}={value:g}" for key, value in options.items())
    with np.errstate(all="ignore"):  # NaN taps raise an error that names the kernel
        made = tuple(make(**options) for make in row.make)
    parts: Any = made[0] if isinstance(made[0], Outer) else made
    return Kernel(full, parts, row.combine, anchor, row.source)


def gabor_bank(angles: int = 8, wavelengths: Sequence[float] = (4, 8), **options: float) -> list[Kernel]:
    """Gabor kernels of every wavelength at `angles` directions spread evenly over half a turn.

    >>> [k.name for k in gabor_bank(2, [8])]
    ['gabor:wavelength=8,angle=0', 'gabor:wavelength=8,angle=90']
    """
    if angles < 1:
        raise UsageError(f"a Gabor bank needs at least 1 angle, got {angles}")
    bank = []
    for wave in wavelengths:
        for i in range(angles):
            angle = 180 * i / angles
            taps: Any = NAMED["gabor"].make[0](**{**options, "wavelength": wave, "angle": angle})
            name = f"gabor:wavelength={wave:g},angle={angle:g}"
            bank.append(Kernel(name, (taps,), source=NAMED["gabor"].source))
    return bank


def parse_matrix(text: str) -> Taps:
    """Taps from rows separated by `;` or line ends, with numbers separated by blanks or commas; fractions, and one
    divisor at the end, are possible.

    >>> parse_matrix("0 -1 0; -1 5 -1; 0 -1 0").tolist()
    [[0.0, -1.0, 0.0], [-1.0, 5.0, -1.0], [0.0, -1.0, 0.0]]
    >>> parse_matrix("(1 2 1) / 4").tolist(), parse_matrix("1/3 1/3 1/3").shape
    ([[0.25, 0.5, 0.25]], (1, 3))
    """
    inner, divisor = text.strip(), 1.0
    scaled = re.fullmatch(r"[(\[](.*)[)\]]\s*/\s*(\S+)", inner, re.DOTALL)
    if scaled:
        inner, divisor = scaled[1], _number(scaled[2], text)
        if divisor == 0:
            raise UsageError(f'kernel "{text}": the divisor is 0')
    elif inner[:1] in ("[", "(") and inner[-1:] in ("]", ")"):
        inner = inner[1:-1]
    lines = [line for line in re.split(r"[;\n]", inner) if line.strip()]
    rows = [[_number(word, text) / divisor for word in re.split(r"[\s,]+", line.strip(" \t\r,[]"))] for line in lines]
    if not rows:
        raise UsageError('an empty kernel; write rows such as "0 -1 0; -1 5 -1; 0 -1 0"')
    for i, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise UsageError(f'kernel "{text}": row {i + 1} has {len(row)} taps and row 1 has {len(rows[0])}')
    return _checked(rows, f'"{text}"')


def _number(word: str, text: str) -> float:
    try:
        return float(Fraction(word)) if "/" in word else float(word)
    except (ValueError, ZeroDivisionError, OverflowError):
        raise UsageError(f'kernel "{text}": "{word}" is not a number') from None


def load_kernels(path: str | PathLike[str]) -> list[Kernel]:
    """The kernels of a `.npy` file: one for shape (kh, kw), a bank for (n, kh, kw). Pickled content is refused."""
    name = fspath(path)
    array = mapped(path)
    if array.dtype.kind not in "fiub":
        raise FileError(f"{name}: a kernel must be one array of real numbers")
    if array.ndim == 3:
        return [Kernel(f"{Path(name).stem}[{i}]", (a,), source=name) for i, a in enumerate(array)]
    return [Kernel(Path(name).stem, (array,), source=name)]


def as_kernel(kernel: object, anchor: tuple[int, int] = (-1, -1)) -> Kernel:
    """One kernel from any form: a name (`gaussian:sigma=2`), a matrix as text, FILE.npy, an array, rows.

    >>> as_kernel("blur:size=5").size
    (5, 5)
    """
    if isinstance(kernel, Kernel):
        return (
            kernel if anchor == (-1, -1) else Kernel(kernel.name, kernel.parts, kernel.combine, anchor, kernel.source)
        )
    if isinstance(kernel, PathLike) or (isinstance(kernel, str) and kernel.endswith(".npy")):
        loaded = load_kernels(kernel)
        if len(loaded) != 1:
            raise ShapeError(f"{fspath(kernel)}: holds {len(loaded)} kernels where one is needed; give them as a list")
        return as_kernel(loaded[0], anchor)
    if isinstance(kernel, str):
        return _from_text(kernel, anchor)
    return Kernel("matrix", (kernel,), anchor=anchor)  # type: ignore[arg-type]  # checked in Kernel


def _from_text(text: str, anchor: tuple[int, int]) -> Kernel:
    if not re.match(r"\s*[a-zA-Z]", text):
        return Kernel("matrix", (parse_matrix(text),), anchor=anchor)
    name, _, tail = text.strip().partition(":")
    options: dict[str, float] = {}
    for item in filter(None, (t.strip() for t in tail.split(","))):
        key, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f'kernel "{text}": "{item}" is not an option; write NAME:key=value,key=value')
        options[key.strip()] = _number(value.strip(), text)
    return named(name, anchor, **options)


def is_bank(kernel: object) -> bool:
    """Whether the value means several kernels: a list of names, matrices or kernels, or a 3-d array."""
    if isinstance(kernel, np.ndarray):
        return kernel.ndim == 3
    if not isinstance(kernel, (list, tuple)) or not kernel:
        return False
    first = kernel[0]
    return isinstance(first, (str, Kernel, PathLike)) or np.ndim(first) == 2
