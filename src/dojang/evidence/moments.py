"""Means, covariances, directions and least squares over channels of any kind: constant, equal, huge or tiny.

Sums of squares from which the square of the mean is taken cancel: a constant channel gets a variance such as −1e-16,
whose root is no number. Here products are summed about the mean of each batch and joined by Chan, Golub, LeVeque,
"Updating formulae and a pairwise algorithm for computing sample variances" (1979), so a variance is a sum of squares
and never below 0. What is decomposed or solved is first scaled to size 1, so that channels of 1e-30 are treated as
those of 1 are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import sqrt

import numpy as np

from dojang.arith.graph import Graph
from dojang.base.errors import DataError

Array = np.ndarray

CONSTANT = 1e-6
"""A channel whose deviation is at most this part of its mean does not move: activations are float32, whose rounding is
6e-8, and sums of some hundred products carry a few of them."""


WAITING_BYTES = 1 << 24
"""Bytes of rows in float64 that wait to be added together, at most."""


class Products:
    """Running mean products of the channels of two values about their means; of one value with itself, its covariance.

    Add rows batch by batch, then ask `joined`. Few rows wait for more, up to `WAITING_BYTES`: to add a product of
    `left` times `right` numbers takes as long for one row as for as many rows as there are channels.
    """

    def __init__(self, left: int, right: int) -> None:
        """Nothing is summed yet: `left` and `right` channels."""
        self.rows = 0
        self._waiting: list[tuple[Array, Array | None]] = []
        self._enough = min(max(left, right), WAITING_BYTES // max(1, 8 * (left + right)))
        self.left, self.right = np.zeros(left), np.zeros(right)
        self.left_squares, self.right_squares = np.zeros(left), np.zeros(right)
        self.products = np.zeros((left, right))

    def add(self, a: Array, b: Array | None = None) -> None:
        """Adds `a` (rows, left) and `b` (rows, right) of the same rows; `b` is `a` where it is left out."""
        if not len(a):
            return
        if self._waiting or len(a) < self._enough:
            self._waiting.append((a, b))
            if sum(len(own) for own, _ in self._waiting) >= self._enough:
                self._join()
        else:
            self._add(a, b)

    def _join(self) -> None:
        """Adds the rows that wait."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            right = [b for _, b in waiting if b is not None]
            self._add(np.concatenate([a for a, _ in waiting]), np.concatenate(right) if right else None)

    def _add(self, a: Array, b: Array | None) -> None:
        total = self.rows + len(a)
        root = sqrt(self.rows * len(a) / total)
        about_a, moved_a = _about(a, self.left, root)
        about_b, moved_b = (about_a, moved_a) if b is None else _about(b, self.right, root)
        self.products += about_a.T @ about_b
        self.left_squares += np.square(about_a).sum(axis=0)
        self.right_squares += np.square(about_b).sum(axis=0)
        self.left = self.left + moved_a * (len(a) / total)
        self.right = self.right + moved_b * (len(a) / total)
        self.rows = total

    def joined(self, reduced: Callable[[str, Array], Array] | None = None) -> JointMoments:
        """The mean products over all rows; with `reduced("sum", array)` over the rows of all processes."""
        self._join()
        total = reduced or (lambda how, array: array)
        rows = int(total("sum", np.array(self.rows)))
        most = max(rows, 1)
        left, right = (total("sum", self.rows * mean) / most for mean in (self.left, self.right))
        off_left, off_right = self.left - left, self.right - right
        return JointMoments(
            rows,
            left,
            right,
            total("sum", self.left_squares + self.rows * off_left**2) / most,
            total("sum", self.right_squares + self.rows * off_right**2) / most,
            total("sum", self.products + self.rows * np.outer(off_left, off_right)) / most,
        )


def _about(rows: Array, before: Array, root: float) -> tuple[Array, Array]:
    """Rows less their mean, with one row more that stands for how far the mean is from that of the rows before: `root`
    times that, the root of what it weighs. And how far it is.
    """
    mean = rows.mean(axis=0)
    moved = mean - before
    about = np.empty((len(rows) + 1, rows.shape[1]), rows.dtype)
    np.subtract(rows, mean, out=about[:-1])
    about[-1] = root * moved
    return about, moved


class JointMoments:
    """Figures over all `rows`: `mean` and `variance` of the left channels, `right_mean` and `right_variance` of the
    right ones, `covariance` (left, right); all are divided by the number of rows.
    """

    def __init__(self, rows: int, left: Array, right: Array, left_var: Array, right_var: Array, product: Array) -> None:
        """Takes the figures as they are."""
        self.rows, self.mean, self.right_mean = rows, left, right
        self.variance, self.right_variance, self.covariance = left_var, right_var, product

    def correlation(self) -> Array:
        """(left, right), within −1 … 1; 0 for a channel that does not move (see `CONSTANT`)."""
        sides = ((self.mean, self.variance), (self.right_mean, self.right_variance))
        deviations = [np.sqrt(variance) for _, variance in sides]
        moves = [d > CONSTANT * np.abs(mean) for d, (mean, _) in zip(deviations, sides, strict=True)]
        left, right = (np.where(m & (d > 0), d, np.inf) for m, d in zip(moves, deviations, strict=True))
        return (self.covariance / left[:, None] / right).clip(-1, 1)


def principal(covariance: Array) -> tuple[Array, Array]:
    """Eigenvalues, none below 0, smallest first, and eigenvectors (columns) of a covariance matrix.

    Raises `DataError` where it is not finite.
    """
    size = _size(covariance, "a covariance matrix")
    values, vectors = np.linalg.eigh((covariance + covariance.T) / (2 * size))
    return values.clip(0) * size, vectors


