"""`nn.LSTM`, `nn.GRU` and `nn.RNN`: a `recurrent` node for each output that a level gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dojang.arith.recurrent import GATES
from dojang.formats.torch.read.ops import lowers
from dojang.formats.torch.read.trace import Tracer
from dojang.formats.torch.read.traced import Traced


@lowers("lstm")
def lstm(
    t: Tracer, x: Any, states: Any, weights: Sequence[Any], has_biases: Any, num_layers: Any, dropout: Any, train: Any,
    bidirectional: Any, batch_first: Any = None,
) -> Any:  # fmt: skip
    """LSTM, of which each level has two states."""
    if batch_first is None or not isinstance(x, Traced):
        return NotImplemented  # sequences of different lengths, packed
    return _levels(t, "lstm", x, states, weights, has_biases, num_layers, bidirectional, batch_first)


def _plain(cell: str) -> Any:
    def run(
        t: Tracer, x: Any, state: Any, weights: Any, has_biases: Any, num_layers: Any, dropout: Any, train: Any,
        bidirectional: Any, batch_first: Any = None,
    ) -> Any:  # fmt: skip
        if batch_first is None or not isinstance(x, Traced):
            return NotImplemented
        return _levels(t, cell, x, (state,), weights, has_biases, num_layers, bidirectional, batch_first)

    return run


for _cell in ("gru", "rnn_tanh", "rnn_relu"):
    lowers(_cell)(_plain(_cell))


def _levels(
    t: Tracer, cell: str, x: Traced, states: Sequence[Any], weights: Sequence[Any], bias: bool, levels: int, both: bool,
    batch_first: bool,
) -> Any:  # fmt: skip
    """All levels, each on the states of all steps of the one before it; the last states of all levels together."""
    many, hidden = 2 if both else 1, weights[1].shape[1]
    each = 4 if bias else 2
    if len(weights) != levels * many * each or weights[0].shape[0] != GATES[cell] * hidden or x.dim() != 3:
        return NotImplemented  # a projection of the state
    if batch_first:
        x = t.emit("transpose", x, part="steps", perm=(1, 0, 2))
    given = [None if _zero(t, state) else t.value(state) for state in states]
    if None in given and any(v is not None for v in given):
        given = [t.value(state) for state in states]
    ends: list[list[Any]] = [[] for _ in states]
    roles = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[:each]
    for level in range(levels):
        own = weights[level * many * each : (level + 1) * many * each]
        arrays = {f"{role}{'_reverse' * k}": own[k * each + i] for k in range(many) for i, role in enumerate(roles)}
        start = many * level
        begin = [
            v if levels == 1 else t.emit("slice", v, part=f"begin{level}", axis=0, start=start, stop=start + many)
            for v in given if v is not None
        ]  # fmt: skip
        made: list[Any] = []
        for k, output in enumerate(("sequence", "hidden", "cell")[: 1 + len(states)]):
            parts = [f"level{level}"] * (levels > 1) + [output] * (k > 0)
            name = t.fresh(part=".".join(parts) or None)
            t.used.discard(name)
            made.append(
                t.emit(
                    "recurrent", x, *begin, name=name, arrays=t.roles(name, **arrays), cell=cell, hidden=hidden,
                    direction="both" if both else "forward", bias=bias, output=output, first=k == 0,
                )
            )  # fmt: skip
        for at, value in zip(ends, made[1:], strict=True):
            at.append(value)
        x = _joined(t, made[0], f"level{level}." * (levels > 1))
    last = [t.emit("concat", *at, part=f"last{k}", axis=0) if levels > 1 else at[0] for k, at in enumerate(ends)]
    if batch_first:
        x = t.emit("transpose", x, part="batch", perm=(1, 0, 2))
    return (x, *last)


def _joined(t: Tracer, y: Traced, part: str) -> Traced:
    """(steps, directions, n, hidden) as (steps, n, directions · hidden)."""
    steps, many, _, hidden = y.sizes
    if many == 1:
        return t.emit("squeeze", y, part=f"{part}states", axes=(1,))
    turned = t.emit("transpose", y, part=f"{part}turned", perm=(0, 2, 1, 3))
    return t.emit("reshape", turned, part=f"{part}states", shape=(steps, -1, many * hidden))


def _zero(t: Tracer, state: Any) -> bool:
    """Whether an initial state is 0 everywhere, as those are that PyTorch makes itself."""
    known = state.alike if isinstance(state, Traced) else state
    if not isinstance(known, torch.Tensor):
        return False
    with torch._C.DisableTorchFunction():
        return not bool(torch.count_nonzero(known))
