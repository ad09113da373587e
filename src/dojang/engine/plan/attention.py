"""Attention as one step: the products of queries and keys, their softmax, and the products with the values.

What only brings queries, keys or values into another order (transposes, slices, other shapes) and is read by nothing
else is no step either: the kernel reads them where they lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from dojang.arith.shapes import Shape
from dojang.engine.fuse import Group
from dojang.engine.kernels import task as t
from dojang.engine.kernels.other import attention as kernel
from dojang.engine.kernels.other import matmul, softmax
from dojang.engine.kernels.other.attention import AttentionTask
from dojang.engine.kernels.other.matmul import MatTask
from dojang.engine.kernels.other.softmax import SoftmaxTask
from dojang.engine.kernels.task import Offer
from dojang.engine.plan.choose import Choice
from dojang.engine.plan.context import PlanContext
from dojang.engine.plan.rules import rows, strided
from dojang.engine.plan.rules.strided import common, refined
from dojang.engine.plan.steps import KernelStep, Packing, Place

VIEWS = ("transpose", "slice", "reshape", "flatten", "squeeze", "unsqueeze")


@dataclass(frozen=True)
class Pattern:
    """The groups of one attention in order, and what they read: the values of queries, keys (as they are multiplied:
    depth by keys), values, and the mask that is added, if any.
    """

    groups: tuple[Group, ...]
    query: str
    key: str
    value: str
    masks: tuple[str, ...]
    scale: float


@dataclass(frozen=True)
class Lying:
    """A value as it can be read: from a place, `offset` elements on, `steps` from place to place along its axes."""

    place: Place
    shape: Shape
    steps: tuple[int, ...]
    offset: int = 0


class Attentions:
    """The attentions of a network, found before planning; each is added as one step where its last group is due."""

    def __init__(self, context: PlanContext) -> None:
        """Finds them among all groups."""
        self.context, self.fused = context, context.fused
        self.makers: Mapping[str, Group] = {g.value: g for g in context.fused.groups}
        self.patterns: dict[str, Pattern] = {}  # by the value of the last group
        self.members: dict[str, Pattern] = {}  # by the value of each group
        for group in context.fused.groups:
            found = self.pattern(group) if group.node.op == "softmax" else None
            if found is not None and self.pays(found):
                self.patterns[found.groups[-1].value] = found
                self.members |= {g.value: found for g in found.groups}
        self.views = self.claimed() if self.patterns else frozenset[str]()
        self.emitted: set[str] = set()

    # -- finding -----------------------------------------------------------------------------------------------------

    def once(self, name: str) -> Group | None:
        """The group that makes a value which one node alone reads."""
        return self.makers.get(name) if self.fused.read_once(name) else None

    def pattern(self, middle: Group) -> Pattern | None:
        """The attention around a softmax."""
        graph, context = self.fused.graph, self.context
        if context.shapes[middle.value] is None:  # values decide it, or nothing fits
            return None
        shape = context.shape(middle.value)
        if len(shape) < 3 or middle.node.attrs["axis"] % len(shape) != len(shape) - 1:
            return None
        if not self.fused.read_once(middle.value):
            return None
        (reader,) = self.fused.readers[middle.value]
        last = self.makers.get(reader.name)
        if last is None or last.node.op != "matmul" or last.inputs[0] != middle.value or last.inputs[1] == middle.value:
            return None
        groups, masks, scale = [middle, last], list[str](), 1.0
        at = self.once(middle.inputs[0])
        while at is not None and at.node.op in ("add", "mul", "div") and len(at.inputs) == 2 and at.activation is None:
            number = context.number(at.inputs[1])
            if at.node.op == "add":
                first = self.once(at.inputs[0])
                scores = 0 if first is not None and first.node.op in ("matmul", "mul", "div", "add") else 1
                if masks or scale != 1:  # two masks, or one that is scaled too
                    return None
                masks.append(at.inputs[1 - scores])
            elif number:
                scores = 0
                scale *= number if at.node.op == "mul" else 1 / number
            else:
                return None
            groups.insert(0, at)
            at = self.once(at.inputs[scores])
        if at is None or at.node.op != "matmul" or not all(map(context.kernels_can, (at, *groups))):
            return None
        groups.insert(0, at)
        query, key = at.inputs
        scaled = self.once(query)
        if scaled is not None and scaled.node.op == "mul" and len(scaled.inputs) == 2 and scaled.activation is None:
            number = context.number(scaled.inputs[1])
            if number is not None and context.kernels_can(scaled):
                scale, query = scale * number, scaled.inputs[0]
                groups.insert(0, scaled)
        shapes = [context.shape(name) for name in (query, key, last.inputs[1])]
        sizes = {len(s) for s in (*shapes, shape)}
        lead = shape[:-2]
        if len(sizes) != 1 or any(s[:-2] != lead for s in shapes) or not prod(shape) or not scale < float("inf"):
            return None
        if any(name in context.fused.shown for g in groups[:-1] for name in g.members) or graph[query].op == "constant":
            return None
        return Pattern(tuple(groups), query, key, last.inputs[1], tuple(masks), scale)

    def pays(self, found: Pattern) -> bool:
        """Whether the one step is predicted to take less than products and softmax one by one."""
        task, machine = self.task(found), self.context.machine
        offer = kernel.offer(task, machine)
        if not isinstance(offer, Offer):
            return False
        many = prod(task.heads)
        one = MatTask(1, task.queries, task.depth, task.keys, task.depth, task.keys, task.keys, False)
        two = MatTask(1, task.queries, task.keys, task.width, task.keys, task.width, task.width, False)
        between = SoftmaxTask(task.keys, task.queries, task.keys, task.keys)
        offers = (matmul.offer(one, machine), matmul.offer(two, machine), softmax.offer(between, machine))
        apart = sum(o.seconds for o in offers)
        # Scales and masks: read, and written; a mask is read beside.
        more = 12 * task.queries * task.keys * (len(found.groups) - 3) / (machine.peaks.cache_gbs * 1e9)
        return offer.seconds < many * (apart + more)

    def task(self, found: Pattern) -> AttentionTask:
        """The task with everything in rows, as far as only sizes matter."""
        shape = self.context.shape(found.groups[-1].value)
        keys = self.context.shape(found.key)[-1]
        depth = self.context.shape(found.query)[-1]
        *lead, queries, width = shape

        def of(*sizes: int) -> tuple[int, ...]:
            return strided.rows((*lead, *sizes))

        return AttentionTask(
            tuple(lead), queries, keys, depth, width, found.scale, of(queries, depth), (*of(depth, keys)[:-2], 1, keys),
            of(keys, width), of(queries, width),
        )  # fmt: skip

    def claimed(self) -> frozenset[str]:
        """The values that attentions read where they come from: views that nothing else reads."""
        wanted = {name for p in self.patterns.values() for name in (p.query, p.key, p.value)}
        own: dict[str, set[str]] = {}
        for p in self.patterns.values():
            for g in p.groups:
                for m in g.members:
                    own.setdefault(m, set()).update((p.query, p.key, p.value))
        found: set[str] = set()
        for group in reversed(self.fused.groups):
            name = group.value
            if group.node.op not in VIEWS or name in self.fused.shown or not self.context.kernels_can(group):
                continue
            readers = self.fused.readers.get(name, ())
            by_attention = name in wanted and all(name in own.get(r.name, ()) for r in readers)
            by_views = all(r.name in found for r in readers)
            mixed = all(r.name in found or name in own.get(r.name, ()) for r in readers)
            if readers and (by_attention or by_views or mixed) and self.can_view(group):
                found.add(name)
        return frozenset(found)

    def can_view(self, group: Group) -> bool:
        """Whether a group's value can be read where its input lies, whatever that is: a shape that splits axes only."""
        if group.node.op == "slice":
            return (group.node.attrs["step"] or 1) >= 1
        if group.node.op not in ("reshape", "flatten"):
            return True
        both = common(self.context.shape(group.inputs[0]), self.context.shape(group.value))
        if both is None:
            return False
        sizes, _, twos = both
        return all(twos.count(k) <= 1 for k in twos) and len(sizes) >= 1

    # -- planning ----------------------------------------------------------------------------------------------------

    def takes(self, group: Group) -> bool:
        """Whether a group is part of an attention, or read by one where it comes from."""
        if group.value in self.views:
            return True
        found = self.members.get(group.value)
        if found is None:
            return False
        if found.groups[-1] is group and not self.add(found):
            self.apart(found)
        return True

    def apart(self, found: Pattern) -> None:
        """The steps of an attention one by one, as its values lie where the kernel does not read them."""
        views = set(self.passed(found))
        members = {g.value for g in found.groups}
        for group in self.fused.groups:
            if group.value in members or set(group.members) & views:
                self.views -= {group.value}
                self.context.group(group)

    def lying(self, name: str) -> Lying:
        """A value as it can be read, through the views that were left out; brought into rows where it lies nowhere."""
        group = self.makers.get(name)
        if group is None or name not in self.views:
            place = rows.lies(self.context, name)
            if place is None or len(place.shape) != len(self.context.shape(name)):
                raise LookupError(name)
            return Lying(place, self.context.shape(name), place.strides)
        below, shape = self.lying(group.inputs[0]), self.context.shape(name)
        a, op = group.node.attrs, group.node.op
        if op == "transpose":
            order = [k % len(shape) for k in a["perm"]]
            return replace(below, shape=shape, steps=tuple(below.steps[k] for k in order))
        if op == "slice":
            axis = a["axis"] % len(shape)
            taken = range(below.shape[axis])[slice(a["start"], a["stop"], a["step"])]
            steps = tuple(s * taken.step if k == axis else s for k, s in enumerate(below.steps))
            return Lying(below.place, shape, steps, below.offset + taken.start * below.steps[axis])
        both = common(below.shape, shape)
        assert both is not None
        sizes, ones, twos = both
        fine = refined(below.steps, sizes, ones)
        steps = [0] * len(shape)
        for k, step in zip(twos, fine, strict=True):
            steps[k] = step
        return Lying(below.place, shape, tuple(steps), below.offset)

    def add(self, found: Pattern) -> bool:
        """Adds the one step."""
        context, last = self.context, found.groups[-1]
        shape = context.shape(last.value)
        *lead, queries, width = shape
        try:
            q, k, v = self.lying(found.query), self.lying(found.key), self.lying(found.value)
            mask, packing = self.mask(found) if found.masks else (None, None)
        except LookupError:
            return False
        if v.steps[-1] != 1:
            v = self.brought(v, f"{last.value} values")
        y = rows.fresh(context, last)
        onto = replace(y, shape=shape, in_rows=True).strides if len(shape) > 2 else y.strides
        ks = k.steps
        task = AttentionTask(
            tuple(lead), queries, k.shape[-1], q.shape[-1], width, found.scale, q.steps,
            (*ks[:-2], ks[-1], ks[-2]), v.steps, onto, mask[1] if mask else (),
        )  # fmt: skip
        slots: dict[int, Place | str] = {t.X: start(q), kernel.K: start(k), kernel.V: start(v), t.Y: y}
        if mask:
            slots[kernel.MASK] = mask[0]
        members = tuple(m for g in found.groups for m in g.members) + self.passed(found)
        offer = kernel.offer(task, context.machine)
        if not isinstance(offer, Offer):
            return False
        choice = Choice(last.value, "matmul", kernel.NAME, members, (), offer.seconds / context.threads)
        context.add(KernelStep(choice, kernel, task, 1, slots, packing))
        return True

    def passed(self, found: Pattern) -> tuple[str, ...]:
        """The views that this attention is the first to read through."""
        made: list[str] = []
        todo = [found.query, found.key, found.value]
        while todo:
            name = todo.pop()
            if name in self.views and name not in self.emitted:
                self.emitted.add(name)
                group = self.makers[name]
                made += group.members
                todo += group.inputs[:1]
        return tuple(made)

    def brought(self, x: Lying, name: str) -> Lying:
        """A copy that runs along its last axis."""
        y = self.context.fresh((1, prod(x.shape)))
        strided.copy(self.context, name, start(x), x.steps, y, 0, strided.rows(x.shape), x.shape)
        return Lying(y, x.shape, strided.rows(x.shape))

    def mask(self, found: Pattern) -> tuple[tuple[Place | str, tuple[int, ...]], Packing | None]:
        """Where the mask lies, elements from place to place along the axes of the scores, and its numbers."""
        context, (name,) = self.context, found.masks
        *lead, queries, _ = context.shape(found.groups[-1].value)
        scores = (*lead, queries, context.shape(found.key)[-1])
        shape = context.shape(name)
        packing: Packing | None = None
        if name in context.constants:
            packing = strided.constant(context, name)
            what: Place | str = packing.keys[0]
            steps: Sequence[int] = strided.rows(shape)
        else:
            place = rows.lies(context, name)
            if place is None or len(place.shape) != len(shape):
                raise LookupError(name)
            what, steps = place, place.strides
            if shape[-1] > 1 and steps[-1] != 1:
                moved = self.brought(Lying(place, shape, tuple(steps)), f"{name} in rows")
                what, steps = moved.place, moved.steps
        missing = len(scores) - len(shape)
        fit = zip((1,) * missing + tuple(shape), (0,) * missing + tuple(steps), strict=True)
        return (what, tuple(0 if size == 1 else step for size, step in fit)), packing


def start(x: Lying) -> Place:
    """Where the first element is."""
    return Place(x.place.buffer, x.place.offset + x.offset, 1, (1, 1))


def attentions(context: PlanContext) -> Attentions | None:
    """Those of a network of one size; None where sizes are open, which share no code here."""
    return Attentions(context) if context.sizes is None else None
