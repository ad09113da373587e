"""The Protocol Buffers wire format, driven by schema tables: messages are dicts, long data are views into the file.

A schema maps field numbers to `Field`s. Reading skips unknown fields, copies no bulk data, and limits everything that a
file could demand: lengths must fit their message, nesting and the number of fields are bounded.
Source: protobuf.dev/programming-guides/encoding.

>>> point = {1: Field("x", "int"), 2: Field("tags", "text", repeated=True)}
>>> decode(point, encode(point, {"x": -3, "tags": ["a", "b"]}))
{'x': -3, 'tags': ['a', 'b']}
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dojang.base.errors import FileError

Kind = Literal["int", "float", "text", "bytes", "message", "varints", "fixed32", "fixed64"]
Message = dict[str, Any]
Buffer = bytes | bytearray | memoryview

MAX_DEPTH = 16
"""The deepest nesting of messages; ONNX needs 7 (model, graph, node, attribute, tensor, entry and one to spare)."""

MAX_FIELDS = 1_000_000
"""The most fields of a file. A network of 20,000 layers has about half a million; a field takes up to 500 bytes of
memory and a microsecond."""

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_WIRE = {"int": VARINT, "float": FIXED32, "varints": VARINT, "fixed32": FIXED32, "fixed64": FIXED64}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message.

    `varints`, `fixed32` and `fixed64` are repeated numbers in their encoded form (a view, or a bytearray if the file
    has them in pieces), because there may be many, and they may never be needed.
    """

    name: str
    kind: Kind
    repeated: bool = False
    schema: Mapping[int, Field] | None = None


Schema = Mapping[int, Field]


def damaged(what: str) -> FileError:
    """The error for bytes that are not a message."""
    return FileError(f"not a whole ONNX model: {what}; the file is damaged, truncated, or in another format")


def varint(data: Buffer, pos: int, end: int) -> tuple[int, int]:
    """(value, next position) of an unsigned base-128 number of at most ten bytes."""
    value = shift = 0
    while pos < end and shift < 70:
        byte = data[pos]
        pos += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFFFFFFFFFFFFFF, pos
        shift += 7
    raise damaged("a number does not end")


def signed(value: int) -> int:
    """Two's complement of 64 bits."""
    return value - (1 << 64) if value >> 63 else value


def varints(data: Buffer) -> list[int]:
    """The signed numbers of a packed field."""
    out: list[int] = []
    pos, end = 0, len(data)
    while pos < end:
        value, pos = varint(data, pos, end)
        out.append(signed(value))
    return out


def decode(schema: Schema, data: Buffer) -> Message:
    """The message in `data`; raises `FileError` for other data, and beyond the limits."""
    view = memoryview(data)
    return _Reader(view).message(schema, 0, len(view), 0)


class _Reader:
    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.left = MAX_FIELDS

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise FileError(f"more than {MAX_FIELDS} fields: too large to be a network")

    def message(self, schema: Schema, pos: int, end: int, depth: int) -> Message:
        if depth > MAX_DEPTH:
            raise FileError(f"messages nest deeper than {MAX_DEPTH}: this is not a network")
        out: Message = {}
        data = self.data
        while pos < end:
            self.left -= 1
            if self.left < 0:
                self.spend(0)
            key, pos = varint(data, pos, end)
            wire = key & 7
            value = 0
            start = pos
            if wire == VARINT:
                value, pos = varint(data, pos, end)
            elif wire == LENGTH:
                size, start = varint(data, pos, end)
                pos = start + size
            elif wire in (FIXED32, FIXED64):
                pos += 4 if wire == FIXED32 else 8
            else:
                raise damaged(f"wire type {wire} is not known")
            if pos > end:
                raise damaged(f"a field has {pos - start} bytes, but only {end - start} are left")
            field = schema.get(key >> 3)
            if field is not None:
                self.store(out, field, wire, value, start, pos, depth)
        return out

    def store(self, out: Message, field: Field, wire: int, value: int, start: int, end: int, depth: int) -> None:
        """Adds one field to the message; of a field that is not repeated, the last value counts."""
        kind, name = field.kind, field.name
        if kind in ("varints", "fixed32", "fixed64"):
            self.piece(out, field, wire, self.data[start:end])
            return
        if wire == LENGTH and kind in ("int", "float") and field.repeated:
            out.setdefault(name, []).extend(self.packed(kind, self.data[start:end]))
            return
        if wire != _WIRE.get(kind, LENGTH):
            raise damaged(f"field {name} has wire type {wire}")
        if kind == "int":
            item: Any = signed(value)
        elif kind == "float":
            item = struct.unpack_from("<f", self.data, start)[0]
        elif kind == "text":
            item = _text(name, self.data[start:end])
        elif kind == "bytes":
            item = self.data[start:end]
        else:
            assert field.schema is not None
            item = self.message(field.schema, start, end, depth + 1)
        if field.repeated:
            out.setdefault(name, []).append(item)
        else:
            out[name] = item

    def packed(self, kind: str, data: memoryview) -> Iterable[Any]:
        if kind == "int":
            # the last byte of each number has no top bit: count those
            self.spend(sum(1 for byte in data if byte < 128) if len(data) <= 10 * self.left else self.left + 1)
            return varints(data)
        self.spend(len(data) // 4)
        if len(data) % 4:
            raise damaged("packed numbers end inside a number")
        return struct.unpack(f"<{len(data) // 4}f", data)

    def piece(self, out: Message, field: Field, wire: int, data: memoryview) -> None:
        if wire not in (LENGTH, _WIRE[field.kind]):
            raise damaged(f"field {field.name} has wire type {wire}")
        old = out.get(field.name)
        if old is None:
            out[field.name] = data
        else:
            if not isinstance(old, bytearray):
                old = out[field.name] = bytearray(old)
            old += data


def _text(name: str, data: memoryview) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        raise damaged(f"field {name} is not UTF-8") from None


def number(value: int) -> bytes:
    """A varint; negative numbers take ten bytes."""
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode(schema: Schema, message: Mapping[str, Any]) -> bytes:
    """The bytes of a message; fields in order of their numbers."""
    return b"".join(pieces(schema, message)[1])


def pieces(schema: Schema, message: Mapping[str, Any]) -> tuple[int, list[Buffer]]:
    """(length, parts) of the bytes of a message: bulk data stays a view and is not copied."""
    names = {field.name for field in schema.values()}
    strangers = [key for key in message if key not in names]
    if strangers:
        raise ValueError(f"the schema has no field {strangers[0]!r}")
    parts: list[Buffer] = []
    total = 0
    for number_, field in sorted(schema.items()):
        value = message.get(field.name)
        if value is None:
            continue
        for size, part in _field(number_, field, value):
            parts += part
            total += size
    return total, parts


def _field(key: int, field: Field, value: Any) -> Iterator[tuple[int, list[Buffer]]]:
    kind = field.kind
    if kind in ("varints", "fixed32", "fixed64"):
        kind, items = "bytes", [value]
    else:
        items = value if field.repeated else [value]
    head = number(key << 3 | _WIRE.get(kind, LENGTH))
    for item in items:
        if kind == "int":
            body: list[Buffer] = [number(item)]
        elif kind == "float":
            body = [struct.pack("<f", item)]
        elif kind == "message":
            assert field.schema is not None
            size, inner = pieces(field.schema, item)
            body = [number(size), *inner]
            yield len(head) + len(body[0]) + size, [head, *body]
            continue
        else:
            data = item.encode() if kind == "text" else memoryview(item).cast("B") if len(item) else b""
            body = [number(len(data)), data]
        yield len(head) + sum(len(b) for b in body), [head, *body]
