"""Block structure of a matrix of energies: equal groups of rows and columns that have most to do with each other."""

from __future__ import annotations

import numpy as np

from dojang.base.errors import DataError
from dojang.evidence.moments import principal, singular

Array = np.ndarray

EXCHANGED = 128
"""Up to this many channels assignments are improved by exchanges, which take their number squared each."""


def co_cluster(
    energy: Array, groups: int, rng: np.random.Generator, starts: int = 3, points: Array | None = None
) -> tuple[Array, Array, float]:
    """Equal row and column groups with much energy in the blocks on the diagonal, and its part of the whole.

    Where `groups` does not divide a number, the first groups hold one more than the others.

    Rows and columns are assigned in turn, each side the best balanced answer to the other, from one spectral and some
    random starts. Energies are at least 0; a rounding error below counts as 0. `points`: the `coordinates` of the rows,
    of these energies in so many groups or more. Raises `DataError` where an energy is not finite.
    """
    energy = unit(energy)
    points = coordinates(energy, groups) if points is None else points
    total = float(energy.sum()) or 1.0
    count = len(energy)
    best: tuple[float, Array, Array] | None = None
    for start in range(starts):
        rows = spectral_start(points, groups) if start == 0 else random_groups(count, groups, rng)
        columns, value, now = np.zeros(energy.shape[1], int), -1.0, 0.0
        for _ in range(30):
            columns = balanced(_sums(energy.T, rows, groups))
            inside = _sums(energy, columns, groups)
            rows = balanced(inside)
            now = float(inside[np.arange(count), rows].sum()) / total
            if now <= value + 1e-9:
                break
            value = now
        value = now
        if best is None or value > best[0]:
            best = (value, rows, columns)
    assert best is not None
    return best[1], best[2], best[0]


def coordinates(energy: Array, groups: int) -> Array:
    """Spectral coordinates of the rows, (rows, groups - 1), at least one: the first of them serve fewer groups."""
    return spectral(np.sqrt(unit(energy)), max(1, groups - 1))[0]


def spectral_start(points: Array, groups: int) -> Array:
    """Equal row groups around centres that lie far apart in directions of the spectral coordinates."""
    points = points[:, : max(1, groups - 1)]
    points = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-30)
    centres = [points[np.argmax(np.linalg.norm(points - points.mean(axis=0), axis=1))]]
    while len(centres) < groups:
        near = np.min([((points - c) ** 2).sum(axis=1) for c in centres], axis=0)
        centres.append(points[np.argmax(near)])
    return balanced(points @ np.array(centres).T)


def spectral(strength: Array, count: int) -> tuple[Array, Array]:
    """Coordinates of rows and columns, (rows, count) and (columns, count): the singular vectors after the first."""
    strength = unit(strength)
    row, column = (1 / np.sqrt(np.maximum(strength.sum(axis=k), 1e-12)) for k in (1, 0))
    left, right = leading(row[:, None] * strength * column, count + 1)
    return row[:, None] * left[:, 1:], column[:, None] * right[:, 1:]


GRAM = 256
"""From so many rows and columns on leading singular vectors are those of the smaller matrix of products: all singular
values, most of which nobody asks for, take ten times as long."""


def leading(matrix: Array, count: int) -> tuple[Array, Array]:
    """Left (rows, count) and right (columns, count) singular vectors of the largest singular values."""
    if min(matrix.shape) < GRAM:
        left, _, right = singular(matrix)
        return left[:, :count], right[:count].T
    wide = matrix.shape[1] > matrix.shape[0]
    tall = matrix.T if wide else matrix
    values, vectors = principal(tall.T @ tall)
    near, values = vectors[:, ::-1][:, :count], values[::-1][:count]
    far = tall @ near / np.sqrt(np.maximum(values, 1e-30))
    return (near, far) if wide else (far, near)


def unit(energy: Array) -> Array:
    """Energies at least 0, the largest 1: what is found does not depend on the scale of weights and activations."""
    largest = float(np.abs(energy).max(initial=0.0))
    if not np.isfinite(largest):
        raise DataError(
            "the energies of a layer's channels are not finite; look for NaN or huge weights and activations"
        )
    return np.clip(energy, 0, None) / (largest or 1.0)


def random_groups(count: int, groups: int, rng: np.random.Generator) -> Array:
    """A group for each of `count` channels, drawn at random, equally many in each; the first hold what is left over."""
    return rng.permutation(np.arange(count) % groups)


def _sums(energy: Array, groups_of_columns: Array, groups: int) -> Array:
    """Energy of every row in every group of columns, (rows, groups)."""
    return energy @ np.eye(groups)[groups_of_columns]


def balanced(gain: Array) -> Array:
    """Each row to one group, equally many to each: the rows with most to lose first, then exchanges that gain."""
    count, groups = gain.shape
    free = [count // groups + (g < count % groups) for g in range(groups)]
    ranked = np.sort(gain, axis=1)
    regret = ranked[:, -1] - ranked[:, -2] if groups > 1 else ranked[:, -1]
    choice = np.argsort(-gain, axis=1)
    out = np.zeros(count, int)
    for i in np.argsort(-regret, kind="stable"):
        for g in choice[i]:
            if free[g]:
                out[i], free[g] = g, free[g] - 1
                break
    for _ in range(count if count <= EXCHANGED else 0):  # the pair that gains most, until none gains
        own = gain[np.arange(count), out]
        swap = gain[:, out]
        better = swap + swap.T - own[:, None] - own
        i, j = np.unravel_index(np.argmax(better), better.shape)
        if better[i, j] <= 1e-12:
            break
        out[i], out[j] = out[j], out[i]
    return out
