"""The learning rate against its formula, the loss against float64, what decays."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from dojang.base.errors import UsageError
from dojang.training.config import TrainConfig, learning_rate
from dojang.training.recipe import TrainingLoss, parameter_groups, peak_lr


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.05), (10, 0.0), (100, 0.05), (37, 0.5), (20, 1.0)])
def test_the_rate_rises_linearly_and_falls_as_a_half_cosine(steps: int, warmup: float) -> None:
    rates = [learning_rate(i, steps, 0.3, warmup) for i in range(steps)]
    rise = math.floor(warmup * steps)
    for i, rate in enumerate(rates):
        if i < rise:
            assert rate == pytest.approx(0.3 * (i + 1) / (rise + 1))
        else:
            assert rate == pytest.approx(0.3 * math.cos(math.pi * (i - rise) / (2 * (steps - rise))) ** 2)
    assert max(rates) <= 0.3
    assert min(rates) > 0


def test_the_rate_equals_pytorchs_cosine_without_a_warm_up() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30)
    for i in range(30):
        assert learning_rate(i, 30, 0.1, 0.0) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        schedule.step()


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_classification_loss_with_smoothing_and_teacher_in_float64() -> None:
    rng = np.random.default_rng(0)
    z, teacher, y = rng.normal(size=(6, 4)), 3 * rng.normal(size=(6, 4)), rng.integers(0, 4, 6)
    s, alpha, t = 0.1, 0.3, 2.5
    target = np.eye(4)[y] * (1 - s) + s / 4
    own = -(target * np.log(softmax(z))).sum(1).mean()
    p, q = softmax(teacher / t), softmax(z / t)
    taught = t * t * (p * np.log(p / q)).sum(1).mean()
    loss = TrainingLoss("classification", s, alpha, t)
    tensors = [torch.from_numpy(a) for a in (z, y, teacher)]
    assert float(loss(tensors[0], tensors[1])) == pytest.approx(own, rel=1e-12)
    assert float(loss(*tensors)) == pytest.approx((1 - alpha) * own + alpha * taught, rel=1e-12)


def test_regression_loss_mixes_squared_errors() -> None:
    rng = np.random.default_rng(1)
    out, y, teacher = (rng.normal(size=(6, 2)) for _ in range(3))
    expected = 0.6 * ((out - y) ** 2).mean() + 0.4 * ((out - teacher) ** 2).mean()
    got = TrainingLoss("regression", 0.0, 0.4, 1.0)(*(torch.from_numpy(a) for a in (out, y, teacher)))
    assert float(got) == pytest.approx(expected, rel=1e-12)


def test_biases_and_norms_do_not_decay_and_the_default_rate_knows_batch_norm() -> None:
    norm = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    norm[0].weight.requires_grad_(False)
    decays, stays = parameter_groups(norm, 0.1)
    assert [tuple(p.shape) for p in decays["params"]] == [(2, 8)]
    assert decays["weight_decay"] == 0.1
    assert [tuple(p.shape) for p in stays["params"]] == [(2,)] * 4
    assert stays["weight_decay"] == 0
    assert peak_lr(TrainConfig(batch_size=256), norm) == pytest.approx(0.2)
    assert peak_lr(TrainConfig(batch_size=128), nn.Sequential(norm[3])) == pytest.approx(0.04)
    assert peak_lr(TrainConfig(lr=0.5), norm) == 0.5


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 0), ("batch_size", 0), ("lr", 0.0), ("lr", float("nan")), ("momentum", 1.0), ("weight_decay", -1.0),
     ("warmup", 1.5), ("label_smoothing", 1.0), ("alpha", -0.1), ("temperature", 0.0), ("seed", -1),
     ("test_every", 0), ("checkpoint_seconds", -1.0)],
)  # fmt: skip
def test_settings_outside_their_range_are_named(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=name):
        TrainConfig(**{name: value})
