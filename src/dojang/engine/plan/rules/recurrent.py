"""Recurrent layers: one matrix product with the inputs of all steps, then the steps in order."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from dojang.arith.conv import Conv
from dojang.arith.graph import Node
from dojang.arith.recurrent import GATES, directions
from dojang.engine.fuse import Group
from dojang.engine.kernels import task as t
from dojang.engine.kernels.conv import dense, fallback
from dojang.engine.kernels.other import recurrent as kernel
from dojang.engine.kernels.other import rounding
from dojang.engine.kernels.other.recurrent import RecurrentTask
from dojang.engine.kernels.other.rounding import RoundingTask
from dojang.engine.kernels.task import Refusal, Task
from dojang.engine.plan.choose import Choice
from dojang.engine.plan.context import PlanContext
from dojang.engine.plan.rules.strided import copy, rows, strides
from dojang.engine.plan.steps import KernelStep, Packing, Place
from dojang.engine.weights import Weights


def layer(context: PlanContext, group: Group) -> bool:
    """One output of a recurrent layer; the first one that is needed computes all of them."""
    node, x = group.node, context.places[group.inputs[0]]
    if not prod(x.shape):
        return False
    arrays = tuple(node.array(role) for role in context.graph.node_params(node))
    what = {k: v for k, v in node.attrs.items() if k not in ("output", "first")}
    key = ("recurrent", group.inputs, arrays, tuple(what.items()))
    made = context.made.get(key)
    if made is None:
        made = context.made[key] = compute(context, group)
    if made is None:
        return False
    sequence, ends = made
    shape = context.shape(group.value)
    if node.attrs["output"] == "sequence":
        return given(context, group, sequence, 0, shape)
    return given(context, group, ends, prod(shape) if node.attrs["output"] == "cell" else 0, shape)


def given(context: PlanContext, group: Group, flat: Place, offset: int, shape: Sequence[int]) -> bool:
    """The value of a group from element `offset` of what lies in rows: the same memory, or a copy."""
    place = Place(flat.buffer, offset, shape[1], tuple(shape))
    if group.value not in context.reserved and same(place):
        context.places[group.value] = place
        return True
    return copy(context, group, flat, rows(shape), context.target(group.value), offset)


def same(place: Place) -> bool:
    """Whether a value lies in rows where it lies channels last."""
    pairs = zip(place.shape, strides(place), rows(place.shape), strict=True)
    return all(a == b for size, a, b in pairs if size > 1)


def flat(context: PlanContext, group: Group, name: str) -> Place | None:
    """A value in rows; copied if it lies otherwise."""
    x = context.places[name]
    if same(x):
        return x
    y = context.fresh((1, prod(x.shape)))
    return y if copy(context, f"{group.value} input", x, strides(x), y, 0, rows(x.shape), x.shape) else None


def compute(context: PlanContext, group: Group) -> tuple[Place, Place] | None:
    """Adds the steps; where the states of all steps, and those after the last one, lie in rows."""
    node, x = group.node, context.places[group.inputs[0]]
    steps, batch, inputs = x.shape
    cell, hidden, many = node.attrs["cell"], node.attrs["hidden"], directions(node.attrs)
    reverse = (False, True) if many == 2 else (node.attrs["direction"] == "reverse",)
    states = len(group.inputs) - 1
    task = RecurrentTask(
        cell, hidden, steps, batch, reverse, tuple(k < states for k in range(2)), node.attrs["reset_after"],
        node.attrs["rounded"],
    )  # fmt: skip
    if isinstance(kernel.offer(task, context.machine), Refusal):
        return None
    sources = [flat(context, group, name) for name in group.inputs]
    if task.rounded and sources[0] is not None:
        sources[0] = rounded(context, group, sources[0])
    products = product(context, group, sources[0], steps, batch, inputs) if None not in sources else None
    if products is None:
        return None
    sequence = context.fresh((1, steps * many * batch * hidden))
    ends = context.fresh((1, (2 if cell == "lstm" else 1) * many * batch * hidden))
    keys = f"{arrays_name(node)} states", f"{arrays_name(node)} last"
    packing = Packing(keys, lambda w: packed(w, node, context))
    slots: dict[int, Place | str] = {t.X: products, t.Y: sequence, t.S1: ends, t.W: keys[0], t.B: keys[1]}
    for slot, source in zip((t.R, t.S0), sources[1:], strict=False):
        assert source is not None
        slots[slot] = source
    return (sequence, ends) if context.simple(group, kernel, task, 1, slots, packing) else None


def rounded(context: PlanContext, group: Group, x: Place) -> Place:
    """The inputs of all steps rounded together to 8 bits."""
    y = context.fresh((1, prod(x.shape)))
    context.simple(group, rounding, RoundingTask(prod(x.shape)), 1, {t.X: x, t.Y: y})
    return y


def arrays_name(node: Node) -> str:
    """A name for what is packed of the layer's arrays, the same for all its outputs."""
    return node.array("weight_hh")


