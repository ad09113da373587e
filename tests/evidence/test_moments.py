"""Moments, directions and fits of channels that are constant, equal, huge, tiny or zero, against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from dojang.base.errors import DataError
from dojang.evidence.blocks import GRAM, co_cluster, leading, spectral
from dojang.evidence.moments import (
    Products,
    affine_fit,
    principal,
    require_finite,
    require_finite_weights,
    ridge_fit,
    singular,
)
from nets import STRUCTURES, weighted

KINDS = ("normal", "zero", "constant", "far", "double", "tiny", "huge")


def rows_of(seed: int, kinds: list[str], count: int) -> np.ndarray:
    """(count, channels) as float32 activations are: one channel of each kind."""
    rng = np.random.default_rng(seed)
    made: list[np.ndarray] = []
    for kind in kinds:
        noise = rng.normal(size=count)
        made.append(
            {
                "normal": noise,
                "zero": np.zeros(count),
                "constant": np.full(count, rng.normal()),
                "far": 1e4 + noise,
                "double": 2 * made[-1] if made else noise,
                "tiny": 1e-30 * noise,
                "huge": 1e18 * noise,
            }[kind]
        )
    return np.stack(made, 1).astype(np.float32).astype(np.float64)


@settings(max_examples=150)
@given(seed=st.integers(0, 2**31), kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=9),
       count=st.integers(1, 90), batch=st.integers(1, 40))  # fmt: skip
def test_moments_are_those_of_all_rows_and_no_variance_is_below_zero(seed, kinds, count, batch):
    note(f"rows_of({seed}, {kinds}, {count}), batches of {batch}")
    rows = rows_of(seed, kinds, count)
    sums = Products(len(kinds), len(kinds))
    for start in range(0, count, batch):
        sums.add(rows[start : start + batch])
    found = sums.joined()
    about = rows - rows.mean(axis=0)
    size = np.sqrt(np.square(about).mean(axis=0))
    rounding = 1e-13 * np.abs(rows).max(axis=0)
    assert found.rows == count
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-12, atol=rounding.max() * 1e-6)
    allowed = np.outer(1e-9 * size + rounding, size + rounding) + np.outer(size + rounding, 1e-9 * size + rounding)
    assert (np.abs(found.covariance - about.T @ about / count) <= allowed).all()
    assert (np.diag(found.covariance) >= 0).all()
    assert (found.variance >= 0).all()
    inside = found.correlation()
    assert np.isfinite(inside).all()
    assert (np.abs(inside) <= 1).all()
    moving = size > 1e-5 * np.abs(rows.mean(axis=0))
    np.testing.assert_allclose(np.diag(inside)[moving], 1, atol=1e-6)


def test_a_constant_channel_has_no_negative_variance():
    """The sum of squares less the square of the mean, as it was computed before, is below 0 for about half of these."""
    below = 0
    for seed in range(40):
        rows = rows_of(seed, ["constant", "normal"], 77)
        below += (np.square(rows).sum(axis=0) / 77 - (rows.sum(axis=0) / 77) ** 2).min() < 0
        sums = Products(2, 2)
        sums.add(rows[:50])
        sums.add(rows[50:])
        assert sums.joined().variance.min() >= 0
    assert below >= 5


def test_processes_join_to_the_moments_of_all_rows():
    rows = rows_of(3, ["far", "normal", "constant", "double"], 100)
    parts = [Products(4, 4), Products(4, 4), Products(4, 4)]
    for part, own in zip(parts, (rows[:30], rows[30:31], rows[31:31]), strict=True):
        part.add(own)
    whole = Products(4, 4)
    whole.add(rows[:31])
    # each process asks for the same sums in the same order: answer the calls of all three together
    asked: list[list[np.ndarray]] = [[], [], []]
    answers: list[np.ndarray] = []
    for step in range(6):
        asked = [[], [], []]
        for own, part in zip(asked, parts, strict=True):
            calls = iter(answers)

            def reduced(how: str, array: np.ndarray, own: list[np.ndarray] = own, calls=calls) -> np.ndarray:
                assert how == "sum"
                own.append(np.asarray(array, np.float64))
                return next(calls, own[-1])

            part.joined(reduced)
        answers.append(asked[0][step] + asked[1][step] + asked[2][step])
    calls = iter(answers)
    joined = parts[0].joined(lambda how, array: next(calls))
    np.testing.assert_allclose(joined.covariance, whole.joined().covariance, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(joined.mean, rows[:31].mean(axis=0), rtol=1e-12)


@settings(max_examples=100)
@given(seed=st.integers(0, 2**31), kinds=st.lists(st.sampled_from(KINDS), min_size=2, max_size=8),
       power=st.sampled_from([-30, 0, 15]))  # fmt: skip
def test_fits_and_directions_do_not_depend_on_the_scale(seed, kinds, power):
    rows = rows_of(seed, kinds, 60)
    covariance = np.cov(rows.T, bias=True)
    scaled = covariance * 10.0 ** (2 * power)
    values, vectors = principal(scaled)
    assert (values >= 0).all()
    np.testing.assert_allclose((vectors * values) @ vectors.T, scaled, atol=1e-9 * np.abs(scaled).max())
    left, sizes, right = singular(scaled)
    np.testing.assert_allclose((left * sizes) @ right, scaled, atol=1e-9 * np.abs(scaled).max())
    near = ridge_fit(scaled[:-1, :-1], scaled[:-1, -1:], 1e-3)
    assert np.isfinite(near).all()
    np.testing.assert_allclose(near, ridge_fit(covariance[:-1, :-1], covariance[:-1, -1:], 1e-3), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e15])
def test_a_fit_predicts_a_channel_from_its_double(size):
    rows = rows_of(1, ["normal", "normal", "constant"], 400) * size
    covariance = np.cov(np.column_stack((rows, 3 * rows[:, 1])).T, bias=True)
    near = ridge_fit(covariance[:3, :3], covariance[:3, 3:], 1e-6)
    np.testing.assert_allclose(near[:, 0], [0, 3, 0], atol=1e-3)


def test_an_affine_fit_is_least_squares_with_a_column_of_ones():
    rng = np.random.default_rng(5)
    x, y = rng.normal(3, 1, (40, 4)), rng.normal(size=(40, 3))
    weight, bias = affine_fit(x, y, 0.0)
    solved = np.linalg.lstsq(np.hstack([x, np.ones((40, 1))]), y, rcond=None)[0]
    np.testing.assert_allclose(np.hstack([weight, bias[:, None]]), solved.T, rtol=1e-9, atol=1e-12)
    smaller, level = affine_fit(x, y)
    assert np.abs(smaller).sum() < np.abs(weight).sum()
    np.testing.assert_allclose(x.mean(axis=0) @ smaller.T + level, y.mean(axis=0), atol=1e-12)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), power=st.sampled_from([-60, -16, 0, 30]))
def test_groups_are_found_whatever_the_scale_and_with_rounding_below_zero(seed, power):
    rng = np.random.default_rng(seed)
    planted = np.kron(np.eye(4), np.ones((4, 4)))
    rows, columns = rng.permutation(16), rng.permutation(16)
    energy = (planted + 0.01 * rng.random((16, 16)))[rows][:, columns] * 10.0**power
    energy[rng.integers(16)] *= 0
    energy[rng.integers(16), rng.integers(16)] = -1e-16 * 10.0**power
    found = co_cluster(energy, 4, np.random.default_rng(0))
    assert found[2] > 0.95
    assert all(np.isfinite(side).all() for side in spectral(energy.clip(0), 3))


def test_what_is_not_finite_is_said():
    bad = np.array([[1.0, np.nan], [0.0, 1.0]])
    for call in (
        principal,
        singular,
        lambda m: ridge_fit(m, m, 1e-3),
        lambda m: co_cluster(m, 2, np.random.default_rng()),
    ):
        with pytest.raises(DataError, match=r"NaN|not finite"):
            call(bad)
    with pytest.raises(DataError, match=r"c3: its output is inf on a sample \(place 1, 0\)"):
        require_finite({"c3": np.array([[[0.0, 0.0], [np.inf, 0.0]]], np.float32)})
    graph = weighted(STRUCTURES["plain"]())
    require_finite_weights(graph)
    weights = dict(graph.weights)
    weights["c2.weight"] = weights["c2.weight"].copy()
    weights["c2.weight"][1, 2, 0, 0] = np.nan
    with pytest.raises(DataError, match=r"c2: its weight holds nan at \[1, 2, 0, 0\]"):
        require_finite_weights(graph.with_weights(weights))


@pytest.mark.parametrize("shape", [(20, 30), (GRAM + 40, GRAM), (GRAM, GRAM + 40)])
def test_leading_directions_are_those_of_the_whole_decomposition(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.random(shape) + 3 * np.outer(rng.random(shape[0]), rng.random(shape[1]))
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    ours = leading(matrix, 3)
    for mine, theirs in zip(ours, (left[:, :3], right[:3].T), strict=True):
        np.testing.assert_allclose(np.abs(mine.T @ theirs), np.eye(3), atol=1e-6)


def test_few_rows_wait_for_more() -> None:
    """Row by row and all at once are the same figures; rows that wait are not lost."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(5, 1, (37, 6)), rng.normal(-2, 3, (37, 9))
    one, many = Products(6, 9), Products(6, 9)
    many.add(a, b)
    for i in range(37):
        one.add(a[i : i + 1], b[i : i + 1])
    for mine, theirs in ((one.joined(), many.joined()),):
        assert mine.rows == theirs.rows == 37
        np.testing.assert_allclose(mine.covariance, (a - a.mean(0)).T @ (b - b.mean(0)) / 37, atol=1e-12)
        np.testing.assert_allclose(mine.covariance, theirs.covariance, atol=1e-12)
        np.testing.assert_allclose(mine.variance, a.var(0), atol=1e-12)
