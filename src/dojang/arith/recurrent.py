"""Recurrent layers: LSTM (Hochreiter and Schmidhuber 1997), GRU (Cho et al. 2014) and the simple RNN (Elman 1990).

A node `recurrent` is one direction or two over all steps of x (steps, n, inputs), as PyTorch's layers of one level and
ONNX's operators are. Its arrays have PyTorch's names, shapes and order of gates; those of the second direction end in
`_reverse`. The operator has up to three outputs, and a node stands for one of them, `output`: the hidden state of every
step, "sequence" (steps, directions, n, hidden); after the last one, "hidden" (directions, n, hidden); the cell state
of an LSTM after the last one, "cell". With `rounded`, the weights multiply inputs and states that are rounded to 8 bits
before: the inputs of all steps together, the states of a step together, each over their own range, 0 in it. ONNX
Runtime's DynamicQuantizeLSTM does so on one thread; on several it may round some rows of a batch apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dojang.arith.attrs import Attrs
from dojang.arith.conv import by
from dojang.base.errors import ShapeError

Shape = tuple[int, ...]

GATES: Mapping[str, int] = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
"""Rows of weights for each hidden number: input, forget, cell, output; reset, update, new."""

ONNX_ORDER: Mapping[str, tuple[int, ...]] = {
    "lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn_tanh": (0,), "rnn_relu": (0,)
}  # fmt: skip
"""Our gates in the order in which ONNX has them: i o f c, and z r h."""

ROLES = tuple(f"{role}{end}" for end in ("", "_reverse") for role in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
"""The roles of the arrays."""


def directions(attrs: Attrs) -> int:
    """1 or 2."""
    return 2 if attrs["direction"] == "both" else 1


def shape(attrs: Attrs, shapes: Sequence[Shape]) -> Shape:
    """The shape of the output that a node stands for; initial states must have that of "hidden"."""
    x, hidden = shapes[0], attrs["hidden"]
    if len(x) != 3 or hidden < 1:
        raise ShapeError(f"a recurrent layer of {hidden} needs an input (steps, n, features), got {by(x)}")
    ends = (directions(attrs), x[1], hidden)
    for state in shapes[1:]:
        if tuple(state) != ends:
            raise ShapeError(f"the initial state of a recurrent layer must be {by(ends)} here, got {by(state)}")
    if len(shapes) > (3 if attrs["cell"] == "lstm" else 2):
        raise ShapeError(f"{attrs['cell']} has {1 if attrs['cell'] != 'lstm' else 2} states, got {len(shapes) - 1}")
    if attrs["output"] == "cell" and attrs["cell"] != "lstm":
        raise ShapeError(f"{attrs['cell']} has no cell state")
    return (x[0], *ends) if attrs["output"] == "sequence" else ends


def params(attrs: Attrs, shapes: Sequence[Shape]) -> dict[str, Shape]:
    """Weights of the input (gates · hidden, inputs) and of the state (gates · hidden, hidden), and a bias of each."""
    hidden = attrs["hidden"]
    rows = GATES[attrs["cell"]] * hidden
    each = {"weight_ih": (rows, shapes[0][2]), "weight_hh": (rows, hidden)}
    if attrs["bias"]:
        each |= {"bias_ih": (rows,), "bias_hh": (rows,)}
    ends = ("", "_reverse")[: directions(attrs)]
    return {f"{role}{end}": size for end in ends for role, size in each.items()}


def macs(attrs: Attrs, shapes: Sequence[Shape]) -> Any:
    """Per step and direction: gates · hidden · (inputs + hidden); products between gates are not counted. The first of
    the outputs that are read carries them.
    """
    steps, n, inputs = shapes[0]
    hidden = attrs["hidden"]
    each = GATES[attrs["cell"]] * hidden * (inputs + hidden)
    return steps * n * directions(attrs) * each if attrs["first"] else 0
