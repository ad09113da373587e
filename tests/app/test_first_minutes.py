"""The first minutes with the command line: what it says alone, examples, suggestions, completion."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dojang.app.cli import main
from dojang.app.options import COMMANDS, EXAMPLES
from dojang.app.parser import build_parser


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def test_alone_it_says_what_it_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said([], capsys)
    assert (code, err) == (0, "")
    examples = [line.split("   ")[0].strip() for line in out.splitlines() if line.startswith("  dojang ")]
    assert len(examples) == 3
    for example in examples:
        build_parser().parse_args(shlex.split(example)[1:])
    assert all(f"\n  {name} " in out for name in COMMANDS)
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_that_it_understands(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said([name, "--help"], capsys)
    assert code == 0
    assert len(EXAMPLES[name]) >= 2
    for example in EXAMPLES[name]:
        assert f"\n  {example}\n" in out
        words = shlex.split(example)
        assert words[:2] == ["dojang", name]
        build_parser().parse_args(words[1:])


MISSPELT = [
    ("cuont alexnet", "count"),
    ("count alexnt", "alexnet"),
    ("count alexnet --explain con2", "conv2"),
    ("count alexnet --colums all", "--columns"),
    ("count alexnet --columns marcs", "macs"),
    ("count alexnet --machine a1000", "a100"),
    ("count alexnet --unit mcas", "mac"),
    ("check alexnet-lectur", "alexnet-lecture"),
    ("list kernel", "kernels"),
    ("filter {picture} --kernel embos", "emboss"),
    ("filter {picture} --kernel gaussian:sigm=2", "sigma"),
    ("filter {picture} --kernel blur --border reflct", "reflect"),
    ("train digits-cnn --data digts", "digits"),
    ("train digits-cnn --data digits --device cudda", "cuda"),
    ("train digits-cnn --data digits --augment mirorr", "mirror"),
    ("train digits-cnn --data digits --class-weights balancd", "balanced"),
    ("train digits-cnn --data digits --optimiser sdg", "sgd"),
    ("train digits-cnn --data digits --freeze conx2", "conv2"),
    ("slim digits-cnn --data digits --runtime onnxruntme", "onnxruntime"),
    ("show digits-cnn --brwser", "--no-browser"),
    ("env --mesure", "--measure"),
]


@pytest.mark.parametrize(("line", "meant"), MISSPELT, ids=[line for line, _ in MISSPELT])
def test_a_misspelt_word_gets_the_nearest(
    line: str, meant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (9, 8)).save("p.png")
    code, out, err = said(line.format(picture="p.png").split(), capsys)
    assert (code in (2, 3, 4), out) == (True, "")
    assert len(err.splitlines()) == 1
    assert f"did you mean {meant}" in err or (" or " in err and meant in err.partition("did you mean")[2]), err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.png"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("dojang cou", {"count "}),
        ("dojang count resnet5", {"resnet50", "resnet56-cifar10"}),
        ("dojang filter x.png --kernel embo", {"emboss "}),
        ("dojang train digits-cnn --optimiser ", {"auto", "sgd", "adamw"}),
        ("dojang run digits-cnn x.png --pl", {"--plan "}),
        ("dojang check alex", {"alexnet-lecture "}),
        ("dojang show sta", {"stamp "}),
    ],
)
def test_the_shell_completes(line: str, words: set[str], tmp_path: Path) -> None:
    pytest.importorskip("argcomplete")
    environment = {
        **os.environ, "_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "IFS": "\v",
        "_ARGCOMPLETE_COMP_WORDBREAKS": " ", "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "said"),
    }  # fmt: skip
    code = "from dojang.app.cli import main; main()"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60, cwd=tmp_path)
    found = (tmp_path / "said").read_text().split("\v")
    assert {word.replace("\\", "") for word in found} == words
