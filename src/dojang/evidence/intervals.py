"""What values a network can take at all: it is run on intervals, channel by channel, from the range of its input.

A channel whose interval is one number is proved constant, one that is [0, 0] is proved dead: on every input within the
range, not only on those seen. Bounds are computed in float64 in real arithmetic; beside them runs a bound on what
float32 rounding can add when sums are taken term by term in any order, so a channel counts as dead only where rounding
could not wake it. (Winograd and Fourier kernels round more than that.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Any

import numpy as np

from dojang.arith.channels import ChannelMap, channels
from dojang.arith.graph import Graph, Node
from dojang.arith.ops import UNKNOWN
from dojang.arith.preparation import takes_floats
from dojang.arith.shapes import Shape, axis_of
from dojang.arith.standard import by_element
from dojang.arith.table import Table, because
from dojang.arith.ties import Track, selected
from dojang.engine.reference.operators import REFERENCE

Array = np.ndarray

UNIT = 2.0**-24
"""Half the distance from 1 to the next float32: the largest relative error of one rounding."""

BLOCK = 1 << 22
"""Weights turned into float64 at once: 32 MB."""

EXACT = frozenset(("identity", "dropout", "relu", "floor", "ceil", "round", "sign"))
"""Functions that float32 computes without rounding."""

ENGINE = 4e-7
"""Error of the engine's smooth functions in float32, times max(1, |result|), as `kernels/activations.py` states it."""

