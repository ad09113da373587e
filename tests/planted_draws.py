"""Random networks with waste planted into them, for `bench/planted.py` and the tests.

`drawn(job)` draws them. Every plant that it gives was verified by running the network in PyTorch (`planted_truth.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from planted_kinds import PLACES, PLANTERS, STRUCTURE
from planted_networks import ARCHITECTURES, Net, calibrate, network, rounded
from planted_truth import Array, Plant, holds

TOGETHER = 3
"""Plants in channels that share a network."""


def plant(kind: str, net: Net, x: Array, rng: np.random.Generator, taken: set[str]) -> Plant | None:
    """Plants one kind, rounds all weights to float32, and calibrates batch norms again where the plant asks for it."""
    with torch.no_grad():
        made = PLANTERS[kind](net, x, rng, taken)
        if made is not None and kind in STRUCTURE:
            calibrate(net, x)
        if made is not None:
            rounded(net)
    return made


@dataclass
class Job:
    """Kinds that are to be planted, by the number of the try: a rule that draws networks from there on."""

    kinds: tuple[str, ...]
    number: int
    architecture: str = ""
    seed: int = 0
    width: int = 0


def drawn(job: Job) -> Iterator[tuple[Job, Net, Array, list[Plant]]]:
    """Networks until each kind of the job has been planted: architectures in turn, widths 16 and 32.

    A kind that finds no place in 40 networks is left out.
    """
    waiting = list(job.kinds)
    for attempt in range(40):
        if not waiting:
            return
        first = waiting[0]
        places = PLACES.get(first, tuple(ARCHITECTURES))
        at = job.number + attempt + list(PLANTERS).index(first)
        name, seed = places[at % len(places)], 1000 * job.number + 40 * list(PLANTERS).index(first) + attempt
        width = 32 if first.startswith("groups") else (16, 32)[seed // 40 % 2]
        net, x = network(name, seed, width)
        rng, taken, planted = np.random.default_rng([seed, 5]), set[str](), list[Plant]()
        for kind in list(waiting):
            before = copy.deepcopy(net)
            made = plant(kind, net, x, rng, taken)
            if made is None:
                continue
            if all(holds(net, x, p) for p in (*planted, made)):
                planted.append(made)
                waiting.remove(kind)
            else:
                net = before
        if planted:
            yield Job(tuple(p.kind for p in planted), job.number, name, seed, width), net, x, planted
