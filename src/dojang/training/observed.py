"""A module watched while it answers samples: what layers read, how the outputs follow, batch norms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dojang.base.errors import DataError
from dojang.evidence.reading import Reading

Batch = Any
"""What a module takes at once: a tuple of positional arguments and a mapping of named ones."""

ROWS_PER_CHANNEL, LEAST_ROWS, MOST_ROWS = 4, 4096, 16_384
"""Places that a covariance of c channels is taken over: some per channel, from so many to so many."""

WIDEST, FEW_ROWS = 4096, 1024
"""Of layers that read more channels no covariance is made, whose square would fill the memory: so many rows are kept.
Rows are kept as well where there are fewer of them than channels."""

Norm = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True)
class Site:
    """One use of a layer: the module, and which of its calls in one run of the network it is."""

    name: str
    module: nn.Module
    call: int = 0


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors within tuples, lists, mappings and objects with fields, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from tensors(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from tensors(one)
    elif hasattr(value, "__dataclass_fields__"):
        for one in value.__dataclass_fields__:
            yield from tensors(getattr(value, one))


def call(module: nn.Module, batch: Batch) -> Any:
    """The module's answer to a batch; of a compiled one that of the module within, which hooks are called from.

    Raises `DataError` where its code raises.
    """
    args, named = batch
    try:
        return getattr(module, "_orig_mod", module)(*args, **named)
    except Exception as error:  # code of the user
        shapes = ", ".join("x".join(map(str, t.shape)) for t in tensors([*args, *named.values()]))
        lines = str(error).strip().splitlines()
        said = f"{type(error).__name__}: {lines[0]:.200}" if lines else type(error).__name__
        name = type(getattr(module, "_orig_mod", module)).__name__
        raise DataError(f"a batch of {shapes} does not go through {name}: {said}") from error


def moved(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """The batch with every tensor changed."""

    def deep(value: Any) -> Any:
        if isinstance(value, Tensor):
            return change(value)
        if isinstance(value, Mapping):
            return {k: deep(v) for k, v in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*(deep(v) for v in value))
        return type(value)(deep(v) for v in value) if isinstance(value, (list, tuple)) else value

    args, named = batch
    return tuple(deep(a) for a in args), {k: deep(v) for k, v in named.items()}


def size_of(batch: Batch) -> int:
    """How many samples a batch has: the length of its first tensor."""
    return next((len(t) for t in tensors([*batch[0], *batch[1].values()]) if t.ndim), 1)


def part(batch: Batch, start: int, stop: int) -> Batch:
    """The samples of a batch from `start` to before `stop`; tensors of another length are passed whole."""
    whole = size_of(batch)
    return moved(batch, lambda t: t[start:stop] if t.ndim and len(t) == whole else t)


class _Read:
    """The running figures of what one layer reads, on so many samples of so many places."""

    def __init__(self, channels: int, samples: int, places: int) -> None:
        self.rows = 0
        most = int(np.clip(ROWS_PER_CHANNEL * channels, LEAST_ROWS, MOST_ROWS)) if channels <= WIDEST else FEW_ROWS
        self.each = most / max(1, samples)
        self.shift: Tensor | None = None
        self.low_rank = channels > WIDEST or samples * min(places, self.each) < channels
        self.total = np.zeros(channels)
        self.products = np.zeros((0, 0) if self.low_rank else (channels, channels))
        self.kept: list[Tensor] = []
        self.waiting = 0
        self.square, self.mixed, self.alone, self.samples = (np.zeros(channels) for _ in range(4))

    def see(self, x: Tensor) -> None:
        """Takes a batch in, (n, channels, places)."""
        number = x.shape[0] * x.shape[2]
        want = ceil(self.each * x.shape[0])
        if number > want:
            generator = torch.Generator().manual_seed(self.rows)
            drawn = torch.randint(number, (want,), generator=generator).to(x.device)
            rows = x[drawn // x.shape[2], :, drawn % x.shape[2]]
        else:
            rows = x.transpose(1, 2).reshape(-1, x.shape[1])
        rows = rows.float()
        if self.shift is None:
            self.shift = rows.mean(0)
        rows = rows - self.shift
        self.rows += len(rows)
        self.total += rows.sum(0, dtype=torch.float64).cpu().numpy()
        self.kept.append(rows)
        self.waiting += len(rows)
        if not self.low_rank and self.waiting >= len(self.products):
            self._join()

    def _join(self) -> None:
        """Adds the rows that wait, as many as there are channels together: products of fewer take as long."""
        if self.waiting:
            rows = torch.cat(self.kept)
            self.products += (rows.T @ rows).cpu().numpy()
            self.kept.clear()
            self.waiting = 0

    def follow(self, x: Tensor, slope: Tensor) -> None:
        """Takes in how the projected outputs follow what was read."""
        x, slope = x.double() if x.numel() < 1 << 16 else x.float(), slope.to(x.dtype)
        both, alone = (x * slope).sum(2).double(), slope.sum(2).double()
        self.square += both.square().sum(0).cpu().numpy()
        self.mixed += (both * alone).sum(0).cpu().numpy()
        self.alone += alone.square().sum(0).cpu().numpy()
        self.samples += len(x)

    def reading(self) -> Reading:
        """What came of it; what it holds is handed over."""
        assert self.shift is not None
        offset = self.total / max(1, self.rows)
        mean = self.shift.double().cpu().numpy() + offset
        felt = (self.square - 2 * mean * self.mixed + mean**2 * self.alone) / np.maximum(self.samples, 1)
        if self.low_rank:
            factor = torch.cat(self.kept).cpu().numpy()
            self.kept.clear()
            factor -= offset.astype(factor.dtype)
            factor /= max(1, self.rows) ** 0.5
            return Reading(self.rows, mean, factor, felt.clip(0), True)
        self._join()
        covariance, self.products = self.products, np.zeros((0, 0))
        covariance /= max(1, self.rows)
        covariance -= np.outer(offset, offset)
        covariance[np.diag_indices_from(covariance)] = np.diag(covariance).clip(0)
        return Reading(self.rows, mean, covariance, felt.clip(0))


def readings(
    module: nn.Module,
    sites: Sequence[Site],
    batches: Sequence[Batch],
    told: Callable[[int, int], object] | None = None,
    seed: int = 0,
    followed: int | None = None,
) -> dict[str, Reading]:
    """What each of these layers reads, by name, from one pass forwards over the batches.

    How the outputs follow is worked out backwards on the first `followed` batches, which takes three times as long: it
    is a mean of one number per sample, where covariances of many channels need many rows.
    Sites that are never reached are left out. The module is as it was afterwards. Raises `DataError` where outputs are
    NaN or infinite.
    """
    found: dict[str, _Read] = {}
    calls: dict[nn.Module, int] = {}
    by_module: dict[nn.Module, dict[int, Site]] = {}
    for site in sites:
        by_module.setdefault(site.module, {})[site.call] = site

    def watch(layer: nn.Module, args: tuple[Any, ...]) -> Any:
        at = calls[layer] = calls.get(layer, -1) + 1
        site = by_module[layer].get(at)
        if site is None or not args or not isinstance(args[0], Tensor):
            return None
        alias = args[0].view_as(args[0])
        seen = _flat(alias.detach(), layer)
        if site.name not in found:
            found[site.name] = _Read(seen.shape[1], total, seen.shape[2])
        own = found[site.name]
        own.see(seen)
        if alias.requires_grad:
            alias.register_hook(lambda slope: own.follow(seen, _flat(slope, layer)))
        return (alias, *args[1:])

    total = sum(map(size_of, batches))
    scale = _scale(module, batches)
    generator = torch.Generator().manual_seed(seed)
    handles = [layer.register_forward_pre_hook(watch) for layer in by_module]
    followed = len(batches) if followed is None else followed
    with _still(module):
        try:
            for number, batch in enumerate(batches):
                calls.clear()
                with torch.set_grad_enabled(number < followed):
                    _through(module, batch, scale, generator)
                if told is not None:
                    told(number + 1, len(batches))
        finally:
            for handle in handles:
                handle.remove()
    return {name: own.reading() for name, own in found.items()}


def _through(module: nn.Module, batch: Batch, scale: Sequence[float], generator: torch.Generator) -> None:
    """One batch forwards, and backwards from a random projection of the outputs where gradients are asked for."""
    backwards = torch.is_grad_enabled()
    if backwards:
        batch = moved(batch, lambda t: t.detach().requires_grad_().mul(1) if t.is_floating_point() else t)
    outputs = [y for y in tensors(call(module, batch)) if y.is_floating_point()]
    if not all(bool(torch.isfinite(y).all()) for y in outputs):
        raise DataError("the outputs of the network are NaN or infinite on a sample: no cut goes by them")
    if not backwards:
        return
    total = sum(
        (y / spread * torch.randn(y.shape, generator=generator).to(y)).sum()
        for y, spread in zip(outputs, scale, strict=False)
        if y.requires_grad
    )
    if isinstance(total, Tensor):
        try:
            total.backward()
        except RuntimeError as error:
            if "derivative for" not in str(error):  # an operation of the forward that PyTorch cannot go back through
                raise


def _flat(x: Tensor, layer: nn.Module) -> Tensor:
    """(samples, channels, places) of what a layer reads: channels lie last for linear layers, else on axis 1."""
    if isinstance(layer, nn.Linear):
        rows = x.reshape(x.shape[0], -1, x.shape[-1]) if x.ndim > 1 else x.reshape(1, 1, -1)
        return rows.transpose(1, 2)
    return x.reshape(*x.shape[:2], -1)


@torch.no_grad()
def _scale(module: nn.Module, batches: Sequence[Batch]) -> list[float]:
    """By what each output is divided, so that the expected square of the projection is the change over the spread."""
    parts: list[list[Tensor]] = []
    for batch in batches[: _needed(batches)]:
        found = [y.double() for y in tensors(call(module, batch)) if y.is_floating_point()]
        parts = parts or [[] for _ in found]
        for own, y in zip(parts, found, strict=False):
            if not own or y.shape[1:] == own[0].shape[1:]:
                own.append(y)
    outputs = [torch.cat(own) if own[0].ndim else own[0] for own in parts]
    spreads = [_spread(y.numpy(force=True)) / len(y) for y in outputs if y.ndim]
    whole = [s if np.isfinite(s) and s > 0 else 1.0 for s in spreads]
    return [(s * len(whole)) ** 0.5 for s in whole]


SAME = 1e-6
"""An output whose squared spread is at most this part of its squared size, a thousandth of its size, is the same for
all samples: what is left is rounding, or a network that has learnt nothing."""


def _spread(y: np.ndarray) -> float:
    """The squared distance of outputs (samples, …) from their mean, of those that are the same their squared size."""
    size = float(np.square(y, dtype=np.float64).sum())
    spread = float(np.square(y - y.mean(axis=0), dtype=np.float64).sum()) if len(y) > 1 else 0.0
    return spread if spread > SAME * size else size


SPREAD_OVER = 16
"""Samples that tell how far apart outputs lie."""


def _needed(batches: Sequence[Batch]) -> int:
    """How many of the batches have `SPREAD_OVER` samples together."""
    seen = 0
    for number, batch in enumerate(batches):
        seen += size_of(batch)
        if seen >= SPREAD_OVER:
            return number + 1
    return len(batches)


@contextmanager
def _still(module: nn.Module) -> Iterator[None]:
    """Parameters without gradients of their own, and as they were afterwards."""
    asked = [p for p in module.parameters() if p.requires_grad]
    for p in asked:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in asked:
            p.requires_grad_(True)


@torch.no_grad()
def measure_norms(
    module: nn.Module, batches: Sequence[Batch], told: Callable[[int, int], object] | None = None
) -> None:
    """Batch norms get the means and variances of these samples, each seeing what the part before it gives with its new
    ones (Li et al., "EagleEye", ECCV 2020, section 3.3).

    Norms that keep no statistics, or are frozen in `eval` by having momentum 0, are left alone. Means over batches of
    means and variances weigh each batch alike.
    """
    norms = [m for m in module.modules() if isinstance(m, Norm) and m.track_running_stats and m.momentum != 0]
    if not norms or not batches:
        return
    kept = [(n.momentum, n.training, None if n.num_batches_tracked is None else n.num_batches_tracked.clone())
            for n in norms]  # fmt: skip
    for norm in norms:
        norm.train()
    try:
        for number, batch in enumerate(batches):
            for norm in norms:
                norm.momentum = 1 / (number + 1)  # the mean over the batches so far
            call(module, batch)
            if told is not None:
                told(number + 1, len(batches))
    finally:
        for norm, (momentum, training, seen) in zip(norms, kept, strict=True):
            norm.momentum = momentum
            norm.train(training)
            if seen is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(seen)


@torch.no_grad()
def answers(module: nn.Module, batches: Sequence[Batch]) -> list[np.ndarray]:
    """Every output that is a number, (samples, …) in float32, over all batches."""
    parts: list[list[np.ndarray]] = []
    for batch in batches:
        outputs = [y.detach().cpu().float().numpy() for y in tensors(call(module, batch)) if y.is_floating_point()]
        parts = parts or [[] for _ in outputs]
        for own, y in zip(parts, outputs, strict=True):
            own.append(y if y.ndim else y[None])
    return [np.concatenate([y.reshape(-1, *y.shape[1:]) for y in own]) if own[0].ndim else np.array(own)
            for own in parts if len({y.shape[1:] for y in own}) == 1]  # fmt: skip


def answers_to(module: nn.Module, x: np.ndarray) -> list[np.ndarray]:
    """The answers to an array, on the device where the module is."""
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    return answers(module, [((torch.from_numpy(x).to(device),), {})])


def change(wanted: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> float:
    """How far outputs moved: the squared change over the squared spread over samples, the mean over outputs.

    0: nothing changed; about 1: the outputs say nothing any more. Outputs that are the same for all samples are held
    against their size.
    """
    found: list[float] = []
    for a, b in zip(wanted, got, strict=True):
        found.append(float(np.square(b - a).sum(dtype=np.float64)) / (_spread(a) or 1.0))
    return float(np.mean(found)) if found else 0.0