def packed(weights: Weights, node: Node, context: PlanContext) -> list[np.ndarray]:
    """The weights of the state, and the bias that a GRU adds to the product with its state."""
    ends = ("", "_reverse")[: directions(node.attrs)]
    last = None
    if node.attrs["cell"] == "gru" and node.attrs["bias"]:
        last = [weights.array(node, f"bias_hh{end}")[2 * node.attrs["hidden"] :] for end in ends]
    states = [weights.array(node, f"weight_hh{end}") for end in ends]
    return kernel.pack(node.attrs["cell"], context.machine, states, last)


def joined(weights: Weights, node: Node) -> tuple[np.ndarray, np.ndarray | None]:
    """Weights and bias of the product with the inputs, of all directions."""
    ends = ("", "_reverse")[: directions(node.attrs)]
    weight = np.concatenate([weights.array(node, f"weight_ih{end}") for end in ends])
    if not node.attrs["bias"]:
        return weight, None
    gru, hidden = node.attrs["cell"] == "gru", node.attrs["hidden"]
    parts: list[np.ndarray] = []
    for end in ends:
        second = np.array(weights.array(node, f"bias_hh{end}"), np.float64)
        if gru:
            second[2 * hidden :] = 0  # is multiplied by the reset gate
        parts.append(weights.array(node, f"bias_ih{end}") + second)
    return weight, np.concatenate(parts).astype(np.float32)


def product(context: PlanContext, group: Group, x: Place | None, steps: int, batch: int, inputs: int) -> Place | None:
    """The inputs by the weights of all gates and directions: a convolution of single places, of which it has `steps`
    for each of the batch; rows lie one after the other, so that it does not matter which of them is an image.
    """
    node = group.node
    assert x is not None
    out = GATES[node.attrs["cell"]] * node.attrs["hidden"] * directions(node.attrs)
    like = context.chosen_shapes.get(group.inputs[0])
    problem = Conv.of(inputs, out, (steps,), 1, n=like[1] if like else batch)
    task = Task(problem, inputs, out, strict=context.strict, resident_ratio=context.resident_ratio)
    algorithm, seconds, refused = context.choose(task)
    if algorithm is fallback:
        return None
    y = context.fresh((1, steps * batch * out))
    key, machine = f"{arrays_name(node)} inputs {algorithm.NAME} {task}", context.machine

    def make(weights: Weights) -> Sequence[np.ndarray]:
        weight, bias = joined(weights, node)
        w, b = algorithm.pack(task, machine, weight[..., None], bias)
        return (w if algorithm is dense else t.on_line(w)), t.on_line(b)

    packing = Packing((f"{key} w", f"{key} b"), make)
    wide = Place(y.buffer, 0, out, (batch, out, steps))
    slots: dict[int, Place | str] = {t.X: x, t.Y: wide, t.W: f"{key} w", t.B: f"{key} b"}
    predicted, macs = seconds * batch / context.threads, problem.macs // problem.n * batch
    choice = Choice(group.value, node.op, algorithm.NAME, group.members, refused, predicted, None, macs)
    context.add(KernelStep(choice, algorithm, task, batch, slots, packing))
    return y
