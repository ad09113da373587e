"""Bad input through the real command: one line that names the place and the remedy, nothing half-written."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import pty
import re
import resource
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from safetensors.numpy import save_file

from children import finished
from dojang.formats import checkpoint
from dojang.formats.zoo import load as zoo

from .conftest import Command, Ran


def one_line(ran: Ran, code: int, *says: str) -> None:
    assert ran.code == code, ran.err
    assert ran.out == ""
    assert len(ran.err.splitlines()) == 1, ran.err
    assert ran.err.startswith("dojang: ")
    assert "fault in dojang" not in ran.err
    for text in says:
        assert text in ran.err


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "net.safetensors"
    checkpoint.save(zoo("digits-cnn"), path)
    return path


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "digit.png"
    Image.fromarray(np.full((8, 8), 100, np.uint8)).save(path)
    return path


@pytest.mark.parametrize("name", ["net.onnx", "net.safetensors", "net.net"])
def test_missing_files(dojang: Command, tmp_path: Path, picture: Path, name: str) -> None:
    for args in (
        ("count", tmp_path / name),
        ("run", tmp_path / name, picture),
        ("export", tmp_path / name, "-o", "x.onnx"),
    ):
        one_line(dojang(*args), 4, name, "no such file")


@pytest.mark.parametrize("form", ["onnx", "safetensors"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_truncated_networks(dojang: Command, tmp_path: Path, form: str, part: float) -> None:
    whole, cut = tmp_path / f"whole.{form}", tmp_path / f"cut.{form}"
    assert dojang("export", "digits-cnn", "-o", whole).code == 0
    content = whole.read_bytes()
    cut.write_bytes(content[: int(len(content) * part)])
    one_line(dojang("count", cut), 4, "cut.")


def test_missing_and_damaged_data(dojang: Command, tmp_path: Path) -> None:
    one_line(dojang("diagnose", "digits-cnn", "--data", tmp_path / "nothing"), 4, "nothing")
    np.savez(tmp_path / "d.npz", x=np.zeros((20, 8, 8), np.uint8), y=np.arange(20) % 10)
    content = (tmp_path / "d.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    one_line(dojang("diagnose", "digits-cnn", "--data", tmp_path / "cut.npz"), 4, "cut.npz")
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04 no zip")
    one_line(dojang("diagnose", "digits-cnn", "--data", tmp_path / "cut.zip"), 4, "cut.zip")


@pytest.fixture
def strange(tmp_path: Path) -> Path:
    """An ONNX file with an operator that nobody knows between two convolutions."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> TensorProto:
        return onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="c1"),
        helper.make_node("Frobnicate", ["a"], ["b"], name="strange", domain="com.example"),
        helper.make_node("Conv", ["b", "w2"], ["y"], name="c2"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [weight("w1", 4, 3, 3, 3), weight("w2", 5, 4, 3, 3)])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.example", 1)]
    path = tmp_path / "strange.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets), path)
    return path


def test_unknown_operator(
    dojang: Command, strange: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = dojang("count", strange)
    assert ran.code == 0
    assert "≥" in ran.out
    assert "Frobnicate" in ran.out
    one_line(dojang("run", strange, picture), 2, "Frobnicate")
    one_line(dojang("slim", strange, "--data", "digits"), 2, "Frobnicate")
    one_line(dojang("train", strange, "--data", "digits"), 2)
    assert not Path("out").exists()


def test_budget_of_a_lower_bound_is_not_passed(dojang: Command, strange: Path) -> None:
    ran = dojang("count", strange, "--max-macs", "1G")
    assert ran.code == 1
    assert "is not known, because" in ran.err
    assert "Frobnicate" in ran.err


def test_weights_that_do_not_fit(dojang: Command, saved: Path, tmp_path: Path, picture: Path) -> None:
    one_line(dojang("run", "lenet5", picture, "--weights", saved), 2, str(saved))
    net = tmp_path / "wider.net"
    net.write_text("input 1x8x8\nconv1: conv 32 3x3 pad=1\nrelu\nflatten\nfc1: dense 128\nfc2: dense 10\n")
    one_line(dojang("run", net, picture, "--weights", saved), 2, str(saved))
    one_line(dojang("run", "digits-cnn", picture, "--weights", tmp_path / "no.pt"), 4, "no.pt: no such file")
    one_line(dojang("run", "digits-cnn", picture, "--weights", picture), 2, ".safetensors")


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("input 96x8x8\nconv2: conv 10 3x3 groups=5\n", 2, ("bad.net:2", "conv2", "96", "5 groups")),
        ("input 3x8x8\nconv1: conv 4 9x9\n", 2, ("bad.net:2", "conv1", "shrinks below 1")),
        ("input 3x8x8\nconv1: conf 4 3x3\n", 2, ("bad.net:2:8", "conf")),
        ("input 3x8x8\nconv1: conv 4 3x3 <- nowhere\n", 2, ("bad.net:2", "nowhere")),
    ],
)
def test_networks_that_cannot_be(dojang: Command, tmp_path: Path, text: str, code: int, says: tuple[str, ...]) -> None:
    path = tmp_path / "bad.net"
    path.write_text(text)
    one_line(dojang("count", path), code, *says)


