"""The least useful channels removed, and what they carried given to the channels that stay, by least squares.

Lossy. For each reader the removed channels are predicted from those kept, x_r ≈ m_r + B (x_k − m_k), with B from the
covariance over the samples; their columns are added to the kept ones accordingly: W_k += W_r B, b += W_r (m_r − B m_k).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dojang.arith.channels import ChannelMap
from dojang.arith.cut import cut
from dojang.arith.graph import Graph, Node
from dojang.evidence.activations import Statistics
from dojang.evidence.reading import Moments, Reading
from dojang.evidence.residuals import fit, low_rank_fit
from dojang.slimming.absorb import bias_rows, group_of, owns_arrays, shared_arrays
from dojang.slimming.importance import readers

Array = np.ndarray


def least_useful(tied: ChannelMap, bundle: Sequence[int], score: Array, number: int) -> tuple[int, ...]:
    """The `number` least useful classes of a bundle that can go together, least useful first.

    In grouped layers equally many from each group: the k-th least useful of every group before any (k+1)-th.
    """
    cell: dict[int, tuple[str, int]] = {}
    for grouping in sorted(tied.groupings, key=lambda g: len(g.outs)):
        for side in (grouping.ins or (), grouping.outs):
            if any(len(set(group)) > 1 for group in side):  # depthwise groups go whole anyway
                for j, group in enumerate(side):
                    cell.update({c: (grouping.node, j) for c in group if c in set(bundle)})
    rank: dict[int, int] = {}
    seen: dict[tuple[str, int], int] = {}
    for c in sorted(bundle, key=lambda c: (score[c], c)):
        home = cell.get(c, ("", c))
        rank[c] = seen.get(home, 0)
        seen[home] = rank[c] + 1
    if not cell:
        rank = dict.fromkeys(bundle, 0)
    order = sorted(bundle, key=lambda c: (rank[c], score[c], c))
    return tied.fit(order[:number])


def remove(graph: Graph, tied: ChannelMap, gone: Sequence[int], stats: Mapping[str, Statistics] | None) -> Graph:
    """The network without these classes, their readers compensated where samples were seen."""
    return cut(compensate(graph, tied, frozenset(gone), stats) if stats else graph, gone)


def muted(graph: Graph, tied: ChannelMap, gone: Sequence[int], stats: Mapping[str, Statistics]) -> Graph:
    """A network that computes what `remove` would give, in the old shapes: nothing reads the classes any more.

    For estimates: the same shapes need no new kernels. Where something else reads them (a sum over channels, weights
    that two layers share), the network is cut instead.
    """
    lost = frozenset(gone)
    shared, own = shared_arrays(graph), {n.name for n in readers(graph, tied)}
    seen = {name for c in lost for name, _ in tied.carriers[c]}
    for name in seen:
        for reader in graph.consumers[name]:
            if reader.op == "reduce_sum" or (reader.name in own and not owns_arrays(graph, reader, shared)):
                return remove(graph, tied, gone, stats)
    given = compensate(graph, tied, lost, stats)
    arrays: dict[str, Array] = {}
    for node in readers(graph, tied):
        track = tied.tracks[node.inputs[0]]
        if track is None or lost.isdisjoint(track.classes):
            continue
        weight = np.array(given.weights[node.array("weight")])
        for place, label in enumerate(track.classes):
            if label in lost:
                block, start = inputs_first(weight, node, place)
                block[place - start] = 0
        arrays[node.array("weight")] = weight
    return given.replace(weights={**given.weights, **arrays})


def compensate(graph: Graph, tied: ChannelMap, gone: frozenset[int], stats: Mapping[str, Moments]) -> Graph:
    """The readers' weights changed so that they lose least when `gone` is cut; arrays used twice are left alone."""
    shared = shared_arrays(graph)
    nodes: dict[str, Node] = {}
    arrays: dict[str, Array] = {}
    for node in readers(graph, tied):
        track, found = tied.tracks[node.inputs[0]], stats.get(node.inputs[0])
        if track is None or found is None or not owns_arrays(graph, node, shared) or gone.isdisjoint(track.classes):
            continue
        weight = np.array(graph.weights[node.array("weight")], np.float64)
        bias = (
            np.array(graph.weights[node.array("bias")], np.float64)
            if node.attrs["bias"]
            else np.zeros(node.attrs["out"])
        )
        by_group: dict[int, list[int]] = {}
        for place in range(len(track.classes)):
            by_group.setdefault(group_of(graph, node, place), []).append(place)
        for places in by_group.values():
            lost = [p for p in places if track.classes[p] in gone]
            kept = [p for p in places if track.classes[p] not in gone]
            if lost and kept:
                _give(node, weight, bias, lost, kept, found)
        kind = np.asarray(graph.weights[node.array("weight")]).dtype
        arrays[node.array("weight")] = weight.astype(kind)
        norm = None if node.attrs["bias"] else _norm_behind(graph, node, shared)
        if norm is not None:  # a layer without a bias stays one: x + b − m = x − (m − b)
            mean = norm.array("running_mean")
            arrays[mean] = (np.asarray(graph.weights[mean], np.float64) - bias).astype(kind)
            continue
        arrays[node.array("bias")] = bias.astype(kind)
        nodes[node.name] = node.with_attrs(bias=True)
    replaced = tuple(nodes.get(node.name, node) for node in graph.nodes)
    return graph.replace(nodes=replaced, weights={**graph.weights, **arrays})


def _norm_behind(graph: Graph, node: Node, shared: frozenset[str]) -> Node | None:
    """The batch norm that alone reads a layer, and whose arrays are its own."""
    if node.name in graph.outputs or len(graph.consumers[node.name]) != 1:
        return None
    norm = graph.consumers[node.name][0]
    return norm if norm.op == "batchnorm" and owns_arrays(graph, norm, shared) else None


def _give(node: Node, weight: Array, bias: Array, lost: list[int], kept: list[int], found: Moments) -> None:
    factor = found.factor if isinstance(found, Reading) else None
    left, right = fit(found.covariance, kept, lost) if factor is None else low_rank_fit(factor, kept, lost)
    rest = found.mean[lost] - (found.mean[kept] @ left) @ right
    block, start = inputs_first(weight, node, lost[0])
    near, far = [p - start for p in kept], [p - start for p in lost]
    moved = block[far]
    first, size = bias_rows(weight, node, lost[0])
    total = moved.reshape(len(lost), size, -1).sum(axis=2)  # what each lost column adds for an input of ones
    if node.op == "conv_transpose":
        total = total / np.prod(node.attrs["stride"])  # each output sees that part of the taps
    bias[first : first + size] += rest @ total
    block[near] = block[near] + np.tensordot(left, np.tensordot(right, moved, 1), 1)


def inputs_first(weight: Array, node: Node, place: int) -> tuple[Array, int]:
    """A view of the weights of the group that reads `place`, (ic/g, oc/g, *kernel), and the first place it reads."""
    if node.op == "dense":
        return weight.T, 0
    groups = node.attrs["groups"]
    if node.op == "conv_transpose":
        size = weight.shape[0] // groups
        start = place // size * size
        return weight[start : start + size], start
    size, rows = weight.shape[1], weight.shape[0] // groups
    group = place // size
    return weight[group * rows : (group + 1) * rows].swapaxes(0, 1), group * size
