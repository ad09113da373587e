"""How samples are normalised for a network that cannot say it: its owner's code in PyTorch knows what is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import dojang  # noqa: E402
from dojang.app.feeding import fed  # noqa: E402
from dojang.app.samples import asked_of, load_samples  # noqa: E402
from dojang.base.errors import DataError, UsageError  # noqa: E402

CHANNELS = 3


def pictures(seed: int = 0, count: int = 240) -> tuple[np.ndarray, np.ndarray]:
    """Four classes by colour and brightness: what is subtracted and divided matters to who tells them apart."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 4
    colours = np.array([[60, 40, 40], [90, 60, 40], [60, 90, 70], [110, 110, 110]])
    x = colours[y][:, :, None, None] + rng.normal(0, 12, (count, CHANNELS, 8, 8))
    return x.clip(0, 255).astype(np.uint8), y


WAYS: dict[str, Any] = {
    "x / 255": lambda x: x / 255,
    "(x / 255 - 0.5) / 0.5": lambda x: (x / 255 - 0.5) / 0.5,
    "pixels as they stand": lambda x: x,
    "ImageNet": lambda x: (
        (x / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
        / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    ),
}


def owned(way: str) -> tuple[nn.Module, float]:
    """A network that its owner trained on samples normalised in this way, and its accuracy on other samples."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    if way == "pixels as they stand":
        module = nn.Sequential(nn.BatchNorm2d(3), *module)
    x, y = pictures()
    inputs, labels = WAYS[way](torch.from_numpy(x).float()), torch.from_numpy(y)
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(inputs), labels).backward()
        optimizer.step()
    module.eval()
    others, answers = pictures(1)
    with torch.no_grad():
        right = module(WAYS[way](torch.from_numpy(others).float())).argmax(1).numpy() == answers
    return module, float(right.mean())


@pytest.mark.parametrize("way", WAYS)
def test_the_way_of_the_owner_is_found_by_the_loss(way: str) -> None:
    module, accuracy = owned(way)
    assert accuracy > 0.95
    graph = dojang.load(module, input_size=(3, 8, 8))  # as from a file: nobody can be asked
    found = dojang.diagnose(graph, pictures(1), trial_macs=0, samples=200)
    assert found.checks.answers is not None
    assert found.checks.answers.confusion.accuracy == pytest.approx(accuracy, abs=0.03)
    assert any("does not say how its samples are normalised" in note for note in found.notes)


def test_of_pytorch_code_it_is_asked() -> None:
    """A guess would make every figure wrong: diagnosis and runs ask, as slimming does."""
    module, accuracy = owned("(x / 255 - 0.5) / 0.5")
    given: Any = {"input_size": (3, 8, 8)}
    with pytest.raises(UsageError, match="does not say how it takes pictures; say --mean and --std"):
        dojang.diagnose(module, pictures(1), **given)
    with pytest.raises(UsageError, match="does not say how it takes pictures"):
        dojang.diagnose(module, pictures(1)[0], **given)
    with pytest.raises(UsageError, match="does not say how it takes pictures"):
        dojang.run(module, pictures(1)[0][:4], **given)
    with pytest.raises(UsageError, match="needs data"):
        dojang.run(module, pictures(1)[0][:4], normalise="data", **given)  # pyright: ignore[reportArgumentType]
    for said in ({"normalise": "half"}, {"mean": 0.5, "std": 0.5}):
        found = dojang.diagnose(module, pictures(1), trial_macs=0, samples=200, **said, **given)
        assert found.checks.answers is not None
        assert found.checks.answers.confusion.accuracy == pytest.approx(accuracy, abs=0.03)
        answered = next(iter(dojang.run(module, pictures(1)[0], **said, **given).outputs.values())).argmax(1)
        assert (answered == pictures(1)[1]).mean() == pytest.approx(accuracy, abs=1e-6)
    floats = pictures(1)[0].astype(np.float32) / 255
    assert dojang.run(module, floats, **given).outputs  # they are taken as they stand


def test_what_is_asked_comes_first(tmp_path: Path) -> None:
    module, accuracy = owned("(x / 255 - 0.5) / 0.5")
    graph = dojang.load(module, input_size=(3, 8, 8))
    for mean, std in ((0.5, 0.5), ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))):
        asked = asked_of(graph, mean=mean, std=std)
        data = fed(graph, load_samples(pictures(1), graph, asked=asked), asked)
        assert (data.normalisation.mean, data.normalisation.std) == ((0.5,) * 3, (0.5,) * 3)
    done = dojang.train(
        module, pictures(1), epochs=1, lr=1e-9, output=tmp_path / "o", input_size=(3, 8, 8), mean=0.5, std=0.5
    )
    assert done.history["test_accuracy"] == pytest.approx(accuracy, abs=0.1)
    assert tuple(done.graph.inputs[0].attrs["mean"]) == (0.5,) * 3
    assert "as asked" in done.understood
    with pytest.raises(UsageError, match="2 numbers for 3 channels"):
        dojang.diagnose(module, pictures(1), input_size=(3, 8, 8), mean=(0.5, 0.5))


def test_a_network_that_knows_nothing_gets_the_figures_of_the_train_part() -> None:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).eval()
    graph = dojang.load(module, input_size=(3, 8, 8))
    asked = asked_of(graph)
    raw = load_samples(pictures(), graph, asked=asked)
    data = fed(graph, raw, asked)
    assert data.normalisation == raw.normalisation
    assert "better than by guessing" in data.notes[-1]


def test_floats_that_cannot_be_normalised_already_are_refused_in_a_run() -> None:
    graph = dojang.load("digits-cnn")
    node = graph.inputs[0].with_attrs(mean=(0.3,), std=(0.4,))
    stated = graph.replace(nodes=tuple(node if n is graph.inputs[0] else n for n in graph.nodes))
    with pytest.raises(DataError, match="as uint8, or normalise them"):
        dojang.run(stated, np.random.default_rng(0).uniform(0, 255, (1, 1, 8, 8)))
    dojang.run(stated, np.random.default_rng(0).standard_normal((1, 1, 8, 8)))
