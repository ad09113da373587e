"""Ways of computing a convolution, one module each.

An algorithm has a `NAME` and three functions: `offer(task, machine) -> Offer | Refusal` (predicted seconds, or the
reason why not), `pack(task, machine, weight, bias)` (weights in the kernel's order) and `emit(task, machine) -> Code`.
"""

from __future__ import annotations

from types import ModuleType

from dojang.engine.kernels.conv import (
    amx,
    dense,
    depthwise,
    direct,
    fallback,
    fourier,
    grouped,
    pointwise,
    streamed,
    transposed,
    winograd,
)

ALGORITHMS: tuple[ModuleType, ...] = (
    dense,
    depthwise,
    grouped,
    pointwise,
    winograd,
    amx,
    fourier,
    streamed,
    transposed,
    direct,
    fallback,
)
"""In the order in which they are asked; the reference last. The least predicted time wins."""
