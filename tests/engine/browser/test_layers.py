"""Random layers by every algorithm that takes 128-bit vectors, run under node and held against PyTorch in float64."""

from __future__ import annotations

import os
import random
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

from dojang.arith.graph import Graph, Node
from dojang.engine.browser.order import _found, as_given, by_output, order_of
from dojang.engine.browser.program import browser_program
from dojang.engine.kernels.conv import ALGORITHMS, winograd
from dojang.engine.kernels.task import Offer, Task
from dojang.engine.plan import context
from dojang.native.machine import Machine
from forced import ACTIVATIONS, draw_conv
from random_convs import truth
from under_node import Ask, needs_node, run

MACHINE = Machine.cross("wasm")
COUNT = 36 * int(os.environ.get("DOJANG_TEST_CASES", "1"))
FOLD = {name: name for name in ("relu", "silu", "tanh", "gelu")}


def drawn(count: int, seed: int) -> list[Task]:
    """Layers without gaps between pixels, with what is fused to them; the half of them such as Winograd takes."""
    rng, found = random.Random(seed), []
    while len(found) < count:
        task = draw_conv(rng)
        if task is None or task.sparse or task.halved or task.kind != "f32" or task.conv.macs > 2_000_000:
            continue
        able = isinstance(winograd.offer(replace(task, residual_ld=0), MACHINE), Offer)
        if able == bool(len(found) % 2):
            found.append(replace(task, conv=replace(task.conv, n=1)))
    return found


def network(task: Task, rng: np.random.Generator) -> Graph:
    """Convolution, a residual of another layer, activation."""
    c = task.conv
    extra = {"output_padding": c.output_padding} if c.transposed else {}
    nodes = [
        Node.of("x", "input", shape=(c.ic, *c.size)),
        Node.of("conv", "conv_transpose" if c.transposed else "conv", "x", out=c.oc, kernel=c.kernel, stride=c.stride,
                padding=c.padding, dilation=c.dilation, groups=c.groups, bias=c.bias, **extra),
    ]  # fmt: skip
    if task.residual_ld:
        nodes += [Node.of("r", "input", shape=(c.oc, *c.out_size)), Node.of("sum", "add", "conv", "r")]
    if task.activation and task.activation.name in FOLD:
        nodes.append(Node.of("act", FOLD[task.activation.name], nodes[-1].name))
    graph = Graph(tuple(nodes), (nodes[-1].name,), name="one")
    weights = {k: rng.standard_normal(s).astype("f4") for k, s in graph.param_shapes.items()}
    return graph.with_weights(weights)


def right(graph: Graph, task: Task, x: dict[str, np.ndarray]) -> np.ndarray:
    w = graph.weights
    c = replace(task.conv, padding=task.conv.padding)
    y = padded_truth(c, x["x"], np.asarray(w["conv.weight"]), np.asarray(w["conv.bias"]) if c.bias else None)
    y = y + x["r"] if "r" in x else y
    return ACTIVATIONS[task.activation.name][1](y) if "act" in graph.by_name and task.activation else y


def padded_truth(c, x, w, b) -> np.ndarray:
    """PyTorch pads alike on both sides: padding per side is written out, or cut off."""
    x = x[None].astype("f8")
    if not c.transposed:
        x = np.pad(x, ((0, 0), (0, 0), *c.padding))
        return truth(replace(c, size=x.shape[2:], padding=((0, 0),) * c.rank), x, w, b)[0]
    whole = truth(replace(c, padding=((0, 0),) * c.rank), x, w, b)[0]
    return whole[(slice(None), *(slice(p, p + o) for (p, _), o in zip(c.padding, c.out_size, strict=True)))]


@needs_node
@pytest.mark.slow
def test_every_algorithm_on_random_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    asks, expected, used = [], [], set()
    for number, task in enumerate(drawn(COUNT, seed=20)):
        rng = np.random.default_rng(number)
        graph = network(task, rng)
        x = {n.name: rng.standard_normal(n.attrs["shape"]).astype("f4") for n in graph.inputs}
        for algorithm in ALGORITHMS[:-1]:
            if not isinstance(algorithm.offer(task, MACHINE), Offer):
                continue
            monkeypatch.setattr(context, "choose", lambda *given, a=algorithm: (a, 1e-6, ()))
            program = browser_program(graph, weights="float32")
            names = {s["algorithm"] for s in program.table["steps"]}
            if algorithm.NAME not in names:
                continue  # one without the residual
            used.add(algorithm.NAME)
            asks.append(Ask(program, x))
            expected.append((algorithm, number, task, right(graph, task, x)))
    for (algorithm, number, task, y), told in zip(expected, run(asks), strict=True):
        line = f"{algorithm.NAME} of case {number}: {task}"
        assert told.outputs[0].shape == y.shape, line
        terms = task.conv.ic // task.conv.groups * np.prod(task.conv.kernel)
        bound = (30 if algorithm is winograd else 3) * 2.0**-24 * (4 + terms**0.5) * max(1.0, np.abs(y).max(initial=0))
        assert np.abs(told.outputs[0] - y).max(initial=0) <= bound, line
    assert used >= {"direct", "pointwise", "winograd", "streamed", "depthwise", "grouped", "transposed", "dense"}


def test_every_order_is_found_and_packs_what_the_kernel_packs() -> None:
    found = set()
    for number, task in enumerate(drawn(3 * COUNT, seed=19)):
        weight = np.random.default_rng(number).standard_normal(task.conv.weight_shape).astype("f4")
        for algorithm in ALGORITHMS[:-1]:
            if not isinstance(algorithm.offer(task, MACHINE), Offer):
                continue
            order = order_of(algorithm, task, MACHINE)
            assert order is not None, f"{algorithm.NAME}: {task}"
            packed = algorithm.pack(task, MACHINE, weight, None)[0]
            mine = order.packed(by_output(weight, task))
            if order.matrix is None:
                assert np.array_equal(mine, packed), f"{algorithm.NAME}: {task}"
            else:
                assert np.allclose(mine, packed, rtol=1e-5, atol=1e-6), f"{algorithm.NAME}: {task}"
            assert np.array_equal(as_given(by_output(weight, task), task), weight.reshape(task.conv.weight_shape))
            found.add(algorithm.NAME)
    assert len(found) >= 8


def test_orders_that_differ_from_tap_to_tap_are_kept_apart() -> None:
    o, i, t = np.meshgrid(np.arange(4), np.arange(3), np.arange(2), indexing="ij")
    alike, apart = o * 100 + t * 10 + 2 * i, o * 100 + t * 10 + i * (1 + t)
    unused = np.where(t == 1, -1, alike)
    weight = np.arange(1.0, 25.0).reshape(4, 3, 2)
    for places in (alike, apart, unused):
        order = _found(places, 400)
        assert order is not None
        exact = np.zeros(400)
        exact[places[places >= 0]] = weight[places >= 0]
        assert np.array_equal(order.packed(weight), exact)
    assert _found(np.where((t == 1) & (i == 2), -1, alike), 400) is None
