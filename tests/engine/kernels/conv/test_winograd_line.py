"""Winograd along one axis: the error rule against float64, every size, memory against unmapped pages."""

from dataclasses import replace

import numpy as np
import pytest

from dojang.arith.conv import Conv
from dojang.engine.kernels.activations import Activation
from dojang.engine.kernels.conv import direct, winograd
from dojang.engine.kernels.task import Refusal, Task
from dojang.engine.plan.choose import choose
from dojang.native.machine import Machine
from kernels import guarded, oracle, run

HOST = Machine.host()
NARROW = [HOST.restrict(isa) for isa in HOST.narrower()]
rng = np.random.default_rng(0)


def line(ic, oc, size, kernel, **rest):
    """A convolution that keeps the size."""
    return Conv.of(ic, oc, size, kernel, padding=tuple((k // 2, k // 2) for k in kernel), **rest)


@pytest.mark.parametrize(("m", "kernel", "factor"), [(2, (1, 3), 3), (4, (3, 1), 10), (4, (3,), 10), (2, (5, 1), 10),
                                                     (4, (1, 5), 10), (4, (5,), 10)])  # fmt: skip
@pytest.mark.parametrize("phased", [False, True])
def test_error(m, kernel, factor, phased, monkeypatch):
    """Largest error against float64 at most `factor` times that of a direct float32 sum, plus 2⁻²² of the scale."""
    c = line(40, 36, (15, 22)[-len(kernel) :], kernel)
    task = Task.of(c)
    shape = winograd.shape_of(task, HOST)
    shape = replace(shape, m=m, phased=phased, tiles=2 * shape.pixels, chunk=0)  # whatever was planned for HOST
    x = np.maximum(rng.standard_normal((2, *c.in_shape[1:])), 0).astype("f4")
    w = (rng.standard_normal(c.weight_shape) / (40 * max(kernel) / 2) ** 0.5).astype("f4")
    b = rng.standard_normal(c.oc).astype("f4")
    exact = oracle(c, x, w, b)
    plain = np.moveaxis(run(direct, task, HOST, x, w, b), -1, 1)
    monkeypatch.setattr(winograd, "shape_of", lambda *_: shape)
    fast = np.moveaxis(run(winograd, task, HOST, x, w, b), -1, 1)
    floor = 2.0**-22 * np.abs(exact).max()
    assert np.abs(fast - exact).max() <= factor * np.abs(plain - exact).max() + floor


@pytest.mark.parametrize("machine", [HOST, *NARROW], ids=lambda m: m.isa)
@pytest.mark.parametrize("at_end", [True, False])
def test_any_size_and_nothing_outside(machine, at_end):
    """Odd sizes and paddings, groups, a residual, gaps between pixels."""
    for c in (
        Conv.of(20, 33, (5, 9), (1, 5), padding=((0, 0), (3, 2)), n=2),
        Conv.of(16, 16, (1, 1), (3, 1), padding=((1, 1), (0, 0))),
        Conv.of(9, 48, (11, 3), (5, 1), padding=((0, 4), (1, 0)), n=3),
        Conv.of(128, 64, (6, 7), (1, 3), padding=((0, 0), (1, 1)), groups=2),
        Conv.of(24, 40, (37,), 3, padding=1, n=2),
        Conv.of(16, 20, (8,), 5),
    ):
        task = Task.of(c, x_ld=c.ic + 3, y_ld=c.oc + 1, residual_ld=c.oc + 2, activation=Activation("relu"))
        if isinstance(winograd.offer(task, machine), Refusal):
            assert c.groups > 1 or c.oc < machine.lanes(4)
            continue
        x, w, b, res = (rng.standard_normal(s).astype("f4") for s in (c.in_shape, c.weight_shape, c.oc, c.out_shape))
        y = run(winograd, task, machine, x, w, b, res, place=lambda a: guarded(a, at_end))
        expected = np.maximum(oracle(c, x, w, b) + res, 0)
        close = 3e-5 * (c.ic // c.groups * max(c.kernel)) ** 0.5
        assert np.abs(np.moveaxis(y[..., : c.oc], -1, 1) - expected).max() <= close
        assert (y[..., c.oc :] == 7).all()


def test_where_it_is_taken():
    """1×3 taps over a few hundred pixels; not in strict precision, nor with a stride, nor with 7 taps."""
    c = line(384, 384, (17, 17), (1, 3))
    machine = Machine.cross("avx512")
    assert choose(Task.of(c), machine)[0] is winograd
    assert "strict" in winograd.offer(Task.of(c, strict=True), machine).reason
    strided = Task.of(Conv.of(384, 384, (8, 8), (1, 3), (1, 2), ((0, 0), (1, 1))))
    assert "stride" in winograd.offer(strided, machine).reason
    assert "taps" in winograd.offer(Task.of(line(192, 192, (17, 17), (1, 7))), machine).reason
