"""The passes of the engine: plans from shapes alone, checks between passes, what DOJANG_VERBOSE prints, their pages."""

import importlib
import re
from collections.abc import Mapping
from dataclasses import replace
from math import isfinite
from pathlib import Path

import numpy as np
import pytest

from dojang.app.runtimes import predictor
from dojang.arith.conv import Conv
from dojang.arith.graph import Graph, Node
from dojang.arith.ops import OPS
from dojang.base.errors import UsageError
from dojang.engine import build as passes
from dojang.engine import verify
from dojang.engine.build import emit
from dojang.engine.compiled import BuildKey, Compiled
from dojang.engine.fuse import fuse
from dojang.engine.kernels.conv import ALGORITHMS, fallback
from dojang.engine.kernels.task import Offer, Refusal, Task
from dojang.engine.lower.network import lower
from dojang.engine.pack import pack
from dojang.engine.plan.context import Request
from dojang.engine.plan.network import plan_of
from dojang.engine.plan.rules.table import RULES, WITH_CONSTANTS
from dojang.engine.plan.steps import KernelStep
from dojang.engine.reference.operators import run_reference
from dojang.engine.verify import PassError
from dojang.formats import zoo
from machines import EVERY, RUNNABLE

DOCS = Path(__file__).parents[2] / "docs"
SOURCE = Path(__file__).parents[2] / "src" / "dojang"
N = Node.of
MACHINE = RUNNABLE[0]
REQUEST = Request(2, MACHINE, 2)


class Untouchable(Mapping):
    """Weights that nobody may read."""

    def __getitem__(self, key):
        raise AssertionError(f"{key} was read")

    def __iter__(self):
        raise AssertionError("weights were listed")

    def __len__(self):
        return 1


def net():
    """A concatenation, an addition, a shape that changes, a step in Python."""
    return Graph(
        (
            N("x", "input", shape=(8, 9, 10)),
            N("a", "conv", "x", out=16, kernel=(3, 3), padding=1),
            N("b", "conv", "x", out=16, kernel=(1, 1)),
            N("r", "relu", "b"),
            N("s", "add", "a", "r"),
            N("c", "concat", "s", "r", axis=1),
            N("p", "maxpool", "c", kernel=(3, 3), stride=2),
            N("q", "einsum", "p", equation="abcd->abcd"),
            N("f", "flatten", "q"),
            N("d", "dense", "f", out=5),
        ),
        ("d",),
        "net",
    )


def filled(graph):
    rng = np.random.default_rng(0)
    return graph.replace(weights={k: rng.standard_normal(s).astype("f4") for k, s in graph.param_shapes.items()})


@pytest.mark.parametrize("name", ["digits-cnn", "resnet20-cifar10", "mobilenet-v2"])
def test_a_plan_needs_no_weights(name):
    graph = zoo.load(name, weights=False)
    for machine in EVERY:
        request = Request(1, machine, machine.cores)
        blind = plan_of(graph.replace(weights=Untouchable()), request)
        assert blind.public.choices == plan_of(filled(graph), request).public.choices
        assert blind.public.predicted_s > 0
    assert not blind.public.in_python


def test_predicting_a_candidate_reads_no_weights():
    predict = predictor("dojang", 1)
    assert predict is not None
    small, large = (zoo.load(n, weights=False).replace(weights=Untouchable()) for n in ("digits-cnn", "resnet18"))
    assert 0 < predict(small) < predict(large)


def test_the_plan_is_what_is_built():
    graph = filled(net())
    run = Compiled(graph, threads=2, machine=MACHINE)
    planned = run.plan(3)  # before anything is built
    assert not run._builds
    run(np.zeros((3, 8, 9, 10), "f4"))
    assert run._builds[BuildKey((), 3, frozenset())].plan == planned == run.plan(3)
    assert planned.in_python == ("q",)


def test_small_networks_run_on_one_thread():
    """However many they are planned for; large ones on as many as were asked for."""
    small, large = (zoo.load(n, weights=False) for n in ("digits-cnn", "resnet18"))
    for machine in EVERY[:2]:
        assert plan_of(small, Request(1, machine, 4)).run_threads == 1
        assert plan_of(large, Request(1, machine, 4)).run_threads == 4
        assert plan_of(large, Request(1, machine, 4, workers=3)).run_threads == 3


