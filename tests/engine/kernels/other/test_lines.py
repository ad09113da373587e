"""Comparisons, look-ups, writes, sorting, extremes and sums along lines with all arrays against unmapped pages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dojang.engine.kernels import task as t
from dojang.engine.kernels.other import extreme, lookup, ordered, pointwise, pool_places, running
from dojang.engine.kernels.other.lookup import Index, LookupTask
from dojang.engine.kernels.other.pool_places import PoolPlacesTask
from dojang.native import jit
from dojang.native.machine import Machine
from kernels import guarded

HOST = Machine.host()
MACHINES = [HOST, *(HOST.restrict(isa) for isa in HOST.narrower())]
ROWS, COLUMNS = 5, 37


def run(module: Any, task: Any, machine: Machine, at_end: bool, arrays: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    """All units, with every array and the scratch memory against unmapped pages; the arrays afterwards."""
    code = module.emit(task, machine)
    kept = {word: guarded(np.asarray(a, "f4").reshape(-1), at_end) for word, a in arrays.items()}
    args = np.zeros(t.WORDS, np.int64)
    for word, array in kept.items():
        args[word] = array.ctypes.data
    scratch = guarded(np.zeros(max(16, code.scratch // 4), "f4"), at_end)
    for step in code.steps:
        args[t.SIZES : t.SIZES + len(step.sizes)] = step.sizes
        kernel = jit.load_recipe(step.kernel, machine).function("kernel", 3)
        for unit in range(step.units(1)):
            kernel(args.ctypes.data, unit, scratch.ctypes.data)
    return kept


places = pytest.mark.parametrize(
    ("machine", "at_end"), [(HOST, False), *((m, True) for m in MACHINES)], ids=lambda v: getattr(v, "isa", v)
)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).integers(-6, 7, (ROWS, COLUMNS)).astype("f4")


@places
def test_choices(machine: Machine, at_end: bool, x: np.ndarray) -> None:
    other = x[:, ::-1].copy()
    task = pointwise.of_axes("where", x.shape, (COLUMNS, 1), [(0, 1), (COLUMNS, 1), (COLUMNS, 1)])
    asked = (x[0] > 0).astype("f4")
    found = run(pointwise, task, machine, at_end, {t.X: asked, t.R: x, t.S0: other, t.Y: np.zeros_like(x)})
    np.testing.assert_array_equal(found[t.Y].reshape(x.shape), np.where(asked > 0, x, other))


@places
@pytest.mark.parametrize("axis", [0, 1])
def test_look_ups(machine: Machine, at_end: bool, axis: int, x: np.ndarray) -> None:
    index = np.random.default_rng(1).integers(-x.shape[axis], x.shape[axis], 11)
    shape = (11, COLUMNS) if axis == 0 else (ROWS, 11)
    steps = ((0, 1), (1, 0)) if axis == 0 else ((COLUMNS, 0), (0, 1))
    at = Index(steps[1], 0, x.shape[axis], (COLUMNS, 1)[axis])
    task = lookup.look_up(shape, steps[0], (shape[1], 1), [at])
    found = run(lookup, task, machine, at_end, {t.X: x, t.R: index, t.Y: np.zeros(shape)})
    np.testing.assert_array_equal(found[t.Y].reshape(shape), np.take(x, index, axis))


@places
def test_writes(machine: Machine, at_end: bool, x: np.ndarray) -> None:
    index = np.random.default_rng(1).integers(0, COLUMNS, (ROWS, 9))
    new = np.arange(ROWS * 9, dtype="f4").reshape(ROWS, 9)
    at = Index((9, 1), 0, COLUMNS, 1)
    task = LookupTask((ROWS, 9), (9, 1), (COLUMNS, 0), (at,), "add")
    found = run(lookup, task, machine, at_end, {t.X: new, t.R: index, t.Y: x})
    wanted = x.copy()
    np.add.at(wanted, (np.arange(ROWS)[:, None], index), new)
    np.testing.assert_array_equal(found[t.Y].reshape(x.shape), wanted)


@places
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("last", [False, True])
def test_extremes(machine: Machine, at_end: bool, axis: int, last: bool, x: np.ndarray) -> None:
    size, step, other = x.shape[axis], (COLUMNS, 1)[axis], x.shape[1 - axis]
    task = extreme.of_axes((other,), ((1, COLUMNS)[axis],), (1,), size, step, True, last)
    found = run(extreme, task, machine, at_end, {t.X: x, t.Y: np.zeros(other)})[t.Y]
    wanted = size - 1 - np.argmax(np.flip(x, axis), axis) if last else np.argmax(x, axis)
    np.testing.assert_array_equal(found, wanted)


@places
@pytest.mark.parametrize("axis", [0, 1])
def test_sums_so_far(machine: Machine, at_end: bool, axis: int, x: np.ndarray) -> None:
    size, step, other = x.shape[axis], (COLUMNS, 1)[axis], x.shape[1 - axis]
    apart = ((1, COLUMNS)[axis],)
    task = running.of_axes((other,), apart, apart, size, (step, step), False, False, True)
    found = run(running, task, machine, at_end, {t.X: x, t.Y: np.zeros_like(x)})[t.Y].reshape(x.shape)
    np.testing.assert_array_equal(found, np.flip(np.cumsum(np.flip(x, axis), axis), axis))


@places
@pytest.mark.parametrize("k", [1, 7, COLUMNS])
@pytest.mark.parametrize("largest", [False, True])
def test_sorting(machine: Machine, at_end: bool, k: int, largest: bool, x: np.ndarray) -> None:
    task = ordered.of_axes((ROWS,), (COLUMNS,), (k,), (k,), COLUMNS, 1, k, (1, 1), largest)
    found = run(ordered, task, machine, at_end, {t.X: x, t.Y: np.zeros((ROWS, k)), t.S0: np.zeros((ROWS, k))})
    order = np.argsort(-x if largest else x, 1, kind="stable")[:, :k]
    np.testing.assert_array_equal(found[t.S0].reshape(ROWS, k), order)
    np.testing.assert_array_equal(found[t.Y].reshape(ROWS, k), np.take_along_axis(x, order, 1))


@places
def test_places_of_a_pooling(machine: Machine, at_end: bool) -> None:
    """2×2 windows of a 4×6 picture with 19 channels, channels last."""
    x = np.random.default_rng(2).permutation(4 * 6 * 19).reshape(4, 6, 19).astype("f4")
    task = PoolPlacesTask(19, (4, 6), (2, 3), (2, 2), (2, 2), (0, 0), (1, 1), 19, 19)
    found = run(pool_places, task, machine, at_end, {t.X: x, t.Y: np.zeros((2, 3, 19))})[t.Y].reshape(2, 3, 19)
    flat = x.transpose(2, 0, 1).reshape(-1)  # as ONNX counts
    largest = x.reshape(2, 2, 3, 2, 19).max((1, 3))
    np.testing.assert_array_equal(flat[found.astype(int)], largest)
