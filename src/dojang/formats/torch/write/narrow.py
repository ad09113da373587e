"""A PyTorch module made narrower in place of its layers: the same class, with the arrays of an edited network."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from dojang.arith.graph import Graph
from dojang.formats.torch.tensors import tensors_in
from dojang.formats.torch.write.module import to_module
from dojang.formats.torch.write.parametrised import parametrised, set_parametrised, unwrapped, wrapped_like

Batchnorm = nn.modules.batchnorm._BatchNorm
Conv = nn.modules.conv._ConvNd

TOLERANCE = 1e-9
"""Largest difference over largest output, in float64, between the narrower module and the edited network."""

SINGLE = 1e-3
"""The same where the module's code runs in float32 only."""

COMPUTED = 1e-5
"""The same where weights are computed from others (weight norm), which are kept in float32."""


def narrowed(module: nn.Module, before: Graph, after: Graph) -> tuple[nn.Module, str] | tuple[None, str]:
    """A copy of `module` that computes `after`, an edit of `before`, the network read from it; None, and why, where
    none can.

    Layers keep their places and names; only sizes change. A batch norm that was folded becomes `nn.Identity`, and a
    layer that got a bias has one. None where layers were added or replaced by others, or where code of the module fixes
    the old sizes (`x.view(-1, 400)`): the copy is run on random inputs, in float64 where the code of the module runs in
    it, and has to agree with `after`. The copy is on the device, in the mode and of the types of `module`.
    """
    new = with_arrays(module, before, after)
    if new is None:
        return None, "an edit put other layers in place of one of its layers"
    why = _apart(new, module, before, after)
    return (None, why) if why else (new, "")


def with_arrays(module: nn.Module, before: Graph, after: Graph) -> nn.Module | None:
    """A copy of `module` with the arrays of `after` in its layers, not run; None where an array has no place.

    Weight and spectral norms are kept: what they are computed from is set so that the weight is that of `after`.
    Compiled and data-parallel modules are copied within, and wrapped again as they were.
    """
    new = copy.deepcopy(unwrapped(module))
    return wrapped_like(module, new) if _set_arrays(new, before, after) else None


def without_parts(module: nn.Module, paths: Sequence[str]) -> nn.Module:
    """A copy of a module in which the parts at these places are the identity; wrapped as it was."""
    new = copy.deepcopy(unwrapped(module))
    for path in paths:
        new.set_submodule(path, nn.Identity())
    return wrapped_like(module, new)


def same_answers(new: nn.Module, reference: nn.Module, args: Sequence[Any], named: Mapping[str, Any]) -> str | None:
    """Why a module does not compute what another one does for one batch, or None where it does.

    In `eval` mode they have to agree, in float64 where their code runs in it, else in float32. In `train` mode the new
    one has to run where the other does.
    """
    first = unwrapped(new)
    for kind, tolerance in ((torch.float64, _tolerance(first)), (torch.float32, SINGLE)):
        found, wanted = (_answer(m, kind, args, named) for m in (first, unwrapped(reference)))
        if isinstance(wanted, Exception):
            continue
        if isinstance(found, Exception):
            return f"its code fails with the new sizes ({_line(found)})"
        if not _alike(found, wanted, tolerance):
            return "its code computes something else with the new sizes"
        break
    with torch.random.fork_rng(devices=[]):
        if isinstance(_answer(unwrapped(reference), torch.float32, args, named, training=True), Exception):
            return None
        failed = _answer(first, torch.float32, args, named, training=True)
    return f"its code fails in training mode ({_line(failed)})" if isinstance(failed, Exception) else None


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]:.120}" if lines else type(error).__name__


