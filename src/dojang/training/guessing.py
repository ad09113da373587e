"""What guessing loses, and by that whether a network knows the data. Needs no PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dojang.arith.outputs import Numbers
from dojang.training.data import Split

TRAINED = 0.5
"""Weights count as trained where their loss is at most this share of the loss of guessing; random ones are near 1."""


def guessing_loss(part: Split) -> float:
    """The loss of always giving the same best answer.

    By the shares of the classes it is their entropy, −Σ p ln p; with several classes to a sample the mean over the
    classes of that of yes and no; of targets the mean of their variances (1 for a target that does not vary).
    """
    if part.task == "classification":
        return _entropy(np.bincount(part.y) / len(part))
    if part.task == "multilabel":
        return float(np.mean([_entropy(np.array([p, 1 - p])) for p in part.y.mean(axis=0)]))
    variance = part.y.astype(np.float64).var(axis=0)
    return float(np.where(variance > 0, variance, 1.0).mean())


def guessing_accuracy(part: Split) -> float:
    """What always giving the same best answer scores (`Split.accuracy`): the share of the most frequent class; with
    several classes to a sample the mean over them of the share of the more frequent of yes and no; R² = 0 for targets.
    """
    if part.task == "classification":
        return float(np.bincount(part.y).max()) / len(part)
    if part.task == "multilabel":
        yes = part.y.mean(axis=0)
        return float(np.maximum(yes, 1 - yes).mean())
    return 0.0


def other_order(answers: NDArray[Any], part: Split) -> tuple[float, dict[int, int]]:
    """The share of right classes if the outputs stood for the classes in another order, and that order: the output for
    each class that was seen, the surest first. `answers` (n,) are the outputs that are largest.

    The order is found on every second sample, pair by pair, the most frequent first, and the share is that of the
    others: pairs that chance makes of few samples are not right there.
    """
    width = int(max(part.y.max(), answers.max())) + 1
    pairs, counts = np.unique(part.y[::2] * width + answers[::2], return_counts=True)
    order: dict[int, int] = {}
    taken: set[int] = set()
    for pair in pairs[np.argsort(-counts, kind="stable")].tolist():
        label, answer = divmod(pair, width)
        if label not in order and answer not in taken:
            order[label] = answer
            taken.add(answer)
    meant = np.array([order.get(label, -1) for label in part.y[1::2].tolist()])
    return float((meant == answers[1::2]).mean()) if len(meant) else 0.0, order


def loss_of(outputs: NDArray[Any], part: Split, numbers: Numbers = "scores") -> float:
    """The mean loss of outputs (n, …), which are `numbers`: cross-entropy, binary cross-entropy with several classes to
    a sample, or squared error. Infinite where an output is not finite.
    """
    out = np.asarray(outputs, np.float64).reshape(len(part), -1)
    if not np.isfinite(out).all():
        return float("inf")
    rows = np.arange(len(part))
    if part.task == "classification":
        if numbers in ("softmax", "sigmoid"):
            return float(-np.log(np.maximum(out[rows, part.y], 1e-30)).mean())
        logs = out - out.max(axis=1, keepdims=True)
        logs = logs - np.log(np.exp(logs).sum(axis=1, keepdims=True))
        return float(-logs[rows, part.y].mean())
    if part.task == "multilabel":
        if numbers == "sigmoid":
            return float(-np.log(np.maximum(np.where(part.y, out, 1 - out), 1e-30)).mean())
        return float((np.logaddexp(0, out) - out * part.y).mean())
    return float(np.square(out - part.y).mean())


def _entropy(shares: NDArray[Any]) -> float:
    return float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())
