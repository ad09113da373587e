"""A module's text, by which `--resume` knows a network again: settings, code, hooks, and what is not in the state."""

from __future__ import annotations

import contextlib
import enum
import functools
import hashlib
import inspect
import types
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Settings = Mapping[str, Mapping[str, str]]
"""By path of each part of a module, each of its settings as text."""

_DEPTH = 6
"""So deep containers, and functions that call functions, are followed."""

_EVERY_MODULE = frozenset(vars(nn.Module()))
"""Attributes of all modules: parameters, buffers and parts have names of their own; `training` changes."""

_HOOKS = tuple(name for name in vars(nn.Module()) if name.endswith("hooks"))


def settings_of(module: nn.Module) -> Settings:
    """Everything that decides what a module computes and that its state does not hold, as text by part and name.

    Numbers, words, containers and dataclasses stand as they are; arrays as a digest of their values; functions as a
    digest of their code, of what it encloses, and of the functions of the same program that it calls; of other objects
    only their type. Classes of libraries have settings, but no code.
    """
    return {path: _settings(part) for path, part in module.named_modules()}


def text_of(module: nn.Module, before: Settings | None = None) -> str:
    """The settings in lines, one for each part. What has changed since `before` is no setting: counters, what was last
    seen. They are compared between two calls, which the module has both been through once.
    """
    now = settings_of(module)
    lines: list[str] = []
    for path, part in module.named_modules():
        shown = repr(part).splitlines()[0] if not list(part.children()) else type(part).__name__
        steady = {k: v for k, v in now[path].items() if before is None or before.get(path, {}).get(k) == v}
        said = "".join(f"; {k}={v}" for k, v in sorted(steady.items()))
        lines.append(f"{path or 'the network'}: {shown}{said}")
    return "\n".join(lines)


def code_of(function: Callable[..., Any]) -> str:
    """A digest of a function's code, of the functions of its program that it calls, and of the plain values that it
    finds outside itself; not of arrays and containers there, which may change from call to call.
    """
    inner = inspect.unwrap(getattr(function, "__func__", function))
    if not isinstance(inner, types.FunctionType):
        return _said(function)
    plain = [v for v in _enclosed(inner) if v is None or isinstance(v, (bool, int, float, str, bytes)) or callable(v)]
    enclosed = [_said(v) for v in plain if not isinstance(v, (type, nn.Module))]
    return _short("\n".join((_code(inner.__code__, inner.__globals__, _DEPTH), *enclosed)).encode())


def differing(old: str, new: str) -> str:
    """Where two texts differ first, in words."""
    for mine, theirs in _pairs(new, old):
        if mine != theirs:
            there, here = theirs.split("; "), mine.split("; ")
            old_parts = "; ".join((*there[:1], *(part for part in there[1:] if part not in here)))
            new_parts = "; ".join((*here[:1], *(part for part in here[1:] if part not in there)))
            return f"there {old_parts.strip() or 'nothing more'!r}, here {new_parts.strip() or 'nothing more'!r}"
    return "they are the same"


def _pairs(new: str, old: str) -> Iterator[tuple[str, str]]:
    mine, theirs = new.splitlines(), old.splitlines()
    for i in range(max(len(mine), len(theirs))):
        yield (mine[i] if i < len(mine) else ""), (theirs[i] if i < len(theirs) else "")


def _settings(part: nn.Module) -> dict[str, str]:
    own = {k: _said(v) for k, v in vars(part).items() if k not in _EVERY_MODULE}
    if _of_dojang(type(part)):  # the text of its network is known beside this
        own = {k: v for k, v in own.items() if v[:1] not in "<"}
    lasting = part.state_dict().keys()
    for name, buffer in part.named_buffers(recurse=False):
        if name not in lasting:
            own[name] = _said(buffer)
    for name in _HOOKS:
        hooks = [_said(hook) for hook in vars(part).get(name, {}).values() if not _of_library(hook)]
        if hooks:
            own[name.strip("_")] = f"[{', '.join(hooks)}]"
    code = [_class_code(kind) for kind in type(part).__mro__ if not _of_library(kind)]
    return own | ({"code": "+".join(code)} if code else {})


