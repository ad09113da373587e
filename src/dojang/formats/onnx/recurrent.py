"""LSTM, GRU and RNN of ONNX as `recurrent` nodes, read and written.

What those cannot say is run as the standard defines it: sequences of different lengths, peepholes, other activations,
clipped gates, coupled gates, and the batch as the first axis (`layout` 1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dojang.arith.graph import Node
from dojang.arith.recurrent import GATES, ONNX_ORDER, directions
from dojang.base.errors import GraphError
from dojang.formats.onnx.batch import depends
from dojang.formats.onnx.constants import Const
from dojang.formats.onnx.draft import Call, NotDone, Reader, Value, batch_axis

OUTPUTS = ("sequence", "hidden", "cell")
ACTIVATIONS: Mapping[str, Mapping[tuple[str, ...], str]] = {
    "LSTM": {("sigmoid", "tanh", "tanh"): "lstm"},
    "GRU": {("sigmoid", "tanh"): "gru"},
    "RNN": {("tanh",): "rnn_tanh", ("relu",): "rnn_relu"},
}
"""The cells that are read, by operator and activations; the first of each is ONNX's default."""
DIRECTIONS = {"forward": "forward", "reverse": "reverse", "bidirectional": "both"}


def layer(reader: Reader, call: Call, rounded: bool = False) -> list[Value]:
    """LSTM, GRU or RNN: a node for each output that is read. `rounded` as for the operator `recurrent`."""
    attrs = call.attrs
    direction = DIRECTIONS.get(attrs.get("direction", "forward"))
    if direction is None:
        raise GraphError(f"{call.name}: direction {attrs['direction']!r} is not forward, reverse or bidirectional")
    many = 2 if direction == "both" else 1
    cell = _cell(call, many)
    if attrs.get("layout") or attrs.get("clip") or attrs.get("input_forget"):
        raise NotDone("with layout, clip or input_forget")
    if len(call.inputs) > 7 and call.inputs[7] is not None:
        raise NotDone("with peepholes")
    x = call.value(0)
    shape = reader.shape(x)
    if len(shape) != 3:
        raise NotDone(f"of an input of {len(shape)} axes; it has steps, n and features")
    if not depends(reader.batch) and batch_axis(shape) not in (None, 1):
        raise NotDone("turns along the batch")
    lengths = call.const(4)
    if lengths is not None and (lengths.batched or any(v != shape[0] for v in lengths.values())):
        raise NotDone("with sequences of different lengths")
    w, r, bias = call.needed(1), call.needed(2), call.const(3)
    gates, hidden = GATES[cell], r.shape[-1] if len(r.shape) == 3 else 0
    wanted = (many, gates * hidden, shape[2]), (many, gates * hidden, hidden), (many, 2 * gates * hidden)
    for const, size in zip((w, r, bias), wanted, strict=True):
        if const is not None and const.shape != size:
            raise GraphError(f"{call.name}: {call.op} needs weights of {size}, got {const.shape}")
    roles: dict[str, Const | None] = {}
    for k, end in enumerate(("", "_reverse")[:many]):
        roles[f"weight_ih{end}"] = _rows(w, cell, k, 0, hidden)
        roles[f"weight_hh{end}"] = _rows(r, cell, k, 0, hidden)
        if bias is not None:
            roles[f"bias_ih{end}"] = _rows(bias, cell, k, 0, hidden)
            roles[f"bias_hh{end}"] = _rows(bias, cell, k, gates * hidden, hidden)
    states = _states(call, 2 if cell == "lstm" else 1)
    made: list[Value] = []
    first, label = True, reader.label
    for place, output in enumerate(call.outputs[: 3 if cell == "lstm" else 2]):
        if not output or not reader.used[output]:
            made.append(reader.fill(0.0))  # no node reads it
            continue
        reader.label = label if first else (output,)
        made.append(
            reader.emit(
                "recurrent", x, *states, roles=roles, cell=cell, hidden=hidden, direction=direction,
                bias=bias is not None, reset_after=bool(attrs.get("linear_before_reset", cell != "gru")),
                output=OUTPUTS[place], first=first, rounded=rounded,
            )
        )  # fmt: skip
        first = False
    return made


