"""Checkpoints: safetensors files with the network's text in their metadata. They contain no pickle and no code.

The header is read with the standard library, so a checkpoint can be counted without NumPy; arrays are read from the
file when they are first used. Format: https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dojang.arith.conv import by
from dojang.arith.graph import Graph
from dojang.arith.precision import Precision, fits
from dojang.base.errors import DataError, DojangError, FileError, GraphError
from dojang.base.reading import damaged_as, json_value, opened
from dojang.base.showing import encodable
from dojang.base.writing import writing

if TYPE_CHECKING:
    import numpy as np

KEY = "dojang.network"
"""Metadata key of the network's text. Other keys are `dojang.name`, `dojang.meta` (JSON) and `dojang.arrays` (JSON,
{name in the file: name of the array}) for names that UTF-8 cannot encode, and `dojang.precisions` (JSON, {name of the
array: type, scales, zero points, axis}) for arrays that are kept as whole numbers."""

PRECISIONS = "dojang.precisions"

ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
              "U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1}  # fmt: skip
"""Bytes per element of the types of safetensors."""

NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
         "U8": "u1", "BOOL": "?", "U16": "<u2", "U32": "<u4", "U64": "<u8"}  # fmt: skip

TYPE_NAMES = {"int8": "I8", "uint8": "U8", "int16": "I16", "uint16": "U16", "int32": "I32"}
"""Types of NumPy that are written as they are; all others are written as float32."""

MAX_HEADER = 1 << 26
"""The most bytes of a header. The format's own limit is 100 MB; a header of 20,000 arrays takes 2 MB."""
MOST_AXES = 64
"""The most axes of an array; NumPy has the same limit."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Type, shape and position of one array in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file. `base` is the offset of the data; `mark` differs after the file has changed."""

    path: Path
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]
    base: int
    mark: tuple[int, int, int]


def read_header(path: str | Path) -> Header:
    """The header of a safetensors file, checked: every array lies within the file and has the bytes its shape needs.

    Standard library only. Raises `FileError` for missing, damaged and hostile files.
    """
    file = Path(path)
    with opened(file, "a .safetensors file") as stream:
        stat = os.fstat(stream.fileno())
        head = stream.read(8)
        if len(head) < 8:
            raise FileError(f"{file}: is too short for a safetensors file ({len(head)} bytes); copy it again")
        (length,) = struct.unpack("<Q", head)
        if length > min(MAX_HEADER, stat.st_size - 8):
            raise FileError(
                f"{file}: is truncated or not a safetensors file (a header of {length} bytes); copy it again"
            )
        raw = stream.read(length)
    if len(raw) < length or not raw.startswith(b"{"):
        raise FileError(f"{file}: is truncated or not a safetensors file; copy it again")
    found = json_value(raw, str(file), "its header is damaged", unique=True)
    metadata = found.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or any(not isinstance(v, str) for v in metadata.values()):
        raise FileError(f"{file}: its metadata are not texts; write it again")
    data_bytes = stat.st_size - 8 - length
    entries = {name: _entry(file, name, value, data_bytes) for name, value in found.items()}
    _check_layout(file, entries, data_bytes)
    return Header(file, entries, metadata, 8 + length, (stat.st_ino, stat.st_size, stat.st_mtime_ns))


def _entry(file: Path, name: str, value: Any, data_bytes: int) -> Entry:
    """One array of the header, checked."""
    try:
        dtype, shape, (start, stop) = value["dtype"], value["shape"], value["data_offsets"]
        whole = len(shape) <= MOST_AXES and all(type(v) is int and v >= 0 for v in (*shape, start, stop))
        fits = whole and dtype in ITEM_BYTES and stop - start == prod(shape) * ITEM_BYTES[dtype]
    except (TypeError, KeyError, ValueError, IndexError):
        raise FileError(f"{file}: its header is damaged at {name!r}") from None
    if not fits:
        said = f"{dtype!r:.40} and shape {shape!r:.200}"
        raise FileError(f"{file}: {name!r} does not have as many bytes as its type {said} need; write it again")
    if stop > data_bytes:
        raise FileError(f"{file}: is truncated: {name!r} ends at byte {stop} of {data_bytes}; copy it again")
    return Entry(dtype, tuple(shape), start, stop)


