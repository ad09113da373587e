"""The record of a training run: the curve, the final figures, what a progress display is told. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dojang.base.wording import counted
from dojang.training.config import HEAD_SCALE, TrainConfig
from dojang.training.confusion import ByLabel, Confusion
from dojang.training.data import Augment

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

    `epoch` counts from 1, `lr` is that of its last step, test figures are None where `test_every` skipped them, those
    of the selection part where none was set aside.
    """

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    test_loss: float | None
    test_accuracy: float | None
    seconds: float
    selection_loss: float | None = None
    selection_accuracy: float | None = None


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
class Best:
    """The best epoch by the selection part, which is a share of the train part that no step has seen.

    Epoch 0 is the state before the first step. `accuracy` and `loss` are those of the selection part, `test_accuracy`
    is that of the same state on the test part, which has not decided anything.
    """

    epoch: int
    accuracy: float
    loss: float
    samples: int
    test_accuracy: float


FEW_STEPS = 100
"""Fewer steps hardly train a network from scratch, so that this is said."""


@dataclass(frozen=True)
class Start:
    """What is known before the first step: whether it is a fine-tuning, the recipe and why, what is frozen.

    `lr` is the peak rate, `batch` the samples of a step. `before` has the figures of the test part before the first
    step, None where the weights are fresh. `anew` names the parameters that start anew in a fine-tuning, which learn
    `config.HEAD_SCALE` times faster. `augment`: how pictures are varied; `unvaried`: they would be, were the training
    not so short. `selection_given`: the samples to choose by are a validation part that the data have.
    """

    fine_tuning: bool
    optimiser: str
    lr: float
    weight_decay: float
    why: str
    batch: float
    steps: int
    augment: Augment
    unvaried: bool
    frozen: tuple[str, ...]
    anew: tuple[str, ...]
    selection_samples: int
    selection_given: bool
    before: Scores | None

    def sentences(self, metric: str) -> tuple[str, ...]:
        """In words, for the paragraph before the first step."""
        said = [
            f"{'Fine-tuning' if self.fine_tuning else 'Training from scratch'} with "
            f"{'AdamW' if self.optimiser == 'adamw' else 'SGD'} at a peak learning rate of {self.lr:.3g} ({self.why})."
        ]
        if self.steps < FEW_STEPS:
            said.append(
                f"The whole training is {counted(self.steps, 'step')}: a smaller --batch-size, or more --epochs, makes "
                "more of them."
            )
        if self.unvaried:
            said.append("So short a training from scratch does not vary pictures; --augment asks for it.")
        if self.before is not None:
            figure = (
                f"R² {self.before.accuracy:.4f}" if metric == "r2" else f"accuracy {100 * self.before.accuracy:.2f} %"
            )
            said.append(f"Before the first step: test {figure}.")
        if self.anew:
            said.append(f"{', '.join(self.anew)} start anew and learn {HEAD_SCALE:g} times faster.")
        if self.frozen:
            names = ", ".join(self.frozen[:4]) + (f" and {len(self.frozen) - 4} more" if len(self.frozen) > 4 else "")
            said.append(f"Frozen: {names}.")
        if self.selection_samples:
            whose = "samples of the validation part" if self.selection_given else "train samples set aside"
            said.append(f"The best epoch is chosen by {self.selection_samples} {whose}.")
        return tuple(said)


@dataclass(frozen=True)
class History:
    """The record of a run. Final figures are those of the last epoch, never of the best one.

    `metric` says what "accuracy" means: "accuracy" for classes, "r2" for regression, "label accuracy" for several
    classes to a sample (the share of right answers about each class). Final train figures are measured on the train
    part as it stands, without variation, as the test figures are. `confusion` is that of the test part; None for other
    tasks than classes and for more classes than `score.MOST_CLASSES`. `by_label` is in its place where
    a sample has any number of classes.
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
    start: Start
    confusion: Confusion | None = None
    by_label: ByLabel | None = None
    best: Best | None = None
    stopped_early: bool = False
    best_weights: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)

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
            "start": asdict(self.start),
            "best": asdict(self.best) if self.best is not None else None,
            "stopped_early": self.stopped_early,
            "device": self.device,
            "processes": self.processes,
            "curve": [asdict(point) for point in self.curve],
            "config": self.config.to_dict(),
            "data": self.data,
            "confusion": self.confusion.to_dict() if self.confusion is not None else None,
            "by_label": self.by_label.to_dict() if self.by_label is not None else None,
        }
