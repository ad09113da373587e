"""What docs/ says about commands, JSON, exit codes and Python names, made from the program; used by scripts/docs.py."""

from __future__ import annotations

import inspect
import sys
import tomllib
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

import dojang
from dojang.app.options import COMMANDS
from dojang.arith.symbol import Expr
from dojang.base import errors
from dojang.filters.large import STORES
from dojang.filters.pictures.images import FORMATS
from dojang.formats import tables, zoo
from dojang.report.documents import DOCUMENTS, RunRecord
from dojang.report.json import dumps
from dojang.report.schema import SIMPLE, schemas

SCHEMAS = Path(__file__).parent.parent / "docs" / "schemas"


def in_python(command: str) -> str:
    """The Python function of the same work, with its signature."""
    names = dict.fromkeys((COMMANDS[command].verb, *(v for o in COMMANDS[command].options for v in o.verbs)))
    every = [name for name in names if name in dojang.__all__]
    return f"In Python:\n\n```text\n{chr(10).join(map(signature, every))}\n```"


def signature(name: str) -> str:
    """A call with every keyword and its default, within 100 columns."""
    parts, star = [], False
    for p in inspect.signature(getattr(dojang, name)).parameters.values():
        if p.kind is inspect.Parameter.KEYWORD_ONLY and not star:
            parts, star = [*parts, "*"], True
        parts.append(p.name if p.default is inspect.Parameter.empty else f"{p.name}={p.default!r}")
    lines, begun = [], f"dojang.{name}("
    for i, part in enumerate(parts):
        end = ")" if i == len(parts) - 1 else ","
        if len(begun) + len(part) > 96:
            lines, begun = [*lines, begun.rstrip()], "    "
        begun += f"{part}{end} "
    return "\n".join([*lines, begun.rstrip()])


def exit_codes() -> str:
    """The errors with their codes."""
    rows = ["| error | code | when |", "|---|---|---|"]
    for name, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, errors.DojangError):
            rows.append(f"| `dojang.{name}` | {value.exit_code} | {first(value)} |")
    return "\n".join(rows)


def python_names() -> str:
    """Every public name by what it is, with the first sentence of its docstring."""
    groups: dict[str, list[str]] = {"Functions": [], "Results": [], "Other types": [], "Errors": []}
    for name in dojang.__all__:
        value = getattr(dojang, name)
        if inspect.isclass(value):
            parts = {dojang.Result: "Results", dojang.DojangError: "Errors"}
            group = next((title for base, title in parts.items() if issubclass(value, base)), "Other types")
        elif callable(value):
            group = "Functions"
        else:
            continue
        groups[group].append(f"| `dojang.{name}` | {first(value)} |")
    return "\n\n".join(f"## {title}\n\n| name | |\n|---|---|\n" + "\n".join(rows) for title, rows in groups.items())


def first(value: object) -> str:
    """The first sentence of a docstring."""
    text = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    end = text.find(". ")
    return (text if end < 0 else text[: end + 1]).replace("|", "\\|")


def zoo_names() -> str:
    """The networks of the zoo and the published tables."""
    return f"{code(zoo.names())}.\n\nPublished tables, for `dojang check`: {code(tables.names())}."


def picture_formats() -> str:
    """Suffixes by picture format."""
    rows = ["| format | suffixes |", "|---|---|"]
    rows += [
        f"| {name} | {code(s for s, f in FORMATS.items() if f == name)} |" for name in dict.fromkeys(FORMATS.values())
    ]
    return "\n".join([*rows, f"| arrays on disk | {code(STORES)} |"])


