"""Layers in a row in one kernel: equal to the definition of each on small integers, and inside networks."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from dojang.arith.conv import Conv
from dojang.arith.graph import Graph, Node
from dojang.engine.compiled import compile
from dojang.engine.kernels import bands
from dojang.engine.kernels import task as t
from dojang.engine.kernels.activations import Activation
from dojang.engine.kernels.bands import BandBlocking, BandTask
from dojang.engine.kernels.other import pool
from dojang.engine.kernels.other.pool import PoolTask
from dojang.engine.kernels.task import Offer, Task
from dojang.engine.reference.operators import run_reference
from dojang.native import jit
from dojang.native.machine import Machine
from kernels import gaps, guarded, kernel, last, oracle
from machines import RUNNABLE, name_of

HOST = Machine.host()
NARROW = [HOST.restrict(isa) for isa in HOST.narrower()]
RELU = Activation("relu")
rng = np.random.default_rng(0)
N = Node.of


def whole(*shape):
    return rng.integers(-3, 4, shape).astype("f4")


def windows(x, task):
    """The largest number under each window; float64 mean where asked."""
    pads = ((0, 0), (0, 0), *task.padding)
    wide = np.pad(x.astype("f8"), pads, constant_values=-np.inf if task.what == "max" else 0)
    out = np.empty((*x.shape[:2], *task.out_size))
    for place in np.ndindex(*task.out_size):
        box = tuple(slice(i * s, i * s + k) for i, s, k in zip(place, task.stride, task.kernel, strict=True))
        axes = tuple(range(2, x.ndim))
        part = wide[(..., *box)]
        out[(..., *place)] = part.max(axes) if task.what == "max" else part.mean(axes)
    return out


def run(task, machine, place=lambda a: a, n=2, x_gap=3, y_gap=2, bad=None):
    """(what the kernel writes, what the layers one by one give), channels first; gaps are checked."""
    first = task.stages[0]
    ic, size = (first.conv.ic, first.conv.size) if isinstance(first, Task) else (first.channels, first.size)
    x = whole(n, ic, *size)
    if bad is not None:
        x[0, 0, ..., 0] = bad
    value, arrays, residual = x, [], None
    for stage in task.stages:
        if isinstance(stage, PoolTask):
            arrays.append(None)
            value = windows(value, stage)
            continue
        w, b = whole(*stage.conv.weight_shape), whole(stage.conv.oc)
        arrays.append((w, b))
        value = oracle(stage.conv, value, w, b)
        if stage.residual_ld:
            residual = whole(*value.shape)
            value = value + residual
        if stage.activation is not None:
            value = np.maximum(value, 0)
    oc, out = value.shape[1], value.shape[2:]
    rows = gaps(last(x), ic + x_gap, np.nan).reshape(-1)
    rows = rows[: rows.size - x_gap]
    y = place(np.full(n * int(np.prod(out)) * (oc + y_gap) - y_gap, 7, "f4"))
    code = bands.emit(task, machine)
    weights, bias = bands.pack(task, machine, arrays)
    words = {t.X: place(rows), t.W: place(weights), t.B: place(bias), t.Y: y}
    if residual is not None:
        words[t.R] = place(last(residual).reshape(-1))
    scratch = place(np.full(code.scratch // 4, np.nan, "f4"))
    args = np.zeros(t.WORDS, np.int64)
    args[t.N] = n
    for word, array in words.items():
        args[word] = array.ctypes.data
    (step,) = code.steps
    args[t.SIZES : t.SIZES + len(step.sizes)] = step.sizes
    function = kernel(step, machine)
    for unit in range(step.units(n)):
        function(args.ctypes.data, unit, scratch.ctypes.data)
    full = np.full(n * int(np.prod(out)) * (oc + y_gap), 7, "f4")
    full[: y.size] = y
    full = full.reshape(n, *out, oc + y_gap)
    assert (full[..., oc:] == 7).all()
    return np.moveaxis(full[..., :oc], -1, 1), value


def chain(ic, mid, oc, size, kernel=3, stride=1, padding=1, dilation=1, front=1, residual=False):
    """Front (a kernel of `front`), depthwise, back; 0 channels: that stage is missing."""
    gap = {"x_ld": ic + 3}
    head = Task.of(Conv.of(ic, mid, size, front, padding=front // 2), activation=RELU, **gap) if ic else None
    middle = Task.of(Conv.of(mid, mid, size, kernel, stride, padding, dilation, groups=mid), activation=RELU)
    back = Task.of(Conv.of(mid, oc, middle.conv.out_size, 1), residual_ld=oc if residual else 0) if oc else None
    task = BandTask(head, middle, back)
    if head is None:
        task = replace(task, middle=replace(middle, x_ld=mid + 3))
    return ended(task)


def ended(task):
    """The task with a gap of 2 between the pixels of its result."""
    where = "back" if task.back is not None else "middle"
    stage = getattr(task, where)
    width = stage.conv.oc if isinstance(stage, Task) else stage.channels
    return replace(task, **{where: replace(stage, y_ld=width + 2)})


def pooled(ic, oc, size, kernel, stride, padding, what="max", window=3, step=2, pad=1):
    """Front, pooling."""
    head = Task.of(Conv.of(ic, oc, size, kernel, stride, padding), x_ld=ic + 3, activation=RELU)
    middle = pool.of_conv(Conv.of(oc, oc, head.conv.out_size, window, step, pad, groups=oc), what)
    return ended(BandTask(head, middle))


TASKS = {
    "expand, depthwise, project": chain(24, 100, 40, (14, 15), residual=True),
    "stride 2": chain(8, 96, 24, (15, 17), stride=2),
    "whole vectors": chain(16, 64, 32, (9, 7)),
    "5x5, dilated": chain(6, 33, 5, (11, 12), 5, (2, 1), ((3, 1), (2, 4)), (1, 2)),
    "3x3 before": chain(3, 32, 16, (13, 10), front=3),
    "no back": chain(17, 70, 0, (8, 9)),
    "no front": chain(0, 70, 33, (12, 29), residual=True),
    "one axis": chain(5, 20, 6, (31,)),
    "windows that see only padding": chain(4, 16, 8, (2, 3), padding=3),
    "maximum": pooled(3, 70, (31, 33), 7, 2, 3),
    "mean": pooled(4, 32, (12, 14), 3, 1, 1, "avg", 2, 2, 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("machine", [HOST, *NARROW], ids=lambda m: m.isa)
def test_equal_on_integers(name, machine, monkeypatch):
    """As planned, and in the smallest units: one row, one block of channels. No load or store leaves the arrays."""
    task = TASKS[name]
    assert isinstance(bands.offer(task, machine), Offer)
    planned = bands.plan(task, machine)[0]
    blocks = -(-bands.vectors_of(bands.window_of(task).channels, machine) // planned.vectors)
    for cut in (
        planned,
        BandBlocking(1, planned.vectors, blocks if task.back else 1),
        BandBlocking(2, planned.vectors, blocks),
    ):
        monkeypatch.setattr(bands, "plan", lambda *_, cut=cut: (cut, 0.0))
        for at_end in (True, False):
            found, expected = run(task, machine, place=lambda a, at_end=at_end: guarded(a, at_end))
            assert (found == expected).all()


@pytest.mark.slow
def test_nan_and_infinity_go_where_they_should():
    for task, bad in product(TASKS.values(), (np.nan, np.inf)):
        # Positive weights would hide nothing; a maximum of NaN is NaN, as in the reference.
        with np.errstate(invalid="ignore"):
            found, expected = run(task, HOST, bad=bad)
        assert np.array_equal(np.isfinite(found), np.isfinite(expected))
        assert (found[np.isfinite(expected)] == expected[np.isfinite(expected)]).all()


def test_refusals():
    machine = Machine.cross("avx512")
    good = TASKS["expand, depthwise, project"]
    wide = Task.of(Conv.of(100, 40, (14, 15), 3, padding=1))
    grouped = Task.of(Conv.of(100, 100, (14, 15), 3, padding=1, groups=50))
    assert isinstance(bands.offer(good, machine), Offer)
    assert "more than one tap" in bands.offer(replace(good, back=wide), machine).reason
    assert "depthwise" in bands.offer(replace(good, middle=grouped), machine).reason
    assert "residual" in bands.offer(replace(good, front=replace(good.front, residual_ld=9)), machine).reason
    assert "float32" in bands.offer(replace(good, front=replace(good.front, kind="f64")), machine).reason
    assert bands.offer(BandTask(None, pool.of_conv(Conv.of(9, 9, (4, 4), 4, groups=9), "max")), machine).reason


@pytest.mark.parametrize("isa", ["neon", "avx512", "avx2"])
def test_compiles_for_other_processors(isa):
    machine = Machine.cross(isa)
    for name in ("expand, depthwise, project", "maximum"):
        text = bands.emit(TASKS[name], machine).steps[0].build("kernel")
        assert {"neon": "fmla", "avx512": "zmm", "avx2": "vfmadd"}[isa] in jit.assembly(text, machine)


def network():
    """Two blocks of MobileNetV2 after a convolution with pooling; one value inside is read twice."""
    nodes = [
        N("x", "input", shape=(3, 33, 30)),
        N("stem", "conv", "x", out=16, kernel=(3, 3), padding=1),
        N("stemr", "relu", "stem"),
        N("p", "maxpool", "stemr", kernel=(3, 3), stride=2, padding=1),
    ]
    before = "p"
    for k in range(2):
        nodes += [
            N(f"e{k}", "conv", before, out=48, kernel=(1, 1), bias=False),
            N(f"eb{k}", "batchnorm", f"e{k}"),
            N(f"er{k}", "clip", f"eb{k}", min=0.0, max=6.0),
            N(f"d{k}", "conv", f"er{k}", out=48, kernel=(3, 3), padding=1, groups=48),
            N(f"dr{k}", "clip", f"d{k}", min=0.0, max=6.0),
            N(f"q{k}", "conv", f"dr{k}", out=16, kernel=(1, 1)),
            N(f"a{k}", "add", f"q{k}", before),
        ]
        before = f"a{k}"
    graph = Graph(tuple(nodes), (before,))
    weights = {}
    for name, shape in graph.param_shapes.items():
        scale = max(1, np.prod(shape[1:])) ** 0.5
        weights[name] = (
            np.abs(rng.standard_normal(shape)) + 0.5 if "var" in name else rng.standard_normal(shape)
        ) / scale
    return graph.replace(weights={k: v.astype("f4") for k, v in weights.items()})


def with_cache(machine, gbs):
    """The machine with another rate of its shared cache: what lies between layers goes through it, unless in bands."""
    return replace(machine, peaks=replace(machine.peaks, cache_gbs=gbs))


@pytest.mark.parametrize("machine", RUNNABLE, ids=name_of)
@pytest.mark.parametrize("taps", [(), ("er0", "dr1")])
@pytest.mark.parametrize("release", [False, True])
def test_in_a_network(taps, release, machine):
    graph = network()
    run_ = compile(graph, threads=2, release=release, machine=with_cache(machine, 8.0))
    for n in (1, 3, 0):
        x = rng.standard_normal((n, 3, 33, 30)).astype("f4")
        exact = run_reference(graph, {"x": x}, np.float64, taps)
        found = run_.run(x, () if release else taps)
        assert np.abs(found.outputs[0] - exact.outputs[0]).max(initial=0) < 1e-4
        for name in found.taps:
            assert np.abs(found.taps[name] - exact.taps[name]).max(initial=0) < 1e-4
    joined = [c for c in run_.plan(1).choices if c.algorithm == "bands"]
    assert {m for c in joined for m in c.members} >= {"d0", "d1"}
    assert all(dict(c.refused)["one by one"].startswith("slower") for c in joined)
    if taps and not release:
        inner = {m for c in run_.plan(1, taps).choices if c.algorithm == "bands" for m in c.members}
        assert "er0" not in inner or "d0" not in inner


@pytest.mark.parametrize("machine", RUNNABLE, ids=name_of)
def test_one_by_one_where_the_cache_is_fast(machine):
    graph, x = network(), rng.standard_normal((1, 3, 33, 30)).astype("f4")
    run_ = compile(graph, threads=2, machine=with_cache(machine, 1000.0))
    assert not any({"e1", "d1"} <= set(c.members) for c in run_.plan(1).choices)
    assert np.abs(run_(x) - run_reference(graph, {"x": x}, np.float64).outputs[0]).max() < 1e-4


def test_what_is_read_twice_stays_apart():
    graph = network()
    graph = graph.replace(nodes=(*graph.nodes, N("more", "add", "a1", "a1"), N("er1b", "relu", "er1")),
                          outputs=("more", "er1b"))  # fmt: skip
    x = rng.standard_normal((1, 3, 33, 30)).astype("f4")
    run_ = compile(graph, threads=1, machine=with_cache(RUNNABLE[0], 8.0))
    exact = run_reference(graph, {"x": x}, np.float64)
    for a, b in zip(run_.run(x).outputs, exact.outputs, strict=True):
        assert np.abs(a - b).max() < 1e-4
    assert not any({"e1", "d1"} <= set(c.members) for c in run_.plan(1).choices)
