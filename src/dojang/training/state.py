"""The state of a run on disk: one safetensors file with every tensor, its metadata the position as JSON.

One file, written whole and then renamed, so that a kill at any moment leaves either the old state or the new one.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dojang.base.errors import FileError
from dojang.base.writing import replace_bytes

STATE_FILE = "training.safetensors"
_FORMAT = "dojang.training/1"


@dataclass
class Position:
    """Where a run stands: `step` batches into `epoch`, what this epoch has summed up so far, and the curve before it.

    `loss` and `correct` are sums over the samples of this epoch, in the units of `loop.Epoch`. `before`: the figures
    before the first step. `best`: epoch, accuracy and loss on the selection part of the best state so far (epoch 0 is
    the one before the first step). `fine_tuning`: as it was decided at the beginning. `stopped`: no epoch follows.
    """

    epoch: int = 0
    step: int = 0
    samples: int = 0
    loss: float = 0.0
    correct: float = 0.0
    seconds: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)
    before: dict[str, Any] | None = None
    best: dict[str, Any] | None = None
    fine_tuning: bool = False
    stopped: bool = False


@dataclass(frozen=True)
class State:
    """A run at one moment: tensors (copies, on the CPU) and position. `fingerprint` says which run it belongs to."""

    tensors: dict[str, Tensor]
    position: Position
    fingerprint: dict[str, Any]


_OLD_NAME = {"momentum_buffer": "momentum"}
"""Under which prefix an optimiser's tensor is kept, where it is not its own name."""


def capture(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    position: Position,
    fingerprint: dict[str, Any],
    best: dict[str, Tensor] | None = None,
) -> State:
    """A copy of everything that decides how the run goes on; `best` has the tensors of the best state so far."""
    tensors = {f"model.{name}": tensor for name, tensor in copies(module).items()}
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if value is not None:
                tensors[f"{_OLD_NAME.get(key, key)}.{name}"] = _copy(torch.as_tensor(value))
    tensors |= {f"best.{name}": tensor for name, tensor in (best or {}).items()}
    return State(tensors, Position(**{**vars(position), "curve": list(position.curve)}), fingerprint)


def copies(module: nn.Module) -> dict[str, Tensor]:
    """Copies of a module's tensors on the CPU."""
    return {name: _copy(tensor) for name, tensor in module.state_dict().items()}


def tensors_of(state: State, prefix: str) -> dict[str, Tensor]:
    """The tensors of one part of a state ("model", "best"), by their names in the module."""
    return {n.removeprefix(f"{prefix}."): t for n, t in state.tensors.items() if n.startswith(f"{prefix}.")}


def restore(state: State, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put the tensors of `state` back. Raises FileError when they are not those of this network."""
    load(tensors_of(state, "model"), module)
    kept = {"momentum": "momentum_buffer", "exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq", "step": "step"}
    for name, parameter in module.named_parameters():
        optimizer.state.pop(parameter, None)
        for prefix, key in kept.items():
            found = state.tensors.get(f"{prefix}.{name}")
            if found is None:
                continue
            if key == "step":
                optimizer.state[parameter][key] = found.clone()
            else:
                copy = torch.empty_like(parameter, memory_format=torch.preserve_format, requires_grad=False)
                optimizer.state[parameter][key] = copy.copy_(found)


def load(tensors: dict[str, Tensor], module: nn.Module) -> None:
    """Put the tensors into the module, in place. Raises FileError when they are not those of this network."""
    own = module.state_dict()
    if own.keys() != tensors.keys() or any(own[n].shape != tensors[n].shape for n in own):
        odd = sorted(own.keys() ^ tensors.keys()) or [n for n in own if own[n].shape != tensors[n].shape]
        raise FileError(f"{STATE_FILE}: belongs to another network ({odd[0]} differs); name another directory")
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def finite(state: State) -> bool:
    """Whether every floating-point tensor of the state is free of NaN and infinity."""
    return all(bool(t.isfinite().all()) for t in state.tensors.values() if t.is_floating_point())


def write(state: State, directory: Path) -> None:
    """Write the state into `directory`, replacing the one before. Raises FileError, the old one then stands."""
    about = {"format": _FORMAT, "position": vars(state.position), "fingerprint": state.fingerprint}
    blob = save(state.tensors, {"dojang": json.dumps(about)})
    try:
        directory.mkdir(parents=True, exist_ok=True)
        replace_bytes(directory / STATE_FILE, blob)
    except (OSError, FileError) as error:
        kept = "; the one before it is kept" if (directory / STATE_FILE).exists() else ""
        reason = str(error) if isinstance(error, FileError) else f"{directory}: not written: {error.strerror}"
        raise FileError(f"{reason} ({len(blob)} bytes of training state{kept}); make room and resume") from None


def read(directory: Path) -> State | None:
    """The state in `directory`, None when there is none. Raises FileError when it is damaged."""
    path = directory / STATE_FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["dojang"])
            tensors = {name: file.get_tensor(name) for name in file.offset_keys()}
        if about["format"] != _FORMAT:
            raise FileError(f"{path}: written as {about['format']}, this version reads {_FORMAT}; start anew")
        return State(tensors, Position(**about["position"]), about["fingerprint"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise FileError(f"{path}: no state of a training run, or a damaged one ({error}); remove it") from None
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or error})") from None


def sweep(directory: Path) -> None:
    """Remove what a killed write has left beside the state."""
    for left in directory.glob(f".{Path(STATE_FILE).stem}-*.safetensors"):
        with contextlib.suppress(OSError):
            left.unlink()


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()
