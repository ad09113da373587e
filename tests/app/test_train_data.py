"""Training on data as people have them: signals, volumes, several classes a sample, amounts; what is said before it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dojang
from dojang.base.errors import DataError, UsageError

RNG = np.random.default_rng(6)
N = 96
TRUE = np.arange(N) % 3


def data_of(shape: tuple[int, ...]) -> np.ndarray:
    """Samples whose class is the place of a block of ones along the last axis."""
    x = RNG.normal(0, 0.3, (N, *shape)).astype(np.float32)
    width = shape[-1] // 3
    for i, c in enumerate(TRUE):
        x[i, ..., c * width : (c + 1) * width] += 1
    return x


class Net:
    """Callables for `dojang train`, built with PyTorch, whose module is the network."""

    @staticmethod
    def of(rank: int, channels: int, outputs: int = 3) -> object:
        import torch
        from torch import nn

        torch.manual_seed(0)
        conv = {1: nn.Conv1d, 3: nn.Conv3d, 2: nn.Conv2d}[rank]
        pool = {1: nn.AdaptiveAvgPool1d, 3: nn.AdaptiveAvgPool3d, 2: nn.AdaptiveAvgPool2d}[rank]
        out = (3,) if rank == 1 else (1,) * (rank - 1) + (3,)
        return nn.Sequential(
            conv(channels, 6, 3, padding=1), nn.ReLU(), pool(out), nn.Flatten(), nn.Linear(18, outputs)
        )


CASES = {
    "a signal": (1, (2, 24), lambda x: x),
    "a signal, channels last": (1, (2, 24), lambda x: np.moveaxis(x, 1, -1)),
    "a signal without a channel": (1, (1, 24), lambda x: x[:, 0]),
    "a volume": (3, (2, 3, 4, 9), lambda x: x),
    "a volume, channels last": (3, (2, 3, 4, 9), lambda x: np.moveaxis(x, 1, -1)),
    "a picture, channels last": (2, (3, 6, 9), lambda x: np.moveaxis(x, 1, -1)),
}


@pytest.mark.parametrize("way", CASES)
def test_samples_of_any_rank_are_learnt(tmp_path: Path, way: str) -> None:
    rank, shape, stored = CASES[way]
    np.savez(tmp_path / "d.npz", x=stored(data_of(shape)), y=np.asarray(["a", "b", "c"])[TRUE])
    told: list[str] = []
    done = dojang.train(
        Net.of(rank, shape[0]), tmp_path / "d.npz", input_size=shape, epochs=12, batch_size=16, lr=0.1,
        output=tmp_path / "out", told=told.append,
    )  # fmt: skip
    assert done.accuracy > 0.8
    assert len(told) == 1
    assert done.understood == told[0]
    for part in ("samples to train on", "20 % of each class", "3 classes", "a: 26", "b: 26", "those of the train part",
                 "by the standard deviation", "not varied", "peak learning rate of 0.1 (as given)"):  # fmt: skip
        assert part in told[0]
    assert "understood" in done.to_dict()


def test_several_classes_to_a_sample_are_learnt(tmp_path: Path) -> None:
    x = RNG.normal(0, 0.2, (N, 1, 24)).astype(np.float32)
    y = RNG.integers(0, 2, (N, 3))
    x += np.repeat(y, 8, axis=1)[:, None]
    done = dojang.train(
        Net.of(1, 1), (x, y), input_size=(1, 24), epochs=15, batch_size=16, lr=0.3, output=tmp_path / "out",
        class_weights="balanced",
    )  # fmt: skip
    assert done.history["metric"] == "label accuracy"
    assert done.accuracy > 0.85
    assert done.warning == ""
    module = done.graph
    run = dojang.compile(module)
    mean, std = module.inputs[0].attrs["mean"][0], module.inputs[0].attrs["std"][0]
    given = np.asarray(run(((x - mean) / std).astype(np.float32)))
    assert float(((given > 0) == y).mean()) > 0.85


def test_several_classes_of_which_nothing_is_learnt_are_warned_of(tmp_path: Path) -> None:
    x = RNG.normal(0, 1, (N, 1, 24)).astype(np.float32)
    y = RNG.random((N, 3)) < (0.1, 0.9, 0.2)
    np.savez(tmp_path / "d.npz", x=x, y=y.astype(int), x_test=x, y_test=y.astype(int))
    done = dojang.train(
        Net.of(1, 1), tmp_path / "d.npz", input_size=(1, 24), epochs=1, lr=1e-9, output=tmp_path / "out",
    )  # fmt: skip
    yes = y.mean(axis=0)
    assert done.accuracy <= np.maximum(yes, 1 - yes).mean()
    assert f"gives {100 * np.maximum(yes, 1 - yes).mean():.2f} %" in done.warning


def test_amounts_are_not_given_as_shares_of_classes(tmp_path: Path) -> None:
    x = RNG.random((N, 1, 24)).astype(np.float32)
    y = np.stack([x.mean((1, 2)), x[:, 0, :8].mean(1), x[:, 0, 8:].mean(1)], 1)
    done = dojang.train(Net.of(1, 1), (x, y), input_size=(1, 24), epochs=1, batch_size=16, output=tmp_path / "out")
    assert done.history["metric"] == "r2"
    answer = dojang.run(tmp_path / "out" / "model.safetensors", x[0])
    assert answer.top == ()


def test_integers_for_a_network_of_one_output_are_asked_for(tmp_path: Path) -> None:
    x = RNG.random((N, 1, 24)).astype(np.float32)
    net = Net.of(1, 1, outputs=1)
    with pytest.raises(DataError, match="--task regression"):
        dojang.train(net, (x, TRUE), input_size=(1, 24), output=tmp_path / "a")
    done = dojang.train(
        net, (x, TRUE), input_size=(1, 24), task="regression", epochs=1, batch_size=16, output=tmp_path / "b"
    )
    assert done.history["metric"] == "r2"


def test_variation_and_weights_are_as_asked(tmp_path: Path) -> None:
    given = {"epochs": 1, "batch_size": 64}
    for augment, mirror, true in (
        ("none", True, (0, False)),
        ("crop=1,mirror", True, (1, True)),
        ("crop=1", False, (1, False)),
        (None, False, (0, False)),
    ):
        done = dojang.train(
            "digits-cnn", "digits", output=tmp_path / "a", force=True, augment=augment, mirror=mirror, **given
        )
        how = done.history["data"]["augment"]
        assert (how["crop"], how["mirror"]) == true
    for augment, mirror, message in (
        ("mirror", False, "contradict"),
        ("rotate", True, "'rotate' is not known"),
        ("none,crop=2", True, "'none' is not known"),
        ("crop=-1", True, "is not known"),
    ):
        with pytest.raises(UsageError, match=message):
            dojang.train("digits-cnn", "digits", output=tmp_path / "b", augment=augment, mirror=mirror, **given)
    for weights, message in (
        ("1,2", "2 class weights for 10 classes"),
        ("heavy", "not known"),
        ([-1.0] * 10, "0 or more"),
    ):
        with pytest.raises(UsageError, match=message):
            dojang.train("digits-cnn", "digits", output=tmp_path / "b", class_weights=weights, **given)
    assert not (tmp_path / "b").exists()


def test_balanced_weights_are_scikit_learns() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    from dojang.training.data import from_arrays
    from dojang.training.understood import weights_of

    y = np.repeat([0, 1, 2], [30, 8, 5])
    data = from_arrays(RNG.random((43, 1, 4, 4)), y, RNG.random((43, 1, 4, 4)), y)
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=data.train.y)
    assert np.allclose(weights_of("balanced", data) or (), theirs)


def test_weighted_loss_is_pytorchs() -> None:
    import torch
    import torch.nn.functional as F

    from dojang.training.recipe import TrainingLoss

    torch.manual_seed(1)
    output, y, weights = torch.randn(9, 3), torch.arange(9) % 3, (0.5, 2.0, 1.0)
    ours = TrainingLoss("classification", 0.0, 0.0, 1.0, weights)(output, y)
    per = F.cross_entropy(output, y, reduction="none")
    w = torch.tensor(weights)[y]
    assert torch.allclose(ours, (per * w).sum() / w.sum())
    many = torch.rand(9, 3) > 0.5
    ours = TrainingLoss("multilabel", 0.0, 0.0, 1.0, weights)(output, many)
    p = output.sigmoid()
    true = -(torch.tensor(weights) * many * p.log() + ~many * (1 - p).log()).mean()
    assert torch.allclose(ours, true, atol=1e-6)


def test_outputs_that_are_not_known_ask_for_no_new_last_layer():
    """A number that is not known is not 0: the last layer stays, and the training itself sees what comes out."""
    from dojang.app.beginning import _needs_head
    from dojang.app.samples import match_classes, outputs_of
    from dojang.arith.graph import Graph, Node
    from dojang.training.data import from_arrays

    data = from_arrays(RNG.random((N, 2, 4, 4)).astype(np.float32), TRUE)
    graph = Graph((Node.of("x", "input", shape=(2, 4, 4)), Node.of("y", "unknown", "x", kind="Mystery")), ("y",))
    assert outputs_of(graph) is None
    assert not _needs_head(graph, data, None)
    assert match_classes(graph, data) is data
