"""What is known about one trained network: each fact is computed once, and is the same for whoever finds and cuts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, final

import numpy as np

from dojang.arith.channels import ChannelMap, channels
from dojang.arith.graph import Graph
from dojang.base.errors import DataError
from dojang.evidence.activations import (
    Pair,
    Reduced,
    Run,
    Samples,
    Statistics,
    batches,
    first,
    number_of,
    observe,
    session_run,
)
from dojang.evidence.equal_channels import ChannelNumbers, numbers
from dojang.evidence.intervals import Range, ranges
from dojang.evidence.moments import JointMoments, require_finite
from dojang.evidence.watchers import Watcher, seen_by

Array = np.ndarray
InputRange = Mapping[str, tuple[Any, Any]]
"""Least and largest value by input name (numbers, or one per channel)."""


@final
class Evidence:
    """Facts about one network on one set of samples; each is computed when it is first asked for, and kept.

    Proved by weights and input range alone: `ranges`, `equal`. Measured on the samples: `statistics`, `products`. What
    is wanted of the samples should be asked for together (`gather`), which takes one pass over them. A network that
    was edited has an Evidence of its own on the same samples (`on`).
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
        self._products: dict[Pair, JointMoments] = {}

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
    ) -> None:
        """One pass over the samples for what is not known yet of these values and pairs; none where all is known.

        Values whose channels are not followed are left out. Where several processes share the work each gives its
        `share` of the samples, and `reduced` joins their figures. Raises `DataError` where there are no samples, or a
        sample or an activation is NaN or infinite.
        """
        tracks = self.channels.tracks
        axes = {v: t.axis for v in values if v not in self._statistics and (t := tracks[v]) is not None}
        missing = [pair for pair in dict.fromkeys(pairs) if pair not in self._products]
        if not axes and not missing:
            return
        samples = self.finite_samples if share is None else share
        statistics, products = observe(self.run, samples, axes, missing, self.threshold, reduced)
        self._statistics |= statistics
        self._products |= products
        self.passes += 1

    def statistics(self, values: Iterable[str]) -> dict[str, Statistics]:
        """The statistics of these values, by name; those whose channels are not followed are left out."""
        values = list(dict.fromkeys(values))
        self.gather(values)
        return {value: self._statistics[value] for value in values if value in self._statistics}

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
        for x, _ in batches(samples if most is None else first(samples, most)):
            taps = self.run(x, names)
            require_finite(taps, names)
            yield taps

    @contextmanager
    def watched_by(self, watchers: Sequence[Watcher]) -> Iterator[None]:
        """Within it the watchers see each batch that the network is run on, so that a pass serves them as well."""
        plain = self.run
        self.__dict__["run"] = seen_by(plain, watchers)
        try:
            yield
        finally:
            self.__dict__["run"] = plain
