"""What PyTorch is told of a recipe: the peak learning rate, which parameters decay, the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dojang.training.config import TrainConfig
from dojang.training.data import Task

Teacher = Callable[[Tensor], Any]

# Learning rates that train from scratch at a batch of 128: with batch norm the usual value of He et al. 2016
# (section 4.2); plain networks need a smaller one (a small CNN on 8×8 digits trains well from 0.02 to 0.2).
_LR_WITH_NORM, _LR_PLAIN, _LR_BATCH = 0.1, 0.04, 128


def peak_lr(config: TrainConfig, module: nn.Module) -> float:
    """The peak learning rate: the one that is set, or the default for this network and batch size."""
    if config.lr is not None:
        return config.lr
    norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules())
    return (_LR_WITH_NORM if norm else _LR_PLAIN) * config.batch_size / _LR_BATCH


def said_of_training(module: nn.Module, config: TrainConfig) -> str:
    """The learning rate and why, and what is frozen, in sentences for the paragraph before the first step."""
    norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules())
    with_norm = "a network with batch norm" if norm else "a network without batch norm"
    why = "as asked" if config.lr is not None else f"the value for {with_norm} at batches of {config.batch_size}"
    frozen = sum(p.numel() for p in module.parameters() if not p.requires_grad)
    what = f"{frozen:,} parameters are frozen" if frozen else "No parameter is frozen"
    return f"The learning rate rises to {peak_lr(config, module):g} ({why}) and falls to 0. {what}."


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters in two groups: weights, which decay, and biases and the scales of norms, which do not.

    Every parameter of rank 0 or 1 counts as the latter. Frozen parameters are in neither.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


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
