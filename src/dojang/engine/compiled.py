"""A network compiled for this machine: native kernels, one program, memory planned beforehand."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
import time
from collections.abc import Mapping, Sequence

import numpy as np

from dojang.arith.graph import Graph
from dojang.arith.ops import UNKNOWN
from dojang.base.errors import UnsupportedError, UsageError
from dojang.engine import jit
from dojang.engine.algorithms import task as t
from dojang.engine.calls import HostCall, KernelCall, Lowered, Place
from dojang.engine.lower import Lowering
from dojang.engine.machine import Machine, usable_cores
from dojang.engine.plan import Plan
from dojang.engine.reference import Result, apply, check_arrays, check_batch, check_inputs
from dojang.engine.runtime import Call, Program
from dojang.engine.settle import settled

Array = np.ndarray
_FLOAT, _BYTE, _address = np.dtype(np.float32), ctypes.c_char, ctypes.addressof
PRECISIONS = ("fast", "strict")
SMALL_S = 60e-6  # predicted seconds below which helpers cost more than they give; measured on 2 cores, 2026
LEAST_FETCHED = 8 << 10  # bytes of weights that are worth fetching ahead
MOST_IDLE = 4  # memory of finished runs that is kept per batch size, for callers on several threads


def compile(
    graph: Graph,
    threads: int | None = None,
    precision: str = "fast",
    machine: Machine | None = None,
    tune: bool = False,
    release: bool = False,
) -> Compiled:
    """A `Compiled` network. Threads default to the cores that this process may use. `tune` chooses by measuring
    instead of predicting: plans, and so the last bits of answers, then differ from run to run and machine to machine.

    With `release` each convolution's weights are let go once they are packed, so that memory holds them once where
    the caller keeps no copy. Kernels are then chosen by the first batch size, and taps may find weights missing.

    `precision="strict"` allows only algorithms that compute the sums of the definition (no Winograd, no Fourier).
    Raises `GraphError` and `DataError` for weights that are missing or NaN, `UnsupportedError` for unknown operators.
    """
    return Compiled(graph, threads, precision, machine, tune, release)


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
    ) -> None:
        """Checks the network; see `compile`."""
        for node in graph.nodes:
            if node.op == UNKNOWN:
                raise UnsupportedError(
                    f"{node.name}: operator {node.attrs['kind']} cannot be run; "
                    "replace it by known operators or cut the network before it"
                )
        if precision not in PRECISIONS:
            raise UsageError(f"precision {precision!r} is not known; use one of {', '.join(PRECISIONS)}")
        if threads is not None and threads < 1:
            raise UsageError(f"threads must be at least 1, got {threads}")
        check_arrays(graph)
        # A mapping of its own, so that weights can be let go one by one.
        self._settled = settled(graph)
        if release:
            self._settled = self._settled.replace(weights=dict(self._settled.weights))
        self.graph = self._settled if release else graph
        self.machine = machine or Machine.host()
        self.threads = threads or self.machine.cores
        # A described machine may have more cores than there are: planned for all, run on those, with the same bits.
        self.workers = threads or min(self.machine.cores, usable_cores())
        self.precision, self.tune, self.release = precision, tune, release
        self._like: int | None = None
        self._packed: dict[str, Array] = {}
        self._builds: dict[tuple[int, frozenset[str]], Build] = {}
        self._seen: dict[tuple[int, ...], Build] = {}  # by the shape of the one input
        self._lock = threading.Lock()

    def __call__(self, x: Array | Mapping[str, Array]) -> Array:
        """The first output for a batch `x` (n, *shape).

        An array like one that was seen before goes a short way: a run leaves nothing of Python in the caches, so that
        a microsecond of it takes five to eight when it comes after one.
        """
        if type(x) is np.ndarray and x.dtype is _FLOAT:
            build = self._seen.get(x.shape)
            if build is not None:
                try:
                    # A quarter of the time of `x.ctypes.data`.
                    address = _address(_BYTE.from_buffer(x))  # pyright: ignore[reportArgumentType]
                except (TypeError, ValueError):  # gaps, read-only, or empty
                    return self.run(x).outputs[0]
                context = build.take()
                try:
                    return context.first(address)
                finally:
                    build.give(context)
        return self.run(x).outputs[0]

    def run(self, x: Array | Mapping[str, Array], taps: Sequence[str] = ()) -> Result:
        """All outputs, and the activations of the nodes named in `taps`, as float32 arrays that the caller owns.

        `x` is one array (n, *shape) of floating point, n from 0 up, or one per input by name. Raises `UsageError` and
        `ShapeError` for inputs that do not fit, `GraphError` for a tap that is not there.
        """
        fed = check_inputs(self.graph, x)
        batch = next((len(array) for array in fed.values()), 1)
        build = self._build(batch, frozenset(taps))
        context = build.take()
        try:
            values = context.run([np.ascontiguousarray(a, np.float32) for a in fed.values()])
        finally:
            build.give(context)
        if not taps and len(fed) == 1 and context.short is not None:
            self._seen[next(iter(fed.values())).shape] = build
        return Result(tuple(values[o] for o in self.graph.outputs), {name: values[name] for name in taps})

    def plan(self, batch: int = 1, taps: Sequence[str] = ()) -> Plan:
        """How a batch of this size is run; for a machine that is not here, how it would be."""
        if not self.machine.runs_here:
            check_batch(self.graph, batch)
            graph, strict = self._settled, self.precision == "strict"
            low = Lowering(graph, batch, self.machine, self.threads, strict, frozenset(taps), {}, self.tune, self._like)
            return self._planned(batch, low.run())
        return self._build(batch, frozenset(taps)).plan

    def _planned(self, batch: int, lowered: Lowered) -> Plan:
        """What was chosen, with what it was chosen for."""
        choices = tuple(call.choice for call in lowered.calls)
        m = self.machine
        return Plan(
            self.graph.name, batch, self.threads, m.isa, self.precision, choices, m.name, m.source, m.peaks, self.tune
        )

    def measured(self, batch: int = 1, seconds: float = 0.3) -> Plan:
        """The plan with the median time of each step, from runs on random input for about so many seconds."""
        build = self._build(batch, frozenset())
        context = build.take()
        rng = np.random.default_rng(0)
        inputs = [rng.standard_normal((batch, *n.attrs["shape"]), np.float32) for n in self.graph.inputs]
        return build.plan.with_times(context.measure(inputs, seconds))

    def _build(self, batch: int, taps: frozenset[str]) -> Build:
        found = self._builds.get((batch, taps))
        if found is not None:
            return found
        for name in taps:
            self.graph[name]  # raises for a name that is not there
        check_batch(self.graph, batch)
        with self._lock:
            found = self._builds.get((batch, taps))
            if found is None:
                graph = self._settled if all(name in self._settled.by_name for name in taps) else self.graph
                found = Build(self, graph, batch, taps)
                if self.release:
                    self._like = batch if self._like is None else self._like
                    give_back()
                self._builds[batch, taps] = found
        return found


def give_back() -> None:
    """Returns to the system what packing used and freed; glibc keeps up to twice the largest array of it."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # other C libraries
            ctypes.CDLL(None).malloc_trim(0)


