"""Whole residual blocks of somebody's module dropped: the block becomes `nn.Identity`, everything around it stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dojang.app.networks import torch_format
from dojang.app.shortening import Own, entering, first, read
from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.base.errors import DojangError
from dojang.slimming.branches import Branch, branches, without
from dojang.slimming.front import FLOOR, cost

SAME = 1e-4
"""Largest difference over largest output, in float32, between a module without a block and the network without it."""

MOST = 16
"""Blocks that are looked at, at most: those with most multiplications."""


@dataclass(frozen=True)
class DroppableBlock:
    """A branch of a sum, and the place in the module that can be the identity without it; "" in a plain module."""

    branch: Branch
    path: str = ""


def blocks(own: Own, kept: Sequence[str] = ()) -> list[DroppableBlock]:
    """The branches that a module can do without. `kept`: layers that are left alone.

    A block of somebody's class can be dropped where nothing but its input is left of it; that the module then computes
    what the network without the branch does is tried out.
    """
    if not own.runnable:
        return []
    found: list[DroppableBlock] = []
    macs = {layer.name: layer.cost.macs for layer in count(own.graph).layers}
    ranked = sorted(branches(own.graph), key=lambda b: -sum(macs.get(name, 0) for name in b.layers))
    for branch in ranked[:MOST]:
        if not set(kept).isdisjoint(branch.layers):
            continue
        if own.plain:
            found.append(DroppableBlock(branch))
            continue
        path = _path(own, branch)
        if path and _agrees(own, DroppableBlock(branch, path)):
            found.append(DroppableBlock(branch, path))
    return found


def dropped(own: Own, gone: Sequence[DroppableBlock]) -> Own:
    """The module without these blocks, with the network without their branches, which `_agrees` has tried out: to
    follow a module anew for every set of blocks takes seconds each.
    """
    graph = _without(own.graph, gone)
    if own.plain:
        return Own(torch_format().to_module(graph).eval(), graph, own.batches, True)
    from dojang.formats.torch.write.narrow import without_parts

    return Own(without_parts(own.module, [block.path for block in gone]).eval(), graph, own.batches, False)


def followed(own: Own) -> Own:
    """The same with the graph that is read from the module as it is now. Raises what `read` raises."""
    return own if own.plain else replace(own, graph=read(own.module, own.batches[0]).alone())


def paths(
    own: Own, goal: float, moved: Callable[[Own], float], kept: Sequence[str] = ()
) -> list[tuple[DroppableBlock, ...]]:
    """Sets of blocks, each with one more than the last, until at most `goal` multiplications are left.

    The next block is the one that saves most for what the network without all of them loses. `moved`: how far a network
    is from the original (`slimming.front.cost` makes it add up).
    """
    rest, whole = blocks(own, kept), count(own.graph).total.macs
    lost = dict.fromkeys((block.branch.add for block in rest), 0.0)
    chosen, sets, now, left = list[DroppableBlock](), list[tuple[DroppableBlock, ...]](), 0.0, whole
    while rest and left > goal:
        fresh: set[str] = set()

        def worth(block: DroppableBlock, left: int = left) -> float:
            less = left - count(_without(own.graph, [*chosen, block])).total.macs
            return less / (lost[block.branch.add] + FLOOR)

        while True:  # what a block costs grows as others go, so what was measured before is its least
            best = max(rest, key=worth)
            if best.branch.add in fresh:
                break
            try:
                lost[best.branch.add] = max(cost(moved(dropped(own, [*chosen, best]))) - now, 0.0)
            except DojangError:
                lost[best.branch.add] = float("inf")
            fresh.add(best.branch.add)
        if lost[best.branch.add] == float("inf"):
            break
        now += lost[best.branch.add]
        chosen.append(best)
        sets.append(tuple(chosen))
        shorter = _without(own.graph, chosen)
        left = count(shorter).total.macs
        rest = [b for b in rest if b.branch.add != best.branch.add and b.branch.add in shorter.by_name
                and b.branch.layers[0] in shorter.by_name]  # fmt: skip
    return sets


def _without(graph: Graph, gone: Sequence[DroppableBlock]) -> Graph:
    return without(graph, [block.branch for block in gone])


def _path(own: Own, branch: Branch) -> str:
    """The innermost part of the module that holds all layers of a branch."""
    from dojang.formats.torch.write.parametrised import unwrapped

    names = [own.graph[layer].array("weight").split(".")[:-1] for layer in branch.layers]
    common: list[str] = []
    for parts in zip(*names, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    inner = dict(unwrapped(own.module).named_modules())
    if len(names) == 1:
        common = common[:-1]
    return ".".join(common) if ".".join(common) in inner else ""


def _agrees(own: Own, block: DroppableBlock) -> bool:
    """Whether the module with the identity in place of a block computes the network without the branch."""
    from dojang.training.observed import answers

    shorter, few = dropped(own, [block]), first(own.batches[0], 2)
    try:
        found = answers(shorter.module, [few])
    except Exception:  # it is code of the owner, which may raise anything on another shape
        return False
    try:  # in PyTorch: no kernels have to be compiled for a network that is run once
        plain = torch_format().to_module(shorter.graph).eval().to(entering(few)[0].device)
        wanted = answers(plain, [(tuple(entering(few)), {})])
    except DojangError:
        return False
    if len(found) != len(wanted) or count(shorter.graph).total.macs >= count(own.graph).total.macs:
        return False
    return all(
        a.shape == b.shape and float(np.abs(a - b).max()) <= SAME * max(float(np.abs(b).max()), 1e-30)
        for a, b in zip(found, wanted, strict=True)
    )
