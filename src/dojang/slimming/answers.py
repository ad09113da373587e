"""Which cut answered which finding, and why the others were not cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from dojang.arith.graph import Node
from dojang.evidence.evidence import Evidence
from dojang.evidence.finding import Finding
from dojang.evidence.readers import columns, reads_channels
from dojang.slimming.absorb import owns_arrays, shared_arrays, stands_on_padding
from dojang.slimming.result import Channels, Edit, Outcome, Refused


def answered(
    findings: Sequence[Finding], kinds: Iterable[str], names: Iterable[str], channels: Channels
) -> tuple[Finding, ...]:
    """The findings that an edit answers: those that name a channel which it removes, and those about one of its layers
    as a whole that are of one of its kinds.
    """
    kinds, names = set(kinds), set(names)
    return tuple(
        f for f in findings
        if (not set(channels.get(f.layer, ())).isdisjoint(f.channels) if f.channels
            else f.kind in kinds and f.layer in names)
    )  # fmt: skip


def unanswered(
    known: Evidence,
    findings: Sequence[Finding],
    edits: Sequence[Edit],
    refused: Sequence[Refused],
    made_for: Mapping[str, str],
    lossless: bool,
) -> list[Refused]:
    """A refusal with its reason for all that findings name and no edit or refusal speaks of.

    `made_for`: the rewrite that is made for each kind of finding; kinds that are not in it only inform.
    """
    found: list[Refused] = []
    for finding in findings:
        if finding.kind not in made_for:
            continue
        made = [*edits, *refused]
        if not finding.channels:
            if not any(finding in one.findings for one in made):
                reason = WITHOUT_LOSS if lossless else NO_FORM
                found.append(Refused(made_for[finding.kind], (finding.layer,), reason, findings=(finding,)))
            continue
        named = {c for one in made if finding in one.findings for c in one.channels.get(finding.layer, ())}
        rest = [c for c in finding.channels if c not in named]
        if len(rest) <= (finding.kind == "duplicate" and len(rest) < len(finding.channels)):
            continue  # of channels that are alike, one stays
        reasons: dict[str, list[int]] = {}
        for channel in rest:
            reasons.setdefault(why_not(known, finding, channel, lossless), []).append(channel)
        for reason, own in reasons.items():
            channels = {finding.layer: tuple(own)}
            found.append(Refused(made_for[finding.kind], (finding.layer,), reason, channels, (finding,)))
    return found


WITHOUT_LOSS = "it would change the answers, and only exact cuts were asked for"
NO_FORM = "no cheaper form of the layer that saves multiplications was reached before the search ended"
ONLY_SEEN = "it was seen on the samples but is not proved, and only exact cuts were asked for"
NOT_CHOSEN = (
    "it was seen on the samples but is not proved, so no exact cut may rely on it; the cuts with loss went where they "
    "saved more time for the accuracy that they lost"
)


def why_not(known: Evidence, finding: Finding, channel: int, lossless: bool) -> str:
    """Why one channel of a finding was neither cut nor offered for cutting."""
    tied = known.channels
    track = tied.tracks[finding.layer]
    if track is None:
        return f"the channels of {finding.layer} are not followed through the network"
    label = track.classes[channel]
    if label in tied.frozen:
        return tied.frozen[label]
    if not tied.fit((label,)):
        return "taken alone it would leave unequal groups in a grouped layer, or a value without channels"
    if not finding.proved and lossless:
        return ONLY_SEEN
    if finding.kind == "dead-observed":
        return _not_silent(known, label, finding.layer) or NOT_CHOSEN
    return _still_needed(known, label, finding.layer) if finding.proved else NOT_CHOSEN


def _reading(known: Evidence, label: int) -> Iterator[tuple[Node, list[int]]]:
    """What mixes the channels of a class with others, and the places at which it reads the class with a weight."""
    graph, tied = known.graph, known.channels
    for node in graph.nodes:
        track = tied.tracks[node.inputs[0]] if node.inputs else None
        if track is None or label not in track.classes:
            continue
        places = [i for i, c in enumerate(track.classes) if c == label]
        if reads_channels(graph, tied, node):
            used = np.abs(columns(graph, node)).max(axis=1) > 0
            yield node, [i for i in places if used[i]]
        elif node.op == "reduce_sum":
            yield node, places


def _tied(known: Evidence, label: int, layer: str) -> str:
    """The channels of other layers that live and die with a class."""
    return ", ".join(f"channel {c} of {name}" for name, c in known.channels.members[label] if name != layer)


def _not_silent(known: Evidence, label: int, layer: str) -> str | None:
    """Why a channel that was 0 on every sample is not silent for those that read it; None where it is."""
    tied = _tied(known, label, layer)
    for node, places in _reading(known, label):
        if node.op == "reduce_sum":
            return f"{node.name} adds it up with other channels"
        found = known.statistics([node.inputs[0]]).get(node.inputs[0])
        if found is not None and any(found.peak[i] > 0 for i in places):
            return f"{node.name} reads it joined with {tied or 'other values'}, which were not 0 on the samples"
    return None


def _still_needed(known: Evidence, label: int, layer: str) -> str:
    """Which reader needs a channel that is proved dead, constant or alike, and why."""
    shared, tied = shared_arrays(known.graph), _tied(known, label, layer)
    for node, places in _reading(known, label):
        value = known.ranges[node.inputs[0]]
        needed = [i for i in places if not value.zero[i]]
        if not needed:
            continue
        if node.op == "reduce_sum":
            return f"{node.name} adds it up with other channels"
        if not owns_arrays(known.graph, node, shared):
            return f"{node.name} reads it and shares its weights with another layer, so they cannot be changed"
        if all(value.constant[i] for i in needed):
            if stands_on_padding(known.graph, node):
                return f"{node.name} pads with zeros, so it needs one constant channel to tell inside from border"
        elif tied:
            return f"it is joined with {tied}, and {node.name} needs the result"
        return f"{node.name} reads it, and none of the channels that it is alike with stands in the same place there"
    return "with it, the groups of a grouped layer or the channels that are tied to it would not fit"


def answers(
    findings: Sequence[Finding], edits: Sequence[Edit], refused: Sequence[Refused], made_for: Mapping[str, str]
) -> tuple[Outcome, ...]:
    """For every finding the edits that answered it, and the refusals that say why the rest of it was not cut."""
    found: list[Outcome] = []
    for finding in findings:
        made = [place for place, edit in enumerate(edits) if finding in edit.findings]
        left = set(finding.channels).difference(*(edits[i].channels.get(finding.layer, ()) for i in made))
        if finding.kind == "duplicate" and made and len(left) == 1:
            left = set[int]()  # of channels that are alike, one stays
        why = [
            place for place, one in enumerate(refused)
            if finding in one.findings and (not made or not left.isdisjoint(one.channels.get(finding.layer, ())))
        ]  # fmt: skip
        found.append(Outcome(finding, tuple(made), tuple(why), finding.kind not in made_for))
    return tuple(found)
