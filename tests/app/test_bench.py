from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dojang.app.benching import with_random_weights
from dojang.engine.compiled import compile
from dojang.formats import zoo

from .conftest import Command


def test_bench_with_peers(dojang: Command) -> None:
    ran = dojang("bench", "digits-cnn", "--peers", "--rounds", "5", "--batch-size", "2", "--json")
    assert ran.code == 0
    data = json.loads(ran.out)
    results = {row["runtime"]: row for row in data["results"]}
    assert set(results) == {"dojang", "torch", "torch channels-last", "onnxruntime"}
    assert all(row["median_ms"] > 0 and row["iqr_ms"] >= 0 and row["version"] for row in results.values())
    assert all(row["max_abs_diff"] < 1e-3 for name, row in results.items() if name != "dojang")
    best = min(row["median_ms"] for name, row in results.items() if name != "dojang")
    assert data["ratio_to_best_peer"] == results["dojang"]["median_ms"] / best
    assert "random" not in data["convention"]


def test_bench_alone_with_random_weights(dojang: Command) -> None:
    ran = dojang("bench", "lenet5", "--rounds", "3")
    assert ran.code == 0
    assert "random weights, seed 0" in " ".join(ran.out.split())
    assert "peer" not in ran.out.splitlines()[2]


def test_random_weights_keep_values_of_ordinary_size() -> None:
    graph = with_random_weights(zoo.load("resnet20-cifar10", weights=False), 0)
    y = compile(graph)(np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32))
    assert np.isfinite(y).all()
    assert 1e-3 < np.abs(y).max() < 1e3


def test_plan_of_a_run(dojang: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = "x.npy"
    np.save(path, np.zeros((1, 8, 8), np.float32))
    ran = dojang("run", "digits-cnn", path, "--plan")
    assert ran.code == 0
    assert "Plan: " in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80
    plan = json.loads(dojang("run", "digits-cnn", path, "--plan", "--json").out)["plan"]
    done = {member for choice in plan["choices"] for member in choice["members"]}
    assert {"conv1", "conv2", "fc1", "fc2"} <= done
    assert all(choice["measured_s"] is not None for choice in plan["choices"])


def test_algorithms_are_listed(dojang: Command) -> None:
    rows = json.loads(dojang("list", "algorithms", "--json").out)["algorithms"]
    assert rows[0]["name"]
    assert {"winograd", "direct", "depthwise"} <= {row["name"] for row in rows}
    assert all(row["does"] for row in rows)
