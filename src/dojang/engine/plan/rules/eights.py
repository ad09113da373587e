"""Groups in bytes: their steps, and where their values lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from dojang.arith.conv import Conv
from dojang.arith.graph import Node
from dojang.arith.precision import Precision
from dojang.arith.shapes import Shape, conv_problem
from dojang.engine.eight import EightPart, centred, scales_of
from dojang.engine.fuse import Group
from dojang.engine.kernels import task as t
from dojang.engine.kernels.conv import fallback
from dojang.engine.kernels.eight import conv, depthwise, elements, grouped, pool
from dojang.engine.kernels.eight.conv import EightTask
from dojang.engine.kernels.eight.elements import EightMap
from dojang.engine.kernels.eight.pool import EightPool
from dojang.engine.kernels.eight.store import Requantised
from dojang.engine.kernels.other.pool import PoolTask
from dojang.engine.kernels.task import Offer, Task
from dojang.engine.plan.choose import Choice
from dojang.engine.plan.context import PlanContext
from dojang.engine.plan.steps import KernelStep, Packing, Place
from dojang.engine.reference.operators import apply
from dojang.engine.weights import Weights


def group(context: PlanContext, group: Group) -> None:
    """Adds the steps of a group in bytes."""
    part = group.eight
    assert part is not None
    WHAT[part.what](context, group, part)


def part_of(group: Group) -> EightPart:
    """What a group does in bytes."""
    assert group.eight is not None
    return group.eight


def fresh(context: PlanContext, name: str) -> Place:
    """A place for the bytes of a value; each pixel takes a multiple of four."""
    shape = context.shape(name)
    ld = t.ceil_div(shape[1], 4) * 4
    context.buffers.append(t.ceil_div(shape[0] * prod(shape[2:]) * ld, 64) * 64)
    place = context.places.eights[name] = Place(len(context.buffers) - 1, 0, ld, shape, item=1)
    return place


def bytes_of(context: PlanContext, name: str) -> Place:
    """Where the bytes of a value lie, which were made before."""
    return context.places.eights[name]


def added(
    context: PlanContext, group: Group, kernel: Any, task: Any, slots: Mapping[int, Place | str], images: int,
    packing: Packing | None = None,
) -> None:  # fmt: skip
    """Adds a step that its kernel takes."""
    done = context.simple(group, kernel, task, images, slots, packing)
    assert done, f"{group.value}: {kernel.NAME} does not take what was fused for it"


def real(context: PlanContext, name: str) -> Place:
    """A value of bytes made real, channels last."""
    x = bytes_of(context, name)
    maker = next(g for g in context.fused.groups if g.value == name)
    grid = part_of(maker).out
    assert grid is not None
    y = context.reserved.get(name) or context.fresh(context.shape(name))
    task = EightMap("real", x.channels, x.pixels, x.ld, y.ld, x_scale=grid.scale[0], x_zero=grid.zero[0])
    context.simple(name, elements, task, x.images, {t.X: x, t.Y: y})
    return y


# -- rules -------------------------------------------------------------------------------------------------------------


def quantise(context: PlanContext, group: Group, part: EightPart) -> None:
    """Real numbers to bytes."""
    name, y, grid = group.inputs[0], fresh(context, group.value), grid_of(part)
    planes = context.places.planes.get(name)
    x = context.places[name] if planes is None else planes
    scale = grid.scale[0] if part.scale == 1 else part.scale
    op = "quantise" if planes is None else "planes"
    task = EightMap(op, x.channels, x.pixels, x.ld, y.ld, scale=scale, zero=grid.zero[0], low=part.low, high=part.high)
    added(context, group, elements, task, {t.X: x, t.Y: y}, x.images)


def grid_of(part: EightPart) -> Precision:
    """The grid of a part whose value is on one."""
    assert part.out is not None
    return part.out


def same(context: PlanContext, group: Group, part: EightPart) -> None:
    """The same bytes under another name, or in a shape with the same channels; nothing to do."""
    x = bytes_of(context, group.inputs[0])
    context.places.eights[group.value] = replace(x, shape=context.shape(group.value))


def layer(context: PlanContext, group: Group, part: EightPart) -> None:
    """A convolution or a dense layer by the kernel that is predicted to be the fastest."""
    node, x = group.node, bytes_of(context, group.inputs[0])
    problem = problem_of(node, x.shape)
    y = fresh(context, group.value) if part.out is not None else context.target(group.value)
    task = EightTask(problem, x.ld, y.ld, part.grids[0].zero[0], finish_of(context, group, part))
    able, refused = [], []
    for kernel in KERNELS:
        match kernel.offer(task, context.machine):
            case Offer(seconds):
                able.append((seconds, kernel))
            case refusal:
                refused.append((kernel.NAME, refusal.reason))
    seconds, kernel = min(able, key=lambda pair: pair[0])
    refused += [(k.NAME, f"slower: {s * 1e6:.3g} µs predicted, not {seconds * 1e6:.3g}") for s, k in able
                if k is not kernel]  # fmt: skip
    floats = in_floats(context, group)
    if floats is not None:
        verdict = "slower" if floats.seconds >= seconds else "not clearly faster"
        said = f"{floats.seconds * 1e6:.3g} µs predicted with conversions, not {seconds * 1e6:.3g}"
        refused.append((f"{floats.algorithm} in float32", f"{verdict}: {said}"))
    key = f"{node.name} {kernel.NAME} {part} {task}"
    machine = context.machine

    def make(weights: Weights) -> Sequence[np.ndarray]:
        whole, bias, factor = numbers(weights, group, part, problem)
        return kernel.pack(task, machine, whole.reshape(problem.weight_shape), bias, factor)

    packing = Packing((f"{key} w", f"{key} b"), make, (group,))
    slots: dict[int, Place | str] = {t.X: x, t.Y: y, t.W: packing.keys[0], t.B: packing.keys[1]}
    predicted = seconds * x.images / context.threads
    macs = problem.macs * x.images
    choice = Choice(group.value, node.op, kernel.NAME, group.members, tuple(refused), predicted, None, macs)
    context.add(KernelStep(choice, kernel, task, x.images, slots, packing))


def problem_of(node: Node, shape: Shape) -> Conv:
    """The convolution that a layer is, of one image; for a dense layer of a whole image, one as large as that."""
    if node.op != "dense":
        return replace(conv_problem(node.attrs, [shape]), n=1)
    size = shape[2:] if prod(shape[2:]) > 1 else (1,)
    return Conv.of(shape[1], node.attrs["out"], size, size, bias=node.attrs["bias"])


KERNELS = (depthwise, grouped, conv)
"""The kernels of layers in bytes."""
CLEARLY = 0.9
"""Part of the time in bytes below which float32 must be predicted: predictions are not nearer to the truth, and each
change of the number type rounds."""


@dataclass(frozen=True)
class InFloats:
    """What a layer in bytes would take in float32: seconds per image on one core, conversions included, by which
    algorithm; and what it takes in bytes.
    """

    algorithm: str
    seconds: float
    in_bytes: float


def in_floats(context: PlanContext, group: Group) -> InFloats | None:
    """The offer of float32 for a layer in bytes; None where no kernel of real numbers computes it.

    Its input is made real and its result bytes again, as both neighbours compute in bytes. Where one of them does not,
    that is more than it would take, so that what is close stays in bytes.
    """
    part, node = part_of(group), group.node
    x, y = context.shape(group.inputs[0]), context.shape(group.value)
    problem = problem_of(node, x)
    row = problem_of(node, (x[0], prod(x[1:]))) if node.op == "dense" else problem
    strict = context.strict or node.name in context.exact
    task = Task(row, row.ic, y[1], None, 0, "f32", strict, resident_ratio=context.resident_ratio)
    algorithm, seconds, _ = context.choose(task)
    if algorithm is fallback:
        return None
    for op, shape in (("real", x), ("quantise", y if part.out is not None else None)):
        if shape is not None:
            offer = elements.offer(EightMap(op, shape[1], prod(shape[2:]), shape[1], shape[1]), context.machine)
            assert isinstance(offer, Offer)
            seconds += offer.seconds
    own = EightTask(problem, t.ceil_div(x[1], 4) * 4, t.ceil_div(y[1], 4) * 4, part.grids[0].zero[0],
                    finish_of(context, group, part))  # fmt: skip
    offers = (kernel.offer(own, context.machine) for kernel in KERNELS)
    best = min((offer.seconds for offer in offers if isinstance(offer, Offer)), default=float("inf"))
    return InFloats(algorithm.NAME, seconds, best)


def faster_in_floats(context: PlanContext) -> dict[str, str]:
    """The layers that take less time in float32 than in bytes, conversions included, and in words by how much."""
    found: dict[str, str] = {}
    for group in context.fused.groups:
        if group.eight is None or group.eight.what != "layer":
            continue
        offer = in_floats(context, group)
        if offer is not None and offer.seconds < CLEARLY * offer.in_bytes:
            said = f"{offer.in_bytes * 1e6:.3g} µs predicted, not {offer.seconds * 1e6:.3g} in float32"
            found[group.node.name] = f"slower: {said}, conversions included"
    return found


def finish_of(context: PlanContext, group: Group, part: EightPart) -> Requantised:
    """How the sums of a layer are stored."""
    if part.out is None:
        return Requantised(real=True, activation=part.activation)
    most = max(context.graph.precisions[group.node.array("weight")].scale) * part.grids[0].scale[0]
    large = (
        most / part.out.scale[0] * factor_of(context, part) > 0.5
    )  # sums are below 2³¹; half of them fit, with a zero
    scale = part.out.scale[0] if part.activation is not None else 1.0
    return Requantised(False, part.out.zero[0], part.low, part.high, large, part.activation, scale)


def factor_of(context: PlanContext, part: EightPart) -> float:
    """The largest number of the constant that sums are multiplied with; infinite where it is not known."""
    if part.factor is None:
        return 1.0
    node = context.graph[part.factor]
    if any(node.array(role) not in context.graph.weights for role in context.graph.node_params(node)):
        return float("inf")
    return float(np.abs(Weights(context.graph).constant(node)).max(initial=0.0))


def numbers(
    weights: Weights, group: Group, part: EightPart, problem: Conv
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Weights and bias of a layer as whole numbers, and the factor of each output channel's sums, in float32."""
    node = group.node
    precision = weights.graph.precisions[node.array("weight")]
    array = weights.array(node, "weight")
    whole = centred(np.asarray(array, np.float32), precision)
    assert whole is not None, f"{node.name}: its weights are not on their grid"
    unit = np.float32(part.grids[0].scale[0]) * scales_of(precision, problem.oc)
    bias = None
    if node.attrs["bias"]:
        exact = np.float64(part.grids[0].scale[0]) * scales_of(precision, problem.oc).astype(np.float64)
        bias = np.rint(np.asarray(weights.array(node, "bias"), np.float64) / exact).astype(np.int64)
    factor = unit
    if part.factor is not None:
        constant = np.asarray(weights.constant(weights.graph[part.factor]), np.float32).reshape(-1)
        factor = factor * constant
    if part.out is not None and part.activation is None:
        factor = factor / np.float32(part.out.scale[0])
    return whole, bias, np.asarray(factor, np.float32)


