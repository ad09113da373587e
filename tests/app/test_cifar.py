"""The given ResNet-20 on the CIFAR-10 pictures, through data, checkpoint, zoo and engine: 81.0 % are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dojang
from dojang.formats import zoo
from dojang.formats.checkpoint import apply_state, read_arrays
from dojang.training.load import load

FOLDER = Path(__file__).parents[3] / "shared" / "data"
PICTURES, WEIGHTS = FOLDER / "cifar10-jpeg-test.zip", FOLDER / "resnet20-cifar10.safetensors"

pytestmark = pytest.mark.skipif(not PICTURES.exists() or not WEIGHTS.exists(), reason="the CIFAR-10 files are not here")


def test_accuracy_of_the_given_weights():
    data = load(PICTURES)
    x = np.concatenate([data.train.x, data.test.x])
    y = np.concatenate([data.train.y, data.test.y])
    assert x.shape == (10_000, 3, 32, 32)
    assert data.classes == tuple(zoo.load("resnet20-cifar10").meta["classes"].split(","))
    graph = apply_state(zoo.load("resnet20-cifar10"), read_arrays(WEIGHTS))
    mean, std = (np.float32(graph.inputs[0].attrs[k]).reshape(3, 1, 1) for k in ("mean", "std"))
    run = dojang.compile(graph, threads=1)
    right = 0
    for start in range(0, len(x), 500):
        answers = run((x[start : start + 500].astype(np.float32) / 255 - mean) / std).argmax(1)
        right += int((answers == y[start : start + 500]).sum())
    assert right / len(x) == pytest.approx(0.81, abs=0.002)
