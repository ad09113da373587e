from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

import dojang as package
from dojang.app.slimming import allowed_drop, selection_share
from dojang.formats import checkpoint
from dojang.formats.torch import to_module
from dojang.formats.zoo import load as zoo
from dojang.native.descriptions import SHIPPED
from dojang.native.machine import described
from dojang.training.load import load as load_data

from .conftest import Command


@pytest.fixture(scope="session")
def digit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A picture of a digit from the test part, and which one it is."""
    part = load_data("digits").test
    path = tmp_path_factory.mktemp("digit") / "digit.png"
    Image.fromarray((part.x[0, 0] * 255).round().astype(np.uint8)).save(path)
    return path, int(part.y[0])


def test_run_on_a_picture(dojang: Command, digit: tuple[Path, int], tmp_path: Path) -> None:
    path, label = digit
    ran = dojang("run", "digits-cnn", path, "--top", "3", "-o", tmp_path / "y.npy")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[2].split()[0] == str(label)
    data = json.loads(dojang("run", "digits-cnn", path, "--json").out)
    assert data["top"][0][0]["name"] == str(label)
    assert len(data["top"][0]) == 5
    x = (torch.tensor(np.asarray(Image.open(path)), dtype=torch.float32)[None, None] / 255 - 0.305) / 0.376
    wanted = to_module(zoo("digits-cnn")).eval()(x).detach().numpy()
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(data["outputs"][0]["values"], wanted, rtol=1e-4, atol=1e-4)
    chances = torch.softmax(torch.from_numpy(wanted), 1).amax()
    assert data["top"][0][0]["probability"] == pytest.approx(float(chances), abs=1e-4)


def test_run_on_arrays(dojang: Command, tmp_path: Path) -> None:
    part = load_data("digits").test
    np.save(tmp_path / "many.npy", (part.x[:20] - 0.305) / 0.376)
    data = json.loads(dojang("run", "digits-cnn", tmp_path / "many.npy", "--json", "--top", "1").out)
    right = sum(int(sample[0]["name"]) == y for sample, y in zip(data["top"], part.y[:20], strict=True))
    assert right >= 18
    np.save(tmp_path / "odd.npy", np.zeros((1, 9, 9), np.float32))
    ran = dojang("run", "digits-cnn", tmp_path / "odd.npy")
    assert ran.code == 2
    assert "has shape 1x9x9, the network takes 1x8x8" in ran.err


def test_compile_takes_arrays_and_tensors() -> None:
    compiled = package.compile("digits-cnn")
    x = np.random.default_rng(0).normal(size=(3, 1, 8, 8)).astype(np.float32)
    y = compiled(x)
    tensor = compiled(torch.from_numpy(x))
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), y)
    np.testing.assert_allclose(y, to_module(zoo("digits-cnn")).eval()(torch.from_numpy(x)).detach().numpy(), atol=1e-4)


def test_a_torch_module_can_be_counted_and_compiled() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 28 * 28, 7)).eval()
    assert package.count(module, input_size=(3, 32, 32)).total.params == 304 + 21952 + 7
    x = torch.randn(2, 3, 32, 32)
    got = package.compile(module, input_size=(3, 32, 32))(x)
    torch.testing.assert_close(got, module(x).detach(), atol=1e-4, rtol=1e-4)
    with pytest.raises(package.DojangError, match="does not say its input size"):
        package.count(module)


def test_python_code_as_network(dojang: Command, tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text("from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Conv2d(3, 4, 5, bias=False))\n")
    data = json.loads(dojang("count", f"{code}:net", "--input-size", "3,32,32", "--json").out)
    assert data["totals"]["params"] == 300
    assert dojang("count", f"{code}:nothing", "--input-size", "3,32,32").code == 2
    assert "--input-size" in dojang("count", f"{code}:net").err or "C,H,W" in dojang("count", f"{code}:net").err


@pytest.mark.parametrize("form", ["onnx", "safetensors", "net"])
def test_export(dojang: Command, tmp_path: Path, form: str) -> None:
    out = tmp_path / f"net.{form}"
    ran = dojang("export", "digits-cnn", "-o", out)
    assert (ran.code, ran.err) == (0, "")
    data = json.loads(dojang("count", out, "--json").out)
    assert data["totals"]["params"] == 53_002
    again = dojang("export", "digits-cnn", "-o", out)
    assert again.code == 2
    assert "--force" in again.err
    assert sorted(p.name for p in tmp_path.iterdir()) == [out.name]
    if form == "onnx":
        onnx.checker.check_model(onnx.load(out), full_check=True)
        assert "ONNX Runtime gives the same answers" in ran.out


def test_weights_by_name(dojang: Command, tmp_path: Path, digit: tuple[Path, int]) -> None:
    torch.save(to_module(zoo("digits-cnn")).state_dict(), tmp_path / "w.pt")
    net = tmp_path / "plain.net"
    dojang("export", "digits-cnn", "--format", "net", "-o", net)
    assert "has no weights" in dojang("run", net, digit[0]).err
    ran = dojang("run", net, digit[0], "--weights", tmp_path / "w.pt", "--json")
    assert json.loads(ran.out)["top"][0][0]["name"] == str(digit[1])


def test_diagnose(dojang: Command, tmp_path: Path) -> None:
    ran = dojang(
        "diagnose", "digits-cnn", "--data", "digits", "--samples", "100", "--html", tmp_path / "d.html", "--json"
    )
    assert ran.code == 0
    data = json.loads(ran.out)
    assert data["schema"] == "dojang.diagnose/1"
    assert data["samples"] == 100
    dead = {f["layer"]: f["channels"] for f in data["findings"] if f["kind"] == "dead-observed"}
    # the channels that PyTorch finds silent on the same samples are the ones reported
    part = load_data("digits").train
    chosen = np.sort(np.random.default_rng(0).permutation(len(part))[:100])
    x = torch.from_numpy((part.x[chosen] - 0.305) / 0.376)
    module: Any = to_module(zoo("digits-cnn")).eval()
    hidden = module.pool1(torch.relu(module.conv1(x)))
    silent = (torch.relu(module.conv2(hidden)).amax((0, 2, 3)) == 0).nonzero().flatten().tolist()
    assert dead["conv2"] == silent
    # and so are the directions that its last layer uses
    spread = torch.linalg.eigvalsh(torch.cov(module(x).detach().double().T)).flip(0).cumsum(0)
    last = data["spectra"][-1]
    np.testing.assert_allclose(last["outputs"], spread / spread[-1], rtol=1e-4)
    assert [layer["layer"] for layer in data["equivariance"]] == ["conv1", "conv2", "fc1", "fc2"]
    assert [layer["layer"] for layer in data["effective_fields"]] == ["conv1", "conv2"]
    page = (tmp_path / "d.html").read_text()
    assert "<title>" in page
    assert "What every layer uses" in page


def test_diagnose_prints_every_layer(dojang: Command) -> None:
    said = dojang("diagnose", "digits-cnn", "--data", "digits", "--samples", "100").out
    table = said[said.index("What every layer uses") :].splitlines()
    assert [line.split()[0] for line in table[2:6]] == ["conv1", "conv2", "fc1", "fc2"]
    assert max(map(len, table)) <= 80
    assert "What every layer uses" not in dojang("diagnose", "digits-cnn").out


def test_diagnose_can_fail(dojang: Command) -> None:
    ran = dojang("diagnose", "digits-cnn", "--data", "digits", "--samples", "50", "--fail-on", "info")
    assert ran.code == 1
    assert "findings of severity info or worse" in ran.err
    assert dojang("diagnose", "digits-cnn", "--fail-on", "error").code == 0


def test_train_learns_and_can_be_used(dojang: Command, tmp_path: Path, digit: tuple[Path, int]) -> None:
    out = tmp_path / "run"
    ran = dojang("train", "digits-cnn", "--data", "digits", "--epochs", "4", "--batch-size", "32", "-o", out, "--json")
    assert ran.code == 0
    data = json.loads(ran.out)
    assert data["test_accuracy"] > 0.9
    assert data["curve"][0]["train_loss"] > data["curve"][-1]["train_loss"]
    assert data["started"] == "fresh"
    facts = json.loads((out / "run.json").read_text())
    assert facts["seed"] == 0
    assert facts["data_hash"] == load_data("digits").hash
    assert facts["versions"]["torch"] == torch.__version__
    graph = checkpoint.load(out / "model.safetensors")
    assert graph.meta["classes"] == "0,1,2,3,4,5,6,7,8,9"
    assert graph.inputs[0].attrs["mean"] == (0.305,)
    again = dojang("train", "digits-cnn", "--data", "digits", "--epochs", "4", "-o", out)
    assert again.code == 2
    assert "--resume" in again.err


def test_a_trained_network_says_how_its_input_is_prepared(dojang: Command, tmp_path: Path) -> None:
    net = tmp_path / "plain.net"
    net.write_text("input 1x8x8\nconv1: conv 4 3x3\nrelu\nflatten\nfc: dense 10\n")
    assert dojang("train", net, "--data", "digits", "--epochs", "1", "-o", tmp_path / "t").code == 0
    node = checkpoint.load(tmp_path / "t" / "model.safetensors").inputs[0]
    assert node.attrs["mean"] == pytest.approx(load_data("digits").normalisation.mean)


@pytest.fixture(scope="session")
def slimmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    out = tmp_path_factory.mktemp("slim") / "out"
    how: Any = {"epochs": 2, "max_drop": 5, "target_macs": 0.6}
    return out, package.slim("digits-cnn", "digits", output=out, **how)  # type: ignore[operator]


def test_slim_gives_a_cheaper_network(slimmed: tuple[Path, Any]) -> None:
    out, done = slimmed
    data = done.to_dict()
    before, after = data["before"], data["after"]
    assert after["macs"] < 0.75 * before["macs"]
    assert after["params"] < before["params"] == 53_002
    assert set(before) >= {"params", "macs", "accuracy", "median_ms", "size_bytes"}
    assert sum(edit["macs_saved"] for edit in data["edits"]) == before["macs"] - after["macs"]
    files = ["front.svg", "model.onnx", "model.safetensors", "report.html", "run.json"]
    assert sorted(p.name for p in out.iterdir()) == files
    assert after["size_bytes"] == (out / "model.onnx").stat().st_size


def test_slim_figures_are_those_of_the_test_part(slimmed: tuple[Path, Any]) -> None:
    out, done = slimmed
    part = load_data("digits").test
    x = ((part.x - 0.305) / 0.376).astype(np.float32)
    session = onnxruntime.InferenceSession(out / "model.onnx")
    answers = session.run(None, {session.get_inputs()[0].name: x})[0].argmax(1)
    assert done.result.after.accuracy == pytest.approx((answers == part.y).mean())
    module = to_module(zoo("digits-cnn")).eval()
    assert done.result.before.accuracy == pytest.approx(
        float((module(torch.from_numpy(x)).argmax(1).numpy() == part.y).mean())
    )
    assert "the same class for 359 of 359" in done.same_answers


def test_slimmed_network_stands_alone(slimmed: tuple[Path, Any], dojang: Command, digit: tuple[Path, int]) -> None:
    out, _ = slimmed
    for name in ("model.safetensors", "model.onnx"):
        data = json.loads(dojang("run", out / name, digit[0], "--json", "--top", "1").out)
        assert data["top"][0][0]["name"] == str(digit[1])
    facts = json.loads((out / "run.json").read_text())
    assert facts["configuration"]["target_macs"] == 0.6
    assert facts["results"]["after"]["macs"] < facts["results"]["before"]["macs"]


def test_slim_lossless_changes_no_answer(dojang: Command, tmp_path: Path) -> None:
    graph = zoo("digits-cnn")
    weights = dict(graph.weights)
    for name in ("conv2.weight", "conv2.bias"):  # half of conv2 is dead for certain
        weights[name] = weights[name].copy()
        weights[name][::2] = 0
    checkpoint.save(graph.replace(weights=weights), tmp_path / "wasteful.safetensors")
    flags = ("--data", "digits", "--lossless", "--batch-size", "256", "-o", tmp_path / "out")
    ran = dojang("slim", tmp_path / "wasteful.safetensors", *flags, "--json")
    assert ran.code == 0
    data = json.loads(ran.out)
    assert all(edit["claim"] == "exact" for edit in data["edits"])
    assert data["before"]["accuracy"] == data["after"]["accuracy"]
    dead = next(e for e in data["edits"] if "conv2" in e["layers"])
    assert dead["check"]["ok"]
    assert data["after"]["macs"] <= data["before"]["macs"] * 0.6


def test_selection_is_large_enough_and_allows_for_chance() -> None:
    assert selection_share(50_000) == 0.1
    assert selection_share(1438) == 0.3
    assert selection_share(5000) == 0.2
    assert allowed_drop(1.0, 10_000) == pytest.approx(1 - 0.0995, abs=1e-3)
    assert allowed_drop(0.0, 100) == 0
    assert allowed_drop(1.0, 10) == 0


def test_regression_from_training_to_slimming(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 1, 4, 4)).astype(np.float32)
    y = np.stack([x.mean((1, 2, 3)) * 4, x[:, 0, 0].mean(1)], 1).astype(np.float32)
    module = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2))
    net = package.load(module, input_size=(1, 4, 4))
    package.train(net, (x, y), epochs=30, batch_size=32, output=tmp_path / "t")  # type: ignore[operator]
    done: Any = package.slim(  # type: ignore[operator]
        tmp_path / "t" / "model.safetensors", (x, y), epochs=3, max_drop=10, target_macs=0.7, batch_size=16
    )
    assert done.metric == "r2"
    assert done.result.before.accuracy > 0.5
    assert done.result.after.accuracy > done.result.before.accuracy - 0.3
    assert done.to_dict()["after"]["macs"] <= done.to_dict()["before"]["macs"]
    assert done.files == ()


def test_a_diagnosis_says_why_nothing_was_timed(
    dojang: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOJANG_MACHINE", next(name for name in SHIPPED if not described(name).runs_here))
    ran = dojang("diagnose", "digits-cnn", "--data", "digits", "--json", "--html", tmp_path / "page.html")
    assert ran.code == 0
    data = json.loads(ran.out)
    assert [note.partition(":")[0] for note in data["notes"]] == ["no layer was timed"]
    assert "cannot run on this processor" in data["notes"][0]
    assert "Note: no layer was timed" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert data["findings"]
    assert not any("of the measured time" in finding["evidence"] for finding in data["findings"])
    assert "Note: no layer was timed" in dojang("diagnose", "digits-cnn", "--data", "digits").out
    monkeypatch.delenv("DOJANG_MACHINE")
    timed = json.loads(dojang("diagnose", "digits-cnn", "--data", "digits", "--json").out)
    busy = timed["times"]["doubt"] is not None  # other work may have this machine while it is tested
    assert len(timed["notes"]) == busy
    hot = any("of the measured time" in finding["evidence"] for finding in timed["findings"])
    most = max(row["ms"] for row in timed["times"]["layers"])
    assert hot == (not busy and most >= 0.25 * timed["times"]["call_ms"])
