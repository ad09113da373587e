"""Matrix tiles: the exact split, equality on integers for every cut, errors below a direct sum's, infinity and NaN."""

from dataclasses import replace
from math import prod

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dojang.arith.conv import Conv
from dojang.engine.kernels import task as t
from dojang.engine.kernels.activations import Activation
from dojang.engine.kernels.conv import amx, amx_tiles, direct
from dojang.engine.kernels.task import Offer, Task
from dojang.native import jit
from dojang.native.machine import Machine
from kernels import guarded, oracle, run

HOST = Machine.host()
TILES = Machine.cross("amx")
runs_here = pytest.mark.skipif(not HOST.amx, reason="this machine has no matrix tiles")
rng = np.random.default_rng(0)

LAYERS = {
    "3x3": Conv.of(64, 64, (14, 14), 3, padding=1),
    "rows of taps": Conv.of(3, 64, (30, 31), 7, stride=2, padding=3),
    "odd channels": Conv.of(33, 17, (7, 7), 3, 2, 1),
    "odd everything": Conv.of(20, 33, (33, 9), (3, 2), (2, 1), ((1, 2), (0, 1)), (2, 1)),
    "many weights": Conv.of(288, 80, (7, 7), 3, padding=1),
    "pointwise": Conv.of(24, 70, (5, 13), 1),
    "pointwise of many pixels": Conv.of(48, 16, (9, 49), 1),
    "strided pointwise": Conv.of(64, 40, (9, 9), 1, stride=2),
    "padded pointwise": Conv.of(32, 24, (5, 6), 1, padding=((1, 0), (2, 1))),
    "one dimension": Conv.of(40, 9, (57,), 5, 1, 2),
    "few pixels": Conv.of(64, 40, (2, 1), 3, padding=1),
    "columns outside": Conv.of(32, 16, (4, 3), (1, 7), padding=((0, 0), (3, 3))),
}


def cuts_of(task, machine):
    """Every way of cutting a layer, small units too."""
    best, nest = amx.cut_of(task, machine), amx.nest_of(task)
    vectors = t.ceil_div(nest.oc, 16)
    per_line = t.ceil_div(nest.out_size[2], best.rows)
    for own, fresh, inner in ((True, False, False), (True, False, True), (True, True, False), (False, False, True),
                              (False, True, False)):  # fmt: skip
        for wide in (1, 2, 4):
            lines = min(3, nest.out_size[1])
            blocks = t.ceil_div(vectors, wide) if own else 1
            if wide <= vectors:
                yield replace(best, pixels=min(4 // wide, lines * per_line), vectors=wide, lines=lines, blocks=blocks,
                              own=own, fresh=fresh, inner=inner)  # fmt: skip


@given(st.lists(st.floats(width=32, allow_nan=True), min_size=1, max_size=40))
def test_three_parts_are_the_number(values):
    x = np.array(values, "f4")
    parts = (amx_tiles.parts_of(x).astype("u4") << 16).view("f4")
    total = parts.astype("f8").sum(0)
    finite = np.isfinite(x)
    # What is below the smallest bfloat16 is lost.
    assert (np.abs(total[finite] - x[finite].astype("f8")) < 2.0**-132).all()
    assert np.array_equal(total[~finite], x[~finite], equal_nan=True)


def test_left_out_products_are_small():
    x, w = rng.standard_normal((2, 10000)).astype("f4")
    parts = [(amx_tiles.parts_of(v).astype("u4") << 16).view("f4").astype("f8") for v in (x, w)]
    kept = sum(parts[0][a] * parts[1][b] for a, b in amx_tiles.PRODUCTS)
    exact = x.astype("f8") * w.astype("f8")
    error = np.abs(kept / exact - 1)
    assert error.max() < 2.0**-23
    assert error.mean() < 2.0**-26


@pytest.mark.parametrize("name", LAYERS)
def test_compiles_where_there_are_no_tiles(name):
    task = Task.of(LAYERS[name])
    assert isinstance(amx.offer(task, TILES), Offer)
    for step in amx.emit(task, TILES).steps:
        assert len(jit.compile_object(step.build("kernel"), TILES, thorough=False)) > 1000


def test_refusals():
    plain = Task.of(LAYERS["3x3"])
    assert amx.offer(plain, Machine.cross("avx512")).reason == "no matrix tiles"
    assert amx.offer(replace(plain, strict=True), TILES).reason == "precision is strict"
    assert amx.offer(replace(plain, kind="f64"), TILES).reason == "not float32"
    assert amx.offer(Task.of(Conv.of(64, 64, (9, 9), 3, groups=2)), TILES).reason == "grouped"
    assert amx.offer(Task.of(Conv.of(8, 8, (4, 4, 4), 3)), TILES).reason == "more than 2 dimensions"
    assert "one pixel" in str(amx.offer(Task.of(Conv.of(64, 10, (1,), 1)), TILES).reason)
    assert "too few channels" in str(amx.offer(Task.of(Conv.of(1, 64, (9, 9), 3)), TILES).reason)


@runs_here
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("at_end", [True, False])
def test_equal_on_integers_for_every_cut(name, at_end, monkeypatch):
    c = LAYERS[name]
    for relu in (True, False):
        task = Task.of(c, x_ld=c.ic + 1, y_ld=c.oc + 2, residual_ld=c.oc + 3 if relu else 0,
                       activation=Activation("relu") if relu else None)  # fmt: skip
        x, w, b, res = (
            rng.integers(-300, 301, s).astype("f4")
            for s in ((2, c.ic, *c.size), c.weight_shape, (c.oc,), (2, c.oc, *c.out_size))
        )
        w = np.round(w / 40)  # sums stay below 2²⁴
        expected = oracle(c, x, w, b)
        expected = np.maximum(expected + res, 0) if relu else expected
        for cut in [amx.cut_of(task, HOST), *cuts_of(task, HOST)] if relu else [amx.cut_of(task, HOST)]:
            with monkeypatch.context() as patch:
                patch.setattr(amx, "cut_of", lambda *_, cut=cut: cut)
                y = run(amx, task, HOST, x, w, b, res if relu else None, place=lambda a: guarded(a, at_end))
            assert (np.moveaxis(y[..., : c.oc], -1, 1) == expected).all(), cut
            assert (y[..., c.oc :] == 7).all(), cut


@runs_here
@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(8, 40), st.integers(1, 30), st.integers(1, 30), st.integers(1, 5),
       st.integers(1, 3), st.integers(1, 2), st.integers(0, 2), st.integers(0, 2), st.integers(1, 3))  # fmt: skip
