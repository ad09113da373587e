"""A PyTorch module made narrower in place of its layers: the same class, with the arrays of an edited network."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from dojang.arith.graph import Graph
from dojang.formats.torch.tensors import tensors_in
from dojang.formats.torch.write.module import to_module

Batchnorm = nn.modules.batchnorm._BatchNorm
Conv = nn.modules.conv._ConvNd

TOLERANCE = 1e-9
"""Largest difference over largest output, in float64, between the narrower module and the edited network."""


def narrowed(module: nn.Module, before: Graph, after: Graph) -> nn.Module | None:
    """A copy of `module` that computes `after`, an edit of `before`, the network read from it; None where none can.

    Layers keep their places and names; only sizes change. A batch norm that was folded becomes `nn.Identity`, and a
    layer that got a bias has one. None where layers were added or replaced by others, or where code of the module fixes
    the old sizes (`x.view(-1, 400)`): the copy is run on random inputs in float64 and has to agree with `after`. The
    copy is on the device, in the mode and of the types of `module`.
    """
    new = copy.deepcopy(module)
    if not _set_arrays(new, before, after):
        return None
    return new if _agrees(new, after) else None


def _set_arrays(new: nn.Module, before: Graph, after: Graph) -> bool:
    """Gives the layers of `new` the arrays of `after`; False where an array has no place."""
    placed: set[str] = set()
    twins = _twins(new)
    made: dict[int, nn.Parameter] = {}
    for path, layer in list(new.named_modules(remove_duplicate=False)):
        names = {role: _known(f"{path}.{role}" if path else role, twins, before) for role in _arrays(layer)}
        gone = [role for role, name in names.items() if name in before.weights and name not in after.weights]
        if gone:
            if not isinstance(layer, Batchnorm) or not path:
                return False
            new.set_submodule(path, nn.Identity())
            continue
        for role, name in names.items():
            if name in after.weights:
                _put(layer, role, np.asarray(after.weights[name]), made)
                placed.add(name)
        bias = f"{path}.bias"
        if isinstance(layer, (Conv, nn.Linear)) and layer.bias is None and bias in after.weights:
            like = layer.weight
            value = torch.as_tensor(np.array(after.weights[bias]), dtype=like.dtype, device=like.device)
            layer.bias = nn.Parameter(value)
            placed.add(bias)
        _resize(layer, path, after)
    return placed == set(after.weights)


def _arrays(layer: nn.Module) -> tuple[str, ...]:
    own = (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False))
    return tuple(name for name, _ in own)


def _twins(module: nn.Module) -> Mapping[str, tuple[str, ...]]:
    """For each array the names of all places that hold the same one."""
    names: dict[int, list[str]] = {}
    for path, layer in module.named_modules(remove_duplicate=False):
        for role in _arrays(layer):
            names.setdefault(id(getattr(layer, role)), []).append(f"{path}.{role}" if path else role)
    return {name: tuple(same) for same in names.values() for name in same}


def _known(name: str, twins: Mapping[str, tuple[str, ...]], before: Graph) -> str:
    """The name by which the network knows an array that several layers of the module share."""
    return next((twin for twin in twins.get(name, (name,)) if twin in before.weights), name)


def _put(layer: nn.Module, role: str, value: np.ndarray, made: dict[int, nn.Parameter]) -> None:
    """One array in the place of the old one, of its type, on its device; shared ones stay shared."""
    old = cast(Tensor, getattr(layer, role))
    tensor = torch.as_tensor(np.array(value), dtype=old.dtype, device=old.device)
    if isinstance(old, nn.Parameter):
        if id(old) not in made:
            made[id(old)] = nn.Parameter(tensor, old.requires_grad)
            made[id(made[id(old)])] = made[id(old)]  # a layer that is used in two places is met twice
        setattr(layer, role, made[id(old)])
    else:
        setattr(layer, role, tensor)


def _resize(layer: Any, path: str, after: Graph) -> None:
    """What a layer says of its sizes, by its arrays."""
    if isinstance(layer, Conv):
        if path in after.by_name and "groups" in after[path].attrs:
            layer.groups = after[path].attrs["groups"]
        many, few = layer.weight.shape[:2]
        swapped = layer.transposed
        layer.in_channels, layer.out_channels = (many, few * layer.groups) if swapped else (few * layer.groups, many)
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, Batchnorm) and layer.running_mean is not None:
        layer.num_features = len(layer.running_mean)
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = layer.weight.numel()


@torch.no_grad()
def _agrees(new: nn.Module, after: Graph) -> bool:
    """Whether the module computes the network, on random inputs in float64."""
    doubled = copy.deepcopy(new).to("cpu", torch.float64).eval()
    rng = np.random.default_rng(0)
    x = [torch.from_numpy(rng.standard_normal((2, *node.attrs["shape"]))) for node in after.inputs]
    wanted = to_module(after).to(torch.float64).eval()(*x)
    try:
        found = doubled(*x)
    except Exception:  # code of the user: whatever it raises on the new sizes, it does not compute the network
        return False
    ours, theirs = tensors_in(found), tensors_in(wanted)
    if len(ours) != len(theirs):
        return False
    for a, b in zip(ours, theirs, strict=True):
        if a.shape != b.shape or float((a - b).abs().max()) > TOLERANCE * max(float(b.abs().max()), 1e-30):
            return False
    return True
