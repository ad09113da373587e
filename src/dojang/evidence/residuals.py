"""What channels explain of each other by least squares, from a covariance, or from few rows of many channels.

A ridge of `RIDGE` times the mean variance, λ, is added to the diagonal, as in `moments.ridge_fit`. Of few rows no
covariance of all channels is made: with X (r, c), C = XᵀX, and K the channels that stay, all follows from
G = λI + X_K X_Kᵀ (r, r), by the identity of Woodbury.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final

import numpy as np

from dojang.evidence.moments import RIDGE, ridge_fit

Array = np.ndarray


class Residuals(Protocol):
    """Of the channels that are still there: what the others do not explain of them."""

    def left(self) -> Array:
        """(c,): the variance of each channel that the others that are still there do not explain; 0 for gone ones."""
        ...

    def without(self, places: Sequence[int]) -> Residuals:
        """After these channels are gone too."""
        ...

    def lost(self, places: Sequence[int]) -> Array:
        """Of channels that are gone, what those that are still there do not explain of each."""
        ...


@dataclass(frozen=True)
class _Gone:
    """The channels L that went, in their `order`, and a root R of (P_LL)⁻¹ = RᵀR.

    It grows with every step, where to invert P_LL anew would cost as much as all steps together, each time.
    """

    order: Array
    root: Array

    def and_also(self, whole: Array, more: Array) -> _Gone:
        """With more channels gone."""
        before = len(self.order)
        across = whole[np.ix_(more, self.order)].astype(np.float64) @ self.root.T
        here = whole[np.ix_(more, more)].astype(np.float64)
        rest = here - across @ across.T
        values, vectors = np.linalg.eigh((rest + rest.T) / 2)
        # a P that was rounded to float32 may have lost what is positive of its least directions
        values = np.maximum(values, np.finfo(whole.dtype).eps * np.trace(here) / len(more))
        corner = (vectors / np.sqrt(values)).T
        root = np.zeros((before + len(more),) * 2)
        root[:before, :before] = self.root
        root[before:, :before] = -corner @ across @ self.root
        root[before:, before:] = corner
        return _Gone(np.concatenate([self.order, more]), root)


@final
class DenseResiduals:
    """By the inverse P of the covariance: of a channel that stays 1/P_ii is left, of channels L that go
    diag((P_LL)⁻¹), P being that of all channels.
    """

    def __init__(
        self, whole: Array, kept: Array | None = None, now: Array | None = None, gone: _Gone | None = None
    ) -> None:
        """`whole` is P of all channels, `now` that of the channels at `kept`; the others are `gone`."""
        self.whole = whole
        self.kept = np.arange(len(whole)) if kept is None else kept
        self.now = whole if now is None else now
        self.gone = _Gone(np.zeros(0, int), np.zeros((0, 0))) if gone is None else gone

    @classmethod
    def of(cls, covariance: Array) -> DenseResiduals:
        """All channels are there. Large covariances are inverted in float32, which the ridge allows."""
        level = float(np.trace(covariance)) / max(1, len(covariance)) or 1.0
        dtype = np.float32 if len(covariance) > 1024 else np.float64
        scaled = ((covariance + covariance.T) / (2 * level)).astype(dtype)
        scaled[np.diag_indices_from(scaled)] += dtype(RIDGE)
        return cls(np.linalg.inv(scaled) / dtype(level))

    def left(self) -> Array:
        """See `Residuals`."""
        found = np.zeros(len(self.whole))
        found[self.kept] = 1 / np.diag(self.now)
        return found

    def without(self, places: Sequence[int]) -> DenseResiduals:
        """See `Residuals`."""
        fresh = np.isin(self.kept, places)
        if not fresh.any():
            return self
        stay = ~fresh
        across = self.now[np.ix_(stay, fresh)]
        rest = self.now[np.ix_(stay, stay)] - across @ np.linalg.solve(self.now[np.ix_(fresh, fresh)], across.T)
        return DenseResiduals(self.whole, self.kept[stay], rest, self.gone.and_also(self.whole, self.kept[fresh]))

    def lost(self, places: Sequence[int]) -> Array:
        """See `Residuals`; `places` are all channels that are gone."""
        found = np.full(len(self.whole), np.nan)
        found[self.gone.order] = np.square(self.gone.root).sum(axis=0)
        return found[list(places)]


@final
class FactorResiduals:
    """By G⁻¹: with h_i = x_iᵀ G⁻¹ x_i, λ / (1 − h_i) is left of a channel that stays, λ (1 + h_i) of one that went."""

    def __init__(self, factor: Array, kept: Array | None = None) -> None:
        """`factor` X (rows, c), about the mean and over the root of the number of rows; `kept` (c,) says what stays."""
        self.factor = factor
        self.kept = np.ones(factor.shape[1], bool) if kept is None else kept
        self.level = ridge_of(factor)
        here = factor if self.kept.all() else factor[:, self.kept]
        inner = (here @ here.T).astype(np.float64) / self.level
        self.inverse = np.linalg.inv(inner + np.eye(len(inner)))  # λ G⁻¹
        self.leverage = np.einsum("rc,rc->c", factor, self.inverse.astype(factor.dtype) @ factor) / self.level

    def left(self) -> Array:
        """See `Residuals`."""
        return np.where(self.kept, self.level / np.maximum(1 - self.leverage, 1e-6), 0.0)

    def without(self, places: Sequence[int]) -> FactorResiduals:
        """See `Residuals`."""
        kept = self.kept.copy()
        kept[places] = False
        return self if (kept == self.kept).all() else FactorResiduals(self.factor, kept)

    def lost(self, places: Sequence[int]) -> Array:
        """See `Residuals`."""
        return self.level * (1 + self.leverage[places])


def ridge_of(factor: Array) -> float:
    """λ of X: `RIDGE` times the mean variance of its channels."""
    return RIDGE * (float(np.square(factor).sum(dtype=np.float64)) / max(1, factor.shape[1]) or 1.0)


def low_rank_fit(factor: Array, kept: Sequence[int], lost: Sequence[int]) -> tuple[Array, Array]:
    """What `ridge_fit` gives for the covariance XᵀX, as two factors (kept, rows) and (rows, lost), in float64.

    X_Kᵀ (X_K X_Kᵀ + λI)⁻¹ X_L, with λ of the channels that are kept.

    >>> x = np.array([[1.0, 0.0, 1.0], [0.0, 2.0, 2.0]])
    >>> left, right = low_rank_fit(x, [0, 1], [2])
    >>> np.allclose(left @ right, ridge_fit(x[:, :2].T @ x[:, :2], x[:, :2].T @ x[:, 2:]))
    True
    """
    here, there = factor[:, kept].astype(np.float64), factor[:, lost].astype(np.float64)
    inner = here @ here.T
    level = float(np.trace(inner)) / max(1, len(kept))
    if level <= 0:
        return np.zeros((len(kept), 0)), np.zeros((0, len(lost)))
    return here.T, np.linalg.solve(inner + RIDGE * level * np.eye(len(inner)), there)


def fit(covariance: Array, kept: Sequence[int], lost: Sequence[int]) -> tuple[Array, Array]:
    """As `low_rank_fit`, from a covariance: (kept, lost) and the identity of the lost ones."""
    inner = covariance[np.ix_(kept, kept)]
    return ridge_fit(inner, covariance[np.ix_(kept, lost)]), np.eye(len(lost))