def largest(context: PlanContext, group: Group, part: EightPart) -> None:
    """The largest under windows."""
    x, y, a = bytes_of(context, group.inputs[0]), fresh(context, group.value), group.node.attrs
    task = PoolTask("max", x.channels, x.shape[2:], a["kernel"], a["stride"], a["padding"], a["dilation"],
                    context.shape(group.value)[2:], x.ld, y.ld)  # fmt: skip
    added(context, group, pool, EightPool(task), {t.X: x, t.Y: y}, x.images)


def mean(context: PlanContext, group: Group, part: EightPart) -> None:
    """The mean under windows, or over all of space."""
    x, y, a = bytes_of(context, group.inputs[0]), fresh(context, group.value), group.node.attrs
    size = x.shape[2:]
    if group.node.op == "avgpool":
        task = PoolTask("avg", x.channels, size, a["kernel"], a["stride"], a["padding"], (1,) * len(size),
                        context.shape(group.value)[2:], x.ld, y.ld, a["count_padding"])  # fmt: skip
    else:
        one = (1,) * len(size)
        task = PoolTask("avg", x.channels, size, size, one, ((0, 0),) * len(size), one, one, x.ld, y.ld)
    out, grid = grid_of(part), part.grids[0]
    ratio = float(np.float32(grid.scale[0]) / np.float32(out.scale[0]))
    made = EightPool(task, grid.zero[0], ratio, out.zero[0], part.low, part.high)
    added(context, group, pool, made, {t.X: x, t.Y: y}, x.images)


