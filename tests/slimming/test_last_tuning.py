"""The last fine-tuning of a search: kept where it holds what was asked, refused where not, told in either case."""

from __future__ import annotations

import numpy as np
import pytest

from digits import accuracy, fitted, random_features, slimmed
from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.base.errors import CheckFailed

pytestmark = pytest.mark.slow


def unfitted(graph: Graph, teacher: Graph) -> Graph:
    """A tuning that does little: the bias of the last layer moves a hair."""
    return graph.replace(weights={**graph.weights, "y.bias": graph.weights["y.bias"] + np.float32(1e-3)})


def search(finish, **more):
    how = {"tune": unfitted, "max_drop": 20.0, "target_macs": 0.6, "last_share": 1.0}
    return slimmed(random_features(width=16), **{**how, **more}, finish=finish)


def test_the_last_tuning_is_of_what_was_found_and_is_kept():
    asked = []

    def finish(graph: Graph, schedule: tuple[float, ...], share: float) -> Graph:
        asked.append((graph, schedule))
        assert share == 1.0
        return fitted(graph)

    without, result = search(None), search(finish)
    assert [len(n) for _, n in asked] == [result.tunings] == [without.tunings]
    assert result.schedule == (*asked[0][1], 1.0)
    assert result.tunings >= 1
    assert count(asked[0][0]).total.macs == result.after.macs == without.after.macs
    assert "b1" in asked[0][0].by_name  # batch norms stay until everything is tuned
    assert "b1" not in result.graph.by_name
    assert without.finish is None
    assert result.finish["kept"]
    assert result.finish["accuracy_before"] == pytest.approx(without.after.accuracy)
    assert result.finish["accuracy_after"] == pytest.approx(accuracy(fitted(asked[0][0])))
    assert result.after.accuracy == pytest.approx(result.finish["accuracy_after"], abs=0.003)  # folding rounds
    assert not np.array_equal(result.graph.weights["y.weight"], without.graph.weights["y.weight"])
    assert result.to_dict()["finish"] == result.finish


def test_a_last_tuning_that_loses_too_much_is_not_kept():
    def finish(graph: Graph, schedule: tuple[float, ...], share: float) -> Graph:
        return graph.replace(weights={**graph.weights, "y.weight": graph.weights["y.weight"] * 0})

    without, result = search(None), search(finish)
    assert not result.finish["kept"]
    assert result.finish["accuracy_after"] < 0.2
    assert result.after.accuracy == without.after.accuracy
    assert any("was not kept" in note and "more than 20.00" in note for note in result.notes)


def test_a_last_tuning_that_fails_is_told():
    def finish(graph: Graph, schedule: tuple[float, ...], share: float) -> Graph:
        raise CheckFailed("training diverged at epoch 3")

    without, result = search(None), search(finish)
    assert result.finish is None
    assert result.after.accuracy == without.after.accuracy
    assert any("diverged at epoch 3" in note for note in result.notes)


def test_nothing_is_tuned_last_where_nothing_was_cut():
    def finish(graph: Graph, schedule: tuple[float, ...], share: float) -> Graph:
        raise AssertionError("there is nothing to tune")

    def spoil(graph: Graph, teacher: Graph) -> Graph:
        return graph.replace(weights={**graph.weights, "y.weight": graph.weights["y.weight"] * 0})

    result = search(finish, tune=spoil)
    assert result.finish is None
    assert result.tunings == 0
