"""Whatever somebody has samples in, as batches that their module takes: arrays, tensors, a loader, a data set.

Nothing is normalised and no label is read here: the module sees what its owner's code would give it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dojang.base.errors import DataError, UsageError
from dojang.training.observed import Batch, call, part, size_of, tensors

TOGETHER = 32
"""Samples of arrays and data sets that are run at once."""

MOST_BYTES = 1 << 28
"""Bytes of samples that are kept."""

KINDS = "an array, a tensor, a tuple of them, a mapping, a data set, a DataLoader or any iterable of batches"


@dataclass(frozen=True)
class Fed:
    """Batches as a module takes them. `said`: which part of each goes into the module, where that was worked out.

    `rest`: what of each batch does not: labels, most likely; None where there is nothing.
    """

    batches: tuple[Batch, ...]
    rest: tuple[Any, ...] | None
    said: str
    samples: int


def feed(
    samples: Any,
    module: nn.Module,
    most: int,
    together: int = TOGETHER,
    seed: int = 0,
    most_bytes: int = MOST_BYTES,
    enough: Callable[[Batch], int] | None = None,
) -> Fed:
    """At most about `most` samples and `most_bytes` of anything that holds some; of what comes in batches whole ones.

    `enough`: is given the first batch, and says how many samples are wanted, if fewer.

    Raises `UsageError` for what holds none, and `DataError` for batches that do not go through the module, or hold NaN.
    """
    place = next((p.device for p in module.parameters()), torch.device("cpu"))
    kept: list[Batch] = []
    rests: list[Any] = []
    said, way, seen, held = "", None, 0, 0
    for number, raw in enumerate(_raw(samples, most, together, seed)):
        batch = _tensors(raw, place)
        if way is None:
            way, said = _way(module, batch)
            if enough is not None:
                most = min(most, enough(_taken(batch, way)[0]))
        args, rest = _taken(batch, way)
        _refuse_broken(args, number)
        kept.append(args)
        rests.append(rest)
        seen += size_of(args)
        held += sum(t.numel() * t.element_size() for t in tensors([*args[0], *args[1].values()]))
        if seen >= most or held >= most_bytes:
            break
    if not kept:
        raise DataError(f"there are no samples to look at; give {KINDS} with at least one")
    return Fed(tuple(kept), None if rests[0] is None else tuple(rests), said, seen)


def _raw(samples: Any, most: int, together: int, seed: int) -> Iterator[Any]:
    """Batches as they come."""
    if isinstance(samples, (np.ndarray, Tensor)):
        if not samples.ndim or not len(samples):
            return
        for places in _drawn(len(samples), most, together, seed):
            yield samples[places]
    elif isinstance(samples, Mapping) or (isinstance(samples, tuple) and samples and _alike(samples)):
        parts: Any = samples
        arrays = list(parts.values()) if isinstance(parts, Mapping) else list(parts)
        if not _alike(arrays):
            raise UsageError(f"samples in a mapping are arrays or tensors of one length each; got {_shapes(arrays)}")
        for places in _drawn(len(arrays[0]), most, together, seed):
            yield (
                {k: v[places] for k, v in parts.items()}
                if isinstance(parts, Mapping)
                else tuple(v[places] for v in parts)
            )
    elif hasattr(samples, "__getitem__") and hasattr(samples, "__len__") and not isinstance(samples, (list, tuple)):
        from torch.utils.data import DataLoader, Subset

        total = len(samples)
        some = Subset(
            samples, np.concatenate([*_drawn(total, most, total, seed), np.empty(0, int)]).astype(int).tolist()
        )
        yield from DataLoader(some, batch_size=together)
    elif isinstance(samples, Iterable) and not isinstance(samples, (str, bytes)):
        yield from samples
    else:
        raise UsageError(f"samples are {KINDS}; got {type(samples).__name__}")


def _drawn(total: int, most: int, together: int, seed: int) -> Iterator[np.ndarray]:
    """Places of at most so many samples, drawn by seed, batch by batch; in their order within a batch.

    Each batch is drawn from all of them, because data are often sorted by class and not all batches may be looked at.
    """
    if not total:
        return
    places = np.random.default_rng(seed).permutation(total)[:most]
    for start in range(0, len(places), together):
        yield np.sort(places[start : start + together])


def samples_in(samples: Any) -> int | None:
    """How many samples there are, where that can be told without reading them; None else."""
    if isinstance(samples, (np.ndarray, Tensor)):
        return len(samples) if samples.ndim else None
    if isinstance(samples, (Mapping, tuple)):
        parts = list(samples.values()) if isinstance(samples, Mapping) else list(samples)
        return len(parts[0]) if _alike(parts) else None
    inner = getattr(samples, "dataset", samples)
    return (
        len(inner)
        if hasattr(inner, "__len__") and hasattr(inner, "__getitem__") and not isinstance(inner, list)
        else None
    )


def _alike(parts: Sequence[Any]) -> bool:
    sized = [p for p in parts if isinstance(p, (np.ndarray, Tensor)) and p.ndim]
    return bool(sized) and len(sized) == len(parts) and len({len(p) for p in sized}) == 1


def _shapes(parts: Sequence[Any]) -> str:
    return ", ".join(str(tuple(p.shape)) if hasattr(p, "shape") else type(p).__name__ for p in parts)


def _tensors(value: Any, place: torch.device) -> Any:
    """Arrays as tensors where the module is; float64 becomes float32."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        value = torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, Tensor):
        return value.to(place, torch.float32) if value.dtype == torch.float64 else value.to(place)
    if isinstance(value, Mapping):
        return {k: _tensors(v, place) for k, v in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(_tensors(v, place) for v in value)
    return value


Way = tuple[str, Any]
"""How a batch goes into a module: ("whole", None), ("first", n) positional parts, or ("named", names)."""


def _way(module: nn.Module, batch: Any) -> tuple[Way, str]:
    """The first of the usual ways that the module takes, and a sentence on it. Raises `DataError` where none is."""
    failed: list[str] = []
    for way in _ways(module, batch):
        try:
            args, _ = _taken(batch, way)
            with torch.no_grad():
                list(tensors(call(module, part(args, 0, 2))))
        except DataError as error:
            failed.append(str(error))
            continue
        return way, _said(way, batch)
    raise DataError(failed[0] if failed else f"{type(module).__name__} takes no such batch: {type(batch).__name__}")


def _ways(module: nn.Module, batch: Any) -> Iterator[Way]:
    inner = getattr(module, "_orig_mod", module)
    try:
        parameters = list(inspect.signature(inner.forward).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    plain = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = sum(p.default is p.empty for p in plain)
    if isinstance(batch, Mapping):
        names = tuple(p.name for p in plain if p.name in batch)
        if names and len(names) >= needed:
            yield "named", names
        yield "whole", None
        if len(batch):
            yield "key", next(iter(batch))
    elif isinstance(batch, (list, tuple)):
        wanted = needed or len(plain) or 1
        if 0 < wanted <= len(batch):
            yield "first", wanted
        for n in range(1, len(batch) + 1):
            if n != wanted:
                yield "first", n
        yield "whole", None
    else:
        yield "whole", None


def _taken(batch: Any, way: Way) -> tuple[Batch, Any]:
    """What goes into the module, and what is left of a batch."""
    how, what = way
    if how == "first":
        rest = batch[what:]
        return (tuple(batch[:what]), {}), (rest[0] if len(rest) == 1 else tuple(rest)) if rest else None
    if how == "named":
        rest = {k: v for k, v in batch.items() if k not in what}
        return ((), {k: batch[k] for k in what}), rest or None
    if how == "key":
        return ((batch[what],), {}), {k: v for k, v in batch.items() if k != what} or None
    return ((batch,), {}), None


def _said(way: Way, batch: Any) -> str:
    how, what = way
    if how == "first" and what < len(batch):
        first = "the first" if what == 1 else f"the first {what}"
        return f"{first} of the {len(batch)} parts of a batch {'goes' if what == 1 else 'go'} into the module"
    if how == "named":
        return f"of a batch {', '.join(what)} {'goes' if len(what) == 1 else 'go'} into the module"
    return f"of a batch {what} goes into the module" if how == "key" else ""


def _refuse_broken(batch: Batch, number: int) -> None:
    for t in tensors(list(batch[0]) + list(batch[1].values())):
        if t.is_floating_point() and not bool(torch.isfinite(t).all()):
            raise DataError(f"batch {number} of the samples holds NaN or infinity; leave it out, or repair the data")
