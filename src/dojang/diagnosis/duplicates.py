"""Channels that are a positive multiple of another after the activation: by the weights, or as observed on samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dojang.arith.channels import ChannelMap
from dojang.arith.graph import Graph
from dojang.evidence.activations import Response, activated, layers
from dojang.evidence.equal_channels import PROPORTIONAL, numbers
from dojang.evidence.finding import Finding
from dojang.evidence.intervals import Range

SAME = 1e-4
"""Largest error of the multiple, relative to the size of the channel (root mean square), that counts as the same."""


def proven(graph: Graph, tied: ChannelMap, bound: Mapping[str, Range]) -> list[Finding]:
    """For each layer the groups of channels that the weights make multiples of their first, on every input.

    Constant channels are left to the finding of that name.
    """
    numbered, findings = numbers(graph, tied), list[Finding]()
    for node in layers(graph):
        value = activated(graph, node.name)
        own = numbered[value]
        if own is None:
            continue
        alike: dict[int, list[int]] = {}
        for i, label in enumerate(own.ids.tolist()):
            if not bound[value].constant[i]:
                alike.setdefault(label, []).append(i)
        for same in alike.values():
            if len(same) > 1:
                factors = ", ".join(f"{own.factors[j] / own.factors[same[0]]:.4g}" for j in same[1:7])
                more = ", ..." if len(same) > 7 else ""
                findings.append(
                    Finding(
                        node.name, "duplicate", tuple(same), 0.0, PROPORTIONAL,
                        f"proved: by the weights these channels are {factors}{more} times channel {same[0]} in {value} "
                        "on every input, up to float32 rounding of the weights", "warning",
                    )
                )  # fmt: skip
    return findings


def observed(found: Mapping[str, Response], known: Sequence[Finding] = (), limit: float = SAME) -> list[Finding]:
    """For each layer the groups of channels that are multiples of their first: x_j ≈ s · x_i with s > 0.

    s is the least-squares multiple, and the error the part of x_j's energy it leaves: both follow from the second
    moments E[x_i x_j], so no second pass over the data is made. Groups that are all proved (`known`) are left out.
    """
    findings: list[Finding] = []
    proved = {(f.layer, c) for f in known if f.kind == "duplicate" for c in f.channels}
    for layer, r in found.items():
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
            if {(layer, c) for c in (i, *same)} <= proved:
                continue
            factors = ", ".join(f"{multiple[j]:.4g}" for j in same[:6]) + (", ..." if len(same) > 6 else "")
            findings.append(
                Finding(
                    layer, "duplicate", (i, *same), float(error[same].max()), limit,
                    f"observed: channels {', '.join(map(str, same))} are {factors} times channel {i} in {r.value} "
                    f"on {r.samples} samples ({r.places} places)", "info",
                )
            )  # fmt: skip
    return findings
