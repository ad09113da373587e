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
from dojang.arith.graph import Graph, Node, with_batch
from dojang.arith.ops import STANDARD, UNKNOWN
from dojang.arith.precision import BITS, WHOLE, Precision
from dojang.arith.shapes import Shape
from dojang.arith.standard import REAL
from dojang.base.budget import Budget
from dojang.base.errors import DataError, FileError, GraphError, ShapeError, UnsupportedError, UsageError
from dojang.base.reading import damaged_as
from dojang.formats.onnx import attention as onnx_attention
from dojang.formats.onnx import contrib as onnx_contrib
from dojang.formats.onnx import control as onnx_control
from dojang.formats.onnx import layers as onnx_layers
from dojang.formats.onnx import layout as onnx_layout
from dojang.formats.onnx import notes as onnx_notes
from dojang.formats.onnx import older as onnx_older
from dojang.formats.onnx import quantised as onnx_quantised
from dojang.formats.onnx import recurrent as onnx_recurrent
from dojang.formats.onnx import stored as onnx_stored
from dojang.formats.onnx.batch import BATCH, depends
from dojang.formats.onnx.constants import MOST_AXES, TYPES, Const
from dojang.formats.onnx.draft import Call, Draft, Reader
from dojang.formats.onnx.functions import inlined
from dojang.formats.onnx.protobuf import Message
from dojang.formats.onnx.scopes import with_modules

OPSETS = range(1, 29)
"""The supported versions of the operator set; 28 came with onnx 1.23."""

InputSize = Sequence[int] | Mapping[str, Sequence[int]]


