"""`filter`: apply a kernel to a picture, a stack, a PIL image or a Dask array."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dojang.arith.conv import by
from dojang.base.errors import DojangError, ShapeError, UsageError
from dojang.base.foreign import FOREIGN
from dojang.filters.alpha import check_alpha
from dojang.filters.arrays import filter_array, filtered, takes, target_for
from dojang.filters.given import as_numbers
from dojang.filters.job import AxesWarning, Options, as_stack, channels_first, like_image
from dojang.filters.kernels.named import MOST_TAPS
from dojang.filters.kernels.parse import Kernel, as_kernel, check_anchor, is_bank
from dojang.filters.memory import empty
from dojang.filters.prepare import Prepared
from dojang.filters.run import Bound


def filter(
    image: Any,
    kernel: Any,
    border: str = "reflect",
    stride: int | tuple[int, int] = 1,
    dilation: int | tuple[int, int] = 1,
    *,
    anchor: tuple[int, int] = (-1, -1),
    value: float = 0.0,
    offset: float = 0.0,
    dtype: DTypeLike | None = None,
    mask: Any = None,
    nan: str = "keep",
    layout: str = "nchw",
    out: NDArray | None = None,
    threads: int | None = None,
    alpha: bool = False,
) -> Any:
    """The picture's correlation with the kernel, in the picture's own dtype and shape.

    out[y, x, c] = offset + Σ taps[i, j] · in[y·stride + (i − anchor)·dilation, …, c]: the kernel is not
    flipped. Integers are rounded to nearest and saturated; `dtype="float32"` or `"float64"` gives the unrounded
    response. Types: uint8, uint16, float32, float64. Shapes: (h, w), (h, w, channels), (n, h, w, channels). A PIL image
    gives a PIL image with the same alpha; a Dask array gives a lazy one.

    `kernel`: a name with options ("blur", "gaussian:sigma=2"), a matrix as text ("0 -1 0; -1 5 -1; 0 -1 0"), FILE.npy,
    an array, a `Kernel`; a list of these is a bank, whose result has one more leading axis (a list of PIL images for a
    PIL image). `anchor` is the tap at the output pixel, by default the middle or the one after it. `border`: zero,
    constant (`value`), replicate, reflect, symmetric, circular, or valid, which shrinks the result; also the names of
    SciPy, OpenCV, NumPy and PyTorch (`docs/filters.md`).

    Pixels where `mask` is True (the picture's shape, with or without channels), and with nan="ignore" those that are
    NaN, do not count: a result is the weighted mean of the others, times the sum of the taps. A PyTorch tensor gives a
    tensor of the same `layout` ("nchw" or "nhwc"), with gradients; its kernel may be a tensor, too, (kh, kw) or
    (n, kh, kw). `out` receives the result instead of a new array; it may be the picture itself. `threads` is the most
    threads, by default all cores. With `alpha` the last channel of an array is alpha, as it always is for a PIL image
    that has one: it is kept, and kernels without negative taps weigh the colours by it (`filters/alpha.py`).

    Raises `UsageError`, `ShapeError`, `DataError` (all `DojangError`).

    >>> filter(np.array([[0, 0, 0], [0, 9, 0], [0, 0, 0]], np.uint8), "blur", border="zero").tolist()
    [[1, 1, 1], [1, 1, 1], [1, 1, 1]]
    """
    settings = None
    special = mask is not None or nan != "keep"
    mark = None if special or alpha or type(image) is not np.ndarray else _mark(kernel)
    if mark is not None:
        settings = (mark, image.shape, image.dtype, border, stride, dilation, anchor, value, offset, dtype, threads)
        try:
            known = _known.get(settings)
        except TypeError:  # for example a list, which cannot be hashed
            known = settings = None
        if known is not None and (pitch := _pitch(image)) is not None:
            result = empty(known[1], known[2]) if out is None else out
            if (out is None or takes(out, known[1], known[2], image)) and known[0].quick(image, result, pitch):
                return result
    home = "" if isinstance(image, np.ndarray) else type(image).__module__.partition(".")[0]
    if home in FOREIGN:
        if special or alpha or out is not None:
            raise UsageError(
                "a tensor gives a new tensor, without out=, mask=, nan= and alpha=; for these, give image.numpy()"
            )
        options = _options(border, stride, dilation, value, offset, _plain_dtype(dtype))
        return FOREIGN[home](image, kernel, options, anchor, layout, threads)
    options = _options(border, stride, dilation, value, offset, dtype)
    kernels, bank = _kernels(kernel, anchor)
    if special and alpha:
        raise UsageError("mask= and nan= leave places out of every channel; they do not go with alpha=True")
    if special:
        return _masked(image, kernels, bank, options, mask, nan, out, threads)
    if home == "dask":
        from dojang.filters.lazy import filter_dask

        if out is not None:
            raise UsageError("a Dask array gives a lazy result, without out=; store it with .to_zarr() or .store()")
        return filter_dask(image, kernels, options, bank, alpha)
    if home == "PIL":
        if out is not None or dtype is not None:
            raise UsageError(
                "a PIL image gives a new PIL image, without out= and dtype=; for these, give numpy.asarray(image)"
            )
        return _filter_pil(image, kernels, bank, options, threads)
    if out is not None and not isinstance(out, np.ndarray):
        raise UsageError(f"out= must be a NumPy array, got {type(out).__name__}")
    if isinstance(image, np.ma.MaskedArray):
        raise UsageError(
            "a masked array is not filtered as it is; give image.data with mask=image.mask, or image.filled()"
        )
    picture = as_numbers(image, "not a picture")
    _check_axes(picture.shape)
    if alpha:
        check_alpha(picture.shape)
    if out is not None and not bank:
        result, ready = filtered(picture, kernels, options, out[None], threads, alpha, one=True)
    else:
        result, ready = filtered(picture, kernels, options, out, threads, alpha)
    if not bank and type(image) is np.ndarray:
        _remember(settings, image, ready)
    if out is not None:
        return out
    return result if bank else result[0]


def _pitch(image: NDArray) -> int | None:
    """Bytes from a row to the next where a picture is a part of a larger one, and 0 where it lies in one piece; None
    for a stack that does not, and for rows that do not lie in one piece.
    """
    if image.flags.c_contiguous:
        return 0
    if image.ndim > 3 or not image.flags.aligned or not image[0].flags.c_contiguous:
        return None
    return image.strides[0] or None  # rows that are one row again and again


def _plain_dtype(dtype: Any) -> Any:
    """torch.float32 as "float32"."""
    return str(dtype).removeprefix("torch.") if str(dtype).startswith("torch.") else dtype


def _mark(kernel: Any) -> Any:
    """What tells a kernel from others without looking at all of it again; None if there is nothing like that."""
    if type(kernel) is str or type(kernel) is Kernel:
        return kernel
    if type(kernel) is np.ndarray and kernel.ndim == 2 and kernel.size <= 4096 and kernel.dtype.kind in "fiu":
        return kernel.tobytes(), kernel.shape, kernel.dtype
    return None


def _masked(
    image: Any, kernels: tuple[Kernel, ...], bank: bool, options: Options, mask: Any, nan: str, out: Any,
    threads: int | None,
) -> NDArray:  # fmt: skip
    from dojang.filters.masked import filter_masked

    if nan not in ("keep", "ignore"):
        raise UsageError(f'nan="{nan}" is not known; use "keep" (a NaN spreads over its windows) or "ignore"')
    if out is not None and not isinstance(out, np.ndarray):
        raise UsageError(f"out= must be a NumPy array, got {type(out).__name__}")
    if type(image) is not np.ndarray:
        raise UsageError(f"mask= and nan= are for NumPy arrays, got {type(image).__name__}; give numpy.asarray(image)")
    _check_axes(image.shape)
    as_stack(image)
    results = filter_masked(image, kernels, options, mask, nan, threads)
    result = results if bank else results[0]
    if out is None:
        return result
    target = target_for(out, result.shape, result.dtype, image, 0)
    (out if target is not out else target)[...] = result
    return out


def _check_axes(shape: tuple[int, ...]) -> None:
    """If channels seem to come first, raises an error, or for a stack a warning. A stack of one picture avoids the
    error.
    """
    doubt = channels_first(shape) if len(shape) in (3, 4) else ""
    if doubt and len(shape) == 3:
        raise ShapeError(f"{doubt} (numpy.moveaxis(image, 0, -1)); if that is right, give a stack of one, image[None]")
    if doubt:
        warnings.warn(doubt, AxesWarning, stacklevel=3)


_known: dict[
    tuple, tuple[Bound, tuple[int, ...], np.dtype]
] = {}  # settings of earlier calls, which need no more checks


def _remember(settings: tuple | None, image: NDArray, ready: Prepared) -> None:
    if settings is None or (isinstance(settings[0], str) and settings[0].endswith(".npy")) or ready.waits:
        return
    if ready.quick is None or ready.dtype != image.dtype or not image.dtype.isnative:
        return
    if ready.shape != as_stack(image).shape:  # a picture of planes
        return
    if len(_known) >= 32:
        _known.clear()
    _known[settings] = (ready.quick, like_image(image.shape, ready.out_size), ready.out_dtype)


@lru_cache(maxsize=256)
def _named_once(text: str, anchor: tuple[int, int]) -> tuple[Kernel, ...]:
    return (as_kernel(text, anchor),)


@lru_cache(maxsize=64)
def _matrix_once(data: bytes, shape: tuple[int, ...], dtype: np.dtype, anchor: tuple[int, int]) -> tuple[Kernel, ...]:
    return (as_kernel(np.frombuffer(data, dtype).reshape(shape), anchor),)


def _options(*given: Any) -> Options:
    try:
        return _options_once(*given)
    except TypeError:  # for example a list, which cannot be hashed
        return Options.of(*given)


_options_once = lru_cache(maxsize=64)(Options.of)


def _kernels(kernel: Any, anchor: tuple[int, int]) -> tuple[tuple[Kernel, ...], bool]:
    """The kernels, and whether they are a bank. A kernel that was given before is not parsed again; files are read
    again.
    """
    check_anchor(anchor)
    anchor = (int(anchor[0]), int(anchor[1]))  # for example a list, which cannot be hashed
    if isinstance(kernel, str) and not kernel.endswith(".npy"):
        return _named_once(kernel, anchor), False
    if isinstance(kernel, np.ndarray) and kernel.ndim == 2 and kernel.dtype.kind in "fiu" and kernel.size <= MOST_TAPS:
        return _matrix_once(kernel.tobytes(), kernel.shape, kernel.dtype, anchor), False
    if not is_bank(kernel):
        return (as_kernel(kernel, anchor),), False
    if not len(kernel):
        raise ShapeError(f"a bank of kernels needs at least one, got shape {by(np.shape(kernel))}")
    bank = []
    for i, one in enumerate(kernel):
        try:
            bank.append(as_kernel(one, anchor))
        except DojangError as error:
            raise error.within(f"kernel {i + 1} of {len(kernel)}") from None
    return tuple(bank), True


def _filter_pil(
    image: Any, kernels: tuple[Kernel, ...], bank: bool, options: Options, threads: int | None = None
) -> Any:
    from dojang.filters.large import as_stored
    from dojang.filters.pictures.images import turn
    from dojang.filters.pictures.pil import from_pil, orientation_of, to_pil

    pixels, alpha = from_pil(image)
    orientation = orientation_of(image)  # read after the pixels: decoding rotates a TIFF and removes the tag
    if orientation != 1 and options.stride != (1, 1):
        # Positions are counted from the displayed upper left corner; the result is rotated back.
        pixels = np.ascontiguousarray(turn(pixels, orientation))
        back = {6: 8, 8: 6}.get(orientation, orientation)
        found = filter_array(pixels, kernels, options, threads=threads, alpha=alpha)
        results = [np.ascontiguousarray(turn(p, back)) for p in found]
    else:
        kernels, options = as_stored(kernels, options, orientation)
        results = list(filter_array(pixels, kernels, options, threads=threads, alpha=alpha))
    pictures = [to_pil(p, image) for p in results]
    if orientation != 1 and "exif" not in image.info:
        for picture in pictures:
            picture.info["exif"] = image.getexif().tobytes()
    return pictures if bank else pictures[0]
