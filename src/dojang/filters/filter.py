"""`filter`: apply a kernel to a picture, a stack, a PIL image or a Dask array."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dojang.arith.conv import by
from dojang.base.errors import DojangError, ShapeError, UsageError
from dojang.filters.alpha import check_alpha, weigh
from dojang.filters.job import AxesWarning, Options, as_stack, channels_first, like_image
from dojang.filters.kernels.parse import Kernel, as_kernel, check_anchor, is_bank
from dojang.filters.memory import empty
from dojang.filters.prepare import Prepared, prepare
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
    SciPy, OpenCV, NumPy and PyTorch (`docs/filters.md`). Pixels where `mask` is True (the picture's shape, channels or
    not), and with nan="ignore" those that are NaN, do not count: a result is the weighted mean of the others, times the
    sum of the taps. `out` receives the result instead of a new array; it may be the picture itself. `threads` is the
    most threads, by default all cores. With `alpha` the last channel of an array is alpha, as it always is for a PIL
    image that has one: it is kept, and kernels without negative taps weigh the colours by it (`filters/alpha.py`).

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
        if known is not None and image.flags.c_contiguous:
            result = empty(known[1], known[2]) if out is None else out
            if (out is None or _takes(out, known[1], known[2], image)) and known[0].quick(image, result):
                return result
    options = _options(border, stride, dilation, value, offset, dtype)
    kernels, bank = _kernels(kernel, anchor)
    if special and alpha:
        raise UsageError("mask= and nan= leave places out of every channel; they do not go with alpha=True")
    if special:
        return _masked(image, kernels, bank, options, mask, nan, out, threads)
    home = "" if isinstance(image, np.ndarray) else type(image).__module__.partition(".")[0]
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
    picture = np.asarray(image)
    _check_axes(picture.shape)
    if alpha:
        check_alpha(picture.shape)
    if out is not None and not bank:
        result, ready = _filter_array(picture, kernels, options, out[None], threads, alpha, one=True)
    else:
        result, ready = _filter_array(picture, kernels, options, out, threads, alpha)
    if not bank and type(image) is np.ndarray:
        _remember(settings, image, ready)
    if out is not None:
        return out
    return result if bank else result[0]


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
    if type(image) is not np.ndarray:
        raise UsageError(f"mask= and nan= are for NumPy arrays, got {type(image).__name__}; give numpy.asarray(image)")
    _check_axes(image.shape)
    as_stack(image)
    results = filter_masked(image, kernels, options, mask, nan, threads)
    result = results if bank else results[0]
    if out is None:
        return result
    target = _target(out, result.shape, result.dtype, image, 0)
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


def _takes(out: Any, shape: tuple[int, ...], dtype: np.dtype, picture: NDArray) -> bool:
    """Whether the result can be written directly to `out`."""
    if type(out) is not np.ndarray or out.shape != shape or out.dtype != dtype:
        return False
    flags = out.flags
    return flags.c_contiguous and flags.aligned and flags.writeable and not np.may_share_memory(out, picture)


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


def filter_array(
    picture: NDArray,
    kernels: tuple[Kernel, ...],
    options: Options,
    out: NDArray | None = None,
    threads: int | None = None,
    alpha: bool = False,
    one: bool = False,
) -> NDArray:
    """(kernels, *picture's shape): every kernel's result. With `alpha` the last channel is copied, and weighs the
    colours under kernels that blur.

    With `one`, error messages describe the result of the only kernel.
    """
    return _filter_array(picture, kernels, options, out, threads, alpha, one)[0]


def _filter_array(
    picture: NDArray,
    kernels: tuple[Kernel, ...],
    options: Options,
    out: NDArray | None = None,
    threads: int | None = None,
    alpha: bool = False,
    one: bool = False,
) -> tuple[NDArray, Prepared]:
    shape = picture.shape
    stack = as_stack(picture)
    if out is None and not alpha and (planes := _planes(stack)) is not None:
        ready = prepare(kernels, planes.shape, picture.dtype, options, threads)
        n, c = stack.shape[0], stack.shape[3]
        results = empty((len(kernels), n, c, *ready.out_size), ready.out_dtype)
        ready.run(planes, results.reshape(len(kernels), n * c, *ready.out_size, 1))
        last = np.moveaxis(results, 2, -1)
        return last if picture.ndim == 4 else last[:, 0], ready
    ready = prepare(kernels, stack.shape, picture.dtype, options, threads)
    whole = (len(kernels), *like_image(shape, ready.out_size))
    result = _target(out, whole, ready.out_dtype, picture, int(one))
    if picture.dtype is not ready.dtype or not _whole_rows(stack):
        stack = np.ascontiguousarray(stack, ready.dtype)
    results = result.reshape(len(kernels), stack.shape[0], *ready.out_size, stack.shape[3])
    ready.run(stack, results, alpha)
    if alpha:
        for job, one_stack in zip(ready.jobs, results, strict=True):
            for one_picture, one_result in zip(stack, one_stack, strict=True):
                weigh(job, one_picture, one_result, threads)
    if out is not None and result is not out:
        out[...] = result
    return result, ready


def _whole_rows(stack: NDArray) -> bool:
    """Whether each row of a stack (n, h, w, c) lies in one piece; rows and pictures may lie at any distance."""
    if stack.flags.c_contiguous:
        return True
    _, _, w, c = stack.shape
    _, _, across, between = stack.strides
    size = stack.itemsize
    return stack.flags.aligned and (c == 1 or between == size) and (w == 1 or across == c * size)


def _planes(stack: NDArray) -> NDArray | None:
    """A stack whose channels lie apart, each in whole rows, as a stack (n · c, h, w, 1) of planes, without a copy;
    None for others.
    """
    n, h, w, c = stack.shape
    picture, row, across, plane = stack.strides
    if c == 1 or stack.flags.c_contiguous or across != stack.itemsize or plane < w * across or not stack.dtype.isnative:
        return None
    if not stack.flags.aligned or not (n == 1 or picture == c * plane):
        return None
    return np.lib.stride_tricks.as_strided(stack, (n * c, h, w, 1), (plane, row, across, across), writeable=False)


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
    if isinstance(kernel, np.ndarray) and kernel.ndim == 2 and kernel.dtype.kind in "fiu":
        return _matrix_once(kernel.tobytes(), kernel.shape, kernel.dtype, anchor), False
    if not is_bank(kernel):
        return (as_kernel(kernel, anchor),), False
    bank = []
    for i, one in enumerate(kernel):
        try:
            bank.append(as_kernel(one, anchor))
        except DojangError as error:
            raise error.within(f"kernel {i + 1} of {len(kernel)}") from None
    return tuple(bank), True


def _target(out: NDArray | None, shape: tuple[int, ...], dtype: np.dtype, picture: NDArray, skip: int) -> NDArray:
    """The array to write to: `out` if it can be written directly and does not alias the picture, or a new one.

    Errors leave out the first `skip` axes, which the user did not give.
    """
    if out is None:
        return empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype:
        raise ShapeError(f"out= is {by(out.shape[skip:])} {out.dtype}; the result is {by(shape[skip:])} {dtype}")
    if not out.flags.writeable:
        raise UsageError("out= is read-only; give a writable array")
    return out if _takes(out, shape, dtype, picture) else empty(shape, dtype)


def _filter_pil(
    image: Any, kernels: tuple[Kernel, ...], bank: bool, options: Options, threads: int | None = None
) -> Any:
    from dojang.filters.large import as_stored
    from dojang.filters.pictures.images import from_pil, orientation_of, to_pil, turn

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
