"""A filtering problem: its geometry, and the checks of all arguments."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache, cached_property, lru_cache
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dojang.arith.conv import by
from dojang.arith.window import extent
from dojang.base.errors import DataError, ShapeError, UsageError
from dojang.filters.borders import Border, check_border
from dojang.filters.kernels.parse import Kernel

MOST_EXTENT = 1 << 24  # pixels from a kernel's first tap to its last; the tables of the border have as many entries
DTYPES: tuple[np.dtype, ...] = tuple(np.dtype(d) for d in ("uint8", "uint16", "float32", "float64"))


UNSIZED = 1 << 40
"""Height and width of a picture whose size does not matter."""


@cache
def largest_of(dtype: np.dtype) -> float:
    """The largest number of a dtype."""
    return float(np.iinfo(dtype).max if dtype.kind == "u" else np.finfo(dtype).max)


@lru_cache(maxsize=64)
def weight_of(kernel: Kernel) -> float:
    """`kernel.weight`, kept."""
    return kernel.weight


@dataclass(frozen=True, slots=True)
class Options:
    """The options of filtering. Build them with `Options.of`, which checks them."""

    border: Border = "reflect"
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    value: float = 0.0
    offset: float = 0.0
    dtype: np.dtype | None = None

    @classmethod
    def of(
        cls,
        border: str = "reflect",
        stride: int | tuple[int, int] = 1,
        dilation: int | tuple[int, int] = 1,
        value: float = 0.0,
        offset: float = 0.0,
        dtype: DTypeLike | None = None,
    ) -> Options:
        """Options from what a user gives. Raises `UsageError` and `DataError`."""
        outside = _finite(value, "value")
        border = check_border(border)
        if border != "constant" and outside:
            raise UsageError(f'value {outside:g} is for border "constant"; border "{border}" does not use it')
        return cls(
            border,
            pair(stride, "stride"),
            pair(dilation, "dilation"),
            outside,
            _finite(offset, "offset"),
            None if dtype is None else check_dtype(dtype, "result"),
        )


@dataclass(frozen=True)
class Job:
    """A kernel for pictures of `height` x `width` x `channels`: everything that a plan depends on.

    out[y, x] = offset + Σ taps[i, j] · in[y·stride − before + i·dilation, …]; `before` is anchor · dilation, or 0 for
    a valid border.
    """

    kernel: Kernel
    height: int
    width: int
    channels: int
    dtype: np.dtype
    out_dtype: np.dtype
    options: Options = Options()
    anywhere: bool = False  # a part of a larger picture; its results must not depend on where the part begins

    @classmethod
    def of(
        cls, kernel: Kernel, shape: tuple[int, ...], dtype: np.dtype, options: Options, anywhere: bool = False
    ) -> Job:
        """The job for a stack of `shape` (n, h, w, c) and native `dtype`."""
        n, h, w, c = shape
        if n < 1:
            raise ShapeError(f"the stack holds no picture: shape {by(shape)}")
        if dtype.kind == "u" and not (0 <= options.value <= largest_of(dtype) and options.value % 1 == 0):
            raise DataError(
                f"value {options.value:g} does not fit a {dtype} picture (whole, 0 to {largest_of(dtype):g})"
            )
        if dtype.kind == "f" and abs(options.value) > largest_of(dtype):
            raise DataError(f"value {options.value:g} does not fit a {dtype} picture")
        # A stride longer than the picture keeps only the first pixel, as one of its size does.
        sy, sx = options.stride
        if sy > h > 0 or sx > w > 0:
            options = replace(options, stride=(min(sy, max(h, 1)), min(sx, max(w, 1))))
        return cls(kernel, h, w, c, dtype, result_dtype(dtype, options.dtype), options, anywhere)

    def __post_init__(self) -> None:
        """Raises if the kernel or the values cannot be used for such a picture."""
        if self.height < 1 or self.width < 1 or self.channels < 1:
            raise ShapeError(f"the picture is empty: {self.height}x{self.width}, {self.channels} channels")
        if self.options.border == "valid" and min(self.out_size) < 1:
            raise ShapeError(
                f"kernel {self.kernel.name} spans {by(self.extent)} pixels, more than the picture's "
                f'{self.height}x{self.width}; use a smaller kernel or another border than "valid"'
            )
        if max(self.extent) > MOST_EXTENT:
            raise ShapeError(
                f"kernel {self.kernel.name} spans {by(self.extent)} pixels; at most {MOST_EXTENT:,} per axis"
            )
        check_offset(self.options.offset, self.out_dtype)
        if self.out_dtype.kind == "f":
            with np.errstate(over="ignore"):
                total = weight_of(self.kernel)
            if total > largest_of(self.out_dtype):
                raise DataError(f"kernel {self.kernel.name}: its taps overflow {self.out_dtype}; scale them down")

    @cached_property
    def extent(self) -> tuple[int, int]:
        """Pixels from the first tap to the last, per axis."""
        (kh, kw), (dy, dx) = self.kernel.size, self.options.dilation
        return extent(kh, dy), extent(kw, dx)

    @cached_property
    def before(self) -> tuple[int, int]:
        """Padding above and to the left."""
        (ay, ax), (dy, dx) = self.kernel.anchor, self.options.dilation
        return (0, 0) if self.options.border == "valid" else (ay * dy, ax * dx)

    @cached_property
    def after(self) -> tuple[int, int]:
        """Padding below and to the right."""
        if self.options.border == "valid":
            return 0, 0
        return self.extent[0] - 1 - self.before[0], self.extent[1] - 1 - self.before[1]

    @cached_property
    def unsized(self) -> Job:
        """The job with a fixed picture size: everything that a plan may depend on."""
        other = object.__new__(Job)  # its kernel and its values were checked with this one's
        kept = {field.name: getattr(self, field.name) for field in fields(self)}
        other.__dict__.update(kept | {"height": UNSIZED, "width": UNSIZED})
        return other

    def like(self, kernel: Kernel) -> Job:
        """The same picture and options with another kernel."""
        return self if kernel is self.kernel else replace(self, kernel=kernel)

    def alike(self, kernel: Kernel) -> Job:
        """The same for a kernel of the same size and anchor that needs no checks (`plan/alike.py`)."""
        other = object.__new__(Job)
        other.__dict__.update(self.__dict__, kernel=kernel)
        other.__dict__.pop("unsized", None)
        return other

    @property
    def fill(self) -> float:
        """The pixel value outside the picture, for borders with a constant: a number of the picture's type."""
        return float(self.dtype.type(self.options.value)) if self.options.border == "constant" else 0.0

    @cached_property
    def origin(self) -> tuple[int, int]:
        """Row and column of the picture at out[0, 0]: 0, or for "valid" the first position at which the kernel fits."""
        (ay, ax), (dy, dx) = self.kernel.anchor, self.options.dilation
        return ay * dy - self.before[0], ax * dx - self.before[1]

    @cached_property
    def out_size(self) -> tuple[int, int]:
        """Rows and columns of the result: ⌈size / stride⌉; for "valid" ⌊(size − extent) / stride⌋ + 1."""
        (ey, ex), (sy, sx) = self.extent, self.options.stride
        if self.options.border == "valid":
            return (self.height - ey) // sy + 1, (self.width - ex) // sx + 1
        return -(-self.height // sy), -(-self.width // sx)


def pair(value: Any, what: str) -> tuple[int, int]:
    """(rows, columns) from one whole number for both or from two; at least 1."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(values) != 2 or not all(isinstance(v, (int, np.integer)) and v >= 1 for v in values):
        raise UsageError(f"{what} {value!r} must be a whole number, at least 1, or two of them (rows, columns)")
    return int(values[0]), int(values[1])


def check_dtype(dtype: DTypeLike, what: str = "picture") -> np.dtype:
    """The dtype in this machine's byte order, or an error that says what to do."""
    try:
        native = np.dtype(dtype).newbyteorder("=")
    except TypeError:
        raise UsageError(f"{what} of dtype {dtype!r}: no such dtype; use uint8, uint16, float32 or float64") from None
    if native not in DTYPES:
        raise UsageError(
            f"{what} of dtype {np.dtype(dtype)}: pictures are uint8, uint16, float32 or float64; convert with .astype()"
        )
    return native


def result_dtype(dtype: np.dtype, wanted: np.dtype | None) -> np.dtype:
    """The dtype of the result: as the picture's, or float32 or float64 on request."""
    if wanted is None or wanted == dtype or wanted.kind == "f":
        return dtype if wanted is None else wanted
    raise UsageError(f"a {dtype} picture gives {dtype}, float32 or float64, not {wanted}")


def check_offset(offset: float, out_dtype: np.dtype) -> None:
    """Raises `DataError` for an offset that no result of this type can hold; whole numbers saturate."""
    if out_dtype.kind == "f" and abs(offset) > largest_of(out_dtype):
        raise DataError(f"offset {offset:g} does not fit a {out_dtype} result")


def _finite(value: float, what: str) -> float:
    try:
        number = float(value) if isinstance(value, Real) else np.nan
    except OverflowError:  # a whole number of 400 digits
        number = np.inf
    if not np.isfinite(number):
        raise DataError(f"{what} {value!r} must be a finite number")
    return number


class AxesWarning(UserWarning):
    """The channels of a picture seem to come first, but it is read as if they came last."""


def channels_first(shape: tuple[int, ...]) -> str:
    """The warning for an array whose channels seem to come first, such as (3, h, w); "" if they do not.

    1, 3 or 4 rows of more than 8 channels are rare, but PyTorch stores pictures with channels first.
    """
    h, w, c = shape[-3:]
    if h not in (1, 3, 4) or c <= 8 or w <= 4:
        return ""
    return (
        f"shape {by(shape)} is read as {h} rows of {w} pixels with {c} channels; if channels come first, move them last"
    )


def as_stack(image: NDArray) -> NDArray:
    """(n, h, w, c) view of H×W, H×W×C or N×H×W×C."""
    if image.ndim == 2:
        return image[None, :, :, None]
    if image.ndim == 3:
        return image[None]
    if image.ndim == 4:
        return image
    raise ShapeError(
        f"a picture has shape (h, w), (h, w, channels) or (n, h, w, channels); got {image.ndim} axes {image.shape}"
    )


def like_image(shape: tuple[int, ...], out_size: tuple[int, int]) -> tuple[int, ...]:
    """The result's shape for an image of `shape`: its rows and columns replaced."""
    at = 1 if len(shape) == 4 else 0
    return (*shape[:at], *out_size, *shape[at + 2 :])
