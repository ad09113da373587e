"""Networks over devices: the parts run with nothing but what each device has, and answer as the whole."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import device_parts
import dojang
from children import STACKS, finished
from device_parts import answered, expected, run_in_turns, towers, with_random_weights
from dojang.arith.cost import count
from dojang.arith.devices import place
from dojang.arith.graph import Graph, Node
from dojang.base.errors import UsageError
from dojang.formats import text


def test_alexnet_over_two_is_the_papers_picture() -> None:
    """Krizhevsky, Sutskever, Hinton 2012, figure 2 and section 3.5: half of each layer's filters on each GPU; conv2,
    conv4 and conv5 read only what is on their own GPU, conv3 and the dense layers read everything.
    """
    found = dojang.over_devices("alexnet", 2)
    rows = {row.name: row for row in found.layers}
    maps = {"conv1": (48, 55, 55), "conv2": (128, 27, 27), "conv3": (192, 13, 13), "conv4": (192, 13, 13),
            "conv5": (128, 13, 13), "fc6": (2048,), "fc7": (2048,)}  # fmt: skip
    for name, shape in maps.items():
        assert rows[name].out_shape(0) == rows[name].out_shape(1) == shape
    weights = {"conv1": 11 * 11 * 3 * 48, "conv2": 5 * 5 * 48 * 128, "conv3": 3 * 3 * 256 * 192,
               "conv4": 3 * 3 * 192 * 192, "conv5": 3 * 3 * 192 * 128, "fc7": 4096 * 2048}  # fmt: skip
    for name, size in weights.items():
        assert rows[name].params == (size + maps[name][0],) * 2
    assert found.params == (60_965_224 // 2,) * 2
    assert found.macs == (724_406_816 // 2,) * 2
    exchanged = {row.name: row.received_bytes for row in found.exchanges if row.op != "lrn"}
    assert exchanged == {
        "conv3": (4 * 128 * 13 * 13,) * 2,
        "fc6": (4 * 128 * 6 * 6,) * 2,
        "fc7": (4 * 2048,) * 2,
        "fc8": (4 * 2048,) * 2,
    }
    # the paper normalises within a GPU; the network here over all channels, which reads 2 beyond the border
    borders = {row.name: row.received_bytes for row in found.exchanges if row.op == "lrn"}
    assert borders == {"norm1": (4 * 2 * 55 * 55,) * 2, "norm2": (4 * 2 * 27 * 27,) * 2}


@pytest.mark.slow
def test_two_processes_answer_as_the_whole(tmp_path: Path) -> None:
    commands = [
        [sys.executable, device_parts.__file__, str(rank), "2", str(tmp_path / "meet"), str(tmp_path / f"{rank}.npz")]
        for rank in range(2)
    ]
    halves = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=STACKS) for command in commands]
    said = [finished(half)[1] for half in halves]
    assert [half.returncode for half in halves] == [0, 0], said
    said = [np.load(tmp_path / f"{rank}.npz") for rank in range(2)]
    graph = with_random_weights(towers(), 7)
    picture = np.random.default_rng(8).standard_normal((1, 3, 67, 67))
    whole = expected(graph, picture)
    plan = place(graph, 2)
    for rank, half in enumerate(said):
        assert half["got"] == plan.received_bytes[rank]
        assert half["held"] == plan.params[rank]
    first, second = (half["answer"] for half in said)
    assert np.isnan(first[:, 5:]).all()
    assert np.isnan(second[:, :5]).all()
    np.testing.assert_allclose(np.concatenate([first[:, :5], second[:, 5:]], 1), whole, rtol=1e-12)


def drawn(seed: int) -> Graph:
    """A network of sums, joins, depthwise and grouped layers, gates, shuffles and normalisations, by a rule."""
    draw = random.Random(seed)
    lines = ["input 3x12x10", f"stem: conv {draw.choice([6, 8, 12])} 3x3 pad=1"]
    width = int(lines[1].split()[2])
    for place_ in range(draw.randint(2, 5)):
        name = f"b{place_}"
        groups = draw.choice([g for g in (1, 2, 3, width) if width % g == 0])
        kind = draw.choice(["residual", "gate", "join", "norm", "plain", "up", "map", "twice"])
        lines.append(f"{name}.a: conv {width} 3x3 pad=1 groups={groups}")
        if kind == "residual":
            lines += [f"{name}.bn: batchnorm", f"{name}.s: add <- {name}.bn, {previous(lines, name)}"]
        elif kind == "gate":
            lines += [f"{name}.p: global_avgpool", f"{name}.q: conv {width} 1x1", f"{name}.g: sigmoid",
                      f"{name}.m: mul <- {name}.a, {name}.g"]  # fmt: skip
        elif kind == "join":
            lines += [f"{name}.r: conv {draw.choice([2, 4])} 1x1 <- {name}.a",
                      f"{name}.c: concat <- {name}.r, {name}.a", f"{name}.t: conv {width} 1x1"]  # fmt: skip
        elif kind == "norm":
            lines += [f"{name}.n: {draw.choice([f'groupnorm {2 if width % 2 == 0 else 1}', 'lrn 3', 'instancenorm'])}",
                      f"{name}.x: softmax"]  # fmt: skip
        elif kind == "map":
            lines += [f"{name}.f: conv 1 1x1", f"{name}.m: mul <- {name}.a, {name}.f"]
        elif kind == "twice":
            lines += [f"{name}.l: conv {width} 1x1 <- {name}.a", f"{name}.r: conv {width} 3x3 pad=1 <- {name}.a",
                      f"{name}.s: add <- {name}.l, {name}.r"]  # fmt: skip
        elif kind == "up":
            lines += [f"{name}.u: conv_transpose {width} 2x2/2 groups={groups}", f"{name}.d: maxpool 2x2"]
    lines += ["flatten", "mid: dense 9", "relu", "head: dense 7"]
    return text.parse("\n".join(lines))


def previous(lines: list[str], name: str) -> str:
    """The name of the last line before a block."""
    return next(line.split(":")[0] for line in reversed(lines) if ":" in line and not line.startswith(f"{name}."))


@pytest.mark.parametrize("seed", range(24))
def test_parts_of_drawn_networks_are_enough_and_are_counted(seed: int) -> None:
    graph = with_random_weights(drawn(seed), seed)
    picture = np.random.default_rng(seed).standard_normal((2, 3, 12, 10))
    plan, devices, got = run_in_turns(graph, random.Random(seed).choice([2, 2, 3, 4]), picture)
    np.testing.assert_allclose(answered(devices, graph.outputs[0]), expected(graph, picture), rtol=1e-9, atol=1e-9)
    assert tuple(got) == plan.received_bytes
    assert tuple(device.held for device in devices) == plan.params
    whole = count(graph, 2)
    assert sum(plan.macs) == whole.macs
    assert max(plan.peak_bytes) <= whole.peak_bytes


def test_joins_of_values_whose_channels_lie_on_different_axes() -> None:
    nodes = (
        Node.of("x", "input", shape=(6, 8)),
        Node.of("a", "dense", "x", out=8),
        Node.of("b", "conv", "x", out=6, kernel=(1,)),
        Node.of("c", "concat", "a", "b", axis=1),
        Node.of("y", "conv", "c", out=5, kernel=(3,)),
    )
    graph = with_random_weights(Graph(nodes, ("y",)), 3)
    picture = np.random.default_rng(3).standard_normal((1, 6, 8))
    plan, devices, got = run_in_turns(graph, 2, picture)
    np.testing.assert_allclose(answered(devices, "y"), expected(graph, picture), rtol=1e-9)
    assert tuple(got) == plan.received_bytes


def test_attention_is_repeated_and_said() -> None:
    nodes = (
        Node.of("x", "input", shape=(6, 8)),
        Node.of("q", "dense", "x", out=8),
        Node.of("k", "dense", "x", out=8),
        Node.of("t", "transpose", "k", perm=(0, 2, 1)),
        Node.of("s", "matmul", "q", "t"),
        Node.of("y", "dense", "s", out=4),
    )
    found = place(Graph(nodes, ("y",)), 2)
    scores = next(row for row in found.layers if row.name == "s")
    assert scores.repeated
    assert scores.macs == (6 * 6 * 8,) * 2
    assert scores.received_bytes == (2 * 4 * 6 * 4,) * 2  # the other half of q and of k
    assert sum(found.macs) - found.whole.macs == 6 * 6 * 8
    assert "Computed or held by every device: s" in str(found)


def test_one_device_is_the_whole() -> None:
    found = dojang.over_devices("lenet5", 1)
    whole = dojang.count("lenet5")
    assert (found.params, found.macs, found.peak_bytes) == ((whole.params,), (whole.macs,), (whole.peak_bytes,))
    assert found.exchanges == ()


def test_more_devices_than_filters() -> None:
    found = place(text.parse("input 3x8x8\nconv 2 3x3\nrelu\nflatten\ndense 5"), 4)
    assert [len(own) for own in found.layers[1].own] == [1, 0, 1, 0]
    assert sum(found.macs) == found.whole.macs


def test_bad_numbers() -> None:
    for wrong in (0, -1, 10**6):
        with pytest.raises(UsageError, match="devices"):
            dojang.over_devices("lenet5", wrong)
    with pytest.raises(UsageError, match="must be numbers"):
        dojang.over_devices("lenet5", 2, input_size=(1, "H", "W"))
