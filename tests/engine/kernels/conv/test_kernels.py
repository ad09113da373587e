"""Every algorithm against the definition: equal on small integers, Winograd of bounded error, nothing else touched."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dojang.arith.conv import Conv
from dojang.base.errors import ShapeError
from dojang.engine.kernels import task as t
from dojang.engine.kernels.activations import Activation
from dojang.engine.kernels.conv import (
    ALGORITHMS,
    dense,
    depthwise,
    direct,
    grouped,
    pointwise,
    streamed,
    transposed,
    winograd,
)
from dojang.engine.kernels.conv.interpolate import matrices
from dojang.engine.kernels.task import Offer, Task
from dojang.native import jit
from dojang.native.machine import Machine
from kernels import guarded, oracle, run

HOST = Machine.host()
NARROW = [HOST.restrict(isa) for isa in HOST.narrower()]
EXACT = (dense, depthwise, grouped, pointwise, transposed, streamed, direct)
few = settings(max_examples=12)
rng = np.random.default_rng(0)


def whole(*shape):
    return rng.integers(-4, 5, shape).astype("f4")


@st.composite
def convs(draw, rank=None, transposed=False):
    rank = rank or draw(st.sampled_from([1, 2, 2, 2, 3]))
    groups = draw(st.sampled_from([1, 1, 2, 3, 5, 16]))
    icg, ocg = draw(st.sampled_from([1, 1, 2, 3, 4, 8, 17])), draw(st.sampled_from([1, 1, 2, 4, 8, 33]))
    axis = lambda lo, hi: tuple(draw(st.integers(lo, hi)) for _ in range(rank))  # noqa: E731
    kernel = axis(1, 4)
    if draw(st.integers(0, 5)) == 0:
        kernel = (*kernel[:-1], draw(st.integers(13, 15)))
    stride, dilation = axis(1, 3), axis(1, 2)
    padding = tuple((draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in range(rank))
    size = (*axis(1, 6)[:-1], draw(st.integers(1, 40)))
    extra = (
        tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)) if transposed else 0
    )
    try:
        return Conv.of(groups * icg, groups * ocg, size, kernel, stride, padding, dilation, groups,
                       transposed=transposed, output_padding=extra, n=draw(st.sampled_from([1, 1, 2, 3])))  # fmt: skip
    except ShapeError:
        assume(False)


def check(algorithm, task, machine, place=lambda a: a):
    c = task.conv
    x, w, b = whole(*c.in_shape), whole(*c.weight_shape), whole(c.oc)
    res = whole(*c.out_shape) if task.residual_ld else None
    y = run(algorithm, task, machine, x, w, b, res, place)
    expected = oracle(c, x, w, b) + (0 if res is None else res)
    if task.activation is not None:
        expected = np.maximum(expected, 0)
    assert (np.moveaxis(y[..., : c.oc], -1, 1) == expected).all()
    assert (y[..., c.oc :] == 7).all()


@pytest.mark.parametrize("algorithm", EXACT, ids=lambda a: a.NAME)
def test_equal_on_integers(algorithm):
    seen = []

    @few
    @given(st.data())
    def search(data):
        c = data.draw(convs(transposed=algorithm is transposed))
        if algorithm is dense:
            c = Conv.of(c.ic, c.oc, (1,), 1, n=c.n)
        if algorithm is pointwise:
            c = Conv.of(c.ic, c.oc, c.size, 1, groups=c.groups, n=c.n)
        if algorithm in (depthwise, grouped):
            per = 1 if algorithm is depthwise else data.draw(st.sampled_from([1, 2, 4, 8]))
            groups = data.draw(st.integers(2, 40))
            c = replace(c, ic=groups * data.draw(st.sampled_from([1, per])), oc=groups * per, groups=groups)
        gap = st.sampled_from([0, 3])
        task = Task.of(c, x_ld=c.ic + data.draw(gap), y_ld=c.oc + data.draw(gap),
                       activation=data.draw(st.sampled_from([None, Activation("relu")])),
                       residual_ld=data.draw(st.sampled_from([0, c.oc, c.oc + 2])) if algorithm is not dense else 0,
                       kind=data.draw(st.sampled_from(["f32", "f32", "f64"])))  # fmt: skip
        machine = data.draw(st.sampled_from([HOST, *NARROW]))
        assume(isinstance(algorithm.offer(task, machine), Offer))
        seen.append(task)
        check(algorithm, task, machine)

    search()
    assert len(seen) >= 6


LAYERS = [
    Conv.of(3, 64, (30, 31), 7, stride=2, padding=3),
    Conv.of(16, 40, (9, 29), 3, padding=1),
    Conv.of(32, 32, (8, 57), 3, padding=1, groups=8),
    Conv.of(19, 19, (8, 33), 5, stride=2, padding=2, groups=19),
    Conv.of(24, 70, (5, 13), 1),
    Conv.of(37, 10, (1,), 1),
    Conv.of(6, 20, (7, 9), 3, stride=2, padding=1, transposed=True),
    Conv.of(16, 20, (13, 11), 3, padding=1),
    Conv.of(9, 17, (6, 7), 3, padding=((0, 2), (3, 0))),
    Conv.of(5, 20, (12, 13), 6, padding=2),
]


@pytest.mark.slow
@pytest.mark.parametrize("machine", [HOST, *NARROW], ids=lambda m: m.isa)
def test_nothing_outside_the_arrays_is_touched(machine):
    """Arrays lie against unmapped pages: a stray load or store would end the process."""
    used = set()
    for c in LAYERS:
        task = Task.of(c, x_ld=c.ic + 1, y_ld=c.oc + 2)
        for algorithm in ALGORITHMS[:-1]:
            if isinstance(algorithm.offer(task, machine), Offer):
                used.add(algorithm.NAME)
                x, w, b = whole(2, *c.in_shape[1:]), whole(*c.weight_shape), whole(c.oc)
                right = oracle(c, x, w, b)
                for at_end in (True, False):
                    y = run(algorithm, task, machine, x, w, b, place=lambda a, at_end=at_end: guarded(a, at_end))
                    assert np.allclose(np.moveaxis(y[..., : c.oc], -1, 1), right, rtol=1e-4, atol=1e-3)
    assert used == {a.NAME for a in ALGORITHMS[:-1]} - (set() if machine.amx else {"amx"})


NARROW_GROUPS = {
    "groups that share a line": Conv.of(128, 128, (7, 19), 5, 2, 2, groups=16),
    "odd groups": Conv.of(132, 132, (6, 9), (3, 2), 1, ((2, 1), (0, 1)), groups=12),
    "dilated": Conv.of(256, 256, (9, 8), 3, (2, 1), 2, 2, groups=8),
    "more outputs": Conv.of(128, 160, (5, 5), 5, 1, 0, groups=32),
}


@pytest.mark.parametrize("name", NARROW_GROUPS)
@pytest.mark.parametrize("machine", [HOST, *NARROW], ids=lambda m: m.isa)
def test_narrow_groups(name, machine, monkeypatch):
    """Inputs of narrow groups are gathered first: all rows at once, and one row per unit."""
    task = Task.of(NARROW_GROUPS[name], x_ld=NARROW_GROUPS[name].ic + 5)
    assert direct.gathers(direct.three(task.conv), 4, machine)
    for flops in (direct.UNIT_FLOPS, 1):
        monkeypatch.setattr(direct, "UNIT_FLOPS", flops)
        direct.tile_for.cache_clear()
        for at_end in (True, False):
            check(direct, task, machine, place=lambda a, at_end=at_end: guarded(a, at_end))
    monkeypatch.undo()
    direct.tile_for.cache_clear()


@pytest.mark.parametrize(("m", "r", "factor"), [(2, 3, 3), (4, 3, 10), (2, 5, 10), (4, 5, 10)])
@pytest.mark.parametrize("order", ["blocked", "phased", "fresh"])
def test_winograd_error(m, r, factor, order):
    """Largest error against float64 at most `factor` times that of a direct float32 sum, plus 2⁻²² of the scale."""
    if order == "fresh" and r == 5:
        pytest.skip("weights of 5x5 kernels are transformed beforehand")
    ic, oc = (96, 64) if order == "fresh" else (40, 36)
    c = Conv.of(ic, oc, (15, 22), r, padding=r // 2)
    task = Task.of(c)
    shape = winograd.shape_of(task, HOST)
    shape = replace(shape, m=m, phased=order == "phased", tiles=2 * shape.pixels, chunk=0)  # whatever was planned
    if order == "fresh":
        shape = winograd._fresh(task, HOST, m)
        assert shape is not None
        shape = replace(shape, tiles=2 * shape.pixels)  # several units, the last not full
    x = np.maximum(rng.standard_normal((2, ic, 15, 22)), 0).astype("f4")
    w = (rng.standard_normal(c.weight_shape) / (ic * r * r / 2) ** 0.5).astype("f4")
    b = rng.standard_normal(c.oc).astype("f4")
    exact = oracle(c, x, w, b)
    plain = np.moveaxis(run(direct, task, HOST, x, w, b), -1, 1)
    fixed = winograd.shape_of
    winograd.shape_of = lambda *_: shape
    try:
        fast = np.moveaxis(run(winograd, task, HOST, x, w, b), -1, 1)
    finally:
        winograd.shape_of = fixed
    floor = 2.0**-22 * np.abs(exact).max()
    assert np.abs(fast - exact).max() <= factor * np.abs(plain - exact).max() + floor


@few
@given(st.integers(1, 30), st.integers(1, 30), st.sampled_from([8, 16, 20, 33]), st.sampled_from([8, 16, 32, 48, 70]),
       st.integers(0, 2), st.integers(0, 2), st.sampled_from([3, 5]), st.sampled_from([1, 3]), st.booleans(),
       st.sampled_from([1, 2]))  # fmt: skip
def test_winograd_any_size(h, w, ic, oc, before, after, kernel, n, rest, groups):
    assume(min(h, w) + before + after >= kernel)
    if groups == 2:
        ic, oc = 64 + 2 * ic, 32
    c = Conv.of(ic, oc, (h, w), kernel, padding=((before, after), (after, before)), groups=groups, n=n)
    task = Task.of(c, x_ld=ic + 3, y_ld=oc + 1, residual_ld=oc + 2 if rest else 0,
                   activation=Activation("relu") if rest else None)  # fmt: skip
    assume(isinstance(winograd.offer(task, HOST), Offer))
    x, weight, b = (rng.standard_normal(s).astype("f4") for s in (c.in_shape, c.weight_shape, (oc,)))
    res = rng.standard_normal(c.out_shape).astype("f4")
    y = run(winograd, task, HOST, x, weight, b, res if rest else None)
    expected = oracle(c, x, weight, b)
    expected = np.maximum(expected + res, 0) if rest else expected
    assert np.abs(np.moveaxis(y[..., :oc], -1, 1) - expected).max() <= 3e-5 * (ic * kernel**2) ** 0.5
    assert (y[..., oc:] == 7).all()


@pytest.mark.parametrize("machine", [HOST, *NARROW], ids=lambda m: m.isa)
@pytest.mark.parametrize(("oc", "size"), [(64, (7, 7)), (96, (9, 3)), (48, (1, 1))])
def test_winograd_of_fresh_weights(machine, oc, size, monkeypatch):
    """Weights transformed where they are used: residual, activation, gaps between pixels, memory against the edge."""
    monkeypatch.setattr(winograd, "MOST_TRANSFORMED", 0)
    c = Conv.of(64, oc, size, 3, padding=((1, 1), (1, 2)), n=3)
    task = Task.of(c, x_ld=67, y_ld=oc + 1, residual_ld=oc + 2, activation=Activation("relu"))
    winograd.shape_of.cache_clear()
    try:
        assert winograd.shape_of(task, machine).chunk
        x, w, b, res = (rng.standard_normal(s).astype("f4") for s in (c.in_shape, c.weight_shape, oc, c.out_shape))
        y = run(winograd, task, machine, x, w, b, res, place=lambda a: guarded(a, True))
    finally:
        winograd.shape_of.cache_clear()
    expected = np.maximum(oracle(c, x, w, b) + res, 0)
    assert np.abs(np.moveaxis(y[..., :oc], -1, 1) - expected).max() <= 3e-5 * (64 * 9) ** 0.5


@pytest.mark.parametrize(("m", "r"), [(2, 3), (4, 3), (2, 5), (4, 5), (6, 3)])
def test_interpolation_is_exact(m, r):
    at, g, bt = matrices(m, r)
    for i in range(r):
        for j in range(m + r - 1):
            # Filter eᵢ on input eⱼ gives 1 at output j − i.
            y = [sum(row[k] * g[k][i] * bt[k][j] for k in range(m + r - 1)) for row in at]
            assert y == [int(o + i == j) for o in range(m)]


@pytest.mark.slow
def test_nan_and_infinity_go_where_they_should():
    for c, bad in product(LAYERS, (np.nan, np.inf, -np.inf)):
        task = Task.of(c, strict=True)
        x, w, b = whole(*c.in_shape), np.abs(whole(*c.weight_shape)) + 1, whole(c.oc)
        x[0, 0, ..., 0] = bad
        with np.errstate(invalid="ignore"):
            expected = oracle(c, x, w, b)
        for algorithm in ALGORITHMS[:-1]:
            if isinstance(algorithm.offer(task, HOST), Offer):
                y = np.moveaxis(run(algorithm, task, HOST, x, w, b), -1, 1)
                assert np.array_equal(y, expected.astype("f4"), equal_nan=True), algorithm.NAME


ACTIVATIONS = {
    "relu": lambda v: np.maximum(v, 0),
    "clip": lambda v: np.clip(v, -1.5, 2.5),
    "leaky_relu": lambda v: np.where(v < 0, v * 0.25, v),
    "hard_sigmoid": lambda v: np.clip(0.2 * v + 0.5, 0, 1),
    "hard_swish": lambda v: v * np.clip(v / 6 + 0.5, 0, 1),
    "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
    "silu": lambda v: v / (1 + np.exp(-v)),
    "tanh": np.tanh,
}
PARAMETERS = {"clip": (-1.5, 2.5), "leaky_relu": (0.25, 0), "hard_sigmoid": (0.2, 0.5), "hard_swish": (1 / 6, 0.5)}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    c = Conv.of(1, 1, (400,), 1, bias=False)
    task = Task.of(c, activation=Activation(name, *PARAMETERS.get(name, ())), residual_ld=1)
    x = np.concatenate([np.linspace(-12, 12, 395), [-200, 200, 0, 1e-30, np.nan]]).astype("f4").reshape(1, 1, -1)
    y = run(direct, task, HOST, x, np.ones((1, 1, 1)), None, np.zeros_like(x))[0, :, 0]
    with np.errstate(over="ignore"):
        expected = ACTIVATIONS[name](x[0, 0].astype("f8"))
    assert np.isnan(y[-1])
    assert np.allclose(y[:-1], expected[:-1], rtol=1e-5, atol=2e-7)


@pytest.mark.parametrize("isa", ["neon", "avx512", "avx2"])
def test_all_kernels_compile_for_other_processors(isa):
    machine = Machine.cross(isa)
    expected = {"neon": "fmla", "avx512": "zmm", "avx2": "vfmadd"}[isa]
    for c in (Conv.of(16, 24, (9, 9), 3, padding=1), Conv.of(16, 16, (9, 9), 3, padding=1, groups=16),
              Conv.of(20, 8, (1,), 1), Conv.of(4, 8, (5, 5), 2, stride=2, transposed=True)):  # fmt: skip
        task = Task.of(c)
        for algorithm in ALGORITHMS[:-1]:
            if isinstance(algorithm.offer(task, machine), Offer):
                text = algorithm.emit(task, machine).steps[0].build("kernel")
                if algorithm is winograd:
                    assert len(jit.compile_object(text, machine)) > 500
                else:
                    assert expected in jit.assembly(text, machine), algorithm.NAME


def test_words_are_distinct():
    words = (t.X, t.W, t.B, t.Y, t.R, t.N, t.S0, t.S1, t.AHEAD, t.BEHIND, t.LINES)
    assert sorted(words) == list(range(t.SIZES))


@pytest.mark.parametrize("resident", [0.0, 2.0], ids=["from memory", "in the second cache"])
@pytest.mark.parametrize("ic", [3, 70, 400])
def test_dense_layers_of_few_and_many_images(ic, resident):
    rng = np.random.default_rng(ic)
    weight, bias = (rng.integers(-4, 5, s).astype("f4") for s in ((13, ic, 1), (13,)))
    for machine in (HOST, *NARROW):
        for turn, n in enumerate((0, 1, 3, 4, 9)):
            conv = Conv.of(ic, 13, (1,), 1, n=n)
            task = replace(Task.of(conv, activation=Activation("relu"), x_ld=ic + 2, y_ld=15), resident_ratio=resident)
            x = rng.integers(-4, 5, (n, ic, 1)).astype("f4")
            y = run(dense, task, machine, x, weight, bias, place=lambda a, at_end=turn % 2 == 0: guarded(a, at_end))
            right = np.maximum(oracle(conv, x, weight, bias), 0)
            assert np.array_equal(np.moveaxis(y[..., :13], -1, 1), right)
            assert (y[..., 13:] == 7).all()