def _check_layout(file: Path, entries: Mapping[str, Entry], data_bytes: int) -> None:
    """Raises `FileError` unless the arrays fill the file without gap or overlap, as the format demands."""
    place = 0
    for entry in sorted(entries.values(), key=lambda e: (e.start, e.stop)):
        if entry.start != place:
            raise FileError(
                f"{file}: its arrays overlap or leave gaps at byte {min(entry.start, place)}; write it again"
            )
        place = entry.stop
    if place != data_bytes:
        raise FileError(f"{file}: has {data_bytes - place} bytes after its last array; write it again")


@dataclass(frozen=True, eq=False)
class FileArrays(Mapping[str, Any]):
    """Arrays of a file by name, read when first used and then kept; floating-point types become float32."""

    header: Header
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    """For each array its name in the file."""
    held: dict[str, Any] = field(default_factory=dict[str, Any], repr=False)
    precisions: Mapping[str, Precision] = field(default_factory=dict[str, Precision])
    """Of arrays of whole numbers: what they stand for."""

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.held:
            array = read_array(self.header, self.names[name])
            if name in self.precisions:
                from dojang.formats.whole import real_of

                array = real_of(array, self.precisions[name])
            self.held[name] = array
        return self.held[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names


def read_array(header: Header, name: str) -> np.ndarray:
    """One array; floating-point types become float32. Raises `FileError` if the file has changed since the header was
    read.
    """
    import numpy as np

    entry = header.entries[name]
    if entry.dtype not in NUMPY:
        raise FileError(f"{header.path}: {name!r} is of type {entry.dtype}, which is not read; save it as F32")
    with opened(header.path) as stream:
        stat = os.fstat(stream.fileno())
        if (stat.st_ino, stat.st_size, stat.st_mtime_ns) != header.mark:
            raise FileError(f"{header.path}: was changed while it was read; run again")
        stream.seek(header.base + entry.start)
        with damaged_as(f"{header.path}: {name}", "cannot be read"):
            raw = bytearray(entry.stop - entry.start)
            if stream.readinto(raw) != len(raw):
                raise FileError(f"{header.path}: ends within {name!r}; copy it again")
            array = np.frombuffer(raw, dtype=NUMPY[entry.dtype]).reshape(entry.shape)
            if entry.dtype == "BF16":
                return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
            return array.astype(np.float32) if entry.dtype in ("F16", "F64") else array


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of a safetensors file by name."""
    header = read_header(path)
    return {name: read_array(header, name) for name in header.entries}


def load(path: str | Path, weights: bool = True) -> Graph:
    """The network of a checkpoint. Arrays are read when they are used; counting reads none and loads no NumPy.

    Raises `FileError` for a damaged file or one without a network's text, `GraphError` if arrays do not fit.
    """
    from dojang.formats import text

    header = read_header(path)
    if KEY not in header.metadata:
        raise FileError(f"{header.path}: has weights but no network; name a network, and give this file with --weights")
    try:
        graph = text.parse(header.metadata[KEY], name=header.path.stem, file=str(header.path))
        meta, true = (_texts(header, key) for key in ("dojang.meta", "dojang.arrays"))
        name = header.metadata.get("dojang.name") or graph.name
        graph = graph.replace(name=name, meta={**graph.meta, **meta})
    except DojangError as error:
        raise FileError(f"{header.path}: the network in it cannot be read: {error}") from None
    names = {true.get(name, name): name for name in header.entries}
    for array, shape in graph.param_shapes.items():
        if array not in names:
            raise GraphError(f"{header.path}: has no array {array}, which its network needs; save it again")
        there = header.entries[names[array]].shape
        if there != shape:
            raise GraphError(f"{header.path}: {array} is {by(there)}, its network needs {by(shape)}")
    precisions = _precisions(header, graph, names)
    graph = graph.replace(precisions=precisions)
    return graph.replace(weights=FileArrays(header, names, precisions=precisions)) if weights else graph


def _precisions(header: Header, graph: Graph, names: Mapping[str, str]) -> dict[str, Precision]:
    """The precisions of the arrays that are kept as whole numbers, by the names of the network."""
    found = json_value(header.metadata.get(PRECISIONS, "{}"), str(header.path), "its metadata are damaged")
    if not isinstance(found, dict):
        raise FileError(f"{header.path}: its precisions are damaged; save it again")
    precisions: dict[str, Precision] = {}
    for name, told in found.items():
        try:
            precision = Precision.of_dict(told)
        except DataError as error:
            raise FileError(f"{header.path}: {name}: {error}; save it again") from None
        shape = graph.param_shapes.get(name)
        if shape is None or not precision.whole or not fits(precision, shape):
            raise FileError(f"{header.path}: {name} has a precision that does not fit its array; save it again")
        if header.entries[names[name]].dtype not in ("I8", "U8", "I16", "U16", "I32"):
            raise FileError(f"{header.path}: {name} has a scale, but its numbers are not whole; save it again")
        precisions[name] = precision
    return precisions


def _texts(header: Header, key: str) -> dict[str, str]:
    """A JSON object of texts from the metadata; empty if there is none."""
    found = json_value(header.metadata.get(key, "{}"), str(header.path), "its metadata are damaged")
    if not isinstance(found, dict):
        raise FileError("its metadata are damaged")
    return {str(k): str(v) for k, v in found.items()}


def save(graph: Graph, path: str | Path, force: bool = False) -> Path:
    """Writes a network with its weights, whole or not at all, and returns the path.

    Raises `GraphError` if weights are missing or do not fit, `UsageError` if the file exists and `force` is off,
    `FileError` if it cannot be written.
    """
    import numpy as np

    from dojang.formats import text
    from dojang.formats.whole import whole_of

    graph.check_weights()
    arrays: dict[str, Any] = {}
    precisions: dict[str, Any] = {}
    for name in graph.param_shapes:
        precision = graph.precisions.get(name)
        whole = whole_of(np.asarray(graph.weights[name]), precision) if precision is not None else None
        if precision is not None and whole is not None:  # where weights were changed, they are real numbers again
            precisions[name] = precision.to_dict()
        arrays[name] = np.ascontiguousarray(graph.weights[name], "<f4") if whole is None else whole
    # ascontiguousarray turns an array without axes into one with an axis; restore its shape
    arrays = {name: a.reshape(graph.param_shapes[name]) for name, a in arrays.items()}
    metadata = {KEY: text.to_text(graph), "dojang.meta": json.dumps(dict(graph.meta))}
    if precisions:
        metadata[PRECISIONS] = json.dumps(precisions)
    if encodable(graph.name) == graph.name:
        metadata["dojang.name"] = graph.name
    odd: dict[str, str] = {}
    for name in arrays:
        if encodable(name) != name or name == "__metadata__":
            odd[name] = _free(encodable(name) + "_", {*arrays, *odd.values()})
    if odd:
        arrays = {odd.get(name, name): array for name, array in arrays.items()}
        metadata["dojang.arrays"] = json.dumps({there: name for name, there in odd.items()})
    return write_arrays(arrays, path, metadata, force)


def _free(name: str, taken: set[str]) -> str:
    """A name, with "_" appended until it is not among `taken`."""
    while name in taken:
        name += "_"
    return name


def write_arrays(
    arrays: Mapping[str, np.ndarray], path: str | Path, metadata: Mapping[str, str] | None = None, force: bool = False
) -> Path:
    """Writes arrays of float32 or of whole numbers as a safetensors file, whole or not at all; raises as
    `base.writing.writing`."""
    file = Path(path)
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name, array in arrays.items():
        kind = TYPE_NAMES.get(array.dtype.name, "F32")
        end = place + array.size * ITEM_BYTES[kind]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [place, end]}
        place = end
    raw = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with writing(file, force) as temporary, temporary.open("wb") as stream:
        stream.write(struct.pack("<Q", len(raw)) + raw)
        for array in arrays.values():
            kind = NUMPY[TYPE_NAMES.get(array.dtype.name, "F32")]
            stream.write(array.astype(kind, copy=False).tobytes())
    return file


def check_finite(graph: Graph) -> None:
    """Raises `DataError` if an array of the network has NaN or infinite values, with its name and how many.

    Constants may be infinite: masks of attention hold −∞ where nothing is looked at.
    """
    import numpy as np

    masks = {node.array(role) for node in graph.nodes if node.op == "constant" for role in graph.node_params(node)}
    masks -= {node.array(role) for node in graph.nodes if node.op != "constant" for role in graph.node_params(node)}
    for name in graph.weights:
        array = np.asarray(graph.weights[name])
        if array.dtype.kind != "f" or not array.size:
            continue
        if name in masks and not np.isnan(array.min()):
            continue
        if not (
            np.isfinite(array.min()) and np.isfinite(array.max())
        ):  # NaN is the minimum and the maximum; no array of results is allocated
            lost = np.isnan(array)
            what = "NaN" if lost.any() else "infinite values"
            bad = int(lost.sum() if lost.any() else np.isinf(array).sum())
            raise DataError(f"{name}: {bad} of {array.size} weights are {what}; train again or use another checkpoint")


# -- weights from other sources ----------------------------------------------------------------------------------------

IGNORED = ("num_batches_tracked",)
"""Arrays whose names end like this do not change what a network computes."""


def apply_state(graph: Graph, arrays: Mapping[str, Any], strict: bool = True) -> Graph:
    """The network with the arrays of a state dict, matched by name.

    `module.` is removed if all names begin with it; `num_batches_tracked` is ignored. If a name differs (`fc.weight`,
    `linear.weight`) but exactly one unused array has its role and shape, that one is taken. With `strict`, arrays that
    the network does not use are an error. Raises `GraphError` with the name of the array, both shapes and the remedy.
    """
    import numpy as np

    given = {k: v for k, v in without_prefix(arrays).items() if k.rsplit(".", 1)[-1] not in IGNORED}
    wanted = graph.param_shapes
    renamed = _by_shape(
        {k: s for k, s in wanted.items() if k not in given}, {k: v for k, v in given.items() if k not in wanted}
    )
    found: dict[str, Any] = {}
    for name, shape in wanted.items():
        source = renamed.get(name, name)
        if source not in given:
            near = next((k for k in given if k not in wanted and k.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]), None)
            hint = f"; it has {near} {by(given[near].shape)}, which {graph.name} does not have" if near else ""
            raise GraphError(f"{name}: the weights have no array of this name for {graph.name}{hint}; rename it there")
        array = given[source]
        if tuple(array.shape) != shape and _squeezed(array.shape) != _squeezed(shape):
            raise GraphError(
                f"{name}: the weights are {by(array.shape)}, {graph.name} needs {by(shape)}; use weights of this "
                "network, or --num-classes if only the last layer differs"
            )
        found[name] = np.ascontiguousarray(array, dtype=np.float32).reshape(shape)
    extra = [k for k in given if k not in wanted and k not in renamed.values()]
    if strict and extra:
        raise GraphError(
            f"{extra[0]} {by(given[extra[0]].shape)}: {graph.name} has no array of this name"
            f"{f' (nor {len(extra) - 1} others)' if len(extra) > 1 else ''}; are these the weights of another network?"
        )
    return graph.replace(weights=found)


def without_prefix(state: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays with the prefix `module.` or `_orig_mod.` removed, if all names have it."""
    found = dict(state)
    for prefix in ("module.", "_orig_mod.") * 2:
        if found and all(k.startswith(prefix) for k in found):
            found = {k.removeprefix(prefix): v for k, v in found.items()}
    return found


def _squeezed(shape: Any) -> tuple[int, ...]:
    """A shape without trailing ones: a dense layer and a 1x1 convolution have the same weights."""
    sizes = list(shape)
    while sizes and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)


def _by_shape(missing: Mapping[str, tuple[int, ...]], spare: Mapping[str, Any]) -> dict[str, str]:
    """Matches missing names with spare arrays, where role and shape allow only one pair."""

    def key(name: str, shape: Any) -> tuple[str, tuple[int, ...]]:
        return name.rsplit(".", 1)[-1], tuple(shape)

    wanted = [key(n, s) for n, s in missing.items()]
    offered = [key(n, a.shape) for n, a in spare.items()]
    pairs = dict(zip(offered, spare, strict=True))
    return {n: pairs[k] for n, k in zip(missing, wanted, strict=True) if wanted.count(k) == offered.count(k) == 1}
