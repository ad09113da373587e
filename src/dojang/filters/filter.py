"""`filter`: a kernel pressed on a picture, a stack, a PIL image or a Dask array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dojang.arith.conv import by
from dojang.arith.errors import DojangError, ShapeError, UsageError
from dojang.engine.machine import Machine
from dojang.filters import run
from dojang.filters.job import Job, Options, as_stack, check_dtype, like_image
from dojang.filters.kernels import Kernel, as_kernel, is_bank
from dojang.filters.plan import make_plan

if TYPE_CHECKING:
    from PIL.Image import Image


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
    out: NDArray | None = None,
) -> Any:
    """The picture's correlation with the kernel, in the picture's own dtype and shape.

    out[y, x, c] = offset + Σ taps[i, j] · in[y·stride + (i − anchor)·dilation, …, c]: the kernel is pressed as it
    stands, not flipped. Integers are rounded to nearest and saturated; `dtype="float32"` or `"float64"` keeps the
    response as it is. uint8, uint16, float32, float64; (h, w), (h, w, channels), (n, h, w, channels); a PIL image
    gives a PIL image, its alpha kept; a Dask array gives a lazy one.

    `kernel`: a name with options ("blur", "gaussian:sigma=2"), a matrix as text ("0 -1 0; -1 5 -1; 0 -1 0"),
    FILE.npy, an array, a `Kernel`; a list of these is a bank and puts one leading axis on the result (a list of PIL
    images for a PIL image). `anchor` is the tap that stands on the output pixel, the middle or just after it.
    `border`: zero, constant (`value`), replicate, reflect, circular, or valid, which shrinks the result. `out` takes
    the result in place of a new array; it may be the picture itself.

    Raises `UsageError`, `ShapeError`, `DataError` (all `DojangError`).

    >>> filter(np.array([[0, 0, 0], [0, 9, 0], [0, 0, 0]], np.uint8), "blur", border="zero").tolist()
    [[1, 1, 1], [1, 1, 1], [1, 1, 1]]
    """
    options = Options.of(border, stride, dilation, value, offset, dtype)
    kernels, bank = _kernels(kernel, anchor)
    if type(image).__module__.startswith("PIL."):
        if out is not None or dtype is not None:
            raise UsageError("a PIL image gives a new PIL image; for out= and dtype= give numpy.asarray(image)")
        return _filter_pil(image, kernels, bank, options)
    if out is not None and not isinstance(out, np.ndarray):
        raise UsageError(f"out= must be a NumPy array, got {type(out).__name__}")
    result = filter_array(np.asarray(image), kernels, options, out if bank or out is None else out[None])
    if out is not None:
        return out
    return result if bank else result[0]


def filter_array(
    picture: NDArray, kernels: Sequence[Kernel], options: Options, out: NDArray | None = None, alpha: bool = False
) -> NDArray:
    """(kernels, *picture's shape): every kernel's result. With `alpha` the last channel is taken over, not filtered."""
    native = check_dtype(picture.dtype)
    stack = as_stack(picture)
    jobs = [Job.of(kernel, stack.shape, native, options) for kernel in kernels]
    sizes = {job.out_size for job in jobs}
    if len(sizes) > 1:
        raise ShapeError(f'the kernels of a bank give unlike sizes with border "valid": {sorted(sizes)}')
    shape = (len(jobs), *like_image(picture.shape, jobs[0].out_size))
    result = _target(out, shape, jobs[0].out_dtype, picture)
    source = np.ascontiguousarray(stack, dtype=native)
    machine = Machine.host()
    results = result.reshape(len(jobs), len(source), *jobs[0].out_size, source.shape[3])
    first = 0
    for plan in make_plan(jobs, machine):
        last = first + len(plan.jobs)
        job = jobs[first].like(plan.jobs[0].kernel)
        for i, one in enumerate(source):
            run.run(plan, job, one, results[first:last, i], machine)
            if alpha:
                for place in results[first:last, i]:
                    keep_alpha(job, one, place)
        first = last
    if out is not None and result is not out:
        out[...] = result
    return result


def keep_alpha(job: Job, picture: NDArray, result: NDArray) -> None:
    """Puts the picture's own last channel into the result, at the pixels that the result stands on."""
    (y0, x0), (sy, sx), (oh, ow) = job.origin, job.options.stride, job.out_size
    result[..., -1] = picture[y0::sy, x0::sx, -1][:oh, :ow]


def _kernels(kernel: Any, anchor: tuple[int, int]) -> tuple[list[Kernel], bool]:
    """The kernels, and whether a bank was asked for."""
    if not is_bank(kernel):
        return [as_kernel(kernel, anchor)], False
    bank = []
    for i, one in enumerate(kernel):
        try:
            bank.append(as_kernel(one, anchor))
        except DojangError as error:
            raise error.within(f"kernel {i + 1} of {len(kernel)}") from None
    return bank, True


def _target(out: NDArray | None, shape: tuple[int, ...], dtype: np.dtype, picture: NDArray) -> NDArray:
    """The array to write to: `out` where it can be written as it lies and does not alias the picture, or a new one."""
    if out is None:
        return np.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype:
        raise ShapeError(f"out= is {by(out.shape)} {out.dtype}; the result is {by(shape)} {dtype}")
    if not out.flags.writeable:
        raise UsageError("out= is read-only; give a writable array")
    if not out.flags.c_contiguous or np.may_share_memory(out, picture):
        return np.empty(shape, dtype)
    return out


def _filter_pil(image: Image, kernels: list[Kernel], bank: bool, options: Options) -> Any:
    from dojang.filters.images import from_pil, to_pil

    pixels, alpha = from_pil(image)
    pictures = [to_pil(p, image) for p in filter_array(pixels, kernels, options, alpha=alpha)]
    return pictures if bank else pictures[0]
