"""Recurrent layers: all steps of one direction for some rows of the batch, products with the state and gates in one.

The products with the inputs of all steps come in, computed as one matrix product beforehand. Lanes are numbers of the
state: a vector of them has one sum for each gate, so that gates are applied in registers. The weights of the state are
read once a step for all rows of the unit, as one stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dojang.arith.recurrent import GATES
from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.activations import Activation, activate
from dojang.engine.kernels.other import rounding
from dojang.engine.kernels.task import Code, Offer, Refusal, Step
from dojang.native.costs import COSTS
from dojang.native.emit import F32, Value
from dojang.native.machine import Machine

NAME = "recurrent"
SUMS = 8
"""Vectors of sums side by side at least, to cover the latency of additions (two units of four cycles)."""


@plain_repr
@dataclass(frozen=True, slots=True)
class RecurrentTask:
    """`steps` steps of `rows` rows: X are the products of the inputs with their weights, and biases that are added to
    them, (steps, rows, directions · gates · hidden); W and B as `pack` gives them; R and S0 the initial states,
    (directions, rows, hidden), 0 if they are not `given`.

    Y gets the state of each step, (steps, directions, rows, hidden), S1 those after the last one, of an LSTM the cell
    state behind: (1 or 2, directions, rows, hidden). `reverse` has for each direction whether it begins at the end.
    With `rounded`, what the weights of the state multiply are the states of all rows rounded together to 8 bits
    (`rounding`); they must fit one unit.
    """

    cell: str
    hidden: int
    steps: int
    rows: int
    reverse: tuple[bool, ...]
    given: tuple[bool, ...]
    reset_after: bool = True
    rounded: bool = False


def offer(task: RecurrentTask, machine: Machine) -> Offer | Refusal:
    """Multiply-adds and the weights of the state from the cache, once a step for each unit; not shared by threads
    beyond the number of units.
    """
    if task.cell == "gru" and not task.reset_after:
        return Refusal("a GRU that resets before the product")
    if task.rounded and task.rows > most_rows(task, machine):
        return Refusal(f"{task.rows} rows rounded together")
    p, many = machine.peaks, len(task.reverse)
    weights = GATES[task.cell] * task.hidden * task.hidden
    compute = 2 * weights * task.rows * many / (p.fma_gflops * 1e9)
    read = 4 * weights * many * units(task, machine) / max(1, many) / (p.cache_gbs * 1e9)
    return Offer(task.steps * max(compute, read) + COSTS.start_s)


def rows_of(task: RecurrentTask, machine: Machine) -> int:
    """Rows of a unit: as many as their sums fit into registers, and no more than each core gets."""
    if task.rounded:
        return task.rows
    share = t.ceil_div(task.rows * len(task.reverse), machine.cores)
    return t.ceil_div(task.rows, t.ceil_div(task.rows, max(1, min(most_rows(task, machine), share))))


def most_rows(task: RecurrentTask, machine: Machine) -> int:
    """Rows whose sums fit into registers."""
    gates = GATES[task.cell]
    return min(8, max(1, (machine.registers - 1 - gates) // gates))


def units(task: RecurrentTask, machine: Machine) -> int:
    """Units in all."""
    return len(task.reverse) * t.ceil_div(task.rows, rows_of(task, machine))


def padded(hidden: int, machine: Machine) -> int:
    """The state in whole vectors."""
    return t.ceil_div(hidden, machine.lanes(4)) * machine.lanes(4)


def pack(cell: str, machine: Machine, weights: list[np.ndarray], last: list[np.ndarray] | None) -> list[np.ndarray]:
    """The weights of the state (gates · hidden, hidden) of each direction as (directions, vectors, hidden, gates,
    lanes), and the bias that a GRU adds to the product with its state, (directions, padded hidden).
    """
    lanes, gates, hidden = machine.lanes(4), GATES[cell], weights[0].shape[1]
    size = padded(hidden, machine)
    out = t.lined((len(weights), size // lanes, hidden, gates, lanes), "f4")
    for k, weight in enumerate(weights):
        wide = np.zeros((gates, size, hidden), np.float32)
        wide[:, :hidden] = np.asarray(weight).reshape(gates, hidden, hidden)
        out[k] = wide.reshape(gates, size // lanes, lanes, hidden).transpose(1, 3, 0, 2)
    bias = t.lined((len(weights), size), "f4")
    bias[...] = 0
    for k, array in enumerate(last or ()):
        bias[k, :hidden] = array
    return [out.reshape(-1), bias.reshape(-1)]


def emit(task: RecurrentTask, machine: Machine) -> Code:
    """One step; a unit is some rows of one direction, for all steps in order."""
    rows, size = rows_of(task, machine), padded(task.hidden, machine)
    form = f"{task.cell} {task.hidden} {task.reverse} {task.given} {rows} {task.rounded}"
    scratch = 4 * size * rows * (3 + task.rounded)
    many = units(task, machine)
    build = lambda name: Cells(name, task, machine, rows).text()  # noqa: E731
    return Code((Step(f"{NAME} {form}", build, lambda n: many, (task.steps, task.rows)),), scratch)


class Cells:
    """The kernel while it is written."""

    def __init__(self, symbol: str, task: RecurrentTask, machine: Machine, rows: int) -> None:
        """Sizes in elements; steps and the rows of the batch are known at run time."""
        self.task, self.rows = task, rows
        b = self.b = t.begin(symbol, machine)
        self.lanes, self.size, self.gates = machine.lanes(4), padded(task.hidden, machine), GATES[task.cell]
        self.steps, self.batch = t.sizes(b, 2)
        many, blocks = len(task.reverse), t.ceil_div(self.batch, rows)
        self.many = many
        self.direction, block = b.udiv(b.arg.unit, blocks), b.urem(b.arg.unit, blocks)
        first = b.mul(block, rows)
        # Rows beyond the last are the last one again.
        self.row = [b.imin(b.add(first, r), b.sub(self.batch, 1)) for r in range(rows)]
        self.states = [b.at(b.arg.scratch, 4 * self.size * rows * k) for k in range(2)]
        self.cells, self.rounded = (b.at(b.arg.scratch, 4 * self.size * rows * k) for k in (2, 3))

    def text(self) -> str:
        """The initial states, all steps two by two, the last states."""
        b, task = self.b, self.task
        for k, (slot, to) in enumerate(((t.R, self.states[0]), (t.S0, self.cells))[: 1 + (task.cell == "lstm")]):
            from_ = t.word(b, slot) if task.given[k] else None
            self.blocks(lambda o, mask, f=from_, to=to: self.begin(o, mask, f, to))

        def turn(step: Any, carry: list[Value]) -> list[Value]:
            old, new = carry
            self.one(step, old, new)
            return [new, old]

        last, _ = b.loop(0, self.steps, 1, turn, self.states)
        ends = t.word(b, t.S1)
        self.blocks(lambda o, mask: self.end(o, mask, last, ends))
        if task.cell == "lstm":
            behind = b.at(ends, b.mul(b.mul(self.batch, self.many * task.hidden), 4))
            self.blocks(lambda o, mask: self.end(o, mask, self.cells, behind))
        return b.finish()

    def blocks(self, body: Any) -> None:
        """`body(first number, mask)` for each vector of the state."""
        b, hidden, lanes = self.b, self.task.hidden, self.lanes
        whole = hidden // lanes * lanes
        b.loop(0, whole, lanes, lambda o, _: body(o, None))
        if hidden > whole:
            body(whole, b.mask(hidden - whole, lanes))

    def held(self, base: Value, r: int, o: Any) -> Value:
        """Where a state of row `r` lies in the thread's memory."""
        return self.b.at(base, 4 * r * self.size, self.b.mul(o, 4))

    def outside(self, base: Value, r: int, o: Any) -> Value:
        """Where a state of row `r` lies in (directions, rows, hidden)."""
        b = self.b
        row = b.add(b.mul(self.direction, self.batch), self.row[r])
        return b.at(base, b.mul(b.mul(row, self.task.hidden), 4), b.mul(o, 4))

    def begin(self, o: Any, mask: Any, from_: Value | None, to: Value) -> None:
        """A vector of the initial states of all rows."""
        b = self.b
        for r in range(self.rows):
            v = b.const(F32, 0.0) if from_ is None else b.vload(self.outside(from_, r, o), F32, mask=mask)
            b.vstore(v, self.held(to, r, o), F32)

    def end(self, o: Any, mask: Any, from_: Value, to: Value) -> None:
        """A vector of the last states of all rows."""
        for r in range(self.rows):
            self.b.vstore(self.b.vload(self.held(from_, r, o), F32), self.outside(to, r, o), F32, mask=mask)

    def one(self, step: Any, old: Value, new: Value) -> None:
        """One step."""
        b, task, hidden = self.b, self.task, self.task.hidden
        back = b.sub(b.sub(self.steps, 1), step)
        if len(set(task.reverse)) > 1:
            step = b.select(b.less(self.direction, 1), *((back, step) if task.reverse[0] else (step, back)))
        elif task.reverse[0]:
            step = back
        wide = self.many * self.gates * hidden
        x, y = t.word(b, t.X), t.word(b, t.Y)
        x_rows = [
            b.at(x, b.mul(b.mul(b.add(b.mul(step, self.batch), row), wide), 4),
                 b.mul(self.direction, 4 * self.gates * hidden)) for row in self.row
        ]  # fmt: skip
        first = b.mul(b.add(b.mul(step, self.many), self.direction), self.batch)
        y_rows = [b.at(y, b.mul(b.mul(b.add(first, row), hidden), 4)) for row in self.row]
        w = b.at(t.word(b, t.W), b.mul(self.direction, 4 * self.size * hidden * self.gates))

        lanes, factors = self.lanes, old
        if task.rounded:
            factors = self.rounded
            rounding.write(b, old, factors, self.rows * self.size, lanes)

        def vectors(o: Any, masks: list[Any]) -> None:
            sums = self.sums(b.at(w, b.mul(o, 4 * hidden * self.gates)), factors, len(masks))
            for v, mask in enumerate(masks):
                here = b.add(o, v * lanes)
                for r in range(self.rows):
                    at = b.at(x_rows[r], b.mul(here, 4))
                    xs = [b.vload(b.at(at, 4 * g * hidden), F32, mask=mask) for g in range(self.gates)]
                    state = self.cell(xs, [sums[v, g, r] for g in range(self.gates)], here, r, old)
                    b.vstore(state, self.held(new, r, here), F32)
                    b.vstore(state, b.at(y_rows[r], b.mul(here, 4)), F32, mask=mask)

        most = 1
        while most * self.gates * self.rows < SUMS and most < self.size // lanes:
            most *= 2
        whole = hidden // lanes
        many = whole // most * most
        b.loop(0, many * lanes, most * lanes, lambda o, _: vectors(o, [None] * most))
        left = [None] * (whole - many) + ([b.mask(hidden - whole * lanes, lanes)] if hidden > whole * lanes else [])
        if left:
            vectors(many * lanes, left)

    def sums(self, w: Value, old: Value, vectors: int) -> dict[tuple[int, int, int], Value]:
        """Products of the weights of some vectors of numbers with the state, by vector, gate and row. Each is a sum in
        the order of the state, however many are computed at once.
        """
        b, hidden, lanes = self.b, self.task.hidden, self.lanes
        places = [(v, g, r) for v in range(vectors) for g in range(self.gates) for r in range(self.rows)]

        def turn(k: Any, acc: list[Value]) -> list[Value]:
            found = dict(zip(places, acc, strict=True))
            one = [b.splat_load(self.held(old, r, k), F32) for r in range(self.rows)]
            for v in range(vectors):
                for g in range(self.gates):
                    at = b.at(w, b.mul(k, 4 * self.gates * lanes), 4 * lanes * (v * hidden * self.gates + g))
                    weights = b.vload(at, F32, align=4 * lanes)
                    for r in range(self.rows):
                        found[v, g, r] = b.fma(one[r], weights, found[v, g, r])
            return list(found.values())

        acc = b.loop(0, hidden, 1, turn, [b.const(F32, 0.0)] * len(places), unroll=2 if hidden > 2 else 1)
        return dict(zip(places, acc, strict=True))

    def cell(self, x: list[Value], s: list[Value], o: Any, r: int, old: Value) -> Value:
        """The new state of a vector of numbers, from the products with the input and with the state."""
        b = self.b
        sigmoid, tanh = (lambda v, name=name: activate(b, v, Activation(name), F32) for name in ("sigmoid", "tanh"))
        if self.task.cell == "lstm":
            i, f, g, out = (b.fadd(p, q) for p, q in zip(x, s, strict=True))
            at = self.held(self.cells, r, o)
            c = b.fma(sigmoid(f), b.vload(at, F32), b.fmul(sigmoid(i), tanh(g)))
            b.vstore(c, at, F32)
            return b.fmul(sigmoid(out), tanh(c))
        if self.task.cell == "gru":
            bias = b.vload(b.at(t.word(b, t.B), b.mul(self.direction, 4 * self.size), b.mul(o, 4)), F32)
            reset, update = sigmoid(b.fadd(x[0], s[0])), sigmoid(b.fadd(x[1], s[1]))
            new = tanh(b.fma(reset, b.fadd(s[2], bias), x[2]))
            h = b.vload(self.held(old, r, o), F32)
            return b.fma(b.fsub(b.const(F32, 1.0), update), new, b.fmul(update, h))
        value = b.fadd(x[0], s[0])
        return tanh(value) if self.task.cell == "rnn_tanh" else activate(b, value, Activation("relu"), F32)
