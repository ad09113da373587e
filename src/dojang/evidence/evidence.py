"""What is known about one trained network: each fact is computed once, and is the same for whoever finds and cuts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, final

import numpy as np

from dojang.arith.channels import ChannelMap, channels
from dojang.arith.graph import Graph, Node
from dojang.base.errors import DataError
from dojang.evidence.activations import (
    Pair,
    Reduced,
    Run,
    Samples,
    Statistics,
    at_once,
    batches,
    first,
    number_of,
    observe,
    session_run,
)
from dojang.evidence.equal_channels import ChannelNumbers, numbers
from dojang.evidence.following import Following
from dojang.evidence.intervals import Range, ranges
from dojang.evidence.moments import JointMoments, require_finite
from dojang.evidence.patches import Patches, gathered
from dojang.evidence.watchers import Watcher, seen_by

Array = np.ndarray
InputRange = Mapping[str, tuple[Any, Any]]
"""Least and largest value by input name (numbers, or one per channel)."""


@final
class Evidence:
    """Facts about one network on one set of samples; each is computed when it is first asked for, and kept.

    Proved by weights and input range alone: `ranges`, `equal`. Measured on the samples: `statistics`, `products`,
    `patches`. What is wanted of the samples should be asked for together (`gather`), which takes one pass over them.
    `passes` is how many passes `gather` took; those of `activations` and `patches` are not counted. A network that was
    edited has an Evidence of its own on the same samples (`on`).
    """

    def __init__(
        self,
        graph: Graph,
        samples: Samples | None = None,
        input_range: InputRange | None = None,
        *,
        seed: int = 0,
        threshold: float = 0.0,
    ) -> None:
        """Nothing is computed yet. `threshold`: a channel fires on a sample where its size exceeds it anywhere.

        `input_range` is for proofs; without it, pictures in 0..1 where the input says how they are normalised, else no
        bound. `seed`: for whatever is drawn at random on the way.
        """
        self.graph, self.samples, self.input_range = graph, samples, dict(input_range or {})
        self.seed, self.threshold = seed, threshold
        self.passes = 0
        self._statistics: dict[str, Statistics] = {}
        self._extremes: dict[str, Statistics] = {}
        self._products: dict[Pair, JointMoments] = {}
        self._patches: dict[str, Patches] = {}

    def on(self, graph: Graph) -> Evidence:
        """The evidence of another network on the same samples; this one where it is the same network."""
        if graph is self.graph:
            return self
        return Evidence(graph, self.samples, self.input_range, seed=self.seed, threshold=self.threshold)

    def stored_as(self, dtype: Any) -> Evidence:
        """The same network with its weights in another number type: what is proved of it holds, and is not repeated."""
        weights = {k: np.asarray(v, dtype) for k, v in self.graph.weights.items()}
        same = self.on(self.graph.replace(weights=weights))
        same.__dict__["channels"], same.__dict__["ranges"] = self.channels, self.ranges
        same.__dict__["equal"] = self.equal
        return same

    @cached_property
    def channels(self) -> ChannelMap:
        """Which channels are tied to which."""
        return channels(self.graph)

    @cached_property
    def ranges(self) -> dict[str, Range]:
        """What every value can be at all, by interval arithmetic from the range of the input."""
        return ranges(self.graph, self.input_range, self.channels)

    @cached_property
    def equal(self) -> dict[str, ChannelNumbers | None]:
        """Which channels of every value are positive multiples of each other on every input, by the weights."""
        return numbers(self.graph, self.channels)

    @cached_property
    def following(self) -> Following:
        """Which channels of a value are which channels of what reads it."""
        return Following(self.graph, self.channels)

    @cached_property
    def assumes(self) -> str:
        """What the proofs assume of every input: least and largest value, in words."""
        return "; ".join(self._assumed(node) for node in self.graph.inputs)

    def _assumed(self, node: Node) -> str:
        given, mean, std = self.input_range.get(node.name), node.attrs["mean"], node.attrs["std"]
        if given is None and (mean is None or std is None):
            return f"any finite {node.name}"
        if given is None:
            given = tuple((v - np.asarray(mean)) / np.asarray(std) for v in (0.0, 1.0))
        low, high = float(np.min(given[0])), float(np.max(given[1]))
        each = ", by channel" if np.size(given[0]) > 1 or np.size(given[1]) > 1 else ""
        return f"{node.name} in {low:.4g} … {high:.4g}{each}"

    @cached_property
    def run(self) -> Run:
        """The network on dojang's engine."""
        return session_run(self.graph, self.finite_samples)

    @cached_property
    def finite_samples(self) -> Samples:
        """The samples. Raises `DataError` where there are none, or one holds NaN or infinity."""
        if self.samples is None or not number_of(self.samples):
            raise DataError("there are no samples to look at; give at least one")
        for array in self.samples.values() if isinstance(self.samples, Mapping) else (self.samples,):
            if not np.isfinite(array).all():
                what = "NaN" if not (array == array).all() else "infinity"
                raise DataError(f"a sample holds {what}; leave it out, or repair the data")
        return self.samples

    def gather(
        self,
        values: Iterable[str] = (),
        pairs: Iterable[Pair] = (),
        share: Samples | None = None,
        reduced: Reduced | None = None,
        finite: Iterable[str] = (),
        extremes: Iterable[str] = (),
    ) -> None:
        """One pass over the samples for what is not known yet of these values and pairs; none where all is known.

        Values whose channels are not followed are left out. Where several processes share the work each gives its
        `share` of the samples, and `reduced` joins their figures. Values in `finite` are looked at for NaN and infinity
        only, of those in `extremes` no means and covariances are taken. Raises `DataError` where there are no samples,
        or a sample is NaN or infinite, and `NotFiniteError` where an activation is.
        """
        tracks = self.channels.tracks
        axes = {v: t.axis for v in values if v not in self._statistics and (t := tracks[v]) is not None}
        ends = {v: t.axis for v in extremes if v not in self._extremes and (t := tracks[v]) is not None}
        ends = {v: axis for v, axis in ends.items() if v not in axes and v not in self._statistics}
        missing = [pair for pair in dict.fromkeys(pairs) if pair not in self._products]
        if not axes and not missing and not ends:
            return
        samples = self.finite_samples if share is None else share
        looked = list(finite)
        statistics, products = observe(
            self.run,
            samples,
            axes | ends,
            missing,
            self.threshold,
            reduced,
            looked,
            frozenset(ends),
            at_once(self.graph),
        )
        self._extremes |= {name: statistics.pop(name) for name in ends}
        self._statistics |= statistics
        self._products |= products
        self.passes += 1

    def statistics(self, values: Iterable[str]) -> dict[str, Statistics]:
        """The statistics of these values, by name; those whose channels are not followed are left out."""
        values = list(dict.fromkeys(values))
        self.gather(values)
        return {value: self._statistics[value] for value in values if value in self._statistics}

    def extremes(self, values: Iterable[str]) -> dict[str, Statistics]:
        """As `statistics`, where means and covariances are not needed and may be empty."""
        values = list(dict.fromkeys(values))
        self.gather((), extremes=values)
        return {v: s for v in values if (s := self._statistics.get(v) or self._extremes.get(v)) is not None}

    def products(self, pairs: Iterable[Pair]) -> dict[Pair, JointMoments]:
        """The joint figures of these pairs of values over all pixels, the smaller map upsampled to the larger."""
        pairs = list(dict.fromkeys(pairs))
        self.gather((), pairs)
        return {pair: self._products[pair] for pair in pairs}

    def activations(self, values: Iterable[str], most: int | None = None) -> Iterator[Mapping[str, Array]]:
        """The values themselves on the samples (the first `most` of them), batch by batch.

        Raises `DataError` where one is not finite: no fit could be made of it.
        """
        names, samples = list(values), self.finite_samples
        for x in batches(samples if most is None else first(samples, most), at_once(self.graph)):
            taps = self.run(x, names)
            require_finite(taps, names)
            yield taps

    def patches(self, layers: Iterable[str]) -> dict[str, Patches]:
        """What these convolutions read, by name, on two halves of the samples; one more pass for those not known yet.

        Several processes take this pass each, over all samples: what they find is the same.
        """
        names = list(dict.fromkeys(layers))
        missing = [self.graph[name] for name in names if name not in self._patches]
        if missing:
            total = number_of(self.finite_samples)
            self._patches |= gathered(self.graph, missing, total, self.activations)
        return {name: self._patches[name] for name in names}

    @contextmanager
    def watched_by(self, watchers: Sequence[Watcher]) -> Iterator[None]:
        """Within it the watchers see each batch that the network is run on, so that a pass serves them as well."""
        plain = self.run
        self.__dict__["run"] = seen_by(plain, watchers)
        try:
            yield
        finally:
            self.__dict__["run"] = plain
