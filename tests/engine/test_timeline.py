"""Times of steps: each step once, within one call, and in all what the call takes."""

from __future__ import annotations

import numpy as np
import pytest

from dojang.arith.graph import Graph, Node
from dojang.engine.compiled import BuildKey, compile
from dojang.engine.kernels.task import WORDS
from dojang.engine.plan.choose import CallTime
from dojang.engine.timeline import Stamping, Timeline
from dojang.formats import zoo
from dojang.native.clock import WALL
from dojang.native.runtime import Program
from nets import weighted

N = Node.of


def one_by_one() -> Graph:
    """A 1×1 convolution between two changes of layout that each take about as long as it does."""
    return weighted(Graph((N("x", "input", shape=(16, 96, 96)), N("c", "conv", "x", out=16, kernel=(1, 1))), ("c",)))


def chain() -> Graph:
    """Convolutions with batch norms, activations and pooling, which are fused and computed in bands."""
    nodes = [N("x", "input", shape=(3, 96, 96))]
    last = "x"
    for i, out in enumerate((8, 8, 12, 12)):
        nodes += [N(f"c{i}", "conv", last, out=out, kernel=(3, 3), padding=1), N(f"b{i}", "batchnorm", f"c{i}")]
        nodes += [N(f"r{i}", "relu", f"b{i}")]
        last = f"r{i}"
        if i % 2:
            nodes.append(N(f"p{i}", "maxpool", last, kernel=(2, 2)))
            last = f"p{i}"
    return weighted(Graph(tuple(nodes), (last,)))


def by_python() -> Graph:
    """The middle step has no kernel, so that Python computes it between two programs."""
    return weighted(
        Graph(
            (N("x", "input", shape=(8, 64, 64)), N("c", "conv", "x", out=8, kernel=(3, 3), padding=1),
             N("s", "erf", "c"), N("d", "conv", "s", out=8, kernel=(3, 3), padding=1)),
            ("d",),
        )
    )  # fmt: skip


NETS = {
    "layout steps": one_by_one,
    "fused chain": chain,
    "Python between": by_python,
    "residual": lambda: weighted(zoo.load("resnet20-cifar10")),
    "large layers": lambda: weighted(zoo.load("nin-cifar10")),
}


TRIES = 40
"""Measurements of which one has to agree: what disturbs them falls into either side, not into all."""


@pytest.mark.parametrize("name", NETS)
def test_steps_add_up_to_one_call(name: str) -> None:
    """By the processor time of one thread, which stands still while another process has the core."""
    run = compile(NETS[name](), threads=1)
    apart: list[float] = []
    while not apart or (apart[-1] > 0.1 and len(apart) < TRIES):
        plan = run.measured(1, 0.02, cpu=True)
        assert plan.call is not None
        apart.append(abs(plan.measured_s + plan.call.outside_s - plan.call.call_s) / plan.call.call_s)
    assert apart[-1] <= 0.1, f"steps and call differ by {min(apart):.0%} in the best of {len(apart)} tries"
    assert all(choice.measured_s is not None and choice.measured_s > 0 for choice in plan.choices)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", NETS)
def test_a_call_that_is_timed_does_the_steps_of_any_other(name: str, threads: int) -> None:
    """The same kernels in the same order on as many threads, the clock read before the first and behind each step."""
    run = compile(NETS[name](), threads=threads)
    plan = run.measured(1, 0.001)
    assert all(choice.measured_s is not None and choice.measured_s > 0 for choice in plan.choices)
    context = run._lanes.take().contexts[run._build(BuildKey((), 1, frozenset()))]
    timeline = Timeline(context, WALL)
    clock = timeline.stamps.call(0, WORDS).function
    programs = [s for s in context.segments if isinstance(s, Program)]
    timed = [s for s in timeline.segments if isinstance(s, Program)]
    assert [p.threads for p in timed] == [p.threads for p in programs]
    for program, other in zip(programs, timed, strict=True):
        calls = [(call.function, call.units) for call in other.calls if call.function != clock]
        assert calls == [(call.function, call.units) for call in program.calls]
    stamps = sum(call.function == clock for p in timed for call in p.calls)
    stamps += sum(isinstance(s, Stamping) for s in timeline.segments)
    assert stamps == len(context.build.planned.steps) + len(context.segments) == len(timeline.stamps.nanoseconds())
    assert len({first for first, _ in timeline.ends}) == len(timeline.ends)
    assert all(end == first + 1 for first, end in timeline.ends)


def test_the_steps_of_one_value_have_a_time_each() -> None:
    """The convolution c and the change of layout that hands c out are two steps with two times."""
    plan = compile(one_by_one(), threads=1).measured(1, 0.02, cpu=True)
    assert [choice.value for choice in plan.choices] == ["x", "c", "c"]
    times = [choice.measured_s for choice in plan.choices]
    assert len(set(times)) == 3
    assert plan.measured_s == pytest.approx(sum(t or 0 for t in times))


def test_a_call_that_is_timed_answers_as_any_other() -> None:
    graph = chain()
    run = compile(graph, threads=2)
    x = np.random.default_rng(3).standard_normal((1, 3, 96, 96), np.float32)
    before = run(x)
    run.measured(1, 0.01)
    assert np.array_equal(run(x), before)


def test_what_disturbed_the_times_is_said() -> None:
    quiet = CallTime(call_s=1e-3, outside_s=1e-5, runs=100, slowdown=1.02, own_share=0.99)
    assert quiet.doubt(0.95e-3) is None
    assert "do not add up" in str(quiet.doubt(1.7e-3))
    shared = CallTime(1e-3, 1e-5, 100, 1.02, 0.5)
    assert "busy" in str(shared.doubt(0.99e-3))
    assert "50%" in str(shared.doubt(0.99e-3))
    assert "1.80 times" in str(CallTime(1e-3, 1e-5, 100, 1.8, 0.99).doubt(0.99e-3))
