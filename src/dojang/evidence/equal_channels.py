"""Which channels are the same function of the input, up to a factor: value numbering, proved by the weights.

Every channel gets an id and a factor: two channels with one id are multiples of each other on every input, wherever
they stand in the network. Layers of one geometry give one id to rows that are proportional over equal inputs; linear
functions keep factors, ReLU, pooling and other functions with f(sx) = s·f(x) for s > 0 keep positive ones, and all
others keep an id only where factors agree (`HOW`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Literal

import numpy as np

from dojang.arith.channels import ChannelMap, channels
from dojang.arith.graph import Graph, Node
from dojang.arith.shapes import axis_of
from dojang.arith.table import Table, because
from dojang.arith.ties import Track, selected

Array = np.ndarray

PROPORTIONAL = 2.0**-22
"""Rows whose entries, over the largest, differ by no more than this count as multiples: a few float32 roundings."""

How = Literal["layer", "join", "concat", "pick", "reshape", "norm", "pad", "linear", "scaled", "each"]

HOW: Table[How] = Table(
    "equal channels",
    "followed",
    __name__,
    {
        **dict.fromkeys(("conv", "conv_transpose", "dense"), "layer"),
        **dict.fromkeys("add sub mul div maximum minimum pow".split(), "join"),
        "concat": "concat",
        **dict.fromkeys(("slice", "gather"), "pick"),
        **dict.fromkeys(("flatten", "reshape", "squeeze", "unsqueeze"), "reshape"),
        "batchnorm": "norm",
        "pad": "pad",
        **dict.fromkeys("identity dropout neg transpose resize avgpool adaptive_avgpool".split(), "linear"),
        **dict.fromkeys("global_avgpool reduce_mean reduce_sum".split(), "linear"),
        **dict.fromkeys("relu leaky_relu abs prelu maxpool adaptive_maxpool".split(), "scaled"),
        **dict.fromkeys("global_maxpool reduce_max reduce_min".split(), "scaled"),
        **dict.fromkeys("sigmoid tanh softplus softsign silu hard_swish mish selu elu gelu clip".split(), "each"),
        **dict.fromkeys(
            "hard_sigmoid exp log sqrt erf reciprocal sin cos floor ceil round sign not fake_quantize".split(), "each"
        ),
    },
    because("its channels are what comes from outside", "input constant")
    | because("its channels are held for different", "instancenorm groupnorm layernorm lrn softmax log_softmax")
    | because(
        "its channels are held for different", "deform_conv dynamic_conv matmul einsum recurrent unknown standard"
    ),
)
"""How equality passes through an operator, channel by channel. "linear": f(s·x) = s·f(x). "scaled": the same for s > 0
only. "each": one function of each channel, the same for all of them."""


@dataclass(frozen=True, slots=True)
class ChannelNumbers:
    """Along the channel axis of a value: ids (c,) and factors (c,), not 0; a channel is factor · what its id names."""

    ids: Array
    factors: Array


def numbers(graph: Graph, tied: ChannelMap | None = None) -> dict[str, ChannelNumbers | None]:
    """Ids and factors of every value's channels; None where channels are not followed."""
    return _Numbering(graph, tied or channels(graph)).run()