RULES: Mapping[str, Callable[[Reader, Call], Any]] = {
    **onnx_layers.RULES,
    **onnx_layout.RULES,
    **onnx_control.RULES,
    **onnx_quantised.RULES,
    **onnx_contrib.RULES,
    **onnx_attention.RULES,
    **onnx_older.RULES,
    **onnx_recurrent.RULES,
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
    """The network, and the branches that were taken.

    Axis 0 of the inputs is taken as the batch. If something does not fit that, the network is read for one sample
    without a batch: at the sizes that the file fixes, and 1 where it leaves the batch open.
    """
    graph = model.get("graph")
    if graph is None:
        raise FileError("not an ONNX model: it holds no graph")
    model, graph = inlined(model, graph)
    own = model.get("producer_name") == "dojang"
    opset, used = _opset(model, graph), onnx_control.uses(graph)
    first, error = None, None
    for whole in (False,) if own else (False, True):
        reader = Reader(opset, BATCH, used, folder=folder, ahead=ahead, own=own, whole=whole)
        reader.newer = onnx_older.newer if opset < 9 else None
        reader.runs = weights and ahead is None
        try:
            outputs = _nodes(reader, graph, input_size)
        except (UnsupportedError, GraphError, ShapeError, UsageError) as reason:
            if first is not None:
                continue
            if own or whole:
                raise (reason if error is None or isinstance(error, NoBatch) else error) from None
            error = reason
            continue
        strange = sum(d.op == UNKNOWN for d in reader.drafts), sum(d.shape is None for d in reader.drafts)
        if first is None or strange < first[2]:
            first = reader, outputs, strange
        if not any(strange) or depends(reader.batch):  # with an open batch, what is strange may depend on it
            break
    assert first is not None
    reader, outputs, _ = first
    props = {e.get("key", ""): e.get("value", "") for e in model.get("metadata_props", ())}
    drafts = onnx_control.without_decisions(reader, outputs) if reader.taken else reader.drafts
    title = graph.get("name", "")
    result, arrays = finish(drafts, outputs, name if title in UNSAID else title, props)
    result = with_modules(onnx_stored.with_stored(result, arrays, reader), graph)
    result = result.replace(precisions=_precisions(result, arrays))
    if weights:
        result = result.replace(weights=_load(result, arrays, stored + _outside(graph, folder)))
    return result, list(reader.taken.values())


def _precisions(graph: Graph, consts: Mapping[str, Const]) -> dict[str, Precision]:
    """How the file keeps the arrays that are whole numbers: those behind a DequantizeLinear, and those of layers that
    multiply whole numbers.
    """
    found = {name: const.grid.precision() for name, const in consts.items() if const.grid is not None}
    for node in graph.nodes:
        const = consts.get(node.array("weight")) if node.rule.params and node.op != "constant" else None
        if const is not None and const.sort == "i" and const.kind in WHOLE and BITS[const.kind] <= 8:
            found[node.array("weight")] = Precision(const.kind, (1.0,), (0,))
    return {name: precision for name, precision in found.items() if precision is not None}


class NoBatch(UnsupportedError):
    """Axis 0 of the inputs cannot be the batch of all of them."""


def _nodes(reader: Reader, graph: Message, input_size: InputSize | None) -> list[Draft]:
    """Reads all nodes, and gives the outputs."""
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
        outputs.append(_as_said(reader, reader.output(reader.values[made]), value))
    return outputs


def _as_said(reader: Reader, draft: Draft, value: Message) -> Draft:
    """An output in the type that the file says; real numbers of every type are computed in float32."""
    said = TYPES.get(value.get("type", {}).get("tensor_type", {}).get("elem_type", 0))
    if said is None or said.name == draft.dtype or said.name not in REAL or draft.dtype not in REAL:
        return draft
    code = next(code for code, kind in TYPES.items() if kind is said)
    return reader.emit(
        STANDARD, draft, tag="typed", kind="Cast", settings=f'{{"to": {code}}}', dtype=said.name, opset=reader.opset,
        **reader.placed(draft.shape),
    )  # fmt: skip


OLD_FORMS: Mapping[str, tuple[str, int]] = {
    "Squeeze": ("axes", 11), "Unsqueeze": ("axes", 11), "Split": ("split", 11), "Dropout": ("ratio", 11),
    "Clip": ("min", 10), "Pad": ("pads", 10), "Slice": ("starts", 9), "BatchNormalization": ("spatial", 8),
    "Reshape": ("shape", 4),
}  # fmt: skip
"""Attributes that newer versions of an operator have as inputs or not at all, and the last operator set with them."""


def _opset(model: Message, graph: Message) -> int:
    """The version of the operator set. Where the file names none, the newest that its nodes fit."""
    versions = [o.get("version", 0) for o in model.get("opset_import", ()) if o.get("domain", "") in ("", "ai.onnx")]
    if not versions:
        found = OPSETS[-1] if model.get("ir_version", 3) >= 3 else 1
        for node in graph.get("node", ()):
            name, last = OLD_FORMS.get(node.get("op_type", ""), ("", 0))
            if any(a.get("name") == name for a in node.get("attribute", ())):
                found = min(found, last)
        return found
    if versions[0] not in OPSETS:
        raise UnsupportedError(
            f"operator set {versions[0]} is not read, only {OPSETS[0]} to {OPSETS[-1]}; convert the file with "
            "onnx.version_converter"
        )
    return versions[0]


def _inputs(reader: Reader, inputs: Sequence[Message], wanted: InputSize | None) -> None:
    """Adds the input nodes. Axis 0 is the batch where all inputs have the same there; among inputs whose axis 0 is
    open, one that fixes it has none, or the batch in another axis of the same symbol, as states of recurrent networks.
    """
    sizes = [_dims(value) for value in inputs]
    fixed = {dims[0] for dims in sizes if dims and dims[0] is not None}
    closed = [dims is not None and None not in dims for dims in sizes]
    if len(fixed) > 1 and all(closed) and not reader.whole:
        raise NoBatch(f"inputs {', '.join(repr(v.get('name', '')) for v in inputs)} differ in axis 0 ({sorted(fixed)})")
    if any(dims is not None and len(dims) < 2 for dims in sizes) and all(closed) and not reader.whole:
        raise NoBatch("an input has no axis beside the batch")
    if fixed and all(dims == [] or (dims and dims[0] is not None) for dims in sizes):
        reader.batch = min(fixed)
    if reader.whole:
        reader.batch = 1
    for value, dims, axis in zip(inputs, sizes, _batch_axes(inputs, sizes), strict=True):
        name = value.get("name", "")
        if name in reader.values:
            raise GraphError(f"two inputs are named {name!r}")
        if value.get("type", {}) and "tensor_type" not in value["type"]:
            raise UnsupportedError(f"input {name!r} is a sequence, a map or optional, which is not read")
        shape = _sized(name, dims, wanted, len(inputs), axis, reader.whole)
        axis = -1 if reader.whole else axis
        code = value.get("type", {}).get("tensor_type", {}).get("elem_type", 1)
        dtype = TYPES[code].name if code in TYPES else "float32"
        node = Node.of(name, "input", shape=shape, batch_axis=axis, dtype=dtype)
        if any(s < 1 for s in shape) and axis >= 0:
            raise GraphError(f"input {name!r} has size {by(shape)}; every size is at least 1")
        draft = Draft(node, (), {}, with_batch(node.attrs, BATCH), (name,), dtype)
        reader.drafts.append(draft)
        reader.values[name] = draft


BATCHES = frozenset(("n", "b", "batch", "batch_size", "batchsize", "bs"))
"""Names of a size that say that it is the batch, in small letters, where no input has its first axis open."""


def _batch_axes(inputs: Sequence[Message], sizes: Sequence[list[int | None] | None]) -> list[int]:
    """The axis of each input that is the batch; -1 for one that has none."""
    free = [_symbol(v, 0) for v, dims in zip(inputs, sizes, strict=True) if dims is None or (dims and dims[0] is None)]
    free = free or sorted({
        _symbol(v, axis) for v, dims in zip(inputs, sizes, strict=True) for axis in range(1, len(dims or ()))
        if _symbol(v, axis).lower() in BATCHES
    })  # fmt: skip
    return [_batch_of(value, dims, free) for value, dims in zip(inputs, sizes, strict=True)]


def sizes_beside_batch(inputs: Sequence[Message]) -> list[list[int | str] | None]:
    """The sizes of each input without the batch, names or "" for what is open; None where there is no rank."""
    sizes = [_dims(value) for value in inputs]
    found: list[list[int | str] | None] = []
    for value, dims, batch in zip(inputs, sizes, _batch_axes(inputs, sizes), strict=True):
        said = [_symbol(value, i) if d is None else d for i, d in enumerate(dims or ()) if i != batch]
        found.append(None if dims is None else said)
    return found


def _batch_of(value: Message, dims: list[int | None] | None, free: Sequence[str]) -> int:
    """The axis of an input that is the batch; -1 if it has none."""
    if dims is None or (dims and dims[0] is None) or not free:
        return 0 if dims is None or dims else -1
    if dims and dims[0] is not None:
        named = [axis for axis in range(1, len(dims)) if _symbol(value, axis) and _symbol(value, axis) in free]
        open_ = [axis for axis in range(1, len(dims)) if dims[axis] is None]
        return named[0] if named else open_[0] if len(open_) == 1 else -1
    return -1


def _said(reader: Reader, graph: Message) -> dict[str, Shape]:
    """Shapes of values that the file gives, with N as the batch; none if the inputs have other sizes than the file
    says.
    """
    entries = [v for v in graph.get("input", ()) if isinstance(reader.values.get(v.get("name", "")), Draft)]
    symbols: set[str] = set()
    for value in entries:
        dims, draft = _dims(value), reader.values[value.get("name", "")]
        assert isinstance(draft, Draft)
        axis = draft.node.attrs["batch_axis"]
        seen = [d if i != axis else None for i, d in enumerate(dims or ())]
        if dims is None or draft.shape is None or any(a != b for a, b in zip(seen, draft.shape, strict=False) if a):
            return {}
        if None in [d for i, d in enumerate(dims) if i != axis]:
            return {}
        symbols |= {_symbol(value, axis)} - {""} if axis >= 0 else set()
    found: dict[str, Shape] = {}
    for value in (*graph.get("value_info", ()), *graph.get("output", ())):
        dims = _dims(value)
        if dims is None:
            continue
        first = _symbol(value, 0) in symbols or (dims and dims[0] == reader.batch and not reader.whole)
        if first and None not in dims[1:]:
            found[value.get("name", "")] = (BATCH, *(d for d in dims[1:] if d is not None))
        elif None not in dims and (reader.whole or depends(reader.batch)):
            found[value.get("name", "")] = tuple(d for d in dims if d is not None)
        elif symbols and all(d is not None or _symbol(value, i) in symbols for i, d in enumerate(dims)):
            found[value.get("name", "")] = tuple(BATCH if d is None else d for d in dims)
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


def _sized(
    name: str, dims: list[int | None] | None, wanted: InputSize | None, count: int, axis: int = 0, single: bool = False
) -> tuple[int, ...]:
    """The shape of one input without its batch, where the given size replaces what the file leaves open.

    With `single` the batch stays as an axis like others: of 1 where the file leaves it open.
    """
    if single:
        dims = [1 if i == axis and d is None else d for i, d in enumerate(dims)] if dims is not None else None
        axis, batch = -1, max(axis, 0)
    else:
        batch = 0
    if dims is not None and len(dims) > MOST_AXES:
        raise GraphError(f"input {name!r} has {len(dims)} axes; a tensor has at most {MOST_AXES}")
    rest = [d for i, d in enumerate(dims) if i != axis] if dims is not None else None
    given = wanted.get(name) if isinstance(wanted, Mapping) else wanted
    if given is not None and count > 1 and not isinstance(wanted, Mapping) and (rest is not None and None not in rest):
        given = None
    if given is not None:
        if axis < 0 and rest and len(given) == len(rest) - 1:
            given = (*given[:batch], rest[batch] or 1, *given[batch:])  # without the batch, as everywhere else
        if rest is not None and len(given) != len(rest):
            raise UsageError(
                f"input {name!r} has {len(rest)} axes after the batch, the input size {by(given)} does not"
            )
        return tuple(given)
    if rest is None or None in rest:
        shown = "x".join("?" if s is None else str(s) for s in rest) if rest is not None else "nothing"
        example = ",".join(str(s or 224) for s in rest) if rest and (len(rest) > 1 or rest[0]) else "16000"
        example = "3,224,224" if rest is None else f"{name}={example}" if count > 1 else example
        quoted = "'" * (count > 1)
        raise UsageError(
            f"input {name!r}: the file says {shown} about its size; give it with --input-size, "
            f"as in --input-size {quoted}{example}{quoted}"
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
    there = [folder / name for name in names] if folder is not None else []
    return sum(os.path.getsize(path) for path in there if path.is_file())


def _load(graph: Graph, consts: Mapping[str, Const], stored: int) -> dict[str, Any]:
    """The arrays; `stored` is the number of bytes of the files, which limits copies of one tensor."""
    import numpy as np

    arrays: dict[str, Any] = {}
    budget = Budget("the weights", file_bytes=stored)
    held = [n for n in graph.nodes if n.op == "constant" and n.attrs["fill"] is None]
    typed = {n.array("value") for n in held if n.attrs["dtype"] not in ("float32", "float16", "bfloat16")}
    typed |= {n.array(role) for n in graph.nodes if not graph.is_single(n.name) for role in graph.node_params(n)}
    free = {n.array("value") for n in held if not n.attrs["trained"]}
    for name, const in consts.items():
        budget.unpack(4 * const.size)
        with damaged_as(name, "its array cannot be made"):
            array = const.typed() if name in typed else const.array()
        # the least is NaN where any is, and takes no memory
        if array.dtype.kind == "f" and name not in free and array.size and np.isnan(array.min()):
            bad = int(np.isnan(array).sum())
            raise DataError(f"{name}: {bad} of {array.size} weights are NaN; the file comes from a failed training run")
        if not array.flags.owndata or not array.flags.writeable:
            array = array.copy()
        arrays[name] = array
    return arrays
