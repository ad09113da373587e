"""What diagnose says beside waste, end to end: answers against scikit-learn, severities that each can be met."""

from __future__ import annotations

import ast
import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, recall_score

import dojang
from dojang.app.checks import class_findings
from dojang.app.networks import load as load_network
from dojang.engine.session import Session
from dojang.evidence.finding import CHECK_KINDS, KINDS, SEVERITIES, Finding
from dojang.evidence.severity import SEVERITY
from dojang.formats import checkpoint
from dojang.training.confusion import confusion
from dojang.training.data import Normalisation
from dojang.training.load import load as load_data

from .conftest import Command


@pytest.fixture(scope="module")
def said() -> dict:
    return dojang.diagnose("digits-cnn", "digits", samples=200, part="test").to_dict()


def test_answers_are_those_of_the_network(said: dict) -> None:
    how = Normalisation((0.305,), (0.376,))  # as the network says that its input is normalised
    part = load_data("digits").normalised(how).test
    chosen = np.sort(np.random.default_rng(0).permutation(len(part))[:200])
    scores = Session(dojang.load("digits-cnn")).run(part.take(chosen).inputs()).outputs[0].astype(np.float64)
    labels, answers = part.y[chosen], scores.argmax(axis=1)
    seen = said["answers"]
    assert seen["part"] == "test"
    assert seen["accuracy"] == pytest.approx((labels == answers).mean())
    assert seen["confusion"]["matrix"] == confusion_matrix(labels, answers, labels=range(10)).tolist()
    np.testing.assert_allclose(seen["confusion"]["recall"], recall_score(labels, answers, average=None))
    chance = np.exp(scores - scores.max(axis=1, keepdims=True))
    chance = (chance / chance.sum(axis=1, keepdims=True)).max(axis=1)
    wrong = sorted(np.flatnonzero(labels != answers), key=lambda i: -chance[i])
    assert [w["index"] for w in seen["wrong"]] == [int(chosen[i]) for i in wrong]
    assert [w["probability"] for w in seen["wrong"]] == pytest.approx([chance[i] for i in wrong], rel=1e-3)
    assert [(w["label"], w["answer"]) for w in seen["wrong"]] == [(str(labels[i]), str(answers[i])) for i in wrong]


def test_times_are_of_each_layer_once(said: dict) -> None:
    times = said["times"]
    names = [row["layer"] for row in times["layers"]]
    assert len(names) == len(set(names))
    parts = sum(row["ms"] for row in times["layers"]) + times["layout_ms"] + times["outside_ms"]
    assert times["sum_ms"] == pytest.approx(parts)
    assert times["doubt"] is not None or times["sum_ms"] == pytest.approx(times["call_ms"], rel=0.1)
    told = any("measured time" in f["evidence"] or "the peak" in f["evidence"] for f in said["findings"])
    assert not (told and times["doubt"])
    assert bool(times["doubt"]) == any("times of layers" in note for note in said["notes"])


def test_the_pass_serves_all(said: dict) -> None:
    assert [row["layer"] for row in said["scales"]] == ["conv1", "conv2", "fc1", "fc2"]
    assert {row["samples"] for row in said["scales"]} == {200}
    assert {row["layer"] for row in said["sensitivities"]} == {"conv1", "conv2", "fc1", "fc2", ""}


def test_every_kind_has_a_severity() -> None:
    assert set(KINDS) | set(CHECK_KINDS) <= set(SEVERITY)
    assert {word for severity, _ in SEVERITY.values() for word in severity.split(" or ")} == set(SEVERITIES)


def test_every_severity_can_be_met(dojang: Command, tmp_path: Path) -> None:
    """The network as it is has infos; a dead channel is a warning; a head of zeros, which never changes, an error."""
    data = ("--data", "digits", "--samples", "40", "--trial-macs", "0")
    graph = load_network("digits-cnn")
    paths = {"info": "digits-cnn"}
    for name, weight, at in (("warning", "conv1", 3), ("error", "fc2", slice(None))):
        weights = {k: np.array(v) for k, v in graph.weights.items()}
        weights[f"{weight}.weight"][at] = 0
        weights[f"{weight}.bias"][at] = -1
        paths[name] = str(tmp_path / f"{name}.safetensors")
        checkpoint.save(graph.replace(weights=weights), paths[name])
    for place, own in enumerate(SEVERITIES):
        for limit, severity in enumerate(SEVERITIES):
            ran = dojang("diagnose", paths[own], *data, "--fail-on", severity)
            assert ran.code == (1 if limit <= place else 0), (own, severity, ran.out)


def test_classes_that_are_never_right() -> None:
    labels = np.repeat(np.arange(3), 10)
    found = class_findings("y", confusion(np.where(labels == 1, 0, labels), labels, ("a", "b", "c")))
    assert [(f.kind, f.channels, f.severity) for f in found] == [("class-missed", (1,), "warning")]
    found = class_findings("y", confusion(np.zeros(30, int), labels, ("a", "b", "c")))
    assert [f.kind for f in found] == ["no-better-than-majority", "class-missed", "class-missed"]
    assert found[0].severity == "error"


def test_what_is_not_tried_is_said(dojang: Command) -> None:
    ran = dojang("diagnose", "digits-cnn", "--data", "digits", "--samples", "40", "--trial-macs", "1M", "--json")
    notes = json.loads(ran.out)["notes"]
    assert any("rounding the weights of each of 4 layers was not tried" in note for note in notes)
    assert not json.loads(ran.out)["sensitivities"]


def test_the_page_and_the_text_show_them(dojang: Command, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    ran = dojang("diagnose", "digits-cnn", "--data", "digits", "--samples", "80", "--part", "test", "--html", page)
    for title in ("Where the time of a call goes", "Accuracy by class", "How large activations are",
                  "What rounding the weights changes"):  # fmt: skip
        assert title in ran.out
        assert title in page.read_text()
    assert "Rows are labels, columns are answers." in page.read_text()
    assert max(map(len, ran.out.splitlines())) <= 80


def stated() -> dict[str, set[str]]:
    """The severities by kind, as the code states them wherever it makes a `Finding`."""
    names = [field.name for field in fields(Finding)]
    found: dict[str, set[str]] = {}
    for path in Path(dojang.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Finding":
                given = dict(zip(names, node.args, strict=False)) | {str(k.arg): k.value for k in node.keywords}
                kind, severity = given["kind"], given.get("severity", ast.Constant("info"))
                assert isinstance(kind, ast.Constant), f"{path}:{node.lineno}: the kind is not a word"
                words = {severity.value} if isinstance(severity, ast.Constant) else {"info", "warning"}
                found.setdefault(str(kind.value), set()).update(map(str, words))
    return found


def test_the_table_of_severities_is_what_the_code_states() -> None:
    assert {kind: set(said.split(" or ")) for kind, (said, _) in SEVERITY.items()} == stated()
