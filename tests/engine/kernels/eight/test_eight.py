"""Kernels of bytes: equal to whole numbers in NumPy, bit by bit, on every instruction set, between guard pages.

A case is a seed; the layer, its borders, zero points and distances between pixels follow from it by a rule.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import pytest

from dojang.arith.conv import Conv
from dojang.base.errors import ShapeError
from dojang.engine.kernels import task as t
from dojang.engine.kernels.eight import conv, depthwise, elements, grouped, pool
from dojang.engine.kernels.eight.conv import EightTask
from dojang.engine.kernels.eight.dot import dot_of
from dojang.engine.kernels.eight.elements import EightMap
from dojang.engine.kernels.eight.pool import EightPool
from dojang.engine.kernels.eight.store import Requantised
from dojang.engine.kernels.other.pool import PoolTask
from dojang.engine.kernels.task import Offer, Refusal
from dojang.native import jit
from dojang.native.machine import Machine
from kernels import guarded, last, oracle
from whole_numbers import finished, mapped, pooled

HOST = Machine.processor()
MACHINES = [HOST, *(HOST.restrict(isa) for isa in HOST.narrower())]
NO_VNNI = replace(
    HOST, features=HOST.features.replace("+avx512vnni", "-avx512vnni").replace("+avx512vbmi,", "-avx512vbmi,")
)
if HOST.isa == "avx512" and "+avx512vnni" in HOST.features:
    MACHINES.append(NO_VNNI)
FILL = 119


def ran(module, task, machine: Machine, arrays: dict, out: np.ndarray, n: int, at_end: bool) -> np.ndarray:
    """The output, with every array against an unmapped page."""
    code = module.emit(task, machine)
    held = {word: guarded(a, at_end) for word, a in arrays.items()}
    held[t.Y] = guarded(out, at_end)
    shared = [guarded(np.full(size, FILL, "u1"), at_end) for size in code.shared(n)]
    words = [0] * t.WORDS
    words[t.N] = n
    for word, array in (*held.items(), (t.S0, shared[0]), (t.S1, shared[1])):
        words[word] = array.ctypes.data
    for step in code.steps:
        kernel = jit.load_recipe(step.kernel, machine).function("kernel", 3)
        table = np.array(t.table(words, step), np.int64)
        for unit in range(step.units(n)):
            kernel(table.ctypes.data, unit, 0)
    return held[t.Y]


def rows(values: np.ndarray, ld: int, fill: int = FILL) -> np.ndarray:
    """(n, channels, *size) as (n, pixels, ld), gaps filled."""
    there = last(values).reshape(len(values), -1, values.shape[1])
    out = np.full((*there.shape[:2], ld), fill, values.dtype)
    out[..., : values.shape[1]] = there
    return out


def layer(rng: np.random.Generator, rank: int, narrow: bool = False) -> Conv | None:
    groups = int(rng.choice([1, 1, 2, 3]))
    icg, ocg = int(rng.integers(1, 22)), int(rng.integers(1, 90 if groups == 1 else 24))
    if rng.integers(4) == 0:
        groups, icg, ocg = int(rng.integers(2, 40)), 1, 1
    if narrow:  # groups that fill a register together
        icg, ocg = int(rng.choice([4, 8, 16])), int(rng.choice([4, 8]))
        groups = 16 // ocg * int(rng.integers(1, 4))
    kernel, stride, dilation = (tuple(int(v) for v in rng.integers(1, m, rank)) for m in (4, 3, 3))
    padding = tuple((int(a), int(b)) for a, b in rng.integers(0, 3, (rank, 2)) * int(rng.integers(0, 2)))
    size = tuple(int(v) for v in rng.integers(1, 12 if rank < 3 else 6, rank))
    try:
        c = Conv.of(icg * groups, ocg * groups, size, kernel, stride=stride, dilation=dilation, padding=padding,
                    groups=groups)  # fmt: skip
        return c if prod(c.out_size) else None
    except ShapeError:
        return None


def finish_of(rng: np.random.Generator) -> Requantised:
    if rng.integers(4) == 0:
        return Requantised(real=True)
    low, high = int(rng.choice([0, 0, 40])), int(rng.choice([255, 255, 199]))
    return Requantised(zero=int(rng.integers(0, 256)), low=low, high=high, large=bool(rng.integers(2)))


@pytest.mark.parametrize("seed", range(54))
def test_sums_of_products_are_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    c = None
    while c is None:
        c = layer(rng, seed % 3 + 1, seed >= 36)
    n, finish = int(rng.integers(1, 4)), finish_of(rng)
    zero = int(rng.choice([0, 255, rng.integers(0, 256)]))
    x = rng.integers(0, 256, (n, c.ic, *c.size)).astype("u1")
    w = rng.integers(-128, 128, c.weight_shape).astype("i1")
    if seed % 5 == 0:  # the largest sums that there are
        x[...], w[...] = 255, rng.choice(np.array([-128, 127], "i1"))
    bias = rng.integers(-9000, 9000, c.oc) if seed % 2 else None
    sums = oracle(c, x.astype("f8") - zero, w, bias)
    factor = (rng.uniform(0.5, 4, c.oc) * 60 / (np.abs(sums).max() + 1)).astype("f4")
    task = EightTask(c, -(-c.ic // 4) * 4 + 4 * int(rng.integers(2)), c.oc + int(rng.integers(4)), zero, finish)
    right = finished(np.moveaxis(sums, 1, -1), factor, finish).reshape(n, -1, c.oc)
    out = np.full(right.shape[0] * right.shape[1] * task.y_ld, FILL, right.dtype)
    for machine in MACHINES:
        for module in (conv, depthwise, grouped):
            if isinstance(module.offer(task, machine), Refusal):
                continue
            weights, ends = module.pack(task, machine, w, bias, factor)
            arrays = {t.X: rows(x, task.x_ld), t.W: weights, t.B: ends}
            found = ran(module, task, machine, arrays, out, n, bool(seed % 2)).reshape(n, -1, task.y_ld)
            place = f"{seed}: {module.NAME} {machine.isa}"
            np.testing.assert_array_equal(found[..., : c.oc], right, place)
            assert (found[..., c.oc :] == FILL).all(), f"{place} wrote between pixels"


def test_both_kernels_are_forced() -> None:
    some = EightTask(Conv.of(8, 8, (5, 5), (3, 3), groups=8), 8, 8)
    for machine in MACHINES:
        assert isinstance(conv.offer(some, machine), Offer)
        assert isinstance(depthwise.offer(some, machine), Offer)
    narrow = EightTask(Conv.of(64, 32, (5, 5), (3, 3), groups=8), 64, 32)
    for machine in MACHINES:
        takes = isinstance(grouped.offer(narrow, machine), Offer)
        assert takes == (dot_of(machine) is not None and dot_of(machine).depth == 4)


def test_sums_beyond_the_largest_number_are_clamped_and_not_wrapped() -> None:
    c = Conv.of(64, 64, (3, 3), (1, 1))
    x, w = np.full((1, 64, 3, 3), 255, "u1"), np.full((64, 64, 1, 1), 127, "i1")
    w[::2] = -128
    factor = np.full(64, 3e4, "f4")
    finish = Requantised(zero=7, large=True)
    for machine in MACHINES:
        for y_ld in (64, 65):
            task = EightTask(c, 64, y_ld, 0, finish)
            arrays = {t.X: rows(x, 64)} | dict(zip((t.W, t.B), conv.pack(task, machine, w, None, factor), strict=True))
            found = ran(conv, task, machine, arrays, np.full(9 * y_ld, FILL, "u1"), 1, True).reshape(9, y_ld)
            np.testing.assert_array_equal(found[:, :64], np.tile([0, 255], (9, 32)))


@pytest.mark.parametrize("features", ["+neon,+dotprod", "+neon,+dotprod,+i8mm", "avxvnni"])
def test_other_processors_get_their_own_instruction(features: str) -> None:
    import llvmlite.binding as llvm

    arm = features.startswith("+neon")
    machine = replace(Machine.cross("neon"), features=features) if arm else replace(
        Machine.cross("avx2"), features="+avxvnni")  # fmt: skip
    task = EightTask(Conv.of(12, 40, (6, 6), (3, 3), padding=1), 12, 40, 3, Requantised(zero=4))
    expected = "vpdpbusd" if not arm else "usdot" if "i8mm" in features else "sdot"
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(machine.triple).create_target_machine(cpu=machine.cpu, features=machine.features)
    text = conv.emit(task, machine).steps[-1].build("kernel")
    module = llvm.parse_assembly(text)
    module.verify()
    assert expected in target.emit_assembly(module)


def test_an_arm_processor_without_products_of_bytes_is_refused() -> None:
    task = EightTask(Conv.of(12, 40, (6, 6), (3, 3), padding=1), 12, 40)
    assert conv.offer(task, Machine.cross("neon")) == Refusal("the processor has no products of bytes")


@pytest.mark.parametrize("seed", range(30))
def test_elements(seed: int) -> None:
    rng = np.random.default_rng(seed)
    op = ("quantise", "real", "add", "mul", "table")[seed % 5]
    n, channels, pixels = int(rng.integers(1, 3)), int(rng.integers(1, 70)), int(rng.integers(1, 40))
    if rng.integers(3) == 0:
        channels *= 4
    loose = lambda: -(-channels // 4) * 4 + 4 * int(rng.integers(2))  # noqa: E731
    f4 = lambda low, high: float(np.float32(rng.uniform(low, high)))  # noqa: E731
    one = op == "mul" and bool(rng.integers(2))
    ends = (int(rng.choice([0, 13])), int(rng.choice([255, 240])))
    task = EightMap(
        op, channels, pixels, loose(), channels if op == "real" else channels + int(rng.integers(3)),
        0 if one or op not in ("add", "mul") else loose(), f4(0.01, 0.2), int(rng.integers(256)), f4(0.01, 0.2),
        int(rng.integers(256)), f4(0.05, 0.3), int(rng.integers(256)), *ends,
    )  # fmt: skip
    if op == "quantise":
        x = rng.normal(scale=20, size=(n, channels, pixels)).astype("f4")
        x.flat[: min(x.size, 4)] = np.array([np.nan, np.inf, -np.inf, 0.5 * task.scale], "f4")[: min(x.size, 4)]
    else:
        x = rng.integers(0, 256, (n, channels, pixels)).astype("u1")
    arrays = {t.X: rows(x, task.x_ld)}
    second = None
    if op in ("add", "mul"):
        r = rng.integers(0, 256, (n, channels, 1 if one else pixels)).astype("u1")
        arrays[t.R] = rows(r, task.r_ld or -(-channels // 4) * 4)
        second = last(r)
    if op == "table":
        arrays[t.W] = rng.permutation(256).astype("u1")
        right = arrays[t.W][last(x)]
    else:
        right = mapped(task, last(x), second)
    for machine in MACHINES:
        out = np.full(n * pixels * task.y_ld, FILL, right.dtype)
        found = ran(elements, task, machine, arrays, out, n, bool(seed % 2)).reshape(n, pixels, task.y_ld)
        np.testing.assert_array_equal(found[..., :channels], right, f"{seed} {machine.isa}")
        assert (found[..., channels:] == FILL).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_channel_by_channel_become_bytes_pixel_by_pixel(channels: int) -> None:
    rng = np.random.default_rng(channels)
    for pixels in (1, 15, 33, 9000):
        task = EightMap("planes", channels, pixels, 1, 4, scale=0.03, zero=int(rng.integers(256)), low=3, high=250)
        x = rng.normal(scale=3, size=(2, channels, pixels)).astype("f4")
        x.flat[0] = np.nan
        right = mapped(replace(task, op="quantise"), last(x))
        for machine in MACHINES:
            found = ran(elements, task, machine, {t.X: x}, np.full(8 * pixels, FILL, "u1"), 2, bool(channels % 2))
            np.testing.assert_array_equal(found.reshape(2, pixels, 4)[..., :channels], right)


def test_filling_writes_what_it_is_told_and_nothing_between() -> None:
    for channels, ld in ((8, 8), (7, 12), (70, 72)):
        task = EightMap("fill", channels, 5, ld, ld, zero=200)
        for machine in MACHINES:
            found = ran(elements, task, machine, {t.X: np.zeros(1, "u1")}, np.full(2 * 5 * ld, FILL, "u1"), 2, True)
            assert (found.reshape(-1, ld)[:, :channels] == 200).all()
            assert (found.reshape(-1, ld)[:, channels:] == FILL).all()


@pytest.mark.parametrize("seed", range(24))
def test_pools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rank, what = int(rng.integers(1, 3)), ("max", "avg")[seed % 2]
    kernel, stride = (tuple(int(v) for v in rng.integers(1, 4, rank)) for _ in range(2))
    dilation = tuple(int(v) for v in rng.integers(1, 3, rank)) if what == "max" else (1,) * rank
    padding = tuple((int(rng.integers(0, k)), int(rng.integers(0, k))) for k in kernel)
    size = tuple(int(v) for v in rng.integers(5, 9, rank))  # every window fits
    out = [(i + a + b - (k - 1) * d - 1) // s + 1 for i, (a, b), k, d, s in
           zip(size, padding, kernel, dilation, stride, strict=True)]  # fmt: skip
    channels, n = int(rng.integers(1, 150)), int(rng.integers(1, 3))
    x = rng.integers(0, 256, (n, channels, *size)).astype("u1")
    windows = PoolTask(what, channels, size, kernel, stride, padding, dilation, tuple(out),
                       -(-channels // 4) * 4, channels + int(rng.integers(3)), bool(rng.integers(2)))  # fmt: skip
    task = EightPool(windows, int(rng.integers(256)), float(np.float32(rng.uniform(0.3, 3))), int(rng.integers(256)))
    right = last(pooled(task, x)).reshape(n, -1, channels)
    for machine in MACHINES:
        held = np.full(n * prod(out) * windows.y_ld, FILL, "u1")
        found = ran(pool, task, machine, {t.X: rows(x, windows.x_ld)}, held, n, bool(seed % 2))
        found = found.reshape(n, -1, windows.y_ld)
        np.testing.assert_array_equal(found[..., :channels], right, f"{seed} {machine.isa}")
        assert (found[..., channels:] == FILL).all()
