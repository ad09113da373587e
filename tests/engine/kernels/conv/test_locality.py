"""What one pixel of a million, or one that is no number, does to outputs that do not read it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dojang.arith.conv import Conv
from dojang.arith.graph import Graph, Node
from dojang.engine import compiled as engine
from dojang.engine.kernels.conv import ALGORITHMS, fallback, fourier, winograd
from dojang.engine.kernels.task import Offer, Task
from dojang.native.machine import Machine
from kernels import compiled, oracle, run

HOST = Machine.host()
SPIKES = [1e6, -1e6, np.nan, np.inf]
LAYERS = {
    "3x3": Conv.of(64, 64, (12, 13), 3, padding=1),
    "5x5": Conv.of(16, 32, (12, 13), 5, padding=2),
    "1x1": Conv.of(32, 48, (9, 10), 1),
    "stride": Conv.of(24, 32, (13, 12), 3, stride=2, padding=((0, 1), (1, 2))),
    "depthwise": Conv.of(32, 32, (12, 13), 3, padding=1, groups=32),
    "groups": Conv.of(32, 32, (12, 13), 3, padding=1, groups=8),
    "transposed": Conv.of(16, 16, (7, 6), 3, stride=2, padding=1, transposed=True),
    "large": Conv.of(8, 8, (20, 21), 7, padding=3),
    "one axis": Conv.of(32, 32, (40,), 3, padding=1),
    "three axes": Conv.of(8, 16, (5, 6, 7), 3, padding=1),
    "dense": Conv.of(40, 24, (1, 1), 1),
}
rng = np.random.default_rng(0)


def spiked(conv: Conv, spike: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Input without and with the spike, weights, and which outputs read it."""
    x, w = (
        rng.standard_normal((1, *conv.in_shape[1:])).astype("f4"),
        rng.standard_normal(conv.weight_shape).astype("f4"),
    )
    at = (0, 1, *(s // 2 for s in conv.size))
    flag, other = np.zeros_like(x), x.copy()
    flag[at], other[at] = 1, spike
    return x, other, w, oracle(conv, flag, np.ones_like(w), None) != 0


@pytest.mark.parametrize("name", LAYERS)
def test_strict_is_local(name: str) -> None:
    """Every algorithm that `strict` allows: outputs that do not read the pixel keep every bit, the others are right."""
    conv = LAYERS[name]
    task = Task.of(conv, strict=True)
    able = [a for a in ALGORITHMS if a is not fallback and isinstance(a.offer(task, HOST), Offer)]
    assert able
    for algorithm in able:
        code = compiled(algorithm, task, HOST)
        for spike in SPIKES:
            x, other, w, reads = spiked(conv, spike)
            before, after = (np.moveaxis(run(algorithm, task, HOST, a, w, None, code=code), -1, 1) for a in (x, other))
            assert np.array_equal(before[~reads], after[~reads]), (algorithm.NAME, spike)
            if np.isfinite(spike):
                right, size = oracle(conv, other, w, None), oracle(conv, np.abs(other), np.abs(w), None)
                terms = conv.weights // conv.oc + 2
                assert (np.abs(after - right) <= 2.0**-24 * terms * size).all(), (algorithm.NAME, spike)
            else:
                assert not np.isfinite(after[reads]).any(), (algorithm.NAME, spike)


@pytest.mark.parametrize("name", ["3x3", "5x5", "large"])
def test_strict_networks_are_local(name: str) -> None:
    """The same through a compiled network, whose plan holds neither Winograd nor Fourier."""
    conv = LAYERS[name]
    layer = Node.of("c", "conv", "x", out=conv.oc, kernel=conv.kernel, padding=conv.padding, bias=False)
    graph = Graph((Node.of("x", "input", shape=conv.in_shape[1:]), layer), ("c",), "one")
    x, other, w, reads = spiked(conv, 1e6)
    network = engine.compile(graph.replace(weights={"c.weight": w}), precision="strict", threads=1)
    assert not {c.algorithm for c in network.plan(1).choices} & {"winograd", "fourier", "amx"}
    assert np.array_equal(network(x)[~reads], network(other)[~reads])


BOUND = 256  # units of 2⁻²⁴; docs/engine.md says so


@pytest.mark.parametrize(
    ("m", "name"), [(2, "3x3"), (4, "3x3"), (2, "5x5"), (4, "5x5"), (4, "one axis"), (2, "one axis")]
)
def test_what_winograd_may_be_off_by(m: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most `BOUND` units of the largest sum of |x·w| among the outputs of the tile; NaN stays in its tiles."""
    conv = LAYERS[name]
    task = Task.of(conv)
    shape = winograd._cuts(winograd.two(task), HOST, m)[0]
    monkeypatch.setattr(winograd, "shape_of", lambda *_: replace(shape))
    code = compiled(winograd, task, HOST)
    pool = F.max_pool1d if conv.rank == 1 else F.max_pool2d
    for spike in (1.0, 1e4, 1e6):
        _, other, w, _ = spiked(conv, spike)
        found = np.moveaxis(run(winograd, task, HOST, other, w, None, code=code), -1, 1)
        right, size = oracle(conv, other, w, None), oracle(conv, np.abs(other), np.abs(w), None)
        most = torch.from_numpy(size).amax(1, keepdim=True)
        near = pool(most, 2 * m - 1, 1, m - 1).numpy()
        assert (np.abs(found - right) <= BOUND * 2.0**-24 * near).all(), spike
    _, other, w, reads = spiked(conv, np.nan)
    found = np.moveaxis(run(winograd, task, HOST, other, w, None, code=code), -1, 1)
    around = pool(torch.from_numpy(reads).double(), 2 * m - 1, 1, m - 1).numpy() > 0
    assert np.isfinite(found[~around]).all()


def test_what_fourier_may_be_off_by() -> None:
    """At most 16 units of the largest sum of |x·w| of the map: a spike is felt wherever its tile reaches."""
    conv = LAYERS["large"]
    code = compiled(fourier, Task.of(conv), HOST)
    for spike in (1.0, 1e4, 1e6):
        _, other, w, _ = spiked(conv, spike)
        found = np.moveaxis(run(fourier, Task.of(conv), HOST, other, w, None, code=code), -1, 1)
        right, size = oracle(conv, other, w, None), oracle(conv, np.abs(other), np.abs(w), None)
        assert np.abs(found - right).max() <= 16 * 2.0**-24 * size.max(), spike
