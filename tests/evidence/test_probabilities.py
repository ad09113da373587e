"""The probability of a class is what PyTorch makes of the scores, whatever a network ends in; files stand beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import dojang
from dojang.arith.graph import Graph
from dojang.arith.outputs import PROBABILITY, output_numbers
from dojang.evidence.probabilities import probabilities

ENDS = {
    "scores": ([], lambda y: y.softmax(1)),
    "softmax": ([nn.Softmax(1)], lambda y: y.softmax(1)),
    "log_softmax": ([nn.LogSoftmax(1)], lambda y: y.softmax(1)),
    "sigmoid": ([nn.Sigmoid()], torch.sigmoid),
    "softmax, then a view": ([nn.Softmax(1), nn.Flatten()], lambda y: y.softmax(1)),
}


def ending(kind: str) -> tuple[nn.Module, nn.Module]:
    """A network that ends so, and what it computes before the end."""
    torch.manual_seed(1)
    before = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    before[3].weight.data *= 20
    return nn.Sequential(before, *ENDS[kind][0]).eval(), before.eval()


@pytest.mark.parametrize("kind", ENDS)
def test_run_and_diagnose_say_what_pytorch_says(kind: str, tmp_path: Path) -> None:
    net, before = ending(kind)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 3, 8, 8)).astype(np.uint8)
    for i, picture in enumerate(pixels):
        folder = tmp_path / "ab"[i % 2]
        folder.mkdir(exist_ok=True)
        Image.fromarray(picture.transpose(1, 2, 0)).save(folder / f"{i:02}.png")
    x = torch.from_numpy(pixels).float() / 255
    with torch.no_grad():
        wanted = ENDS[kind][1](before(x)).numpy()
    done = dojang.run(net, x.numpy(), input_size=(3, 8, 8), top=2)
    chances = [{guess.index: guess.probability for guess in sample} for sample in done.top]
    np.testing.assert_allclose([[c[0], c[1]] for c in chances], wanted, atol=1e-5)
    assert done.probability == PROBABILITY[output_numbers(dojang.load(net, input_size=(3, 8, 8)))]
    assert done.probability in done.convention
    answers = dojang.diagnose(net, tmp_path, input_size=(3, 8, 8), mean=0, std=1, trial_macs=0).checks.answers
    assert answers is not None
    assert answers.wrong
    assert answers.probability == done.probability
    for w in answers.wrong:
        assert w.file is not None
        file = Path(w.file)
        assert file.parent.name == w.label != w.answer
        assert w.probability == pytest.approx(wanted[int(file.stem)].max(), rel=1e-3)
    assert len({w.file for w in answers.wrong}) == len(answers.wrong)


def test_several_classes_to_a_sample_have_a_probability_each() -> None:
    net, _ = ending("scores")
    graph: Graph = dojang.load(net, input_size=(3, 8, 8))
    graph = graph.replace(meta={**graph.meta, "task": "multilabel"})
    scores = np.array([[-800.0, 3.0], [800.0, -2.5]])
    wanted = torch.sigmoid(torch.from_numpy(scores)).numpy()
    np.testing.assert_allclose(probabilities(graph, scores), wanted, atol=1e-12)
