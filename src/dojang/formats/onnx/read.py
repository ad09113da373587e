"""From an ONNX model, as decoded messages, to a `Graph`.

Shapes that the file computes are folded (`fold.py`); every other operator is translated by its row in
`layers.py` or `layout.py`, which add to the drafts of `draft.py`. An operator without a row, or a use
that dojang's operators cannot express, becomes an `unknown` node with the reason: counting then gives a lower bound.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dojang.arith.conv import by
from dojang.arith.graph import Graph, Node
from dojang.arith.shapes import Shape
from dojang.base.budget import Budget
from dojang.base.errors import DataError, FileError, GraphError, UnsupportedError, UsageError
from dojang.base.reading import damaged_as
from dojang.formats.onnx import control as onnx_control
from dojang.formats.onnx import layers as onnx_layers
from dojang.formats.onnx import layout as onnx_layout
from dojang.formats.onnx import notes as onnx_notes
from dojang.formats.onnx import stored as onnx_stored
from dojang.formats.onnx.batch import BATCH
from dojang.formats.onnx.constants import MOST_AXES, TYPES, Const, Sort
from dojang.formats.onnx.draft import Call, Draft, Reader
from dojang.formats.onnx.protobuf import Message
from dojang.formats.onnx.scopes import with_modules

OPSETS = range(7, 29)
"""The supported versions of the operator set; 28 came with onnx 1.23."""

InputSize = Sequence[int] | Mapping[str, Sequence[int]]


RULES: Mapping[str, Callable[[Reader, Call], Any]] = {
    **onnx_layers.RULES,
    **onnx_layout.RULES,
    **onnx_control.RULES,
}
"""One rule per operator of ONNX."""


def read_model(
    model: Message,
    folder: Path | None,
    weights: bool,
    input_size: InputSize | None,
    name: str = "network",
    stored: int = 0,
) -> Graph:
    """The network of a decoded ModelProto of `stored` bytes; see `onnx.load`."""
    return _read(model, folder, weights, input_size, name, None, stored)[0]


def read_paths(
    model: Message, folder: Path | None, input_size: InputSize | None, name: str = "network"
) -> tuple[Graph, ...]:
    """One Graph without weights per path through a decoded ModelProto; see `onnx.paths`."""
    graphs: list[Graph] = []
    ahead: list[bool] | None = []
    while ahead is not None:
        graph, taken = _read(model, folder, False, input_size, name, ahead)
        graphs.append(graph)
        while taken and not taken[-1]:
            taken.pop()
        ahead = [*taken[:-1], False] if taken else None
    return tuple(graphs)


UNSAID = frozenset({"", "main_graph", "torch_jit", "torch-jit-export", "graph", "main"})
"""Names that exporters give every graph; the name of the file says more."""


def _read(
    model: Message,
    folder: Path | None,
    weights: bool,
    input_size: InputSize | None,
    name: str,
    ahead: Sequence[bool] | None,
    stored: int = 0,
) -> tuple[Graph, list[bool]]:
    """The network, and the branches that were taken."""
    opset = _opset(model)
    graph = model.get("graph")
    if graph is None:
        raise FileError("not an ONNX model: it holds no graph")
    own = model.get("producer_name") == "dojang"
    reader = Reader(opset, BATCH, onnx_control.uses(graph), folder=folder, ahead=ahead, own=own)
    onnx_control.hold(reader, graph)
    sparse = {s.get("values", {}).get("name", "") for s in graph.get("sparse_initializer", ())}
    if sparse:
        raise UnsupportedError(
            f"initialiser {min(sparse)!r} is sparse, which is not read; convert it to a dense tensor"
        )
    _inputs(reader, [v for v in graph.get("input", ()) if v.get("name", "") not in reader.values], input_size)
    reader.said = _said(reader, graph)
    for message in graph.get("node", ()):
        reader.step(message, RULES.get)
    outputs: list[Draft] = []
    for value in graph.get("output", ()):
        made = value.get("name", "")
        if made not in reader.values:
            raise GraphError(f"the output {made!r} is made by no node")
        reader.label = (made,)
        outputs.append(reader.output(reader.values[made]))
    props = {e.get("key", ""): e.get("value", "") for e in model.get("metadata_props", ())}
    drafts = onnx_control.without_decisions(reader, outputs) if reader.taken else reader.drafts
    title = graph.get("name", "")
    result, arrays = finish(drafts, outputs, name if title in UNSAID else title, props)
    result = with_modules(onnx_stored.with_stored(result, arrays, reader), graph)
    if weights:
        result = result.replace(weights=_load(arrays, stored + _outside(graph, folder)))
    return result, list(reader.taken.values())


def _opset(model: Message) -> int:
    versions = [o.get("version", 0) for o in model.get("opset_import", ()) if o.get("domain", "") in ("", "ai.onnx")]
    if not versions:
        raise FileError("not an ONNX model: it names no operator set")
    if versions[0] not in OPSETS:
        raise UnsupportedError(
            f"operator set {versions[0]} is not read, only {OPSETS[0]} to {OPSETS[-1]}; convert the file with "
            "onnx.version_converter"
        )
    return versions[0]


def _inputs(reader: Reader, inputs: Sequence[Message], wanted: InputSize | None) -> None:
    """Adds the input nodes; axis 0 is the batch."""
    sizes = [_dims(value) for value in inputs]
    fixed = {dims[0] for dims in sizes if dims and dims[0] is not None}
    if len(fixed) > 1:
        raise UnsupportedError(
            f"inputs {', '.join(repr(v.get('name', '')) for v in inputs)} differ in axis 0 ({sorted(fixed)}); dojang "
            "takes axis 0 of every input as the batch"
        )
    if fixed and all(dims and dims[0] is not None for dims in sizes):
        reader.batch = fixed.pop()
    for value, dims in zip(inputs, sizes, strict=True):
        name = value.get("name", "")
        if name in reader.values:
            raise GraphError(f"two inputs are named {name!r}")
        shape = _sized(name, dims, wanted, len(inputs))
        code = value.get("type", {}).get("tensor_type", {}).get("elem_type", 1)
        sort: Sort = TYPES[code].sort if code in TYPES else "f"
        node = Node.of(name, "input", shape=shape)
        if any(s < 1 for s in shape):
            raise GraphError(f"input {name!r} has size {by(shape)}; every size is at least 1")
        draft = Draft(node, (), {}, (BATCH, *shape), (name,), sort)
        reader.drafts.append(draft)
        reader.values[name] = draft


def _said(reader: Reader, graph: Message) -> dict[str, Shape]:
    """Shapes of values that the file gives, with N as the batch; none if the inputs have other sizes than the file
    says.
    """
    entries = [v for v in graph.get("input", ()) if isinstance(reader.values.get(v.get("name", "")), Draft)]
    symbols: set[str] = set()
    for value in entries:
        dims, draft = _dims(value), reader.values[value.get("name", "")]
        if dims is None or draft.shape is None or tuple(dims[1:]) != draft.shape[1:]:
            return {}
        symbols |= {_symbol(value, 0)} - {""}
    found: dict[str, Shape] = {}
    for value in (*graph.get("value_info", ()), *graph.get("output", ())):
        dims = _dims(value)
        if dims and None not in dims[1:] and (_symbol(value, 0) in symbols or dims[0] == reader.batch):
            found[value.get("name", "")] = (BATCH, *(d for d in dims[1:] if d is not None))
    return found


def _symbol(value: Message, axis: int) -> str:
    """The name that a file gives to a size; "" for a number."""
    dims = value.get("type", {}).get("tensor_type", {}).get("shape", {}).get("dim", ())
    return dims[axis].get("dim_param", "") if axis < len(dims) else ""


def _dims(value: Message) -> list[int | None] | None:
    """Sizes with the batch; None for a size that is a symbol, and None instead of all if the rank is not given."""
    shape = value.get("type", {}).get("tensor_type", {}).get("shape")
    if shape is None:
        return None
    # Some exporters write 0 or -1 for a size that may vary.
    return [d["dim_value"] if d.get("dim_value", 0) > 0 else None for d in shape.get("dim", ())]


def _sized(name: str, dims: list[int | None] | None, wanted: InputSize | None, count: int) -> tuple[int, ...]:
    """The shape of one input without its batch, where the given size replaces what the file leaves open."""
    if dims is not None and not dims:
        raise UnsupportedError(f"input {name!r} is a single number; dojang takes axis 0 of every input as the batch")
    if dims is not None and len(dims) > MOST_AXES:
        raise GraphError(f"input {name!r} has {len(dims)} axes; a tensor has at most {MOST_AXES}")
    rest = dims[1:] if dims is not None else None
    given = wanted.get(name) if isinstance(wanted, Mapping) else wanted
    if given is not None and count > 1 and not isinstance(wanted, Mapping) and (rest is not None and None not in rest):
        given = None
    if given is not None:
        if rest is not None and len(given) != len(rest):
            raise UsageError(
                f"input {name!r} has {len(rest)} axes after the batch, the input size {by(given)} does not"
            )
        return tuple(given)
    if rest is None or None in rest:
        shown = "x".join("?" if s is None else str(s) for s in rest) if rest is not None else "nothing"
        raise UsageError(
            f"input {name!r}: the file says {shown} about its size; give it with --input-size, "
            "as in --input-size 3,224,224"
        )
    return tuple(s for s in rest if s is not None)


def finish(
    drafts: Sequence[Draft], outputs: Sequence[Draft], name: str, props: Mapping[str, str]
) -> tuple[Graph, dict[str, Const]]:
    """The Graph of drafts, names and array names chosen, and the constants behind the arrays."""
    names = choose(drafts)
    arrays: dict[Hashable, str] = {}
    consts: dict[str, Const] = {}
    nodes: list[Node] = []
    for draft in drafts:
        own: dict[str, str] = {}
        for role, const in draft.roles.items():
            array = f"{names[draft]}.{role}"
            if const.key in arrays:
                own[role] = arrays[const.key]
            else:
                arrays[const.key] = array
                consts[array] = const
        nodes.append(replace(draft.node, name=names[draft], inputs=tuple(names[i] for i in draft.inputs), arrays=own))
    graph, renamed = onnx_notes.apply(Graph(tuple(nodes), tuple(names[o] for o in outputs), name=name), props)
    return graph, {renamed.get(array, array): const for array, const in consts.items()}


def choose(drafts: Iterable[Draft]) -> dict[Draft, str]:
    """A name for each draft: the first of its preferred names that is free, else the first one with a number."""
    names: dict[Draft, str] = {}
    taken: set[str] = set()
    counts: Counter[str] = Counter()
    drafts = list(drafts)
    for draft in sorted(drafts, key=lambda d: d.op != "input"):
        labels = [w or "node" for w in draft.labels]
        name = next((w for w in labels if w not in taken), None)
        while name is None:
            counts[labels[0]] += 1
            numbered = f"{labels[0]}_{counts[labels[0]] + 1}"
            name = numbered if numbered not in taken else None
        taken.add(name)
        names[draft] = name
    return names


def _outside(graph: Message, folder: Path | None) -> int:
    """The bytes of all external data files of the model's initialisers, each once."""
    external = [t.get("external_data", ()) for t in graph.get("initializer", ()) if t.get("data_location", 0) == 1]
    names = {e.get("value", "") for entries in external for e in entries if e.get("key", "") == "location"}
    # `of_tensor` refuses everything but files in the model's folder
    return sum(os.path.getsize(folder / name) for name in names) if folder is not None else 0


def _load(consts: Mapping[str, Const], stored: int) -> dict[str, Any]:
    """The arrays; `stored` is the number of bytes of the files, which limits copies of one tensor."""
    import numpy as np

    arrays: dict[str, Any] = {}
    budget = Budget("the weights", file_bytes=stored)
    for name, const in consts.items():
        budget.unpack(4 * const.size)
        with damaged_as(name, "its array cannot be made"):
            array = const.array()
        if array.size and np.isnan(array.min()):  # the least is NaN where any is, and takes no memory
            bad = int(np.isnan(array).sum())
            raise DataError(f"{name}: {bad} of {array.size} weights are NaN; the file comes from a failed training run")
        if not array.flags.owndata or not array.flags.writeable:
            array = array.copy()
        arrays[name] = array
    return arrays
