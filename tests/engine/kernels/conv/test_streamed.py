"""Streamed weights: equal to the definition for every way of cutting, nothing outside touched, NaN and infinity."""

from dataclasses import replace
from math import prod

import numpy as np
import pytest

from dojang.arith.conv import Conv
from dojang.engine.kernels.activations import Activation
from dojang.engine.kernels.conv import streamed
from dojang.engine.kernels.task import Offer, Task
from dojang.native import jit
from dojang.native.machine import Machine
from kernels import guarded, oracle, run

HOST = Machine.host()
MACHINES = [HOST, *(HOST.restrict(isa) for isa in HOST.narrower())]
SMALL = [replace(m, l1=1) for m in MACHINES]  # a small first cache: panels of 8 input channels
rng = np.random.default_rng(0)

LAYERS = {
    "pixels of one row": Conv.of(40, 70, (7, 7), 1),
    "one block, masked": Conv.of(19, 5, (3, 4), 3, padding=1),
    "last block smaller": Conv.of(33, 90, (7, 7), 3, padding=1),
    "strided": Conv.of(20, 48, (9, 8), 3, stride=2, padding=1),
    "strided, one tap": Conv.of(21, 32, (9, 9), 1, stride=2),
    "dilated": Conv.of(9, 33, (8, 9), 3, dilation=(2, 3), padding=(2, 3)),
    "taps that fall on padding only": Conv.of(12, 16, (2, 2), 5, padding=4, stride=3),
    "uneven padding": Conv.of(17, 24, (5, 6), (2, 3), padding=((1, 0), (0, 2))),
    "a sequence": Conv.of(24, 40, (11,), 3, padding=1),
    "a batch": Conv.of(24, 40, (5, 5), 3, padding=1, n=3),
}


def whole(*shape):
    return rng.integers(-4, 5, shape).astype("f4")


@pytest.mark.slow
@pytest.mark.parametrize("machine", SMALL, ids=lambda m: m.isa)
@pytest.mark.parametrize("name", LAYERS)
def test_equal_on_integers(name, machine):
    """Also against unmapped pages: a stray load or store would end the process. One of the two types has gaps."""
    c = LAYERS[name]
    x, w, b, res = whole(*c.in_shape), whole(*c.weight_shape), whole(c.oc), whole(*c.out_shape)
    expected = np.maximum(oracle(c, x, w, b) + res, 0)
    for kind, wide in zip(
        ("f32", "f64"), (True, False) if list(LAYERS).index(name) % 2 else (False, True), strict=True
    ):
        gaps = {"x_ld": c.ic + 3, "y_ld": c.oc + 2, "residual_ld": c.oc + 1} if wide else {"residual_ld": c.oc}
        task = Task.of(c, kind=kind, activation=Activation("relu"), **gaps)
        assert isinstance(streamed.offer(task, machine), Offer)
        assert streamed.cut_of(task, machine).depth < c.ic
        for at_end in (True, False):
            y = run(streamed, task, machine, x, w, b, res, lambda a, at_end=at_end: guarded(a, at_end))
            assert (np.moveaxis(y[..., : c.oc], -1, 1) == expected).all()
            assert (y[..., c.oc :] == 7).all()


@pytest.mark.parametrize("most", [1, 2, 3])
def test_images_share_weights(most, monkeypatch):
    """Units of some images each; the last of them has fewer."""
    c = Conv.of(24, 40, (4, 5), 3, padding=1, n=5)
    task = Task.of(c)
    one = prod(c.out_size) * HOST.vector_bytes * streamed.cut_of(task, HOST).vectors
    monkeypatch.setattr(streamed, "SUMS", most * one)
    streamed._cut.cache_clear()
    try:
        assert streamed.cut_of(task, HOST).images == most
        x, w, b = whole(*c.in_shape), whole(*c.weight_shape), whole(c.oc)
        assert (np.moveaxis(run(streamed, task, HOST, x, w, b), -1, 1) == oracle(c, x, w, b)).all()
        assert run(streamed, task, HOST, x[:0], w, b).shape == (0, 4, 5, 40)
    finally:
        streamed._cut.cache_clear()


def test_infinity_stays_in_its_window():
    """Padding is not multiplied: an infinite weight meets only the pixels of its tap."""
    c = Conv.of(24, 40, (5, 5), 3, padding=1)
    x, w = whole(*c.in_shape), whole(*c.weight_shape)
    w[3, 2, 0, 0] = np.inf
    x[0, 7, 2, 2] = np.nan
    x[0, 2] = np.abs(x[0, 2]) + 1
    with np.errstate(invalid="ignore"):
        expected = oracle(c, x, w, None)
    found = np.moveaxis(run(streamed, Task.of(c), HOST, x, w, None), -1, 1)
    assert np.array_equal(found, expected.astype("f4"), equal_nan=True)
    assert np.isfinite(found[0, 3, 0]).all()


def test_other_processors_compile():
    task = Task.of(LAYERS["last block smaller"])
    for isa in ("neon", "avx2"):
        machine = Machine.cross(isa)
        (step,) = streamed.emit(task, machine).steps
        assert jit.assembly(step.build("kernel"), machine)


def test_refusals_have_reasons():
    why = lambda c, **rest: streamed.offer(Task.of(c, **rest), HOST).reason  # noqa: E731
    assert why(Conv.of(8, 8, (5, 5), 3, groups=2)) == "grouped"
    assert why(Conv.of(8, 8, (5, 5), 3, transposed=True)) == "transposed"
    assert "2 dimensions" in why(Conv.of(8, 8, (5, 5, 5), 3))
    assert "one pixel" in why(Conv.of(8, 8, (1, 1), 1))
    assert "pixels" in why(Conv.of(8, 8, (64, 64), 1))
    assert "49 taps" in why(Conv.of(8, 8, (9, 9), 7))