TINY = 2.0**-126
"""The smallest normal float32: what a product or a sum loses at least where it is smaller."""


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds along the channel axis of a value (length 1: the same for all), over all places and all inputs allowed.

    Real-arithmetic values lie in [lo, hi]; what float32 computes differs from them by at most `err`.
    """

    lo: Array
    hi: Array
    err: Array

    @property
    def magnitude(self) -> Array:
        """Largest absolute value."""
        return np.maximum(np.abs(self.lo), np.abs(self.hi))

    @property
    def constant(self) -> Array:
        """Where the value is one number."""
        return (self.lo == self.hi) & np.isfinite(self.lo)

    @property
    def zero(self) -> Array:
        """Where the value is 0, in float32 as well."""
        return (self.lo == 0) & (self.hi == 0) & (self.err == 0)

    def hull(self) -> Range:
        """One range that holds for all channels."""
        return Range(self.lo.min(keepdims=True), self.hi.max(keepdims=True), self.err.max(keepdims=True))

    def take(self, places: Any) -> Range:
        """The ranges at these places."""
        if len(self.lo) == 1:
            places = np.zeros(len(places), int)
        return Range(self.lo[places], self.hi[places], self.err[places])

    def spread(self, size: int) -> Range:
        """As `size` entries."""
        return self if len(self.lo) == size else self.take(range(size))

    def with_value(self, value: float) -> Range:
        """A range that also holds `value`."""
        return Range(np.minimum(self.lo, value), np.maximum(self.hi, value), self.err)

    def rounded(self, terms: int) -> Range:
        """With the error of a sum of `terms` more terms."""
        return Range(self.lo, self.hi, self.err + gamma(terms) * (self.magnitude + self.err))


def gamma(terms: int) -> float:
    """Relative error bound of a float32 sum of `terms` products (Higham, Accuracy and Stability, section 3.1)."""
    return terms * UNIT / (1 - terms * UNIT)


def anything(size: int = 1) -> Range:
    """No bound."""
    return Range(np.full(size, -np.inf), np.full(size, np.inf), np.zeros(size))


def exactly(values: Array) -> Range:
    """Known constants, without error."""
    values = np.asarray(values, np.float64)
    return Range(values, values.copy(), np.zeros(len(values)))


def ranges(
    graph: Graph,
    given: Mapping[str, tuple[Any, Any]] | None = None,
    tied: ChannelMap | None = None,
) -> dict[str, Range]:
    """The range of every value, along the channel axis that the channel map follows (else one for all channels).

    `given` maps an input to its least and largest value (numbers, or one per channel). Without it an input that says
    `mean` and `std` of pixels holds pictures in 0..1, so normalised; any other input has no bound. Raises `GraphError`
    for missing weights.
    """
    graph.check_weights()
    tied = tied or channels(graph)
    found: dict[str, Range] = {}
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            found[node.name] = _step(graph, tied, node, found, given or {})
    return found


@dataclass(frozen=True, slots=True)
class _Site:
    """One node in the walk, with what its rule may ask for."""

    graph: Graph
    tied: ChannelMap
    node: Node
    sources: list[Range]
    arrays: Mapping[str, Array]
    shape: Shape
    track: Track | None
    given: Mapping[str, tuple[Any, Any]]

    @property
    def size(self) -> int:
        """Channels that are followed, or 1."""
        return len(self.track.classes) if self.track else 1

    @property
    def before(self) -> Shape:
        """The shape of the first input; `_step` has seen to it that all are known."""
        return _shape(self.graph, self.node.inputs[0])


def _step(
    graph: Graph, tied: ChannelMap, node: Node, found: Mapping[str, Range], given: Mapping[str, tuple[Any, Any]]
) -> Range:
    track, shape = tied.tracks[node.name], graph.unit_shapes[node.name]
    size = len(track.classes) if track else 1
    rule = RULES.find(node)
    if rule is None or shape is None or any(graph.unit_shapes[i] is None for i in node.inputs):
        result = anything()
    else:
        arrays = {role: np.asarray(graph.weights[node.array(role)]) for role in graph.node_params(node)}
        arrays = {role: v.astype(np.float64) if v.size < BLOCK else v for role, v in arrays.items()}
        result = rule(_Site(graph, tied, node, [found[i] for i in node.inputs], arrays, shape, track, given))
    bad = np.isnan(result.lo) | np.isnan(result.hi) | np.isnan(result.err)
    if bad.any():
        result = Range(
            np.where(bad, -np.inf, result.lo), np.where(bad, np.inf, result.hi), np.where(bad, 0, result.err)
        )
    if len(result.lo) not in (1, size):
        result = result.hull()
    return result.spread(size)


def _shape(graph: Graph, name: str) -> Shape:
    """The shape of a value that is known; `_step` has seen to that."""
    shape = graph.unit_shapes[name]
    return () if shape is None else shape


def _input(s: _Site) -> Range:
    node, size = s.node, s.size
    if node.name in s.given:
        lo, hi = (np.broadcast_to(np.asarray(v, np.float64), (size,)) for v in s.given[node.name])
        return Range(lo.copy(), hi.copy(), np.zeros(size))
    mean, std = node.attrs["mean"], node.attrs["std"]
    if mean is None or std is None or takes_floats(s.graph):
        return anything(size)
    mean, std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    lo, hi = (np.broadcast_to((v - mean) / std, (size,)) for v in (0.0, 1.0))
    return Range(lo.copy(), hi.copy(), 4 * UNIT * np.maximum(np.abs(lo), np.abs(hi)))


def _constant(s: _Site) -> Range:
    if "value" not in s.arrays:
        return exactly(np.array([s.node.attrs["fill"]]))
    value, track = s.arrays["value"], s.track
    if track is None:
        return Range(value.min().reshape(1), value.max().reshape(1), np.zeros(1))
    flat = np.moveaxis(value, track.axis, 0).reshape(value.shape[track.axis], -1)
    return Range(flat.min(1), flat.max(1), np.zeros(len(flat)))


def _on_axis(tied: ChannelMap, name: str, value: Range, axis: int, size: int) -> Range:
    """The range along a wanted axis: the tracked one, or the hull for all."""
    track = tied.tracks[name]
    return (value if track is not None and track.axis == axis else value.hull()).spread(size)


def _aligned(graph: Graph, tied: ChannelMap, name: str, value: Range, track: Track | None, shape: Shape) -> Range:
    """An input of a join along the channel axis of the output, counted from the last axis."""
    own, size = tied.tracks[name], graph.unit_shapes[name]
    if track is None or own is None or size is None or own.axis - len(size) != track.axis - len(shape):
        return value.hull()
    return value


def linear_bounds(up: Array, down: Array, lo: Array, hi: Array) -> tuple[Array, Array]:
    """Least and largest of (up + down) @ x for x in [lo, hi], with up ≥ 0 ≥ down the two signs of (rows, columns).

    0 · ∞ is 0: a bound is infinite only where a weight that is not zero meets an infinite one.
    """
    no_lo, no_hi = np.flatnonzero(~np.isfinite(lo)), np.flatnonzero(~np.isfinite(hi))
    lo_f, hi_f = np.where(np.isfinite(lo), lo, 0), np.where(np.isfinite(hi), hi, 0)
    low, high = up @ lo_f + down @ hi_f, up @ hi_f + down @ lo_f
    endless_low = up[:, no_lo].any(axis=1) | down[:, no_hi].any(axis=1)
    endless_high = up[:, no_hi].any(axis=1) | down[:, no_lo].any(axis=1)
    return np.where(endless_low, -np.inf, low), np.where(endless_high, np.inf, high)


def largest(size: Array, most: Array) -> Array:
    """size @ most for size ≥ 0 and most ≥ 0, with 0 · ∞ = 0."""
    endless = np.flatnonzero(~np.isfinite(most))
    total = size @ np.where(np.isfinite(most), most, 0)
    return np.where(size[:, endless].any(axis=1), np.inf, total)


def _layer(s: _Site) -> Range:
    """Convolutions and dense layers: bounds from the positive and negative parts of the weights.

    Where a kernel can stand on padding (and everywhere for transposed ones) each tap may also read 0.
    """
    node, tied, source, shape = s.node, s.tied, s.sources[0], s.before
    weight, groups = s.arrays["weight"], node.attrs.get("groups", 1)
    if node.op == "dense":
        source = _on_axis(tied, node.inputs[0], source, len(shape) - 1, shape[-1])
        split = weight[None, :, :, None]
    else:
        source = _on_axis(tied, node.inputs[0], source, 1, shape[1])
        if node.op == "conv_transpose":  # (ic, oc/g, k) -> (g, oc/g, ic/g, k)
            split = weight.reshape(groups, shape[1] // groups, -1, prod(weight.shape[2:])).swapaxes(1, 2)
        else:
            split = weight.reshape(groups, -1, weight.shape[1], prod(weight.shape[2:]))
        if node.op == "conv_transpose" or node.attrs["padding"] != ((0, 0),) * len(node.attrs["kernel"]):
            source = source.with_value(0)
    bias = s.arrays.get("bias", np.zeros(node.attrs["out"]))
    rows, width = split.shape[1:3]
    factor = gamma(width * split.shape[3] + 1)
    step = max(1, BLOCK // (width * split.shape[3]))
    parts: list[tuple[Array, Array, Array]] = []
    for j in range(groups):
        lo, hi, err = (v[j * width : (j + 1) * width] for v in (source.lo, source.hi, source.err))
        most = np.maximum(np.abs(lo), np.abs(hi)) + err
        for start in range(0, rows, step):
            block = split[j, start : start + step].astype(np.float64)
            up, down = np.maximum(block, 0).sum(axis=2), np.minimum(block, 0).sum(axis=2)
            own = bias[j * rows + start : j * rows + start + len(up)]
            low, high = linear_bounds(up, down, lo, hi)
            size = up - down
            reach = largest(size, most) + np.abs(own)
            loose = largest(size, err) + factor * reach + np.where(reach > 0, TINY, 0)
            parts.append((low + own, high + own, np.where(size.any(axis=1), loose, 0)))
    return Range(*(np.concatenate(p) for p in zip(*parts, strict=True)))


def _scaled(source: Range, scale: Array, shift: Array) -> Range:
    """scale · x + shift, with the error of a few roundings; a scale of 0 gives exactly the shift."""
    lo = np.where(scale == 0, 0, np.minimum(scale * source.lo, scale * source.hi)) + shift
    hi = np.where(scale == 0, 0, np.maximum(scale * source.lo, scale * source.hi)) + shift
    reach = np.where(scale == 0, 0, np.abs(scale) * (source.magnitude + source.err)) + np.abs(shift)
    err = np.where(scale == 0, 0, np.abs(scale) * source.err + gamma(8) * reach + TINY)
    return Range(lo, hi, err)


def _batchnorm(s: _Site) -> Range:
    arrays, mean = s.arrays, s.arrays["running_mean"]
    deviation = np.sqrt(arrays["running_var"] + s.node.attrs["eps"])
    scale = arrays.get("weight", np.ones_like(deviation)) / deviation
    scaled = _scaled(s.sources[0], scale, arrays.get("bias", np.zeros_like(deviation)) - mean * scale)
    # the mean is subtracted first: its rounding counts with the size of the mean
    return Range(scaled.lo, scaled.hi, scaled.err + gamma(4) * np.abs(mean * scale))


def _standardised(s: _Site) -> Range:
    """By statistics of the image itself: no bound, but for channels that are multiplied by 0."""
    if not s.node.attrs["affine"]:
        return anything()
    off, bias = s.arrays["weight"] == 0, s.arrays["bias"]
    return Range(np.where(off, bias, -np.inf), np.where(off, bias, np.inf), np.zeros(len(off)))


def _lrn(s: _Site) -> Range:
    """Divided by 1 or more where the constants are as usual."""
    a, source = s.node.attrs, s.sources[0]
    if a["k"] < 1 or a["alpha"] < 0 or a["beta"] < 0:
        return anything()
    err = np.where(source.zero, 0, source.err)
    return Range(np.minimum(source.lo, 0), np.maximum(source.hi, 0), err).rounded(32)


def _mean(s: _Site) -> Range:
    """Weighted means over space: pools and resizing. Cubic weights may be negative."""
    op, attrs, source = s.node.op, s.node.attrs, s.sources[0]
    if op == "resize" and attrs["mode"] == "cubic" and not source.constant.all():
        return anything()
    padded = op == "avgpool" and attrs["padding"] != ((0, 0),) * len(attrs["kernel"]) and attrs["count_padding"]
    terms = prod(attrs["kernel"]) if op == "avgpool" else prod(s.before[2:])
    return (source.with_value(0) if padded else source).rounded(terms + 2)


def _value(s: _Site, x: Array) -> Array:
    """The operator's function of one number."""
    return np.asarray(REFERENCE.of(s.node)(s.node.attrs, [x[None]], {}))[0]


