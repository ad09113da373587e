"""One process or several: which share of a batch this one takes, and sums over all of them.

Started by `torchrun`, each process takes its share of every batch; gradients are summed by DistributedDataParallel
and batch norm takes its statistics over the whole batch, so that the result is that of one process, within rounding.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed import PrefixStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.rendezvous import rendezvous

from dojang.base.errors import CheckFailed, UsageError
from dojang.base.wording import did_you_mean

_PATIENCE = timedelta(days=30)
_opened = count()
_closed: list[Any] = []
"""The group that was closed last. What a training leaves (gradients' buckets, tensors under way) may hold a group and
go after it; were that the last to hold it, PyTorch would wait for the group's threads with the interpreter's lock
taken, which these need to give up their tensors. Python's own reference gives the lock away first."""


@dataclass(frozen=True)
class World:
    """The processes of one run: this one is `rank` of `size`, computing on `device`."""

    device: torch.device
    rank: int = 0
    size: int = 1

    def share(self, items: NDArray[Any]) -> NDArray[Any]:
        """This process's consecutive part of `items`; the parts differ by one item at most."""
        return items if self.size == 1 else np.array_split(items, self.size)[self.rank]

    def total(self, tensor: Tensor) -> Tensor:
        """The elementwise sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def reduced(self, how: str, array: NDArray[Any]) -> NDArray[Any]:
        """The elementwise "sum", "min" or "max" of an array over all processes, in its own type."""
        if self.size == 1:
            return array
        tensor = torch.from_numpy(np.array(array, order="C")).to(self.device)
        dist.all_reduce(tensor, {"sum": dist.ReduceOp.SUM, "min": dist.ReduceOp.MIN, "max": dist.ReduceOp.MAX}[how])
        return tensor.cpu().numpy()

    def broadcast(self, value: Any) -> Any:
        """What process 0 gives as `value`, in every process. Raises CheckFailed when process 0 has ended."""
        if self.size == 1:
            return value
        held = [value if self.rank == 0 else None]
        try:
            dist.broadcast_object_list(held, src=0, device=self.device)
        except RuntimeError as error:
            raise CheckFailed(f"process {self.rank} has lost the others ({str(error).splitlines()[0]})") from None
        return held[0]

    def gathered(self, value: Any) -> list[Any]:
        """What every process gives, in the order of the processes, in each of them. Raises CheckFailed as above."""
        if self.size == 1:
            return [value]
        held: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(held, value)
        except RuntimeError as error:
            raise CheckFailed(f"process {self.rank} has lost the others ({str(error).splitlines()[0]})") from None
        return held

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()


def choose_device(name: str) -> torch.device:
    """The device of "cpu", "cuda", "cuda:1" or "auto" (CUDA where there is one). Raises UsageError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        hint = did_you_mean(kind, ("auto", "cpu", "cuda"), "use auto, cpu, cuda or cuda:N")
        raise UsageError(f"device {name!r} is not known; {hint}")
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UsageError("device cuda: PyTorch sees no CUDA device here; use --device cpu")
    index = int(number) if number else int(os.environ.get("LOCAL_RANK", "0"))
    if index >= torch.cuda.device_count():
        raise UsageError(f"device cuda:{index}: there are {torch.cuda.device_count()} CUDA devices, numbered from 0")
    return torch.device("cuda", index)


@contextlib.contextmanager
def joined(device: str) -> Iterator[World]:
    """The world of this process: alone, or the group that `torchrun` (or the caller) has set up.

    A group that is opened here is closed here.
    """
    where = choose_device(device)
    if dist.is_available() and dist.is_initialized():
        yield World(where, dist.get_rank(), dist.get_world_size())
    elif int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # However long process 0 is busy alone, the others wait for it; a process that has ended is noticed at once.
        _open_group("nccl" if where.type == "cuda" else "gloo")
        try:
            yield World(where, dist.get_rank(), dist.get_world_size())
        finally:
            _closed[:] = [dist.group.WORLD]
            dist.destroy_process_group()
    else:
        yield World(where)


def _open_group(backend: str) -> None:
    """Opens the group of all processes, under keys of its own.

    The store of `torchrun` outlives a group: one that is opened later in the same processes, as by the next training of
    a search, would read the addresses of the one before, and now and then wait for ever.
    """
    store, rank, size = next(rendezvous("env://", timeout=_PATIENCE))
    own = PrefixStore(f"dojang {next(_opened)}", store)
    dist.init_process_group(backend, store=own, rank=rank, world_size=size, timeout=_PATIENCE)


class _Sum(torch.autograd.Function):
    """Sum over processes whose gradient is again summed: every process's loss depends on every process's input."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        del ctx
        out = tensor.clone()
        dist.all_reduce(out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        del ctx
        out = grads[0].contiguous().clone()
        dist.all_reduce(out)
        return out


def _batch_norm_over_all(norm: Any, x: Tensor) -> Tensor:
    """Batch norm with mean and variance over the samples of all processes (Ioffe and Szegedy 2015, algorithm 1).

    PyTorch's SyncBatchNorm does this on GPUs only. The variance is summed around the common mean, in two passes.
    """
    if not (norm.training or norm.running_mean is None):
        return type(norm).forward(norm, x)
    given, x = x.dtype, x.float() if x.dtype == torch.bfloat16 else x  # 8 bits are too few to count and sum in
    axes = [i for i in range(x.ndim) if i != 1]
    shape = [1, -1] + [1] * (x.ndim - 2)
    local = torch.cat([x.sum(axes), x.new_tensor([x.numel() / x.shape[1]])])
    sums: Any = _Sum.apply(local)
    count = sums[-1].detach()
    mean = sums[:-1] / count
    centred = x - mean.view(shape)
    squares: Any = _Sum.apply(centred.square().sum(axes))
    variance = squares / count
    if norm.training and norm.running_mean is not None:
        with torch.no_grad():
            seen: Tensor | None = norm.num_batches_tracked
            if seen is not None:
                seen += 1
            rate = norm.momentum
            if rate is None:  # the plain mean over all batches so far
                rate = 1.0 / float(seen) if seen is not None else 0.0
            norm.running_mean.lerp_(mean, rate)
            norm.running_var.lerp_(variance * count / (count - 1), rate)
    out = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.weight is not None:
        out = out * norm.weight.view(shape) + norm.bias.view(shape)
    return out.to(given)


@contextlib.contextmanager
def shared(module: nn.Module, world: World) -> Iterator[nn.Module]:
    """`module` as it is trained in this world: itself when alone, else with shared gradients and batch statistics.

    Batch statistics are those of PyTorch's BatchNorm layers; a module that calls `F.batch_norm` itself keeps its own.
    """
    if world.size == 1:
        yield module
        return
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        object.__setattr__(norm, "forward", partial(_batch_norm_over_all, norm))
    try:
        ids = [world.device.index] if world.device.type == "cuda" else None
        with warnings.catch_warnings():
            # Said once of channels-last kernels with one input channel, whose strides have two equal meanings.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            yield nn.parallel.DistributedDataParallel(module, device_ids=ids)
    finally:
        for norm in norms:
            object.__delattr__(norm, "forward")
