"""The plan of a network: which kernels compute it, on how many threads. Made from shapes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dojang.arith.graph import Graph
from dojang.engine.fuse import Fused, fuse
from dojang.engine.kernels import task as t
from dojang.engine.kernels.eight.dot import gains
from dojang.engine.kernels.eight.elements import MOST_PLANES
from dojang.engine.kernels.other import layout
from dojang.engine.kernels.other.layout import LayoutTask
from dojang.engine.plan.attention import attentions
from dojang.engine.plan.bands import Joiner
from dojang.engine.plan.choose import Plan
from dojang.engine.plan.context import Chosen, PlanContext, Request
from dojang.engine.plan.rules import channels, eights, table
from dojang.engine.plan.steps import HostStep, KernelStep, Place, Planned
from dojang.native.costs import COSTS

BYTES = "bytes"
"""What a layer in float32 is said to have refused, where it is quantised."""
NO_PRODUCTS = (
    "this processor has no instruction for four products of bytes (AVX-512 VNNI, AVX-VNNI, AArch64 dot products); with "
    "others, bytes take longer than float32"
)
OPEN = "height and width are open, and kernels of bytes are made for one size"


def plan_of(graph: Graph, request: Request, chosen: Chosen | None = None) -> Planned:
    """The plan of a graph, which needs no weights: the first two passes."""
    chosen = {} if chosen is None else chosen
    return plan(fused_for(graph, request, chosen), request, chosen)


def fused_for(graph: Graph, request: Request, chosen: Chosen) -> Fused:
    """The groups of a graph; quantised layers that take less time in float32 are not among those in bytes."""
    shapes = graph.shapes(request.batch)
    fused = fuse(graph, shapes, request.keep, request.eight)
    if not request.eight:
        return replace(fused, real=not_in_bytes(graph, request))
    if not any(group.eight for group in fused.groups):
        return fused
    floats = eights.faster_in_floats(PlanContext(fused, request, chosen, table.ALL))
    return fuse(graph, shapes, request.keep, True, floats) if floats else fused


def not_in_bytes(graph: Graph, request: Request) -> dict[str, str]:
    """Of a plan in real numbers alone: which layers another one would compute in bytes, and why this one does not."""
    if not graph.precisions or (gains(request.machine) and request.sizes is None):
        return {}
    fused = fuse(graph, graph.shapes(request.batch), request.keep, True)
    why = OPEN if gains(request.machine) else NO_PRODUCTS
    in_bytes = [group.node.name for group in fused.groups if group.eight is not None and group.eight.what == "layer"]
    return {**fused.real, **dict.fromkeys(in_bytes, why)}


def plan(fused: Fused, request: Request, chosen: Chosen) -> Planned:
    """Chooses kernels for all groups, in order, and how many threads run them.

    For each group every algorithm makes an offer; layers in a row are joined where that is predicted to be faster.
    """
    context = PlanContext(fused, request, chosen, table.ALL)
    channels.reserve(context)
    enter(context)
    choose_kernels(context)
    leave(context, request)
    steps = tuple(with_bytes_refused(step, fused.real) for step in context.steps)
    alone = request.threads * sum(step.choice.predicted_s or 0.0 for step in steps) < COSTS.helpers_s
    if alone:
        steps = tuple(by_one_thread(step, request.threads) for step in steps)
    public = public_plan(context.graph.name, steps, request, 1 if alone else request.threads)
    return Planned(
        public, fused, context.machine, 1 if alone else request.workers or request.threads, steps,
        tuple(context.buffers), context.places.all(context.shapes), tuple(context.constants), tuple(context.copied),
        context.places.eights,
    )  # fmt: skip


def enter(context: PlanContext) -> None:
    """Inputs: used where they lie if channels first and last are the same memory, else brought to channels last."""
    fused = context.fused
    read = {name for g in fused.groups for name in (*g.inputs, g.residual)} | fused.shown
    for k, node in enumerate(context.graph.inputs):
        if node.name not in read:
            continue
        shape = context.shape(node.name)
        if not shape or not context.numbers(node.name):
            continue  # stays a NumPy array, as values of steps in Python do
        if len(shape) < 2:
            context.places[node.name] = Place(-1 - k, 0, 1, shape)
            continue
        outside = Place(-1 - k, 0, shape[1], shape)
        if outside.alike:
            context.places[node.name] = outside
            continue
        if shape[1] <= MOST_PLANES and node.name not in fused.shown and only_quantised(context, node.name):
            context.places.planes[node.name] = outside
            continue
        place = context.target(node.name)
        task = LayoutTask(place.channels, place.pixels, place.ld, True)
        context.simple(node.name, layout, task, place.images, {t.X: outside, t.Y: place})


def only_quantised(context: PlanContext, name: str) -> bool:
    """Whether all that reads an input makes bytes of it."""
    readers = [g for g in context.fused.groups if name in (*g.inputs, g.residual)]
    return all(g.eight is not None and g.eight.what == "quantise" for g in readers)


def choose_kernels(context: PlanContext) -> None:
    """The steps of all groups: with those after them, as part of the convolution that reads them, or by their rule."""
    # Code of layers in a row is made for one size, and of real numbers.
    joiner = Joiner(context) if context.sizes is None and not context.eight else None
    later = {g.value for s in context.shortcuts.values() for g in s.groups}
    attention = attentions(context)
    for group in context.fused.groups:
        if attention is not None and attention.takes(group):
            continue
        joined = joiner and context.kernels_can(group) and group.value not in later and joiner.takes(group)
        if group.value not in later and not joined:
            context.group(group)


def leave(context: PlanContext, request: Request) -> None:
    """Outputs and values that were asked for, channels first; small ones are copied by NumPy."""
    wanted = (*context.graph.outputs, *sorted(request.keep))
    for name in dict.fromkeys(context.fused.source(n) for n in wanted):
        if context.places.only_rows(name):
            if context.places.rows[name].buffer >= 0:
                context.copied.append(name)
            continue
        place = context.places.get(name)
        if place is None or place.buffer < 0:
            continue
        if place.channels == 1 or place.pixels == 1:
            context.copied.append(name)
            continue
        task = LayoutTask(place.channels, place.pixels, place.ld, False)
        context.simple(name, layout, task, place.images, {t.X: place}, export=name)


def with_bytes_refused(step: KernelStep | HostStep, floats: Mapping[str, str]) -> KernelStep | HostStep:
    """A step with the reason why its layer is not computed in bytes."""
    refused = tuple((BYTES, floats[name]) for name in step.choice.members if name in floats)
    if not refused:
        return step
    return replace(step, choice=replace(step.choice, refused=(*step.choice.refused, *refused)))


def by_one_thread(step: KernelStep | HostStep, threads: int) -> KernelStep | HostStep:
    """A step that was predicted for so many threads, predicted for one."""
    if step.choice.predicted_s is None:
        return step
    return replace(step, choice=replace(step.choice, predicted_s=step.choice.predicted_s * threads))


def public_plan(name: str, steps: Sequence[KernelStep | HostStep], request: Request, run_threads: int) -> Plan:
    """What was chosen, with what it was chosen for."""
    m, precision = request.machine, "strict" if request.strict else "fast"
    choices = tuple(step.choice for step in steps)
    return Plan(
        name, request.batch, request.threads, m.isa, precision, choices, m.name, m.source, m.peaks, request.tune,
        run_threads,
    )  # fmt: skip
