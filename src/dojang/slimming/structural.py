"""Layers replaced by cheaper ones of another shape, fitted on activations: lossy, to be tuned and judged afterwards.

- 1×1 bottleneck: the r leading directions U of a layer's outputs, y ≈ m + U Uᵀ(y − m), so W becomes UᵀW followed by U.
  Of all rank-r layers this loses least on the samples (Zhang et al., TPAMI 2016, section 3.1).
- spatial factorisation: k×k becomes k×1 then 1×k with r channels between, from the singular vectors of the kernel laid
  out as (ic·kh) × (kw·oc), the inputs weighted by their covariance (Jaderberg et al., BMVC 2014, scheme 2).
- depthwise-separable: one kernel per input channel, then a 1×1 layer fitted to the old outputs.
- smaller kernel, coarser stride: where the layer's input already sees the whole image; see `covered`.
- groups: the layer split into groups, with a 1×1 mixer where needed; see `grouping`.
- global pooling head: flatten and dense layers at the end become global average pooling and one dense layer, fitted by
  least squares to the outputs of the old head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from dojang.arith.cost import count
from dojang.arith.field import covered
from dojang.arith.graph import Graph, Node
from dojang.evidence.activations import Statistics
from dojang.evidence.evidence import Evidence
from dojang.evidence.moments import affine_fit, principal, singular
from dojang.evidence.readers import reads_channels
from dojang.slimming.absorb import owns_arrays, shared_arrays
from dojang.slimming.covered import coarser, smaller
from dojang.slimming.grouping import Form, depthwise, options

Array = np.ndarray

ENERGY = 0.99
"""Part of the output (or weighted kernel) energy that a factorisation keeps."""

LAYERS = 6
"""Replacements are sought for this many layers, those with most multiplications: each is fitted on the samples."""

SEEN = 1 << 22
"""Numbers of one activation that are kept at once, 16 MB, but of four samples at least."""

WORTH = 0.9
"""A candidate must leave less than this part of the layer's multiplications."""

ANSWERS = {
    "bottleneck": ("low-rank",),
    "grouped-kernels": ("low-correlation",),
    "smaller-kernel": ("coverage",),
    "coarser-stride": ("coverage",),
}
"""The kinds of findings that a replacement is made for; the others answer none."""


@dataclass(frozen=True)
class Candidate:
    """One replacement: what it is called, the layers it concerns, the network with it, and a line on what was done.

    `orders`: see `grouping.Form`.
    """

    rewrite: str
    layers: tuple[str, ...]
    graph: Graph
    found: str
    orders: tuple[Mapping[str, tuple[int, ...]], ...] = ()

    @property
    def answers(self) -> tuple[str, ...]:
        """The kinds of findings that it is made for."""
        return ANSWERS.get(self.rewrite, ())


def replaceable(known: Evidence) -> list[Node]:
    """The layers that replacements are sought for, those with most multiplications first."""
    graph, shared = known.graph, shared_arrays(known.graph)
    macs = {row.name: row.cost.macs for row in count(graph).layers}
    own = [n for n in graph.nodes if n.op in ("conv", "dense") and n.attrs.get("groups", 1) == 1
           and reads_channels(graph, known.channels, n) and owns_arrays(graph, n, shared)]  # fmt: skip
    return sorted(own, key=lambda n: -macs[n.name])[:LAYERS]


def fitted_values(known: Evidence) -> list[str]:
    """The values whose statistics `candidates` needs: what those layers read and make."""
    return [value for node in replaceable(known) for value in (node.name, node.inputs[0])]


def candidates(known: Evidence) -> list[Candidate]:
    """Replacements of the costliest layers that save multiplications, and of the head, that save parameters."""
    graph, tied, own = known.graph, known.channels, replaceable(known)
    stats = known.statistics(fitted_values(known))
    seen = some_values(known, list(dict.fromkeys(v for n in own if n.op == "conv" for v in (n.name, n.inputs[0]))))
    head = pooled_head(known)
    wide = {node.name for node in covered(graph)}
    found = [head] if head else []
    for node in own:
        found += [c for c in (bottleneck(graph, node, stats), separable(graph, node, stats)) if c is not None]
        forms: list[tuple[str, Form | None]] = []
        if node.op == "conv":
            forms.append(("depthwise-separable", depthwise(graph, node, seen)))
            if node.name in wide:
                forms.append(("smaller-kernel", smaller(graph, node, seen)))
                forms.append(("coarser-stride", coarser(graph, node, seen)))
            forms += [("grouped-kernels", form) for form in options(graph, tied, node, stats, seen)]
        for rewrite, form in forms:
            if form is not None and count(form.graph).total.macs < count(graph).total.macs:
                found.append(Candidate(rewrite, (node.name,), form.graph, form.found, form.orders))
    return found