class Build:
    """A network lowered and compiled for one batch size and one set of taps."""

    def __init__(self, owner: Compiled, graph: Graph, batch: int, taps: frozenset[str]) -> None:
        """Chooses, emits, compiles; plans the memory."""
        strict = owner.precision == "strict"
        self.graph, self.machine = graph, owner.machine
        self.lowered: Lowered = Lowering(
            graph, batch, owner.machine, owner.threads, strict, taps, owner._packed, owner.tune, owner._like,
            owner.release,
        ).run()  # fmt: skip
        calls = self.lowered.calls
        self.plan = owner._planned(batch, self.lowered)
        self.threads = 1 if self.plan.predicted_s * owner.threads < SMALL_S else owner.workers
        steps = [s.kernel for c in calls if isinstance(c, KernelCall) for s in c.code.steps]
        made = iter(jit.load_recipes(steps, owner.machine))
        self.natives = [[next(made) for _ in c.code.steps] if isinstance(c, KernelCall) else [] for c in calls]
        self.shared, self.offsets, self.arena_bytes = memory(self.lowered)
        self.wanted = tuple(dict.fromkeys((*graph.outputs, *sorted(taps))))
        self._idle: list[Context] = []

    def take(self) -> Context:
        """Memory for one run."""
        try:
            return self._idle.pop()
        except IndexError:
            return Context(self)

    def give(self, context: Context) -> None:
        """The memory back."""
        if len(self._idle) < MOST_IDLE:
            self._idle.append(context)