def test_times_are_predicted_for_the_threads_that_run():
    """Each step as the offers are, seconds of one core for an image: at once, or shared by as many as run it."""
    for name, threads, run_threads in (("digits-cnn", 4, 1), ("digits-cnn", 1, 1), ("resnet18", 4, 4)):
        for machine in EVERY[:2]:
            planned = plan_of(zoo.load(name, weights=False), Request(1, machine, threads))
            assert planned.public.run_threads == run_threads
            checked = 0
            for step in planned.steps:
                if isinstance(step, KernelStep) and isinstance(step.task, Task) and step.kernel in ALGORITHMS:
                    offer = step.kernel.offer(step.task, planned.machine)
                    assert step.choice.predicted_s == pytest.approx(offer.seconds / run_threads)
                    checked += 1
            assert checked > 1


def test_a_constant_exponent_is_planned_in_python_without_its_number():
    nodes = (
        N("x", "input", shape=(4, 5)),
        N("e", "constant", shape=()),
        N("y", "pow", "x", "e"),
    )
    graph = Graph(nodes, ("y",))
    (key,) = graph.param_shapes
    planned = [plan_of(graph.replace(weights=w), REQUEST).public.in_python for w in ({}, {key: np.float32(2)})]
    assert planned == [("y",), ()]


def test_what_is_packed_stays_when_a_later_pass_fails(monkeypatch):
    """The originals are gone by then: the next call must not need them."""
    graph, x = filled(net()), np.random.default_rng(1).standard_normal((2, 8, 9, 10)).astype("f4")
    run = Compiled(graph, machine=MACHINE, release=True)

    def fails(*_):
        raise MemoryError

    monkeypatch.setattr(passes.jit, "load_recipes", fails)
    with pytest.raises(MemoryError):
        run(x)
    assert not any(name.endswith("weight") for name in run.graph.weights)
    monkeypatch.undo()
    exact = run_reference(graph, {"x": x}, np.float64).outputs[0]
    assert np.abs(run(x) - exact).max() <= 1e-5 * np.abs(exact).max()


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.NAME)
def test_algorithms_make_offers(algorithm):
    """A finite time, or a reason."""
    problems = [
        Conv.of(16, 32, (9, 11), 3, padding=1), Conv.of(32, 32, (9, 11), 3, groups=32), Conv.of(64, 10, (1,), 1),
        Conv.of(8, 8, (30, 30), 9, padding=4), Conv.of(32, 16, (7, 7), 1), Conv.of(8, 4, (5, 6), 3, transposed=True),
        Conv.of(32, 32, (9, 9), 3, groups=8),
    ]  # fmt: skip
    offers = [algorithm.offer(Task.of(c), machine) for c in problems for machine in EVERY]
    assert all((isinstance(o, Refusal) and o.reason) or (isinstance(o, Offer) and o.seconds > 0) for o in offers)
    assert all(isfinite(o.seconds) for o in offers if isinstance(o, Offer))
    assert any(isinstance(o, Offer) for o in offers)
    assert algorithm is fallback or any(isinstance(o, Refusal) for o in offers)


def test_rules_are_for_operators_that_there_are():
    assert set(RULES) | set(WITH_CONSTANTS) <= set(OPS)


# -- checks between passes -------------------------------------------------------------------------------------------


def sound():
    """The results of all passes before machine code."""
    graph = filled(net())
    fused = verify.fused(fuse(graph, graph.shapes(2), frozenset()))
    planned = verify.planned(plan_of(graph, REQUEST))
    return fused, planned, verify.lowered(lower(planned))


def test_groups_out_of_order_and_missing_are_told():
    fused, _, _ = sound()
    with pytest.raises(PassError, match="which is made later"):
        verify.fused(replace(fused, groups=fused.groups[::-1]))
    with pytest.raises(PassError, match="nodes in no group"):
        verify.fused(replace(fused, groups=fused.groups[1:]))


def test_plans_that_cannot_be_are_told():
    _, planned, _ = sound()
    with pytest.raises(PassError, match="has no step"):
        verify.planned(replace(planned, steps=planned.steps[:-1], places={}))
    with pytest.raises(PassError, match="goes beyond buffer"):
        verify.planned(replace(planned, buffers=tuple(b - 4 for b in planned.buffers)))
    first, *rest = planned.steps
    for seconds in (float("nan"), -1.0):
        wrong = replace(first, choice=replace(first.choice, predicted_s=seconds))
        with pytest.raises(PassError, match="is predicted to take"):
            verify.planned(replace(planned, steps=(wrong, *rest)))


