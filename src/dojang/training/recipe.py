"""The recipe of a run and what PyTorch is told of it: optimiser, learning rate, which parameters decay, the loss."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dojang.base.wording import counted
from dojang.training.batches import steps_per_epoch
from dojang.training.config import HEAD_SCALE, TrainConfig
from dojang.training.data import Task

Teacher = Callable[[Tensor], Any]

# Learning rates that train from scratch at a batch of 128: with batch norm the usual value of He et al. 2016
# (section 4.2); plain networks need a smaller one (a small CNN on 8×8 digits trains well from 0.02 to 0.2).
_LR_WITH_NORM, _LR_PLAIN, _LR_BATCH = 0.1, 0.04, 128

FINE_TUNING_SHARE = 0.03
"""Rate of fine-tuning, relative to that of training from scratch."""

SHORT = 2000
"""Steps below which a training from scratch uses AdamW; networks without norms learn more by it in so few."""

VARIED_FROM = 15
"""Epochs from which pictures are varied in a training from scratch. A small CNN on 2,000 CIFAR-10 pictures has 43.3 %
after 8 epochs with variation and 49.3 % without, after 15 49.1 and 52.6 %, after 30 52.8 and 54.0 % (three seeds, then
two): seen few times, a picture is not learnt by heart, and its variations only make it harder to learn."""

# AdamW at a batch of 64; the rate grows with the square root of the batch, as gradients' noise falls with it.
_LR_ADAMW, _ADAMW_BATCH = 3e-3, 64
_DECAY = {"sgd": 5e-4, "adamw": 0.01}


@dataclass(frozen=True)
class StepRecipe:
    """How a run steps: optimiser, peak learning rate, decay of weights, and in words why it is these."""

    optimiser: str
    lr: float
    weight_decay: float
    why: str


def recipe_of(config: TrainConfig, module: nn.Module, samples: int, fine_tuning: bool) -> StepRecipe:
    """The recipe for so many samples in an epoch: what the settings say, else what suits network, batch and length.

    From scratch SGD with 0.1 (0.04 without batch norm) times batch / 128, or AdamW with 0.003 · √(batch / 64) in runs
    of fewer than `SHORT` steps. In fine-tuning SGD with `FINE_TUNING_SHARE` of its rate. A rate that is given is SGD's
    unless AdamW is named. The batch is that of the steps as they are: 300 samples in batches of at most 299 are two
    of 150.
    """
    per_epoch = steps_per_epoch(samples, config.batch_size)
    steps, batch = per_epoch * config.epochs, samples / per_epoch
    optimiser = config.optimiser
    plain_sgd = config.lr is not None or fine_tuning or config.scale_l1 > 0
    if optimiser == "auto":
        optimiser = "sgd" if plain_sgd or steps >= SHORT else "adamw"
    decay = _DECAY[optimiser] if config.weight_decay is None else config.weight_decay
    if config.lr is not None:
        return StepRecipe(optimiser, config.lr, decay, "as given")
    if optimiser == "adamw":
        rate = _LR_ADAMW * (batch / _ADAMW_BATCH) ** 0.5
        why = f"{_LR_ADAMW:g} · √({batch:g} samples a step / {_ADAMW_BATCH})"
        if config.optimiser == "auto":
            why += f", and AdamW because {counted(steps, 'step')} {'is' if steps == 1 else 'are'} fewer than {SHORT:,}"
    else:
        norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules())
        base = _LR_WITH_NORM if norm else _LR_PLAIN
        rate = base * batch / _LR_BATCH
        why = f"{base:g} for a network with{'' if norm else 'out'} batch norm · {batch:g} samples a step / {_LR_BATCH}"
    if fine_tuning:
        rate *= FINE_TUNING_SHARE
        why = f"{FINE_TUNING_SHARE:g} of the rate from scratch, because its weights are trained: {why}"
    return StepRecipe(optimiser, rate, decay, why)


def optimizer_of(
    recipe: StepRecipe, config: TrainConfig, module: nn.Module, anew: Collection[str] = ()
) -> torch.optim.Optimizer:
    """PyTorch's optimiser. Each group has a `scale` of the rate: `HEAD_SCALE` for the parameters named in `anew`."""
    groups = parameter_groups(module, recipe.weight_decay, anew)
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=config.momentum, nesterov=config.momentum > 0)


