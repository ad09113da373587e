"""Convolution by Fourier transforms: as exact as a direct sum, for every kind of layer, machine and cut."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dojang.arith.conv import Conv
from dojang.engine.kernels.activations import Activation
from dojang.engine.kernels.conv import direct, fourier
from dojang.engine.kernels.conv.fourier_tiles import axis_of
from dojang.engine.kernels.task import Offer, Task
from dojang.engine.plan.choose import choose
from dojang.native import jit
from dojang.native import transforms as fourier_passes
from dojang.native.emit import F64
from dojang.native.machine import Machine
from kernels import guarded, oracle, run
from machines import EVERY, name_of

HOST = Machine.host()
NARROW = [HOST.restrict(isa) for isa in HOST.narrower()]
rng = np.random.default_rng(0)

LAYERS = {
    "depthwise": Conv.of(40, 40, (40, 45), 9, padding=4, groups=40, n=2),
    "depthwise, tail": Conv.of(20, 20, (12, 15), 7, padding=3, groups=20),
    "depthwise, kernel wider than the image": Conv.of(16, 16, (14, 14), 31, padding=15, groups=16),
    "depthwise, only padding": Conv.of(16, 16, (3, 4), 6, padding=((9, 2), (1, 11)), groups=16),
    "rows of an image": Conv.of(16, 16, (9, 40), (1, 17), padding=(0, 8), groups=16),
    "dense": Conv.of(5, 20, (30, 33), 7, padding=3),
    "dense, one tile": Conv.of(17, 34, (9, 8), (4, 5), n=1),
    "groups": Conv.of(36, 40, (21, 33), 5, padding=2, groups=2, dilation=2),
    "multiplier": Conv.of(4, 68, (11, 12), 5, groups=4),
    "sequence": Conv.of(3, 18, (700,), 64, n=3),
    "depthwise sequence": Conv.of(24, 24, (300,), 31, padding=15, groups=24),
    "one signal": Conv.of(1, 1, (3001,), 100, padding=50),
    "one picture": Conv.of(1, 1, (70, 90), 11, padding=((5, 4), (0, 7)), n=2),
}


def computed(conv, machine, kind, rest, place=lambda a: a):
    """(largest error, largest result) of one layer."""
    gap = 0 if conv.ic == conv.oc == 1 else 3
    task = Task.of(conv, x_ld=conv.ic + gap, y_ld=conv.oc + gap, kind=kind, residual_ld=(conv.oc + gap) * rest,
                   activation=Activation("relu") if rest else None)  # fmt: skip
    assert isinstance(fourier.offer(task, machine), Offer)
    x, w, b = (rng.standard_normal(s).astype(task.element.dtype) for s in (conv.in_shape, conv.weight_shape, conv.oc))
    res = rng.standard_normal(conv.out_shape).astype(task.element.dtype) if rest else None
    y = run(fourier, task, machine, x, w, b, res, place)
    exact = oracle(conv, x, w, b)
    exact = np.maximum(exact + res, 0) if rest else exact
    assert (y[..., conv.oc :] == 7).all()
    return np.abs(np.moveaxis(y[..., : conv.oc], -1, 1) - exact).max(), np.abs(exact).max()


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("machine", [HOST, *NARROW], ids=lambda m: m.isa)
def test_definition(name, machine):
    """Both precisions, one of them with residual and activation, all arrays against unmapped pages."""
    odd = (list(LAYERS).index(name) + machine.vector_bytes.bit_length()) % 2 == 0
    for kind, bound, rest in (("f32", 1e-6, odd), ("f64", 2e-15, not odd)):
        for at_end in (False, True):
            error, scale = computed(LAYERS[name], machine, kind, rest, lambda a, e=at_end: guarded(a, e))
            assert error <= bound * scale


@settings(max_examples=20)
@given(st.data())
def test_any_size(data):
    rank, groups = data.draw(st.sampled_from([1, 2])), data.draw(st.sampled_from([1, 1, 3, 16]))
    each = data.draw(st.sampled_from([(1, 1), (1, 1), (2, 3), (5, 17)]))
    many = lambda lo, hi: tuple(data.draw(st.integers(lo, hi)) for _ in range(rank))  # noqa: E731
    kernel, dilation = many(1, 9), many(1, 2)
    padding = tuple((data.draw(st.integers(0, 9)), data.draw(st.integers(0, 9))) for _ in range(rank))
    size = many(1, 60 if rank == 1 else 25)
    fits = (i + sum(p) >= d * (k - 1) + 1 for i, p, d, k in zip(size, padding, dilation, kernel, strict=True))
    assume(all(fits))
    conv = Conv.of(groups * each[0], groups * each[1], size, kernel, 1, padding, dilation, groups,
                   n=data.draw(st.sampled_from([1, 2])))  # fmt: skip
    machine = data.draw(st.sampled_from([HOST, *NARROW]))
    assume(isinstance(fourier.offer(Task.of(conv), machine), Offer))
    error, scale = computed(conv, machine, "f32", data.draw(st.booleans()))
    assert error <= 1e-6 * max(1.0, scale)


@pytest.mark.parametrize("cut", [(32, 32), (45, 27), (16, 50), (60, 64)])
def test_any_cut(cut, monkeypatch):
    """Tiles of any length give the same; the last ones are not full."""
    conv, (height, width) = Conv.of(16, 16, (41, 47), 7, padding=3, groups=16), cut
    chosen = fourier.cut_of(Task.of(conv), HOST)
    fixed = replace(chosen, height=height, width=width, down=min(41, height - 6), across=min(47, width - 6))
    monkeypatch.setattr(fourier, "cut_of", lambda *_: fixed)
    error, scale = computed(conv, HOST, "f32", True)
    assert error <= 1e-6 * scale


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("positive", [False, True])
def test_error_is_at_most_twice_that_of_a_direct_sum(name, positive):
    """The rule: 2 times the largest error of a direct float32 sum, plus 2⁻²² of the largest result."""
    conv = LAYERS[name]
    task = Task.of(conv)
    x = rng.standard_normal(conv.in_shape).astype("f4")
    x = np.abs(x) if positive else x  # as after a ReLU
    w, b = rng.standard_normal(conv.weight_shape).astype("f4"), np.zeros(conv.oc, "f4")
    exact = oracle(conv, x, w, b)
    errors = [np.abs(np.moveaxis(run(a, task, HOST, x, w, b), -1, 1) - exact).max() for a in (fourier, direct)]
    assert errors[0] <= 2 * errors[1] + 2.0**-22 * np.abs(exact).max()


@pytest.mark.parametrize("length", [2, 3, 4, 5, 8, 12, 30, 36, 64, 80, 120, 125, 243, 512])
@pytest.mark.parametrize("machine", [HOST, *NARROW], ids=lambda m: m.isa)
def test_transform_is_numpys(length, machine):
    """One line forward into a buffer and from there back again, and forward to elsewhere."""
    b = fourier.t.begin("kernel", machine)
    numbers = fourier_passes.ComplexArithmetic(b, F64)
    part = machine.vector_bytes
    lines = [fourier_passes.Line(b.at(b.arg.scratch, k * 2 * part * length), 2 * part, part) for k in range(5)]
    transform = fourier_passes.Transform(numbers, length, fourier.t.word(b, fourier.t.W))
    found = transform.write(lines[0], lines[1:3], result_buffer=1, target=None)
    assert found is lines[2]
    transform.write(found, lines[1:3], source_buffer=1, target=lines[4], inverse=True)
    transform.write(lines[0], lines[1:3], target=lines[3])
    kernel = jit.load(b.finish(), machine, keep=False, thorough=False).function("kernel", 3)
    lanes = part // 8
    memory = rng.standard_normal((5, length, 2, lanes))
    z = memory[0, :, 0] + 1j * memory[0, :, 1]
    table = fourier_passes.twiddles(length, machine.registers)
    args = np.zeros(fourier.t.WORDS, np.int64)
    args[fourier.t.W] = table.ctypes.data
    kernel(args.ctypes.data, 0, memory.ctypes.data)
    y = memory[3, :, 0] + 1j * memory[3, :, 1]
    assert np.allclose(y, np.fft.fft(z, axis=0), rtol=1e-13, atol=1e-13 * length)
    assert np.allclose(memory[4, :, 0] + 1j * memory[4, :, 1], length * z, rtol=1e-12, atol=1e-12 * length)


def test_useless_taps_are_left_out():
    axis = axis_of(14, 31, 1, 15, 14)
    assert (axis.extent, axis.pad, axis.whole) == (27, 13, 27)
    assert axis_of(100, 31, 1, 15, 100).whole == 115  # not 130: what wraps around falls on padding


def test_refusals():
    layer = Conv.of(16, 16, (32, 32), 15, padding=7)
    reason = lambda conv, **rest: fourier.offer(Task.of(conv, **rest), HOST).reason  # noqa: E731
    assert isinstance(fourier.offer(Task.of(layer), HOST), Offer)
    assert reason(layer, strict=True) == "precision is strict"
    assert reason(replace(layer, stride=(2, 2))) == "stride above 1"
    assert "taps" in (reason(Conv.of(16, 16, (32, 32), 3, padding=1)) or "")
    assert "would take" in (reason(Conv.of(512, 512, (64, 64), 15, padding=7)) or "")
    assert "too long" in (reason(Conv.of(1, 1, (20000,), 9000)) or "")


@pytest.mark.parametrize("machine", EVERY, ids=name_of)
def test_chosen_where_it_pays(machine):
    """Large kernels over large images, not small ones, and never in strict precision."""
    name = lambda conv, **rest: choose(Task.of(conv, **rest), machine)[0].NAME  # noqa: E731
    large = Conv.of(128, 128, (56, 56), 31, padding=15, groups=128)
    assert name(large) == "fourier"
    assert name(large, strict=True) != "fourier"
    assert name(Conv.of(128, 128, (56, 56), 3, padding=1, groups=128)) != "fourier"
    assert name(Conv.of(64, 64, (56, 56), 3, padding=1)) != "fourier"


@pytest.mark.parametrize("isa", ["neon", "avx512", "avx2"])
@pytest.mark.parametrize("name", ["depthwise", "dense", "one signal"])
def test_compiles_for_other_processors(isa, name):
    machine = Machine.cross(isa)
    for step in fourier.emit(Task.of(LAYERS[name]), machine).steps:
        assert len(jit.compile_object(step.build("kernel"), machine)) > 500