def _said(value: Any, depth: int = _DEPTH) -> str:
    """A value as text that is the same in another process."""
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype, torch.device)):
        return repr(value) if not isinstance(value, enum.Enum) else str(value)
    if isinstance(value, (Tensor, np.ndarray)):
        return _array(value)
    if isinstance(value, (enum.Enum, torch.Size, np.generic)):
        return str(value)
    if depth > 0:
        if isinstance(value, Mapping):
            return "{" + ", ".join(f"{_said(k, depth - 1)}: {_said(v, depth - 1)}" for k, v in value.items()) + "}"
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(_said(v, depth - 1) for v in value)}]"
        if isinstance(value, (set, frozenset)):
            return f"{{{', '.join(sorted(_said(v, depth - 1) for v in value))}}}"
        if callable(value) and not isinstance(value, (type, nn.Module)):
            return _function(value, depth - 1)
        if isinstance(value, (Namespace, types.SimpleNamespace)):
            return _said(vars(value), depth - 1)
        if is_dataclass(value) and not isinstance(value, type) and not _of_dojang(type(value)):
            return _said({f.name: getattr(value, f.name, None) for f in fields(value)}, depth - 1)
    kind = value if isinstance(value, type) else type(value)
    return f"<{kind.__module__}.{kind.__qualname__}>"


def _array(value: Any) -> str:
    with contextlib.suppress(RuntimeError, TypeError, ValueError):  # without values, or of a type without bytes
        plain = value.detach().cpu().contiguous() if isinstance(value, Tensor) else np.ascontiguousarray(value)
        raw = plain.reshape(-1).view(torch.uint8).numpy() if isinstance(plain, Tensor) else plain
        if raw.dtype.kind != "O":
            return f"{value.dtype}{tuple(value.shape)} {_short(raw.tobytes())}"
    return f"<{type(value).__name__}>"


def _function(value: Callable[..., Any], depth: int) -> str:
    if isinstance(value, functools.partial):
        return f"partial({_said(value.func, depth)}, {_said(value.args, depth)}, {_said(value.keywords, depth)})"
    if isinstance(value, types.MethodType):
        return _function(value.__func__, depth)
    name = getattr(value, "__qualname__", type(value).__qualname__)
    if _of_library(value) or not isinstance(value, types.FunctionType):
        return f"<{getattr(value, '__module__', '')}.{name}>"
    inside = [_said(cell, depth) for cell in _enclosed(value)]
    more = "".join(f" {v}" for v in (*inside, *(_said(d, depth) for d in value.__defaults__ or ())))
    return f"{name} {_code(value.__code__, value.__globals__, depth)}{more}"


def _enclosed(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # not bound yet
            yield cell.cell_contents


def _class_code(kind: type) -> str:
    """A digest of a class: its source where it is at hand, and the functions outside it that its methods call."""
    parts = []
    with contextlib.suppress(OSError, TypeError):
        parts.append(inspect.getsource(kind))
    for _, method in sorted(vars(kind).items()):
        function = inspect.unwrap(getattr(method, "__func__", method)) if callable(method) else None
        if isinstance(function, types.FunctionType):
            if parts:
                parts.append(_called(function.__code__, function.__globals__, _DEPTH - 1))
            else:
                parts.append(_code(function.__code__, function.__globals__, _DEPTH - 1))
    return _short("\n".join(parts).encode())


def _code(code: types.CodeType, around: Mapping[str, Any], depth: int) -> str:
    return _short(_instructions(code) + _called(code, around, depth).encode())


def _instructions(code: types.CodeType) -> bytes:
    constants = [c for c in code.co_consts if not isinstance(c, types.CodeType)]
    inner = b"".join(_instructions(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return code.co_code + repr((code.co_names, constants)).encode() + inner


def _called(code: types.CodeType, around: Mapping[str, Any], depth: int) -> str:
    """The program's own functions and plain values that the code finds outside itself."""
    found = []
    for name in sorted({n for c in _all_codes(code) for n in c.co_names if n in around}):
        value = around[name]
        plain = value is None or isinstance(value, (bool, int, float, str, bytes, tuple, functools.partial))
        if depth > 0 and (plain or (callable(value) and not isinstance(value, (type, nn.Module)))):
            found.append(f"{name}={_said(value, depth - 1)}")
    return ";".join(found)


def _all_codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _all_codes(constant)


def _of_library(thing: Any) -> bool:
    where = getattr(thing, "__module__", None) or ""
    return where.partition(".")[0] in ("torch", "dojang", "builtins", "numpy")


def _of_dojang(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "dojang"


def _short(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:12]
