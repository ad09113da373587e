"""How much memory PyTorch keeps for the backward pass: the oracle of `dojang.arith.memory.saved_bytes`."""

from __future__ import annotations

import torch


def kept_by_torch(module: torch.nn.Module, x: torch.Tensor) -> int:
    """Bytes of the distinct storages that autograd keeps of one forward pass, without parameters and buffers."""
    own = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    sizes: dict[int, int] = {}
    alive = []  # a freed storage's address could come again

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        module(x)
    return sum(sizes.values())
