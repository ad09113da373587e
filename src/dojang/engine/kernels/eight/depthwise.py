"""Depthwise convolution of bytes: every channel on its own, lanes are channels (`lanes.py`).

Each input is widened to 32 bits and multiplied with the tap's weight. Weights are packed [vector of
channels][kd][kh][kw][lane] as int32, whose upper halves the multiplication takes with the zeros above the values.
"""

from __future__ import annotations

from math import prod

import numpy as np

from dojang.engine.kernels import task as t
from dojang.engine.kernels.conv.direct import three
from dojang.engine.kernels.eight import lanes
from dojang.engine.kernels.eight.conv import EightTask
from dojang.engine.kernels.eight.dot import spread_bytes, wide_product
from dojang.engine.kernels.eight.lanes import MOST_TAPS, ChannelForm, ends_of
from dojang.engine.kernels.task import Code, Offer, Refusal
from dojang.native.machine import Machine

NAME = "eight-depthwise"


def offer(task: EightTask, machine: Machine) -> Offer | Refusal:
    """For one input and one output channel per group."""
    c = task.conv
    if not (c.ic == c.oc == c.groups and c.groups > 1) or c.transposed:
        return Refusal("not depthwise")
    if c.rank > 3:
        return Refusal("more than 3 dimensions")
    if c.kernel[-1] > MOST_TAPS:
        return Refusal(f"a row of {c.kernel[-1]} taps is too long to unroll")
    return Offer(lanes.seconds(task, machine, 1, 1.0))


def pack(
    task: EightTask, machine: Machine, weight: np.ndarray, bias: np.ndarray | None, factor: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (c, 1, *kernel) in the order above; biases and factors as in `conv.pack`."""
    c, count = three(task.conv), machine.lanes(4)
    vectors, taps = t.ceil_div(c.oc, count), prod(c.kernel)
    w = np.zeros((vectors * count, taps), "i4")
    w[: c.oc] = np.asarray(weight).reshape(c.oc, taps)
    out = t.lined((vectors, taps, count), "i4")
    out[...] = w.reshape(vectors, count, taps).transpose(0, 2, 1)
    return out.reshape(-1), ends_of(c, machine, task.zero, w[: c.oc].astype("i8").sum(1), bias, factor)


def emit(task: EightTask, machine: Machine) -> Code:
    """One step, or one that copies the input and one that multiplies; a unit is some rows of one image."""
    count = machine.lanes(4)
    form = ChannelForm(NAME, 1, count, lambda b, x, mask: [spread_bytes(b, x, count, mask)], wide_product)
    return lanes.emit(task, machine, form)