def test_text_that_is_no_text(dojang: Command, tmp_path: Path) -> None:
    (tmp_path / "bad.net").write_bytes(b"\xff\xfe\x00\x01")
    one_line(dojang("count", tmp_path / "bad.net"), 4, "bad.net", "UTF-8")


def test_nan_in_weights(dojang: Command, tmp_path: Path, picture: Path) -> None:
    from safetensors.numpy import save_file

    weights = {name: np.array(array) for name, array in zoo("digits-cnn").weights.items()}
    weights["conv2.weight"][3, 1, 0, 2] = np.nan
    path = tmp_path / "nan.safetensors"
    save_file(weights, path)
    one_line(dojang("run", "digits-cnn", picture, "--weights", path), 2, "conv2.weight", "NaN")
    one_line(
        dojang("slim", "digits-cnn", "--data", "digits", "--weights", path, "-o", tmp_path / "o"), 2, "conv2.weight"
    )
    assert not (tmp_path / "o").exists()


def test_nan_in_data(dojang: Command, tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((40, 1, 8, 8)).astype(np.float32)
    x[7, 0, 0, 0] = np.nan
    np.savez(tmp_path / "nan.npz", x=x, y=np.arange(40) % 10)
    for command in ("diagnose", "slim", "train"):
        out = () if command == "diagnose" else ("-o", tmp_path / "out")
        one_line(dojang(command, "digits-cnn", "--data", tmp_path / "nan.npz", *out), 2, "nan.npz", "sample 7", "NaN")
    assert not (tmp_path / "out").exists()


class Harm:
    """What a hostile file would run."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch harmed",)


def test_pt_that_holds_code(dojang: Command, tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": Harm()}, "evil.pt")
    one_line(dojang("run", "digits-cnn", picture, "--weights", "evil.pt"), 4, "evil.pt", "code")
    Path("evil.pth").write_bytes(pickle.dumps(Harm()))
    one_line(dojang("run", "digits-cnn", picture, "--weights", "evil.pth"), 4, "evil.pth")
    assert not Path("harmed").exists()


def test_empty_class_folder(dojang: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for i in range(4):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / "data" / "cat" / f"{i}.png")
    one_line(dojang("train", "digits-cnn", "--num-classes", "2", "--data", tmp_path / "data"), 2, "dog")
    assert not Path("out").exists()


def test_labels_beyond_the_network(dojang: Command, tmp_path: Path) -> None:
    x, y = np.zeros((60, 1, 8, 8), np.float32), np.where(np.arange(60) < 8, 55, np.arange(60) % 10)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    one_line(dojang("diagnose", "digits-cnn", "--data", tmp_path / "data.npz"), 2, "from 0 to 55")


def bomb() -> bytes:
    """A PNG of 60000 x 60000 pixels in a few kilobytes."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")
    )


def test_pictures_that_are_none(dojang: Command, tmp_path: Path, picture: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "bomb.png").write_bytes(bomb())
    (tmp_path / "cut.png").write_bytes(picture.read_bytes()[:40])
    for name in ("text.png", "bomb.png", "cut.png", "missing.png"):
        one_line(dojang("run", "digits-cnn", tmp_path / name), 4, name)
        one_line(dojang("filter", tmp_path / name, "--kernel", "blur"), 4, name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bomb.png", "cut.png", "digit.png", "text.png"]


def test_zip_bomb(dojang: Command, tmp_path: Path) -> None:
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a", "b"):
            archive.writestr(f"{name}/x.png", bomb())
    one_line(dojang("diagnose", "digits-cnn", "--data", path), 4, "x.png")


def test_npy_with_objects(dojang: Command, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Harm()], dtype=object), allow_pickle=True)
    (tmp_path / "evil.npy").write_bytes(buffer.getvalue())
    one_line(dojang("run", "digits-cnn", tmp_path / "evil.npy"), 4, "evil.npy")