def peak_lr(config: TrainConfig, module: nn.Module) -> float:
    """SGD's peak rate from scratch for a batch as large as the settings say."""
    return recipe_of(replace(config, optimiser="sgd"), module, config.batch_size, False).lr


def parameter_groups(module: nn.Module, weight_decay: float, anew: Collection[str] = ()) -> list[dict[str, Any]]:
    """Parameters in groups: weights, which decay, and biases and the scales of norms, which do not; those named in
    `anew` in two of their own.

    Every parameter of rank 0 or 1 counts as the latter. Frozen parameters are in none.
    """
    groups: list[dict[str, Any]] = []
    named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    for new in (False, True) if anew else (False,):
        for decays in (True, False):
            chosen = [p for n, p in named if (n in anew) == new and (p.ndim > 1) == decays]
            decay, scale = weight_decay if decays else 0.0, HEAD_SCALE if new else 1.0
            groups.append({"params": chosen, "weight_decay": decay, "scale": scale})
    return groups


def scales_of(module: nn.Module) -> list[Tensor]:
    """The scales of all batch norms that are trained."""
    norms = (m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return [m.weight for m in norms if m.weight is not None and m.weight.requires_grad]


@torch.no_grad()
def shrink(tensors: list[Tensor], by: float) -> None:
    """Each value moved towards 0 by `by` in place, and to 0 where it would pass it: sign(v) · max(|v| − by, 0).

    The proximal step of the penalty by·Σ|v| (Daubechies, Defrise and De Mol 2004): unlike a subgradient's, exact zeros.
    """
    for tensor in tensors:
        tensor.copy_(F.softshrink(tensor, by))


@dataclass(frozen=True)
class TrainingLoss:
    """The loss of one run: cross-entropy for classes, squared error for regression, mixed with a teacher's.

    With a teacher: (1 − alpha) · loss + alpha · T² · KL(softmax(teacher / T) ‖ softmax(output / T)) (Hinton, Vinyals
    and Dean 2015, section 2), and for regression alpha times the squared distance to the teacher. Squared errors are
    in the unit of the targets squared: learning rates suit targets of a deviation near 1.
    """

    task: Task
    label_smoothing: float
    alpha: float
    temperature: float
    class_weights: tuple[float, ...] | None = None

    def weights_on(self, output: Tensor) -> Tensor | None:
        """The weight of each class, beside `output`; None where all weigh the same."""
        return None if self.class_weights is None else output.new_tensor(self.class_weights)

    def __call__(self, output: Tensor, y: Tensor, teacher: Tensor | None = None) -> Tensor:
        """Mean over the batch. `output`, `teacher`: (n, classes) before softmax, or (n, k)."""
        own = self.own(output, y, self.label_smoothing)
        if teacher is None:
            return own
        if self.task == "regression":
            taught = self.own(output, teacher)
        elif self.task == "multilabel":
            taught = F.binary_cross_entropy_with_logits(output, teacher.sigmoid())
        else:
            t = self.temperature
            soft = F.log_softmax(teacher / t, 1)
            taught = t * t * F.kl_div(F.log_softmax(output / t, 1), soft, reduction="batchmean", log_target=True)
        return (1 - self.alpha) * own + self.alpha * taught

    def own(self, output: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """The loss against the labels alone."""
        if self.task == "classification":
            return F.cross_entropy(output, y, self.weights_on(output), label_smoothing=label_smoothing)
        if self.task == "multilabel":
            return F.binary_cross_entropy_with_logits(output, y.to(output.dtype), pos_weight=self.weights_on(output))
        return F.mse_loss(output, y)
