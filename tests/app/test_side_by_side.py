"""Slimming by one's own loop in two processes: modules are tuned side by side, to the result of one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from children import STACKS, finished

pytestmark = pytest.mark.slow
PAIR = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
PROGRAM = """
import json, os, sys
from pathlib import Path
import torch
from torch import nn
import dojang

torch.set_num_threads(1)
rank, how, out = os.environ.get("RANK", "0"), sys.argv[1], Path(sys.argv[2])
if how == "owner" and "RANK" in os.environ:
    torch.distributed.init_process_group("gloo")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(2, 16, 3), nn.Conv2d(16, 16, 3), nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.two(self.one(x).relu()).relu().mean((2, 3)))


torch.manual_seed(0)
net, x = Net().eval(), torch.randn(32, 2, 8, 8)
wanted = net(x).detach()
tuned = []


def tune(module):
    tuned.append(module.one.out_channels)
    if how == "raises" and module.one.out_channels < 16:
        raise ValueError("no such thing")
    optimiser = torch.optim.SGD(module.parameters(), 0.1)
    for _ in range(3):
        loss = (module(x) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        if how == "owner" and torch.distributed.is_initialized():
            for p in module.parameters():
                torch.distributed.all_reduce(p.grad)
                p.grad /= torch.distributed.get_world_size()
        optimiser.step()


def evaluate(module):
    return float(-(module(x) - wanted).square().mean().detach())


try:
    done = dojang.slim(net, x, tune=tune, evaluate=evaluate, target_macs=0.5, output=out / "slim")
    found = {"after": done.after.macs, "lost": done.result.control["lost"], "module": done.module is not None,
             "candidates": [c["measure"] for c in done.result.candidates if c["tuned"]]}
except dojang.DojangError as error:
    found = {"error": str(error)}
(out / f"{rank}.json").write_text(json.dumps(found | {"tuned": tuned}))
"""


def ran(folder: Path, how: str, *launch: str) -> list[dict[str, Any]]:
    """What each process found."""
    folder.mkdir(exist_ok=True)
    (folder / "program.py").write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, *launch, str(folder / "program.py"), how, str(folder)], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={**STACKS, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    _, err = finished(process)
    assert process.returncode == 0, err
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    (found,) = ran(tmp_path_factory.mktemp("alone"), "plain")
    return found


@pytest.mark.parametrize("how", ["plain", "owner"])
def test_two_processes_find_what_one_does(how: str, alone: dict[str, Any], tmp_path: Path) -> None:
    first, second = ran(tmp_path, how, *PAIR)
    assert (first["module"], second["module"]) == (True, False)
    for key in ("after", "lost", "candidates"):
        assert first[key] == second[key] == pytest.approx(alone[key], rel=1e-4)
    assert (tmp_path / "slim" / "model.pt").is_file()
    if how == "plain":  # each of the three was tuned once, by one of the two
        assert sorted(first["tuned"] + second["tuned"]) == sorted(alone["tuned"])
        assert len(second["tuned"]) == len(alone["tuned"]) // 2
    else:
        assert first["tuned"] == second["tuned"]
        assert sorted(first["tuned"]) == sorted(alone["tuned"])


def test_an_error_of_one_process_is_that_of_all(tmp_path: Path) -> None:
    first, second = ran(tmp_path, "raises", *PAIR)
    assert first["error"] == second["error"]
    assert "tune raised ValueError: no such thing" in first["error"]
