"""Two processes by `torchrun`, on one machine by gloo, against one: the same findings, one voice, files once."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from children import STACKS, finished
from dojang.diagnosis import correlations, spectra
from dojang.evidence.activations import activated, layers
from dojang.evidence.evidence import Evidence
from dojang.formats import checkpoint, zoo
from dojang.training.load import load

from .conftest import Command

pytestmark = pytest.mark.slow
PAIR = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
CLOCK = ("measured time", "peak")
"""Words of findings that the clock gives; they differ from run to run."""

DIAGNOSE = ("diagnose", "digits-cnn", "--data", "digits", "--samples", "301", "--json")
COMMANDS = {
    "diagnose": DIAGNOSE,
    "too few": ("diagnose", "digits-cnn", "--data", "digits", "--samples", "1"),
    "train": ("train", "digits-cnn", "--data", "digits", "--epochs", "1", "--json", "-o", "train"),
    "slim": ("slim", "digits-cnn", "--data", "digits", "--target-macs", "0.7", "--max-drop", "20", "--epochs", "1",
             "--json", "-o", "slim"),
}  # fmt: skip
"""What the two processes of `pair` do one after the other."""


def started(*arguments: str, code: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd,
        env={**STACKS, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    out, err = finished(process)
    assert process.returncode == code, err
    return subprocess.CompletedProcess(process.args, code, out, err)


PROGRAM = """
import contextlib
import io
import json
import sys
import numpy as np
from dojang.app.cli import main
from dojang.app.together import Lead, take_part, together
from dojang.app.tuning import TuningOptions, training, tuner
from dojang.base.errors import DataError
from dojang.diagnosis import Evidence, correlations, spectra
from dojang.diagnosis.correlation import watched_pairs
from dojang.diagnosis.spectrum import watched_values
from dojang.evidence.activations import activated, layers
from dojang.formats import checkpoint, zoo
from dojang.training.load import load


