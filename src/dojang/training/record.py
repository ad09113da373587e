"""The record of a training run: the curve, the final figures, what a progress display is told. Needs no PyTorch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dojang.training.config import TrainConfig
from dojang.training.confusion import Confusion

METRICS = {"classification": "accuracy", "regression": "r2", "multilabel": "label accuracy", "unlabelled": "none"}
"""What "accuracy" means for each task."""


@dataclass(frozen=True)
class Scores:
    """Mean loss and accuracy of a module on one split. For regression `accuracy` is R² (see `score.evaluate`)."""

    loss: float
    accuracy: float
    samples: int


@dataclass(frozen=True)
class Epoch:
    """One point of the curve. Train figures are those seen while training (varied samples, moving weights).

    `epoch` counts from 1, `lr` is that of its last step, test figures are None where `test_every` skipped them.
    """

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    test_loss: float | None
    test_accuracy: float | None
    seconds: float


@dataclass(frozen=True)
class Progress:
    """What a progress display is told after every step: `step` of `steps` done in `epoch` (from 1) of `epochs`.

    `done` is the point of the curve when the epoch has just ended.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    lr: float
    loss: float
    done: Epoch | None = None


@dataclass(frozen=True)
class History:
    """The record of a run. Final figures are those of the last epoch, never of the best one.

    `metric` says what "accuracy" means: "accuracy" for classes, "r2" for regression, "label accuracy" for several
    classes to a sample (the share of right answers about each class). Final train figures are measured on the train
    part as it stands, without variation, as the test figures are. `confusion` is that of the test part; None for other
    tasks than classes and for more classes than `score.MOST_CLASSES`.
    """

    metric: str
    curve: tuple[Epoch, ...]
    train: Scores
    test: Scores
    lr: float
    steps: int
    seconds: float
    processes: int
    device: str
    config: TrainConfig
    data: dict[str, Any]
    confusion: Confusion | None = None

    @property
    def gap(self) -> float:
        """Train accuracy minus test accuracy: how much was learnt by heart."""
        return self.train.accuracy - self.test.accuracy

    def to_dict(self) -> dict[str, Any]:
        """For JSON: final figures first, then the curve and what it was trained with."""
        return {
            "metric": self.metric,
            "train_accuracy": self.train.accuracy,
            "test_accuracy": self.test.accuracy,
            "gap": self.gap,
            "train_loss": self.train.loss,
            "test_loss": self.test.loss,
            "epochs": len(self.curve),
            "steps": self.steps,
            "seconds": self.seconds,
            "lr": self.lr,
            "device": self.device,
            "processes": self.processes,
            "curve": [asdict(point) for point in self.curve],
            "config": self.config.to_dict(),
            "data": self.data,
            "confusion": self.confusion.to_dict() if self.confusion is not None else None,
        }