def extras() -> str:
    """What `pip install 'dojang[EXTRA]'` adds for users."""
    project = tomllib.loads((SCHEMAS.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    given: dict[str, list[str]] = project["optional-dependencies"]
    told = {
        "torch": 'PyTorch code as a network, training, fine-tuning in `slim`, `torch.compile(..., backend="dojang")`',
        "data": "the data set `digits`",
        "onnxruntime": "ONNX Runtime as a runtime to slim for and as a peer of `bench`; checks of what is written",
        "large": "pictures as Zarr arrays, Dask arrays, and more kinds of TIFF",
        "demo": "all that `make demo` needs",
    }
    rows = ["| extra | for | packages |", "|---|---|---|"]
    return "\n".join([*rows, *(f"| `{name}` | {what} | {code(given[name])} |" for name, what in told.items())])


def code(words: Iterable[str]) -> str:
    """Words as code, with commas."""
    return ", ".join(f"`{word}`" for word in words)


def json_documents() -> str:
    """A table of keys for each document, then one for each type that these use."""
    parts: list[str] = []
    used: list[Any] = []
    for command, kinds in DOCUMENTS.items():
        parts.append(f"## {command}\n\nSchema: [`dojang.{command}/1`](schemas/{command}.json).")
        for kind in kinds:
            parts += [f"{described(kind)}\n\n{keys(kind)}"]
            used += [part for part in named(kind) if part not in used]
    parts.append("## run.json\n\nSchema: [`dojang.run-record/1`](schemas/run-record.json).")
    parts.append(f"{described(RunRecord)}\n\n{keys(RunRecord)}")
    used += [part for part in named(RunRecord) if part not in used]
    parts.append("## Parts of documents")
    parts += [f"### {kind.__name__}\n\n{described(kind)}\n\n{keys(kind)}" for kind in used]
    return "\n\n".join(parts)


def described(kind: Any) -> str:
    """The first paragraph of a type's docstring on one line."""
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def hints_of(kind: Any) -> dict[str, Any]:
    """The keys of an object and their types."""
    hints = get_type_hints(kind, include_extras=True)
    return {f.name: hints[f.name] for f in fields(kind)} if is_dataclass(kind) else hints


def named(kind: Any) -> Iterator[Any]:
    """The objects that a type holds, at any depth, in their order."""
    for hint in hints_of(kind).values():
        for part in leaves(hint):
            if is_object(part):
                yield part
                yield from named(part)


def is_object(kind: Any) -> bool:
    """Whether a type is written as an object with keys of its own."""
    return kind not in SIMPLE and (is_dataclass(kind) or is_typeddict(kind))


def leaves(hint: Any) -> Iterator[Any]:
    """The types that a type is made of."""
    parts = get_args(hint)
    if get_origin(hint) is Annotated:
        parts = parts[:1]
    if not parts or hint in SIMPLE:
        yield hint
    elif get_origin(hint) is not Literal:
        for part in parts:
            yield from leaves(part)


def keys(kind: Any) -> str:
    """One row per key."""
    rows = ["| key | value | |", "|---|---|---|"]
    for name, hint in hints_of(kind).items():
        said, optional = "", ""
        while get_origin(hint) in (NotRequired, Annotated):
            if get_origin(hint) is NotRequired:
                optional = "not always; "
            else:
                said = said or get_args(hint)[1]
            hint = get_args(hint)[0]
        rows.append(f"| `{name}` | {value(hint)} | {(optional + said).removesuffix('; ')} |")
    return "\n".join(rows)


def value(hint: Any) -> str:
    """A type as a reader understands it."""
    names = {Any: "anything", str: "text", Expr: "text", bool: "true or false", int: "whole number", float: "number"}
    if hint in names:
        return names[hint]
    if hint is type(None):
        return "null"
    if is_object(hint):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Annotated, NotRequired):
        return value(parts[0])
    if origin is Literal:
        return ", ".join(f'"{part}"' for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(value(part) for part in parts))
    if origin in (dict, Mapping):
        return f"object of {value(parts[1])}"
    return f"list of {value(parts[0])}"


def main(check: bool) -> int:
    """Writes docs/schemas, or says which files of it are stale."""
    wanted = {f"{name}.json": dumps(schema) + "\n" for name, schema in schemas().items()}
    there = {path.name: path.read_text(encoding="utf-8") for path in SCHEMAS.glob("*.json")}
    stale = [name for name in sorted({*wanted, *there}) if wanted.get(name) != there.get(name)]
    if check and stale:
        print(f"stale: docs/schemas: {', '.join(stale)}; run scripts/docs.py", file=sys.stderr)
        return 1
    SCHEMAS.mkdir(exist_ok=True)
    for name in stale:
        if name in wanted:
            (SCHEMAS / name).write_text(wanted[name], encoding="utf-8")
        else:
            (SCHEMAS / name).unlink()
    return 0


MAKERS: dict[str, Callable[[], str]] = {
    "exit_codes": exit_codes,
    "json_documents": json_documents,
    "python_names": python_names,
    "extras": extras,
    "picture_formats": picture_formats,
    "zoo_names": zoo_names,
}
