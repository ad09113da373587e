"""How many directions a layer really uses: the energy curves of what enters and what leaves it.

The output curve says what a 1×1 bottleneck of r channels costs: keeping the r leading directions of the outputs loses
exactly the energy of the rest (Zhang et al., "Accelerating Very Deep Convolutional Networks", TPAMI 2016, section 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dojang.evidence.activations import layers
from dojang.evidence.evidence import Evidence
from dojang.evidence.moments import principal_values
from dojang.evidence.readers import reads_channels

Array = np.ndarray

WIDEST = 2048
"""Channels from which on a curve is left out: its covariance has as many rows and columns."""


@dataclass(frozen=True)
class Spectrum:
    """The part of the variance in the first r directions, r = 1 …, of one layer's inputs, outputs and weights.

    `inputs` (ic,) and `outputs` (oc,) from samples, before the activation; `weights` from singular values. A curve of
    more than `WIDEST` channels is empty.
    """

    layer: str
    inputs: tuple[float, ...]
    outputs: tuple[float, ...]
    weights: tuple[float, ...]
    samples: int

    def rank(self, part: float, curve: str = "outputs") -> int:
        """How many directions hold `part` of the energy; 0 where the curve is empty."""
        values = np.asarray(getattr(self, curve))
        return int(np.searchsorted(values, part - 1e-12) + 1) if len(values) else 0

    def to_dict(self) -> dict[str, Any]:
        """Curves, and the ranks that hold 90, 99 and 99.9 % of the output energy."""
        return {
            "layer": self.layer,
            "samples": self.samples,
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "weights": list(self.weights),
            "ranks": {str(p): self.rank(p) for p in (0.9, 0.99, 0.999)},
        }


def energy_curve(energies: Array) -> tuple[float, ...]:
    """Cumulated part of the whole, largest first; all ones when there is no energy."""
    ordered = np.sort(np.asarray(energies, np.float64).clip(0))[::-1]
    total = ordered.sum()
    return tuple((np.cumsum(ordered) / total).tolist()) if total > 0 else (1.0,) * len(ordered)


def watched_values(known: Evidence) -> list[str]:
    """What the curves are taken of: what every layer reads and makes, where it has at most `WIDEST` channels.

    What a dense layer reads along another axis than that of the followed channels (tokens) has no curve.
    """
    graph, tracks = known.graph, known.channels.tracks
    sides = dict.fromkeys(v for n in layers(graph) if reads_channels(graph, known.channels, n)
                          for v in (n.inputs[0], n.name))  # fmt: skip
    sides |= dict.fromkeys(n.name for n in layers(graph))
    return [v for v in sides if (t := tracks[v]) is not None and ((graph.unit_shapes[v] or ())[t.axis] or 0) <= WIDEST]


def spectra(known: Evidence) -> tuple[Spectrum, ...]:
    """The spectrum of every convolution and dense layer whose channels are followed."""
    graph = known.graph
    statistics = known.statistics(watched_values(known))
    energies = {name: principal_values(own.covariance) for name, own in statistics.items()}
    samples = max((own.samples for own in statistics.values()), default=0)
    out: list[Spectrum] = []
    for node in layers(graph):
        if node.name not in statistics:
            continue
        weight = np.asarray(graph.weights[node.array("weight")], np.float64)
        flat = weight.reshape(weight.shape[0], -1)
        flat = flat / (float(np.abs(flat).max(initial=0.0)) or 1.0)
        wide = flat.shape[1] > flat.shape[0]
        squares = principal_values(flat @ flat.T if wide else flat.T @ flat) if min(flat.shape) <= WIDEST else ()
        read = reads_channels(graph, known.channels, node)
        curves = [energy_curve(energies[v]) if v in energies and (read or v == node.name) else ()
                  for v in (node.inputs[0], node.name)]  # fmt: skip
        out.append(Spectrum(node.name, curves[0], curves[1], energy_curve(np.asarray(squares)), samples))
    return tuple(out)
