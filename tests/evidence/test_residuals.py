"""What channels explain of each other, by covariance and by few rows, against ridge regression one by one."""

from __future__ import annotations

import numpy as np
import pytest

from dojang.evidence.moments import RIDGE
from dojang.evidence.residuals import DenseResiduals, FactorResiduals, fit, low_rank_fit


def explained(x: np.ndarray, places: list[int], others: list[int], ridge: float) -> np.ndarray:
    """The least of |x_i − X_others · w|² + λ (|w|² + 1) over w, for each place: least squares on more rows."""
    found: list[float] = []
    for place in places:
        rows = np.vstack([x[:, others], np.sqrt(ridge) * np.eye(len(others))])
        wanted = np.concatenate([x[:, place], np.zeros(len(others))])
        w = np.linalg.lstsq(rows, wanted, rcond=None)[0]
        found.append(float(np.square(rows @ w - wanted).sum()) + ridge)
    return np.array(found)


@pytest.mark.parametrize("seed", range(4))
def test_both_ways_are_ridge_regression(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, channels = int(rng.integers(3, 30)), int(rng.integers(8, 40))
    x = rng.standard_normal((rows, channels)) * rng.uniform(0.3, 2, channels) / np.sqrt(rows)
    x[:, 3] = 2 * x[:, 5]
    ridge = RIDGE * float(np.square(x).sum()) / channels
    order = rng.permutation(channels)
    for now in (DenseResiduals.of(x.T @ x), FactorResiduals(x)):
        gone: list[int] = []
        for count in (0, 2, 3):
            more = order[len(gone) : len(gone) + count].tolist()
            gone += more
            now = now.without(more)
            stay = [c for c in range(channels) if c not in gone]
            wanted = np.array([explained(x, [c], [o for o in stay if o != c], ridge)[0] for c in stay])
            np.testing.assert_allclose(now.left()[stay], wanted, rtol=1e-6)
            assert (now.left()[gone] == 0).all()
            if gone:
                np.testing.assert_allclose(now.lost(gone), explained(x, gone, stay, ridge), rtol=1e-6)


def test_a_fit_by_few_rows_is_that_by_their_covariance() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 20))
    kept, lost = list(range(0, 20, 2)), list(range(1, 20, 2))
    left, right = low_rank_fit(x, kept, lost)
    wanted, same = fit(x.T @ x, kept, lost)
    np.testing.assert_allclose(left @ right, wanted @ same, rtol=1e-8, atol=1e-10)
    left, right = low_rank_fit(np.zeros((6, 20)), kept, lost)
    assert (left @ right == np.zeros((10, 10))).all()
