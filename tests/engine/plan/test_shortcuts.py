"""Shortcuts of residual blocks without weights: every s-th pixel, zeros for new channels, read where they are added."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dojang.arith.conv import Conv
from dojang.arith.graph import Graph, Node
from dojang.engine.compiled import compile
from dojang.engine.kernels.activations import Activation
from dojang.engine.kernels.conv import amx, winograd
from dojang.engine.kernels.task import Refusal, Sparse, Task
from dojang.native.machine import Machine
from kernels import guarded, run
from machines import RUNNABLE, name_of

N = Node.of
HOST = Machine.host()
NARROW = [HOST.restrict(isa) for isa in HOST.narrower()]
rng = np.random.default_rng(0)


def added(source, sparse, channels, out):
    """What the shortcut adds, by PyTorch."""
    picked = torch.from_numpy(source).double()[:, :, :: sparse.step[0], :: sparse.step[1]][..., : out[0], : out[1]]
    return F.pad(picked, (0, 0, 0, 0, sparse.before, channels - sparse.channels - sparse.before)).numpy()


@pytest.mark.parametrize("machine", [HOST, *NARROW], ids=lambda m: m.isa)
@pytest.mark.parametrize("order", ["winograd", "phased", "fresh", "amx"])
@pytest.mark.parametrize(("oc", "before", "some"), [(32, 8, 16), (48, 0, 20), (64, 37, 27), (40, 33, 7)])
def test_nothing_outside_is_read(machine, order, oc, before, some, monkeypatch):
    """Two strides, channels that begin and end inside of vectors, all arrays against unmapped pages."""
    c = Conv.of(32, oc, (7, 5), 3, padding=1, n=2)
    size = (13, 15)
    sparse = Sparse(size, (2, 3), some, before)
    task = Task.of(c, residual_ld=some, activation=Activation("relu"), sparse=sparse)
    algorithm = amx if order == "amx" else winograd
    if isinstance(algorithm.offer(task, machine), Refusal):
        pytest.skip("no matrix tiles")
    if order != "amx":
        shape = winograd.shape_of(task, machine)
        # Whole register tiles, whatever was planned for this machine.
        shape = replace(shape, phased=order == "phased", tiles=2 * shape.pixels, chunk=0)
        if order == "fresh":
            shape = winograd._fresh(task, machine, 2)
            if shape is None:
                pytest.skip("channels are not whole vectors")
        monkeypatch.setattr(winograd, "shape_of", lambda *_: shape)
    x, w, b = (rng.standard_normal(s).astype("f4") for s in (c.in_shape, c.weight_shape, oc))
    source = rng.standard_normal((2, some, *size)).astype("f4")
    exact = F.conv2d(*(torch.from_numpy(a).double() for a in (x, w, b)), padding=1).numpy()
    right = np.maximum(exact + added(source, sparse, oc, (7, 5)), 0)
    for at_end in (True, False):
        y = run(algorithm, task, machine, x, w, b, source, place=lambda a, at_end=at_end: guarded(a, at_end))
        assert np.abs(np.moveaxis(y, -1, 1) - right).max() <= 3e-5 * (32 * 9) ** 0.5


def block(pick=None, value=0.0):
    """A residual block from 16 to 32 channels."""
    pick = pick or {"kernel": (1, 1), "stride": (2, 2)}
    nodes = (
        N("x", "input", shape=(16, 17, 18)),
        N("a", "conv", "x", out=32, kernel=(3, 3), padding=1, stride=2),
        N("b", "conv", "a", out=32, kernel=(3, 3), padding=1),
        N("p", "maxpool", "x", **pick),
        N("s", "pad", "p", pads=((8, 8), (0, 0), (0, 0)), value=value),
        N("y", "add", "b", "s"),
        N("r", "relu", "y"),
    )
    graph = Graph(nodes, ("r",), "block")
    weights = {k: rng.standard_normal(s).astype("f4") for k, s in graph.param_shapes.items()}
    return graph.replace(weights=weights)


def by_torch(graph, x, value=0.0):
    """The same by its definition, in float64."""
    w = {k: torch.from_numpy(v).double() for k, v in graph.weights.items()}
    x = torch.from_numpy(x).double()
    a = F.conv2d(x, w["a.weight"], w["a.bias"], stride=2, padding=1)
    b = F.conv2d(a, w["b.weight"], w["b.bias"], padding=1)
    return F.relu(b + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8), value=value)).numpy()


@pytest.mark.parametrize("machine", RUNNABLE, ids=name_of)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("precision", ["fast", "strict"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_block_computes_the_same(threads, precision, batch, machine):
    graph, x = block(), rng.standard_normal((batch, 16, 17, 18)).astype("f4")
    compiled = compile(graph, threads=threads, precision=precision, machine=machine)
    right = by_torch(graph, x)
    assert np.abs(compiled(x) - right).max() <= 1e-5 * np.abs(right).max()
    steps = [c.members for c in compiled.plan(batch).choices]
    # Direct kernels do not read it in place: then it is computed before.
    assert (("p", "s", "b", "y", "r") in steps) == (precision == "fast")
    assert len(steps) == (4 if precision == "fast" else 6)


def test_a_shortcut_that_is_asked_for_is_there():
    graph, x = block(), rng.standard_normal((2, 16, 17, 18)).astype("f4")
    found = compile(graph).run(x, ("s",))
    right = by_torch(graph, x)
    assert np.abs(found.outputs[0] - right).max() <= 1e-5 * np.abs(right).max()
    assert np.array_equal(found.taps["s"][:, 8:24], x[:, :, ::2, ::2])
    assert not found.taps["s"][:, :8].any()


@pytest.mark.skipif(
    isinstance(amx.offer(Task.of(Conv.of(32, 32, (7, 5), 3, padding=1)), HOST), Refusal), reason="no tiles"
)
def test_units_computed_again_add_the_same():
    """Matrix tiles compute a unit again where an input is infinite: far from it the sums are as they were."""
    c, sparse = Conv.of(32, 40, (7, 5), 3, padding=1), Sparse((14, 10), (2, 2), 20, 11)
    x, w, b = (rng.standard_normal(s).astype("f4") for s in (c.in_shape, c.weight_shape, 40))
    source = rng.standard_normal((1, 20, 14, 10)).astype("f4")
    x[0, 3, 0, 0] = np.inf
    y = np.moveaxis(run(amx, Task.of(c, residual_ld=20, sparse=sparse), HOST, x, w, b, source), -1, 1)
    x[0, 3, 0, 0] = 0
    exact = F.conv2d(*(torch.from_numpy(a).double() for a in (x, w, b)), padding=1).numpy()
    right = exact + added(source, sparse, 40, (7, 5))
    assert not np.isfinite(y[0, :, :2, :2]).any()
    y[0, :, :2, :2] = right[0, :, :2, :2]
    assert np.abs(y - right).max() <= 3e-5 * (32 * 9) ** 0.5


@pytest.mark.parametrize("value", [1.5, -0.5])
def test_other_numbers_than_zeros_stay_steps(value):
    graph, x = block(value=value), rng.standard_normal((1, 16, 17, 18)).astype("f4")
    compiled, right = compile(graph), by_torch(graph, x, value)
    assert np.abs(compiled(x) - right).max() <= 1e-5 * np.abs(right).max()
    assert len(compiled.plan().choices) == 6


def test_other_poolings_stay_steps():
    graph, x = block(pick={"kernel": (3, 3), "stride": 2, "padding": 1}), rng.standard_normal((1, 16, 17, 18))
    w = {k: torch.from_numpy(v).double() for k, v in graph.weights.items()}
    deep = torch.from_numpy(x)
    a = F.conv2d(deep, w["a.weight"], w["a.bias"], stride=2, padding=1)
    b = F.conv2d(a, w["b.weight"], w["b.bias"], padding=1)
    right = F.relu(b + F.pad(F.max_pool2d(deep, 3, 2, 1), (0, 0, 0, 0, 8, 8))).numpy()
    compiled = compile(graph)
    assert np.abs(compiled(x) - right).max() <= 1e-5 * np.abs(right).max()
    assert len(compiled.plan().choices) == 6
