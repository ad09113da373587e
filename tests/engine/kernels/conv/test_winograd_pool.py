"""Maximum pooling behind Winograd's output stage: the full map is never written. Against PyTorch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dojang.arith.conv import Conv
from dojang.arith.graph import Graph, Node
from dojang.engine.compiled import compile
from dojang.engine.kernels import task as t
from dojang.engine.kernels.activations import Activation
from dojang.engine.kernels.conv import winograd
from dojang.engine.kernels.task import Offer, Task
from dojang.native import jit
from dojang.native.machine import Machine
from kernels import guarded, kernel, last
from machines import RUNNABLE, name_of

N = Node.of
HOST = Machine.host()
NARROW = [HOST.restrict(isa) for isa in HOST.narrower()]
rng = np.random.default_rng(0)


def shapes(task, machine):
    """The three orders of work, m = 2 and 4."""
    for m in (2, 4):
        plain = winograd._cuts(task, machine, m)[0]
        yield replace(plain, phased=False, tiles=2 * plain.pixels)  # whole register tiles, whatever was planned
        yield replace(plain, phased=True, tiles=3)
        fresh = winograd._fresh(task, machine, m)
        if fresh is not None:
            yield replace(fresh, tiles=2 * fresh.pixels)


SIZES = [((12, 16), 32), ((9, 15), 64), ((2, 3), 20), ((7, 2), 48)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("machine", "size", "oc"),
    [
        *((HOST, *one) for one in SIZES),
        *((m, *one) for i, m in enumerate(NARROW) for one in SIZES[i % 2 :: 2]),
    ],
    ids=lambda v: getattr(v, "isa", None),
)
def test_every_order(machine, size, oc, monkeypatch):
    """Even and odd sizes, tails of channels; all arrays against unmapped pages."""
    c = Conv.of(32, oc, size, 3, padding=1, n=2)
    x, w, b = (rng.standard_normal(s).astype("f4") for s in (c.in_shape, c.weight_shape, oc))
    exact = F.conv2d(*(torch.from_numpy(a).double() for a in (x, w, b)), padding=1)
    right = np.moveaxis(F.max_pool2d(exact.relu(), 2).numpy(), 1, -1)
    out = tuple(s // 2 for s in size)
    task = Task.of(c, y_ld=oc + 1, activation=Activation("relu"), halved=True)
    assert isinstance(winograd.offer(task, machine), Offer)
    orders = list(shapes(task, machine))
    for at_end, shape in enumerate(orders):
        monkeypatch.setattr(winograd, "shape_of", lambda *_, shape=shape: shape)
        code = winograd.emit(task, machine)
        weight, bias = winograd.pack(task, machine, w, b)
        y = np.full(2 * out[0] * out[1] * (oc + 1) - 1, 7, "f4")
        arrays = {t.X: last(x), t.W: weight, t.B: bias, t.Y: y}
        arrays |= dict(zip((t.S0, t.S1), (np.full(n // 4, np.nan, "f4") for n in code.shared(2)), strict=True))
        arrays = {k: guarded(a, bool(at_end % 2)) for k, a in arrays.items()}
        scratch, args = guarded(np.full(code.scratch // 4, np.nan, "f4")), np.zeros(t.WORDS, np.int64)
        args[t.N] = 2
        for word, array in arrays.items():
            args[word] = array.ctypes.data
        for step in code.steps:
            args[t.SIZES : t.SIZES + len(step.sizes)] = step.sizes
            function = kernel(step, machine)
            for unit in range(step.units(2)):
                function(args.ctypes.data, unit, scratch.ctypes.data)
        found = np.append(arrays[t.Y], np.float32(7)).reshape(2, *out, oc + 1)
        assert np.abs(found[..., :oc] - right).max() <= 3e-5 * (32 * 9) ** 0.5
        assert (found[..., oc:] == 7).all()
    assert len(orders) >= 4


def network(pool, batch=2, activation="relu", size=(32, 33)):
    nodes = [N("x", "input", shape=(32, *size)), N("c", "conv", "x", out=32, kernel=(3, 3), padding=1)]
    nodes += [N("a", activation, "c")] if activation else []
    nodes += [N("p", "maxpool", nodes[-1].name, **pool)]
    graph = Graph(tuple(nodes), ("p",), "some")
    weights = {k: rng.standard_normal(s).astype("f4") for k, s in graph.param_shapes.items()}
    return graph.replace(weights=weights), rng.standard_normal((batch, 32, *size)).astype("f4")


@pytest.mark.parametrize("machine", RUNNABLE, ids=name_of)
@pytest.mark.parametrize("activation", ["relu", None, "leaky_relu"])
def test_a_network_computes_the_same(activation, machine):
    """Fused where nothing else wants the map; leaky_relu is not known to keep the order, and is not fused here."""
    graph, x = network({"kernel": (2, 2), "stride": (2, 2)}, activation=activation)
    run = compile(graph, threads=2, machine=machine)
    w, b = (torch.from_numpy(graph.weights[k]).double() for k in ("c.weight", "c.bias"))
    full = F.conv2d(torch.from_numpy(x).double(), w, b, padding=1)
    full = {"relu": F.relu, "leaky_relu": F.leaky_relu, None: lambda v: v}[activation](full)
    right = F.max_pool2d(full, 2).numpy()
    assert np.abs(run(x) - right).max() <= 3e-5 * (32 * 9) ** 0.5
    if activation != "leaky_relu":
        members = ("c", "a", "p") if activation else ("c", "p")
        assert members in [c.members for c in run.plan(2).choices]
    taps = run.run(x, ("c",)).taps["c"]  # a value that is asked for is there
    assert np.abs(taps - F.conv2d(torch.from_numpy(x).double(), w, b, padding=1).numpy()).max() <= 6e-4


def test_refused_where_the_pooling_is_another():
    """Windows that overlap, padding, ceil mode, and values that are not finite go where they should."""
    for pool in ({"kernel": (3, 3), "stride": (2, 2)}, {"kernel": (2, 2), "stride": (2, 2), "padding": 1},
                 {"kernel": (2, 2), "stride": (2, 2), "ceil": True}):  # fmt: skip
        graph, x = network(pool)
        w, b = (torch.from_numpy(graph.weights[k]) for k in ("c.weight", "c.bias"))
        map_ = F.relu(F.conv2d(torch.from_numpy(x), w, b, padding=1))
        names = {"kernel": "kernel_size", "ceil": "ceil_mode"}
        right = F.max_pool2d(map_, **{names.get(k, k): v for k, v in pool.items()})
        assert np.abs(compile(graph)(x) - right.numpy()).max() <= 6e-4
    graph, x = network({"kernel": (2, 2), "stride": (2, 2)})
    x[0, 0, 4, 4] = np.nan
    assert np.isnan(compile(graph)(x)[0, :, 1:3, 1:3]).all()


@pytest.mark.parametrize("isa", ["neon", "avx512", "avx2"])
def test_compiles_for_other_processors(isa):
    task = Task.of(Conv.of(32, 32, (9, 14), 3, padding=1), halved=True)
    for step in winograd.emit(task, Machine.cross(isa)).steps:
        assert len(jit.compile_object(step.build("kernel"), Machine.cross(isa))) > 500
