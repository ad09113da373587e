"""Channels that stayed zero on every sample, cut. Bounded: nothing changes on what was seen, and rarely elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np

from dojang.arith.channels import ChannelMap
from dojang.arith.cut import cut
from dojang.arith.graph import Graph
from dojang.engine.session import Session
from dojang.evidence.activations import first
from dojang.evidence.evidence import Evidence
from dojang.evidence.finding import bound_after_none
from dojang.evidence.readers import columns
from dojang.slimming.importance import read_statistics, readers

NAME = "remove-silent-channels"
ANSWERS = ("dead-observed",)
"""The kinds of findings that this cut is made for."""


def silent(known: Evidence) -> tuple[int, ...]:
    """Classes that every reader saw at exactly 0 on all samples (or reads with zero weights), as far as they fit."""
    graph, tied, stats = known.graph, known.channels, read_statistics(known)
    active: set[int] = set()
    read: set[int] = set()
    for node in readers(graph, tied):
        track, found = tied.tracks[node.inputs[0]], stats.get(node.inputs[0])
        if track is None:
            continue
        read.update(track.classes)
        used = np.abs(columns(graph, node)).max(axis=1) > 0
        seen = used if found is None else used & (found.peak > 0)
        active.update(c for i, c in enumerate(track.classes) if seen[i])
    wanted = (c for c in tied.removable if c in read and c not in active)
    return tied.fit(c for c in wanted if not _sums_over_channels(graph, tied, c))


def remove_silent(known: Evidence) -> tuple[Graph, tuple[int, ...], dict[str, Any]] | None:
    """The network without silent channels, the classes, and the check; None where every channel is active.

    The check holds both against each other on samples; `bound_after_none` says how many inputs like them may
    change.
    """
    gone = silent(known)
    if not gone:
        return None
    graph, narrow = known.graph, cut(known.graph, gone, known.channels)
    number = next(iter(read_statistics(known).values())).samples
    some = first(known.finite_samples, 64)
    old, new = Session(graph).run(some).outputs, Session(narrow).run(some).outputs
    scale = max(float(np.abs(a).max()) for a in old) or 1.0
    worst = max(float(np.abs(a - b).max()) for a, b in zip(old, new, strict=True)) / scale
    bound = bound_after_none(number, len(known.channels.removable))
    check = {
        "ok": worst <= 1e-5,
        "samples": number,
        "bound": bound,
        "says": f"these channels were 0 on all {number} samples, so fewer than {bound:.2%} of such inputs change "
        "(for each channel; with 95 % confidence for all of them together)",
        "largest_difference_on_samples_float32": worst,
    }
    return narrow, gone, check


def _sums_over_channels(graph: Graph, tied: ChannelMap, label: int) -> bool:
    """Whether a sum over channels, whose input was not watched, reads a class."""
    carriers = {name for name, _ in tied.carriers[label]}
    return any(reader.op == "reduce_sum" for name in carriers for reader in graph.consumers[name])
