"""A slimmed module as a state dict: written, and read into a fresh module of its owner's class."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from dojang.base.errors import FileError, UsageError
from dojang.formats.torch.write.narrow import resize
from dojang.formats.torch.write.parametrised import unwrapped

ABOUT = "dojang"
"""Where in a state dict's metadata stands what its arrays do not say."""

FORMAT = "dojang.slim-state/1"


def save_slim(module: nn.Module, path: str | Path, about: Mapping[str, Any] | None = None) -> None:
    """Writes the state dict of a module, whole or not at all. `torch.load` reads it as any other.

    Its metadata say how many groups convolutions and group norms have, which layers became `nn.Identity`, and `about`.
    """
    inner = unwrapped(module)
    state = inner.state_dict()
    groups = {p: m.groups for p, m in inner.named_modules() if isinstance(m, nn.modules.conv._ConvNd) and m.groups > 1}
    groups |= {p: m.num_groups for p, m in inner.named_modules() if isinstance(m, nn.GroupNorm)}
    gone = [p for p, m in inner.named_modules() if type(m) is nn.Identity]
    told = {"format": FORMAT, "class": type(inner).__name__, "groups": groups, "identity": gone, **(about or {})}
    cast(Any, state)._metadata[ABOUT] = told
    write_state(state, path)


def write_state(what: Any, path: str | Path) -> None:
    """A module's state dict, or one that is at hand, written whole or not at all."""
    state = what.state_dict() if isinstance(what, nn.Module) else what
    target = Path(path)
    if target.parent and not target.parent.is_dir():
        raise FileError(f"{target}: there is no folder {target.parent}")
    part = target.with_name(f".{target.name}.part")
    try:
        torch.save(state, part)
        os.replace(part, target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise FileError(f"{target}: cannot be written ({error.strerror or error})") from None


def read_state(path: str | Path) -> Any:
    """A state dict from a file, without running code in it. Raises `FileError`."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:
        lines = str(error).strip().splitlines()
        raise FileError(f"{path}: is no state dict ({lines[0] if lines else type(error).__name__:.120})") from None


def load_slim(path: str | Path, module: nn.Module) -> nn.Module:
    """The owner's module with the narrower layers of a file that slimming wrote, in `eval` mode.

    `module`: a module of the class as it was before slimming, which becomes narrower.
    Raises `FileError` for another file, `UsageError` for a module of another class
    or other layers.

    Slimmed yesterday, used today: `model = load_slim("slim.pt", MyNet())`.
    """
    state = read_state(path)
    about = getattr(state, "_metadata", {}).get(ABOUT) if isinstance(state, Mapping) else None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise FileError(f"{path}: was not written by a slimming; load it with torch.load and load_state_dict")
    own = unwrapped(module)
    if about.get("plain"):
        raise UsageError(f"{path}: holds a plain module, not a {about['plain']}; use the ONNX file beside it instead")
    if type(own).__name__ != about["class"]:
        raise UsageError(f"{path}: holds a {about['class']}, the module given is a {type(own).__name__}")
    for name in about["identity"]:
        if not isinstance(own.get_submodule(name), nn.Identity):
            own.set_submodule(name, nn.Identity())
    fit(own, state, about["groups"], str(path))
    own.load_state_dict(state)
    return module.eval()


def fit(module: nn.Module, state: Mapping[str, torch.Tensor], groups: Mapping[str, int], path: str) -> None:
    """Gives the layers of a module the shapes of a state dict. Raises `UsageError` where names differ."""
    known = set(module.state_dict())
    missing = sorted(known - set(state)) + sorted(n for n in set(state) - known if not n.endswith("bias"))
    if missing:
        raise UsageError(f"{path}: its layers are not those of the module: {', '.join(missing[:4])} on one side only")
    made: dict[int, nn.Parameter] = {}
    for name, layer in module.named_modules(remove_duplicate=False):
        if (
            not name
            and not list(layer.named_parameters(recurse=False))
            and not list(layer.named_buffers(recurse=False))
        ):
            continue
        for role, old in [*layer._parameters.items(), *layer._buffers.items()]:
            full = f"{name}.{role}" if name else role
            if full not in state:
                continue
            new = state[full]
            if old is None:
                setattr(layer, role, nn.Parameter(new.clone()))
            elif old.shape != new.shape:
                value = new.to(old.device, old.dtype)
                if isinstance(old, nn.Parameter):
                    made.setdefault(id(old), nn.Parameter(value.clone(), old.requires_grad))
                    setattr(layer, role, made[id(old)])
                else:
                    setattr(layer, role, value.clone())
        resize(layer, groups.get(name))


def read_weights(module: nn.Module, path: str | Path) -> nn.Module:
    """The module with the arrays of a file, which must have all of them. Raises `FileError` and `UsageError`."""
    if Path(path).suffix == ".safetensors":
        from dojang.formats import checkpoint

        arrays = checkpoint.load(path).weights
        state: Any = {name: torch.as_tensor(np.array(arrays[name])) for name in arrays}
        buffers = {name for name in module.state_dict() if name.endswith("num_batches_tracked")}
        state |= {name: module.state_dict()[name] for name in buffers - set(state)}
    else:
        state = read_state(path)
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    try:
        unwrapped(module).load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        lines = str(error).strip().splitlines()
        raise UsageError(
            f"{path}: does not fit the module: {' '.join(part.strip() for part in lines[:2]):.200}"
        ) from None
    return module
