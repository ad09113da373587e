"""What a layer reads: how its input channels move, move together, and move the outputs of the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dojang.evidence.residuals import DenseResiduals, FactorResiduals, Residuals

Array = np.ndarray


class Moments(Protocol):
    """Whatever knows the mean (c,) and the covariance (c, c) of some channels."""

    @property
    def mean(self) -> Array:
        """Of each channel."""
        ...

    @property
    def covariance(self) -> Array:
        """Of each two."""
        ...


@dataclass(frozen=True)
class Reading:
    """Figures about the input channels (c,) of one layer over `rows` places of the samples.

    `mean` (c,). `spread`: the covariance (c, c); where there are fewer places than channels, its `factor` X (rows, c)
    with XᵀX the covariance, which takes less memory and says as much. `felt` (c,): by how much the outputs
    of the network move, as a part of their spread, where the layer reads the mean of a channel in place of the
    channel. To first order: the mean over samples of (Σ over places of ∂y/∂x · (x − mean))², y a random projection of
    the outputs over their spread (Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019,
    with outputs in place of the loss).
    """

    rows: int
    mean: Array
    spread: Array
    felt: Array
    low_rank: bool = False

    @property
    def factor(self) -> Array | None:
        """X, where the covariance is kept as XᵀX."""
        return self.spread if self.low_rank else None

    @property
    def covariance(self) -> Array:
        """Of each two channels, (c, c)."""
        return self.spread.T @ self.spread if self.low_rank else self.spread

    @property
    def variance(self) -> Array:
        """Of each channel, (c,)."""
        return np.square(self.spread, dtype=np.float64).sum(axis=0) if self.low_rank else np.diag(self.spread)

    def residuals(self) -> Residuals:
        """What the channels explain of each other."""
        return FactorResiduals(self.spread) if self.low_rank else DenseResiduals.of(self.spread)
