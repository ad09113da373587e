"""Channels that are a positive multiple of another after the activation, as observed on samples."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dojang.diagnose.activations import Response
from dojang.diagnose.finding import Finding

SAME = 1e-4
"""Largest error of the multiple, relative to the size of the channel (root mean square), that counts as the same."""


def duplicates(found: Mapping[str, Response], limit: float = SAME) -> list[Finding]:
    """For each layer the groups of channels that are multiples of their first: x_j ≈ s · x_i with s > 0.

    s is the least-squares multiple, and the error the part of x_j's energy it leaves: both follow from the second
    moments E[x_i x_j], so no second pass over the data is made.
    """
    findings: list[Finding] = []
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
            factors = ", ".join(f"{multiple[j]:.4g}" for j in same[:6]) + (", ..." if len(same) > 6 else "")
            findings.append(
                Finding(
                    layer, "duplicate", (i, *same), float(error[same].max()), limit,
                    f"observed: channels {', '.join(map(str, same))} are {factors} times channel {i} in {r.value} "
                    f"on {r.samples} samples ({r.places} places)", "info",
                )
            )  # fmt: skip
    return findings
