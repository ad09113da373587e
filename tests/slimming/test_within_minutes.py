"""The search with tunings in parts and a budget: planted truths are found, and it ends the same when it is taken up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from digits import TRAIN, accuracy, digits, fitted
from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.evidence.evidence import Evidence
from dojang.slimming import slim
from dojang.slimming.budget import TimeBudget
from dojang.slimming.journal import Journal
from dojang.slimming.result import SlimResult
from nets import N, conv, net, weighted
from runtimes import by_layers, by_macs

pytestmark = pytest.mark.slow


def residual(useless: str) -> Graph:
    """Three residual blocks on digits; the branch that ends in `useless` adds next to nothing."""
    nodes = [conv("c0", "x", 8), N("r0", "relu", "c0"), N("p", "maxpool", "r0", kernel=(2, 2))]
    last = "p"
    for i in (1, 2, 3):
        nodes += [conv(f"a{i}", last, 8), N(f"u{i}", "relu", f"a{i}"), conv(f"b{i}", f"u{i}", 8),
                  N(f"s{i}", "add", f"b{i}", last), N(f"r{i}", "relu", f"s{i}")]  # fmt: skip
        last = f"r{i}"
    nodes += [N("f", "flatten", last), N("y", "dense", "f", out=10)]
    graph = weighted(net(*nodes, shape=(1, 8, 8), name="residual"))
    quiet = {k: v * 1e-3 if k.startswith(useless) else v for k, v in graph.weights.items()}
    return fitted(graph.replace(weights=quiet))


class Loop:
    """Trainings that take a second and five minutes to a whole one, by a clock of their own; parts learn in part.

    After `dies` trainings it is interrupted.
    """

    def __init__(self, dies: int = 1000) -> None:
        self.now, self.number, self.dies = 0.0, 0, dies

    def tune(self, graph: Graph, teacher: Graph, share: float) -> Graph:
        self.number += 1
        if self.number > self.dies:
            raise KeyboardInterrupt
        self.now += 1 + 300 * share
        new, part = fitted(graph), min(1.0, 0.2 + share)
        mixed = {k: (1 - part) * np.asarray(graph.weights[k]) + part * np.asarray(new.weights[k]) for k in new.weights}
        return graph.replace(weights={k: v.astype(np.float32) for k, v in mixed.items()})


def searched(graph: Graph, loop: Loop, minutes: float | None, journal: Journal | None = None, **how: Any) -> SlimResult:
    """The search as the command does it: candidates in parts, the control, a last tuning."""
    tune = loop.tune if journal is None else journal.tuned_in_parts(loop.tune)
    made: dict[tuple[float, ...], Graph] = {(): graph}

    def control(schedule: tuple[float, ...]) -> Graph:
        if schedule not in made:
            made[schedule] = tune(control(schedule[:-1]), graph, schedule[-1])
        return made[schedule]

    def finish(found: Graph, schedule: tuple[float, ...], share: float) -> Graph:
        control((*schedule, share))
        return tune(found, graph, share)

    clock = (lambda: loop.now) if journal is None else journal.clocked(lambda: loop.now)
    budget = None if minutes is None else TimeBudget(60 * minutes, clock)
    given = {"measure": by_macs, "evaluate": accuracy, "max_drop": 20.0, "target_macs": 0.5, **how}
    return slim(Evidence(graph, digits()[0][TRAIN]), tune_part=tune, control=control, finish=finish,
                last_share=1.0 if budget is None else None, budget=budget, journal=journal, **given)  # fmt: skip


@pytest.mark.parametrize(("useless", "runtime"), [("b1", by_macs), ("b3", by_macs), ("b3", by_layers)])
def test_a_useless_branch_is_dropped(useless: str, runtime: Any) -> None:
    """Where channels may go as well, and where only layers that go take their time with them."""
    target = 0.5 if runtime is by_macs else 0.7
    result = searched(residual(useless), Loop(), None, measure=runtime, target_macs=target)
    [edit] = [edit for edit in result.edits if edit.claim == "lossy"]
    assert "remove-branches" in edit.rewrite
    assert useless not in result.graph.by_name
    kept = {"b1", "b2", "b3"} - {useless}
    assert kept <= set(result.graph.by_name)
    assert result.after.macs <= target * result.before.macs


def test_the_minutes_are_kept_and_the_control_is_trained_alike() -> None:
    loop = Loop()
    graph = residual("b2")
    result = searched(graph, loop, 30)
    assert 0.9 * 1800 <= loop.now <= 1.1 * 1800
    assert result.after.macs <= 0.5 * result.before.macs
    curves = [one["curve"] for one in result.candidates]
    assert all(control is not None for curve in curves for _, _, control in curve)
    shares = {share for curve in curves for share, *_ in curve}
    assert len(shares) == 3  # three rungs, stretched or shortened to the time
    assert [len(curve) for curve in curves].count(3) == 1
    assert sum(one["taken"] for one in result.candidates) == 1
    assert result.finish is not None
    assert sum(result.schedule) == pytest.approx(max(shares) + result.finish["share"])


def test_one_that_was_interrupted_ends_in_the_same_network(tmp_path: Path) -> None:
    graph = residual("b2")
    whole = Loop()
    straight = searched(graph, whole, 30, Journal(tmp_path / "whole", {}))
    for dies in (3, 9):  # while it finds out how long tuning takes; in the first rung
        with pytest.raises(KeyboardInterrupt):
            searched(graph, Loop(dies), 30, Journal(tmp_path / "parts", {}, resume=True))
    rest = Loop()
    again = searched(graph, rest, 30, Journal(tmp_path / "parts", {}, resume=True))
    assert rest.number < whole.number - 3
    assert again.graph.nodes == straight.graph.nodes
    assert all(np.array_equal(again.graph.weights[k], v) for k, v in straight.graph.weights.items())
    assert again.candidates == straight.candidates


def test_too_little_time_leaves_the_original() -> None:
    result = searched(residual("b2"), Loop(), 0.05)
    assert not [edit for edit in result.edits if edit.claim == "lossy"]
    assert any("was not reached" in note and note.endswith("give more minutes") for note in result.notes)


def test_no_more_is_lost_in_the_end_than_is_allowed() -> None:
    """Where the last tuning spoils the network, the original stands, and it is said."""
    graph, loop = residual("b2"), Loop()

    def spoilt(found: Graph) -> float:
        return accuracy(found) if count(found).total.macs > 0.6 * count(graph).total.macs else 0.3

    result = searched(graph, loop, 30, evaluate=spoilt, max_drop=5.0)
    assert any("points were lost in the time there was" in note for note in result.notes)
    assert not [edit for edit in result.edits if edit.claim == "lossy"]
