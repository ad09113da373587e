"""Planted waste is found, and nothing is told that is not so: a few of the networks of `bench/planted.py`."""

from __future__ import annotations

import copy

import pytest

import dojang
import planted_rare
from dojang.diagnosis import Evidence, diagnose
from planted_draws import TOGETHER, Job, drawn
from planted_judge import found, true
from planted_kinds import CHANNELS, TRAPS
from planted_networks import samples

KINDS = list(CHANNELS)
PACKS = [tuple(KINDS[i : i + TOGETHER]) for i in range(0, len(KINDS), TOGETHER)]
STRUCTURE = [("low rank",), ("groups of filters: 4",)]
LOOKALIKES = [(kind,) for kind in TRAPS if kind != "nothing planted"]
SLOW = [pytest.param(kinds, marks=pytest.mark.slow) for kinds in (*PACKS, *STRUCTURE)]


@pytest.mark.parametrize("kinds", [*SLOW, *LOOKALIKES], ids=", ".join)
def test_what_is_planted_is_found_and_what_is_told_is_true(kinds):
    planted = 0
    for job, net, x, plants in drawn(Job(kinds, 1)):
        graph = dojang.load(copy.deepcopy(net).float(), input_size=net.size)
        findings = diagnose(Evidence(graph, x))
        for p in plants:
            assert p.kind in TRAPS or found(list(findings), p), f"{job}: {p.layer} {p.channels} was not found"
        fresh = samples(net.size, job.seed + 1_000_000)
        for f in findings:
            assert true(net, x, fresh, f, plants) is not False, (
                f"{job}: {f.kind} of {f.layer} is not true: {f.evidence}"
            )
        planted += len(plants)
    assert planted == len(kinds)


@pytest.mark.parametrize("count", [64, 512])
def test_what_is_said_of_rare_channels_holds_over_the_list(count):
    """Of 12 lists of statements about channels whose chances are known at most one may hold a wrong one."""
    bad = said = 0
    for seed in range(12):
        net, x, chances = planted_rare.drawn(seed, count)
        wrong, stated = planted_rare.wrong(diagnose(Evidence(dojang.load(net, input_size=x.shape[1:]), x)), chances)
        bad, said = bad + bool(wrong), said + stated
    assert said > 24
    assert bad <= 1