def _monotone(s: _Site) -> Range:
    """Functions that never fall as their argument rises, for slopes and alphas of 0 and more."""
    op, attrs, source = s.node.op, s.node.attrs, s.sources[0]
    if attrs.get("slope", 0) < 0 or attrs.get("alpha", 0) < 0:
        return anything()
    lo, hi = source.lo - source.err, source.hi + source.err
    low, high, middle = _value(s, lo), _value(s, hi), _value(s, source.lo)
    single = source.lo == source.hi
    slack = np.where(single, np.maximum(high - middle, middle - low), 0)
    reach = np.maximum(np.abs(low), np.abs(high))
    if op in EXACT:
        loose = np.zeros(len(low))
    elif op == "clip":
        loose = _limits(attrs, low, high)
    elif op == "leaky_relu":  # the slope is rounded, and the product
        loose = np.where(low < 0, gamma(3) * np.abs(low) + TINY, 0)
    else:
        loose = np.where(source.zero & (middle == 0), 0, ENGINE * np.maximum(1, reach))
    return Range(np.where(single, middle, low), np.where(single, middle, high), slack + loose)


def _limits(attrs: Mapping[str, Any], low: Array, high: Array) -> Array:
    """How far the limits of a clip are from the float32 numbers that stand for them, where they are reached."""
    loose = np.zeros(len(low))
    for limit in (attrs["min"], attrs["max"]):
        if limit is not None and np.isfinite(limit):
            off = abs(float(np.float32(limit)) - limit)
            loose = np.maximum(loose, np.where((low <= limit) & (high >= limit), off, 0))
    return loose


