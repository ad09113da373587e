"""A network compiled for this machine: native kernels, one program, memory planned beforehand."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib import import_module
from math import prod
from typing import Any, NamedTuple

import numpy as np

from dojang.arith.graph import Graph, Node
from dojang.arith.open_sizes import at_size, is_open, reference_values, values_for
from dojang.arith.symbol import Expr
from dojang.base.errors import UsageError
from dojang.engine import timeline, verify
from dojang.engine.build import Build, build, held_bytes
from dojang.engine.eight import with_exact_weights
from dojang.engine.kernels.eight.dot import gains
from dojang.engine.kernels.task import on_line
from dojang.engine.lanes import Lanes
from dojang.engine.norms import layer_norms_joined
from dojang.engine.plan.choose import Plan
from dojang.engine.plan.context import AnySize, Chosen, Request
from dojang.engine.plan.network import plan_of
from dojang.engine.reference.operators import (
    RunResult,
    answer,
    batch_of,
    check_arrays,
    check_batch,
    check_inputs,
    random_input,
    refuse_unknown,
    run_reference,
    typed,
)
from dojang.engine.scalars import scalars_joined
from dojang.engine.settle import settled
from dojang.engine.slices import LEAST_IMAGES, slice_images, slices
from dojang.engine.verbose import show
from dojang.engine.whole import whole_numbers
from dojang.native import forks
from dojang.native.machine import Machine
from dojang.native.threads import asked_threads, default_threads

Array = np.ndarray
_FLOAT, _BYTE, _address = np.dtype(np.float32), ctypes.c_char, ctypes.addressof
PRECISIONS = ("fast", "strict")
REFERENCE_SIZE = 448
"""Height and width of the images that kernels are chosen for where a network takes any. One size for all, so that
weights are packed once, and an answer depends on nothing that was run before."""
KEPT_BYTES = 32 << 20
"""Tables and code of the batch sizes that are kept, beside the memory of runs and the weights. Of more, those that were
not used for longest are built anew when they come again."""


def compile(
    graph: Graph,
    threads: int | None = None,
    precision: str = "fast",
    machine: Machine | None = None,
    tune: bool = False,
    release: bool = False,
    batch_size: int = 1,
) -> Compiled:
    """A `Compiled` network. Threads default to `default_threads()`, at most the machine's cores. `tune` chooses by
    measuring instead of predicting: plans, and so the last bits of answers, then differ from run to run.

    Kernels are chosen for batches of `batch_size` and serve all others, so that weights are packed once, and an answer
    depends on nothing that was run before. With `release` each convolution's weights are let go once they are packed,
    so that memory holds them once where the caller keeps no copy; taps may then find weights missing.

    `precision="strict"` allows only algorithms that compute the sums of the definition (no Winograd, no Fourier).
    Raises `GraphError` and `DataError` for weights that are missing or NaN, `UnsupportedError` for unknown operators.
    """
    return Compiled(graph, threads, precision, machine, tune, release, batch_size)


Size = tuple[tuple[str, int], ...]
"""The values of the symbols in an input size, by their names; empty for a network that takes one size."""


class BuildKey(NamedTuple):
    """What a build is made for."""

    size: Size
    batch: int
    taps: frozenset[str]


class Sizes:
    """A network that takes images of any size: the same at each size, and the size that kernels are chosen for."""

    def __init__(self, graph: Graph, batch_size: int) -> None:
        """Infers the shapes at one size, which all sizes share their choices with."""
        self.graph = graph
        self.reference: Size = tuple(sorted(reference_values(graph, REFERENCE_SIZE).items()))
        self.like = at_size(graph, dict(self.reference))
        open_ = frozenset(
            name for name, shape in graph.unit_shapes.items() if any(isinstance(s, Expr) for s in shape or ())
        )
        self.chosen_for = AnySize(self.like.shapes(batch_size), open_)
        self.last: tuple[Size, Graph] = (self.reference, self.like)

    def of(self, x: Array | Mapping[str, Array]) -> Size:
        """The values of the symbols for some inputs, which may not be fit otherwise."""
        nodes = self.graph.inputs
        if isinstance(x, Mapping):
            return self.fitting([_own(node, np.shape(x[node.name])) if node.name in x else () for node in nodes])
        return self.fitting([_own(node, np.shape(x)) for node in nodes])

    def fitting(self, shapes: Sequence[Sequence[int]]) -> Size:
        """The values of the symbols for inputs of these shapes. Raises `ShapeError` where there are none."""
        names = [node.name for node in self.graph.inputs]
        whole = [
            (*node.attrs["shape"][:1], *shape) if _fixed(node) and len(shape) < len(node.attrs["shape"]) else shape
            for node, shape in zip(self.graph.inputs, shapes, strict=True)
        ]
        return tuple(sorted(values_for(self.graph, dict(zip(names, whole, strict=True))).items()))

    def graph_at(self, size: Size) -> Graph:
        """The network at a size; the last one is kept."""
        at, graph = self.last
        if at != size:
            graph = at_size(self.graph, dict(size))
            self.last = size, graph
        return graph

    def filled(self, graph: Graph) -> frozenset[str]:
        """The arrays of constants of one number everywhere whose shapes hold for the size of `graph` alone."""
        fills = (n for n in graph.nodes if n.op == "constant" and n.attrs["fill"] is not None)
        return frozenset(n.array("value") for n in fills if n.name in self.chosen_for.open)

    def slice_images(self, images: int, graph: Graph) -> int:
        """Images of a slice at a size, of so many at the size that kernels are chosen for."""
        pixels = [sum(prod(n.attrs["shape"]) for n in g.inputs) for g in (self.like, graph)]
        return max(LEAST_IMAGES, images * pixels[0] // max(1, pixels[1]) // 4 * 4)


def _fixed(node: Node) -> bool:
    """Whether an input has no axis for a batch."""
    return node.attrs["batch_axis"] < 0


def _own(node: Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an input without the batch, where it has one."""
    return shape if _fixed(node) else shape[1:]