def _cell(call: Call, many: int) -> str:
    """The cell by its activations, which must be the same in both directions."""
    known = ACTIVATIONS[call.op]
    names = tuple(name.lower() for name in call.attrs.get("activations") or ()) or next(iter(known)) * many
    each = len(next(iter(known)))
    found = known.get(names[:each])
    if found is None or names != names[:each] * many:
        raise NotDone(f"with the activations {', '.join(names)}")
    return found


def _states(call: Call, count: int) -> list[Value]:
    """The initial states; none where all are 0."""
    given = [call.inputs[5 + k] if len(call.inputs) > 5 + k else None for k in range(count)]
    zero = [v is None or (isinstance(v, Const) and not v.trained and v.fill == 0) for v in given]
    if all(zero):
        return []
    if any(zero):
        raise NotDone("with one of two initial states")
    return [v for v in given if v is not None]


def _rows(const: Const, cell: str, direction: int, start: int, hidden: int) -> Const:
    """The weights or the bias of one direction, its gates in our order."""
    rows = GATES[cell] * hidden
    order = [ONNX_ORDER[cell].index(k) for k in range(GATES[cell])]

    def change(array: Any) -> Any:
        part = array[direction, start : start + rows]
        return part.reshape(-1, hidden, *part.shape[1:])[order].reshape(part.shape)

    return const.mapped(("gates", cell, direction, start), (rows, *const.shape[2:]), change)


RULES: Mapping[str, Callable[[Reader, Call], Any]] = dict.fromkeys(("LSTM", "GRU", "RNN"), layer)
"""One rule per operator of ONNX."""


def write(w: Any, node: Node) -> None:
    """LSTM, GRU or RNN by the `Writer` w; the first node that stands for an output writes all of them. What is rounded
    to 8 bits in the network is real in the file: the standard has no operator that rounds states.
    """
    a, place = node.attrs, OUTPUTS.index(node.attrs["output"])
    arrays = tuple(node.array(role) for role in w.graph.node_params(node))
    key = ("recurrent", node.inputs, arrays, a["cell"], a["direction"], a["reset_after"], a["rounded"])
    known = w.several.get(key)
    if known is not None and len(known["output"]) > place and not known["output"][place]:
        known["output"][place] = node.name
        return
    ends = ("", "_reverse")[: directions(a)]
    weights = [_stacked(w, node, "W", ["weight_ih"], ends), _stacked(w, node, "R", ["weight_hh"], ends)]
    weights.append(_stacked(w, node, "B", ["bias_ih", "bias_hh"], ends) if a["bias"] else "")
    x, *states = node.inputs
    inputs = [x, *weights, "", *states] if states else [x, *weights]
    while not inputs[-1]:
        inputs.pop()
    attrs: dict[str, Any] = {"hidden_size": a["hidden"]}
    if a["direction"] != "forward":
        attrs["direction"] = {"both": "bidirectional"}.get(a["direction"], a["direction"])
    if a["cell"] == "rnn_relu":
        attrs["activations"] = ["Relu"] * len(ends)
    if a["cell"] == "gru":
        attrs["linear_before_reset"] = int(a["reset_after"])
    w.op(a["cell"].partition("_")[0].upper(), inputs, node.name, **attrs)
    message = w.nodes[-1]
    message["output"] = ["", "", ""][: 3 if a["cell"] == "lstm" else 2]
    message["output"][place] = node.name
    w.several[key] = message


def _stacked(w: Any, node: Node, what: str, roles: list[str], ends: tuple[str, ...]) -> str:
    """An initialiser of arrays of all directions, their gates in ONNX's order."""
    import numpy as np

    cell, names = node.attrs["cell"], [node.array(f"{role}{end}") for end in ends for role in roles]
    key = f"{what} {' '.join(names)}"
    if key not in w.tensors:
        parts: list[Any] = []
        for end in ends:
            own: list[Any] = []
            for role in roles:
                gates = np.split(np.asarray(w.graph.weights[node.array(f"{role}{end}")], "<f4"), GATES[cell])
                own += [gates[k] for k in ONNX_ORDER[cell]]
            parts.append(np.concatenate(own))
        w.initialiser(key, w.name(f"{node.name}.{what}"), np.stack(parts))
    return w.tensors[key]["name"]
