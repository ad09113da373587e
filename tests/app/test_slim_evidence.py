"""A slimming computes its evidence once: findings and cuts stand on one object, one pass, the samples that tune."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dojang as package
from dojang.app import slimming
from dojang.app.diagnosing import SAMPLES, some_inputs
from dojang.app.networks import load
from dojang.app.samples import load_samples
from dojang.app.slimming import SlimRequest, chosen, found_out
from dojang.app.together import Alone
from dojang.evidence.finding import CHANNEL_KINDS
from dojang.slimming.importance import read_statistics

ASKED = (1.0, None, None, None, 10, 0, None, "dojang", 1, 0, "float32", "activation")


@pytest.mark.parametrize(("lossless", "passes"), [(True, 2), (False, 1)])
def test_what_cuts_with_loss_go_by_is_taken_in_the_pass_of_the_findings(lossless: bool, passes: int) -> None:
    graph = load("digits-cnn")
    choice = chosen(load_samples("digits", graph, None), 0)
    known, diagnosis = found_out(graph, choice, SlimRequest(lossless, *ASKED), Alone())
    assert known.passes == 1
    assert {f.kind for f in diagnosis.findings} >= {"dead-observed", "hot-spot"}
    read_statistics(known)
    assert known.passes == passes  # without loss nobody needs them, and so they are not taken
    assert diagnosis.samples == SAMPLES


def test_the_search_takes_the_evidence_of_the_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    search = slimming.search

    def watched(known: Any, **how: Any) -> Any:
        seen.append((known, known.passes, how["findings"]))
        return search(known, **how)

    monkeypatch.setattr(slimming, "search", watched)
    done: Any = package.slim("digits-cnn", "digits", lossless=True)  # type: ignore[operator]
    ((known, passes, findings),) = seen
    assert passes == known.passes == 1
    graph = load("digits-cnn")
    wanted = some_inputs(chosen(load_samples("digits", graph, None), 0), SAMPLES, 0)
    np.testing.assert_array_equal(known.samples, wanted)
    assert findings == done.diagnosis.findings == done.result.findings
    data = done.to_dict()
    assert len(data["answers"]) == len(data["findings"])
    for answer in data["answers"]:
        named = set(answer["finding"]["channels"])
        if answer["finding"]["kind"] in CHANNEL_KINDS:
            layer = answer["finding"]["layer"]
            both = [data["edits"][i] for i in answer["edits"]] + [data["refused"][i] for i in answer["refused"]]
            assert {c for one in both for c in one["channels"][layer]} >= named