class Compiled:
    """A network that runs natively. Thread-safe; kernels and memory are made when a batch size is first seen."""

    def __init__(
        self,
        graph: Graph,
        threads: int | None = None,
        precision: str = "fast",
        machine: Machine | None = None,
        tune: bool = False,
        release: bool = False,
        batch_size: int = 1,
    ) -> None:
        """Checks the network; see `compile`."""
        refuse_unknown(graph)
        if precision not in PRECISIONS:
            raise UsageError(f"precision {precision!r} is not known; use one of {', '.join(PRECISIONS)}")
        if threads is not None and threads < 1:
            raise UsageError(f"threads must be at least 1, got {threads}")
        if batch_size < 1:
            raise UsageError(f"batch size must be at least 1, got {batch_size}")
        check_arrays(graph)
        # A mapping of its own, so that weights can be let go one by one.
        joined = scalars_joined(layer_norms_joined(graph))
        whole = whole_numbers(joined)
        self._sizes = Sizes(whole, batch_size) if is_open(graph) else None
        self._settled = whole if self._sizes else with_exact_weights(settled(whole))
        if release:
            few = {
                k: a for k, a in graph.weights.items() if joined is not graph and np.asarray(a).nbytes <= SMALL_BYTES
            }
            self._settled = self._settled.replace(weights={**few, **self._settled.weights})
        self.graph = self._settled if release else graph
        if release and joined is not graph:  # as it was given, for taps; with the arrays that there are
            self.graph = graph.replace(weights=self._settled.weights)
        self.machine = machine or Machine.host()
        self.threads = threads or asked_threads() or self.machine.cores
        # A described machine may have more cores than there are: planned for all, run on those, with the same bits.
        self.workers = threads or default_threads(self.machine.cores)
        self.precision, self.tune, self.release, self.batch_size = precision, tune, release, batch_size
        self._slice_images = slice_images(self._sizes.like if self._sizes else self._settled)
        self._chosen: Chosen = {}
        self._packed: dict[str, Array] = {}
        self._begin()

    def _begin(self) -> None:
        """Without builds and memory for runs."""
        self._builds: dict[BuildKey, Build] = {}
        self._bodies: dict[Any, Any] = {}  # the networks of branches and loops, by what they are and their arrays
        self._seen: dict[tuple[int, ...], Build] = {}  # by the shape of the one input
        self._lanes = Lanes(self.machine.cores)
        self._count = itertools.count(1).__next__
        self.after_fork()
        forks.renew(self)

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: the network, the weights as they are packed, what was chosen; no machine code."""
        with self._lock:
            state = {k: v for k, v in self.__dict__.items() if k not in OF_A_PROCESS}
            whole = self.graph is self._settled  # else the arrays that both have are pickled once
            state["graph"], state["_settled"] = _kept(self.graph), None if whole else _kept(self._settled)
            state["_packed"] = dict(self._packed)
            state["_chosen"] = {k: (a.__name__, *rest) for k, (a, *rest) in self._chosen.items()}
            return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Ready to build; arrays begin on cache lines again."""
        self.__dict__.update(state)
        if self._settled is None:
            self._settled = self.graph
        self._packed = {k: on_line(a) for k, a in self._packed.items()}
        self._chosen = {k: (import_module(name), *rest) for k, (name, *rest) in state["_chosen"].items()}
        self._begin()

    def after_fork(self) -> None:
        """In a child process: what another thread was building is built again."""
        self._lock = threading.RLock()  # a signal handler may run a network while one is built

    def __call__(self, x: Array | Mapping[str, Array]) -> Array:
        """The first output for a batch `x` (n, *shape).

        An array of a shape that was seen before takes a shortcut: after a run Python's own code has left the CPU
        cache, so that each Python step costs five to eight times more.
        """
        if type(x) is np.ndarray and x.dtype is _FLOAT:
            build = self._seen.get(x.shape)
            if build is not None:
                try:
                    # A quarter of the time of `x.ctypes.data`.
                    address = _address(_BYTE.from_buffer(x))  # pyright: ignore[reportArgumentType]
                except (TypeError, ValueError):  # gaps, read-only, or empty
                    return self.run(x).outputs[0]
                lanes = self._lanes
                lane = lanes.take()
                build.used = self._count()
                try:
                    context = lane.contexts.get(build)
                    if context is None:
                        context = lane.bind(build)
                    return context.first(address)
                finally:
                    lanes.give(lane, build)
        return self.run(x).outputs[0]

    def run(self, x: Array | Mapping[str, Array], taps: Sequence[str] = ()) -> RunResult:
        """All outputs, and the activations of the nodes named in `taps`, as float32 arrays that the caller owns.

        `x` is one array (n, *shape) of floating point, n from 0 up, or one per input by name. Raises `UsageError` and
        `ShapeError` for inputs that do not fit, `GraphError` for a tap that is not there.
        """
        size = self._sizes.of(x) if self._sizes else ()
        graph = self._graph_of(size)
        fed = check_inputs(graph, x)
        batch = batch_of(graph, fed)
        arrays = [np.asarray(typed(graph, name, a), order="C") for name, a in fed.items()]
        images = self._slice_images
        if self._sizes and images and batch > 2 * LEAST_IMAGES:
            images = self._sizes.slice_images(images, graph)
        pieces = [(0, batch)] if taps else slices(batch, images)
        if len(pieces) > 1:
            return RunResult(self._in_slices(arrays, size, pieces), {})
        wanted = BuildKey(size, batch, frozenset(taps))
        values, build = self._one(arrays, wanted)
        if not taps and len(fed) == 1 and build.short and self._builds.get(wanted) is build:
            self._seen[next(iter(fed.values())).shape] = build
        answers = tuple(answer(self.graph, o, values[o]) for o in self.graph.outputs)
        return RunResult(answers, {name: typed(self.graph, name, values[name]) for name in taps})

    def _one(
        self, arrays: Sequence[Array], wanted: BuildKey, into: Mapping[str, Array] | None = None
    ) -> tuple[dict[str, Array], Build]:
        build = self._build(wanted)
        lane = self._lanes.take()
        build.used = self._count()
        try:
            context = lane.contexts.get(build) or lane.bind(build)
            return context.run(arrays, into or {}), build
        finally:
            self._lanes.give(lane, build)

    def _in_slices(self, arrays: Sequence[Array], size: Size, pieces: Sequence[tuple[int, int]]) -> tuple[Array, ...]:
        """All outputs of a batch whose slices are run one after the other."""
        shapes = self._graph_of(size).shapes(pieces[-1][1])
        whole = {o: np.empty(shapes[o] or (), np.float32) for o in self.graph.outputs}
        for first, end in pieces:
            part = {name: array[first:end] for name, array in whole.items()}
            self._one([a[first:end] for a in arrays], BuildKey(size, end - first, frozenset()), part)
        return tuple(whole[o] for o in self.graph.outputs)

    def plan(self, batch: int = 1, taps: Sequence[str] = (), size: Sequence[int] | None = None) -> Plan:
        """How a batch of this size is run; for a machine that is not here, how it would be. Needs no weights.

        `size` is that of the input without the batch, for networks that take any; else that which their kernels are
        chosen for.
        """
        wanted = BuildKey(self._size(size), batch, frozenset(taps))
        found = self._builds.get(wanted)
        if found is not None:
            return found.plan
        graph = self._graph_for(wanted)
        with self._lock:
            return show("plan", verify.planned(plan_of(graph, self._request(wanted), self._chosen))).public

    def measured(
        self, batch: int = 1, seconds: float = 0.3, cpu: bool = False, size: Sequence[int] | None = None
    ) -> Plan:
        """The plan with the time of each step within one call, and of the call, on random input for so many seconds.

        `cpu`: on one thread, the processor time that the steps took; it stands still while other work runs. `size` is
        as in `plan`.
        """
        at = self._size(size)
        build = self._build(BuildKey(at, batch, frozenset()))
        rng = np.random.default_rng(0)
        inputs = [random_input(n, batch, rng) for n in self._graph_of(at).inputs]
        lane = self._lanes.take()
        try:
            return timeline.measure(lane.contexts.get(build) or lane.bind(build), inputs, seconds, cpu)
        finally:
            self._lanes.give(lane, build)

    @property
    def held_bytes(self) -> int:
        """Bytes that this network holds beside its weights: memory of runs, tables, code."""
        with self._lock:
            return held_bytes(tuple(self._builds.values())) + self._lanes.nbytes

    def _size(self, size: Sequence[int] | None) -> Size:
        """The values of the symbols for an input of a size."""
        if self._sizes is None:
            return ()
        return self._sizes.reference if size is None else self._sizes.fitting([size])

    def _graph_of(self, size: Size) -> Graph:
        """The network at a size, as it was given."""
        return self._sizes.graph_at(size) if self._sizes else self.graph

    def _build(self, wanted: BuildKey) -> Build:
        found = self._builds.get(wanted)
        if found is not None:
            return found
        graph = self._graph_for(wanted)
        with self._lock:
            found = self._builds.get(wanted)
            if found is None:
                shared = self._settled.weights
                made = frozenset[str]() if graph.weights is shared else graph.weights.keys() - shared.keys()
                of_size = made | self._sizes.filled(graph) if self._sizes else made
                found = build(graph, self._request(wanted), self._chosen, self._packed, self.release, of_size)
                for name in shared.keys() - graph.weights.keys() if made else ():
                    assert isinstance(shared, dict)
                    shared.pop(name)  # let go where the network at this size has a mapping of its own
                found.used, found.run_body = self._count(), self._run_body
                self._builds[wanted] = found
                if self._drop_old(found) or (self.release and len(self._builds) == 1):
                    give_back()
        return found

    def _run_body(self, graph: Graph, fed: Mapping[str, Array]) -> Sequence[Array]:
        """Outputs of the network of a branch or a loop, compiled when it is first taken."""
        if not graph.inputs:
            return run_reference(graph, {}).outputs
        key = (id(graph.nodes), *map(id, graph.weights.values()))  # whose owners `_bodies` keeps
        found, _ = self._bodies.get(key, (None, None))
        if found is None:
            if len(self._bodies) >= MOST_BODIES:
                self._bodies.clear()
            found = Compiled(graph, self.threads, self.precision, self.machine, batch_size=self.batch_size)
            self._bodies[key] = found, (graph, tuple(graph.weights.values()))
        return found.run(fed).outputs

    def _graph_for(self, wanted: BuildKey) -> Graph:
        """The network that has the taps, settled where that has them. Raises for names and batches that do not fit."""
        for name in wanted.taps:
            self.graph[name]  # raises for a name that is not there
        if self._sizes is not None:
            graph = self._sizes.graph_at(wanted.size)
            if wanted.batch != self.batch_size:
                check_batch(graph, wanted.batch)
            done, shared = settled(graph), self._settled.weights
            made = {name: array for name, array in done.weights.items() if name not in graph.weights}
            done = done.replace(weights={**shared, **made} if made else shared)  # what is made holds for this size
            there = all(name in done.by_name for name in wanted.taps)
            return done if there else at_size(self.graph, dict(wanted.size))
        check_batch(self.graph, wanted.batch)
        return self._settled if all(name in self._settled.by_name for name in wanted.taps) else self.graph

    def _request(self, wanted: BuildKey) -> Request:
        strict = self.precision == "strict"
        sizes = self._sizes.chosen_for if self._sizes else None
        return Request(
            wanted.batch, self.machine, self.threads, self.workers, strict, wanted.taps, self.batch_size, self.tune,
            sizes, sizes is None and gains(self.machine),
        )  # fmt: skip

    def _drop_old(self, newest: Build) -> bool:
        """Forgets the builds that were not used for longest until the others fit; whether there were any."""
        builds = sorted((b for b in self._builds.values() if b is not newest), key=lambda b: b.used)
        first = 0
        while first < len(builds) and held_bytes([*builds[first:], newest]) > KEPT_BYTES:
            first += 1
        if not first:
            return False
        gone = set(builds[:first])
        self._builds = {k: b for k, b in self._builds.items() if b not in gone}
        self._seen = {s: b for s, b in tuple(self._seen.items()) if b not in gone}
        self._lanes.keep(set(self._builds.values()))
        return True


MOST_BODIES = 64
"""Networks of branches and loops that are kept compiled."""
SMALL_BYTES = 64 << 10
"""Constants that were joined with layers are kept for taps up to this size."""
OF_A_PROCESS = ("_builds", "_bodies", "_seen", "_lanes", "_count", "_lock")
"""What stays when a network is pickled or copied: code, memory of runs, locks."""


def _kept(graph: Graph) -> Graph:
    """A graph that can be pickled: without its source, its arrays read."""
    return graph.alone().replace(weights={name: np.asarray(array) for name, array in graph.weights.items()})


def give_back() -> None:
    """Returns to the system what packing used and freed; glibc keeps up to twice the largest array of it."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # other C libraries
            ctypes.CDLL(None).malloc_trim(0)
