"""Cuts straight to a number of multiplications: no step that could be given back is kept."""

from __future__ import annotations

import numpy as np
import pytest

from dojang.arith.channels import channels
from dojang.arith.cost import count
from dojang.arith.cut import cut
from dojang.slimming.oneshot import Ladder, to_macs
from nets import STRUCTURES, weighted


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", ["plain", "mobile", "residual_option_a"])
def test_what_a_target_does_not_need_stays(name, seed):
    """Ladders of random heights and costs; the multiplications are counted on the network that is left."""
    rng = np.random.default_rng(seed)
    graph = weighted(STRUCTURES[name]())
    tied = channels(graph)
    ladders = []
    for bundle in tied.bundles:
        order = [int(c) for c in rng.permutation(bundle)]
        ends = sorted({int(n) for n in rng.integers(1, len(bundle), 3)}) if len(bundle) > 1 else []
        if ends:
            costs = tuple(np.cumsum(rng.random(len(ends))).tolist())
            ladders.append(Ladder(tied.layers(bundle), tuple(tied.fit(order[:n]) for n in ends), costs))
    whole = count(graph).total.macs
    macs = rng.uniform(0.5, 0.95) * whole
    gone = set(to_macs(graph, tied, ladders, "outputs", macs))

    def left(some: set[int]) -> int:
        fitting = tied.fit(sorted(some))
        return count(cut(graph, fitting, tied)).total.macs if fitting else whole

    if left(gone) > macs:  # as few as can be
        assert gone == set(tied.fit(sorted({c for ladder in ladders for c in ladder.gone[-1]})))
        return
    for ladder in ladders:
        taken = [step for step in ladder.gone if set(step) <= gone]
        if taken:
            before = set(taken[-2]) if len(taken) > 1 else set()
            assert left(gone - (set(taken[-1]) - before)) > macs
