"""If and Loop whose condition is a value that the network computes: their bodies become networks of their own.

A node `standard` of kind "If" or "Loop" holds them in its settings, as JSON: nodes, which of its inputs is which input
or array of the body, and the outputs. What a body reads of the network around it, and its weights, are inputs of the
node, so that they are counted and written once. `engine/reference/control.py` runs the body that is taken.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dojang.arith.graph import Node
from dojang.arith.ops import STANDARD, UNKNOWN
from dojang.arith.shapes import Shape
from dojang.base.errors import GraphError
from dojang.formats.onnx.constants import Const
from dojang.formats.onnx.draft import Call, Draft, NotDone, Reader, Value
from dojang.formats.onnx.protobuf import Message

_INPUT = Node.of("input", "input", shape=())
MOST_TEXT = 1 << 22
"""The longest description of a body, in characters."""


@dataclass
class Inputs:
    """The inputs of the node that holds the bodies, each once."""

    values: list[Value] = field(default_factory=list[Value])
    places: dict[Hashable, int] = field(default_factory=dict[Hashable, int])
    kept: list[Value] = field(default_factory=list[Value])  # a key may be the id of a value

    def place(self, value: Value, trained: bool = False) -> int:
        """The number of a value among them; `trained` says that it is a weight."""
        key = value.key if isinstance(value, Const) else id(value)
        if key not in self.places:
            self.kept.append(value)
            self.places[key] = len(self.values)
            self.values.append(replace(value, trained=True) if trained and isinstance(value, Const) else value)
        return self.places[key]


@dataclass(frozen=True)
class Body:
    """A body that was read: its description for the settings, and shapes and types of its outputs."""

    said: dict[str, Any]
    shapes: Sequence[Shape | None]
    types: Sequence[str]


def body(
    r: Reader, graph: Message, held: Mapping[str, Value], reads: Sequence[str],
    entries: Mapping[str, tuple[Shape, str]], inputs: Inputs,
) -> Body:  # fmt: skip
    """Reads a body as a network. `reads` are the names that it may take from around it, `entries` shape and type of its
    own inputs. Raises `NotDone` for what cannot be run.
    """
    inner = Reader(
        r.opset, r.batch, r.used, folder=r.folder, own=r.own, whole=r.whole, newer=r.newer, runs=True,
        depth=r.depth + 1, turns=r.turns, pieces=r.pieces, call=r.call,
    )  # fmt: skip
    own: dict[str, int | str] = {}  # of each input of the body: which input of the node it is, or its name
    for name, (shape, kind) in entries.items():
        draft = _entry(inner, f"own {name}", shape, kind)
        inner.values[name] = draft
        own[f"own {name}"] = name
    for name in reads:
        value = r.values.get(name)
        if name in inner.values or value is None or name in held:
            continue
        if isinstance(value, Draft):
            if value.op == UNKNOWN or value.shape is None:
                raise NotDone("what a branch reads is not known")
            inner.values[name] = _entry(inner, f"outer {name}", value.shape, value.dtype)
            own[f"outer {name}"] = inputs.place(value)
        else:
            inner.values[name] = value
    inner.values.update(held)
    for message in graph.get("node", ()):
        inner.step(message, r.rules)
    r.turns, r.folded = inner.turns, max(r.folded, inner.folded)
    outputs: list[Draft] = []
    for value in graph.get("output", ()):
        made = value.get("name", "")
        if made not in inner.values:
            raise GraphError(f"{r.call.name}: the output {made!r} of its body is made by no node")
        outputs.append(inner.emit("identity", inner.output(inner.values[made]), tag="output"))
    strange = next((d for d in inner.drafts if d.op == UNKNOWN), None)
    if strange is not None:
        raise NotDone(f"{strange.node.attrs['kind']} in a branch")
    return Body(_said(inner.drafts, outputs, own, inputs), [o.shape for o in outputs], [o.dtype for o in outputs])


def _entry(inner: Reader, label: str, shape: Shape, kind: str) -> Draft:
    """An input of a body."""
    placed = inner.placed(shape)
    if placed["shape"] is None:
        raise NotDone("a branch reads a value that has the batch in a formula")
    axis = placed.get("batch_axis", 0)
    node = replace(
        _INPUT, name=label, attrs={**_INPUT.attrs, "shape": placed["shape"], "batch_axis": axis, "dtype": kind}
    )
    draft = Draft(node, (), {}, shape, (label,), kind)
    inner.drafts.append(draft)
    return draft


def _said(
    drafts: Sequence[Draft], outputs: Sequence[Draft], own: Mapping[str, int | str], inputs: Inputs
) -> dict[str, Any]:
    """The description of a body."""
    names: dict[Draft, str] = {}
    weights: dict[str, int] = {}
    nodes: list[dict[str, Any]] = []
    taken: set[str] = set()
    for k, draft in enumerate(drafts):
        name = draft.labels[0] if draft.labels[0] not in taken else f"{draft.labels[0]} {k}"
        names[draft] = name
        taken.add(name)
        arrays: dict[str, str] = {}
        for role, const in draft.roles.items():
            place = inputs.place(const, draft.op != "constant")
            arrays[role] = f"array {place}"
            weights[f"array {place}"] = place
        nodes.append(
            {"name": name, "op": draft.op, "inputs": [names[i] for i in draft.inputs], "attrs": dict(draft.node.attrs),
             "arrays": arrays}
        )  # fmt: skip
    entries = {names[d]: own[d.labels[0]] for d in drafts if d.op == "input"}
    return {"nodes": nodes, "outputs": [names[o] for o in outputs], "inputs": entries, "weights": weights}


def emitted(
    r: Reader, call: Call, kind: str, settings: dict[str, Any], inputs: Inputs, shapes: Sequence[Shape | None],
    types: Sequence[str],
) -> list[Value]:  # fmt: skip
    """A node for each output that is read."""
    text = json.dumps(settings, separators=(",", ":"))
    if len(text) > MOST_TEXT:
        raise NotDone("bodies that are too large")
    made: list[Value] = []
    first, label = True, r.label
    for place, output in enumerate(call.outputs):
        if not output or not r.used[output]:
            made.append(r.fill(0.0))  # no node reads it
            continue
        r.label = label if first else (output,)
        shape = shapes[place] if shapes[place] is not None else r.said.get(output)
        made.append(
            r.emit(
                STANDARD, *inputs.values, kind=kind, settings=text, output=place, first=first, dtype=types[place],
                opset=r.opset, **r.placed(shape),
            )
        )  # fmt: skip
        first = False
    return made
