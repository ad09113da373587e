"""A search killed anywhere and taken up again ends in the same network; what is kept belongs to one search only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from children import STACKS, finished
from digits import digits, fitted, random_features, slimmed
from dojang.base.errors import CheckFailed, FileError, UsageError
from dojang.engine.session import Session
from dojang.slimming.journal import FILE, Journal
from dojang.slimming.timing import interleave

HERE = Path(__file__).parent


def start(folder: Path) -> subprocess.Popen[str]:
    paths = os.pathsep.join(str(p) for p in (HERE, HERE.parent))
    return subprocess.Popen(
        [sys.executable, HERE / "killed.py", folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**STACKS, "PYTHONPATH": paths},
    )


def arrays(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "result.npz") as found:
        return dict(found)


@pytest.mark.slow
def test_killed_and_taken_up_it_ends_the_same(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    run = start(whole)
    _, err = finished(run)
    assert run.returncode == 0, err
    for tunings in (1, 2):  # dies in the first tuning; taken up, in the one after
        run = start(parts)
        assert run.stdout is not None
        for _ in range(tunings):
            assert run.stdout.readline() == "tuning\n"
        run.send_signal(signal.SIGKILL)
        finished(run)
        assert run.returncode == -signal.SIGKILL
        assert (parts / "journal" / FILE).exists()
        assert not (parts / "result.npz").exists()
    run = start(parts)
    _, err = finished(run)
    assert run.returncode == 0, err
    a, b = arrays(whole), arrays(parts)
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[k], b[k]) for k in a)


def search(folder: Path, tune, resume: bool = True, measure=None):
    journal = Journal(folder, {"seed": 0}, resume)
    how = {"measure": measure, "tune": tune, "journal": journal}
    return slimmed(random_features(width=8), max_drop=1.0, target_macs=0.5, **how)


@pytest.mark.slow
def test_a_finished_journal_answers_everything_clocks_included(tmp_path: Path) -> None:
    calls: list[str] = []

    def tune(graph, teacher):
        calls.append("tune")
        return fitted(graph)

    def measure(graphs):
        calls.append("measure")
        x = digits()[0][:1]
        return interleave([lambda s=s: s(x) for s in map(Session, graphs)], rounds=7)

    first = search(tmp_path / "j", tune, measure=measure)
    assert calls
    calls.clear()
    again = search(tmp_path / "j", tune, measure=measure)
    assert calls == []
    assert again.to_dict() == first.to_dict()
    assert all(np.array_equal(again.graph.weights[k], v) for k, v in first.graph.weights.items())


def test_a_failed_tuning_is_an_answer_too(tmp_path: Path) -> None:
    calls: list[str] = []

    def tune(graph, teacher):
        calls.append("tune")
        raise CheckFailed("training diverged")

    first = search(tmp_path / "j", tune)
    times = len(calls)
    assert times
    assert any("training diverged" in r.reason for r in first.refused)
    assert search(tmp_path / "j", tune).to_dict() == first.to_dict()
    assert len(calls) == times


def test_a_journal_belongs_to_one_search(tmp_path: Path) -> None:
    Journal(tmp_path, {"seed": 0, "max_drop": 1.0})
    Journal(tmp_path, {"seed": 0, "max_drop": 1.0}, resume=True)
    with pytest.raises(UsageError, match="--resume"):
        Journal(tmp_path, {"seed": 0, "max_drop": 1.0})
    with pytest.raises(UsageError, match=r"max_drop 1.0, this one 2.0"):
        Journal(tmp_path, {"seed": 0, "max_drop": 2.0}, resume=True)
    (tmp_path / FILE).write_text('{"format": "dojang.slim-journal/1", "entr')
    with pytest.raises(FileError, match="damaged"):
        Journal(tmp_path, {"seed": 0}, resume=True)


def test_answers_to_another_question_are_not_used(tmp_path: Path) -> None:
    journal = Journal(tmp_path, {})
    _, _, evaluate = journal.over(None, None, lambda graph: 0.25)
    assert evaluate is not None
    assert evaluate(random_features(width=8)) == 0.25
    again = Journal(tmp_path, {}, resume=True)
    _, _, evaluate = again.over(None, None, lambda graph: 0.75)
    assert evaluate is not None
    assert evaluate(random_features(width=16)) == 0.75
    assert evaluate(random_features(width=8)) == 0.25


def test_times_of_another_runtime_are_not_used(tmp_path: Path) -> None:
    graphs = [random_features(width=8)]
    journal = Journal(tmp_path, {})
    assert journal.measured(graphs, lambda: [[1.0]], "dojang 1") == [[1.0]]
    again = Journal(tmp_path, {}, resume=True)
    assert again.measured(graphs, lambda: [[2.0]], "torch 1") == [[2.0]]
    assert again.measured(graphs, lambda: [[3.0]], "dojang 1") == [[1.0]]
