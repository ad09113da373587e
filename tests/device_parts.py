"""Runs the parts of a network that `dojang.over_devices` gives to each device, with nothing but what each one has.

What a device does not have (weights of other filters, channels that it neither computed nor received) is NaN, so that an
answer without NaN proves that the parts are enough. As a program it is one of several processes, connected by gloo:
`python device_parts.py RANK WORLD FILE OUT`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dojang.arith.devices import PlacedLayer, Placement, place
from dojang.arith.graph import Graph, Node
from dojang.engine.reference.operators import apply, run_reference
from dojang.formats import text

Array = np.ndarray


def with_random_weights(graph: Graph, seed: int) -> Graph:
    """The network with numbers in all of its arrays; variances are positive."""
    draw = np.random.default_rng(seed)
    arrays = {
        name: np.abs(draw.standard_normal(shape)) + 0.5 if name.endswith("_var") else draw.standard_normal(shape) / 3
        for name, shape in graph.param_shapes.items()
    }
    return graph.replace(weights=arrays)


class Device:
    """One device: its values and weights, everything else NaN."""

    def __init__(self, graph: Graph, plan: Placement, rank: int, picture: Array) -> None:
        self.graph, self.plan, self.rank, self.picture = graph, plan, rank, picture
        self.rows = {row.name: row for row in plan.layers}
        self.values: dict[str, Array] = {}
        self.held = 0
        """How many numbers of parameters it holds."""

    def compute(self, node: Node) -> None:
        """One layer; what another device computes is NaN."""
        row = self.rows[node.name]
        if node.op == "input":
            self.values[node.name] = self.picture
            return
        arrays = {role: self._array(node, role, row) for role in self.graph.node_params(node)}
        result = np.array(apply(node, [self.values[i] for i in node.inputs], arrays), np.float64)
        if row.axis is not None:
            lost = np.ones(result.shape[row.axis], bool)
            lost[list(row.own[self.rank])] = False
            result[(slice(None),) * row.axis + (lost,)] = np.nan
        self.values[node.name] = result

    def _array(self, node: Node, role: str, row: PlacedLayer) -> Array:
        """The part of an array that the device holds."""
        array = np.array(self.graph.weights[node.array(role)], np.float64)
        own = list(row.own[self.rank])
        if row.axis is not None and (
            node.op in ("conv", "dense", "conv_transpose") or array.shape == (self._width(row),)
        ):
            kept = np.zeros(array.shape, bool)
            if node.op == "conv_transpose" and role == "weight":
                groups = node.attrs["groups"]
                ins, outs = array.shape[0] // groups, array.shape[1]
                for place_ in own:
                    group, column = divmod(place_, outs)
                    kept[group * ins : (group + 1) * ins, column] = True
            else:
                kept[own] = True
            array = np.where(kept, array, np.nan)
            if role not in node.rule.buffers:
                self.held += int(kept.sum())
        elif role not in node.rule.buffers and (row.axis is None or own):
            self.held += array.size
        return array

    @staticmethod
    def _width(row: PlacedLayer) -> int:
        assert row.shape is not None and row.axis is not None
        return row.shape[row.axis]

    def part(self, name: str, places: Sequence[int]) -> Array:
        """Some channels of a value."""
        axis = self.rows[name].axis
        assert axis is not None
        return np.ascontiguousarray(np.take(self.values[name], places, axis))

    def put(self, name: str, places: Sequence[int], part: Array) -> None:
        """Channels that another device computed."""
        axis = self.rows[name].axis
        assert axis is not None
        self.values[name][(slice(None),) * axis + (list(places),)] = part


def transfers(plan: Placement, row: PlacedLayer) -> Iterator[tuple[str, int, int, list[int]]]:
    """What is sent before a layer: the value, from which device, to which, which channels."""
    rows = {other.name: other for other in plan.layers}
    for source, wanted in row.received.items():
        for receiver, places in enumerate(wanted):
            for sender in range(plan.devices):
                sent = [p for p in places if p in set(rows[source].own[sender])]
                if sent:
                    yield source, sender, receiver, sent


def run_in_turns(graph: Graph, count: int, picture: Array) -> tuple[Placement, list[Device], list[int]]:
    """All devices in one process, layer by layer; with them the bytes that each received."""
    plan = place(graph, count, len(picture))
    devices = [Device(graph, plan, rank, picture) for rank in range(count)]
    got = [0] * count
    for node, row in zip(graph.nodes, plan.layers, strict=True):
        for source, sender, receiver, places in transfers(plan, row):
            part = devices[sender].part(source, places)
            assert np.isnan(devices[receiver].part(source, places)).all(), "it has these already"
            devices[receiver].put(source, places, part)
            got[receiver] += 4 * part.size
        for device in devices:
            device.compute(node)
    return plan, devices, got


def answered(devices: Sequence[Device], name: str) -> Array:
    """An output put together from its parts; NaN where no device has it."""
    whole = np.full(devices[0].values[name].shape, np.nan)
    for device in devices:
        here = ~np.isnan(device.values[name])
        whole[here] = device.values[name][here]
    return whole


def expected(graph: Graph, picture: Array) -> Array:
    """The whole network on one device."""
    return np.asarray(run_reference(graph, picture, np.float64).outputs[0])


def main(rank: int, world: int, rendezvous: str, out: str) -> None:
    """One process of several."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    graph = with_random_weights(towers(), 7)
    picture = np.random.default_rng(8).standard_normal((1, *graph.inputs[0].attrs["shape"]))
    plan = place(graph, world)
    device = Device(graph, plan, rank, picture)
    got = 0
    for node, row in zip(graph.nodes, plan.layers, strict=True):
        for source, sender, receiver, places in transfers(plan, row):
            if sender == rank:
                dist.send(torch.from_numpy(device.part(source, places)), receiver)
            elif receiver == rank:
                shape = list(device.values[source].shape)
                axis = device.rows[source].axis
                assert axis is not None
                shape[axis] = len(places)
                part = torch.empty(shape, dtype=torch.float64)
                dist.recv(part, sender)
                got += 4 * part.numel()
                device.put(source, places, part.numpy())
        device.compute(node)
    np.savez(out, answer=device.values[graph.outputs[0]], got=got, held=device.held)
    dist.destroy_process_group()


def towers() -> Graph:
    """AlexNet's layers and groups on smaller pictures, with narrower layers."""
    return text.parse(TOWERS)


TOWERS = """
input 3x67x67
conv1: conv 12 11x11/4
relu1: relu
norm1: lrn 5 k=2
pool1: maxpool 3x3/2
conv2: conv 16 5x5 pad=2 groups=2
relu2: relu
norm2: lrn 5 k=2
pool2: maxpool 3x3/2
conv3: conv 24 3x3 pad=1
relu3: relu
conv4: conv 24 3x3 pad=1 groups=2
relu4: relu
conv5: conv 16 3x3 pad=1 groups=2
relu5: relu
pool5: maxpool 3x3/2
flatten
fc6: dense 32
relu6: relu
fc7: dense 32
relu7: relu
fc8: dense 10
"""


if __name__ == "__main__":
    arguments: list[Any] = sys.argv[1:]
    main(int(arguments[0]), int(arguments[1]), arguments[2], arguments[3])
