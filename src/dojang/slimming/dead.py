"""Channels proved dead, or read by nobody, removed: through sums, concats, pads, flatten and grouped layers."""

from __future__ import annotations

from dojang.arith.channels import channels
from dojang.arith.graph import Graph
from dojang.evidence.intervals import ranges
from dojang.slimming.absorb import absorb
from dojang.slimming.rewrite import Applied, Context, Rewrite


def apply(graph: Graph, context: Context) -> Applied | None:
    """Removes until nothing more is dead: a layer that loses its inputs may leave its own channels unread."""
    layers: dict[str, int] = {}
    new = graph
    while True:
        tied = channels(new)
        done = absorb(new, tied, ranges(new, context.input_range, tied))
        if done is None:
            break
        for name, _ in (pair for c in done.gone for pair in tied.members[c]):
            layers[name] = layers.get(name, 0) + 1
        new = done.graph
    if not layers:
        return None
    found = ", ".join(f"{n} of {name}" for name, n in layers.items())
    return Applied(new, tuple(layers), f"dead or unread channels: {found}")


DEAD = Rewrite("remove-dead-channels", "exact", "channels proved zero or read by nobody are cut", apply)
