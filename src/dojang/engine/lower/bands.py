"""Lowering of groups that one kernel computes band by band, where that is predicted to be faster than one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

from dojang.arith.shapes import conv_problem
from dojang.engine.fuse import Group
from dojang.engine.kernels import bands
from dojang.engine.kernels import task as t
from dojang.engine.kernels.bands import BandTask
from dojang.engine.kernels.conv import winograd
from dojang.engine.kernels.other import pool
from dojang.engine.kernels.other.pool import PoolTask
from dojang.engine.kernels.task import Code, Offer, Task
from dojang.engine.lower.calls import Place
from dojang.engine.plan.chains import POOLS, Chain, Chains
from dojang.engine.plan.choose import Choice

if TYPE_CHECKING:
    from dojang.engine.lower.network import Lowering


@dataclass(frozen=True)
class Joined:
    """A chain that is computed at once: its task, seconds predicted for it and for its groups one by one."""

    chain: Chain
    task: BandTask | Task
    seconds: float
    apart: float


class Joiner:
    """Decides, when a chain's first group is due, whether it is computed with those after it."""

    def __init__(self, low: Lowering, groups: Sequence[Group]) -> None:
        """All groups of the network."""
        self.low = low
        self.chains = Chains(low.fusion, groups)
        self.members: dict[str, Joined] = {}  # by the value of each group of a chain

    def takes(self, group: Group) -> bool:
        """Whether the group belongs to a chain; the chain's call is added in the place of its last group."""
        joined = self.members.get(group.value)
        if joined is None:
            joined = self.decide(group)
            if joined is None:
                return False
            self.members |= {g.value: joined for g in joined.chain.groups}
        if joined.chain.groups[-1] is group:
            self.add(joined)
        return True

    def decide(self, group: Group) -> Joined | None:
        """The fastest way of computing the longest chain that begins here; None if it begins with this group alone."""
        if group.inputs[:1] == () or group.inputs[0] not in self.low.out.places:
            return None
        tasks: dict[str, Task | PoolTask] = {}
        found: list[Chain] = []
        for chain in self.chains.starting(group):
            made = {g.value: self.task(g, first=g is group) for g in chain.groups if g.value not in tasks}
            if any(v is None for v in made.values()):
                continue
            tasks |= {k: v for k, v in made.items() if v is not None}
            found.append(chain)
        if not found:
            return None
        whole = found[0].groups
        alone = {g.value: self.alone(tasks[g.value]) for g in whole}
        for group in whole[1:]:  # what lies between them comes in part from the cache of another core
            alone[group.value] += self.fetched(group)
        best, least = None, sum(alone.values())
        apart = least
        for chain in found:
            halved = self.halved(chain, tasks)
            if halved is not None:
                total = winograd.seconds(halved, self.low.machine, winograd.shape_of(halved, self.low.machine))
                if total < least:
                    least, best = total, Joined(chain, halved, total, apart)
            seconds, task = self.joint(chain, tasks)
            total = seconds + sum(alone[g.value] for g in whole[len(chain.groups) :])
            if total < least:
                least = total
                best = Joined(chain, task, seconds, sum(alone[g.value] for g in chain.groups))
        if best is not None and len(whole) == 3:  # or the first alone, the others together
            seconds, _ = self.joint(Chain(None, whole[1], whole[2]), tasks)
            if alone[whole[0].value] + seconds < least:
                return None
        assert best is None or best.seconds <= apart
        return best

    def halved(self, chain: Chain, tasks: dict[str, Task | PoolTask]) -> Task | None:
        """A convolution and the maximum of 2 × 2 behind it as one task of Winograd's, if that is what the chain is."""
        if chain.front is None or chain.back is not None:
            return None
        front, middle = tasks[chain.front.value], tasks[chain.middle.value]
        if not isinstance(front, Task) or not isinstance(middle, PoolTask) or middle.what != "max":
            return None
        two = (2,) * len(middle.size)
        if (middle.kernel, middle.stride) != (two, two) or any(max(p) for p in middle.padding):
            return None
        if middle.out_size != tuple(s // 2 for s in middle.size) or not prod(middle.out_size):
            return None
        task = replace(front, y_ld=middle.y_ld, halved=True)
        return task if isinstance(winograd.offer(task, self.low.machine), Offer) else None

    def joint(self, chain: Chain, tasks: dict[str, Task | PoolTask]) -> tuple[float, BandTask]:
        """Seconds per image on one core (infinite where it cannot be done), and the task."""
        parts: list[Any] = [None if g is None else tasks[g.value] for g in (chain.front, chain.middle, chain.back)]
        task = BandTask(*parts)
        offer = bands.offer(task, self.low.machine)
        return offer.seconds if isinstance(offer, Offer) else float("inf"), task

    def task(self, group: Group, first: bool) -> Task | PoolTask | None:
        """What a group alone would do; inside a chain values lie without gaps."""
        low = self.low
        shape = low.shape(group.inputs[0])
        x_ld = low.out.places[group.inputs[0]].ld if first else shape[1]
        reserved = low.reserved.get(group.value)
        y_ld = reserved.ld if reserved else low.shape(group.value)[1]
        if group.node.op in POOLS:
            made = low.pool_task(group, shape, x_ld)
            return None if made is None else replace(made, y_ld=y_ld)
        problem = conv_problem(group.node.attrs, [shape], False)
        problem = low.chosen_for(group, problem)
        res = 0
        if group.residual is not None:
            place = low.out.places.get(group.residual) or low.reserved.get(group.residual)
            res = place.ld if place else low.shape(group.residual)[1]
        return Task(problem, x_ld, y_ld, group.activation, res, "f32", low.strict, room=low.room)

    def fetched(self, group: Group) -> float:
        """Seconds per image in which a group's input comes from the shared cache."""
        shape = self.low.shape(group.inputs[0])
        return 4 * prod(shape[1:]) / (self.low.machine.peaks.cache_gbs * 1e9)

    def alone(self, task: Task | PoolTask) -> float:
        """Seconds per image on one core by a kernel of its own."""
        if isinstance(task, PoolTask):
            offer = pool.offer(task, self.low.machine)
            return offer.seconds if isinstance(offer, Offer) else float("inf")
        return self.low.choose(task)[1]

    def add(self, joined: Joined) -> None:
        """Packs the weights and adds the call."""
        low, groups = self.low, joined.chain.groups
        task = joined.task
        last = groups[-1]
        residual = low.out.places[last.residual] if last.residual else None
        x = low.out.places[groups[0].inputs[0]]
        if isinstance(task, Task):
            self.call(joined, winograd, task, winograd.emit(task, low.machine), x, None, task.conv.macs)
            return
        if residual is not None and task.back is not None:  # it may lie elsewhere than was thought
            task = replace(task, back=replace(task.back, residual_ld=residual.ld))
        macs = sum(s.conv.macs for s in task.stages if isinstance(s, Task))
        self.call(joined, bands, task, bands.emit(task, low.machine), x, residual, macs)

    def call(
        self, joined: Joined, module: Any, task: Any, code: Code, x: Place, residual: Place | None, macs: int
    ) -> None:
        """Packs the weights unless they are, and adds the call."""
        low, groups = self.low, joined.chain.groups
        last = groups[-1]
        names = [f"{g.node.name} {g.norm.name if g.norm else ''}" for g in groups]
        key = f"{' '.join(names)} {code.steps[0].recipe}"

        def pack(*arrays: Any) -> Any:
            return module.pack(task, low.machine, *((arrays,) if module is bands else arrays[0]))

        low.pack(key, groups, pack)
        slots: dict[int, Place | str] = {
            t.X: x, t.Y: low.target(last.value), t.W: f"{key} w", t.B: f"{key} b",
        }  # fmt: skip
        if residual is not None:
            slots[t.R] = residual
        share = x.images / low.threads
        reason = f"slower: {joined.apart * 1e6:.3g} µs predicted, not {joined.seconds * 1e6:.3g}"
        members = tuple(m for g in groups for m in g.members)
        choice = Choice(
            last.value, groups[0].node.op, module.NAME, members, (("one by one", reason),), joined.seconds * share,
            None, macs,
        )  # fmt: skip
        low.call(choice, code, x.images, slots)