def test_data_of_other_classes(dojang: Command, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "three.npz", x=rng.integers(0, 256, (30, 8, 8), np.uint8), y=np.array(["cat", "dog", "emu"] * 10)
    )
    one_line(dojang("slim", "digits-cnn", "--data", tmp_path / "three.npz", "-o", tmp_path / "o"), 2, "cat")
    assert not (tmp_path / "o").exists()


def test_data_that_nothing_can_be_chosen_on(dojang: Command, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (30, 8, 8), np.uint8)
    slim = ("slim", "digits-cnn", "-o", tmp_path / "o", "--data")
    np.savez(tmp_path / "one.npz", x=x, y=np.zeros(30, int))
    one_line(dojang(*slim, tmp_path / "one.npz"), 2, "one class")
    np.savez(tmp_path / "below.npz", x=x, y=np.arange(30) % 10 - 1)
    one_line(dojang(*slim, tmp_path / "below.npz"), 2, "below.npz")
    np.savez(tmp_path / "few.npz", x=x[:10], y=np.arange(10))
    one_line(dojang(*slim, tmp_path / "few.npz"), 2, "few.npz", "one sample")
    for flags in (("--target-macs", "0"), ("--target-time", "1.5"), ("--target-ms", "nan"), ("--max-drop", "-1")):
        one_line(dojang(*slim, "digits", *flags), 2, flags[0].removeprefix("--"))
        assert not (tmp_path / "o" / "model.onnx").exists()


def test_outputs_are_refused_before_the_work(dojang: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.onnx").write_bytes(b"mine")
    one_line(dojang("slim", "digits-cnn", "--data", "digits", "-o", out), 2, "model.onnx", "--force")
    assert (out / "model.onnx").read_bytes() == b"mine"
    assert [p.name for p in out.iterdir()] == ["model.onnx"]
    one_line(dojang("count", "alexnet", "--html", out / "model.onnx"), 2, "--force")
    one_line(dojang("count", "alexnet", "--html", tmp_path / "no" / "such.html"), 2, "does not exist")


def small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["export", "digits-cnn", "-o", "x.onnx"],
        ["export", "digits-cnn", "-o", "x.safetensors"],
        ["train", "digits-cnn", "--data", "digits", "--epochs", "1", "-o", "run"],
        ["count", "resnet56-cifar10", "--html", "x.html"],
    ],
    ids=lambda c: f"{c[0]} {c[-1]}",
)
def test_full_disk(tmp_path: Path, command: list[str]) -> None:
    """A limit on file sizes stands for the full disk: the system refuses to write on."""
    done = subprocess.run(
        [sys.executable, "-m", "dojang", *command], cwd=tmp_path, preexec_fn=small_files, capture_output=True, text=True
    )
    complaint = [line for line in done.stderr.splitlines() if line.startswith("dojang: ")]
    assert done.returncode == 4, done.stderr
    assert len(complaint) == 1
    # the name that was asked for, not that of a temporary file; and what to do about it
    assert complaint[0].startswith(f"dojang: {command[-1]}"), complaint
    if command[0] != "train":  # which says how to go on
        assert "(ulimit -f); raise it or write elsewhere" in complaint[0]
    assert "Traceback" not in done.stderr
    left = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert left == []


def test_full_stdout() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "dojang", "count", "alexnet"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 4
    assert done.stderr.splitlines() == ["dojang: the result could not be printed: No space left on device"]


def test_closed_pipe() -> None:
    command = f"{sys.executable} -m dojang count resnet50 --json | head -c 100"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True)
    assert (done.returncode, done.stderr, len(done.stdout)) == (0, "", 100)