def _hard_sigmoid(s: _Site) -> Range:
    """alpha·x + beta, whose terms may cancel, held within 0 and 1, which is exact."""
    alpha, beta, source = s.node.attrs["alpha"], s.node.attrs["beta"], s.sources[0]
    if alpha < 0:
        return anything()
    reach = np.abs(alpha) * (source.magnitude + source.err) + abs(beta)
    err = np.abs(alpha) * source.err + gamma(4) * reach + TINY
    low, high = ((alpha * v + beta) for v in (source.lo, source.hi))
    held = [v.clip(0, 1) for v in (low - err, low, high, high + err)]
    return Range(held[1], held[2], np.maximum(held[1] - held[0], held[3] - held[2]))


def _abs(s: _Site) -> Range:
    source = s.sources[0]
    least = np.where((source.lo <= 0) & (source.hi >= 0), 0, np.minimum(np.abs(source.lo), np.abs(source.hi)))
    return Range(least, source.magnitude, source.err)


def _prelu(s: _Site) -> Range:
    source, slope = s.sources[0], s.arrays["weight"]
    ends = [np.where(v < 0, v * slope, v) for v in (source.lo, source.hi)]
    low, high = np.minimum(*ends), np.maximum(*ends)
    spans = (source.lo < 0) & (source.hi > 0)
    low, high = np.where(spans, np.minimum(low, 0), low), np.where(spans, np.maximum(high, 0), high)
    return Range(low, high, source.err * np.maximum(1, np.abs(slope))
                 + np.where(source.lo < 0, gamma(2) * np.abs(slope) * source.magnitude + TINY, 0))  # fmt: skip