def principal_values(covariance: Array) -> Array:
    """The eigenvalues that `principal` gives; without vectors they take a third of the time."""
    size = _size(covariance, "a covariance matrix")
    return np.linalg.eigvalsh((covariance + covariance.T) / (2 * size)).clip(0) * size


def singular(matrix: Array) -> tuple[Array, Array, Array]:
    """`numpy.linalg.svd` without the full matrices, of one matrix or a stack of them.

    Raises `DataError` where the matrix is not finite.
    """
    size = _size(matrix, "a matrix of weights or activations")
    scaled = matrix / size
    try:
        left, values, right = np.linalg.svd(scaled, full_matrices=False)
    except np.linalg.LinAlgError:  # the quick method gave up, which the transposed matrix may spare it
        right, values, left = np.linalg.svd(np.swapaxes(scaled, -1, -2), full_matrices=False)
        left, right = np.swapaxes(left, -1, -2), np.swapaxes(right, -1, -2)
    return left, values * size, right


RIDGE = 1e-3
"""What fits add to the diagonal of a covariance, relative to its mean, so that they do not follow the noise of few
samples."""


def ridge_fit(inner: Array, cross: Array, ridge: float = RIDGE) -> Array:
    """P (kept, lost) that brings kept channels nearest to the lost ones: (C + ridge · v · I)⁻¹ · cross.

    `inner` C (kept, kept) is their covariance, v its mean variance, `cross` (kept, lost). Where no kept channel moves,
    P is 0: nothing can be told from them. Raises `DataError` where an entry is not finite.
    """
    level = float(np.trace(inner)) / max(1, len(inner))
    if not np.isfinite(level) or not np.isfinite(cross).all():
        raise DataError("the covariance of the channels is not finite; look for NaN or huge activations")
    if level <= 0:
        return np.zeros(cross.shape)
    scaled = (inner + inner.T) / (2 * level)
    return np.linalg.solve(scaled + ridge * np.eye(len(inner)), cross / level)


def affine_fit(x: Array, y: Array, ridge: float = RIDGE) -> tuple[Array, Array]:
    """M (k, m) and b (k,) that bring M x + b nearest to y over samples `x` (n, m) and `y` (n, k), both float64.

    `ridge` keeps M small, as in `ridge_fit`; the means are matched exactly.

    >>> x = np.array([[0.0], [1.0], [2.0]])
    >>> m, b = affine_fit(x, 3 * x + 5, 0.0)
    >>> m.round(6).tolist(), b.round(6).tolist()
    ([[3.0]], [5.0])
    """
    mean, level = x.mean(axis=0), y.mean(axis=0)
    inner, cross = (x - mean).T @ (x - mean) / len(x), (x - mean).T @ (y - level) / len(x)
    weight = ridge_fit(inner, cross, ridge).T
    return weight, level - weight @ mean


def _size(matrix: Array, what: str) -> float:
    """The largest entry, 1 for a matrix of zeros."""
    size = float(np.abs(matrix).max(initial=0.0))
    if not np.isfinite(size):
        raise DataError(f"{what} holds NaN or infinity")
    return size or 1.0


class NotFiniteError(DataError):
    """An activation or a weight is NaN or infinite. `where`: the value or layer; `channels` those of its output that
    hold such numbers, as far as they are followed; `numbers` how many were met; `samples` on how many samples, 0 for
    weights.
    """

    def __init__(
        self, message: str, where: str, numbers: int, channels: tuple[int, ...] = (), samples: int = 0
    ) -> None:
        """Takes the parts as they are."""
        super().__init__(message)
        self.where, self.numbers, self.channels, self.samples = where, numbers, channels, samples


def broken_weights(graph: Graph) -> list[NotFiniteError]:
    """One error for every layer's array that holds NaN or infinity; constants may hold them, as masks do."""
    found: list[NotFiniteError] = []
    for node in graph.nodes:
        for role in graph.node_params(node) if node.op != "constant" else ():
            array = graph.weights.get(node.array(role))
            if array is not None and (place := _bad(np.asarray(array))) is not None:
                array = np.asarray(array)
                at, number = ", ".join(map(str, place)), int((~np.isfinite(array)).sum())
                message = (
                    f"{node.name}: its {role} holds {array[place]} at [{at}] ({number} of {array.size} numbers are NaN "
                    "or infinite); a network is judged and cut by finite numbers: load weights that training did not "
                    "break"
                )
                found.append(NotFiniteError(message, node.name, number, _rows(node.op, array)))
    return found


def _rows(op: str, array: Array) -> tuple[int, ...]:
    """The output channels whose numbers are not finite; none where an array is not laid out by output channels."""
    if op == "conv_transpose" and array.ndim > 1:
        return ()
    return tuple(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1)).tolist())


def require_finite_weights(graph: Graph) -> None:
    """Raises `NotFiniteError` where a layer's array holds NaN or infinity; constants may hold them, as masks do."""
    for error in broken_weights(graph):
        raise error


def require_finite(taps: Mapping[str, Array], names: Iterable[str] | None = None) -> None:
    """Raises `NotFiniteError` where an activation (samples, channels, …) is NaN or infinite."""
    for name in names if names is not None else taps:
        place = _bad(taps[name])
        if place is not None:
            samples = int((~np.isfinite(taps[name].reshape(len(taps[name]), -1))).any(axis=1).sum())
            raise NotFiniteError(
                f"{name}: its output is {taps[name][place]} on a sample (place {', '.join(map(str, place[1:]))}); "
                "activations must be finite: look at the scale of the samples and of the weights",
                name,
                int((~np.isfinite(taps[name])).sum()),
                samples=samples,
            )


def _bad(array: Array) -> Sequence[int] | None:
    """The first index whose value is not finite; None where all are."""
    if array.dtype.kind not in "fc" or np.isfinite(array).all():
        return None
    return tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
