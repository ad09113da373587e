"""What a training leaves behind: the rows of log.csv against the record, TensorBoard's own reader on the events."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, r2_score
from torch import nn

from dojang import training as train
from dojang.base.errors import MissingPart, UsageError
from dojang.training.load import load
from dojang.training.loop import fit
from dojang.training.record import Progress


@cache
def digits() -> train.Data:
    """Part of the digits, 256 to train on."""
    part = load("digits").train
    return train.from_arrays(part.x[:320], part.y[:320])


def rows(folder: Path) -> list[dict[str, str]]:
    """The rows of the log, read by the standard library."""
    return list(csv.DictReader((folder / "log.csv").read_text().splitlines()))


def settings(**more: object) -> train.TrainConfig:
    return train.TrainConfig(**{"epochs": 4, "batch_size": 64, "lr": 0.05, **more})  # pyright: ignore[reportArgumentType]


def test_every_epoch_has_its_row(small: Callable[..., nn.Module], tmp_path: Path) -> None:
    lengths: list[int] = []

    def tell(now: Progress) -> None:
        if now.done is not None:
            lengths.append(len(rows(tmp_path)))

    history = fit(small(), digits(), settings(test_every=3), directory=tmp_path, progress=tell)
    found = rows(tmp_path)
    assert lengths == [1, 2, 3, 4]  # written when the epoch ends, not at the end of the run
    assert [int(row["epoch"]) for row in found] == [1, 2, 3, 4]
    for row, point in zip(found, history.curve, strict=True):
        for name, value in row.items():
            assert (float(value) if value else None) == getattr(point, name)
    assert [bool(row["test_accuracy"]) for row in found] == [False, False, True, True]


@pytest.mark.parametrize("stop", [(2, 3), (3, 0), (4, 2)])
def test_a_resumed_run_has_every_epoch_once(
    small: Callable[..., nn.Module], tmp_path: Path, stop: tuple[int, int]
) -> None:
    whole = fit(small(), digits(), settings(), directory=tmp_path / "whole")

    def quit_there(now: Progress) -> None:
        if now.epoch == stop[0] and now.step > stop[1]:
            raise SystemExit  # as a kill: nothing is tidied up, the state is an older one

    with pytest.raises(SystemExit):
        fit(small(), digits(), settings(checkpoint_seconds=1e9), directory=tmp_path / "cut", progress=quit_there)
    assert len(rows(tmp_path / "cut")) == stop[0] - 1
    # A half row of another program, and rows of epochs that are trained again, are gone after it.
    with (tmp_path / "cut/log.csv").open("a") as log:
        log.write("9,0.1,")
    fit(small(), digits(), settings(checkpoint_seconds=1e9), directory=tmp_path / "cut", resume=True)
    for ours, theirs in zip(rows(tmp_path / "cut"), rows(tmp_path / "whole"), strict=True):
        assert {**ours, "seconds": ""} == {**theirs, "seconds": ""}
    assert len(rows(tmp_path / "cut")) == len(whole.curve)


def test_a_regression_calls_its_figure_r2(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 1, 4, 4)).astype(np.float32)
    data = train.from_arrays(x, x.mean((1, 2, 3)) * 4)
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    history = fit(module, data, settings(batch_size=32, lr=0.05), directory=tmp_path)
    with torch.no_grad():
        output = module(torch.from_numpy(data.test.inputs())).numpy()
    assert float(rows(tmp_path)[-1]["test_r2"]) == pytest.approx(r2_score(data.test.y, output), abs=1e-5)
    assert "test_accuracy" not in rows(tmp_path)[-1]
    assert history.confusion is None
    assert history.to_dict()["confusion"] is None


def test_the_confusion_is_that_of_the_test_part(small: Callable[..., nn.Module]) -> None:
    module, data = small(), digits()
    history = fit(module, data, settings(epochs=2))
    with torch.no_grad():
        answers = module(torch.from_numpy(data.test.inputs())).argmax(1).numpy()
    assert history.confusion is not None
    assert np.array_equal(history.confusion.matrix, confusion_matrix(data.test.y, answers, labels=range(10)))
    assert history.confusion.accuracy == pytest.approx(history.test.accuracy)


def test_tensorboard_reads_the_curve_also_after_resuming(small: Callable[..., nn.Module], tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def quit_there(now: Progress) -> None:
        if now.epoch == 3 and now.step > 2:
            raise SystemExit

    def scalars() -> dict[str, list[tuple[int, float]]]:
        events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
        events.Reload()
        return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}

    forgetful = settings(checkpoint_seconds=1e9)
    with pytest.raises(SystemExit):
        fit(small(), digits(), forgetful, directory=tmp_path, progress=quit_there, tensorboard="on")
    assert [step for step, _ in scalars()["test/accuracy"]] == [1, 2]
    history = fit(small(), digits(), forgetful, directory=tmp_path, resume=True, tensorboard="on")
    assert set(scalars()) == {"lr", "train/loss", "train/accuracy", "test/loss", "test/accuracy", "seconds"}
    for tag in ("train/loss", "test/accuracy", "lr"):
        wanted = [(point.epoch, getattr(point, tag.replace("/", "_"))) for point in history.curve]
        assert scalars()[tag] == [(step, pytest.approx(value, rel=1e-6)) for step, value in wanted]
    fit(small(), digits(), settings(epochs=1), directory=tmp_path, overwrite=True, tensorboard="on")
    assert [step for step, _ in scalars()["lr"]] == [1]  # those of the run that was replaced are gone


def test_without_the_package_events_are_refused_where_they_are_asked_for(
    small: Callable[..., nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # so that importing it fails as if it were not there
    with pytest.raises(MissingPart, match=r"TensorBoard events need the package tensorboard .*dojang\[tensorboard\]"):
        fit(small(), digits(), settings(epochs=1), directory=tmp_path / "a", tensorboard="on")
    assert not (tmp_path / "a").exists()
    fit(small(), digits(), settings(epochs=1), directory=tmp_path / "b", tensorboard="auto")
    assert not (tmp_path / "b/tensorboard").exists()
    with pytest.raises(UsageError, match="use auto, on or off"):
        fit(small(), digits(), settings(epochs=1), tensorboard="yes")  # pyright: ignore[reportArgumentType]