def memory(lowered: Lowered) -> tuple[list[tuple[int, int]], list[int], int]:
    """Offsets in the arena by liveness: (shared areas per call as buffer numbers, offset per buffer, bytes in all).

    A buffer lives from the first to the last call that touches it; the largest are placed first, each at the lowest
    offset where it meets no other that lives at the same time.
    """
    sizes = list(lowered.buffers)
    first: dict[int, int] = {}
    last: dict[int, int] = {}

    def touch(buffer: int, when: int) -> None:
        if buffer >= 0:
            first.setdefault(buffer, when)
            last[buffer] = when

    shared: list[tuple[int, int]] = []
    for when, call in enumerate(lowered.calls):
        areas = (-1, -1)
        if isinstance(call, KernelCall):
            for what in call.slots.values():
                if isinstance(what, Place):
                    touch(what.buffer, when)
            need = call.code.shared(call.images)
            if any(need):
                areas = (len(sizes), len(sizes) + 1)
                sizes += need
                for area in areas:
                    touch(area, when)
        else:
            for name in (*call.inputs, call.group.residual, call.group.value):
                if name in lowered.places:
                    touch(lowered.places[name].buffer, when)
        shared.append(areas)
    for name in lowered.copied:
        last[lowered.places[name].buffer] = len(lowered.calls)
    offsets = [0] * len(sizes)
    done: list[int] = []
    total = 0
    for b in sorted(first, key=lambda b: -sizes[b]):
        at = 0
        clashes = sorted(
            (offsets[o], offsets[o] + sizes[o]) for o in done if first[o] <= last[b] and first[b] <= last[o]
        )
        for low, high in clashes:
            if at + sizes[b] <= low:
                break
            at = max(at, -(-high // 64) * 64)
        offsets[b] = at
        done.append(b)
        total = max(total, at + sizes[b])
    return shared, offsets, total


class Context:
    """The memory of one run at a time: arena, argument tables, programs between calls of Python functions."""

    def __init__(self, build: Build) -> None:
        """Allocates the arena and fills the tables."""
        self.build = build
        low = build.lowered
        self.raw = np.empty(build.arena_bytes // 4 + 32, np.float32)
        self.base = -(-self.raw.ctypes.data // 64) * 64
        self.arena = self.raw[(self.base - self.raw.ctypes.data) // 4 :]
        self.segments: list[Program | HostCall] = []
        self.inputs: list[tuple[Program, int, int, int, int]] = []  # program, row, word, input, byte offset
        self.exports: list[tuple[Program, int, str]] = []
        self.steps: list[tuple[Program, int, str]] = []
        self.native: list[tuple[Program, int, KernelCall]] = []
        pending: list[tuple[Call, KernelCall]] = []
        scratch = 0
        for when, call in enumerate(low.calls):
            if isinstance(call, HostCall):
                self.close(pending, scratch)
                pending, scratch = [], 0
                self.segments.append(call)
                continue
            args = self.table(call, build.shared[when])
            scratch = max(scratch, call.code.scratch)
            for step, native in zip(call.code.steps, build.natives[when], strict=True):
                pending.append((Call(native.address("kernel"), args, step.units(call.images)), call))
        self.close(pending, scratch)
        self.look_ahead()
        self.views = {name: self.view(place) for name, place in low.places.items() if place.buffer >= 0}
        name = build.graph.outputs[0]
        self.short: tuple[Program, Array] | None = None  # all of the work, and where the first output then lies
        answer, work = self.views.get(low.alias.get(name, name)), self.segments[0] if len(self.segments) == 1 else None
        if isinstance(work, Program) and answer is not None and not self.exports and not low.host:
            self.short = work, answer

    def close(self, pending: list[tuple[Call, KernelCall]], scratch: int) -> None:
        """Ends a native segment."""
        if not pending:
            return
        program = Program([c for c, _ in pending], t.WORDS, scratch, self.build.threads)
        for row, (_, call) in enumerate(pending):
            for word, what in call.slots.items():
                if isinstance(what, Place) and what.buffer < 0:
                    self.inputs.append((program, row, word, -1 - what.buffer, 4 * what.offset))
            if call.export is not None:
                self.exports.append((program, row, call.export))
            self.steps.append((program, row, call.choice.value))
            self.native.append((program, row, call))
        self.segments.append(program)

    def look_ahead(self) -> None:
        """Tells each step which weights come next, so that it fetches them meanwhile: as many as fit beside its own."""
        arrays = self.build.lowered.arrays
        most = self.build.machine.l2 // 4 * self.build.threads
        following: np.ndarray | None = None
        for program, row, call in reversed(self.native):
            own = call.slots.get(t.W)
            if following is not None:
                words, size = program.args[row], min(following.nbytes, most)
                words[t.AHEAD] = following.ctypes.data
                words[t.BEHIND] = following.ctypes.data + following.nbytes - size
                words[t.LINES] = size // 64
            if isinstance(own, str) and arrays[own].nbytes >= LEAST_FETCHED:
                following = arrays[own]

    def table(self, call: KernelCall, shared: tuple[int, int]) -> list[int]:
        """The argument words of a call; addresses in the caller's memory are filled in at each run."""
        words = [0] * t.WORDS
        words[t.N] = call.images
        for word, what in call.slots.items():
            if isinstance(what, str):
                words[word] = self.build.lowered.arrays[what].ctypes.data
            elif what.buffer >= 0:
                words[word] = self.base + self.build.offsets[what.buffer] + 4 * what.offset
        for word, area in zip((t.S0, t.S1), shared, strict=True):
            if area >= 0:
                words[word] = self.base + self.build.offsets[area]
        return words

    def view(self, place: Place) -> Array:
        """A value in the arena as an array of its logical shape."""
        start = self.build.offsets[place.buffer] // 4 + place.offset
        strides = [4 * place.pixels * place.ld, 4]
        step = 4 * place.ld
        space: list[int] = []
        for size in reversed(place.shape[2:]):
            space.insert(0, step)
            step *= size
        return np.lib.stride_tricks.as_strided(self.arena[start:], place.shape, strides + space)

    def first(self, address: int) -> Array:
        """The first output of a network with one input, whose float32 numbers lie there; where `short` is something."""
        assert self.short is not None
        work, answer = self.short
        for program, row, word, _, offset in self.inputs:
            program.args[row, word] = address + offset
        work.run()
        return answer.copy()

    def run(self, inputs: Sequence[Array]) -> dict[str, Array]:
        """The wanted values by name."""
        low = self.build.lowered
        for program, row, word, k, offset in self.inputs:
            program.args[row, word] = inputs[k].ctypes.data + offset
        out: dict[str, Array] = {}
        for program, row, name in self.exports:
            out[name] = np.empty(low.places[name].shape, np.float32)
            program.args[row, t.Y] = out[name].ctypes.data
        host = dict(low.host)
        for segment in self.segments:
            if isinstance(segment, Program):
                segment.run()
            else:
                self.host_call(segment, inputs, host)
        return {name: self.value(low.alias.get(name, name), inputs, host, out) for name in self.build.wanted}

    def host_call(self, call: HostCall, inputs: Sequence[Array], host: dict[str, Array]) -> None:
        """A node (and what was fused to it) by reference functions."""
        graph = self.build.graph
        members = [graph[m] for m in call.group.members]
        made: dict[str, Array] = {}
        alias = self.build.lowered.alias
        for node in members:
            arrays = {r: np.asarray(graph.weights[node.array(r)], np.float32) for r in graph.node_params(node)}
            names = [alias.get(i, i) for i in node.inputs]
            values = [made[n] if n in made else self.logical(n, inputs, host) for n in names]
            made[node.name] = np.asarray(apply(node, values, arrays), np.float32)
        result = made[call.group.value]
        if call.place is None:
            host[call.group.value] = result
        else:
            self.views[call.group.value][...] = result

    def logical(self, name: str, inputs: Sequence[Array], host: dict[str, Array]) -> Array:
        """A value as an array of its logical shape; a view where it can be."""
        if name in host:
            return host[name]
        if name in self.views:
            return self.views[name]
        low = self.build.lowered  # an input, or another shape of one
        return inputs[-1 - low.places[name].buffer].reshape(low.shapes[name])

    def value(self, name: str, inputs: Sequence[Array], host: dict[str, Array], out: dict[str, Array]) -> Array:
        """A value that the caller may keep."""
        return out[name] if name in out else np.array(self.logical(name, inputs, host), np.float32, order="C")

    def measure(self, inputs: Sequence[Array], seconds: float) -> dict[str, float]:
        """Median seconds of each value's steps: every step on its own, on all threads, as often as time allows."""
        held = self.run(inputs)  # steps that export write into these arrays
        totals: dict[str, float] = {}
        each = seconds / max(1, len(self.steps))
        for program, row, name in self.steps:
            step = Program([program.call(row)], t.WORDS, program.scratch_bytes, program.threads)
            times: list[float] = []
            start = time.perf_counter()
            while len(times) < 3 or time.perf_counter() - start < each:
                begin = time.perf_counter()
                step.run()
                times.append(time.perf_counter() - begin)
            totals[name] = totals.get(name, 0.0) + float(np.median(times))
        del held
        return totals
