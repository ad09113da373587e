"""Channels that are a positive multiple of another after the activation: by the weights, or as observed on samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dojang.evidence.activations import activated, layers
from dojang.evidence.equal_channels import PROPORTIONAL
from dojang.evidence.evidence import Evidence
from dojang.evidence.finding import Finding

SAME = 1e-4
"""Largest error of the multiple, relative to the size of the channel (root mean square), that counts as the same."""


def proven(known: Evidence) -> list[Finding]:
    """For each layer the groups of channels that the weights make multiples of their first, on every input.

    Constant channels are left to the finding of that name.
    """
    findings = list[Finding]()
    for node in layers(known.graph):
        value = activated(known.graph, node.name)
        own = known.equal[value]
        if own is None:
            continue
        alike: dict[int, list[int]] = {}
        for i, label in enumerate(own.ids.tolist()):
            if not known.ranges[value].constant[i]:
                alike.setdefault(label, []).append(i)
        for same in alike.values():
            if len(same) > 1:
                factors = ", ".join(f"{own.factors[j] / own.factors[same[0]]:.4g}" for j in same[1:7])
                more = ", ..." if len(same) > 7 else ""
                findings.append(
                    Finding(
                        node.name, "duplicate", tuple(same), 0.0, PROPORTIONAL,
                        f"proved by the weights: in {value} the others are {factors}{more} times channel {same[0]} "
                        "on every input, up to float32 rounding of the weights", "warning", proved=True,
                    )
                )  # fmt: skip
    return findings


def observed(known: Evidence, proved: Sequence[Finding] = (), limit: float = SAME) -> list[Finding]:
    """For each layer the groups of channels that are multiples of their first: x_j ≈ s · x_i with s > 0.

    s is the least-squares multiple, and the error the part of x_j's energy it leaves: both follow from the second
    moments E[x_i x_j], so no second pass over the data is made. Groups that are all proved are left out.
    """
    findings: list[Finding] = []
    named = {(f.layer, c) for f in proved if f.kind == "duplicate" for c in f.channels}
    values = {node.name: activated(known.graph, node.name) for node in layers(known.graph)}
    statistics = known.statistics(values.values())
    for layer, value in values.items():
        r = statistics.get(value)
        if r is None:
            continue
        moment = r.covariance + np.outer(r.mean, r.mean)
        energy = np.diag(moment)
        alive = energy > 1e-12 * max(float(energy.max(initial=0.0)), 1e-30)
        taken: set[int] = set()
        for i in range(len(energy)):
            if i in taken or not alive[i]:
                continue
            multiple = moment[i] / energy[i]
            left = 1 - moment[i] ** 2 / np.where(alive, energy[i] * energy, 1)
            error = np.sqrt(np.clip(left, 0, None))
            same = [
                j
                for j in range(i + 1, len(energy))
                if alive[j] and j not in taken and error[j] <= limit and multiple[j] > 0
            ]
            if not same:
                continue
            taken.update(same)
            if {(layer, c) for c in (i, *same)} <= named:
                continue
            factors = ", ".join(f"{multiple[j]:.4g}" for j in same[:6]) + (", ..." if len(same) > 6 else "")
            findings.append(
                Finding(
                    layer, "duplicate", (i, *same), float(error[same].max()), limit,
                    f"in {value} the others were {factors} times channel {i} on all {r.samples} samples "
                    f"({r.rows} places compared)", "info",
                )
            )  # fmt: skip
    return findings
