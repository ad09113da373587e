"""How the calls of modules and functions come to the tracer, and which modules a forward consists of.

While any thread follows a forward, `nn.Module.__call__` and `torch.cond` look whether theirs is the thread that does
(as `torch.fx` does); functions come by a `TorchFunctionMode`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from dojang.formats.torch.read.traced import ACTIVE, Follower, Traced

COMPOSED = frozenset(f"torch.nn.modules.{name}" for name in ("container", "module", "transformer"))
"""Where PyTorch keeps modules that are made of others."""


class Mode(TorchFunctionMode):
    """Hands every PyTorch function that the forward calls to the tracer."""

    def __init__(self, tracer: Follower) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The tracer's answer."""
        return self.tracer.function(func, types, args, kwargs or {})


_LOCK = threading.Lock()
_TRACING = 0
_ORIGINAL: Callable[..., Any] = nn.Module.__call__
_COND: Callable[..., Any] = torch.cond


def _traced_call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    tracer = ACTIVE.tracer
    if tracer is None:
        return _ORIGINAL(module, *args, **kwargs)
    return tracer.call(_ORIGINAL, module, args, kwargs)


def _traced_cond(pred: Any, true_fn: Any, false_fn: Any, operands: Any = ()) -> Any:
    """`torch.cond`: the way that the tracer takes."""
    tracer = ACTIVE.tracer
    if tracer is None:
        return _COND(pred, true_fn, false_fn, operands)
    if isinstance(pred, Traced):
        tracer.decided.append(pred.node)
    chosen = tracer.decide("__bool__") if isinstance(pred, Traced) else bool(pred)
    return (true_fn if chosen else false_fn)(*operands)


def patch() -> None:
    """While any thread traces, module calls look whether theirs is the tracing one (as `torch.fx` does)."""
    global _TRACING, _ORIGINAL
    with _LOCK:
        if _TRACING == 0:
            _ORIGINAL = nn.Module.__call__
            nn.Module.__call__ = _traced_call  # type: ignore[method-assign]
            torch.cond = _traced_cond
        _TRACING += 1


def unpatch() -> None:
    """Undoes `patch`, once no thread traces any more."""
    global _TRACING
    with _LOCK:
        _TRACING -= 1
        if _TRACING == 0:
            nn.Module.__call__ = _ORIGINAL  # type: ignore[method-assign]
            torch.cond = _COND


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is one of PyTorch's own layers, so that its path names its node."""
    kind = type(module)
    if kind.__module__.startswith("torch.nn."):
        return kind.__module__ not in COMPOSED and kind is not nn.MultiheadAttention
    own = any(c.__module__.startswith("torch.nn.") and c is not nn.Module and c.__module__ not in COMPOSED
              for c in kind.__mro__)  # fmt: skip
    return own and not module._modules


def walk(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every module under every path it has, parents first, in the order of `state_dict`."""
    found: list[tuple[str, nn.Module]] = []
    stack: list[tuple[str, nn.Module]] = [("", module)]
    while stack:
        path, m = stack.pop()
        found.append((path, m))
        inner = [(f"{path}.{key}" if path else key, child) for key, child in m._modules.items() if child is not None]
        stack += reversed(inner)
    return found
