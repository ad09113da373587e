"""Small modules and a runner for programs of their own process; such programs read this file too."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn


def small_net(seed: int = 0, *, norm: bool = True, dropout: float = 0.0, outputs: int = 10) -> nn.Module:
    """A CNN for samples of 1×8×8, built anew with weights of this seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8) if norm else nn.Identity(),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.BatchNorm2d(16) if norm else nn.Identity(),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(64, outputs),
        )


@pytest.fixture
def small() -> Callable[..., nn.Module]:
    return small_net


def begin(folder: Path, program: str, *arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Starts a program, written into the folder, that has `small_net` and the public names of the room at hand."""
    head = (
        "import runpy, sys\n"
        f"small_net = runpy.run_path({str(Path(__file__))!r})['small_net']\n"
        "import numpy as np\n"
        "import torch\n"
        "torch.set_num_threads(1)\n"
        "from dojang import training as train\n"
    )
    path = folder / f"program{len(list(folder.glob('program*.py')))}.py"
    path.write_text(head + program)
    return subprocess.Popen(
        [sys.executable, *launcher, str(path), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONFAULTHANDLER": "1"},  # for `children.finished`
    )


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts a program in the test's folder."""
    return functools.partial(begin, tmp_path)
