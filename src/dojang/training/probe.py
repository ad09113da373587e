"""What is looked at before the first step: whether module and data fit, and whether its weights are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dojang.base.errors import ShapeError, UnsupportedError, UsageError
from dojang.base.wording import counted
from dojang.training.asked import Task
from dojang.training.batches import steps_per_epoch
from dojang.training.config import TrainConfig
from dojang.training.data import Data
from dojang.training.guessing import TRAINED, guessing_loss
from dojang.training.meaning import sizes
from dojang.training.recipe import Teacher
from dojang.training.score import normalised, scores
from dojang.training.world import World

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
    how, size = data.augment if config.augment is None else config.augment, data.sample_shape[1:]
    if len(size) == 2 and how.crop > min(size):
        raise UsageError(
            f"crop {how.crop} shifts pictures of {size[0]}×{size[1]} out of sight; give {min(size)} or less"
        )
    weights = config.class_weights
    if weights is not None and (len(weights) != data.outputs or not max(weights) > 0 or not min(weights) >= 0):
        raise UsageError(
            f"class_weights {weights}: give one number for each of {data.outputs} classes, 0 or more, and one above 0"
        )
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
            with torch.set_grad_enabled(isinstance(call, nn.Module)):  # the gradient names the last function
                given = call(x)
        except (RuntimeError, ValueError, TypeError) as error:
            raise ShapeError(
                f"{data.name}: {who} does not take samples of {sizes(data.sample_shape)} ({_line(error)}); use "
                "--input-size"
            ) from None
        except Exception as error:
            raise UnsupportedError(f"{data.name}: the forward of {who} fails: {_line(error, True)}") from error
        output = _one_tensor(given, f"{data.name}: {who}")
        if output.ndim < 1 or output.shape[0] != 1 or output.numel() != data.outputs:
            what = f"{data.outputs} classes" if data.task == "classification" else counted(data.outputs, "target")
            raise ShapeError(
                f"{data.name}: {who} gives {tuple(output.shape)} for one sample, the data have {what}; "
                f"use a network with {data.outputs} outputs (zoo names and .net texts take --num-classes)"
            )
        if data.task != "regression":
            _scores(output, data.task, f"{data.name}: {who}")


def _line(error: Exception, kind: bool = False) -> str:
    """The first line of an error, after its kind where that has to be said."""
    lines = str(error).splitlines()
    name = type(error).__name__
    return (f"{name}: {lines[0]}" if kind else lines[0]) if lines else name


def _one_tensor(given: Any, who: str) -> Tensor:
    """What a forward gives, which is to be one array of numbers."""
    if isinstance(given, Tensor):
        return given
    what = f"{who} gives a {type(given).__name__}, not a tensor"
    if isinstance(given, (Mapping, tuple, list)):
        raise ShapeError(f"{what}; wrap it in a module that gives the scores alone")
    try:
        return torch.as_tensor(given)
    except (RuntimeError, ValueError, TypeError):
        raise ShapeError(f"{what}; give the scores as one") from None


def _scores(output: Tensor, task: Task, who: str) -> None:
    """Raise ShapeError where outputs are probabilities already: the loss makes them of scores itself."""
    last = _last_function(output)
    sigmoid = last.startswith(("SigmoidBackward", "HardsigmoidBackward"))
    if task == "multilabel":
        if sigmoid:
            raise ShapeError(f"{who} ends in sigmoid; the loss applies it, so train without that last step")
        return
    one = output.detach().double().flatten()
    if last.startswith("SoftmaxBackward") or (bool((one >= 0).all()) and abs(float(one.sum()) - 1) < 1e-5):
        raise ShapeError(f"{who} ends in softmax; the loss applies it, so train without that last step")
    if sigmoid:
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


def look_in_training(module: nn.Module, start: Callable[[nn.Module], None], data: Data, world: World) -> None:
    """Two samples in training mode, in which a module may give something else; its parameters and buffers are put back.

    Raises UnsupportedError for a module that gives several outputs then, as GoogLeNet with its auxiliary classifiers.
    """
    x = normalised(data.train.x[:2], data.train, world.device)
    before = {name: value.detach().clone() for name, value in _values(module)}
    start(module)
    try:
        with torch.enable_grad():
            output = module(x)
    except (RuntimeError, ValueError, TypeError) as error:
        if len(x) > 1 and "more than 1 value per channel" not in str(error):
            raise UnsupportedError(
                f"{type(module).__name__}: its forward fails in training mode: {_line(error)}"
            ) from error
        return
    except Exception as error:
        raise UnsupportedError(
            f"{type(module).__name__}: its forward fails in training mode: {_line(error, True)}"
        ) from error
    finally:
        with torch.no_grad():
            for name, value in _values(module):
                if name in before and not torch.equal(value, before[name]):
                    value.copy_(before[name])
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
    if not output.requires_grad:
        raise UnsupportedError(
            f"{type(module).__name__}: in training mode its scores have no gradient (a no_grad, a detach or a copy to "
            "NumPy in its forward), so nothing could be learnt; take that out"
        )


def _values(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers: a forward may change either, as a running mean of weights does."""
    yield from module.named_parameters()
    yield from module.named_buffers()


def is_trained(module: nn.Module, data: Data, world: World) -> tuple[bool, float, float]:
    """Whether the weights know the data: (yes or no, their loss on the train part, the loss of guessing).

    At most `LOOKED_AT` samples are looked at.
    """
    order = np.random.default_rng(0).permutation(len(data.train))[:LOOKED_AT]
    part = data.train.take(np.sort(order))
    loss, guess = scores(module, part, world).loss, guessing_loss(part)
    return bool(np.isfinite(loss)) and loss <= TRAINED * guess, loss, guess
