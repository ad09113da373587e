"""Channels that another determines, x_j = s · x_i + t where they are read: by the weights, or as seen on samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dojang.diagnosis.dead import RESOLVED
from dojang.diagnosis.judging import Judging
from dojang.evidence.activations import Statistics
from dojang.evidence.equal_channels import PROPORTIONAL
from dojang.evidence.evidence import Evidence
from dojang.evidence.finding import CHANNEL_KINDS, CONFIDENCE, Finding, NotJudged, bound_after_none

Array = np.ndarray

SAME = 1e-4
"""Largest error of s · x_i + t, relative to the standard deviation of the channel, that counts as the same."""

UNSURE = 0.5
"""Channels that may differ on more than this part of the inputs are not called duplicates: two independent gates, each
open on half of the inputs, agree that often."""

ERROR = "error / standard deviation"
DIFFERENCE = "difference of the weights / largest weight"
"""What the value of a finding is: observed, and proved."""


def _named(findings: Sequence[Finding]) -> dict[str, set[int]]:
    """The channels that findings name already, by layer."""
    named: dict[str, set[int]] = {}
    for f in findings:
        if f.kind in CHANNEL_KINDS and f.kind not in ("duplicate", "repeated"):
            named.setdefault(f.layer, set()).update(f.channels)
    return named


def proven(known: Evidence, found: Sequence[Finding] = (), judging: Judging | None = None) -> list[Finding]:
    """For each layer the groups of channels that the weights make multiples of their first wherever they are read, and
    the channels that are multiples of another layer's.

    Channels that `found` names, constant and dead ones, are left out.
    """
    judging, named = judging or Judging(known), _named(found)
    findings, owners = list[Finding](), dict[int, tuple[str, int, float]]()
    for layer, ends in judging.ends.items():
        labels = [own for e in ends if (own := known.equal[e]) is not None]
        if len(labels) < len(ends) or not labels:
            continue
        alike: dict[tuple[int, ...], list[int]] = {}
        repeated: dict[str, list[tuple[int, int, float]]] = {}
        for i in range(len(labels[0].ids)):
            if i in named.get(layer, set()) or all(known.ranges[e].constant[i] for e in ends):
                continue
            key = tuple(int(own.ids[i]) for own in labels)
            alike.setdefault(key, []).append(i)
            before = [owners.get(label) for label in key]
            if all(o is not None and o[0] != layer for o in before) and before[0] is not None:
                name, channel, factor = before[0]
                repeated.setdefault(name, []).append((i, channel, float(labels[0].factors[i]) / factor))
        for own in labels:
            for i, label in enumerate(own.ids.tolist()):
                owners.setdefault(label, (layer, i, float(own.factors[i])))
        findings += _multiples(layer, ends, alike, labels[0].factors, judging)
        findings += _repeated(layer, ends, repeated)
    return findings


def _multiples(
    layer: str, ends: tuple[str, ...], alike: Mapping[tuple[int, ...], list[int]], factors: Array, judging: Judging
) -> list[Finding]:
    findings: list[Finding] = []
    for same in alike.values():
        if len(same) > 1:
            times = ", ".join(f"{factors[j] / factors[same[0]]:.4g}" for j in same[1:7])
            more = ", ..." if len(same) > 7 else ""
            findings.append(
                Finding(
                    layer, "duplicate", tuple(same), 0.0, PROPORTIONAL,
                    f"proved by the weights: in {ends[0]} the others are {times}{more} times channel {same[0]} on "
                    f"every input, up to float32 rounding of the weights{judging.said_uses(layer)}",
                    "warning", True, DIFFERENCE, ends, "any finite input",
                )
            )  # fmt: skip
    return findings


def _repeated(
    layer: str, ends: tuple[str, ...], repeated: Mapping[str, Sequence[tuple[int, int, float]]]
) -> list[Finding]:
    findings: list[Finding] = []
    for other, own in repeated.items():
        said = ", ".join(f"channel {i} is {s:.4g} times its channel {j}" for i, j, s in own[:4])
        more = ", ..." if len(own) > 4 else ""
        findings.append(
            Finding(
                layer, "repeated", tuple(i for i, _, _ in own), 0.0, PROPORTIONAL,
                f"proved by the weights: {other} computes them already from the same input ({said}{more}), up to "
                "float32 rounding of the weights", "warning", True, DIFFERENCE, ends, "any finite input",
            )
        )  # fmt: skip
    return findings


@dataclass(frozen=True)
class _Group:
    """Channels `others` of a layer that move with channel `lead` at all its ends: s · x + t at each end, (ends, n)."""

    layer: str
    ends: tuple[str, ...]
    lead: int
    others: tuple[int, ...]
    factors: Array
    shifts: Array
    error: float


def observed(
    known: Evidence,
    found: Sequence[Finding] = (),
    limit: float = SAME,
    judging: Judging | None = None,
    unjudged: list[NotJudged] | None = None,
) -> list[Finding]:
    """For each layer the groups of channels that move with their first: x_j = s · x_i + t at every sample and place.

    Candidates follow from the covariance; a second pass over the samples looks at each of them sample by sample, and
    counts the samples that tell: those on which either of the two leaves the value at which it rests. Too few of them
    make no finding, but an entry in `unjudged`. Channels that `found` names as dead, constant or unread are left out,
    and groups that are all proved.
    """
    judging, named = judging or Judging(known), _named(found)
    proved = {(f.layer, c) for f in found if f.kind == "duplicate" for c in f.channels}
    ends = dict.fromkeys(e for own in judging.compared.values() for e in own)
    statistics = known.statistics(ends)
    groups: list[_Group] = []
    for layer, own in judging.compared.items():
        at = [statistics[e] for e in own if e in statistics]
        if len(at) == len(own) and at:
            groups += [
                g for g in _groups(layer, own, at, named.get(layer, set()), limit)
                if not {(layer, c) for c in (g.lead, *g.others)} <= proved
            ]  # fmt: skip
    findings: list[Finding] = []
    for group, telling in _held(known, groups, statistics, limit):
        few = int(telling.min())
        bound = bound_after_none(few, judging.statements)
        samples = statistics[group.ends[0]].samples
        if bound > UNSURE:
            if unjudged is not None:
                unjudged.append(_too_few(group, few, samples, judging))
            continue
        times = ", ".join(_relation(s, t) for s, t in list(zip(group.factors[0], group.shifts[0], strict=True))[:6])
        findings.append(
            Finding(
                group.layer, "duplicate", (group.lead, *group.others), group.error, limit,
                f"in {group.ends[0]} the others were {times}{', ...' if len(group.others) > 6 else ''} times channel "
                f"{group.lead} on all {samples} samples{judging.said_uses(group.layer)}; {few} of these samples tell, "
                f"on which the channels move; each of them departs from this on fewer than {bound:.2%} of inputs on "
                f"which they move (with {CONFIDENCE:.0%} confidence in all {judging.statements:,} statements that were "
                "possible)", "info", False, ERROR, group.ends, "", few, CONFIDENCE,
            )
        )  # fmt: skip
    return findings


def _relation(factor: float, shift: float) -> str:
    return f"{factor:.4g}" + (f" (and {shift:+.4g})" if shift else "")


def _too_few(group: _Group, few: int, samples: int, judging: Judging) -> NotJudged:
    who = ", ".join(map(str, (group.lead, *group.others)))
    return NotJudged(
        group.layer, "duplicate",
        f"channels {who} moved together, but on {few} of {samples} samples only, too few to tell from chance among "
        f"{judging.statements:,} possible statements; look at more samples",
    )  # fmt: skip


def _groups(layer: str, ends: tuple[str, ...], at: Sequence[Statistics], out: set[int], limit: float) -> list[_Group]:
    """Candidates by the covariance: those that move together at every end."""
    size = len(at[0].mean)
    alike, moving_somewhere = np.ones((size, size), bool), np.zeros(size, bool)
    errors, factors, shifts = np.zeros((size, size)), list[Array](), list[Array]()
    for r in at:
        deviation = np.sqrt(np.diag(r.covariance))
        moves = deviation > RESOLVED * r.peak
        scale = np.where(moves, deviation, 1)
        correlation = (r.covariance / scale[:, None] / scale).clip(-1, 1)
        error = np.sqrt(np.clip(1 - correlation**2, 0, None))
        both = moves[:, None] & moves
        alike &= (both & (error <= limit)) | (~moves[:, None] & ~moves)
        errors = np.maximum(errors, np.where(both, error, 0))
        moving_somewhere |= moves
        slope = np.where(both, correlation * scale / scale[:, None], 0)
        shift = r.mean - slope * r.mean[:, None]
        factors.append(slope)
        shifts.append(np.where(np.abs(shift) > 10 * limit * scale, shift, 0))
    groups, taken = list[_Group](), set(out) | set(np.flatnonzero(~moving_somewhere).tolist())
    for i in range(size):
        if i in taken:
            continue
        others = [j for j in np.flatnonzero(alike[i]).tolist() if j > i and j not in taken]
        if others:
            taken.update(others)
            slopes, offsets = (np.array([part[i, others] for part in parts]) for parts in (factors, shifts))
            groups.append(_Group(layer, ends, i, tuple(others), slopes, offsets, float(errors[i, others].max())))
    return groups


def _held(
    known: Evidence, groups: Sequence[_Group], statistics: Mapping[str, Statistics], limit: float
) -> list[tuple[_Group, Array]]:
    """The groups, without the channels that depart on some sample, and for each channel how many samples tell."""
    if not groups:
        return []
    names = list(dict.fromkeys(e for g in groups for e in g.ends))
    right = {id(g): np.ones(len(g.others), bool) for g in groups}
    telling = {id(g): np.zeros((len(g.ends), len(g.others)), int) for g in groups}
    resting = {id(g): np.zeros((2, len(g.ends), len(g.others)), int) for g in groups}
    seen = 0
    for taps in known.activations(names):
        seen += len(taps[names[0]])
        for g in groups:
            for k, end in enumerate(g.ends):
                track = known.channels.tracks[end]
                assert track is not None  # only such values are compared
                value = np.moveaxis(taps[end], track.axis, -1).astype(np.float64)
                value = value.reshape(len(value), -1, value.shape[-1])
                held, rests = _looked_at(value, g, k, statistics[end], limit)
                right[id(g)] &= held
                resting[id(g)][:, k] += rests
    kept: list[tuple[_Group, Array]] = []
    for g in groups:
        telling = seen - resting[id(g)].max(axis=0).min(axis=0)
        own = right[id(g)]
        if own.any():
            others = tuple(c for c, ok in zip(g.others, own, strict=True) if ok)
            group = _Group(g.layer, g.ends, g.lead, others, g.factors[:, own], g.shifts[:, own], g.error)
            kept.append((group, telling[own]))
    return kept


def _looked_at(value: Array, g: _Group, k: int, known: Statistics, limit: float) -> tuple[Array, Array]:
    """Whether each channel of a group holds on every sample (n,), and on how many both rest low, or rest high (2, n).

    A channel rests on a sample where it stays at its least value everywhere (or at its largest).
    """
    lead, others = value[..., g.lead, None], value[..., list(g.others)]
    deviation = np.sqrt(np.diag(known.covariance))[list(g.others)]
    off = np.abs(others - g.factors[k] * lead - _shift(g, k, known)).max(axis=1)
    held = (off <= limit * (10 * deviation + np.abs(others).max(axis=1))).all(axis=0)
    near = 1e-6 * known.peak.astype(np.float64)
    low, high = (known.least, known.most)
    rests: list[Array] = []
    for end, opposite in ((low, high), (high, low)):
        first = (np.abs(lead[..., 0] - end[g.lead]) <= near[g.lead]).all(axis=1)
        own = np.where(g.factors[k] < 0, opposite[list(g.others)], end[list(g.others)])
        rest = (np.abs(others - own) <= near[list(g.others)]).all(axis=1)
        rests.append((first[:, None] & rest).sum(axis=0))
    return held, np.array(rests)


def _shift(g: _Group, k: int, known: Statistics) -> Array:
    """What is added: the means' difference, so that rounding of the factor does not count with the size of the mean."""
    return known.mean[list(g.others)] - g.factors[k] * known.mean[g.lead]
