"""Groups in a row that one kernel computes band by band, where that is predicted to be faster than one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from dojang.arith.shapes import conv_problem
from dojang.engine.fuse import Group
from dojang.engine.kernels import bands
from dojang.engine.kernels import task as t
from dojang.engine.kernels.bands import BandTask
from dojang.engine.kernels.conv import winograd
from dojang.engine.kernels.other import pool
from dojang.engine.kernels.other.pool import PoolTask
from dojang.engine.kernels.task import Offer, Task
from dojang.engine.plan.chains import POOLS, Chain, Chains
from dojang.engine.plan.choose import Choice
from dojang.engine.plan.context import PlanContext
from dojang.engine.plan.rules.convs import task_of
from dojang.engine.plan.rules.pools import pool_task
from dojang.engine.plan.steps import KernelStep, Packing, Place
from dojang.engine.weights import Weights
from dojang.native.machine import Machine


@dataclass(frozen=True)
class JoinedChain:
    """A chain that is computed at once: its task, seconds predicted for it and for its groups one by one."""

    chain: Chain
    task: BandTask | Task
    seconds: float
    apart: float


class Joiner:
    """Decides, when a chain's first group is due, whether it is computed with those after it."""

    def __init__(self, context: PlanContext) -> None:
        """For all groups of the network."""
        self.context = context
        self.chains = Chains(context.fused)
        self.members: dict[str, JoinedChain] = {}  # by the value of each group of a chain

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

    def decide(self, group: Group) -> JoinedChain | None:
        """The fastest way of computing the longest chain that begins here; None if it begins with this group alone."""
        if group.inputs[:1] == () or group.inputs[0] not in self.context.places:
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
                task, total = halved
                if total < least:
                    least, best = total, JoinedChain(chain, task, total, apart)
            seconds, task = self.joint(chain, tasks)
            total = seconds + sum(alone[g.value] for g in whole[len(chain.groups) :])
            if total < least:
                least = total
                best = JoinedChain(chain, task, seconds, sum(alone[g.value] for g in chain.groups))
        if best is not None and len(whole) == 3:  # or the first alone, the others together
            seconds, _ = self.joint(Chain(None, whole[1], whole[2]), tasks)
            if alone[whole[0].value] + seconds < least:
                return None
        assert best is None or best.seconds <= apart
        return best

    def halved(self, chain: Chain, tasks: dict[str, Task | PoolTask]) -> tuple[Task, float] | None:
        """A convolution and the maximum of 2 × 2 behind it as a task of Winograd's with its seconds, if it is that."""
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
        offer = winograd.offer(task, self.context.machine)
        return (task, offer.seconds) if isinstance(offer, Offer) else None

    def joint(self, chain: Chain, tasks: dict[str, Task | PoolTask]) -> tuple[float, BandTask]:
        """Seconds per image on one core (infinite where it cannot be done), and the task."""
        parts: list[Any] = [None if g is None else tasks[g.value] for g in (chain.front, chain.middle, chain.back)]
        task = BandTask(*parts)
        offer = bands.offer(task, self.context.machine)
        return offer.seconds if isinstance(offer, Offer) else float("inf"), task

    def task(self, group: Group, first: bool) -> Task | PoolTask | None:
        """What a group alone would do; inside a chain values lie without gaps."""
        context = self.context
        shape = context.shape(group.inputs[0])
        x_ld = context.places[group.inputs[0]].ld if first else shape[1]
        if group.node.op in POOLS:
            made = pool_task(context, group, shape, x_ld)
            reserved = context.reserved.get(group.value)
            return None if made is None else replace(made, y_ld=reserved.ld if reserved else made.y_ld)
        res = 0
        if group.residual is not None:
            place = context.places.get(group.residual) or context.reserved.get(group.residual)
            res = place.ld if place else context.shape(group.residual)[1]
        return task_of(context, group, conv_problem(group.node.attrs, [shape], False), x_ld, res)

    def fetched(self, group: Group) -> float:
        """Seconds per image in which a group's input comes from the shared cache."""
        shape = self.context.shape(group.inputs[0])
        return 4 * prod(shape[1:]) / (self.context.machine.peaks.cache_gbs * 1e9)

    def alone(self, task: Task | PoolTask) -> float:
        """Seconds per image on one core by a kernel of its own."""
        if isinstance(task, PoolTask):
            offer = pool.offer(task, self.context.machine)
            return offer.seconds if isinstance(offer, Offer) else float("inf")
        return self.context.choose(task)[1]

    def add(self, joined: JoinedChain) -> None:
        """Adds the step of a chain."""
        context, groups, task = self.context, joined.chain.groups, joined.task
        last = groups[-1]
        x = context.places[groups[0].inputs[0]]
        kernel, residual = winograd if isinstance(task, Task) else bands, None
        if isinstance(task, Task):
            macs = task.conv.macs
        else:
            macs = sum(s.conv.macs for s in task.stages if isinstance(s, Task))
            residual = context.places[last.residual] if last.residual else None
            if residual is not None and task.back is not None:  # it may lie elsewhere than was thought
                task = replace(task, back=replace(task.back, residual_ld=residual.ld))
        packing = packed(groups, task, context.machine)
        slots: dict[int, Place | str] = {
            t.X: x, t.Y: context.target(last.value), t.W: packing.keys[0], t.B: packing.keys[1],
        }  # fmt: skip
        if residual is not None:
            slots[t.R] = residual
        seconds = joined.seconds * (x.images / context.threads)
        reason = f"slower: {joined.apart * 1e6:.3g} µs predicted, not {joined.seconds * 1e6:.3g}"
        members = tuple(m for g in groups for m in g.members)
        choice = Choice(
            last.value, groups[0].node.op, kernel.NAME, members, (("one by one", reason),), seconds, None, macs
        )  # fmt: skip
        context.add(KernelStep(choice, kernel, task, x.images, slots, packing))


def packed(groups: Sequence[Group], task: BandTask | Task, machine: Machine) -> Packing:
    """The weights of all groups that have some, for one kernel."""
    names = " ".join(f"{g.node.name} {g.norm.name if g.norm else ''}" for g in groups)
    key = f"{names} {task}"
    holders = tuple(g for g in groups if g.node.op not in POOLS)

    def make(weights: Weights) -> Sequence[np.ndarray]:
        if isinstance(task, Task):
            return winograd.pack(task, machine, *weights.folded(groups[0]))
        return bands.pack(task, machine, [weights.folded(g) if g in holders else None for g in groups])

    return Packing((f"{key} w", f"{key} b"), make, holders)
