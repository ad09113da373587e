"""A build bound to memory, ready to run: addresses filled in, answers taken out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dojang.base.errors import DataError
from dojang.engine.build import Build
from dojang.engine.kernels import task as t
from dojang.engine.plan.held import asked
from dojang.engine.plan.steps import HostStep, KernelStep, Place
from dojang.engine.reference.operators import BODIES, Several, apply, arrays_of, typed
from dojang.native.runtime import NativeCall, Program

Array = np.ndarray
LEAST_FETCHED = 8 << 10  # bytes of weights that are worth fetching ahead


class Context:
    """A build bound to the memory of a lane: argument tables, programs between calls of Python functions."""

    def __init__(self, build: Build, arena: Array) -> None:
        """Fills the tables. `arena` are at least `build.run_bytes` bytes as float32, from a cache line on."""
        self.build, self.arena = build, arena
        self.base = arena.ctypes.data
        planned, lowered = build.planned, build.lowered
        self.segments: list[Program | HostStep] = []
        self.inputs: list[tuple[Program, int, int, int, int]] = []  # program, row, word, input, byte offset
        self.exports: list[tuple[Program, int, str]] = []
        self.native: list[tuple[Program, int, KernelStep]] = []
        pending: list[tuple[NativeCall, KernelStep]] = []
        scratch = 0
        rows = zip(planned.steps, lowered.codes, lowered.areas.shared, build.natives, strict=True)
        for step, code, shared, natives in rows:
            if isinstance(step, HostStep):
                self.close(pending, scratch)
                pending, scratch = [], 0
                self.segments.append(step)
                continue
            assert code is not None  # only steps of the host have no code
            args = self.table(step, shared)
            scratch = max(scratch, code.scratch)
            for part, native in zip(code.steps, natives, strict=True):
                pending.append(
                    (NativeCall(native.address("kernel"), t.table(args, part), part.units(step.images)), step)
                )
        self.close(pending, scratch)
        self.look_ahead()
        self.asked = asked(planned.fused.graph, planned.fused.shapes)
        self.views = {name: self.view(place) for name, place in planned.places.items() if place.buffer >= 0}
        name = build.graph.outputs[0]
        self.short: tuple[Program, Array] | None = None  # all of the work, and where the first output then lies
        answer, work = self.views.get(planned.fused.source(name)), self.segments[0] if len(self.segments) == 1 else None
        real = all(build.graph.types[n] == "float32" for n in (name, *(i.name for i in build.graph.inputs)))
        if real and isinstance(work, Program) and answer is not None and not self.exports and not build.host:
            self.short = work, answer
        build.short = self.short is not None

    def close(self, pending: list[tuple[NativeCall, KernelStep]], scratch: int) -> None:
        """Ends a native segment."""
        if not pending:
            return
        at = self.base + self.build.lowered.scratch_at
        program = Program([c for c, _ in pending], t.WORDS, scratch, self.build.threads, at)
        for row, (_, call) in enumerate(pending):
            for word, what in call.slots.items():
                if isinstance(what, Place) and what.buffer < 0:
                    self.inputs.append((program, row, word, -1 - what.buffer, 4 * what.offset))
            if call.export is not None:
                self.exports.append((program, row, call.export))
            self.native.append((program, row, call))
        self.segments.append(program)

    def look_ahead(self) -> None:
        """Tells each step which weights come next, so that it fetches them meanwhile: as many as fit beside its own."""
        arrays = self.build.arrays
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

    def table(self, call: KernelStep, shared: tuple[int, int]) -> list[int]:
        """The argument words of a call; addresses in the caller's memory are filled in at each run."""
        words = [0] * t.WORDS
        words[t.N] = call.images
        for word, what in call.slots.items():
            if isinstance(what, str):
                words[word] = self.build.arrays[what].ctypes.data
            elif what.buffer >= 0:
                words[word] = self.base + self.build.lowered.areas.offsets[what.buffer] + what.item * what.offset
        for word, area in zip((t.S0, t.S1), shared, strict=True):
            if area >= 0:
                words[word] = self.base + self.build.lowered.areas.offsets[area]
        return words

    def view(self, place: Place) -> Array:
        """A value in the arena as an array of its logical shape."""
        start = self.build.lowered.areas.offsets[place.buffer] // 4 + place.offset
        return np.lib.stride_tricks.as_strided(self.arena[start:], place.shape, [4 * s for s in place.strides])

    def first(self, address: int) -> Array:
        """The first output of a network with one input, whose float32 numbers lie there; where `short` is something."""
        assert self.short is not None
        work, answer = self.short
        for program, row, word, _, offset in self.inputs:
            program.args[row, word] = address + offset
        work.run()
        return answer.copy()

    def run(
        self, inputs: Sequence[Array], into: Mapping[str, Array] | None = None, segments: Sequence[Any] | None = None
    ) -> dict[str, Array]:
        """The wanted values by name: in the arrays `into`, of the right shapes, where it has them, else in new ones.

        `segments` take the place of the context's own.
        """
        planned = self.build.planned
        source = planned.fused.source
        fed = [self.entered(k, array) for k, array in enumerate(inputs)]
        for program, row, word, k, offset in self.inputs:
            program.args[row, word] = fed[k].ctypes.data + offset
        given = {source(name): array for name, array in (into or {}).items()}
        out: dict[str, Array] = {}
        for program, row, name in self.exports:
            out[name] = given[name] if name in given else np.empty(planned.places[name].shape, np.float32)
            program.args[row, t.Y] = out[name].ctypes.data
        host = dict(self.build.host)
        for k, node in enumerate(self.build.graph.inputs):
            if node.name not in planned.places:
                host[node.name] = inputs[k]
        several: Several = {BODIES: self.build.run_body}
        for segment in self.segments if segments is None else segments:
            if isinstance(segment, HostStep):
                self.host_call(segment, inputs, host, several)
            else:
                segment.run()
        values = {name: self.value(source(name), inputs, host, out) for name in self.build.wanted}
        for name, array in (into or {}).items():
            if values[name] is not array:
                array[...] = values[name]
        return values

    def entered(self, k: int, array: Array) -> Array:
        """An input as kernels read it: whole numbers and truth values as float32. Raises `DataError` for places that an
        axis does not have.
        """
        graph, node = self.build.graph, self.build.graph.inputs[k]
        if graph.is_single(node.name) or node.name not in self.build.planned.places:
            return array
        ends = self.asked.get(node.name)
        if ends is not None and array.size and not (ends[0] <= array.min() and array.max() <= ends[1]):
            wrong = array.max() if array.max() > ends[1] else array.min()
            raise DataError(f"{node.name}: an index is {wrong}, the axis has {int(ends[1]) + 1} places")
        return array.astype(np.float32, order="C")

    def host_call(
        self, call: HostStep, inputs: Sequence[Array], host: dict[str, Array], several: Several | None = None
    ) -> None:
        """A node (and what was fused to it) by reference functions; `several` is what this run computed before."""
        graph = self.build.graph
        members = [graph[m] for m in call.group.members]
        made: dict[str, Array] = {}
        source = self.build.planned.fused.source
        for node in members:
            arrays = arrays_of(graph, node)
            names = [source(i) for i in node.inputs]
            values = [made[n] if n in made else self.logical(n, inputs, host) for n in names]
            made[node.name] = typed(graph, node.name, apply(node, values, arrays, several))
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
            view, graph = self.views[name], self.build.graph
            return view if graph.is_single(name) else typed(graph, name, view)
        planned = self.build.planned  # an input, or another shape of one
        shape = planned.fused.shapes[name]
        assert shape is not None
        return inputs[-1 - planned.places[name].buffer].reshape(shape)

    def value(self, name: str, inputs: Sequence[Array], host: dict[str, Array], out: dict[str, Array]) -> Array:
        """A value that the caller may keep."""
        if name in out:
            return typed(self.build.graph, name, out[name])
        return np.array(typed(self.build.graph, name, self.logical(name, inputs, host)), order="C")
