from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dojang.arith.cost import count
from dojang.evidence.finding import Finding
from dojang.formats.text import parse
from dojang.report.html_slim import diagnosis_html, slim_html
from dojang.report.json import document, dumps
from dojang.report.results import Diagnosis, Slimming
from dojang.report.text_slim import diagnosis_text, slim_text
from dojang.slimming.answers import answers
from dojang.slimming.result import Edit, NetworkFigures, Refused, SlimResult
from dojang.slimming.search import MADE_FOR

from .test_html import check_page

TEXT = "network small\ninput 1x8x8\nconv1: conv {} 3x3 pad=1\nrelu\nflatten\nfc: dense 10\n"


@pytest.fixture
def done() -> Slimming:
    before, after = parse(TEXT.format(32)), parse(TEXT.format(24))
    findings = (
        Finding("conv1", "dead-proven", (3, 4, 5, 9), 0.125, 0.0, "proved: relu1 is 0 in these channels", "warning"),
        Finding("fc", "hot-spot", (), 0.98, 0.25, "it holds 98% of the parameters: 20,490 of 20,810", "info"),
        Finding("conv1", "low-correlation", (), 0.7, 0.6, "split into 2 groups, 70% stays inside", "info"),
    )
    check = {
        "ok": True,
        "inputs": "8 random and 8 real inputs",
        "largest_difference_float64": 1.2e-15,
        "largest_difference_stored": 3.4e-07,
        "relative_to": "largest output",
    }
    lossy = {"accuracy_before": 0.995, "accuracy_after": 0.991, "split": "selection", "tuned": True}
    edits = (
        Edit(
            "remove-dead-channels",
            "exact",
            ("conv1",),
            2600,
            4864,
            0.0031,
            check,
            "dead channels: 3 of conv1",
            {"conv1": (3, 4, 5)},
            findings[:1],
        ),
        Edit("remove-channels", "lossy", ("conv1", "fc"), 2600, 4864, None, lossy, "channels conv1 28 to 24"),
    )
    refused = (
        Refused("fold-batch-norm", ("bn1",), "no time saved beyond noise: +0.0002 ms of 0.2263"),
        Refused("remove-dead-channels", ("conv1",), "outputs of the network", {"conv1": (9,)}, findings[:1]),
        Refused("grouped-kernels", ("conv1",), "1.61 points lost", findings=findings[2:]),
    )
    result = SlimResult(
        after,
        NetworkFigures(20_810, 38_912, 0.9944, 0.2412, 84_000),
        NetworkFigures(15_610, 29_184, 0.9916, 0.1987, 63_200),
        edits,
        refused,
        0,
        ("the target of 50% of the multiplications was not reached",),
        findings=findings,
        answers=answers(findings, edits, refused, MADE_FOR),
    )
    data = {"name": "digits", "train_samples": 1438, "test_samples": 359}
    return Slimming(
        "small",
        result,
        Diagnosis("small", findings, 512, data, 0.0),
        (count(before), count(after)),
        data,
        "accuracy",
        "dojang",
        "0.1.0",
        1,
        31,
        12.0,
        "ONNX Runtime gives the same answers within 3e-07 of the largest",
        ("out/report.html", "out/model.onnx"),
    )


def golden(name: str, text: str) -> None:
    path = Path(__file__).parent / "golden" / name
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
        pytest.fail(f"{path} was not there and has been written; look at it and run again")
    assert text + "\n" == path.read_text(encoding="utf-8")


def test_slim_text(done: Slimming) -> None:
    text = slim_text(done)
    golden("slim.txt", text)
    assert max(map(len, text.splitlines())) <= 80


def test_what_a_cut_costs_is_no_negative_saving(done: Slimming) -> None:
    """A layer in two smaller ones has more parameters and may take longer; both are said as what they are."""
    edit = replace(done.result.edits[1], params_saved=-1280, macs_saved=4864, ms_saved=-0.0042)
    worse = replace(done, result=replace(done.result, edits=(done.result.edits[0], edit)))
    text = " ".join(slim_text(worse).split())
    assert "lossy, saves 4,864 MACs; costs 1,280 parameters, 4.20 µs more" in text
    assert not re.search(r"[-−]\d", text[text.index("What else was cut") : text.index("Before and after")])
    page = slim_html(worse)
    assert "<td" in page
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", page[page.index("remove-channels") :])
    assert {"+1,280", "−4,864", "+4.20 µs"} <= set(cells)


def test_diagnosis_text(done: Slimming) -> None:
    golden("diagnose.txt", diagnosis_text(done.diagnosis))


def test_slim_page(done: Slimming) -> None:
    text = check_page(slim_html(done))
    figures = ("20,810", "15,610", "99.44 %", "-0.28 points", "1.33 x less", "3.10 µs")
    for said in (
        *figures,
        "remove-dead-channels",
        "fold-batch-norm",
        "3-5, 9",
        "was not reached",
        "gives the same answers",
    ):
        assert said in text


def test_diagnosis_page(done: Slimming) -> None:
    assert "proved: relu1" in check_page(diagnosis_html(done.diagnosis, done.counts[0]))


def test_json_is_that_of_the_contract(done: Slimming) -> None:
    data: Any = document("slim", {"net": "small"}, done.to_dict())
    assert data["schema"] == "dojang.slim/1"
    for side in ("before", "after"):
        assert set(data[side]) == {"params", "macs", "accuracy", "median_ms", "size_bytes"}
    keys = {"rewrite", "claim", "layers", "params_saved", "macs_saved", "ms_saved", "check"}
    assert all(set(edit) >= keys for edit in data["edits"])
    assert set(data["refused"][0]) >= {"rewrite", "layers", "reason"}
    assert data["edits"][0]["findings"] == [
        {"index": 0, "layer": "conv1", "kind": "dead-proven", "channels": [3, 4, 5, 9]}
    ]
    assert [a["outcome"] for a in data["answers"]] == ["cut", "informs", "refused"]
    assert data["files"] == ["out/report.html", "out/model.onnx"]
    assert "median of 31" in data["convention"]
    dumps(data)


def test_json_has_no_nan() -> None:
    import numpy as np

    value = {"a": float("nan"), "b": (1, {3, 2}), "c": Path("x/y"), "d": np.float32(0.5), "e": np.array([1, 2])}
    assert json.loads(dumps(value)) == {"a": None, "b": [1, [2, 3]], "c": "x/y", "d": 0.5, "e": [1, 2]}
