"""Timing a network here, with other runtimes in the same interleaved rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np

from dojang.app.networks import InputSize, load, require_weights
from dojang.app.record import machine
from dojang.app.runtimes import Run, runner, version_of
from dojang.app.samples import one_input
from dojang.arith.graph import Graph
from dojang.base.errors import MissingPart, UsageError
from dojang.engine.reference.operators import random_input
from dojang.report.results import Bench, Timing
from dojang.slimming.timing import interleave

PEERS = ("torch", "torch channels-last", "onnxruntime")


def bench(
    net: Any,
    *,
    peers: bool = False,
    batch_size: int = 1,
    rounds: int = 31,
    seed: int = 0,
    weights: str | Path | None = None,
    input_size: InputSize | None = None,
    num_classes: int | None = None,
) -> Bench:
    """Milliseconds for a batch on dojang and, with `peers`, on PyTorch (both layouts) and ONNX Runtime.

    The result has the median and the interquartile range over `rounds`, in each of which every runtime has its turn.
    Input is normal random numbers drawn by `seed`. A network without weights gets random ones, which take as long.
    Peers that are not installed are named in `missing`. `net`, `weights`, `input_size` and `num_classes` are as in
    `load`. Raises what `load` raises, and `UsageError` for sizes that are too small.

    >>> [timing.runtime for timing in bench("digits-cnn", rounds=2).results]
    ['dojang']
    """
    if batch_size < 1 or rounds < 2:
        raise UsageError(f"batch size {batch_size} must be at least 1, rounds {rounds} at least 2")
    graph = load(net, weights=weights, input_size=input_size, num_classes=num_classes)
    said = "weights as given" if graph.weights else f"random weights, seed {seed}"
    graph = require_weights(graph if graph.weights else with_random_weights(graph, seed), graph.name)
    x = random_input(one_input(graph), batch_size, np.random.default_rng(seed))
    runs: dict[str, Run] = {"dojang": runner(graph, "dojang", batch_size)}
    missing: dict[str, str] = {}
    for peer in PEERS if peers else ():
        try:
            runs[peer] = runner(graph, peer)
        except MissingPart as error:
            missing[peer] = str(error)
    graph = graph.replace(weights={})  # what runs holds what it needs
    answers = {name: np.asarray(run(x)) for name, run in runs.items()}

    def bound(run: Run) -> Callable[[], object]:
        return lambda: run(x)

    times = interleave([bound(run) for run in runs.values()], rounds)
    results = tuple(
        Timing(name, version_of(name.partition(" ")[0]), median(own), _iqr(own), _apart(answers, name))
        for name, own in zip(runs, times, strict=True)
    )
    best = min((t.median_ms for t in results[1:]), default=None)
    ratio = results[0].median_ms / best if best else None
    return Bench(graph.name, batch_size, rounds, said, machine(), results, ratio, missing)


def with_random_weights(graph: Graph, seed: int) -> Graph:
    """Weights that keep values of ordinary size from layer to layer, so that no runtime meets denormals or infinities.

    Normal with variance 2 / inputs; scales and variances 1; biases and means 0.
    """
    rng = np.random.default_rng(seed)
    made: dict[str, Any] = {}
    for name, shape in graph.param_shapes.items():
        if len(shape) > 1:
            made[name] = (rng.normal(size=shape) * np.sqrt(2 / prod(shape[1:]))).astype(np.float32)
        else:
            one = name.endswith(("weight", "running_var", "value"))
            made[name] = np.full(shape, 1.0 if one else 0.0, np.float32)
    return graph.with_weights(made)


def _iqr(times: Sequence[float]) -> float:
    low, _, high = quantiles(times, n=4, method="inclusive")
    return high - low


def _apart(answers: dict[str, np.ndarray], name: str) -> float | None:
    """Largest absolute difference from dojang's answer."""
    return None if name == "dojang" else float(np.abs(answers[name] - answers["dojang"]).max())
