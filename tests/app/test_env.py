"""`dojang env`, machine files and DOJANG_MACHINE on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dojang.native import machine
from machines import EVERY

from .conftest import Command


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No description, and a cache folder of its own."""
    monkeypatch.setenv("DOJANG_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("DOJANG_MACHINE", raising=False)
    machine.forget()
    yield
    machine.forget()


def facts(dojang: Command) -> dict:
    ran = dojang("env", "--json")
    assert ran.code == 0
    return json.loads(ran.out)


def test_the_machine_and_where_it_is_from(dojang: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = facts(dojang)["machine"]
    assert machine["peaks_from"] == f"shipped for {machine['family']}"
    assert all(value > 0 for value in machine["peaks"].values())
    assert f"shipped for {machine['family']}" in dojang("env").out
    monkeypatch.setenv("DOJANG_MACHINE", "laptop-avx2")
    machine = facts(dojang)["machine"]
    assert (machine["name"], machine["cores"], machine["l2_bytes"]) == ("laptop-avx2", 2, 256 << 10)
    assert "laptop-avx2, family intel-haswell" in dojang("env").out


def test_measured_peaks_are_shown_beside_shipped_ones_and_used(dojang: Command, tmp_path: Path) -> None:
    before = facts(dojang)["machine"]["peaks"]
    ran = dojang("env", "--measure", "--json")
    assert ran.code == 0
    found = json.loads(ran.out)
    done = found["measured"]
    assert done["shipped"] == before
    assert done["used"]
    assert found["machine"]["peaks"] == done["measured"] == facts(dojang)["machine"]["peaks"]
    assert Path(done["file"]).parent == tmp_path / "cache"
    assert f"measured, {done['file']}" in dojang("env").out
    Path(done["file"]).write_text('{"peaks": 0}')
    machine.forget()
    assert facts(dojang)["machine"]["peaks"] == before
    assert "the file of measured peaks is ignored: isa is missing" in dojang("env").out


def test_a_machine_file_for_replicas(dojang: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "machine.json"
    ran = dojang("env", "--measure", "-o", path)
    assert ran.code == 0
    assert f"used where DOJANG_MACHINE={path} is set" in ran.out
    assert facts(dojang)["machine"]["peaks_from"].startswith("shipped")
    monkeypatch.setenv("DOJANG_MACHINE", str(path))
    said = json.loads(path.read_text())
    assert facts(dojang)["machine"]["peaks"] == said["peaks"]
    again = dojang("env", "--measure", "-o", path)
    assert (again.code, json.loads(path.read_text())) == (2, said)
    assert "--force" in again.err


def test_flags_that_need_measuring(dojang: Command, tmp_path: Path) -> None:
    ran = dojang("env", "-o", tmp_path / "m.json")
    assert ran.code == 2
    assert "--measure" in ran.err
    assert not (tmp_path / "m.json").exists()


@pytest.mark.parametrize(
    ("said", "code", "words"), [("no-such-machine", 2, "use one of server-amx"), ("{file}", 4, "cores is 0")]
)
def test_a_wrong_machine_is_one_line(
    dojang: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, code: int, words: str
) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps({"isa": "generic", "cores": 0, "l1_bytes": 8192, "l2_bytes": 8192, "l3_bytes": 8192}))
    monkeypatch.setenv("DOJANG_MACHINE", said.format(file=path))
    np.save(tmp_path / "x.npy", np.zeros((1, 8, 8), "f4"))
    for arguments in (("env",), ("run", "digits-cnn", tmp_path / "x.npy"), ("count", "lenet5", "--machine", "here")):
        ran = dojang(*arguments)
        assert ran.code == code
        assert ran.err.count("\n") == 1
        assert words in ran.err


def test_files_are_written_whatever_machine_plans_are_made_for(
    dojang: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    wider = [m for m in EVERY if not m.runs_here]
    if not wider:
        pytest.skip("every shipped machine runs here")
    monkeypatch.setenv("DOJANG_MACHINE", wider[0].name)
    ran = dojang("export", "digits-cnn", "-o", tmp_path / "m.onnx")
    assert ran.code == 0, ran.err
    assert "ONNX Runtime gives the same answers" in " ".join(ran.out.split())


def test_what_cannot_run_here_can_be_planned(dojang: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wider = [m for m in EVERY if not m.runs_here]
    if not wider:
        pytest.skip("every shipped machine runs here")
    monkeypatch.setenv("DOJANG_MACHINE", wider[0].name)
    np.save(tmp_path / "x.npy", np.zeros((1, 8, 8), "f4"))
    ran = dojang("run", "digits-cnn", tmp_path / "x.npy", "--plan")
    assert ran.code == 0
    assert f"made for {wider[0].name}; peaks: shipped description {wider[0].name}" in ran.out
    for arguments in (("--plan", "-o", tmp_path / "y.npy"), ()):
        ran = dojang("run", "digits-cnn", tmp_path / "x.npy", *arguments)
        assert ran.code == 2
        assert "cannot run on this processor" in ran.err
    assert not (tmp_path / "y.npy").exists()


def test_the_roofline_of_this_machine(dojang: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOJANG_MACHINE", "laptop-avx2")
    out = dojang("count", "lenet5", "--machine", "here").out
    assert "laptop-avx2, one core (avx2; peaks: shipped description laptop-avx2): 102.4 GFLOP/s, 12 GB/s" in " ".join(
        out.split()
    )
