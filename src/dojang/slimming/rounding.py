"""Rounding the weights of a layer so that its outputs move least, which is not each to its nearest whole number.

The mean squared change of an output is eᵀ M e for errors e of its weights and mean products M of what it reads. The
weights are rounded one after another, those of the strongest inputs first, and each time the weights that are still
free take the error up as far as they can: the least squares of what is left, from the inverse of M (Frantar et al.
2022, "GPTQ", section 3; Hassibi and Stork 1993, "Optimal Brain Surgeon"). It is a greedy form of adaptive rounding
(Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization"). Output channels are apart.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray

DAMPING = 0.01
"""Of the mean strength of the inputs, added to each: weights of inputs that samples hardly move stay near what they
were."""


def cost(error: Array, products: Array) -> Array:
    """The mean squared change of each output: (oc,) for errors (oc, f) and mean products (f, f)."""
    return np.einsum("of,of->o", error @ products, error)


def rounded(weight: Array, scale: Array, products: Array, most: int = 127) -> Array:
    """The whole numbers (oc, f), from −most to most, for weights (oc, f) with a scale for each output channel.

    No output channel moves more than with nearest rounding on the samples that `products` (f, f) are of.

    Two inputs that are always equal: the errors of their weights add up, so one is rounded down and one up.

    >>> rounded(np.array([[0.4, 0.4]]), np.ones(1), np.ones((2, 2)))
    array([[0., 1.]])
    """
    whole = weight / scale[:, None]
    nearest = np.clip(np.rint(whole), -most, most)
    strength = np.diag(products).astype(np.float64)
    mean = float(strength.mean()) if strength.size else 0.0
    if not mean > 0 or not np.isfinite(mean):
        return nearest
    order = np.argsort(-strength, kind="stable")
    damped = products[np.ix_(order, order)].astype(np.float64) / mean
    damped[np.diag_indices_from(damped)] += DAMPING
    try:
        inverse = np.linalg.inv(damped)
        upper = np.linalg.cholesky((inverse + inverse.T) / 2).T
    except np.linalg.LinAlgError:  # inputs that hardly move: what is left of them are the roundings of the sums
        return nearest
    left = whole[:, order].astype(np.float64)
    found = np.empty_like(left)
    for j in range(left.shape[1]):
        found[:, j] = np.clip(np.rint(left[:, j]), -most, most)
        left[:, j + 1 :] -= ((left[:, j] - found[:, j]) / upper[j, j])[:, None] * upper[j, j + 1 :]
    back = np.empty_like(found)
    back[:, order] = found
    exact = products.astype(np.float64)
    better = cost(back - whole, exact) < cost(nearest - whole, exact)
    return np.where(better[:, None], back, nearest)
