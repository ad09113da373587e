"""The walls of the house: each import contract is broken in a copy of the tree, and `lint-imports` tells it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from importlinter.api import read_configuration

ROOT = Path(__file__).parents[1]
CONTRACTS: dict[str, dict[str, Any]] = {
    str(c["name"]): c for c in read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"]
}
ROOMS = {str(c["room"]): name for name, c in CONTRACTS.items() if c["type"] == "room"}
LAYERS, SIBLINGS, COUNTED, WITHOUT_TORCH = (name for name, c in CONTRACTS.items() if c["type"] != "room")

OUTSIDE = ("numpy", "torch", "sklearn", "scipy", "onnx", "PIL", "llvmlite", "safetensors", "tqdm", "pandas")


class Copy:
    """The sources, contracts and contract types of the repository in a folder where they may be spoilt."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(
            ROOT / "src" / "dojang", folder / "src" / "dojang", ignore=shutil.ignore_patterns("__pycache__")
        )
        (folder / "scripts").mkdir()
        shutil.copy(ROOT / "scripts" / "walls.py", folder / "scripts")
        shutil.copy(ROOT / "pyproject.toml", folder)
        self.folder = folder

    def file(self, module: str) -> Path:
        """Where a module of the copy lies."""
        path = self.folder.joinpath("src", *module.split("."))
        return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")

    def lint(self, spoilt: Mapping[str, str]) -> tuple[int, str, set[str]]:
        """Exit code, output and the broken contracts with these lines added to the modules; they are taken back."""
        before = {module: self.file(module).read_text() for module in spoilt}
        for module, lines in spoilt.items():
            self.file(module).write_text(f"{before[module]}\n{lines}\n")
        linter = Path(sys.executable).with_name("lint-imports")
        env = os.environ | {"PYTHONPATH": str(self.folder / "src"), "COLUMNS": "1000"}
        try:
            done = subprocess.run(
                [linter, "--no-cache", "--no-logo"],
                cwd=self.folder, env=env, capture_output=True, text=True, timeout=120, check=False,
            )  # fmt: skip
        finally:
            for module, text in before.items():
                self.file(module).write_text(text)
        return done.returncode, done.stdout, set(re.findall(r"^(.+) BROKEN$", done.stdout, re.MULTILINE))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    return Copy(tmp_path_factory.mktemp("walls"))


def test_the_house_as_it_is_keeps_them(copy: Copy) -> None:
    code, out, broken = copy.lint({})
    assert (code, broken) == (0, set()), out


def test_every_package_has_a_contract() -> None:
    packages = {f"dojang.{p.name}" for p in (ROOT / "src" / "dojang").iterdir() if (p / "__init__.py").exists()}
    assert packages <= ROOMS.keys()
    assert packages == set(CONTRACTS[ROOMS["dojang"]]["but"])


def _related(one: str, other: str) -> bool:
    """Whether one of two packages lies in the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def test_a_room_imports_what_its_contract_names_and_nothing_else(copy: Copy) -> None:
    """In every room one function imports every package that the room may not: each import is told with its contract."""
    spoilt: dict[str, str] = {}
    forbidden: dict[str, list[str]] = {}
    for room, name in ROOMS.items():
        allowed = (room, *CONTRACTS[name].get("may_import", ()))
        others = (*ROOMS, *OUTSIDE)
        forbidden[room] = [other for other in others if not any(_related(other, known) for known in allowed)]
        spoilt[room] = "def _spoilt():\n" + "".join(f"    import {other}\n" for other in forbidden[room])
    assert min(map(len, forbidden.values())) > 5
    code, out, broken = copy.lint(spoilt)
    assert code == 1
    assert set(ROOMS.values()) <= broken
    _, *parts = re.split(r"^(.+)\n-+$", out[out.index("Broken contracts") :], flags=re.MULTILINE)
    told = dict(zip(parts[::2], parts[1::2], strict=True))
    for room, others in forbidden.items():
        for other in others:
            assert re.search(
                rf"^{re.escape(room)} \(line \d+\) imports {re.escape(other)},", told[ROOMS[room]], re.M
            ), other


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("dojang.formats.text", "import torch, sklearn"),
        ("dojang.filters.filter", "from dojang.formats import checkpoint"),
        ("dojang.arith.kinds", "import scipy.fft"),
        ("dojang.arith.kinds", "import dojang"),
        ("dojang.base.errors", "if __import__('typing').TYPE_CHECKING:\n    from numpy import ndarray"),
    ],
)
def test_one_import_is_told_with_its_place(copy: Copy, module: str, line: str) -> None:
    code, out, broken = copy.lint({module: line})
    room = ".".join(module.split(".")[:2])
    assert code == 1
    assert ROOMS[room] in broken
    assert re.search(rf"{re.escape(module)} \(line \d+\) imports ", out)


LOWER_TO_UPPER = {
    "dojang.base.errors": "dojang.arith.conv",
    "dojang.arith.conv": "dojang.formats.text",
    "dojang.native.emit": "dojang.engine.session",
    "dojang.formats.text": "dojang.evidence.finding",
    "dojang.evidence.finding": "dojang.slimming.result",
    "dojang.slimming.result": "dojang.report.text",
    "dojang.report.text": "dojang.app.cli",
    # neighbours that do not know each other
    "dojang.engine.session": "dojang.formats.checkpoint",
    "dojang.native.jit": "dojang.arith.graph",
    "dojang.training.config": "dojang.diagnosis.dead",
    "dojang.filters.filter": "dojang.training.data",
}


def test_no_room_imports_one_above_it_or_beside_it(copy: Copy) -> None:
    code, out, broken = copy.lint({module: f"import {other}" for module, other in LOWER_TO_UPPER.items()})
    assert code == 1
    assert LAYERS in broken
    for module, other in LOWER_TO_UPPER.items():
        assert re.search(rf"{re.escape(module)} -> {re.escape(other)} \(l\.\d+\)", out), module


@pytest.mark.parametrize(
    ("package", "module", "line"),
    [
        ("dojang.arith", "dojang.arith.conv", "from dojang.arith import cost"),
        ("dojang.formats.torch", "dojang.formats.torch.write.module", "import dojang.formats.torch.read.trace"),
        ("dojang.training", "dojang.training.data", "def _load():\n    import dojang.training.load"),
    ],
)
def test_a_circle_is_told(copy: Copy, package: str, module: str, line: str) -> None:
    code, out, broken = copy.lint({module: line})
    assert (code, broken) == (1, {SIBLINGS})
    assert f"No cycles are allowed in {package}." in out


@pytest.mark.parametrize(
    ("contract", "module", "line"),
    [
        (COUNTED, "dojang.base.version", "import llvmlite.binding"),
        (WITHOUT_TORCH, "dojang.arith.conv", "import torch"),
        (WITHOUT_TORCH, "dojang.engine.session", "import torch.nn"),
    ],
)
def test_the_light_parts_stay_light(copy: Copy, contract: str, module: str, line: str) -> None:
    code, out, broken = copy.lint({module: line})
    assert code == 1
    assert contract in broken
    assert module in out