def some_values(known: Evidence, names: Sequence[str]) -> Mapping[str, Array]:
    """The named values on at most 64 samples, fewer where one would hold more than `SEEN` numbers."""
    largest = max((prod(known.graph.unit_shapes[n] or ()) for n in names), default=1)
    return next(known.activations(names, min(64, max(4, SEEN // largest)))) if names else {}


def bottleneck(graph: Graph, node: Node, stats: Mapping[str, Statistics]) -> Candidate | None:
    """The layer in two with r channels between; None where no r keeps `ENERGY` and saves."""
    out = stats.get(node.name)
    if out is None:
        return None
    values, vectors = principal(out.covariance)
    rank = _rank(values[::-1])
    directions = vectors[:, ::-1][:, :rank]  # (oc, r)
    weight = np.asarray(graph.weights[node.array("weight")], np.float64)
    bias = np.asarray(graph.weights[node.array("bias")], np.float64) if node.attrs["bias"] else 0.0
    shift = directions @ (directions.T @ (bias - out.mean)) + out.mean
    inner = np.tensordot(directions.T, weight, 1)
    if node.op == "dense":
        first = Node.of(f"{node.name}_reduce", "dense", *node.inputs, out=rank, bias=False)
        second = Node.of(node.name, "dense", first.name, arrays=node.arrays, out=node.attrs["out"])
    else:
        ones = (1,) * len(node.attrs["kernel"])
        narrow = {**node.attrs, "out": rank, "bias": False}
        first = Node.of(f"{node.name}_reduce", "conv", *node.inputs, **narrow)
        second = Node.of(node.name, "conv", first.name, arrays=node.arrays, out=node.attrs["out"], kernel=ones)
        directions = directions.reshape(*directions.shape, *ones)
    said = (
        f"{node.name} in two layers with {rank} channels between: {rank} of {node.attrs['out']} directions hold "
        f"{ENERGY:.0%} of the energy of its outputs"
    )
    arrays = {f"{first.name}.weight": inner, second.array("weight"): directions, second.array("bias"): shift}
    return _replaced(graph, "bottleneck", node, (first, second), arrays, said)


def separable(graph: Graph, node: Node, stats: Mapping[str, Statistics]) -> Candidate | None:
    """A 2-d convolution as one along columns, then one along rows; None where that does not save."""
    if node.op != "conv" or len(node.attrs["kernel"]) != 2 or min(node.attrs["kernel"]) < 2:
        return None
    source, attrs = stats.get(node.inputs[0]), node.attrs
    if source is None or isinstance(attrs["padding"], str):
        return None
    weight = np.asarray(graph.weights[node.array("weight")], np.float64)
    oc, ic, kh, kw = weight.shape
    second_moment = source.covariance + np.outer(source.mean, source.mean)
    values, vectors = principal(second_moment)
    values = values + (1e-6 * values.mean() or 1.0)  # a channel that is always 0 has a root, too
    root, back = (vectors * np.sqrt(values)) @ vectors.T, (vectors / np.sqrt(values)) @ vectors.T
    laid = np.einsum("ij,ojhw->ihwo", root, weight).reshape(ic * kh, kw * oc)
    left, sizes, right = singular(laid)
    rank = _rank((sizes / (sizes.max(initial=0.0) or 1.0)) ** 2)
    half = np.sqrt(sizes[:rank])
    upright = np.einsum("ij,jhr->rih", back, (left[:, :rank] * half).reshape(ic, kh, rank))[..., None]
    level = np.moveaxis((half[:, None] * right[:rank]).reshape(rank, kw, oc), 2, 0)[:, :, None, :]
    (p0, p1), (q0, q1) = attrs["padding"]
    s, d = attrs["stride"], attrs["dilation"]
    first = Node.of(f"{node.name}_upright", "conv", *node.inputs, out=rank, kernel=(kh, 1), stride=(s[0], 1),
                    padding=((p0, p1), (0, 0)), dilation=(d[0], 1), bias=False)  # fmt: skip
    second = Node.of(node.name, "conv", first.name, arrays=node.arrays, out=oc, kernel=(1, kw), stride=(1, s[1]),
                     padding=((0, 0), (q0, q1)), dilation=(1, d[1]), bias=attrs["bias"])  # fmt: skip
    arrays = {f"{first.name}.weight": upright, second.array("weight"): level}
    said = f"{node.name} as {kh}x1, then 1x{kw}, with {rank} channels between"
    return _replaced(graph, "separable-kernels", node, (first, second), arrays, said)


def _rank(energies: Array) -> int:
    """How many of the energies, largest first, hold `ENERGY` of their sum."""
    energies = energies.clip(0)
    total = energies.sum()
    return int(np.searchsorted(np.cumsum(energies), ENERGY * total) + 1) if total > 0 else 1


def _replaced(
    graph: Graph, rewrite: str, node: Node, pair: tuple[Node, Node], arrays: Mapping[str, Array], found: str
) -> Candidate | None:
    if pair[0].name in graph.by_name:
        return None
    kind = np.asarray(graph.weights[node.array("weight")]).dtype
    new = graph.edited({node.name: pair}, weights={k: np.ascontiguousarray(v, kind) for k, v in arrays.items()})
    table, old = ({row.name: row.cost.macs for row in count(g).layers} for g in (new, graph))
    if table[pair[0].name] + table[pair[1].name] > WORTH * old[node.name]:
        return None
    return Candidate(rewrite, (node.name,), new, found)


def pooled_head(known: Evidence) -> Candidate | None:
    """The dense layers at the end replaced by global average pooling and one dense layer; None where there are none.

    The network must have one output, reached from a flatten of a map through dense layers and activations only.
    """
    graph = known.graph
    chain = _head(graph)
    if chain is None:
        return None
    flat, layers, last = chain
    source = flat.inputs[0]
    shape = graph.unit_shapes[source] or ()
    pooled: list[Array] = []
    wanted: list[Array] = []
    for taps in known.activations((source, last.name)):
        pooled.append(taps[source].reshape(*taps[source].shape[:2], -1).mean(axis=2).astype(np.float64))
        wanted.append(taps[last.name].astype(np.float64))
    weight, bias = affine_fit(np.concatenate(pooled), np.concatenate(wanted))
    pool = Node.of(f"{flat.name}_pool", "global_avgpool", source)
    if pool.name in graph.by_name:
        return None
    kind = np.asarray(graph.weights[last.array("weight")]).dtype
    dense = Node.of(last.name, "dense", flat.name, arrays=last.arrays, out=last.attrs["out"])
    flatten = Node.of(flat.name, "flatten", pool.name)
    nodes: dict[str, Node | Sequence[Node]] = dict.fromkeys(layers, ())
    nodes |= {flat.name: (pool, flatten), last.name: dense}
    arrays = {dense.array("weight"): weight.astype(kind), dense.array("bias"): bias.astype(kind)}
    new = graph.edited(nodes, weights=arrays)
    old_params = count(graph).total.params
    if count(new).total.params >= old_params:
        return None
    said = f"the {'x'.join(map(str, shape[1:]))} features are pooled to {weight.shape[1]} in place of being flattened"
    return Candidate("pooled-head", (*layers, last.name), new, said)


def _head(graph: Graph) -> tuple[Node, tuple[str, ...], Node] | None:
    """The flatten, the nodes between, and the last dense layer of a head; None when the end looks otherwise."""
    if len(graph.outputs) != 1:
        return None
    node = graph[graph.outputs[0]]
    if node.op in ("softmax", "log_softmax"):
        node = graph[node.inputs[0]]
    last, between = node, list[str]()
    if last.op != "dense" or last.array("weight") in shared_arrays(graph):
        return None
    node = graph[last.inputs[0]]
    while node.op != "flatten":
        only = len(graph.consumers[node.name]) == 1
        if not only or not node.inputs or (node.op != "dense" and node.rule.channels not in ("keep", "spatial")):
            return None
        between.append(node.name)
        node = graph[node.inputs[0]]
    shape = graph.unit_shapes[node.inputs[0]]
    if shape is None or len(shape) < 3 or node.attrs["axis"] != 1 or len(graph.consumers[node.name]) != 1:
        return None
    if graph[node.inputs[0]].op in ("global_avgpool", "global_maxpool"):
        return None
    return node, tuple(reversed(between)), last
