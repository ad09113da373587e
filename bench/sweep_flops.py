"""What FlopCounterMode counts, and the three rules that lead from it to dojang's count.

`added`: products that PyTorch's table of formulas leaves out (matrix times vector, deformable convolution,
LSTM, affine grids).
`constant`: products of what depends on parameters only, which dojang computes once. `unneeded`: products that no output
depends on. Dependence is followed by memory: an operation reads and writes the storages of its tensors.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class Products(TorchDispatchMode):
    """Follows one forward. Call `end` with what it gives."""

    def __init__(self, inputs: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.held: list[torch.Tensor] = list(inputs)  # so that no storage is used again
        self.steps: list[tuple[set[int], set[int], int, str]] = []
        self.inputs = {place(x) for x in inputs}
        self.outputs: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation: done, and noted."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        read = [v for v in tree_leaves((args, kwargs)) if isinstance(v, torch.Tensor)]
        made = [v for v in tree_leaves(result) if isinstance(v, torch.Tensor)]
        schema = func._schema
        changed = [
            a
            for a, said in zip(args, schema.arguments, strict=False)
            if said.alias_info is not None and said.alias_info.is_write and isinstance(a, torch.Tensor)
        ]
        packet, name = func._overloadpacket, schema.name.split("::")[1]
        macs, kind = 0, ""
        if packet in flop_registry:
            macs = int(flop_registry[packet](*args, **kwargs, out_val=result)) // 2
        elif name in MORE:
            macs, kind = MORE[name](args, result), name
        self.held += made
        self.steps.append(({place(v) for v in read}, {place(v) for v in (*made, *changed)}, macs, kind))
        return result

    def end(self, result: Any) -> None:
        """The forward has ended, and gave this."""
        from dojang.formats.torch.tensors import tensors_in

        self.outputs = {place(v) for v in tensors_in(result)}

    def counted(self) -> dict[str, Any]:
        """The MACs that FlopCounterMode counts, and what the rules add and take."""
        reached, needed = set(self.inputs), set(self.outputs)
        depends = []
        for read, made, _, _ in self.steps:
            depends.append(bool(read & reached))
            if depends[-1]:
                reached |= made
        added: collections.Counter[str] = collections.Counter()
        plain = constant = unneeded = 0
        for (read, made, macs, kind), live in zip(reversed(self.steps), reversed(depends), strict=True):
            used = bool(made & needed)
            if used:
                needed |= read
            if kind:
                added[kind] += macs
            plain += macs if not kind else 0
            constant += macs if not live else 0
            unneeded += macs if live and not used else 0
        return {"flopcounter": plain, "added": dict(added), "constant": constant, "unneeded": unneeded}


def place(value: torch.Tensor) -> int:
    """Which memory a tensor shows."""
    return value.untyped_storage()._cdata


def _lstm(args: Any, result: Any) -> int:
    x, w1, w2 = args[:3]
    return x.shape[0] * x.shape[1] * (w1.numel() + w2.numel())


MORE = {
    "mv": lambda args, result: args[0].numel(),
    "addmv": lambda args, result: args[1].numel(),
    "dot": lambda args, result: args[0].numel(),
    "vdot": lambda args, result: args[0].numel(),
    "deform_conv2d": lambda args, result: result.numel() * prod(args[1].shape[1:]),
    "mkldnn_rnn_layer": _lstm,
    "affine_grid_generator": lambda args, result: result.numel() * args[0].shape[2],
}
"""Products that FlopCounterMode has no formula for."""
