"""Times by layer: each step counts once, for the layer that it computes; changes of layout count apart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dojang.engine.compiled import compile
from dojang.engine.plan.choose import CallTime
from dojang.evidence.times import call_times, reliable_rows
from nets import N, conv, net, weighted


def planned():
    graph = weighted(net(conv("c", "x", 8), N("b", "batchnorm", "c"), N("r", "relu", "b"), conv("d", "r", 4, 1)))
    return graph, compile(graph, threads=1).plan()


def test_every_step_counts_once_and_layout_apart() -> None:
    graph, plan = planned()
    values = [choice.value for choice in plan.choices]
    assert values.count("d") == 2  # the convolution, and bringing its answer to channels first
    seconds = [1e-3 * 2**i for i in range(len(values))]
    timed = plan.with_times(seconds, CallTime(sum(seconds) + 5e-4, 5e-4, 10, 1.0, 1.0))
    times = call_times(graph, timed, (100.0, 10.0))
    assert times is not None
    assert times.sum_ms == pytest.approx(1e3 * sum(seconds) + 0.5)
    assert times.sum_ms == pytest.approx(times.call_ms)
    layout = [s for s, choice in zip(seconds, plan.choices, strict=True) if not choice.members]
    assert len(layout) == 2
    assert times.layout_ms == pytest.approx(1e3 * sum(layout))
    by_layer = {row.layer: row.ms for row in times.layers}
    own = {c.value: 1e3 * s for c, s in zip(plan.choices, seconds, strict=True) if c.members}
    assert by_layer == pytest.approx({"c": own["r"], "d": own["d"]})  # c is computed with b and r behind it
    assert {row.layer: row.members for row in times.layers} == {"c": ("c", "b", "r"), "d": ("d",)}


def test_a_chain_in_one_step_has_the_multiplications_of_all() -> None:
    graph, plan = planned()
    step = replace(plan.choices[1], value="d", members=("c", "b", "r", "d"))
    joined = replace(plan, choices=(step,)).with_times([2e-3], CallTime(2e-3, 0.0, 9, 1.0, 1.0))
    times = call_times(graph, joined, (100.0, 10.0))
    assert times is not None
    (row,) = times.layers
    assert (row.layer, row.macs) == ("c", 8 * 3 * 9 * 64 + 4 * 8 * 64)


def test_times_in_doubt_tell_nothing() -> None:
    graph, plan = planned()
    seconds = [1e-3] * len(plan.choices)
    for call_s, told in ((1e-3 * len(seconds), True), (2e-3 * len(seconds), False)):
        times = call_times(graph, plan.with_times(seconds, CallTime(call_s, 0.0, 10, 1.0, 1.0)), (100.0, 10.0))
        assert bool(reliable_rows(times)) == told
    assert call_times(graph, plan, (100.0, 10.0)) is None
