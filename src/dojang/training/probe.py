"""What is looked at before the first step: whether module and data fit, whether its weights are trained, its text."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dojang.base.errors import ShapeError, UnsupportedError, UsageError
from dojang.training.batches import steps_per_epoch
from dojang.training.config import TrainConfig
from dojang.training.data import Data
from dojang.training.meaning import sizes
from dojang.training.recipe import Teacher
from dojang.training.score import normalised, scores, variance_of
from dojang.training.world import World

TRAINED = 0.5
"""Weights count as trained where their loss is at most this share of the loss of guessing; random ones are near 1."""

LOOKED_AT = 512
"""Samples of the train part that decide it."""


def check(module: nn.Module, data: Data, config: TrainConfig, world: World) -> None:
    """Raise what a module, data and settings that cannot be trained together have to be told."""
    name = type(module).__name__
    for path, parameter in module.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise UnsupportedError(f"{name}: {path} has no shape yet; call the module on one sample before training")
        if parameter.device.type == "meta":
            raise UnsupportedError(f"{name}: {path} has no values (it is on the meta device); load its weights first")
        if parameter.dtype != torch.float32:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise UnsupportedError(f"{name}: {path} is {kind}, training keeps float32; call .float() on the module")
    for path, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise UnsupportedError(f"{name}: its state has {path}, which is no tensor and could not be kept on disk")
    count = len(data.train)
    smallest = count // steps_per_epoch(count, config.batch_size)
    if smallest < world.size:
        raise UsageError(f"batches of {smallest} samples cannot be shared by {world.size} processes; use larger ones")
    if smallest < 2 and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules()):
        raise UsageError("batch norm has no statistics of batches of one sample; use --batch-size 2 or more")
    if not any(p.requires_grad for p in module.parameters()):
        raise UsageError("the network has no parameters to train; leave some unfrozen")


def look(module: nn.Module, teacher: Teacher | None, data: Data, world: World) -> None:
    """One sample through network and teacher, to say in words what would fail in the middle of training."""
    x = normalised(data.train.x[:1], data.train, world.device)
    module.eval()
    for who, call in (("the network", module), ("the teacher", teacher)):
        if call is None:
            continue
        try:
            with torch.set_grad_enabled(call is module):  # the gradient names the last function
                output = torch.as_tensor(call(x))
        except (RuntimeError, ValueError, TypeError) as error:
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise ShapeError(
                f"{data.name}: {who} does not take samples of {sizes(data.sample_shape)} ({line}); use --input-size"
            ) from None
        if output.ndim < 1 or output.shape[0] != 1 or output.numel() != data.outputs:
            what = f"{data.outputs} classes" if data.task == "classification" else f"{data.outputs} targets"
            raise ShapeError(
                f"{data.name}: {who} gives {tuple(output.shape)} for one sample, the data have {what}; "
                f"use --num-classes {data.outputs}"
            )
        if data.task == "classification":
            _before_softmax(output, f"{data.name}: {who}")


def _before_softmax(output: Tensor, who: str) -> None:
    """Raise ShapeError where outputs are shares already: the loss applies softmax itself."""
    one = output.detach().double().flatten()
    last = _last_function(output)
    if last.startswith("SoftmaxBackward") or (bool((one >= 0).all()) and abs(float(one.sum()) - 1) < 1e-5):
        raise ShapeError(f"{who} ends in softmax; the loss applies it, so train without that last step")
    if last.startswith(("SigmoidBackward", "HardsigmoidBackward")):
        raise ShapeError(
            f"{who} ends in sigmoid; the loss takes the scores before it and applies softmax, because each sample has "
            "one class, so train without that last step"
        )


_VIEWS = ("View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Select", "Slice", "Alias", "Clone", "Transpose",
          "Permute", "ReshapeAlias")  # fmt: skip


def _last_function(output: Tensor) -> str:
    """The name of the gradient of the last function that computes; "" where no gradient is kept."""
    node: Any = output.grad_fn
    while node is not None and any(node.name().startswith(f"{v}Backward") for v in _VIEWS):
        node = node.next_functions[0][0] if node.next_functions else None
    return node.name() if node is not None else ""


@torch.no_grad()
def look_in_training(module: nn.Module, start: Callable[[nn.Module], None], data: Data, world: World) -> None:
    """Two samples in training mode, in which a module may give something else; its buffers are put back.

    Raises UnsupportedError for a module that gives several outputs then, as GoogLeNet with its auxiliary classifiers.
    """
    x = normalised(data.train.x[:2], data.train, world.device)
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    start(module)
    try:
        output = module(x)
    except (RuntimeError, ValueError, TypeError) as error:
        if len(x) > 1 and "more than 1 value per channel" not in str(error):
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise UnsupportedError(f"{type(module).__name__}: its forward fails in training mode: {line}") from error
        return
    finally:
        own = dict(module.named_buffers())
        for name, value in before.items():
            if name in own:
                own[name].copy_(value)
        module.eval()
    if not isinstance(output, Tensor):
        raise UnsupportedError(
            f"{type(module).__name__}: in training mode its forward gives a {type(output).__name__}, not a tensor; "
            "auxiliary outputs are not trained: switch them off, or wrap the module in one that gives the scores alone"
        )
    if output.shape[0] != len(x) or output.numel() != len(x) * data.outputs:
        raise UnsupportedError(
            f"{type(module).__name__}: in training mode its forward gives {tuple(output.shape)} for {len(x)} samples, "
            f"the data have {data.outputs} outputs each"
        )


def is_trained(module: nn.Module, data: Data, world: World) -> tuple[bool, float, float]:
    """Whether the weights know the data: (yes or no, their loss on the train part, the loss of guessing).

    Guessing by the shares of the classes has their entropy as its loss, −Σ p ln p; with several classes to a sample it
    is the mean over the classes of that of yes and no; guessing the mean of a target has its variance. At most
    `LOOKED_AT` samples are looked at.
    """
    order = np.random.default_rng(0).permutation(len(data.train))[:LOOKED_AT]
    part = data.train.take(np.sort(order))
    loss = scores(module, part, world).loss
    if data.task == "classification":
        shares = np.bincount(part.y) / len(part)
        guess = _entropy(shares)
    elif data.task == "multilabel":
        guess = float(np.mean([_entropy(np.array([p, 1 - p])) for p in part.y.mean(axis=0)]))
    else:
        variance = variance_of(part, world.device)
        guess = float(variance.mean()) if variance is not None else 1.0
    return bool(np.isfinite(loss)) and loss <= TRAINED * guess, loss, guess


def _entropy(shares: np.ndarray) -> float:
    return float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())


def text_of(module: nn.Module) -> str:
    """A module's text, by which `--resume` knows it again: layers with their settings, and the code of its own classes.

    The code is a digest of its source. Settings are those that a layer prints, and its attributes that are fractions,
    words or switches.
    """
    lines: list[str] = []
    for path, part in module.named_modules():
        shown = repr(part).splitlines()[0] if not list(part.children()) else type(part).__name__
        own = {
            k: v for k, v in sorted(vars(part).items())
            if not k.startswith("_") and k != "training" and isinstance(v, (float, str, bool))
        }  # fmt: skip
        library = type(part).__module__.startswith(("torch.", "dojang."))
        more = "".join(f" {k}={v}" for k, v in own.items()) if not library else ""
        lines.append(f"{path or 'the network'}: {shown}{more}{'' if library else f' code {_digest(type(part))}'}")
    return "\n".join(lines)


def _digest(kind: type) -> str:
    with contextlib.suppress(OSError, TypeError):
        return hashlib.sha256(inspect.getsource(kind).encode()).hexdigest()[:12]
    code = getattr(getattr(kind, "forward", None), "__code__", None)
    said = b"" if code is None else code.co_code + repr((code.co_names, _plain(code.co_consts))).encode()
    return hashlib.sha256(said).hexdigest()[:12]


def _plain(constants: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(c for c in constants if isinstance(c, (int, float, str, bytes, bool, tuple, type(None))))


def differing(old: str, new: str) -> str:
    """Where two texts differ first, in words."""
    for mine, theirs in _pairs(new, old):
        if mine != theirs:
            return f"there {theirs.strip() or 'nothing more'!r}, here {mine.strip() or 'nothing more'!r}"
    return "they are the same"


def _pairs(new: str, old: str) -> Iterator[tuple[str, str]]:
    mine, theirs = new.splitlines(), old.splitlines()
    for i in range(max(len(mine), len(theirs))):
        yield (mine[i] if i < len(mine) else ""), (theirs[i] if i < len(theirs) else "")
