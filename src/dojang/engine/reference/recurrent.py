"""Reference of recurrent layers: by the functions of ONNX's operators, whose gates have another order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dojang.arith.attrs import Attrs
from dojang.arith.recurrent import GATES, ONNX_ORDER, directions
from dojang.engine.reference.standard import recurrent as standard
from dojang.engine.reference.standard.call import OperatorCall

Array = np.ndarray


def layer(attrs: Attrs, inputs: Sequence[Array], arrays: Mapping[str, Array]) -> Array:
    """The output that the node stands for."""
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


def in_order(cell: str, array: Array) -> Array:
    """An array whose rows are gates, in the order that ONNX has them."""
    parts = np.split(array, GATES[cell])
    return np.concatenate([parts[k] for k in ONNX_ORDER[cell]])


FUNCTIONS = {"recurrent": layer}
