"""JSON Schema (draft 2020-12) made from types: dataclasses, TypedDicts, and what stands in their fields."""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from dojang.arith.symbol import Expr
from dojang.report.documents import DOCUMENTS, RunRecord

DIALECT = "https://json-schema.org/draft/2020-12/schema"

SIMPLE: Mapping[Any, dict[str, Any]] = {
    Any: {},
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": ["number", "null"]},  # what is not finite is written as null
    type(None): {"type": "null"},
    Expr: {"type": "string"},  # a formula
}


def schemas(closed: bool = False) -> dict[str, dict[str, Any]]:
    """The schema of every command's document, and of run.json, by name.

    New keys may come with any version, so that further keys are allowed, unless `closed`.
    """
    made = {name: _document(name, kinds, closed) for name, kinds in DOCUMENTS.items()}
    return {**made, "run-record": {"$schema": DIALECT, **schema_of(RunRecord, closed)}}


def _document(command: str, kinds: Sequence[type], closed: bool) -> dict[str, Any]:
    """The document of a command: its head, then what one of the types says."""
    head = {
        "schema": {"const": f"dojang.{command}/1"},
        "version": {"type": "string", "description": "the version of dojang"},
        "inputs": {"type": "object", "description": "the arguments of the command that say what to do"},
    }
    every = []
    for kind in kinds:
        body = schema_of(kind, closed)
        body["properties"] = head | body["properties"]
        body["required"] = [*head, *body["required"]]
        every.append(body)
    return {"$schema": DIALECT, **(every[0] if len(every) == 1 else {"anyOf": every})}


def schema_of(kind: Any, closed: bool = False) -> dict[str, Any]:
    """The schema of one type. Raises `TypeError` for a type that JSON does not have.

    >>> schema_of(dict[str, int | None])["additionalProperties"]
    {'type': ['integer', 'null']}
    """
    if kind in SIMPLE:
        return dict(SIMPLE[kind])
    if is_dataclass(kind):
        return _object(kind, [f.name for f in fields(kind)], closed)
    if is_typeddict(kind):
        return _object(kind, list(kind.__annotations__), closed)
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return {**schema_of(parts[0], closed), "description": parts[1]}
    if origin is NotRequired:
        return schema_of(parts[0], closed)
    if origin is Literal:
        return {"enum": list(parts)}
    if origin in (Union, types.UnionType):
        return _union([schema_of(part, closed) for part in parts])
    if origin in (list, tuple, Sequence):
        several = origin is tuple and parts[-1] is not Ellipsis
        return {"type": "array", "items": _union([schema_of(p, closed) for p in (parts if several else parts[:1])])}
    if origin in (dict, Mapping):
        return {"type": "object", "additionalProperties": schema_of(parts[1], closed)}
    raise TypeError(f"{kind} has no schema")


def _object(kind: Any, names: Sequence[str], closed: bool) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {
        "type": "object",
        "description": " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split()),
        "properties": {name: schema_of(hints[name], closed) for name in names},
        "required": [name for name in names if get_origin(hints[name]) is not NotRequired],
        **({"additionalProperties": False} if closed else {}),
    }


def _union(every: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One of several: simple types together in one list."""
    unlike = [one for i, one in enumerate(every) if one not in every[:i]]
    if len(unlike) == 1:
        return unlike[0]
    if all(set(one) <= {"type", "description"} and "type" in one for one in unlike):
        found = [one["type"] if isinstance(one["type"], list) else [one["type"]] for one in unlike]
        said = {k: v for one in unlike for k, v in one.items() if k == "description"}
        return {"type": list(dict.fromkeys(name for some in found for name in some)), **said}
    return {"anyOf": list(unlike)}
