"""Outputs of a module that gives a dictionary keep their keys, held against the module itself and ONNX Runtime."""

from __future__ import annotations

import json
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import dojang as package
from dojang.arith.outputs import output_keys

from .conftest import Command

Pair = namedtuple("Pair", ["mean", "spread"])


@dataclass
class Found:
    boxes: Tensor
    scores: Tensor


class Heads(nn.Module):
    """Two heads on one trunk; `shape` says what the forward puts them into."""

    def __init__(self, shape: str) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.trunk = nn.Conv2d(3, 4, 3, padding=1)
            self.boxes, self.scores = nn.Linear(4, 4), nn.Linear(4, 2)
        self.shape = shape

    def forward(self, x: Tensor) -> Any:
        y = self.trunk(x).relu().mean((2, 3))
        boxes, scores = self.boxes(y), self.scores(y)
        return {
            "dict": lambda: {"scores": scores, "boxes": boxes},
            "nested": lambda: {"out": {"a": scores, "b": [boxes, y]}},
            "dataclass": lambda: Found(boxes, scores),
            "namedtuple": lambda: Pair(boxes, scores),
            "twice": lambda: {"a": scores, "b": scores, "given": x},
            "clash": lambda: {"trunk": scores, "x": boxes},
            "swapped": lambda: {"scores": boxes, "boxes": scores},
            "odd": lambda: {0: scores, "größe": boxes},
        }[self.shape]()


WANTED = {
    "dict": ["scores", "boxes"],
    "nested": ["out.a", "out.b.0", "out.b.1"],
    "dataclass": ["boxes", "scores"],
    "namedtuple": ["mean", "spread"],
    "twice": ["a", "b", "given"],
    "clash": ["trunk", "x"],
    "swapped": ["scores", "boxes"],
    "odd": ["0", "größe"],
}


def flat(result: Any) -> list[np.ndarray]:
    if isinstance(result, Tensor):
        return [result.detach().numpy()]
    if isinstance(result, Found):
        result = vars(result)
    return [one for part in (result.values() if isinstance(result, dict) else result) for one in flat(part)]


@pytest.mark.parametrize("shape", list(WANTED))
def test_keys_are_those_of_the_module(shape: str, tmp_path: Path) -> None:
    module = Heads(shape).eval()
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(np.float32)
    wanted = dict(zip(WANTED[shape], flat(module(torch.from_numpy(x))), strict=True))
    graph = package.load(module, input_size=(3, 6, 6))
    assert output_keys(graph) == tuple(WANTED[shape])
    for file in ("net.onnx", "net.safetensors"):
        package.export(module, input_size=(3, 6, 6), output=tmp_path / file)
        assert output_keys(package.load(tmp_path / file)) == tuple(WANTED[shape])
    for source in (graph, tmp_path / "net.onnx", tmp_path / "net.safetensors"):
        ran = package.run(source, x)
        assert list(ran.outputs) == list(wanted)
        for key, array in wanted.items():
            np.testing.assert_allclose(ran.outputs[key], array, rtol=1e-4, atol=1e-5)
    onnx.checker.check_model(str(tmp_path / "net.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    names = [output.name for output in session.get_outputs()]
    # An input's name cannot be given to an output as well.
    assert names == (["trunk", "boxes"] if shape == "clash" else list(wanted))
    for got, array in zip(session.run(None, {"x": x}), wanted.values(), strict=True):
        np.testing.assert_allclose(np.asarray(got), array, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", ["dict", "namedtuple", "swapped", "clash"])
def test_layers_keep_their_names_in_the_file(shape: str, tmp_path: Path) -> None:
    graph = package.load(Heads(shape).eval(), input_size=(3, 6, 6))
    package.export(graph, output=tmp_path / "net.onnx")
    assert [node.name for node in package.load(tmp_path / "net.onnx").nodes] == [node.name for node in graph.nodes]


def test_a_tuple_has_no_keys_and_meta_that_does_not_fit_counts_for_nothing() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return x.relu(), x.tanh()

    graph = package.load(Two(), input_size=(3,))
    assert (output_keys(graph), "outputs" in graph.meta) == (graph.outputs, False)
    for text in ('["a"]', '["a", "a"]', "[1, 2]", "{", '"ab"', "[" * 100_000):
        assert output_keys(graph.replace(meta={"outputs": text})) == graph.outputs


def test_the_command_prints_keys(dojang: Command, tmp_path: Path) -> None:
    package.export(Heads("dict").eval(), input_size=(3, 6, 6), output=tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 6, 6), np.float32))
    found = json.loads(dojang("run", tmp_path / "net.onnx", tmp_path / "x.npy", "--json").out)
    assert [one["name"] for one in found["outputs"]] == ["scores", "boxes"]