def join(context: PlanContext, group: Group, part: EightPart) -> None:
    """A sum or a product of two values."""
    x, r = (bytes_of(context, name) for name in group.inputs)
    y, out, (one, two) = fresh(context, group.value), grid_of(part), part.grids
    r_ld = r.ld if r.pixels == x.pixels else 0
    task = EightMap(
        group.node.op, x.channels, x.pixels, x.ld, y.ld, r_ld, one.scale[0], one.zero[0], two.scale[0], two.zero[0],
        out.scale[0], out.zero[0], part.low, part.high,
    )  # fmt: skip
    added(context, group, elements, task, {t.X: x, t.R: r, t.Y: y}, x.images)


def table(context: PlanContext, group: Group, part: EightPart) -> None:
    """A function of one number: 256 of its values."""
    x, y = bytes_of(context, group.inputs[0]), fresh(context, group.value)
    looked_up(context, group, part.nodes, part.grids[0], grid_of(part), (part.low, part.high), x, y)


def looked_up(
    context: PlanContext, group: Group, nodes: Sequence[Any], grid: Precision, out: Precision, bounds: tuple[int, int],
    x: Place, y: Place, place: str = "",
) -> None:  # fmt: skip
    """Bytes by a table of what `nodes` make of the numbers that they stand for."""
    key = f"{group.value} {place} table {grid} {out}"

    def make(weights: Weights) -> Sequence[np.ndarray]:
        value = (np.arange(256) - grid.zero[0]).astype("f4").reshape(1, -1) * np.float32(grid.scale[0])
        for node in nodes:
            constants = [weights.graph[name] for name in map(context.fused.source, node.inputs)]
            value = apply(node, [weights.constant(c) if c.op == "constant" else value for c in constants], {})
        with np.errstate(all="ignore"):
            whole = np.rint(value / np.float32(out.scale[0])) + out.zero[0]
        return (np.fmin(np.fmax(whole, bounds[0]), bounds[1]).astype("u1").reshape(-1),)

    task = EightMap("table", x.channels, x.pixels, x.ld, y.ld)
    added(context, group, elements, task, {t.X: x, t.Y: y, t.W: key}, x.images, Packing((key,), make))


