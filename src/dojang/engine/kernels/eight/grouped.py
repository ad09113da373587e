"""Convolutions of bytes in narrow groups: a register holds the output channels of several groups (`lanes.py`).

Of each place the input channels of those groups are loaded at once, and every lot of four goes to the lanes of its
group: one instruction multiplies for as many outputs as a register has lanes, where a group alone would fill a part of
it. Weights are packed [vector of output channels][kd][kh][kw][lot of four channels][lane][4].
"""

from __future__ import annotations

from math import prod

import llvmlite.ir as ir
import numpy as np

from dojang.engine.kernels import task as t
from dojang.engine.kernels.conv.direct import three
from dojang.engine.kernels.eight import lanes
from dojang.engine.kernels.eight.conv import LONGEST, EightTask
from dojang.engine.kernels.eight.dot import dot_of
from dojang.engine.kernels.eight.lanes import MOST_TAPS, ChannelForm, ends_of
from dojang.engine.kernels.task import Code, Offer, Refusal
from dojang.native.emit import I32, Emit, Value
from dojang.native.machine import Machine

NAME = "eight-grouped"
MAKES = 1.5
"""Cycles that a lot of four channels takes to get to its lanes, and its part of a load."""


def offer(task: EightTask, machine: Machine) -> Offer | Refusal:
    """For groups of fewer output channels than a register has lanes, in whole registers."""
    c, dot, count = task.conv, dot_of(machine), machine.lanes(4)
    if c.groups == 1 or c.transposed or c.rank > 3:
        return Refusal("one group, transposed, or more than 3 dimensions")
    if dot is None or dot.depth != 4:
        return Refusal("the processor has no products of four bytes")
    reads, gives = c.ic // c.groups, c.oc // c.groups
    if gives >= count or count % gives or c.oc % count:
        return Refusal(f"groups of {gives} outputs do not fill registers of {count}")
    if reads % 4 or reads * (count // gives) > 4 * count:
        return Refusal(f"groups of {reads} inputs are no whole lots of 4, or more than a register")
    if c.kernel[-1] > MOST_TAPS:
        return Refusal(f"a row of {c.kernel[-1]} taps is too long to unroll")
    if reads * prod(c.kernel) >= LONGEST:
        return Refusal("its sums may not fit 32 bits")
    return Offer(lanes.seconds(task, machine, reads // 4, MAKES * (reads // 4)))


def pack(
    task: EightTask, machine: Machine, weight: np.ndarray, bias: np.ndarray | None, factor: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (oc, ic/groups, *kernel) in the order above; biases and factors as in `conv.pack`."""
    c, count, dot = three(task.conv), machine.lanes(4), dot_of(machine)
    assert dot is not None
    lots, taps, vectors = c.ic // c.groups // 4, prod(c.kernel), c.oc // count
    out = t.lined((vectors, taps, lots, count, 4), "i1")
    out[...] = np.asarray(weight).reshape(vectors, count, lots, 4, taps).transpose(0, 4, 2, 1, 3)
    sums = np.asarray(weight, np.int64).reshape(c.oc, -1).sum(1)
    return out.reshape(-1), ends_of(c, machine, task.zero - dot.shift, sums, bias, factor)


def emit(task: EightTask, machine: Machine) -> Code:
    """One step, or one that copies the input and one that multiplies; a unit is some rows of one image."""
    c, dot, count = task.conv, dot_of(machine), machine.lanes(4)
    assert dot is not None
    lots, gives = c.ic // c.groups // 4, c.oc // c.groups
    words = count // gives * lots

    def values(b: Emit, x: Value, mask: Value) -> list[Value]:
        del mask  # registers are whole
        found = b.vload(x, I32, words, align=1)
        if dot.shift:
            found = b.xor(found, ir.Constant(found.type, [0x80808080] * words))
        return [b.shuffle(found, None, [lane // gives * lots + k for lane in range(count)]) for k in range(lots)]

    form = ChannelForm(NAME, lots, 4 * words, values, dot.add)
    return lanes.emit(task, machine, form)