def command(us, name, arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    with open(f"{name} {us.rank}.json", "w") as file:
        json.dump([code, out.getvalue(), err.getvalue()], file)


def statistics(us):
    graph = zoo.load("digits-cnn")
    x = np.random.default_rng(0).normal(size=(37, 1, 8, 8)).astype(np.float32)
    mine = us.share(x)
    assert us.size == 2 and len(mine) in (18, 19)
    out = {}
    known = Evidence(graph, x)
    values = [activated(graph, node.name) for node in layers(graph)]
    known.gather((*values, *watched_values(known)), watched_pairs(graph).values(), mine, us.reduced)
    for name, r in known.statistics(values).items():
        for key in ("samples", "places", "least", "most", "fired", "mean", "covariance"):
            out[f"{name} {key}"] = getattr(r, key)
    for c in correlations(known):
        out[f"{c.after} correlation"], out[f"{c.after} pixels"] = c.matrix, c.pixels
    for s in spectra(known):
        out[f"{s.layer} outputs"], out[f"{s.layer} inputs"] = s.outputs, s.inputs
    assert known.passes == 1
    np.savez(f"{us.rank}.npz", **out)


def tuned(us):
    graph = zoo.load("digits-cnn")
    rng = np.random.default_rng(0)
    worn = graph.with_weights({k: v + rng.normal(0, 0.05, v.shape).astype(v.dtype) for k, v in graph.weights.items()})
    data = load("digits", seed=0).selection(0.3, 0)
    how = TuningOptions(precision="float32", lead=Lead(us))
    if us.rank:
        said = take_part(us, training(data, TuningOptions()))
        assert said == "the end", said
        return
    tune = tuner(data, 2, how)

    def led():
        broken = worn.with_weights({k: v * np.nan for k, v in worn.weights.items()})
        try:
            tune(broken, graph)
        except DataError as error:
            print(error)
        checkpoint.save(tune(worn, graph), f"{us.size}.safetensors")
        return "the end"

    how.lead.through(led, str)


if __name__ == "__main__":
    with together() as us:
        if us.size == 2:
            statistics(us)
            for name, arguments in json.loads(sys.argv[1]).items():
                command(us, name, arguments)
        tuned(us)
"""


@dataclass(frozen=True)
class Told:
    """What the program printed, and the exit code, stdout and stderr of each command in each process."""

    folder: Path
    printed: str

    def of(self, name: str) -> list[list[Any]]:
        return [json.loads((self.folder / f"{name} {rank}.json").read_text()) for rank in "01"]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("together") / "program.py"
    path.write_text(PROGRAM)
    return path


@pytest.fixture(scope="module")
def pair(program: Path) -> Told:
    """Two processes, started once, that the caller has brought together: everything that can share a start."""
    done = started(*PAIR, str(program), json.dumps(COMMANDS), cwd=program.parent)
    return Told(program.parent, done.stdout)


def unclocked(printed: str) -> list[tuple[str, str, tuple[int, ...]]]:
    found = json.loads(printed)["findings"]
    return [f for f in found if not any(word in f["evidence"] for word in CLOCK)]


def test_two_processes_find_what_one_finds(pair: Told, dojang: Command) -> None:
    ran = dojang(*DIAGNOSE)
    assert ran.code == 0, ran.err
    (code, two, _), silent = pair.of("diagnose")
    assert (code, silent[:2]) == (0, [0, ""])
    alone, both = unclocked(ran.out), unclocked(two)
    assert json.loads(two)["samples"] == 301
    assert {f["kind"] for f in alone} >= {"dead-observed", "hot-spot"}
    assert [(f["layer"], f["kind"], f["channels"], f["evidence"]) for f in both] == [
        (f["layer"], f["kind"], f["channels"], f["evidence"]) for f in alone
    ]
    np.testing.assert_allclose([f["value"] for f in both], [f["value"] for f in alone], rtol=1e-6)


def test_the_command_brings_the_processes_together_itself() -> None:
    printed = started(*PAIR, "-m", "dojang", *DIAGNOSE).stdout
    assert json.loads(printed)["samples"] == 301  # two lines of JSON would be no JSON


def test_every_process_has_the_statistics_of_all_samples(pair: Told) -> None:
    graph = zoo.load("digits-cnn")
    x = np.random.default_rng(0).normal(size=(37, 1, 8, 8)).astype(np.float32)
    known = Evidence(graph, x)
    values = [activated(graph, node.name) for node in layers(graph)]
    whole = known.statistics(values)
    for rank in "01":
        with np.load(pair.folder / f"{rank}.npz") as kept:
            got = dict(kept)
        for name, r in whole.items():
            for key in ("samples", "places", "fired"):
                np.testing.assert_array_equal(got[f"{name} {key}"], getattr(r, key))
            for key in ("least", "most", "mean", "covariance"):
                np.testing.assert_allclose(got[f"{name} {key}"], getattr(r, key), rtol=1e-6, atol=1e-9)
        for c in correlations(Evidence(graph, x)):
            assert got[f"{c.after} pixels"] == c.pixels
            np.testing.assert_allclose(got[f"{c.after} correlation"], c.matrix, atol=1e-6)
        for s in spectra(Evidence(graph, x)):
            np.testing.assert_allclose(got[f"{s.layer} outputs"], s.outputs, atol=1e-6)
            np.testing.assert_allclose(got[f"{s.layer} inputs"], s.inputs, atol=1e-6)


def test_training_speaks_and_writes_once(pair: Told) -> None:
    (code, out, _), silent = pair.of("train")
    assert (code, silent) == (0, [0, "", ""])
    record = json.loads(out)
    assert record["processes"] == 2
    assert sorted(path.name for path in (pair.folder / "train").iterdir() if path.name != "tensorboard") == [
        "log.csv", "model.safetensors", "report.html", "run.json", "training.safetensors",
    ]  # fmt: skip


def test_too_few_samples_to_share_are_one_line(pair: Told) -> None:
    line = "dojang: 1 samples cannot be shared by 2 processes; look at more, or start fewer\n"
    assert pair.of("too few") == [[2, "", line], [2, "", line]]


def test_slimming_is_decided_by_one_and_tuned_by_both(pair: Told) -> None:
    (code, printed, _), silent = pair.of("slim")
    assert (code, silent[:2]) == (0, [0, ""])
    record, out = json.loads(printed), pair.folder / "slim"
    assert sorted(path.name for path in out.iterdir()) == [
        "front.svg",
        "model.onnx",
        "model.safetensors",
        "report.html",
        "run.json",
    ]
    assert record["after"]["macs"] <= 0.7 * record["before"]["macs"]
    assert any(edit["check"].get("tuned") for edit in record["edits"])
    # What is written is what was scored: one process, with ONNX Runtime, comes to the same accuracy.
    data = load("digits", seed=0)
    session = onnxruntime.InferenceSession(out / "model.onnx")
    answers = session.run(None, {session.get_inputs()[0].name: data.test.inputs()})[0].reshape(len(data.test), -1)
    assert record["after"]["accuracy"] == float((answers.argmax(1) == data.test.y).mean())


def test_tuning_by_two_processes_gives_what_one_gives_and_goes_on_after_an_error(pair: Told, program: Path) -> None:
    said = [started(str(program), cwd=program.parent).stdout, pair.printed]
    assert said[0] == said[1]
    assert "NaN" in said[0]
    one, two = (checkpoint.load(pair.folder / f"{size}.safetensors").weights for size in (1, 2))
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-2, atol=1e-3, err_msg=name)


def test_when_process_0_fails_the_others_end(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    command = ("-m", "dojang", "slim", "digits-cnn", "--data", "digits", "-o", str(tmp_path / "out"))
    done = started(*PAIR, *command, code=1)
    said = {line for line in done.stderr.splitlines() if line.startswith("dojang:")}
    assert said == {f"dojang: {tmp_path / 'out'}: is a file; -o names a folder"}
    assert done.stderr.count("Traceback") == 1  # that of torchrun itself, about a process that failed
