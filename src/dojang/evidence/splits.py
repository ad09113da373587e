"""A convolution split into groups: which channels go together, the grouped layer fitted, how far its outputs move.

Channels are put into groups so that most energy Σ W² · var(input) stays inside (co-clustering). The grouped layer is
fitted by least squares: what a group no longer reads is predicted from the patches that it does read. How far that
moves the outputs is judged on samples that did not fit it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dojang.evidence.blocks import co_cluster, coordinates, random_groups
from dojang.evidence.moments import CONSTANT, ridge_fit
from dojang.evidence.patches import Half, Patches

Array = np.ndarray

GROUP_COUNTS = (2, 4, 8, 16)
"""Numbers of groups that are tried, each a multiple of the one before."""


@dataclass(frozen=True)
class ChannelSplit:
    """The group of every input channel (`rows`) and of every output channel (`columns`), equally many in each.

    `kept`: the part of the layer's energy inside the groups.
    """

    groups: int
    rows: Array
    columns: Array
    kept: float

    def channels(self) -> tuple[Array, Array]:
        """Input and output channels in the order in which groups stand together."""
        return np.argsort(self.rows, kind="stable"), np.argsort(self.columns, kind="stable")


def energies(kernel: Array, variance: Array) -> Array:
    """What each output channel gets of each input channel, (ic, oc): Σ over the taps of W² times the input's variance.

    `kernel` (oc, ic, *taps), `variance` (ic,).
    """
    oc, ic = kernel.shape[:2]
    return (kernel.reshape(oc, ic, -1) ** 2).sum(axis=2).T * variance[:, None]


class SplitSearch:
    """Splits of one layer with most energy inside. What they all need of the layer is worked out once."""

    def __init__(self, kernel: Array, variance: Array, seed: int = 0) -> None:
        """`kernel` (oc, ic, *taps), `variance` (ic,) of what it reads."""
        self.kernel, self.seed = kernel, seed
        self.energy = energies(kernel, variance)
        self.live = [np.flatnonzero(self.energy.sum(axis=axis) > 0) for axis in (1, 0)]

    @cached_property
    def points(self) -> Array:
        """Coordinates of the input channels that have energy, for as many groups as are tried."""
        return coordinates(self.energy[np.ix_(*self.live)], GROUP_COUNTS[-1])

    def best(self, groups: int) -> ChannelSplit:
        """The split with most energy inside that is found; channels that have no energy at all fill the groups up.

        Those that have some are shared out evenly first: else a layer of which half the channels are dead would be two
        groups, one of them dead. `groups` divides both numbers of channels.
        """
        energy, live, rng = self.energy, self.live, np.random.default_rng(self.seed)
        if min(map(len, live)) < groups:
            rows, columns = (random_groups(size, groups, rng) for size in energy.shape)
            return ChannelSplit(groups, rows, columns, 0.0)
        points = self.points if groups <= GROUP_COUNTS[-1] else None
        rows, columns, kept = co_cluster(energy[np.ix_(*live)], groups, rng, points=points)
        rows, columns = _filled(rows, live[0], len(energy), groups), _filled(columns, live[1], energy.shape[1], groups)
        return ChannelSplit(groups, rows, columns, kept)


def best_split(kernel: Array, variance: Array, groups: int, seed: int = 0) -> ChannelSplit:
    """The split of a layer with most energy inside that is found."""
    return SplitSearch(kernel, variance, seed).best(groups)


def random_split(kernel: Array, variance: Array, groups: int, rng: np.random.Generator) -> ChannelSplit:
    """A split drawn at random, channels that have energy shared out evenly as in `best_split`."""
    energy = energies(kernel, variance)
    live = [np.flatnonzero(energy.sum(axis=axis) > 0) for axis in (1, 0)]
    rows, columns = (
        _filled(random_groups(len(own), groups, rng), own, size, groups)
        for own, size in zip(live, energy.shape, strict=True)
    )
    return ChannelSplit(groups, rows, columns, float(energy[rows[:, None] == columns].sum() / (energy.sum() or 1.0)))


def _filled(own: Array, where: Array, size: int, groups: int) -> Array:
    """The groups of all channels: those of the channels `where`, and the others to where there is room."""
    free = size // groups - np.bincount(own, minlength=groups)
    out = np.empty(size, int)
    out[where] = own
    out[np.setdiff1d(np.arange(size), where)] = np.repeat(np.arange(groups), free)
    return out


def relative_change(kernel: Array, split: ChannelSplit, patches: Patches, whole: float | None = None) -> float:
    """How far the outputs move if the layer is split and fitted, as a part of their variance, both on the half that
    judges: Σ (y − ŷ)² / Σ (y − mean y)² over all output channels, before the activation.

    `whole`: the denominator where it is known, see `outputs_variance`.
    """
    flat = kernel.reshape(len(kernel), -1)
    places = np.repeat(split.rows, int(np.prod(kernel.shape[2:])))
    change = split_change(flat, places, split.columns, split.groups, patches.fit.covariance)
    judge = patches.judge
    moved = np.einsum("ij,ij->", change @ judge.covariance, change)
    moved += np.square(change @ (judge.mean - patches.fit.mean)).sum()
    whole = outputs_variance(kernel, patches) if whole is None else whole
    return float(moved / whole) if whole > 0 else 0.0


def outputs_variance(kernel: Array, patches: Patches) -> float:
    """The variance of all outputs of a layer together on the half that judges."""
    flat = kernel.reshape(len(kernel), -1)
    return float(np.einsum("ij,ij->", flat @ patches.judge.covariance, flat))


def split_change(flat: Array, places: Array, rows: Array, groups: int, covariance: Array) -> Array:
    """Weights minus fitted ones, as `flat` (m, k): times what is read, how far the outputs move.

    `places` (k,) and `rows` (m,) are the groups of what is read and of the outputs; `covariance` (k, k) is that of what
    is read. What a group no longer reads is predicted by least squares from what it does.
    """
    change = np.zeros(flat.shape)
    for group in range(groups):
        kept, lost = np.flatnonzero(places == group), np.flatnonzero(places != group)
        own = np.flatnonzero(rows == group)
        moved = flat[np.ix_(own, lost)]
        predicted = ridge_fit(covariance[np.ix_(kept, kept)], covariance[np.ix_(kept, lost)] @ moved.T)
        change[np.ix_(own, lost)] = moved
        change[np.ix_(own, kept)] = -predicted.T
    return change


def rotated(kernel: Array, columns: Array, rng: np.random.Generator) -> Array:
    """The layer with its output channels turned by a random rotation within each of the groups `columns`.

    The eigenvalues of the outputs' covariance stay (those within groups, where there are some), and so does what each
    input channel gives to all outputs together. Which outputs need which inputs is lost.
    """
    turned = np.array(kernel)
    for group in np.unique(columns):
        own = np.flatnonzero(columns == group)
        rest = kernel[own].reshape(len(own), -1)
        if len(own) > rest.shape[1]:  # K = QR: a random rotation of K is a random frame in place of Q, which is smaller
            rest = np.linalg.qr(rest, mode="r")
        turn, scale = np.linalg.qr(rng.normal(size=(len(own), len(rest))))
        turned[own] = ((turn * np.sign(np.diag(scale))) @ rest).reshape(kernel[own].shape)
    return turned


def permuted_inputs(kernel: Array, rows: Array, rng: np.random.Generator) -> Array:
    """The layer in which every output channel reads the input channels in an order of its own, within `rows`.

    All kernels stay as they are, and so do strong and weak outputs; that outputs share their inputs is lost.
    """
    mixed = np.array(kernel)
    for group in np.unique(rows):
        own = np.flatnonzero(rows == group)
        for output in range(len(kernel)):
            mixed[output, own] = kernel[output, rng.permutation(own)]
    return mixed


def channel_variances(half: Half, channels: int) -> Array:
    """The variance of every input channel (ic,), the mean over its taps; 0 for one that does not move."""
    variance = np.diag(half.covariance).reshape(channels, -1)
    moves = np.sqrt(variance.clip(0)) > CONSTANT * np.abs(half.mean.reshape(channels, -1))
    return np.where(moves, variance, 0.0).mean(axis=1)
