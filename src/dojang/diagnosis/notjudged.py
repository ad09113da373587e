"""What a diagnosis does not look at, and why: said, so that silence can be taken for "nothing found"."""

from __future__ import annotations

import numpy as np

from dojang.arith.field import fields
from dojang.arith.graph import Graph
from dojang.diagnosis.duplicates import SAME
from dojang.diagnosis.judging import WIDEST, Judging
from dojang.evidence.activations import layers, number_of
from dojang.evidence.evidence import Evidence
from dojang.evidence.finding import NotJudged
from dojang.evidence.intervals import RULES
from dojang.evidence.times import CallTimes

CHANNELS = "dead, constant, duplicate, unread"


def proofs(known: Evidence, judging: Judging) -> list[NotJudged]:
    """Where nothing can be proved: channels that are not followed, inputs without a range, operators without bounds."""
    graph, tied = known.graph, known.channels
    found: list[NotJudged] = []
    for node in graph.nodes:
        if node.rule.channels in ("conv", "dense"):
            if tied.tracks[node.name] is None:
                found.append(NotJudged(node.name, CHANNELS, "its channels are not followed: its shape is not known"))
            elif node.rule.channels == "dense" and not _read(known, node.inputs[0], node.name):
                reason = f"it reads {node.inputs[0]} along an axis whose elements are not followed as channels"
                found.append(NotJudged(node.name, "duplicate (proved)", reason))
        elif node.op in ("matmul", "einsum", "dynamic_conv", "deform_conv", "recurrent", "unknown"):
            reason = f"{node.op} mixes channels in a way that is not followed"
            found.append(NotJudged(node.name, CHANNELS, reason))
    ends = _ends_of_following(known)
    if ends:
        more = f" and {len(ends) - 5} others" if len(ends) > 5 else ""
        reason = f"channels are followed up to {', '.join(ends[:5])}{more}, and not behind: their places change there"
        found.append(NotJudged("", CHANNELS, reason))
    open_ = [n.name for n in graph.inputs if not _bounded(known, n.name)]
    if open_:
        reason = f"the range of {', '.join(open_)} is not known, so only what holds for any input is proved"
        found.append(NotJudged("", "dead-proven, constant (by range)", reason))
    without = sorted({n.op for n in graph.nodes if RULES.find(n) is None})
    if without:
        reason = f"no bounds are derived for {', '.join(without)}: nothing is proved by range behind them"
        found.append(NotJudged("", "dead-proven, constant (by range)", reason))
    return found


def _read(known: Evidence, value: str, layer: str) -> bool:
    track, shape = known.channels.tracks[value], known.graph.unit_shapes[value]
    return track is not None and shape is not None and track.axis == len(shape) - 1


def _ends_of_following(known: Evidence) -> list[str]:
    """Where channels of a layer are put elsewhere (as by a pixel shuffle) and are followed no further."""
    graph, following = known.graph, known.following
    ends = dict[str, None]()
    reached = {node.name for node in layers(graph)}
    for node in graph.nodes:
        for value in node.inputs:
            if node.rule.channels in ("conv", "dense") or value not in reached or (following.size(value) or 0) < 2:
                continue
            if following.carried(value, node) is not None:
                reached.add(node.name)
            elif node.rule.channels in ("reshape", "transpose"):
                ends[node.name] = None
    return list(ends)


def _bounded(known: Evidence, name: str) -> bool:
    bound = known.ranges[name]
    return bool(np.isfinite(bound.lo).all() and np.isfinite(bound.hi).all())


def samples(known: Evidence, judging: Judging) -> list[NotJudged]:
    """What needs samples, where there are none; and what is not looked at on samples."""
    if known.samples is None:
        kinds = "dead-observed, constant, duplicate (seen on samples), low-correlation"
        return [NotJudged("", kinds, "there are no samples; give --data")]
    found = [
        NotJudged(name, "duplicate", f"pairs of more than {WIDEST} channels are not compared on samples")
        for name in judging.ends if name not in judging.compared
    ]  # fmt: skip
    if number_of(known.samples) < 2:
        reason = "one sample does not show what changes from one input to another"
        found.append(NotJudged("", "constant (seen on samples)", reason))
    reason = "channels of two layers are compared by the weights only"
    found.append(NotJudged("", "repeated (seen on samples)", reason))
    reason = (
        f"a channel is held against each single other one (within {SAME:g}), and filters by their weights; sums of "
        "several channels are not sought in activations"
    )
    found.append(NotJudged("", "low-rank (seen on samples)", reason))
    return found


def shapes(graph: Graph, times: CallTimes | None) -> list[NotJudged]:
    """Coverage where receptive fields are not known or have no meaning, and times that were not measured."""
    found: list[NotJudged] = []
    convs = [n for n in layers(graph) if n.op != "dense"]
    if convs and len(graph.inputs) != 1:
        reason = f"the network has {len(graph.inputs)} inputs, so the whole input has no one size"
        found.append(NotJudged("", "coverage", reason))
    elif convs:
        known = fields(graph)
        reason = "its receptive field is not known"
        found += [NotJudged(n.name, "coverage", reason) for n in convs if known[n.inputs[0]] is None]
    found += [NotJudged(n.name, "coverage", "transposed convolutions are not judged") for n in convs
              if n.op == "conv_transpose"]  # fmt: skip
    if times is None or times.doubt:
        found.append(NotJudged("", "hot-spot (time)", "no layer was timed" if times is None else times.doubt or ""))
    return found
