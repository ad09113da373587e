"""Checks between passes: what one hands to the next is sound, whatever made it. They cost microseconds.

A `PassError` is a fault of dojang, never of a network: networks are checked before the first pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite, prod

import numpy as np

from dojang.engine.fuse import ALIASES, Fused
from dojang.engine.lower.network import Lowered
from dojang.engine.plan.steps import KernelStep, Place, Planned
from dojang.native.jit import Recipe


class PassError(RuntimeError):
    """A pass gave a result that cannot be right."""

    def __init__(self, name: str, fault: str) -> None:
        """`name` of the pass."""
        super().__init__(f"pass {name}: {fault}; this is a fault of dojang, please report it with the network")


def fused(found: Fused) -> Fused:
    """Every needed node is in one group, and what a group reads is made before it."""
    done = {node.name for node in found.nodes if node.op == "input"}
    members = [name for group in found.groups for name in group.members]
    wanted = [node.name for node in found.nodes if node.op not in (*ALIASES, "input")]
    if sorted(members) != sorted(wanted):
        raise PassError("fuse", f"nodes in no group or in two: {sorted(set(members) ^ set(wanted)) or members}")
    for group in found.groups:
        for name in (*group.inputs, group.residual):
            if name is not None and name not in done:
                raise PassError("fuse", f"{group.value} reads {name}, which is made later")
        done.add(group.value)
    return found


def planned(found: Planned) -> Planned:
    """Every group has its steps, every place lies within its buffer, every prediction is a time."""
    covered = {name for step in found.steps for name in step.choice.members}
    for group in found.fused.groups:
        there = group.value in found.places or group.value in found.eights
        if not there and not covered & set(group.members) | set(found.constants):
            raise PassError("plan", f"{group.value} has no step")
    for step in found.steps:
        seconds = step.choice.predicted_s
        if seconds is not None and not (isfinite(seconds) and seconds >= 0):
            raise PassError("plan", f"{step.choice.value} is predicted to take {seconds} s")
        for place in step.slots.values() if isinstance(step, KernelStep) else (step.place,):
            if isinstance(place, Place) and place.buffer >= 0 and end_of(place) > found.buffers[place.buffer]:
                raise PassError("plan", f"{step.choice.value} goes beyond buffer {place.buffer}: {place}")
    return found


def end_of(place: Place) -> int:
    """Bytes from the beginning of its buffer to the end of a place."""
    if not prod(place.shape):
        return 0
    if place.in_rows:
        return end_of(place.turned)
    return place.item * (place.offset + (place.images * place.pixels - 1) * place.ld + place.channels)


def lowered(found: Lowered) -> Lowered:
    """Buffers that live at the same time do not overlap, and all lie before the threads' own memory."""
    a = found.areas
    living = [b for b, life in enumerate(a.lives) if life is not None and a.sizes[b]]
    living.sort(key=lambda b: a.offsets[b])
    for i, b in enumerate(living):
        end = a.offsets[b] + a.sizes[b]
        if end > found.scratch_at:
            raise PassError("lower", f"buffer {b} ends at byte {end}, behind {found.scratch_at}")
        for c in living[i + 1 :]:
            if a.offsets[c] >= end:
                break
            if meet(a.lives[b], a.lives[c]):
                raise PassError("lower", f"buffers {b} and {c} live at the same time in the same place")
    return found


def meet(one: tuple[int, int] | None, two: tuple[int, int] | None) -> bool:
    """Whether two lives, from the first to the last step, have a step in common."""
    return one is not None and two is not None and one[0] <= two[1] and two[0] <= one[1]


def emitted(found: list[list[Recipe]], source: Lowered) -> list[list[Recipe]]:
    """Every kernel step has at least one recipe."""
    for row, step in zip(found, source.planned.steps, strict=True):
        if bool(row) != isinstance(step, KernelStep):
            raise PassError("emit", f"{step.choice.value} has {len(row)} kernels")
    return found


def packed(arrays: Mapping[str, np.ndarray], source: Planned) -> Mapping[str, np.ndarray]:
    """Every array that a step reads is there, in one piece."""
    for step in source.steps:
        for key in step.slots.values() if isinstance(step, KernelStep) else ():
            if isinstance(key, str) and (key not in arrays or not arrays[key].flags.c_contiguous):
                raise PassError("pack", f"{step.choice.value} reads {key!r}, which is not packed")
    return arrays


__all__: Sequence[str] = ("PassError", "emitted", "fused", "lowered", "packed", "planned")