def test_any_size(ic, oc, h, w, kernel, stride, dilation, before, after, n):
    assume(min(h, w) + before + after >= (kernel - 1) * dilation + 1)
    c = Conv.of(ic, oc, (h, w), kernel, stride, ((before, after), (after, before)), dilation, n=n)
    task = Task.of(c)
    assume(isinstance(amx.offer(task, HOST), Offer))
    x, weight, b = (rng.integers(-9, 10, s).astype("f4") for s in (c.in_shape, c.weight_shape, (oc,)))
    y = np.moveaxis(run(amx, task, HOST, x, weight, b), -1, 1)
    assert (y == oracle(c, x, weight, b)).all()


@runs_here
@pytest.mark.parametrize("name", LAYERS)
def test_errors_are_those_of_float32(name):
    """Largest error against float64 at most that of a direct float32 sum, plus 2⁻²² of the scale."""
    c = LAYERS[name]
    task = Task.of(c)
    x = np.maximum(rng.standard_normal((2, c.ic, *c.size)), 0).astype("f4")
    w = (rng.standard_normal(c.weight_shape) / prod(c.weight_shape[1:]) ** 0.5).astype("f4")
    b = rng.standard_normal(c.oc).astype("f4")
    exact = oracle(c, x, w, b)
    plain, fast = (np.moveaxis(run(a, task, HOST, x, w, b), -1, 1) for a in (direct, amx))
    floor = 2.0**-22 * np.abs(exact).max()
    assert np.abs(fast - exact).max() <= np.abs(plain - exact).max() + floor


@runs_here
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("fresh", [True, False])
def test_infinity_and_nan_go_where_they_should(name, fresh, monkeypatch):
    c = LAYERS[name]
    task = Task.of(c)
    x, w, b = (rng.standard_normal(s).astype("f4") for s in ((2, c.ic, *c.size), c.weight_shape, (c.oc,)))
    x[0, 1 % c.ic].flat[0], x[1, 0].flat[-1] = np.inf, np.nan
    x[1, 0].flat[0] = -3.4e38
    w[0].flat[0], w[1].flat[0], w[2].flat[0] = 0, np.inf, 3.4e38
    cut = replace(amx.cut_of(task, HOST), fresh=fresh)
    if fresh:
        cut = replace(cut, inner=False)
    monkeypatch.setattr(amx, "cut_of", lambda *_: cut)
    with np.errstate(all="ignore"):
        expected, found = (np.moveaxis(run(a, task, HOST, x, w, b), -1, 1) for a in (direct, amx))
    assert not np.isfinite(expected).all()
    for test in (np.isnan, np.isposinf, np.isneginf):
        assert np.array_equal(test(expected), test(found))
    good = np.isfinite(expected)
    np.testing.assert_allclose(
        found[good], expected[good], rtol=1e-4, atol=1e-4 * np.abs(expected[good]).max(initial=0)
    )