def test_buffers_that_overlap_are_told():
    _, _, low = sound()
    areas = replace(low.areas, offsets=(0,) * len(low.areas.offsets))
    with pytest.raises(PassError, match="live at the same time in the same place"):
        verify.lowered(replace(low, areas=areas))
    with pytest.raises(PassError, match="behind"):
        verify.lowered(replace(low, scratch_at=low.scratch_at // 2))


def test_steps_without_kernels_or_weights_are_told():
    _, planned, low = sound()
    recipes = verify.emitted(emit(low), low)
    with pytest.raises(PassError, match="0 kernels"):
        verify.emitted([[] for _ in recipes], low)
    arrays: dict = {}
    pack(planned, arrays, release=False)
    verify.packed(arrays, planned)
    del arrays[next(k for k in arrays if k.startswith("a "))]
    with pytest.raises(PassError, match="which is not packed"):
        verify.packed(arrays, planned)


# -- what is printed ---------------------------------------------------------------------------------------------------


def test_passes_print_their_results(monkeypatch, capsys):
    monkeypatch.setenv("DOJANG_VERBOSE", "fuse,plan, lower,pack,emit,native")
    Compiled(filled(net()), threads=2, machine=MACHINE)(np.zeros((2, 8, 9, 10), "f4"))
    said = capsys.readouterr()
    assert said.out == ""
    parts = dict(re.findall(r"(?ms)^-- (\w+)\n(.*?)(?=^-- |\Z)", said.err))
    assert list(parts) == ["fuse", "plan", "lower", "pack", "emit", "native"]
    assert "s: a s of x + r" in parts["fuse"]
    assert "net, batch 2: planned for 2 threads" in parts["plan"]
    assert re.search(r"(?m)^q: reference functions of q$", parts["lower"])
    assert parts["emit"].count("define") >= 3
    assert "bytes in" in parts["pack"]


def test_one_pass_alone_and_none(monkeypatch, capsys):
    for said, wanted in (("lower", ["lower"]), ("", [])):
        monkeypatch.setenv("DOJANG_VERBOSE", said)
        Compiled(filled(net()), machine=MACHINE)(np.zeros((1, 8, 9, 10), "f4"))
        assert re.findall(r"(?m)^-- (\w+)$", capsys.readouterr().err) == wanted


def test_a_pass_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("DOJANG_VERBOSE", "plan,lowre")
    with pytest.raises(UsageError, match="no pass 'lowre'; did you mean lower"):
        Compiled(filled(net()), machine=MACHINE)(np.zeros((1, 8, 9, 10), "f4"))


# -- pages -------------------------------------------------------------------------------------------------------------


def test_the_functions_of_the_page_exist():
    names = re.findall(r"`(dojang\.[\w.]+)`", (DOCS / "conv-to-machine-code.md").read_text())
    assert len(names) > 25
    for name in names:
        parts = name.split(".")
        for cut in range(len(parts) - 1, 0, -1):
            try:
                found = importlib.import_module(".".join(parts[:cut]))
            except ModuleNotFoundError:
                continue
            for part in parts[cut:]:
                found = getattr(found, part)
            assert callable(found), name
            break


def test_the_page_names_every_file_of_the_engine():
    page = (DOCS / "engine.md").read_text()
    for room in ("engine", "native"):
        begin = page.index("|---|", page.index(f"In `src/dojang/{room}/`:"))
        table = page[begin : page.index("\n\n", begin)]
        named = re.findall(r"`([\w/]+(?:\.py|/))`", table)
        assert all((SOURCE / room / name).exists() for name in named), named
        folders = tuple(name for name in named if name.endswith("/"))
        files = {str(p.relative_to(SOURCE / room)) for p in (SOURCE / room).rglob("*.py") if p.name != "__init__.py"}
        assert {f for f in files if not f.startswith(folders or ("-",))} <= set(named)


def test_kernel_steps_have_a_kernel_with_an_offer():
    _, planned, _ = sound()
    for step in planned.steps:
        if isinstance(step, KernelStep):
            assert isinstance(step.kernel.offer(step.task, planned.machine), Offer)
