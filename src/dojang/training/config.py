"""The settings of a training run and the learning rate of every step. Needs no PyTorch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import cos, pi
from numbers import Integral
from typing import Any, Literal

from dojang.base.errors import UsageError
from dojang.training.data import Augment

Mode = Literal["auto", "scratch", "fine-tune"]
MODES: tuple[Mode, ...] = ("auto", "scratch", "fine-tune")
"""Whether the weights that a training starts from are worth keeping. "auto": fine-tuning where, before the first step,
the loss on the train part is at most half of what guessing by the shares of the classes gives."""

Optimiser = Literal["auto", "sgd", "adamw"]
OPTIMISERS: tuple[Optimiser, ...] = ("auto", "sgd", "adamw")
"""What turns gradients into steps; `recipe.recipe_of` says what "auto" takes."""

PRECISIONS = ("float32", "bf16")
"""What forward and backward passes compute in. Weights, momentum and the loss are float32 in either."""


HEAD_SCALE = 10.0
"""Rate of a last layer that starts anew in fine-tuning, relative to the other layers'."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run. All but `device`, `checkpoint_seconds` and `train_scored` decide the result, together with
    data, network and teacher.

    `lr`: peak learning rate; None takes the one of `recipe.recipe_of`, which knows the network, the samples of a step
    and the mode. `optimiser`: one of `OPTIMISERS`. `weight_decay`: None takes 5e-4 with SGD and 0.01 with AdamW.
    `mode`: one of `MODES`. `freeze`: patterns of layers that stay as they are (`freezing.frozen`). `select`: the share
    of the train part that is set aside to choose the best epoch by; None takes `share_set_aside` in fine-tuning,
    0.1 with `patience`, and 0 otherwise. `patience`: stop after so many epochs in a row that were not the best.
    `warmup`: share of all steps in which the rate rises. `scale_l1`: penalty on the scales of batch norms, which makes
    channels die (Liu et al., ICCV 2017); soft-thresholded, so that scales become exactly 0. `alpha`, `temperature`:
    weight and softness of the teacher, used when there is one. `augment`: None takes what the data declare.
    `test_every`: epochs between looks at the test part (the last epoch always has one). `checkpoint_seconds`: at most
    so long between checkpoints. `train_scored`: samples, drawn by seed, that the final train figures are measured on;
    None takes all. `class_weights`: what each class weighs in the loss. `precision`: one of `PRECISIONS`; "bf16"
    multiplies in bfloat16 (8 significant bits instead of 24) and sums in float32, by PyTorch's autocast (Kalamkar et
    al., "A study of BFLOAT16", 2019).
    """

    epochs: int = 30
    batch_size: int = 64
    lr: float | None = None
    momentum: float = 0.9
    weight_decay: float | None = None
    scale_l1: float = 0.0
    warmup: float = 0.05
    label_smoothing: float = 0.0
    alpha: float = 0.7
    temperature: float = 4.0
    seed: int = 0
    precision: str = "float32"
    augment: Augment | None = None
    test_every: int = 1
    device: str = "auto"
    checkpoint_seconds: float = 30.0
    train_scored: int | None = None
    class_weights: tuple[float, ...] | None = None
    mode: Mode = "auto"
    freeze: tuple[str, ...] = ()
    select: float | None = None
    patience: int | None = None
    optimiser: Optimiser = "auto"

    def __post_init__(self) -> None:
        """Raise UsageError for a setting outside its range, naming it."""
        ranges: list[tuple[str, float, bool, str]] = [
            ("epochs", self.epochs, self.epochs >= 1, "at least 1"),
            ("seed", self.seed, 0 <= self.seed < 1 << 63, "a whole number from 0 to below 2^63"),
            ("batch_size", self.batch_size, self.batch_size >= 1, "at least 1"),
            ("lr", self.lr or 0.0, self.lr is None or 0 < self.lr < float("inf"), "greater than 0"),
            ("momentum", self.momentum, 0 <= self.momentum < 1, "in 0 … 1, 1 excluded"),
            ("weight_decay", self.weight_decay or 0.0, 0 <= (self.weight_decay or 0.0) < float("inf"), "0 or more"),
            ("scale_l1", self.scale_l1, 0 <= self.scale_l1 < float("inf"), "0 or more"),
            ("warmup", self.warmup, 0 <= self.warmup <= 1, "a share in 0 … 1"),
            ("label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "in 0 … 1, 1 excluded"),
            ("alpha", self.alpha, 0 <= self.alpha <= 1, "in 0 … 1"),
            ("temperature", self.temperature, 0 < self.temperature < float("inf"), "greater than 0"),
            ("test_every", self.test_every, self.test_every >= 1, "at least 1"),
            ("train_scored", self.train_scored or 0, self.train_scored is None or self.train_scored >= 1, "at least 1"),
            ("select", self.select or 0.0, self.select is None or 0 <= self.select <= 0.5, "a share in 0 … 0.5"),
            ("patience", self.patience or 0, self.patience is None or self.patience >= 1, "at least 1"),
            ("checkpoint_seconds", self.checkpoint_seconds, self.checkpoint_seconds >= 0, "0 or more"),
        ]
        for name in ("epochs", "seed", "batch_size", "test_every", "train_scored", "patience"):
            number = getattr(self, name)
            if number is not None and (isinstance(number, bool) or not isinstance(number, Integral)):
                raise UsageError(f"{name} {number!r:.40} is not a whole number")
        for name, value, fine, rule in ranges:
            if not fine:
                raise UsageError(f"{name} {value} is not {rule}")
        if self.mode not in MODES:
            raise UsageError(f"mode {self.mode!r} is not known; use {', '.join(MODES)}")
        if self.optimiser not in OPTIMISERS:
            raise UsageError(f"optimiser {self.optimiser!r} is not known; use {', '.join(OPTIMISERS)}")
        if isinstance(self.freeze, str):
            raise UsageError(f"freeze {self.freeze!r}: give a sequence of patterns, as in ({self.freeze!r},)")
        if self.patience is not None and self.select == 0:
            raise UsageError("patience needs a part of the train part to judge by; leave out select 0, or patience")
        if self.precision not in PRECISIONS:
            raise UsageError(f"precision {self.precision!r} is not known; use {' or '.join(PRECISIONS)}")

    def to_dict(self) -> dict[str, Any]:
        """All settings, for JSON."""
        return asdict(self)


SET_ASIDE_SHARE, SET_ASIDE, SET_ASIDE_LEAST = 0.025, 50, 20
"""What a fine-tuning sets aside: this share of the train part or so many samples, and none where a tenth of the train
part is less than the least. What is set aside is not learnt from: of 2,000 CIFAR-10 pictures a tenth costs ResNet-20
0.7 points (85.45 % in place of 86.2 %)."""


def share_set_aside(samples: int) -> float:
    """The share of a train part of so many samples that a fine-tuning chooses its best epoch by.

    >>> [round(share_set_aside(n) * n) for n in (150, 300, 1000, 2000, 50000)]
    [0, 30, 50, 50, 1250]
    """
    if 0.1 * samples < SET_ASIDE_LEAST:
        return 0.0
    return min(0.1, max(SET_ASIDE_SHARE, SET_ASIDE / samples))


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Rate of step 0 … steps − 1: a linear rise over W = ⌊warmup · steps⌋ steps, then a half cosine down to 0.

    Rising: peak · (step + 1) / (W + 1); after it: peak · (1 + cos(π (step − W) / (steps − W))) / 2.

    >>> [round(learning_rate(i, 10, 1.0, 0.2), 3) for i in (0, 1, 2, 6, 9)]
    [0.333, 0.667, 1.0, 0.5, 0.038]
    """
    rise = int(warmup * steps)
    if step < rise:
        return peak * (step + 1) / (rise + 1)
    return peak * 0.5 * (1 + cos(pi * (step - rise) / (steps - rise)))
