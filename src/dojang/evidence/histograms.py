"""How the numbers of values are distributed, from one pass over samples: extremes, histograms, means of channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dojang.arith.graph import Graph
from dojang.base.errors import DataError
from dojang.engine.compiled import compile
from dojang.evidence.second_moments import PatchProducts

BINS = 2048
"""Bins on each side of 0. Their width doubles when a number lies beyond the last, so that one pass is enough."""

Array = np.ndarray
Fed = Array | Mapping[str, Array]


@dataclass
class Histogram:
    """The numbers of one value: bin k of `counts` has those from (k − BINS) · width on. `means` are those of channels,
    over samples and places; `count` is how many numbers of each channel there were.
    """

    low: float = np.inf
    high: float = -np.inf
    width: float = 0.0
    counts: Array = field(default_factory=lambda: np.zeros(2 * BINS, np.int64))
    sums: Array | None = None
    count: int = 0

    def add(self, x: Array, where: str) -> None:
        """Adds the numbers of a batch (n, channels, …). Raises `DataError` for NaN and infinite ones."""
        low, high = float(x.min()), float(x.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(f"{where}: the samples give NaN or infinite numbers here; check how they are normalised")
        self.low, self.high = min(self.low, low), max(self.high, high)
        most = max(abs(low), abs(high))
        if most > 0 and self.width == 0:
            self.width = most / BINS * (1 + 1e-6)
        while self.width and most >= self.width * BINS:
            self.counts = self.halved()
            self.width *= 2
        if self.width:
            place = np.clip(np.floor(x.reshape(-1) / np.float64(self.width)).astype(np.int64) + BINS, 0, 2 * BINS - 1)
            self.counts += np.bincount(place, minlength=2 * BINS)
        else:
            self.counts[BINS] += x.size
        total = x.sum(tuple(a for a in range(x.ndim) if a != 1), dtype=np.float64)
        self.sums = total if self.sums is None else self.sums + total
        self.count += x.size // x.shape[1]

    def halved(self) -> Array:
        """The counts in bins of twice the width."""
        pairs = self.counts.reshape(-1, 2).sum(1)
        out = np.zeros_like(self.counts)
        out[BINS // 2 : BINS // 2 + BINS] = pairs
        return out

    @property
    def means(self) -> Array:
        """The mean of each channel."""
        assert self.sums is not None
        return self.sums / max(1, self.count)

    @property
    def centres(self) -> Array:
        """The middle of each bin."""
        return (np.arange(2 * BINS) - BINS + 0.5) * self.width

    def quantiles(self, share: float) -> tuple[float, float]:
        """The bounds that leave out at most so many of the numbers on each side, within those that there were."""
        if not self.width:
            return self.low, self.high
        sums = np.cumsum(self.counts)
        total = sums[-1]
        first, last = np.searchsorted(sums, [share * total, (1 - share) * total], side="left")
        edges = (first - BINS) * self.width, (last + 1 - BINS) * self.width
        return max(self.low, edges[0]), min(self.high, edges[1])


def histograms(
    graph: Graph, batches: Iterable[Fed], names: Sequence[str], readers: Sequence[PatchProducts] = ()
) -> dict[str, Histogram]:
    """The histograms of the values named, over all batches; `readers` are shown what their layers read in the same
    pass. Raises `DataError` where there is no sample, or one that leads to numbers that are none.
    """
    found = {name: Histogram() for name in names}
    run = compile(graph)
    inputs = {node.name for node in graph.inputs}
    wanted = dict.fromkeys([*names, *(reader.source for reader in readers)])
    taps = [name for name in wanted if name not in inputs]
    samples = 0
    for batch in batches:
        fed = batch if isinstance(batch, Mapping) else {graph.inputs[0].name: np.asarray(batch)}
        first = next(iter(fed.values()))
        if not len(first):
            continue
        samples += len(first)
        values = run.run(batch, taps=taps).taps
        seen = {name: np.asarray(fed[name] if name in inputs else values[name], np.float32) for name in wanted}
        for name in names:
            found[name].add(seen[name], name)
        for reader in readers:
            reader.add(seen[reader.source])
    if not samples:
        raise DataError("there is no sample to calibrate with; give some that look like those of later use")
    return found