@torch.no_grad()
def _answer(
    module: nn.Module, kind: torch.dtype, args: Sequence[Any], named: Mapping[str, Any], training: bool = False
) -> list[Tensor] | Exception:
    """All outputs, or what was raised: it is code of the user, which may raise anything."""

    def cast_to(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.cpu().to(kind) if value.is_floating_point() else value.cpu()
        if isinstance(value, Mapping):
            return {k: cast_to(v) for k, v in value.items()}
        return type(value)(cast_to(v) for v in value) if type(value) in (list, tuple) else value

    try:
        own = copy.deepcopy(module).to("cpu", kind).train(training)
        return tensors_in(own(*(cast_to(a) for a in args), **{k: cast_to(v) for k, v in named.items()}))
    except Exception as error:
        return error


def _set_arrays(new: nn.Module, before: Graph, after: Graph) -> bool:
    """Gives the layers of `new` the arrays of `after`; False where an array has no place."""
    placed: set[str] = set()
    twins = _twins(new)
    made: dict[int, nn.Parameter] = {}
    for path, layer in list(new.named_modules(remove_duplicate=False)):
        for role in parametrised(layer):
            name = f"{path}.{role}" if path else role
            if name in before.weights and name not in after.weights:
                return False
            if name in after.weights:
                set_parametrised(layer, role, np.asarray(after.weights[name]))
                placed.add(name)
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
        groups = after[path].attrs.get("groups") if path in after.by_name else None
        resize(layer, groups)
    return placed | _computed(before, after) >= set(after.weights)


def _computed(before: Graph, after: Graph) -> set[str]:
    """Constants that the module's code makes anew at each call, in the shape that they had."""
    names = {node.array("value") for node in after.nodes if node.op == "constant"}
    return {n for n in names if n in after.weights and n in before.weights
            and np.shape(after.weights[n]) == np.shape(before.weights[n])}  # fmt: skip


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


def resize(layer: Any, groups: int | None = None) -> None:
    """What a layer says of its sizes, by its arrays, and its number of groups where it is given."""
    if isinstance(layer, Conv):
        layer.groups = groups or layer.groups
        many, few = layer.weight.shape[:2]
        swapped = layer.transposed
        layer.in_channels, layer.out_channels = (many, few * layer.groups) if swapped else (few * layer.groups, many)
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, Batchnorm | nn.modules.instancenorm._InstanceNorm):  # pyright: ignore[reportPrivateUsage]
        arrays = [a for a in (layer.running_mean, layer.weight) if a is not None]
        layer.num_features = len(arrays[0]) if arrays else layer.num_features
    elif isinstance(layer, nn.GroupNorm):
        each = layer.num_channels // layer.num_groups  # groups go whole, so their size stays
        layer.num_groups = len(layer.weight) // each if layer.affine else groups or layer.num_groups
        layer.num_channels = each * layer.num_groups
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = layer.weight.numel()


@torch.no_grad()
def _apart(new: nn.Module, module: nn.Module, before: Graph, after: Graph) -> str:
    """Why a copy of a module does not compute the network, on random inputs; empty where it does."""
    rng = np.random.default_rng(0)
    old, x = ([torch.from_numpy(rng.standard_normal((2, *node.attrs["shape"]))) for node in graph.inputs]
              for graph in (before, after))  # fmt: skip
    runs = not isinstance(_answer(unwrapped(module), torch.float64, old, {}), Exception)
    kind, tolerance = (torch.float64, _tolerance(new)) if runs else (torch.float32, SINGLE)
    wanted = to_module(after).to(torch.float64).eval()(*x)
    found = _answer(unwrapped(new), kind, [t.to(kind) for t in x], {})
    if isinstance(found, Exception):
        return f"its code fails with the new sizes ({_line(found)})"
    alike = _alike([t.double() if t.is_floating_point() else t for t in found], tensors_in(wanted), tolerance)
    return "" if alike else "its code computes something else with the new sizes"


def _tolerance(module: nn.Module) -> float:
    return COMPUTED if any(parametrised(layer) for layer in module.modules()) else TOLERANCE


def _alike(ours: Sequence[Tensor], theirs: Sequence[Tensor], tolerance: float) -> bool:
    if len(ours) != len(theirs):
        return False
    for a, b in zip(ours, theirs, strict=True):
        if a.shape != b.shape:
            return False
        if not a.is_floating_point():
            continue  # places of extremes and the like: what they are made from is compared
        if a.numel() and float((a - b).abs().max()) > tolerance * max(float(b.abs().max()), 1e-30):
            return False
    return True