@pytest.mark.slow
def test_interrupted_training(tmp_path: Path) -> None:
    """A real Ctrl-C, SIGTERM or SIGHUP: exit 130, one line, a state that --resume takes up, no half-written result.

    One process trains three times, for most of a start are its imports; another thread sends it the signals.
    """
    code = f"""if True:
        import os, sys, threading
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        from waiting import until
        from dojang.app.cli import main
        def send(number):
            until(lambda: os.path.exists(f"run{{number}}/training.safetensors"), "the first state of the training")
            os.kill(os.getpid(), number)
        for number in map(int, sys.argv[1:]):
            threading.Thread(target=send, args=[number]).start()
            train = ["train", "digits-cnn", "--data", "digits", "--epochs", "200", "-o", f"run{{number}}"]
            code = main(train)
            print(f"exit {{code}}", file=sys.stderr, flush=True)
    """
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    command = [sys.executable, "-c", code, *(str(int(number)) for number in numbers)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "Traceback" not in done.stderr
    said = [line.rpartition("\r")[2] for line in done.stderr.splitlines()]
    ends = [i for i, line in enumerate(said) if line.startswith("exit ")]
    assert [said[i] for i in ends] == ["exit 130"] * 3
    resume = "dojang: interrupted; the same command with --resume goes on from what run{} keeps"
    assert [said[i - 1] for i in ends] == [resume.format(int(number)) for number in numbers]
    for number in numbers:
        run = tmp_path / f"run{int(number)}"
        assert {p.name for p in run.iterdir()} - {"log.csv", "tensorboard"} == {"training.safetensors"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupts_that_come_out_as_another_error(tmp_path: Path, number: int) -> None:
    """C code that is being loaded makes an ImportError of what a signal's handler raises; still it is an interrupt."""
    code = f"""if True:
        import os, sys
        import dojang.app.commands as commands
        from dojang.app.cli import main
        def loading(args):
            try:
                os.kill(os.getpid(), {int(number)})
                for _ in range(1000):
                    pass
            except KeyboardInterrupt:
                raise ImportError("initialization failed") from None
        commands.env = loading
        sys.exit(main(["env"]))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (130, "dojang: interrupted\n")


@pytest.mark.slow
def test_interrupted_slimming(dojang: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM within a slimming; what lies there then, half-moved results included, is taken up by --resume alone."""
    slim = ["slim", "digits-cnn", "--data", "digits", "-o", "out"]
    running = subprocess.Popen(
        [sys.executable, "-m", "dojang", *slim], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert running.stderr is not None
    seen = ""
    while "tuned until" not in seen:
        line = running.stderr.readline()
        assert line, seen
        seen += line
    running.send_signal(signal.SIGTERM)
    out, err = finished(running)
    assert (running.returncode, out) == (130, ""), err
    assert err.splitlines()[-1] == "dojang: interrupted; the same command with --resume goes on from what out keeps"
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["unfinished"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    # What a kill leaves while the results move into place: some are there, and the journal still is.
    (tmp_path / "out" / "model.onnx").write_bytes(b"moved before the kill")
    monkeypatch.chdir(tmp_path)
    one_line(dojang(*slim), 2, "--resume")
    again = dojang(*slim, "--resume", "--epochs", "3")
    assert again.code == 2
    assert "has epochs 10, this one 3" in again.err.splitlines()[-1]
    for flags, what in ((["--mean", "0.4"], "normalised"), (["--select", "digits"], "selection")):
        one_line(dojang(*slim, "--resume", *flags), 2, f"has {what}")
    assert (tmp_path / "out" / "model.onnx").read_bytes() == b"moved before the kill"


def test_a_slimming_that_has_ended_says_so_when_it_is_resumed(dojang: Command, tmp_path: Path) -> None:
    """As after a kill between the last file and the end of the process."""
    for name in ("report.html", "model.onnx", "model.safetensors", "run.json"):
        (tmp_path / name).write_text("")
    one_line(dojang("slim", "digits-cnn", "--data", "digits", "-o", str(tmp_path), "--resume"), 2, "has ended")
    assert all(path.stat().st_size == 0 for path in tmp_path.iterdir())


@pytest.mark.slow
def test_interrupted_within_an_exec(tmp_path: Path) -> None:
    """Imports run `exec` on strings; CPython then ends `python -m` by SIGINT, although the interrupt was caught."""
    (tmp_path / "slow.py").write_text('exec("raise KeyboardInterrupt")\n')
    command = [sys.executable, "-m", "dojang", "count", "slow.py:net"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "dojang: interrupted\n")


def test_unexpected_errors_are_one_line_too(dojang: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from dojang.app import verbs

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("wheels\ncame off")

    monkeypatch.setattr(verbs, "count", broken)
    ran = dojang("count", "alexnet")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        "dojang: unexpected RuntimeError: wheels came off (a fault in dojang; set DOJANG_TRACEBACK=1 to see where)\n"
    )
    monkeypatch.setenv("DOJANG_TRACEBACK", "1")
    assert "Traceback" in dojang("count", "alexnet").err


@pytest.mark.parametrize(("part", "line"), [("torch", "dojang[torch]"), ("sklearn", "dojang[data]")])
def test_missing_parts_say_the_install_line(tmp_path: Path, part: str, line: str) -> None:
    script = (
        f"import sys; sys.modules[{part!r}] = None\n"
        "from dojang.app.cli import main\n"
        f"sys.exit(main(['train', 'digits-cnn', '--data', 'digits', '-o', {str(tmp_path / 'o')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert line in done.stderr
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("network", ["http.server:test", "evil.py:make", "../net.net", "/etc/passwd", "evil.py"])
def test_a_table_never_runs_code(dojang: Command, tmp_path: Path, network: str) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\ndef make(): pass\n")
    table = tmp_path / "t.csv"
    table.write_text(f"# network: {network}\nrow,layers,params\na,conv1,1K\n")
    one_line(dojang("check", table), 2, "never runs code")
    assert not (tmp_path / "ran").exists()


def test_a_table_names_a_file_beside_it(dojang: Command, tmp_path: Path) -> None:
    (tmp_path / "n.net").write_text("input 1x8x8\nconv1: conv 4 3x3\n")
    (tmp_path / "t.csv").write_text("# network: n.net\nrow,layers,params\na,conv1,40\n")
    assert dojang("check", tmp_path / "t.csv").code == 0


HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e\x9b1A\r\n"


@pytest.mark.parametrize("flags", [(), ("--json",), ("--csv",), ("--memory",), ("--explain", "0")])
def test_names_do_not_reach_the_terminal(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """In a real terminal (pty): no control character of a name arrives, whatever the form of the answer."""
    from dojang.arith.graph import Graph, Node
    from dojang.formats.text import to_text

    nodes = (Node.of("in" + HOSTILE, "input", shape=(1, 8, 8)), Node.of(HOSTILE, "relu", "in" + HOSTILE))
    graph = Graph(nodes, (HOSTILE,), HOSTILE, {}, {"source": HOSTILE})
    path = tmp_path / "n.net"
    path.write_text(to_text(graph), encoding="utf-8", newline="")
    flags = tuple(HOSTILE if f == "0" else f for f in flags)
    seen = in_terminal([sys.executable, "-m", "dojang", "count", str(path), *flags])
    marks = re.compile("\x1b\\[(0|1|2|31|32)m")
    left = marks.sub("", seen).replace("\r\n", "\n")
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", left), repr(left)
    assert "owned" in left


def test_names_cannot_hold_the_marks_of_a_report(tmp_path: Path) -> None:
    """A class or a network that is called like a colour does not colour the terminal, nor begin a line."""
    from dojang.report.table import PLAIN, Style, printed

    name = "\x1b[31mred\nnext\x1b[0m"
    said = "\\x1b[31mred\\nnext\\x1b[0m"
    assert printed(Style(True).bad("x") + "\x1b[31m\n" + Style(True).bold(name)) == (
        f"\x1b[31mx\x1b[0m\\x1b[31m\n\x1b[1m{said}\x1b[0m"
    )
    assert PLAIN.bold(name) == said
    meta = "classes " + ",".join(f'"{name}{i}"' for i in range(3)).replace("\n", "\\n").replace("\x1b", "\\x1b")
    text = f"network n\n{meta}\ninput 1x2x2\nflatten\nd: dense 3\n"
    (tmp_path / "n.net").write_text(text)
    np.save(tmp_path / "x.npy", np.ones((1, 2, 2), np.float32))
    rng = np.random.default_rng(0)
    save_file(
        {"d.weight": rng.random((3, 4), np.float32), "d.bias": np.zeros(3, np.float32)}, tmp_path / "w.safetensors"
    )
    seen = in_terminal([sys.executable, "-m", "dojang", "run", str(tmp_path / "n.net"), str(tmp_path / "x.npy"),
                        "--weights", str(tmp_path / "w.safetensors")])  # fmt: skip
    assert "\x1b[31m" not in seen
    assert seen.count(said) == 3, repr(seen)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed(closed: str) -> None:
    for command, code in (("count lenet5", 0), ("count no-such", 2)):
        line = f"{sys.executable} -m dojang {command} {closed}"
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == code, done.stderr
        assert "unexpected" not in done.stderr


def in_terminal(command: list[str]) -> str:
    """What a command writes to a terminal, by a pseudo-terminal as its stdin, stdout and stderr."""
    main, side = pty.openpty()
    running = subprocess.Popen(command, stdin=side, stdout=side, stderr=side, close_fds=True)
    os.close(side)
    seen = b""
    with contextlib.suppress(OSError):  # Linux ends the reading so when the other side is closed
        while part := os.read(main, 65536):
            seen += part
    os.close(main)
    running.wait(60)
    return seen.decode("utf-8")


def test_outputs_keep_mode_and_link_and_refuse_devices(dojang: Command, tmp_path: Path) -> None:
    target, link, pipe = tmp_path / "t.html", tmp_path / "l.html", tmp_path / "p.html"
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to(target)
    os.mkfifo(pipe)
    assert dojang("count", "lenet5", "--html", link, "--force").code == 0
    assert link.is_symlink()
    assert target.read_text() != "old"
    assert target.stat().st_mode & 0o777 == 0o600
    one_line(dojang("count", "lenet5", "--html", pipe, "--force"), 2, "pipe")
    assert pipe.is_fifo()
