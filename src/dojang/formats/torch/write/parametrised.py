"""What stands around a module or within its layers and has to survive an edit: wrappers, weight and spectral norms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

OLD_SUFFIXES = ("_g", "_v", "_orig", "_u")
"""Arrays that `nn.utils.weight_norm` (g, v) and `nn.utils.spectral_norm` (orig, u) keep beside a computed one."""


def unwrapped(module: nn.Module) -> nn.Module:
    """The module within `torch.compile`, `DataParallel` and `DistributedDataParallel`."""
    while (inner := _inner(module)) is not None:
        module = inner
    return module


def _inner(module: nn.Module) -> nn.Module | None:
    if hasattr(module, "_orig_mod"):
        return cast(nn.Module, module._orig_mod)
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return module.module
    return None


def wrapped_like(module: nn.Module, new: nn.Module) -> nn.Module:
    """The new module within whatever stands around another one; a distributed one is left to its owner to wrap."""
    inner = _inner(module)
    if inner is None:
        return new
    new = wrapped_like(inner, new)
    if isinstance(module, nn.parallel.DistributedDataParallel):
        return new
    if isinstance(module, nn.DataParallel):
        return nn.DataParallel(new, module.device_ids, module.output_device, module.dim)
    context = getattr(module, "dynamo_ctx", None)
    made = type(module)(new, context) if context is not None else torch.compile(new)
    return cast(nn.Module, made).train(module.training)


def parametrised(layer: nn.Module) -> tuple[str, ...]:
    """Names of a layer's arrays that are computed from others: parametrisations, and the older norms by hooks."""
    found = list(cast(nn.ModuleDict, layer.parametrizations)) if parametrize.is_parametrized(layer) else []
    own = {**dict(layer.named_parameters(recurse=False)), **dict(layer.named_buffers(recurse=False))}
    for hook in layer._forward_pre_hooks.values():
        name = getattr(hook, "name", None)
        if isinstance(name, str) and any(f"{name}{suffix}" in own for suffix in OLD_SUFFIXES):
            found.append(name)
    return tuple(dict.fromkeys(found))


@torch.no_grad()
def set_parametrised(layer: Any, role: str, value: np.ndarray) -> None:
    """Sets what an array is computed from, so that it comes out as `value` in `eval` mode.

    A spectral norm divides by an estimate of the largest singular value; its vectors are set so that the estimate is
    what it was. In training mode they are estimated anew, as they are after each step.
    Raises `ValueError` for a parametrisation that cannot be set.
    """
    if parametrize.is_parametrized(layer, role):
        _set_new(layer, role, value)
    else:
        _set_old(layer, role, value)


def _set_new(layer: Any, role: str, value: np.ndarray) -> None:
    held = layer.parametrizations[role]
    like = next(held.parameters())
    wanted = torch.as_tensor(np.array(value), dtype=like.dtype, device=like.device)
    for step in reversed(list(held)):
        if all(hasattr(step, name) for name in ("_u", "_v", "dim")):
            matrix = _matrix(wanted, step.dim)
            step._u, step._v = _vectors(matrix, step._u)
        elif hasattr(step, "right_inverse"):
            wanted = step.right_inverse(wanted)
        else:
            raise ValueError(f"{type(step).__name__} cannot be set to other weights")
    parts = wanted if isinstance(wanted, (tuple, list)) else (wanted,)
    names = [name for name, _ in held.named_parameters(recurse=False)]
    for name, part in zip(names, parts, strict=True):
        old = getattr(held, name)
        setattr(held, name, nn.Parameter(part.detach().clone(), old.requires_grad))


def _set_old(layer: Any, role: str, value: np.ndarray) -> None:
    hook = next(h for h in layer._forward_pre_hooks.values() if getattr(h, "name", None) == role)
    like = next(p for n, p in layer.named_parameters(recurse=False) if n.startswith(role))
    wanted = torch.as_tensor(np.array(value), dtype=like.dtype, device=like.device)

    def put(suffix: str, part: Tensor) -> None:
        old = getattr(layer, role + suffix)
        made = nn.Parameter(part.detach().clone(), old.requires_grad) if isinstance(old, nn.Parameter) else part
        setattr(layer, role + suffix, made)

    if hasattr(layer, f"{role}_g"):
        put("_g", torch.norm_except_dim(wanted, 2, hook.dim))
        put("_v", wanted)
    else:
        u, v = _vectors(_matrix(wanted, hook.dim), getattr(layer, f"{role}_u"))
        put("_orig", wanted)
        put("_u", u)
        put("_v", v)
    setattr(layer, role, wanted)


def _matrix(weight: Tensor, dim: int) -> Tensor:
    return weight.transpose(0, dim).flatten(1) if weight.ndim > 1 else weight[:, None]


def _vectors(matrix: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """u and v with uᵀ W v = 1, along the leading singular vectors, so that dividing by it leaves W as it is."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    root = float(s[0].clamp_min(1e-30)) ** 0.5
    return (u[:, 0] / root).to(like), (v[0] / root).to(like)


@torch.no_grad()
def arrays(module: nn.Module) -> dict[str, np.ndarray]:
    """Every parameter and buffer by name, float32 where it is a float, and the arrays that are computed from others."""
    inner = unwrapped(module)
    found = {name: _array(value) for name, value in inner.state_dict().items()}
    for path, layer in inner.named_modules():
        for role in parametrised(layer):
            found[f"{path}.{role}" if path else role] = _array(_computed(layer, role))
    return found


def _computed(layer: Any, role: str) -> Tensor:
    if not parametrize.is_parametrized(layer, role):
        for hook in layer._forward_pre_hooks.values():
            if getattr(hook, "name", None) == role and not hasattr(hook, "n_power_iterations"):
                return cast(Tensor, hook.compute_weight(layer))
            if getattr(hook, "name", None) == role:
                return cast(Tensor, hook.compute_weight(layer, do_power_iteration=False))
    return cast(Tensor, getattr(layer, role))


def _array(value: Tensor) -> np.ndarray:
    value = value.detach().cpu()
    return (value.float() if value.is_floating_point() else value).numpy().copy()


@torch.no_grad()
def put_arrays(module: nn.Module, new: Mapping[str, np.ndarray]) -> None:
    """Sets arrays of a module by name, of the shapes that they have."""
    state = unwrapped(module).state_dict()
    for name, value in new.items():
        state[name].copy_(torch.as_tensor(np.array(value)))
