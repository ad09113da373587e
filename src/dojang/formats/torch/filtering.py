"""A filter on tensors that autograd can go through: gradients with respect to the picture and to the taps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_weight

from dojang.arith.conv import by
from dojang.base.errors import ShapeError, UsageError

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class FilterSteps:
    """The filter on NumPy stacks (n, h, w, c), made by the caller.

    `forward(stack, taps)` and `adjoint(gradients, taps)`, with taps (kh, kw), (n, kh, kw) or None where the kernel is
    no tensor; `padded(stack, (kh, kw))` is the stack with its border, as far as the windows reach.
    """

    forward: Callable[[Array, Array | None], Array]
    adjoint: Callable[[Array, Array | None], Array]
    padded: Callable[[Array, tuple[int, int]], Array]
    stride: tuple[int, int]
    dilation: tuple[int, int]


class FilteredTensor(torch.autograd.Function):
    """The filter as a step of autograd; it can be differentiated once."""

    @staticmethod
    def forward(ctx: Any, image: torch.Tensor, taps: torch.Tensor | None, steps: FilterSteps) -> torch.Tensor:
        """`image` (n, h, w, c)."""
        ctx.save_for_backward(image, taps)
        ctx.steps = steps
        return _tensor(steps.forward(_array(image), None if taps is None else _array(taps)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        """Gradients of image and taps, where they are needed."""
        image, taps = ctx.saved_tensors
        steps: FilterSteps = ctx.steps
        for_image = for_taps = None
        if ctx.needs_input_grad[0]:
            known = None if taps is None else _array(taps)
            for_image = _tensor(steps.adjoint(_array(gradient), known)).to(image.dtype)
        if taps is not None and ctx.needs_input_grad[1]:
            padded = steps.padded(_array(image), tuple(taps.shape[-2:]))
            for_taps = _of_taps(gradient, _tensor(padded), taps, steps).to(taps.dtype)
        return for_image, for_taps, None


def _of_taps(gradient: torch.Tensor, padded: torch.Tensor, taps: torch.Tensor, steps: FilterSteps) -> torch.Tensor:
    """∂/∂taps[i, j] = Σ gradient[y, x] · padded[y · stride + i · dilation, …], of each picture or of all."""
    n, oh, ow, c = gradient.shape
    kh, kw = taps.shape[-2:]
    planes = padded.permute(0, 3, 1, 2).reshape(1, n * c, *padded.shape[1:3]).to(gradient.dtype)
    outs = gradient.permute(0, 3, 1, 2).reshape(1, n * c, oh, ow)
    found = conv2d_weight(
        planes,
        [n * c, 1, kh, kw],
        outs,
        stride=steps.stride,  # pyright: ignore[reportArgumentType]  # its annotation knows one number only
        dilation=steps.dilation,  # pyright: ignore[reportArgumentType]
        groups=n * c,
    )
    each = found.reshape(n, c, kh, kw).sum(1)
    return each if taps.ndim == 3 else each.sum(0)


DTYPES = ("uint8", "uint16", "float32", "float64")
REALS = (torch.float16, torch.float32, torch.float64)
"""Types of a kernel's real taps; whole numbers of any type are taps, too."""


def is_tensor(value: object) -> bool:
    """Whether this is a tensor."""
    return isinstance(value, torch.Tensor)


def correlate(
    image: torch.Tensor, taps: torch.Tensor | None, steps_of: Callable[[int, int], FilterSteps], layout: str
) -> torch.Tensor:
    """The filtered tensor in the layout of `image`: "nchw" is (h, w), (c, h, w) or (n, c, h, w), "nhwc" (h, w),
    (h, w, c) or (n, h, w, c). `taps` are (kh, kw), (n, kh, kw), or None; `steps_of(h, w)` gives the filter.

    Views go in and come out; nothing is copied. Raises `UsageError` and `ShapeError`.
    """
    if layout not in ("nchw", "nhwc"):
        raise UsageError(f'layout="{layout}" is not known; use "nchw" or "nhwc"')
    _check_plain(image, "image")
    if taps is not None:
        _check_plain(taps, "kernel")
        if taps.is_quantized or (taps.is_floating_point() and taps.dtype not in REALS):
            raise UsageError(f"a kernel of {taps.dtype}: taps are {', '.join(map(_short, REALS))}; convert with .to()")
    if image.ndim not in (2, 3, 4):
        raise ShapeError(f"a tensor of pictures has 2, 3 or 4 axes; got {by(tuple(image.shape))}")
    if _short(image.dtype) not in DTYPES:
        raise UsageError(f"a tensor of {image.dtype}: pictures are {', '.join(DTYPES)}; convert with .to()")
    pictures = image.shape[0] if image.ndim == 4 else 1
    if taps is not None and (taps.ndim not in (2, 3) or (taps.ndim == 3 and taps.shape[0] != pictures)):
        raise ShapeError(
            f"a kernel is a tensor (kh, kw), or with one for each of {pictures} pictures (n, kh, kw); "
            f"got {by(tuple(taps.shape)) or 'one number'}"
        )
    channels_first = layout == "nchw"
    height, width = image.shape if image.ndim == 2 else image.shape[-2:] if channels_first else image.shape[-3:-1]
    steps = steps_of(int(height), int(width))
    stack = image
    if image.ndim == 2:
        stack = image[None, :, :, None]
    elif channels_first:
        stack = image.movedim(-3, -1)
    if stack.ndim == 3:
        stack = stack[None]
    y = FilteredTensor.apply(stack, taps, steps)
    assert isinstance(y, torch.Tensor)
    if image.ndim == 2:
        return y[0, :, :, 0]
    if channels_first:
        y = y.movedim(-1, -3)
    return y if image.ndim == 4 else y[0]


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check_plain(tensor: torch.Tensor, name: str) -> None:
    """Raises `UsageError` for a tensor whose numbers do not lie in the computer's memory, one after another."""
    if tensor.is_nested:
        raise UsageError(f"{name} is a nested tensor, which holds tensors of several sizes; filter each of its parts")
    if tensor.device.type != "cpu":
        raise UsageError(f"{name} is on {tensor.device}; pictures are filtered by the processor: give {name}.cpu()")
    if tensor.layout is not torch.strided:
        raise UsageError(f"{name} is a tensor of {tensor.layout}; give {name}.to_dense()")


def _array(tensor: torch.Tensor) -> Array:
    return tensor.detach().resolve_neg().numpy()


def _tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())
