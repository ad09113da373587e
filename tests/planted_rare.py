"""Networks whose channels fire, change or part company so rarely that samples do not show it: their chances are known.

Of a channel that no sample raised, a diagnosis says that it fires on fewer than some part of all inputs. Here that part
is known exactly, so each such statement is right or wrong; `wrong(findings, chances)` gives the wrong ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from scipy.stats import norm
from torch import nn

Array = np.ndarray
STATED = re.compile(r"fewer than ([\d.]+(?:e-?\d+)?) ?%")


class Rare(nn.Module):
    """Channels of `first`: k that open half of the time, and k that open with the chance of each. Of `second`: k that
    open half of the time, k that are the same but on the inputs on which the rare one opens, and k that are 1 but then.
    """

    def __init__(self, chances: Array) -> None:
        super().__init__()
        k = len(chances)
        self.first, self.second, self.last = nn.Linear(2 * k, 2 * k), nn.Linear(2 * k, 3 * k), nn.Linear(3 * k, 3)
        eye, none = torch.eye(k), torch.zeros(k, k)
        with torch.no_grad():
            self.first.weight.copy_(torch.eye(2 * k))
            self.first.bias.copy_(torch.cat([torch.zeros(k), -torch.from_numpy(norm.isf(chances)).float()]))
            rows = [torch.cat([eye, none], 1), torch.cat([eye, 5 * eye], 1), torch.cat([none, -5 * eye], 1)]
            self.second.weight.copy_(torch.cat(rows))
            self.second.bias.copy_(torch.cat([torch.zeros(2 * k), torch.ones(k)]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.second(torch.relu(self.first(x)))))


def drawn(seed: int, samples: int, k: int = 12) -> tuple[Rare, Array, Array]:
    """A network, its samples (normal numbers), and the chances: from a fifth of 1/samples to thirty times it."""
    rng = np.random.default_rng([seed, 11])
    chances = np.exp(rng.uniform(np.log(0.2 / samples), np.log(30 / samples), k))
    return Rare(chances).eval(), rng.normal(size=(samples, 2 * k)).astype(np.float32), chances


def wrong(findings: Iterable[Any], chances: Array) -> tuple[list[str], int]:
    """The statements that are not true, and how many there were. One without a number says "never", which is wrong."""
    k, bad, said = len(chances), list[str](), 0
    sources: Mapping[tuple[str, str], tuple[int, int]] = {
        ("dead-observed", "first"): (k, 2 * k),
        ("constant", "second"): (2 * k, 3 * k),
        ("duplicate", "second"): (k, 2 * k),
    }
    for f in findings:
        start, stop = sources.get((f.kind, f.layer), (0, 0))
        number = STATED.search(f.evidence)
        bound = float(number[1]) / 100 if number else 0.0
        for channel in f.channels:
            if start <= channel < stop:
                said += 1
                true = chances[channel - start]
                if "on which they move" in f.evidence:  # half of the inputs, and those on which the rare channel opens
                    true = true / (0.5 + 0.5 * true)
                if true > bound:
                    bad.append(f"{f.kind} {f.layer} {channel}: {true:.4%} > {bound:.4%}")
    return bad, said
