"""The stand-in for a tensor while a forward is followed, and the tables of how functions become nodes.

A `Traced` knows its shape and the node that makes it; nothing is allocated. PyTorch hands every function that is called
on one to the tracer of the thread (`ACTIVE`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from dojang.arith.conv import by
from dojang.arith.graph import Graph
from dojang.base.errors import UnsupportedError
from dojang.formats.torch.read.memory import SharedMemory, ViewStep

Handler = Callable[..., Any]

HANDLERS: dict[str, Handler] = {}
"""How a PyTorch function, by its name, becomes nodes: `f(tracer, *args, **kwargs)`. Filled by `ops.py`."""

COMPLEX: dict[str, Handler] = {}
"""The same where a complex value goes in."""

MODULES: dict[type, Handler] = {}
"""How a module, by its exact class, becomes nodes as a whole: `f(tracer, module, *args, **kwargs)`."""

VIEWS: set[str] = set()
"""Names of functions whose result may share memory with their input."""


class Stale(UnsupportedError):
    """A value was changed through another view of its memory; only a functional form of the forward can be read."""


class DataDependent(UnsupportedError):
    """The forward decides by the values of a tensor, or by the batch: no Graph says that.

    `what` says what it does with values ("" where it is the batch); `yes_or_no` where both ways can be followed
    (`paths_of`). Once the trace has ended, `begun` gives what was followed of the network, its rest unknown.
    """

    what = ""
    yes_or_no = False
    begun: Callable[[str], Graph]


class Traced(torch.Tensor):
    """The stand-in for a tensor: the node that makes it, and its shape. It owns no memory; `memory` is what it shows,
    `steps` by which views, and `version` how often that had been written when `node` was what it shows. `alike`: its
    numbers, where they are known and the same for every image of the batch; the batch is then left out of each axis.
    `pair`: of a complex value its parts, which lie along a last axis of two.
    """

    __slots__ = ("alike", "memory", "node", "pair", "sizes", "steps", "version")
    node: str
    sizes: tuple[int, ...]
    memory: SharedMemory
    steps: tuple[ViewStep, ...]
    version: int
    alike: torch.Tensor | None
    pair: Traced | None

    @staticmethod
    def __new__(cls, node: str, sizes: Sequence[int], dtype: torch.dtype, device: torch.device) -> Traced:
        """A wrapper without storage."""
        self = torch.Tensor._make_wrapper_subclass(cls, tuple(sizes), dtype=dtype, device=device)
        self.node, self.sizes, self.steps, self.version, self.alike = node, tuple(sizes), (), 0, None
        self.pair = None
        self.memory = SharedMemory(node, self.sizes, dtype, device)
        return self

    @property
    def shape(self) -> torch.Size:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The sizes, as PyTorch gives them."""
        return torch.Size(self.sizes)

    @property
    def ndim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Number of axes."""
        return len(self.sizes)

    def size(self, dim: int | None = None) -> Any:
        """All sizes or one."""
        return torch.Size(self.sizes) if dim is None else self.sizes[dim]

    def dim(self) -> int:
        """Number of axes."""
        return len(self.sizes)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Traced({self.node}, {by(self.sizes)})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tracer = ACTIVE.tracer
        if tracer is None:
            raise UnsupportedError(f"{name_of(func)}: a value of the trace was used after the trace")
        return tracer.function(func, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise UnsupportedError(f"{func} was called below the level of PyTorch functions and cannot be followed")


class Follower(Protocol):
    """What follows a forward: `trace.Tracer`."""

    decided: list[str]

    def function(self, func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The answer to a PyTorch function."""

    def call(self, original: Callable[..., Any], module: Any, args: Any, kwargs: Any) -> Any:
        """The answer of a module, called by the forward."""

    def decide(self, called: str) -> Any:
        """Which way is taken where a value decides."""


class _Active(threading.local):
    tracer: Follower | None = None


ACTIVE = _Active()
"""The tracer of this thread, while a forward is followed."""


def name_of(func: Any) -> str:
    """The name of a PyTorch function; of a property its own rather than `__get__`."""
    name = getattr(func, "__name__", None) or str(func)
    if name in ("__get__", "__set__"):
        name = getattr(getattr(func, "__self__", None), "__name__", name)
    return name


def plain(name: str) -> tuple[str, bool]:
    """The name of a handler for a function's name, and whether the function works in place.

    >>> plain("__radd__"), plain("relu_"), plain("_max_pool2d")
    (('radd', False), ('relu', True), ('max_pool2d', False))
    """
    if name.startswith("__") and name.endswith("__"):
        base = name[2:-2]
        place = base in ("iadd", "isub", "imul", "itruediv", "idiv", "ipow", "ifloordiv", "imatmul")
        return (base[1:] if place else base), place or base == "setitem"
    place = name.endswith("_")
    base = name.rstrip("_")
    return (base.lstrip("_") if base.lstrip("_") in HANDLERS else base), place
