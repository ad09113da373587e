"""The drawing of a network: every value has a line from where it is made to where it is read."""

from __future__ import annotations

import numpy as np
import pytest

from dojang.arith.cost import count
from dojang.arith.graph import Graph, Node
from dojang.formats import zoo
from dojang.report.show.flow import MOST_LANES, FlowBlock, flow_of


def leaves(block: FlowBlock) -> list[str]:
    return [n for row in block.rows for n in (leaves(row.inner) if row.inner else row.layers)]


def blocks(block: FlowBlock) -> list[FlowBlock]:
    return [block, *(b for row in block.rows if row.inner for b in blocks(row.inner))]


def reach_above(block: FlowBlock, row: int) -> set[int]:
    """Rows whose result flows into a row, by following the lines upwards; −1 is what enters."""
    found: set[int] = set()
    lanes = {a for a, b in block.gaps[row] if row == len(block.rows) or b == block.rows[row].lane}
    if row == len(block.rows):
        lanes = {a for a, _ in block.gaps[row]}
    for above in range(row - 1, -2, -1):
        if above == -1:
            found |= {-1} if lanes else set()
            break
        if block.rows[above].lane in lanes:
            found.add(above)
            kept = {a for a, b in block.gaps[above] if a == b != block.rows[above].lane}
            lanes = (lanes - {block.rows[above].lane}) & kept | ({block.rows[above].lane} & set())
        lanes = {lane for lane in lanes if (lane, lane) in block.gaps[above]}
        if not lanes:
            break
    return found


def random_graph(seed: int, size: int = 40) -> Graph:
    """A chain with random sums of earlier values: branches, skips, several readers."""
    rng = np.random.default_rng(seed)
    nodes = [Node.of("input", "input", shape=(4, 8, 8))]
    for i in range(size):
        if rng.random() < 0.4 and len(nodes) > 2:
            a, b = rng.choice(len(nodes), 2, replace=False)
            nodes.append(Node.of(f"n{i}", "add", nodes[a].name, nodes[b].name))
        else:
            back = min(len(nodes), int(rng.geometric(0.7)))
            nodes.append(Node.of(f"n{i}", "conv", nodes[-back].name, out=4, kernel=(1, 1)))
    read = {source for node in nodes for source in node.inputs}
    ends = tuple(node.name for node in nodes if node.name not in read)
    return Graph(tuple(nodes), ends)


@pytest.mark.parametrize("seed", range(20))
def test_each_row_is_reached_from_what_it_reads(seed: int) -> None:
    graph = random_graph(seed)
    block = flow_of(count(graph))
    place = {name: i for i, row in enumerate(block.rows) for name in row.layers}
    for i, row in enumerate(block.rows):
        wanted = {place[s] for name in row.layers for s in graph[name].inputs if place[s] != i}
        if block.lanes < MOST_LANES:
            assert reach_above(block, i) == wanted, (seed, row.label)
    assert leaves(block) == [node.name for node in graph.nodes]


@pytest.mark.parametrize("seed", range(12))
def test_names_that_are_no_modules_break_no_line(seed: int) -> None:
    """Layers in modules at random, so that values leave a module and come back: all stand behind their inputs."""
    graph = random_graph(seed, 24)
    rng = np.random.default_rng(seed)
    called = {node.name: f"m{rng.integers(3)}.{node.name}" if node.op != "input" else node.name for node in graph.nodes}
    nodes = tuple(Node.of(called[n.name], n.op, *(called[i] for i in n.inputs), **n.attrs) for n in graph.nodes)
    graph = Graph(nodes, tuple(called[name] for name in graph.outputs))
    block = flow_of(count(graph))
    drawn = leaves(block)
    assert sorted(drawn) == sorted(called.values())
    where = {name: place for place, name in enumerate(drawn)}
    assert all(where[source] < where[node.name] for node in nodes for source in node.inputs)


def test_a_module_of_operators_is_taken_apart_and_one_around_everything_is_open() -> None:
    """As PaddlePaddle names what it writes: `p2o.Conv.0`, `p2o.Relu.0`."""
    nodes = [Node.of("x", "input", shape=(4, 8, 8))]
    for i in range(40):
        nodes.append(Node.of(f"p2o.Conv.{i}", "conv", nodes[-1].name, out=4, kernel=(1, 1)))
        nodes.append(Node.of(f"p2o.Pool.{i}", "maxpool", nodes[-1].name, kernel=(3, 3), stride=1, padding=1))
    block = flow_of(count(Graph(tuple(nodes), (nodes[-1].name,))))
    assert [row.label for row in block.rows] == ["x", "p2o"]
    inner = block.rows[1].inner
    assert inner is not None
    assert (block.rows[1].unfolded, inner.lanes) == (True, 1)
    assert [row.label for row in inner.rows][:4] == ["Conv.0", "Pool.0", "Conv.1", "Pool.1"]


def test_two_values_that_are_alive_are_never_on_one_lane() -> None:
    for seed in range(20):
        block = flow_of(count(random_graph(seed)))
        for i, row in enumerate(block.rows):
            if block.lanes < MOST_LANES:
                passing = {a for a, b in block.gaps[i] if a == b and b != row.lane}
                assert row.lane not in passing


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "googlenet", "mobilenet-v2", "alexnet"])
def test_every_layer_is_in_one_row(name: str) -> None:
    graph = zoo.load(name, weights=False)
    block = flow_of(count(graph))
    assert sorted(leaves(block)) == sorted(node.name for node in graph.nodes if node.op != "constant")
    for one in blocks(block):
        assert len(one.gaps) == len(one.rows) + 1
        assert all(lane < one.lanes for gap in one.gaps for line in gap for lane in line)


def test_resnet50_is_one_screen_and_its_branches_are_drawn() -> None:
    block = flow_of(count(zoo.load("resnet50", weights=False)))
    seen = len(block.rows) + sum(len(row.inner.rows) for row in block.rows if row.inner and row.unfolded)
    assert seen <= 26
    (layer1,) = (row for row in block.rows if row.label == "layer1")
    assert layer1.inner
    first, others = layer1.inner.rows
    assert (first.label, others.label, others.times) == ("0", "1–2", 2)
    assert first.inner
    assert first.inner.lanes == 2


def test_a_deep_and_a_long_network_are_drawn_in_time() -> None:
    nodes = [Node.of("input", "input", shape=(1, 4, 4))]
    for i in range(1000):
        nodes.append(Node.of(".".join(["m"] * (i % 30 + 1)) + f".l{i}", "conv", nodes[-1].name, out=1, kernel=(1, 1)))
    block = flow_of(count(Graph(tuple(nodes), (nodes[-1].name,))))
    assert len(leaves(block)) == 1001
