"""`dojang slim file.py:build`: how pictures enter PyTorch code is asked, said and kept; what comes back fits it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dojang as package

from .conftest import Command

CODE = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))

def build():
    return Net()
"""


def pictures(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise of three colours, (n, 12, 12, 3) bytes."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, count)
    x = rng.normal(110, 40, (count, 12, 12, 3))
    x[np.arange(count), :, :, y] += 25
    return x.clip(0, 255).astype(np.uint8), y


def as_owner(x: np.ndarray) -> torch.Tensor:
    """As the owner's own loop takes pictures."""
    return (torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody's code, weights and folders of pictures."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "mine.py").write_text(CODE)
    own: dict[str, Any] = {}
    exec(CODE, own)
    torch.manual_seed(0)
    module = own["build"]()
    x, y = pictures(300, 0)
    optimiser = torch.optim.Adam(module.parameters(), 1e-2)
    for step in range(60):
        part = slice(step * 30 % 300, step * 30 % 300 + 30)
        loss = torch.nn.functional.cross_entropy(module(as_owner(x[part])), torch.from_numpy(y[part]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.save(module.state_dict(), folder / "w.pt")
    for name, seed, count in (("pics", 0, 300), ("held", 5, 90)):
        x, y = pictures(count, seed)
        for i, (picture, label) in enumerate(zip(x, y, strict=True)):
            place = folder / name / "abc"[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(place / f"{i:03}.png")
    return folder


def given(project: Path, *more: Any) -> tuple[Any, ...]:
    return ("slim", f"{project / 'mine.py'}:build", "--weights", project / "w.pt", "--input-size", "3,12,12",
            "--data", project / "pics", *more)  # fmt: skip


def test_the_command_asks_how_pictures_enter_code(project: Path, dojang: Command, tmp_path: Path) -> None:
    ran = dojang(*given(project, "-o", tmp_path / "out"))
    assert ran.code == 2
    assert all(word in ran.err for word in ("--mean", "--std", "--normalise", "none", "imagenet", "half", "data"))
    assert len(ran.err.strip().splitlines()) == 1
    ran = dojang(*given(project, "--normalise", "half", "--mean", "0.5"))
    assert ran.code == 2
    assert "either" in ran.err


def test_a_wrong_way_that_leaves_guessing_stops_with_the_reason(project: Path, dojang: Command, tmp_path: Path) -> None:
    ran = dojang(*given(project, "--mean", "30", "--std", "0.01", "--epochs", "1", "-o", tmp_path / "out"))
    assert ran.code == 2
    assert "no cut can be judged by that" in ran.err
    assert not (tmp_path / "out" / "model.onnx").exists()


def test_another_order_of_the_classes_is_named(project: Path, dojang: Command, tmp_path: Path) -> None:
    """Folders whose names sort otherwise than the owner's labels."""
    for old, new in zip("abc", ("zebra", "cat", "horse"), strict=True):
        shutil.copytree(project / "pics" / old, tmp_path / "pics" / new)
    ran = dojang("slim", f"{project / 'mine.py'}:build", "--weights", project / "w.pt", "--input-size", "3,12,12",
                 "--data", tmp_path / "pics", "--normalise", "half", "-o", tmp_path / "out")  # fmt: skip
    assert ran.code == 2
    assert "another order" in ran.err
    assert any(f"{name!r}" in ran.err for name in ("cat", "horse", "zebra"))
    assert len(ran.err.strip().splitlines()) <= 2


def test_figures_are_those_of_the_owners_code_and_the_result_fits_it(
    project: Path, dojang: Command, tmp_path: Path
) -> None:
    ran = dojang(*given(project, "--normalise", "half", "--select", project / "held", "--epochs", "1",
                        "--max-drop", "30", "--target-macs", "0.6", "-o", tmp_path / "out", "--json"))  # fmt: skip
    assert ran.code == 0, ran.err
    assert "as it came the network scores" in ran.err
    assert "on 90 selection samples" in ran.err
    done = json.loads(ran.out)
    own: dict[str, Any] = {}
    exec(CODE, own)
    module = own["build"]()
    module.load_state_dict(torch.load(project / "w.pt"))
    narrow = package.load_slim(tmp_path / "out" / "model.pt", own["build"]())  # type: ignore[operator]
    assert narrow.body[0].out_channels < 32 or narrow.body[2].out_channels < 32
    test = package_test_part(project)
    for net, said in ((module, done["before"]["accuracy"]), (narrow, done["after"]["accuracy"])):
        right = (net(as_owner(test[0])).argmax(1).numpy() == test[1]).mean()
        assert said == pytest.approx(right, abs=1e-6)
    assert any("as asked" in note for note in done["notes"])
    facts = json.loads((tmp_path / "out" / "run.json").read_text())
    assert "0.5" in json.dumps(facts)
    graph = package.load(str(tmp_path / "out" / "model.onnx"))  # type: ignore[operator]
    assert tuple(graph.inputs[0].attrs["mean"]) == (0.5, 0.5, 0.5)


def package_test_part(project: Path) -> tuple[np.ndarray, np.ndarray]:
    """The test part as dojang draws it, as bytes."""
    from dojang.training.load import load

    data = load(project / "pics", size=(3, 12, 12))
    return np.moveaxis(np.asarray(data.test.x), 1, -1), np.asarray(data.test.y)


def test_samples_without_labels_are_cut_at_once(project: Path, dojang: Command, tmp_path: Path) -> None:
    x, _ = pictures(64, 3)
    np.save(tmp_path / "x.npy", as_owner(x).numpy())
    ran = dojang("slim", f"{project / 'mine.py'}:build", "--weights", project / "w.pt", "--input-size", "3,12,12",
                 "--data", tmp_path / "x.npy", "--target-macs", "0.5", "--keep", "head", "-o", tmp_path / "out",
                 "--json")  # fmt: skip
    assert ran.code == 0, ran.err
    done = json.loads(ran.out)
    assert done["after"]["macs"] <= 0.5 * done["before"]["macs"]
    assert done["control"] is None
    assert (tmp_path / "out" / "model.pt").is_file()
    np.save(tmp_path / "bytes.npy", np.moveaxis(x, -1, 1))
    ran = dojang("slim", f"{project / 'mine.py'}:build", "--weights", project / "w.pt", "--input-size", "3,12,12",
                 "--data", tmp_path / "bytes.npy", "--target-macs", "0.5", "-o", tmp_path / "again")  # fmt: skip
    assert ran.code == 2
    assert "--normalise" in ran.err
