"""Channels without effect: dead, constant, or read by nobody; proved for every input in the range, apart from observed.

They are followed through norms, activations, pools, joins and layout to all that reads them (`evidence.following`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dojang.diagnosis.judging import Judging
from dojang.evidence.evidence import Evidence
from dojang.evidence.finding import CONFIDENCE, Finding, bound_after_none
from dojang.evidence.following import ALIVE, CONSTANT, UNREAD, ZERO, Seen, Verdict

RESOLVED = 2.0**-21
"""A channel that moves by no more than this part of its own size is constant: four units in the last place."""

SIZE, SPREAD, WEIGHT = "largest size", "spread / largest size", "largest weight that reads it"
"""What the value of a finding is."""


def proved_states(known: Evidence, value: str) -> Seen:
    """What interval bounds prove of the channels of a value."""
    bound = known.ranges[value]
    states = np.where(bound.zero, ZERO, np.where(bound.constant, CONSTANT, ALIVE))
    return Seen(states, np.zeros(len(states)), np.where(bound.constant, bound.lo, 0))


def observed_states(known: Evidence, value: str) -> Seen | None:
    """What the samples show of the channels of a value that was watched; what is proved of it stands."""
    proved, found = proved_states(known, value), known.extremes([value]).get(value)
    if found is None:
        return proved
    peak = found.peak.astype(np.float64)
    moved = (found.most.astype(np.float64) - found.least) / np.maximum(peak, np.finfo(np.float32).tiny)
    silent = found.fired == 0
    states = np.where(silent, ZERO, np.where(moved <= RESOLVED, CONSTANT, ALIVE))
    seen = Seen(states, np.where(silent, peak, moved), found.least.astype(np.float64))
    open_ = proved.states == ALIVE
    pairs = ((seen.states, proved.states), (seen.sizes, proved.sizes), (seen.levels, proved.levels))
    return Seen(*(np.where(open_, a, b) for a, b in pairs))


def proven(known: Evidence, judging: Judging | None = None) -> list[Finding]:
    """Channels that are 0, or another number, at all places where they are read, or that nobody reads."""
    judging = judging or Judging(known)
    assumes = known.assumes
    findings: list[Finding] = []
    found = known.following.judged(lambda value: proved_states(known, value))
    for layer, verdict in judging.verdicts(found).items():
        said = judging.said_uses(layer)
        dead = verdict.of(ZERO)
        if dead:
            norms = judging.said_norms(layer, verdict.where(dead))
            findings.append(
                Finding(
                    layer, "dead-proven", dead, 0.0, 0.0,
                    f"proved by interval bounds: {_named(verdict, dead)} is 0 in these channels for every input with "
                    f"{assumes}{said}{norms}", "warning", True, SIZE, verdict.where(dead), assumes,
                )
            )  # fmt: skip
        same = verdict.of(CONSTANT)
        norms = judging.said_norms(layer, verdict.where(same)) if same else ""
        findings += _constants(layer, verdict, same, assumes, said + norms)
        unread = verdict.of(UNREAD)
        if unread:
            findings.append(_unread(layer, verdict, unread, said))
    return findings + _unread_inputs(known, found)


def _constants(layer: str, verdict: Verdict, same: Sequence[int], assumes: str, said: str) -> list[Finding]:
    """One finding for all channels that are proved to be the same number."""
    findings: list[Finding] = []
    for level in sorted({float(verdict.seen.levels[c]) for c in same}):
        own = tuple(c for c in same if verdict.seen.levels[c] == level)
        findings.append(
            Finding(
                layer, "constant", own, 0.0, 0.0,
                f"proved by interval bounds: {_named(verdict, own)} is {level:.6g} in these channels for every input "
                f"with {assumes}{said}", "warning", True, SPREAD, verdict.where(own), assumes,
            )
        )  # fmt: skip
    return findings


def _unread(layer: str, verdict: Verdict, channels: tuple[int, ...], said: str = "") -> Finding:
    where = verdict.where(channels)
    return Finding(
        layer, "unread", channels, 0.0, 0.0,
        f"proved by the weights: nothing that the network answers depends on these channels; on every path from "
        f"{layer} they are multiplied by 0 or left out (at {', '.join(where)}){said}",
        "warning", True, WEIGHT, where,
    )  # fmt: skip


def _unread_inputs(known: Evidence, found: Mapping[str, Verdict | None]) -> list[Finding]:
    """Channels of the network's inputs that nothing reads; inputs whose channels are not followed, as a whole."""
    findings: list[Finding] = []
    for node in known.graph.inputs:
        verdict = found[node.name]
        unread = verdict.of(UNREAD) if verdict is not None else ()
        if verdict is not None and unread:
            findings.append(_unread(node.name, verdict, unread))
        elif verdict is None and not known.graph.consumers[node.name] and node.name not in known.graph.outputs:
            evidence = f"nothing reads the input {node.name}"
            findings.append(Finding(node.name, "unread", (), 0.0, 0.0, evidence, "warning", True, WEIGHT, (node.name,)))
    return findings


def _named(verdict: Verdict, channels: Sequence[int]) -> str:
    return ", ".join(verdict.where(channels))


def observed(known: Evidence, proved: Sequence[Finding], judging: Judging | None = None) -> list[Finding]:
    """Channels that no sample raised above the threshold, and channels that never moved; the proved ones left out."""
    judging = judging or Judging(known)
    watched = known.following.watched()
    extremes = known.extremes(watched)
    named: dict[str, set[int]] = {}
    for f in proved:
        if f.kind == "unread":
            continue  # whether they are 0 as well is another question
        named.setdefault(f.layer, set()).update(f.channels)
    states = known.following.judged(lambda v: observed_states(known, v) if v in watched else proved_states(known, v))
    verdicts = judging.verdicts(states)
    samples = max((s.samples for s in extremes.values()), default=0)
    limit = bound_after_none(samples, judging.statements)
    moves = bound_after_none(samples - 1, judging.statements)  # the others, held against the first
    sure = f"with {CONFIDENCE:.0%} confidence in all {judging.statements:,} statements that were possible"
    findings: list[Finding] = []
    for layer, verdict in verdicts.items():
        said, but = judging.said_uses(layer), named.get(layer, set())
        dead = verdict.of(ZERO, but)
        if dead:
            level = "0" if known.threshold == 0 else f"0 by more than {known.threshold:g}"
            findings.append(
                Finding(
                    layer, "dead-observed", dead, float(verdict.seen.sizes[list(dead)].max()), known.threshold,
                    f"the output of {_named(verdict, dead)} in these channels did not differ from {level} on any of "
                    f"{samples} samples{said}; each of them is active on fewer than {limit:.2%} of such inputs "
                    f"({sure}){judging.said_norms(layer, verdict.where(dead))}",
                    "info", False, SIZE, verdict.where(dead), "", samples, CONFIDENCE,
                )
            )  # fmt: skip
        still = verdict.of(CONSTANT, but)
        if still and samples > 1:
            findings.append(
                Finding(
                    layer, "constant", still, float(verdict.seen.sizes[list(still)].max()), RESOLVED,
                    f"the output of {_named(verdict, still)} in these channels was the same on all {samples} samples "
                    f"and places, up to {RESOLVED:.2g} of its own size, which is what float32 resolves{said}; each of "
                    f"them differs from this on fewer than {moves:.2%} of such inputs ({sure})"
                    f"{judging.said_norms(layer, verdict.where(still))}",
                    "info", False, SPREAD, verdict.where(still), "", samples, CONFIDENCE,
                )
            )  # fmt: skip
    return findings
