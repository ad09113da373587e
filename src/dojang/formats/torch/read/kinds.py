"""What operators of ONNX ask of the types of their inputs, and handlers that give up where a form is not theirs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from dojang.base.errors import DojangError
from dojang.formats.torch.read.ops import lowers
from dojang.formats.torch.read.trace import ImagesCounted, Tracer
from dojang.formats.torch.read.traced import Handler, Traced


def picks(*names: str) -> Callable[[Handler], Handler]:
    """Registers a handler that takes the usual forms of a function: one that it cannot take leaves nothing behind."""

    def register(handler: Handler) -> Handler:
        @functools.wraps(handler)
        def careful(t: Tracer, *args: Any, **kwargs: Any) -> Any:
            kept = len(t.nodes)
            try:
                result = handler(t, *args, **kwargs)
            except ImagesCounted:
                raise
            except (AttributeError, IndexError, KeyError, TypeError, ValueError, DojangError):
                result = NotImplemented
            if result is NotImplemented:
                t.forget(kept)
            return result

        return lowers(*names)(careful)

    return register


def is_whole(t: Tracer, x: Traced) -> bool:
    """Whether a value is kept as whole numbers or truth values, not as real numbers that are whole."""
    return t.read(x) in t.whole


def truths(t: Tracer, value: Any) -> Traced:
    """A value as truth values."""
    x = t.value(value)
    return x if is_whole(t, x) and x.dtype == torch.bool else t.cast(x, torch.bool)


def places(t: Tracer, value: Any) -> Traced:
    """A value as whole numbers that say places."""
    x = t.value(value)
    return x if is_whole(t, x) and x.dtype in (torch.int64, torch.int32) else t.cast(x, torch.int64)


def whole_number(t: Tracer, value: int, shape: Sequence[int] = ()) -> Traced:
    """A whole number as a constant."""
    made = t.emit("constant", part="number", shape=tuple(shape), fill=float(value), dtype="int64")
    t.whole.add(made.node)
    return t.made(made.node, made.sizes, torch.int64)


def real(t: Tracer, value: Any, beside: Any = None) -> Traced:
    """A value as real numbers."""
    x = t.number(float(value), beside) if isinstance(value, int | float) else t.value(value)
    return t.cast(x, torch.float32) if is_whole(t, x) else x


def alike(t: Tracer, *values: Any) -> list[Traced]:
    """Values of one type: as they are where all are whole numbers of one type, else real numbers."""
    found = [t.value(v) if isinstance(v, torch.Tensor) else v for v in values]
    traced = [v for v in found if isinstance(v, Traced)]
    if len(traced) == len(found) and all(is_whole(t, v) for v in traced) and len({v.dtype for v in traced}) == 1:
        return traced
    if any(isinstance(v, complex) for v in found) or any(v.dtype.is_complex for v in traced):
        raise TypeError("complex numbers")
    return [real(t, v, *(traced or (None,))[:1]) for v in found]


def wide(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape that some shapes broadcast to."""
    return tuple(torch.broadcast_shapes(*(tuple(s) for s in shapes)))
