"""A network as a page carries it: a WebAssembly module with its kernels, its weights, and a table that says the rest.

The kernels are those of every other machine, written for vectors of 128 bits (`Machine.cross("wasm")`), and the planner
chooses among them. `report/web/compute.mjs` reads what is made here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.arith.open_sizes import at_size, is_open, values_for
from dojang.arith.preparation import preparations
from dojang.base.errors import UsageError
from dojang.engine import verify
from dojang.engine.browser.layers import described
from dojang.engine.browser.order import by_output, order_of
from dojang.engine.browser.store import WEIGHTS, PageWeights, deflated, text
from dojang.engine.compiled import PRECISIONS
from dojang.engine.fuse import Fused, fuse
from dojang.engine.kernels import task as t
from dojang.engine.kernels.conv import ALGORITHMS
from dojang.engine.kernels.task import Task
from dojang.engine.lower.network import Lowered, lower
from dojang.engine.norms import layer_norms_joined
from dojang.engine.plan.choose import Plan
from dojang.engine.plan.context import Request
from dojang.engine.plan.network import plan
from dojang.engine.plan.steps import HostStep, KernelStep, Place, Planned
from dojang.engine.reference.operators import check_arrays, refuse_unknown
from dojang.engine.scalars import scalars_joined
from dojang.engine.settle import settled
from dojang.engine.weights import Weights
from dojang.engine.whole import whole_numbers
from dojang.native import jit, wasm
from dojang.native.jit import Recipe
from dojang.native.machine import Machine

VERSION = 1
"""Of the table. `compute.mjs` refuses another."""
MOST_BYTES = 32 << 20
"""Weights that a page carries, if nothing else is said: 43 MB of text."""
FUSED_MACS = 10_000_000
"""From so many multiply-adds on, a page is given the module with fused multiply-adds too: some milliseconds of work."""
MOST_MEMORY = 2 << 30
"""Bytes of memory that browsers give a page without asking."""
_ALIGN = 64
_RELAXED = "+relaxed-simd"
_DRIVE = """
define void @drive(ptr %args, i32 %units, ptr %scratch) {
entry:
  %some = icmp sgt i32 %units, 0
  br i1 %some, label %body, label %done
body:
  %i = phi i32 [0, %entry], [%next, %body]
  %unit = zext i32 %i to i64
  call void @kernel(ptr %args, i64 %unit, ptr %scratch)
  %next = add nuw i32 %i, 1
  %more = icmp ult i32 %next, %units
  br i1 %more, label %body, label %done
done:
  ret void
}
"""


@dataclass(frozen=True)
class BrowserProgram:
    """A network for `compute.mjs`. `table` is data for JSON: where everything lies in the memory of the module.

    `fused` is the same module with relaxed multiply-adds, which are one instruction where the processor has it, for
    browsers that know them; empty where there is none.
    `missing` names what the browser cannot compute, as (value, operator); what depends on it is missing too, the rest
    is computed. `weights` is the precision that `data` has them in. `plan` is how it is run, and why so.
    """

    module: bytes
    fused: bytes
    data: bytes
    table: Mapping[str, Any]
    weights: str
    missing: tuple[tuple[str, str], ...]
    plan: Plan

    @property
    def taps(self) -> tuple[str, ...]:
        """The values that can be looked at after a run, besides the outputs."""
        return tuple(self.table["values"])

    def to_dict(self) -> dict[str, Any]:
        """All of it as one object for JSON; bytes as base64, deflated where that saves something."""
        found: dict[str, Any] = {**self.table, "deflated": []}
        for name, data in (("module", self.module), ("fused", self.fused), ("data", self.data)):
            small = deflated(data)
            found[name] = text(data if small is None else small)
            if small is not None:
                found["deflated"].append(name)
        return found


def browser_program(
    graph: Graph,
    input_shape: Sequence[int] | None = None,
    weights: str | None = None,
    taps: Sequence[str] | None = None,
    precision: str = "fast",
    most_bytes: int = MOST_BYTES,
    fused: bool | None = None,
) -> BrowserProgram:
    """A network, for one picture at a time, as WebAssembly.

    `input_shape` is (channels, *size), for networks that take images of any size. `weights`: "float32", "float16" or
    "int8" (one scale for each row); without it float16, or int8 where float16 takes more than `most_bytes`.

    `taps` are the values that can be looked at after a run: by default those of all nodes, each computed by a step of
    its own, with the weights as the network has them. With () only the outputs are kept, and with some names these and
    what kernels store besides: batch norms then go into the weights before them and activations into the step before,
    which takes less memory; what lies between is not there to be looked at. `precision` is as in `compile`.

    `fused`: with a second module for browsers that have relaxed multiply-adds; by default for networks of at least
    `FUSED_MACS` multiply-adds.

    Raises `UsageError` where the weights take more than `most_bytes`, and what `compile` raises.
    """
    if weights is not None and weights not in WEIGHTS:
        raise UsageError(f"weights {weights!r} are not known; use one of {', '.join(WEIGHTS)}")
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is not known; use one of {', '.join(PRECISIONS)}")
    graph = _sized(graph, input_shape)
    refuse_unknown(graph)
    check_arrays(graph)
    kept = _precision(graph, weights, most_bytes)
    if fused is None:
        fused = count(graph).total.macs >= FUSED_MACS
    return _Writer(graph, kept, taps, precision == "strict").program(fused)


def _sized(graph: Graph, input_shape: Sequence[int] | None) -> Graph:
    """The network at one size. Raises `ShapeError` for a size that does not fit."""
    if is_open(graph):
        if input_shape is None:
            raise UsageError(f"{graph.name} takes images of any size; give input_shape, such as (3, 224, 224)")
        return at_size(graph, values_for(graph, {node.name: tuple(input_shape) for node in graph.inputs}))
    shapes = [tuple(node.attrs["shape"]) for node in graph.inputs]
    if input_shape is not None and any(shape != tuple(input_shape) for shape in shapes):
        raise UsageError(f"{graph.name} takes {shapes[0]}, not {tuple(input_shape)}; leave input_shape out")
    return graph


def _precision(graph: Graph, weights: str | None, most_bytes: int) -> str:
    numbers = sum(prod(shape) for shape in graph.param_shapes.values())
    sizes = {kind: numbers * np.dtype(kind).itemsize for kind in WEIGHTS}
    found = weights or next((kind for kind in ("float16", "int8") if sizes[kind] <= most_bytes), "int8")
    if sizes[found] <= most_bytes:
        return found
    others = [f"weights={k!r} takes {_megabytes(sizes[k])}" for k in WEIGHTS if sizes[k] <= most_bytes]
    remedy = f"{'; '.join(others)}, or raise most_bytes" if others else "raise most_bytes, or use the server"
    raise UsageError(
        f"{graph.name} has {numbers:,} weights, {_megabytes(sizes[found])} as {found}; a page carries at most "
        f"{_megabytes(most_bytes)}: {remedy}"
    )


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.3g} MB"


class _Writer:
    """One program while it is written."""

    def __init__(self, graph: Graph, weights: str, taps: Sequence[str] | None, strict: bool) -> None:
        """`graph` at one size."""
        self.given = graph
        self.machine = Machine.cross("wasm")
        ready = settled(whole_numbers(scalars_joined(layer_norms_joined(graph))))
        for name in taps or ():
            graph[name]  # raises for a name that is not there
        whole = all(name in ready.by_name for name in taps or ())
        self.graph = graph = ready if whole else graph
        shapes = graph.shapes(1)
        keep = frozenset(taps if taps is not None else graph.by_name)
        self.fused: Fused = verify.fused(fuse(graph, shapes, keep))
        request = Request(1, self.machine, 1, strict=strict)
        self.planned: Planned = verify.planned(plan(self.fused, request, {}))
        self.lowered: Lowered = verify.lowered(lower(self.looked_at() if keep else self.planned))
        self.kept = keep
        self.absent = self.missing()
        self.store = PageWeights(weights)
        self.source = Weights(graph)
        self.named: dict[str, dict[str, Any]] = {}  # stored weights by the name of their node

    def looked_at(self) -> Planned:
        """The plan with every value in memory until the end."""
        placed = tuple(name for name, place in self.planned.places.items() if place.buffer >= 0)
        return replace(self.planned, copied=placed)

    def missing(self) -> dict[str, str]:
        """What the browser does not compute: steps of the reference, and all that depends on them, with the reason."""
        found: dict[str, str] = {}
        for step in self.planned.steps:
            if isinstance(step, HostStep):
                for name in step.group.members:
                    found[name] = f"{step.group.node.op} has no kernel in the browser"
        for node in self.graph.nodes:
            first = next((i for i in node.inputs if i in found), None)
            if node.name not in found and first is not None:
                found[node.name] = f"it depends on {first}"
        return found

    # -- the parts ----------------------------------------------------------------------------------------------------

    def program(self, fused: bool) -> BrowserProgram:
        """Everything."""
        steps = [
            (step, code, shared)
            for step, code, shared in zip(
                self.planned.steps, self.lowered.codes, self.lowered.areas.shared, strict=True
            )
            if isinstance(step, KernelStep) and code is not None and not self.left_out(step)
        ]
        recipes: dict[str, tuple[str, Recipe]] = {}
        for _, code, _ in steps:
            for part in code.steps:
                recipes.setdefault(part.recipe, (f"k{len(recipes)}", part.kernel))
        module = linked(recipes.values(), self.machine)
        quick = (
            linked(recipes.values(), replace(self.machine, features=f"{self.machine.features},{_RELAXED}"))
            if fused
            else module
        )
        room = _Room(max(module.end, quick.end))
        packed, at = self.pack([step for step, _, _ in steps], room)
        inputs = [room.take(4 * prod(shape or ())) for shape in (self.shape(n.name) for n in self.graph.inputs)]
        exports = {s.export: room.take(4 * prod(self.shape(s.export))) for s, _, _ in steps if s.export is not None}
        words = room.take(8 * t.WORDS * sum(len(code.steps) for _, code, _ in steps))
        scratch = room.take(max((code.scratch for _, code, _ in steps), default=0) + 4096)
        arena = room.take(self.lowered.areas.bytes)
        if room.at > MOST_MEMORY:
            raise UsageError(
                f"{self.graph.name} takes {room.at / 1e9:.3g} GB in a browser, which gives at most "
                f"{MOST_MEMORY / 1e9:.3g} GB; look at fewer values (taps=()), or use the server"
            )
        where = _Addresses(at, inputs, exports, arena, self.lowered)
        table_steps = [
            {
                "kernel": recipes[part.recipe][0], "units": part.units(step.images),
                "args": where.words(step, part, shared), "value": step.choice.value,
                "algorithm": step.choice.algorithm,
            }
            for step, code, shared in steps for part in code.steps
        ]  # fmt: skip
        values = self.values(where)
        table = dict(
            version=VERSION, name=self.graph.name, memory=room.at, words=words, scratch=scratch, packed=packed,
            steps=table_steps, values=values, **self.ends(where, values), layers=self.layers(),
            missing=self.absent, weights=self.store.weights,
        )  # fmt: skip
        lacking = tuple(
            (s.group.value, s.group.node.op) for s in self.planned.steps if isinstance(s, HostStep)
        )  # fmt: skip
        other = quick.code if quick.code != module.code else b""
        return BrowserProgram(
            module.code, other, bytes(self.store.data), table, self.store.weights, lacking, self.planned.public
        )

    def left_out(self, step: KernelStep) -> bool:
        """Whether a step depends on what the browser lacks."""
        return any(name in self.absent for name in (step.choice.value, *step.choice.members))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a value for a batch of one."""
        return tuple(self.fused.shapes[self.fused.source(name)] or ())

    def pack(self, steps: Sequence[KernelStep], room: _Room) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """Stores all weights; what the page does with them, and where each packed array then lies."""
        packed: list[dict[str, Any]] = []
        at: dict[str, int] = {}
        for step in steps:
            packing = step.packing
            if packing is None or packing.keys[0] in at:
                continue
            ordered = self.ordered(step)
            if ordered is not None:
                array, bias, order = ordered
                at[packing.keys[0]] = room.take(4 * order["size"])
                packed.append({"at": at[packing.keys[0]], "array": array, "order": order})
                at[packing.keys[1]] = room.take(4 * bias["count"])
                packed.append({"at": at[packing.keys[1]], "array": bias})
                continue
            for key, array in zip(packing.keys, packing.make(self.source), strict=True):
                at[key] = room.take(array.nbytes)
                stored = self.store.add(array) if array.dtype == np.float32 else self.store.exact(array)
                packed.append({"at": at[key], "array": stored.to_dict()})
        return packed, at

    def ordered(self, step: KernelStep) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]] | None:
        """The weights of a convolution as the network has them, its bias as it is packed, and the kernel's order."""
        packing, task = step.packing, step.like or step.task
        if packing is None or step.kernel not in ALGORITHMS or not isinstance(task, Task) or len(packing.groups) != 1:
            return None
        (group,) = packing.groups
        weight, bias = self.source.folded(group)
        order = order_of(step.kernel, task, self.machine)
        if order is None:
            return None
        rows = by_output(np.asarray(weight), task)
        stored = self.store.add(rows, rows=task.conv.oc).to_dict()
        small = step.kernel.pack(task, self.machine, np.zeros_like(weight), bias)[1]
        kept = self.store.exact(np.asarray(small, np.float32)).to_dict()
        # Bias of the outputs in order; packed, each group has whole vectors.
        plain = kept if task.conv.groups == 1 or len(small) == task.conv.oc else self.store.exact(
            np.asarray(np.zeros(task.conv.oc) if bias is None else bias, np.float32)).to_dict()  # fmt: skip
        self.named[group.node.name] = {"weight": stored, "bias": plain, "weightShape": order.shape}
        return stored, kept, order.to_dict()

    def values(self, where: _Addresses) -> dict[str, Any]:
        """The values that can be looked at: address, shape and distances (in numbers) of one picture."""
        found: dict[str, Any] = {}
        all_ = bool(self.kept)
        for name, place in self.planned.places.items():
            if name in self.absent or (place.buffer >= 0 and not all_):
                continue
            found[name] = {"at": where.of(place), "shape": place.shape[1:], "strides": place.strides[1:]}
        return found

    def ends(self, where: _Addresses, values: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs and outputs; other names of values."""
        preparation = {p.input: p for p in preparations(self.given)}
        inputs = [
            {"name": n.name, "at": at, "shape": self.shape(n.name)[1:], "mean": preparation[n.name].mean,
                 "std": preparation[n.name].std, "divisor": preparation[n.name].divisor}
            for n, at in zip(self.graph.inputs, where.inputs, strict=True)
        ]  # fmt: skip
        outputs = []
        for name in self.graph.outputs:
            source = self.fused.source(name)
            found: dict[str, Any] | None = None
            if source in where.exports:
                shape = self.shape(name)[1:]
                strides = tuple(prod(shape[k + 1 :]) for k in range(len(shape)))
                found = {"at": where.exports[source], "shape": shape, "strides": strides}
            elif source in self.planned.constants:
                array = self.source.constant(self.graph[source])
                found = {"array": self.store.exact(np.asarray(array, np.float32)).to_dict(), "shape": array.shape}
            elif source in self.planned.places and source not in self.absent:
                place = self.planned.places[source]
                found = {"at": where.of(place), "shape": place.shape[1:], "strides": place.strides[1:]}
            outputs.append({"name": name, "value": found})
        alias = {name: self.fused.source(name) for name in self.fused.alias}
        hidden = {m: g.value for g in self.fused.groups for m in g.members if m != g.value}
        return {"inputs": inputs, "outputs": outputs, "alias": alias, "within": hidden}

    def layers(self) -> list[dict[str, Any]]:
        """All groups in order."""
        return [described(self.fused, g, self.named) for g in self.fused.groups if g.value not in self.absent]


class _Room:
    """Memory handed out piece by piece."""

    def __init__(self, start: int) -> None:
        """From an address on."""
        self.at = start

    def take(self, size: int) -> int:
        """The address of so many bytes, on a cache line of their own; kernels may read a vector beyond the end."""
        found = -(-self.at // _ALIGN) * _ALIGN
        self.at = found + size + _ALIGN
        return found


@dataclass(frozen=True)
class _Addresses:
    """Where everything lies in the memory of the module."""

    packed: Mapping[str, int]
    inputs: Sequence[int]
    exports: Mapping[str, int]
    arena: int
    lowered: Lowered

    def of(self, place: Place) -> int:
        """The address of a value."""
        if place.buffer < 0:
            return self.inputs[-1 - place.buffer] + 4 * place.offset
        return self.arena + self.lowered.areas.offsets[place.buffer] + 4 * place.offset

    def words(self, step: KernelStep, part: t.Step, shared: tuple[int, int]) -> list[int]:
        """The argument table of one native function, without the words that it does not read."""
        words = [0] * t.WORDS
        words[t.N] = step.images
        for word, what in step.slots.items():
            words[word] = self.packed[what] if isinstance(what, str) else self.of(what)
        if step.export is not None:
            words[t.Y] = self.exports[step.export]
        for word, area in zip((t.S0, t.S1), shared, strict=True):
            if area >= 0:
                words[word] = self.arena + self.lowered.areas.offsets[area]
        words[t.AHEAD] = words[t.BEHIND] = words[t.W]
        return t.table(words, part)[: t.SIZES + len(part.sizes)]


def linked(recipes: Iterable[tuple[str, Recipe]], machine: Machine) -> wasm.WasmModule:
    """One module of all kernels, each under its name."""
    named = list(recipes)
    objects = jit.object_codes([driven(recipe) for _, recipe in named], machine)
    return wasm.link([(code, {"drive": name}) for (name, _), code in zip(named, objects, strict=True)])


def driven(recipe: Recipe) -> Recipe:
    """A kernel with a function that calls it for every unit, which spares the page as many calls."""
    return Recipe(f"{recipe.text}{_DRIVE}", lambda: recipe.build() + _DRIVE, recipe.depends, recipe.thorough)
