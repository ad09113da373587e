"""Reference of recurrent layers: by the functions of ONNX's operators, whose gates have another order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dojang.arith.attrs import Attrs
from dojang.arith.recurrent import GATES, ONNX_ORDER, directions
from dojang.engine.reference.elements import sigmoid
from dojang.engine.reference.standard import recurrent as standard
from dojang.engine.reference.standard.call import OperatorCall

Array = np.ndarray


def layer(attrs: Attrs, inputs: Sequence[Array], arrays: Mapping[str, Array]) -> Array:
    """The output that the node stands for."""
    if attrs["rounded"]:
        return rounded_lstm(attrs, inputs, arrays)
    cell, kind = attrs["cell"], attrs["cell"].partition("_")[0].upper()
    ends = ("", "_reverse")[: directions(attrs)]

    def joined(*roles: str) -> Array:
        return np.stack([np.concatenate([in_order(cell, arrays[f"{role}{end}"]) for role in roles]) for end in ends])

    bias = joined("bias_ih", "bias_hh") if attrs["bias"] else None
    settings: dict[str, Any] = {"linear_before_reset": int(attrs["reset_after"])}
    settings["direction"] = {"both": "bidirectional"}.get(attrs["direction"], attrs["direction"])
    if cell == "rnn_relu":
        settings["activations"] = ["Relu"] * len(ends)
    given = [inputs[0], joined("weight_ih"), joined("weight_hh"), bias, None, *inputs[1:]]
    found = standard.FUNCTIONS[kind](OperatorCall(kind, given, settings, 22))
    return found[("sequence", "hidden", "cell").index(attrs["output"])]


def rounded_lstm(attrs: Attrs, inputs: Sequence[Array], arrays: Mapping[str, Array]) -> Array:
    """The same of an LSTM whose weights multiply inputs and states that are rounded to 8 bits."""
    assert attrs["cell"] == "lstm", attrs["cell"]
    x = to_8_bits(inputs[0])
    (steps, n, _), hidden, many = x.shape, attrs["hidden"], directions(attrs)
    sequence = np.zeros((steps, many, n, hidden), x.dtype)
    ends = np.zeros((2, many, n, hidden), x.dtype)
    for k, given in enumerate(inputs[1:]):
        ends[k] = given
    for d, end in enumerate(("", "_reverse")[:many]):
        products = x @ arrays[f"weight_ih{end}"].T
        if attrs["bias"]:
            products = products + (arrays[f"bias_ih{end}"] + arrays[f"bias_hh{end}"])
        back = attrs["direction"] == "reverse" or d == 1
        h, c = ends[0, d], ends[1, d]
        for step in range(steps)[:: -1 if back else 1]:
            sums = products[step] + to_8_bits(h) @ arrays[f"weight_hh{end}"].T
            i, f, g, o = np.split(sums, 4, axis=1)
            i, f, o = (sigmoid(v) for v in (i, f, o))
            c = f * c + i * np.tanh(g)
            h = sequence[step, d] = o * np.tanh(c)
        ends[:, d] = h, c
    return sequence if attrs["output"] == "sequence" else ends[int(attrs["output"] == "cell")]


def to_8_bits(x: Array) -> Array:
    """The numbers rounded to 8 bits over their range, 0 in it, and made real again (`kernels/other/rounding.py`)."""
    low, high = min(x.min(initial=0), x.dtype.type(0)), max(x.max(initial=0), x.dtype.type(0))
    scale = (high - low) / x.dtype.type(255) if high > low else x.dtype.type(1)
    shift = min(np.rint(-low / scale), x.dtype.type(255))
    return np.clip(np.rint(x / scale), -shift, 255 - shift) * scale


def in_order(cell: str, array: Array) -> Array:
    """An array whose rows are gates, in the order that ONNX has them."""
    parts = np.split(array, GATES[cell])
    return np.concatenate([parts[k] for k in ONNX_ORDER[cell]])


FUNCTIONS = {"recurrent": layer}