def _dipped(s: _Site) -> Range:
    """f(x) = x · (a factor between 0 and 1), never below -0.4. hard_swish is exactly 0 below -3."""
    source = s.sources[0]
    single = source.constant & (source.err == 0)
    point = _value(s, np.where(single, source.lo, 0))
    low, high = np.clip(source.lo - source.err, -0.4, 0), np.maximum(source.hi + source.err, 0)
    off = source.zero | ((source.hi + source.err < -3.0001) & (s.node.op == "hard_swish"))
    loose = ENGINE * np.maximum(1, np.maximum(np.abs(low), np.abs(high)))
    low, high = (np.where(off, 0, np.where(single, point, v)) for v in (low, high))
    return Range(low, high, np.where(off, 0, loose))


def _join(pair: Callable[[Range, Range], Range]) -> Rule:
    """A rule for two or more inputs from one for two."""

    def rule(s: _Site) -> Range:
        inputs = zip(s.node.inputs, s.sources, strict=True)
        return reduce(pair, [_aligned(s.graph, s.tied, i, r, s.track, s.shape) for i, r in inputs])

    return rule


def _sum(a: Range, b: Range) -> Range:
    total = Range(a.lo + b.lo, a.hi + b.hi, a.err + b.err)
    return Range(total.lo, total.hi, np.where(a.zero & b.zero, 0, total.rounded(1).err))


def _negative(a: Range) -> Range:
    return Range(-a.hi, -a.lo, a.err)


def _extreme(choose: Callable[[Array, Array], Array]) -> Rule:
    return _join(lambda a, b: Range(choose(a.lo, b.lo), choose(a.hi, b.hi), np.maximum(a.err, b.err)))


def _product(a: Range, b: Range) -> Range:
    corners = [np.where((p == 0) | (q == 0), 0, p * q) for p in (a.lo, a.hi) for q in (b.lo, b.hi)]
    low, high = np.minimum.reduce(corners), np.maximum.reduce(corners)
    zero = a.zero | b.zero
    err = a.magnitude * b.err + b.magnitude * a.err + a.err * b.err
    product = Range(low, high, np.where(zero, 0, np.nan_to_num(err, nan=np.inf)))
    return Range(low, high, np.where(zero, 0, product.rounded(1).err + TINY))


def _between(low: float, high: float, err: float = 0.0) -> Rule:
    return lambda s: Range(np.full(1, low), np.full(1, high), np.full(1, err))