class _Numbering:
    def __init__(self, graph: Graph, tied: ChannelMap) -> None:
        self.graph, self.tied = graph, tied
        self.known: dict[Hashable, int] = {}
        self.found: dict[str, ChannelNumbers | None] = {}
        self.rows: dict[Hashable, list[tuple[Array, str, int, int]]] = {}

    def run(self) -> dict[str, ChannelNumbers | None]:
        for node in self.graph.nodes:
            track = self.tied.tracks[node.name]
            made = self.visit(node, track) if track is not None else None
            size = len(track.classes) if track is not None else 0
            self.found[node.name] = made or (self.fresh(size) if track is not None else None)
        return self.found

    def id(self, *key: Hashable) -> int:
        return self.known.setdefault(key, len(self.known))

    def fresh(self, size: int) -> ChannelNumbers:
        start = len(self.known)
        return ChannelNumbers(np.array([self.id("fresh", start, i) for i in range(size)], int), np.ones(size))

    def visit(self, node: Node, track: Track) -> ChannelNumbers | None:
        """The numbers of one value, or None for channels about which nothing is known."""
        sources = [self.found[i] for i in node.inputs]
        shapes = [self.graph.unit_shapes[i] for i in node.inputs]
        if any(s is None for s in shapes) or not sources:
            return None
        how, first, own = HOW.find(node), sources[0], self.tied.tracks[node.inputs[0]]
        if how == "layer":
            return self.layer(node)
        if how == "join":
            return self.join(node, track)
        if how == "concat":
            return self.concat(node, track)
        if how is None or first is None or own is None:
            return None
        shape = self.graph.unit_shapes[node.inputs[0]] or ()
        if how == "pick" and axis_of(node.attrs["axis"], len(shape)) == own.axis:
            picks = selected(node, len(own.classes))
            return ChannelNumbers(first.ids[picks], first.factors[picks])
        if how == "reshape":
            return self.reshape(node, first, own, track)
        if how == "norm":
            return self.norm(node, first) if track.axis == 1 else None
        if how == "pad":
            return self.pad(node, first, own, len(shape))
        return self.same(node, first, keep=how != "each", signed=how == "linear")

    def pad(self, node: Node, first: ChannelNumbers, own: Track, rank: int) -> ChannelNumbers | None:
        """Padding of space acts on each channel; channels of padding are all the same constant."""
        pads = [*([(0, 0)] * (rank - len(node.attrs["pads"]))), *node.attrs["pads"]]
        before, after = pads[own.axis]
        pads[own.axis] = (0, 0)
        if (before > 0 or after > 0) and node.attrs["mode"] != "constant":
            return None
        if any(p for pair in pads for p in pair):
            value = node.attrs["value"]
            space = node.with_attrs(pads=tuple(pads))
            keep = value == 0 or node.attrs["mode"] != "constant"
            first = self.same(space, first, keep, signed=keep)
        inner = slice(max(-before, 0), len(first.ids) - max(-after, 0))
        edge = self.id("padding", node.attrs["value"])
        ids = np.concatenate([np.full(max(before, 0), edge), first.ids[inner], np.full(max(after, 0), edge)])
        return ChannelNumbers(
            ids, np.concatenate([np.ones(max(before, 0)), first.factors[inner], np.ones(max(after, 0))])
        )

    def same(self, node: Node, first: ChannelNumbers, keep: bool, signed: bool) -> ChannelNumbers:
        """One function of each channel: equal channels stay equal; multiples too, where factors pass through.

        What keeps the size of a factor but not its sign acts on x and −x as on two different things.
        """
        sign = (node.op, repr(sorted(node.attrs.items())))
        slopes = self.slopes(node, len(first.ids))
        passed = first.factors if keep and signed else np.abs(first.factors) if keep else np.ones(len(first.ids))
        ids = [self.id(sign, slope, int(i), float(f))
               for i, f, slope in zip(first.ids, first.factors / passed, slopes, strict=True)]  # fmt: skip
        return ChannelNumbers(np.array(ids, int), passed)

    def slopes(self, node: Node, size: int) -> Sequence[float]:
        if node.op != "prelu":
            return [0.0] * size
        weight = np.asarray(self.graph.weights[node.array("weight")], np.float64)
        return np.broadcast_to(weight, (size,)).tolist()

    def norm(self, node: Node, first: ChannelNumbers) -> ChannelNumbers:
        """s·x + t: multiples stay so where t is in proportion."""
        arrays = {r: np.asarray(self.graph.weights[node.array(r)], np.float64) for r in self.graph.node_params(node)}
        scale = 1 / np.sqrt(arrays["running_var"] + node.attrs["eps"])
        shift = -arrays["running_mean"] * scale
        if node.attrs["affine"]:
            shift = arrays["bias"] + shift * arrays["weight"]
            scale = scale * arrays["weight"]
        total = scale * first.factors
        size = np.where(total == 0, 1, total)
        ids = [self.id("norm", float(q) + 0.0, int(i) if t else -1)
               for i, t, q in zip(first.ids, total, shift / size, strict=True)]  # fmt: skip
        return ChannelNumbers(np.array(ids, int), size)

    def layer(self, node: Node) -> ChannelNumbers | None:
        """Rows proportional over equal inputs share an id, also with rows of other layers of the same geometry."""
        made = self.rows_of(node)
        if made is None:
            return None
        rows, reads = made
        result = self.fresh(node.attrs["out"])
        factors = np.array([_factor(r) for r in rows])
        geometry = {k: v for k, v in node.attrs.items() if k not in ("out", "groups", "bias")}
        clusters: dict[Hashable, list[int]] = {}
        for place, own in enumerate(reads):
            if factors[place] != 0:
                clusters.setdefault((node.op, repr(sorted(geometry.items())), own), []).append(place)
        for key, members in clusters.items():
            scaled = np.array([rows[m] / factors[m] for m in members])
            leads = proportional(scaled)
            result.ids[members] = result.ids[[members[k] for k in leads]]
            self.meet(key, node.name, members, scaled, result)
        return ChannelNumbers(result.ids, np.where(factors != 0, factors, 1))

    def meet(self, key: Hashable, name: str, members: Sequence[int], scaled: Array, result: ChannelNumbers) -> None:
        """Rows that layers before have over the same inputs: each keeps a sketch, and is computed again to compare."""
        sketch = scaled @ np.random.default_rng(1).normal(size=(scaled.shape[1], 3))
        reach = 8 * PROPORTIONAL * np.sqrt(scaled.shape[1])
        before = self.rows.setdefault(key, [])
        again: dict[str, list[Array]] = {}
        for other, node, row, label in list(before):
            for k in np.flatnonzero((np.abs(sketch - other) <= reach).all(axis=1)).tolist():
                if node not in again:
                    again[node] = (self.rows_of(self.graph[node]) or ([], []))[0]
                theirs = again[node][row] / _factor(again[node][row])
                if np.abs(theirs - scaled[k]).max() <= PROPORTIONAL:
                    result.ids[result.ids == result.ids[members[k]]] = label
        before += [(s, name, m, int(result.ids[m])) for s, m in zip(sketch, members, strict=True)]

    def rows_of(self, node: Node) -> tuple[list[Array], list[Hashable]] | None:
        """For each output channel its weights over the ids that it reads, with its bias, and those ids with the units
        in which the weights are."""
        source, track = self.found[node.inputs[0]], self.tied.tracks[node.inputs[0]]
        shape = self.graph.unit_shapes[node.inputs[0]] or ()
        if source is None or track is None or track.axis != (len(shape) - 1 if node.op == "dense" else 1):
            return None
        weight = np.asarray(self.graph.weights[node.array("weight")], np.float64)
        groups, out = node.attrs.get("groups", 1), node.attrs["out"]
        bias = np.asarray(self.graph.weights[node.array("bias")], np.float64) if node.attrs["bias"] else np.zeros(out)
        if node.op == "conv_transpose":
            inner = weight.shape[0] // groups
            weight = weight.reshape(groups, inner, out // groups, -1).swapaxes(1, 2)
        else:
            weight = weight.reshape(groups, out // groups, weight.shape[1], -1)
        inner = weight.shape[2]
        # Factors count in the units of what an id names, which may be anything: each id is measured in those of its
        # largest channel, so that rows are compared in the size that their numbers really have.
        unit = dict[int, float]()
        for i, f in zip(source.ids.tolist(), source.factors.tolist(), strict=True):
            unit[i] = max(unit.get(i, 0.0), abs(f))
        real = source.factors / np.array([unit[i] for i in source.ids.tolist()])
        rows, reads = list[Array](), list[Hashable]()
        for j in range(groups):
            ids, where = np.unique(source.ids[j * inner : (j + 1) * inner], return_inverse=True)
            scaled = weight[j] * real[j * inner : (j + 1) * inner, None]
            joined = np.zeros((len(scaled), len(ids), weight.shape[3]))
            for column, target in enumerate(where.tolist()):
                joined[:, target] += scaled[:, column]
            own = np.hstack([joined.reshape(len(scaled), -1), bias[j * len(scaled) : (j + 1) * len(scaled), None]])
            rows += list(own)
            reads += [tuple((i, unit[i]) for i in ids.tolist())] * len(own)
        return rows, reads

    def join(self, node: Node, track: Track) -> ChannelNumbers | None:
        shape = self.graph.unit_shapes[node.name] or ()
        size, parts = len(track.classes), list[ChannelNumbers]()
        for name in node.inputs:
            own, t, s = self.found[name], self.tied.tracks[name], self.graph.unit_shapes[name] or ()
            if own is not None and t is not None and t.axis - len(s) == track.axis - len(shape):
                spread = np.broadcast_to(own.ids, (size,)), np.broadcast_to(own.factors, (size,))
                parts.append(ChannelNumbers(*spread))
            elif len(s) + track.axis - len(shape) < 0 or s[len(s) + track.axis - len(shape)] == 1:
                parts.append(ChannelNumbers(np.full(size, self.id("value", name)), np.ones(size)))
            else:
                return None
        whole = np.ones(size)
        if node.op in ("add", "sub"):
            whole = parts[0].factors
        elif node.op in ("maximum", "minimum"):
            whole = np.abs(parts[0].factors)
        elif node.op in ("mul", "div"):
            whole = np.prod(
                [p.factors if node.op == "mul" or k == 0 else 1 / p.factors for k, p in enumerate(parts)], axis=0
            )
        ids: list[int] = []
        for c in range(size):
            ratio = [float(p.factors[c] / whole[c]) if node.op not in ("mul", "div") else 1.0 for p in parts]
            ids.append(self.id(node.op, *((int(p.ids[c]), r) for p, r in zip(parts, ratio, strict=True))))
        return ChannelNumbers(np.array(ids, int), whole)

    def concat(self, node: Node, track: Track) -> ChannelNumbers | None:
        shape = self.graph.unit_shapes[node.name] or ()
        if axis_of(node.attrs["axis"], len(shape)) != track.axis:
            return None
        parts: list[ChannelNumbers] = []
        for name in node.inputs:
            own, size = self.found[name], (self.graph.unit_shapes[name] or ())[track.axis]
            t = self.tied.tracks[name]
            parts.append(own if own is not None and t is not None and t.axis == track.axis else self.fresh(size))
        return ChannelNumbers(np.concatenate([p.ids for p in parts]), np.concatenate([p.factors for p in parts]))

    def reshape(self, node: Node, first: ChannelNumbers, own: Track, track: Track) -> ChannelNumbers | None:
        """Merged axes: an id per channel and place within it. Split axes are not followed."""
        before, after = self.graph.unit_shapes[node.inputs[0]] or (), self.graph.unit_shapes[node.name] or ()
        size, inner = before[own.axis], prod(before[own.axis + 1 :])
        left = prod(after[track.axis + 1 :])
        if after[track.axis] % size or inner % left:
            return None
        repeat = inner // left
        places = [(p // repeat % size, p // (repeat * size), p % repeat) for p in range(after[track.axis])]
        sign = (node.op, tuple(after))
        ids = [self.id(sign, int(first.ids[c]), outer, within) for c, outer, within in places]
        return ChannelNumbers(np.array(ids, int), first.factors[[c for c, _, _ in places]])


@lru_cache(maxsize=8)
def _direction(size: int) -> Array:
    return np.random.default_rng(2).normal(size=size)


def _factor(row: Array) -> float:
    """The size of a row's largest entry, with a sign that the row and its multiples agree on; 0 for a row of zeros."""
    side = float(row @ _direction(len(row)))
    return float(np.abs(row).max()) * (-1.0 if side < 0 else 1.0)


def proportional(rows: Array) -> list[int]:
    """For each row (scaled to a largest entry of ±1) the first row that equals it within `PROPORTIONAL`.

    Rows are sorted along one fixed random direction, where equal rows lie side by side.
    """
    direction = np.random.default_rng(0).normal(size=rows.shape[1])
    line = rows @ direction
    reach = 2 * PROPORTIONAL * float(np.abs(direction).sum())
    order = np.argsort(line, kind="stable")
    lead = list(range(len(rows)))
    for k, i in enumerate(order):
        for j in order[k + 1 :]:
            if line[j] - line[i] > reach:
                break
            if np.abs(rows[i] - rows[j]).max() <= PROPORTIONAL:
                low, high = sorted((lead[i], lead[j]))
                lead = [low if v == high else v for v in lead]
    return lead
