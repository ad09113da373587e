"""Tuning in 8 bits: forward as the quantised network computes, slopes straight through, lost answers come back."""

from __future__ import annotations

import re
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

import dojang
from digits import digits
from dojang.app.eight_bits import Judge
from dojang.app.eight_bits import in_bits as put_into_bits
from dojang.app.progress import Silent
from dojang.app.tuning import TuningOptions, training
from dojang.arith.graph import Graph
from dojang.base.errors import CheckFailed, DataError
from dojang.engine.compiled import compile
from dojang.engine.reference.operators import run_reference
from dojang.formats import zoo
from dojang.formats.torch import to_module, weights_of
from dojang.slimming import quantising
from dojang.slimming.quantising import Calibration
from dojang.training.data import from_arrays
from dojang.training.straight_through import RoundedWeight, rounded_weights


@pytest.fixture(scope="module")
def network() -> Graph:
    return quantising.prepared(zoo.load("digits-cnn"))


def in_bits(graph: Graph, known: Calibration) -> Graph:
    """Each weight rounded to the nearest."""
    return quantising.quantised(graph, Calibration(known.values), correct=False).graph


def test_training_computes_what_the_quantised_network_will(network: Graph) -> None:
    x, _ = digits()
    known = quantising.calibrated(network, [x[:64]], adapt=False)
    small = in_bits(network, known)
    module = to_module(small.replace(weights=network.weights)).eval()
    real = module(torch.from_numpy(x[:50])).detach().numpy()
    with rounded_weights(module, small):
        found = module(torch.from_numpy(x[:50])).detach().numpy()
    right = run_reference(small, x[:50]).outputs[0]
    far = np.abs(found - right)
    assert far.max() <= 0.02 * np.abs(right).max()
    assert far.mean() < 0.1 * np.abs(real - right).mean()  # a value halfway may be rounded to either side
    np.testing.assert_array_equal(module(torch.from_numpy(x[:50])).detach().numpy(), real)
    again = weights_of(module, network).weights
    assert all(np.array_equal(again[name], network.weights[name]) for name in network.weights)


def test_slopes_go_straight_through_rounding() -> None:
    weight = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    weight[4] = 0
    weight.requires_grad_(True)
    rounded, way = RoundedWeight()(weight), torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    (rounded * way).sum().backward()
    torch.testing.assert_close(weight.grad, way)
    precision, real = quantising.weights_of(weight.detach().numpy())
    torch.testing.assert_close(rounded.detach(), torch.from_numpy(real))
    assert len(set(precision.scale)) == 6


def test_answers_that_clipped_values_lost_come_back(network: Graph) -> None:
    x, y = digits()
    data = from_arrays(x[:640], y[:640], x[1000:], y[1000:])
    shown, asked = data.train.inputs(0, 64), data.test.inputs(0, len(data.test))
    known = quantising.calibrated(network, [shown / 8], adapt=False)  # ranges of samples of an eighth of the size
    before = in_bits(network, known)
    work = training(data, TuningOptions())
    tuned = work(before.replace(weights=network.weights), network, 2, None)
    after = in_bits(network.with_weights(dict(tuned.weights)), known)
    right = [float((compile(g, threads=1)(asked).argmax(1) == y[1000:]).mean()) for g in (network, before, after)]
    assert right[1] < right[0] - 0.05
    assert right[2] > right[1] + 0.01


@pytest.mark.parametrize("works", [True, False])
def test_what_scores_better_stays(network: Graph, works: bool) -> None:
    x, y = digits()
    data = from_arrays(x[:320], y[:320], x[1000:], y[1000:])
    asked = data.test.inputs(0, 400)
    right = compile(network, threads=1)(asked)

    def score(graph: Graph) -> float:
        return 1 - float(np.square(compile(graph, threads=1)(asked) - right).mean() / np.square(right).mean())

    def tune(graph: Graph, teacher: Graph) -> Graph:
        if not works:
            raise CheckFailed("the loss is no number any more")
        return training(data, TuningOptions())(graph, teacher, 1, None)

    before = dojang.slim(network, lossless=True).result
    judge = Judge(score, 1.0, -1.0, lambda graphs: [[1.0 + k] for k in range(len(graphs))], tune)
    done = put_into_bits(before, data, 0, judge, Silent())
    edit = done.edits[-1]
    assert edit.check["accuracy_after"] == score(done.graph) < 1
    if works:
        better, plain = (float(p[:-1]) for p in re.findall(r"[\d.]+%", edit.found))
        assert abs(100 * score(done.graph) - max(better, plain)) < 0.006
        assert edit.check["tuned"] == (better > plain)
    said = "tuned in 8 bits, it scores" if works else "tuning it in 8 bits failed: the loss is no number any more"
    assert said in edit.found


def test_an_owner_s_loop_trains_the_rounded_network(network: Graph) -> None:
    x, _ = digits()
    pictures, seen = torch.from_numpy(x), list[float]()

    def tune(module: nn.Module, teacher: nn.Module) -> nn.Module:
        copy = deepcopy(module)  # what a loop may hand back: another module of the same arrays
        optimizer = torch.optim.SGD(copy.parameters(), 0.01)
        for step in range(12):
            part = pictures[step * 32 : step * 32 + 32]
            loss = torch.nn.functional.mse_loss(copy(part), teacher(part).detach())
            seen.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return copy

    shown, asked = x[:64] / 8, x[1000:]  # ranges of samples of an eighth of the size: there is much to learn
    small, plain = dojang.quantize(network, shown, tune=tune), dojang.quantize(network, shown)
    assert seen[-1] < seen[0]
    right = compile(network, threads=1)(asked)
    off = [float(np.square(compile(g, threads=1)(asked) - right).mean()) for g in (small, plain)]
    assert off[0] < 0.9 * off[1]
    assert {p.kind for p in small.precisions.values()} == {"int8", "int32"}
    with pytest.raises(DataError, match="tune raised ValueError: no data"):
        dojang.quantize(network, x[:8], tune=no_data)


def no_data(module: nn.Module) -> None:
    raise ValueError("no data")