def _concat(s: _Site) -> Range:
    """Along the channel axis the ranges one after the other, along others their union."""
    track, tied, pairs = s.track, s.tied, list(zip(s.node.inputs, s.sources, strict=True))
    if track is not None and axis_of(s.node.attrs["axis"], len(s.shape)) == track.axis:
        parts = [_on_axis(tied, i, r, track.axis, _shape(s.graph, i)[track.axis]) for i, r in pairs]
        return Range(*(np.concatenate([getattr(p, f) for p in parts]) for f in ("lo", "hi", "err")))
    axes = {i: own.axis for i, _ in pairs if (own := tied.tracks[i]) is not None}
    parts = [r if track is not None and axes.get(i) == track.axis else r.hull() for i, r in pairs]
    return Range(np.minimum.reduce([p.lo for p in parts]), np.maximum.reduce([p.hi for p in parts]),
                 np.maximum.reduce([p.err for p in parts]))  # fmt: skip


def _channel_axis(s: _Site) -> int | None:
    own = s.tied.tracks[s.node.inputs[0]]
    return own.axis if own else None


def _picked(s: _Site) -> Range:
    """Slices and gathers move the ranges along the channel axis."""
    axis = _channel_axis(s)
    if axis is None or axis_of(s.node.attrs["axis"], len(s.before)) != axis:
        return s.sources[0]
    return s.sources[0].take(selected(s.node, s.before[axis]))


def _reshaped(source: Range, own: Track | None, track: Track | None, before: Shape, after: Shape) -> Range:
    """Each new place unites the channels that come to lie on it."""
    if own is None or track is None:
        return source.hull()
    line = [1] * len(before)
    line[own.axis] = before[own.axis]
    places = np.broadcast_to(np.arange(before[own.axis]).reshape(line), before).reshape(after)
    places = np.moveaxis(places, track.axis, 0).reshape(after[track.axis], -1)
    return Range(source.lo[places].min(1), source.hi[places].max(1), source.err[places].max(1))


def _padded(node: Node, source: Range, channel_axis: int | None, before: Shape) -> Range:
    pads = ((0, 0),) * (len(before) - len(node.attrs["pads"])) + node.attrs["pads"]
    value = node.attrs["value"]
    if node.attrs["mode"] != "constant":
        return source
    if any(max(pair) > 0 for axis, pair in enumerate(pads) if axis != channel_axis):
        source = source.with_value(value)
    if channel_axis is None:
        return source
    first, last = pads[channel_axis]
    size = len(source.lo)
    kept = source.take(range(max(-first, 0), size - max(-last, 0)))
    edge = [exactly(np.full(max(n, 0), value)) for n in (first, last)]
    return Range(*(np.concatenate([getattr(p, f) for p in (edge[0], kept, edge[1])]) for f in ("lo", "hi", "err")))


def _reduced(node: Node, source: Range, channel_axis: int | None, before: Shape) -> Range:
    axes = {axis_of(a, len(before)) for a in node.attrs["axes"]}
    terms = prod(before[a] for a in axes)
    over_channels = channel_axis in axes
    if node.op == "reduce_sum":
        if not over_channels:
            total = Range(source.lo * terms, source.hi * terms, source.err * terms)
        else:
            rest = terms // before[channel_axis or 0]
            total = Range(*(np.sum(getattr(source, f), keepdims=True) * rest for f in ("lo", "hi", "err")))
        return total.rounded(terms)
    if over_channels:
        source = source.hull()
    return source.rounded(terms + 2) if node.op == "reduce_mean" else source


def _compared(kind: str, a: Range, b: Range) -> Range:
    """0 or 1; one of them alone where the ranges, with what rounding can add, leave no choice."""
    if kind.startswith("Less"):
        a, b, kind = b, a, kind.replace("Less", "Greater")
    over, under = a.lo - a.err, a.hi + a.err
    low, high = b.lo - b.err, b.hi + b.err
    if kind == "Equal":
        yes, no = (over == under) & (low == high) & (over == low), (over > high) | (under < low)
    elif kind == "GreaterOrEqual":
        yes, no = over >= high, under < low
    else:
        yes, no = over > high, under <= low
    return Range(yes.astype(np.float64), 1.0 - no, np.zeros(len(yes)))