def widened(context: PlanContext, group: Group, part: EightPart) -> None:
    """Channels of zeros before and behind those that there are."""
    x, y, grid = bytes_of(context, group.inputs[0]), fresh(context, group.value), grid_of(part)
    before = y.channels - x.channels - group.node.attrs["pads"][-x_axes(x)][1]
    added(context, group, elements, EightMap("fill", y.ld, y.pixels, y.ld, y.ld, zero=grid.zero[0]),
          {t.X: x, t.Y: y}, y.images)  # fmt: skip
    inside = replace(y, offset=before, shape=x.shape)
    looked_up(context, group, (), grid, grid, (part.low, part.high), x, inside)


def x_axes(x: Place) -> int:
    """Axes from the channels on."""
    return len(x.shape) - 1


def concat(context: PlanContext, group: Group, part: EightPart) -> None:
    """Channels side by side; each part is brought to the grid of the whole."""
    whole, offset, out = fresh(context, group.value), 0, grid_of(part)
    for k, (name, grid) in enumerate(zip(group.inputs, part.grids, strict=True)):
        x = bytes_of(context, name)
        y = replace(whole, offset=offset, shape=x.shape)
        looked_up(context, group, (), grid, out, (part.low, part.high), x, y, str(k))
        offset += x.channels


WHAT: Mapping[str, Callable[[PlanContext, Group, EightPart], None]] = {
    "quantise": quantise,
    "same": same,
    "layer": layer,
    "pool": largest,
    "mean": mean,
    "join": join,
    "table": table,
    "concat": concat,
    "widened": widened,
}
"""By what a group does."""
