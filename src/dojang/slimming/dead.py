"""Channels proved dead, or read by nobody, removed: through sums, concats, pads, flatten and grouped layers."""

from __future__ import annotations

from dojang.evidence.evidence import Evidence
from dojang.slimming.absorb import absorb_all
from dojang.slimming.rewrite import Applied, Rewrite


def apply(known: Evidence) -> Applied | None:
    """Removes until nothing more is dead: a layer that loses its inputs may leave its own channels unread."""
    return absorb_all(known, "dead or unread channels")


DEAD = Rewrite(
    "remove-dead-channels",
    "exact",
    "channels proved zero or read by nobody are cut",
    apply,
    answers=("dead-proven", "unread"),
)
