"""Scoring a module on a split: normalised batches in, mean loss and accuracy out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dojang.training.confusion import ByLabel, Confusion, of_counts
from dojang.training.data import Split, Task
from dojang.training.recipe import TrainingLoss
from dojang.training.record import Scores
from dojang.training.world import World, choose_device

MOST_CLASSES = 2000
"""With more classes no confusion matrix is made: one of 2,000 classes takes 32 MB."""


def evaluate(module: nn.Module, split: Split, *, device: str = "auto", batch_size: int = 256) -> Scores:
    """Mean loss (cross-entropy or squared error) and accuracy of `module` on `split`, in evaluation mode.

    For regression the accuracy is R² = 1 − mean over targets of (mean squared error / variance in this split), with
    the variance of a constant target taken as 1. The module is left in the mode and on the device it had.
    """
    world = World(choose_device(device))
    home = next((p.device for p in module.parameters()), torch.device("cpu"))
    training = module.training
    try:
        with laid_out(module.to(world.device), world.device):
            return scores(module, split, world, batch_size)
    finally:
        module.to(home).train(training)


@contextlib.contextmanager
def laid_out(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Parameters of rank 4 channels last in memory while on the CPU; values and names stay.

    ResNet-20 on 2 cores of an AVX-512 machine: 140 ms for a training step of 128 pictures so, 340 ms otherwise.
    """
    if device.type != "cpu":
        yield
        return
    _lay_out(module, torch.channels_last)
    try:
        yield
    finally:
        _lay_out(module, torch.contiguous_format)


def _lay_out(module: nn.Module, layout: torch.memory_format) -> None:
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)


def normalised(raw: Any, split: Split, device: torch.device) -> Tensor:
    """Stored samples as normalised float32 on `device`; uint8 crosses to the device as uint8."""
    a, b = (torch.from_numpy(f).to(device) for f in split.normalisation.factors(raw.dtype))
    shape = (1, -1) + (1,) * (raw.ndim - 2)
    x = torch.from_numpy(raw).to(device).to(torch.float32)
    return x * a.view(shape) + b.view(shape)


def rows(output: Tensor) -> Tensor:
    """What a module gives for n samples, as (n, numbers); one number for each may come as (n,)."""
    return output.unsqueeze(1) if output.ndim == 1 else output.flatten(1)


def variance_of(split: Split, device: torch.device) -> Tensor | None:
    """Variance of each regression target, 1 for a constant one; None for classes."""
    if split.y.dtype.kind != "f":
        return None
    variance = split.y.astype(np.float64).var(axis=0)
    return torch.from_numpy(np.where(variance > 0, variance, 1.0).astype(np.float32)).to(device)


def right_count(output: Tensor, y: Tensor, task: Task, variance: Tensor | None) -> Tensor:
    """What the samples add to the accuracy: 1 for each right class; with several classes to a sample the share of its
    classes that are told right (a score above 0 is a yes); for regression 1 − squared error / variance.
    """
    if task == "classification":
        return (output.argmax(1) == y).sum()
    if task == "multilabel":
        return ((output > 0) == y).double().mean(1).sum()
    error = (output - y).square()
    return len(y) - (error if variance is None else error / variance).mean(1).sum()


@torch.no_grad()
def scores(module: nn.Module, split: Split, world: World, batch_size: int = 256) -> Scores:
    """As `evaluate`, the module being on the world's device already and each process doing its share."""
    task: Task = split.task
    variance = variance_of(split, world.device)
    loss = TrainingLoss(task, 0.0, 0.0, 1.0)
    was = module.training
    module.eval()
    sums = torch.zeros(2, dtype=torch.float64, device=world.device)
    mine = world.share(np.arange(len(split)))
    for start in range(0, len(mine), batch_size):
        at = slice(int(mine[start]), int(mine[min(start + batch_size, len(mine)) - 1]) + 1)
        y = torch.from_numpy(split.y[at]).to(world.device)
        output = rows(module(normalised(split.x[at], split, world.device)))
        sums += torch.stack([loss(output, y).double() * len(y), right_count(output, y, task, variance).double()])
    module.train(was)
    total, right = (world.total(sums) / len(split)).tolist()
    return Scores(total, right, len(split))


@torch.no_grad()
def confusion_on(
    module: nn.Module, split: Split, world: World, classes: Sequence[str], batch_size: int = 256
) -> Confusion | None:
    """Which classes of `split` the module mistakes for which, as `scores` runs it.

    None for other tasks than classification, and for more than MOST_CLASSES classes.
    """
    if split.task != "classification" or len(classes) > MOST_CLASSES:
        return None
    was = module.training
    module.eval()
    cells = torch.zeros(len(classes) ** 2, dtype=torch.int64, device=world.device)
    mine = world.share(np.arange(len(split)))
    for start in range(0, len(mine), batch_size):
        at = slice(int(mine[start]), int(mine[min(start + batch_size, len(mine)) - 1]) + 1)
        y = torch.from_numpy(split.y[at]).to(world.device)
        answers = rows(module(normalised(split.x[at], split, world.device))).argmax(1)
        cells += torch.bincount(y * len(classes) + answers, minlength=len(cells))
    module.train(was)
    return of_counts(world.total(cells).reshape(len(classes), len(classes)).cpu().numpy(), classes)


@torch.no_grad()
def by_label_on(
    module: nn.Module, split: Split, world: World, classes: Sequence[str], batch_size: int = 256
) -> ByLabel | None:
    """How often each class of `split` is told right where a sample has any number of them; None for other tasks.

    A class is answered where its output is above 0, as `scores` judges it.
    """
    if split.task != "multilabel":
        return None
    was = module.training
    module.eval()
    sums = torch.zeros(3, len(classes), dtype=torch.int64, device=world.device)
    mine = world.share(np.arange(len(split)))
    for start in range(0, len(mine), batch_size):
        at = slice(int(mine[start]), int(mine[min(start + batch_size, len(mine)) - 1]) + 1)
        y = torch.from_numpy(split.y[at]).to(world.device) > 0
        said = rows(module(normalised(split.x[at], split, world.device))) > 0
        sums += torch.stack([y.sum(0), said.sum(0), (y & said).sum(0)])
    module.train(was)
    support, answered, right = (tuple(counts) for counts in world.total(sums).tolist())
    return ByLabel(tuple(classes), len(split), support, answered, right)


def slopes_of(module: nn.Module, split: Split, batch_size: int = 256) -> None:
    """Replaces every parameter by the slope of the mean loss on `split` along it, the module in evaluation mode.

    Parameters that do not matter to the loss become 0. Buffers stay.
    """
    task: Task = split.task
    loss, cpu = TrainingLoss(task, 0.0, 0.0, 1.0), torch.device("cpu")
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(True)
        parameter.grad = None
    for start in range(0, len(split), batch_size):
        at = slice(start, start + batch_size)
        y = torch.from_numpy(split.y[at])
        output = rows(module(normalised(split.x[at], split, cpu)))
        (loss(output, y) * (len(y) / len(split))).backward()
    for parameter in module.parameters():
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
