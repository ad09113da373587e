"""`filter` on PyTorch tensors: the pictures' filters and autograd joined."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dojang.base.errors import UsageError
from dojang.filters.adjoint import adjoint
from dojang.filters.arrays import filter_array
from dojang.filters.borders import pad
from dojang.filters.job import Job, Options
from dojang.filters.kernels.parse import Kernel, as_kernel, is_bank

if TYPE_CHECKING:
    from dojang.formats.torch.filtering import FilterSteps


def filter_tensor(
    image: Any, kernel: Any, options: Options, anchor: tuple[int, int], layout: str, threads: int | None
) -> Any:
    """The filtered tensor, of the same layout, with gradients: `layout` "nchw" is (h, w), (c, h, w) or (n, c, h, w),
    "nhwc" (h, w), (h, w, c) or (n, h, w, c).

    `kernel` is what `filter` takes, or a tensor: (kh, kw), or (n, kh, kw) with a kernel for each picture. Gradients
    reach float pictures and kernels that are tensors. Raises `UsageError` and `ShapeError`.
    """
    from dojang.formats.torch.filtering import correlate, is_tensor

    fixed = None if is_tensor(kernel) else _one(kernel, anchor)
    if fixed is not None and fixed.combine != "linear" and image.requires_grad:
        raise UsageError(f"kernel {fixed.name} joins two responses and has no gradient; filter by each of its parts")

    def steps_of(height: int, width: int) -> FilterSteps:
        return _steps(fixed, anchor, height, width, options, threads)

    return correlate(image, None if fixed is not None else kernel, steps_of, layout)


def _one(kernel: Any, anchor: tuple[int, int]) -> Kernel:
    if is_bank(kernel):
        raise UsageError("on tensors one kernel at a time; for a bank, stack the results")
    return as_kernel(kernel, anchor)


def _steps(
    fixed: Kernel | None, anchor: tuple[int, int], height: int, width: int, options: Options, threads: int | None
) -> FilterSteps:
    """The filter, its adjoint and the border for pictures of this size; `fixed` is the kernel if it is no tensor."""
    from dojang.formats.torch.filtering import FilterSteps

    def each(stack: NDArray, taps: NDArray | None, work: Any) -> NDArray:
        """`work(pictures, kernel)` for all pictures, or for each with its own kernel."""
        if taps is None:
            return work(stack, fixed)
        if taps.ndim == 2:
            return work(stack, Kernel("tensor", (taps,), anchor=anchor))
        found = [Kernel("tensor", (one,), anchor=anchor) for one in taps]
        return np.concatenate([work(stack[i : i + 1], one) for i, one in enumerate(found)])

    def job_of(kernel: Kernel, stack: NDArray) -> Job:
        return Job.of(kernel, (1, height, width, stack.shape[3]), np.dtype(stack.dtype), replace(options, dtype=None))

    def forward(stack: NDArray, taps: NDArray | None) -> NDArray:
        return each(stack, taps, lambda part, kernel: filter_array(part, (kernel,), options, threads=threads)[0])

    def backward(gradients: NDArray, taps: NDArray | None) -> NDArray:
        return each(gradients, taps, lambda part, kernel: adjoint(job_of(kernel, part), part, threads))

    def padded(stack: NDArray, size: tuple[int, int]) -> NDArray:
        job = job_of(Kernel("tensor", (np.zeros(size),), anchor=anchor), stack)
        (oh, ow), (sy, sx), (ey, ex) = job.out_size, options.stride, job.extent
        rows, cols = ((b, a) for b, a in zip(job.before, job.after, strict=True))
        whole = pad(np.moveaxis(stack, 0, 2), rows, cols, options.border, job.fill)
        return np.ascontiguousarray(np.moveaxis(whole, 2, 0)[:, : (oh - 1) * sy + ey, : (ow - 1) * sx + ex])

    return FilterSteps(forward, backward, padded, options.stride, options.dilation)