def _chosen(which: Range, a: Range, b: Range) -> Range:
    """One of two values, or a range that holds both."""
    first, second = which.lo == 1, which.hi == 0
    lo, hi = np.minimum(a.lo, b.lo), np.maximum(a.hi, b.hi)
    parts = ((a.lo, b.lo, lo), (a.hi, b.hi, hi), (a.err, b.err, np.maximum(a.err, b.err)))
    return Range(*(np.where(first, one, np.where(second, two, both)) for one, two, both in parts))


def _standard(s: _Site) -> Range:
    """Comparisons and choices by them; any value of other operators, 0 or 1 of truth values."""
    kind = s.node.attrs["kind"]
    if by_element(s.node.attrs) and s.node.attrs["places"] in ((), tuple(range(len(s.sources)))):
        found = [_aligned(s.graph, s.tied, name, value, s.track, s.shape)
                 for name, value in zip(s.node.inputs, s.sources, strict=True)]  # fmt: skip
        if kind in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"):
            return _compared(kind, *(r.spread(s.size) if len(r.lo) == 1 else r for r in found))
        if kind == "Where":
            return _chosen(*(r.spread(s.size) if len(r.lo) == 1 else r for r in found))
    if s.node.attrs["dtype"] == "bool":
        return Range(np.zeros(1), np.ones(1), np.zeros(1))
    return anything()


Rule = Callable[[_Site], Range]

RULES: Table[Rule] = Table(
    "intervals",
    "bounded",
    __name__,
    {
        "input": _input,
        "constant": _constant,
        **dict.fromkeys(("conv", "conv_transpose", "dense"), _layer),
        "batchnorm": _batchnorm,
        **dict.fromkeys(("instancenorm", "groupnorm"), _standardised),
        "lrn": _lrn,
        "softmax": _between(0.0, 1.0, 2 * ENGINE),
        "log_softmax": _between(-np.inf, 0.0, 2 * ENGINE),
        **dict.fromkeys(("avgpool", "adaptive_avgpool", "global_avgpool", "resize"), _mean),
        **dict.fromkeys(("maxpool", "adaptive_maxpool", "global_maxpool"), lambda s: s.sources[0]),
        **dict.fromkeys("identity dropout relu sigmoid tanh softplus softsign selu elu leaky_relu".split(), _monotone),
        "hard_sigmoid": _hard_sigmoid,
        **dict.fromkeys("clip exp log sqrt erf floor ceil round sign".split(), _monotone),
        "neg": lambda s: _negative(s.sources[0]),
        "abs": _abs,
        "prelu": _prelu,
        **dict.fromkeys(("gelu", "silu", "mish", "hard_swish"), _dipped),
        **dict.fromkeys(("sin", "cos"), _between(-1.0, 1.0, gamma(8))),
        "add": _join(_sum),
        "sub": _join(lambda a, b: _sum(a, _negative(b))),
        "maximum": _extreme(np.maximum),
        "minimum": _extreme(np.minimum),
        "mul": _join(_product),
        "concat": _concat,
        **dict.fromkeys(
            ("flatten", "reshape", "squeeze", "unsqueeze"),
            lambda s: _reshaped(s.sources[0], s.tied.tracks[s.node.inputs[0]], s.track, s.before, s.shape),
        ),
        "standard": _standard,
        "transpose": lambda s: s.sources[0],  # the channel axis moves, the channels keep their order
        "pad": lambda s: _padded(s.node, s.sources[0], _channel_axis(s), s.before),
        **dict.fromkeys(("slice", "gather"), _picked),
        **dict.fromkeys(
            ("reduce_mean", "reduce_sum", "reduce_max", "reduce_min"),
            lambda s: _reduced(s.node, s.sources[0], _channel_axis(s), s.before),
        ),
    },
    because(
        "its bounds are not derived: any value is possible",
        "layernorm deform_conv dynamic_conv matmul einsum recurrent",
    )
    | because("its bounds are not derived: any value is possible", "reciprocal div pow not fake_quantize")
    | {UNKNOWN: "what it computes is not known: any value is possible"},
)
"""The bounds of each operator's output. Where there is no rule, nothing is claimed."""
