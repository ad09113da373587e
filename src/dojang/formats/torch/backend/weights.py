"""The weights of a captured graph, and their state: what a form that was compiled with them stands and falls with.

PyTorch counts most writes into a tensor (`_version`), but not those of fused optimisers, of batch norm in training
mode, through `.data`, a NumPy view, or another process that shares the memory. So the state of weights is what their
bytes are, read anew at each call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import fx

from dojang.base.errors import UnsupportedError

State = tuple[Any, bytes]
"""What weights are now: their layout, and a digest of their bytes."""


class MemoryDigest(Protocol):
    """Stretches of memory whose contents can be told apart."""

    def read(self) -> bytes:
        """A digest of the contents as they are now."""
        ...


Watch = Callable[[Sequence[tuple[int, int]]], MemoryDigest]
"""Makes a `MemoryDigest` of stretches of memory, (address, bytes) each."""


class CapturedWeights:
    """The tensors that a captured graph holds on to: arguments that are parameters or buffers, attributes of the graph,
    and what belongs to modules that it calls.
    """

    def __init__(self, module: fx.GraphModule, static: Sequence[bool], watch: Watch, frozen: bool) -> None:
        """`static` says of each argument whether it is a weight. With `frozen` contents are not read."""
        self.places = [k for k, held in enumerate(static) if held]
        self.module, self.watch, self.frozen = module, watch, frozen
        nodes = module.graph.nodes
        self.attributes = sorted({str(n.target) for n in nodes if n.op == "get_attr"})
        self.modules = sorted({str(n.target) for n in nodes if n.op == "call_module"})
        self._last: tuple[Any, Any, MemoryDigest, list[int]] | None = None

    def tensors(self, args: Sequence[Any]) -> list[torch.Tensor]:
        """All of them, in a fixed order."""
        found = [args[k] for k in self.places]
        if self.attributes or self.modules:
            found += [v for v in map(self._attribute, self.attributes) if isinstance(v, torch.Tensor)]
            for path in self.modules:
                called = self.module.get_submodule(path)
                found += [*called.parameters(), *called.buffers()]
        return found

    def _attribute(self, path: str) -> Any:
        value: Any = self.module
        for word in path.split("."):
            value = getattr(value, word)
        return value

    def state(self, args: Sequence[Any]) -> State:
        """What they are now. Raises `UnsupportedError` for tensors without readable memory."""
        held = self.tensors(args)
        # What a tensor says of itself can change while it stays the same object, as by `set_` and by `.data =`.
        layout = [(v.data_ptr(), v.shape, v.stride(), v.dtype) for v in held]
        if self.frozen:
            return tuple(
                (*told, 0 if v.is_inference() else v._version) for told, v in zip(layout, held, strict=True)
            ), b""
        last = self._last
        if last is None or last[0] != layout:
            last = self._last = (layout, tuple(told[1:] for told in layout), *self._watched(held))
        _, form, reader, scattered = last
        digest = reader.read()
        for k in scattered:
            digest += hashlib.blake2b(_bytes(held[k]), digest_size=16).digest()
        return form, digest

    def _watched(self, held: Sequence[torch.Tensor]) -> tuple[MemoryDigest, list[int]]:
        """A reader of what lies in one piece, and which tensors do not."""
        ranges: dict[int, int] = {}
        scattered: list[int] = []
        for k, value in enumerate(held):
            if (
                type(value) not in PLAIN
                or value.layout != torch.strided
                or value.device.type != "cpu"
                or value.is_neg()
            ):
                kind = f"{type(value).__name__}, {value.layout}, {value.device.type}"
                raise UnsupportedError(f"weights are no plain tensors in memory ({kind})")
            size = value.numel() * value.element_size()
            if not size:
                continue
            if is_dense(value):
                ranges[value.data_ptr()] = max(size, ranges.get(value.data_ptr(), 0))  # tied weights are read once
            else:
                scattered.append(k)
        return self.watch(list(ranges.items())), scattered


PLAIN = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
"""Classes whose numbers are those in their memory."""


def is_dense(value: torch.Tensor) -> bool:
    """Whether the elements of a tensor fill one stretch of memory without gaps and without overlap, in any order."""
    expected = 1
    for stride, size in sorted((s, n) for n, s in zip(value.shape, value.stride(), strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def _bytes(value: torch.Tensor) -> bytes:
    """The elements, in order of their indices."""
    return value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
