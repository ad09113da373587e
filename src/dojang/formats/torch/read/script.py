"""The graph of a TorchScript module followed operator by operator: functions of ATen by the handlers of this package,
arithmetic of sizes as it is, `if` and `for` by what sizes and attributes say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from dojang.base.errors import UnsupportedError
from dojang.formats.torch.read.export import call, no_unread
from dojang.formats.torch.read.trace import Tracer
from dojang.formats.torch.read.traced import Traced

MOST_TURNS = 10_000
"""Turns of loops in all."""

NOT_RUN = frozenset("from_file save warn format Print print RaiseException".split())
"""Operators that do more than compute."""


class Attribute:
    """A module of the program, or the path to something of it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def of(self, name: str) -> str:
        """The path of what it holds."""
        return f"{self.path}.{name}" if self.path else name


class Script:
    """One forward while it is followed."""

    def __init__(self, t: Tracer, module: torch.jit.ScriptModule) -> None:
        self.t, self.module, self.turns = t, module, 0

    def block(self, block: Any, values: dict[str, Any]) -> list[Any]:
        """The outputs of a block."""
        for node in block.nodes():
            found = self.node(node, values)
            for output, value in zip(node.outputs(), found, strict=True):
                values[output.debugName()] = value
        return [values[o.debugName()] for o in block.outputs()]

    def node(self, node: Any, values: dict[str, Any]) -> Sequence[Any]:
        """The outputs of a node."""
        kind, given = node.kind(), [values[i.debugName()] for i in node.inputs()]
        if kind == "prim::Constant":
            return [node.output().toIValue()]
        if kind == "prim::GetAttr":
            return [self.attribute(given[0], node.s("name"))]
        if kind == "prim::If":
            return self.branch(node, given, values)
        if kind == "prim::Loop":
            return self.loop(node, given, values)
        rule = PRIM.get(kind)
        if rule is not None:
            found = rule(given)
            return found if kind in ("prim::TupleUnpack", "prim::ListUnpack") else [found]
        if kind == "prim::DictConstruct":
            return [dict(zip(given[::2], given[1::2], strict=True))]
        return self.function(node, kind, given)

    def attribute(self, owner: Any, name: str) -> Any:
        """What a module holds: a tensor, a number, another module."""
        path = owner.of(name)
        if path in self.t.tensors:
            return self.t.tensors[path]
        value: Any = self.module
        for part in path.split("."):
            value = getattr(value, part)
        if isinstance(value, torch.nn.Module) or type(value).__name__ == "ScriptObject":
            return Attribute(path)
        return False if name == "training" else value

    def branch(self, node: Any, given: Sequence[Any], values: dict[str, Any]) -> Sequence[Any]:
        """If: by what sizes and attributes say."""
        if isinstance(given[0], Traced):
            raise UnsupportedError(f"{self.t.place}: the values of a tensor decide which branch is taken")
        blocks = list(node.blocks())
        return self.block(blocks[0 if given[0] else 1], values)

    def loop(self, node: Any, given: Sequence[Any], values: dict[str, Any]) -> Sequence[Any]:
        """For and while: as often as sizes and attributes say."""
        most, on, *carried = given
        (block,) = node.blocks()
        names, turn = [i.debugName() for i in block.inputs()], 0
        while on and turn < most:
            if isinstance(on, Traced) or isinstance(most, Traced):
                raise UnsupportedError(f"{self.t.place}: the values of a tensor decide how often a loop runs")
            self.turns += 1
            if self.turns > MOST_TURNS:
                raise UnsupportedError(f"{self.t.place}: its loops run more than {MOST_TURNS} times")
            on, *carried = self.block(block, values | dict(zip(names, [turn, *carried], strict=True)))
            turn += 1
        return carried

    def function(self, node: Any, kind: str, given: Sequence[Any]) -> Sequence[Any]:
        """An operator."""
        space, _, name = kind.partition("::")
        t = self.t
        if space not in ("aten", "torchvision", "prim") or name in NOT_RUN:
            if name in ("warn", "Print"):
                return [None for _ in node.outputs()]
            raise UnsupportedError(f"{t.place}: {kind} cannot be followed")
        self.place(node)
        rule = SIZES.get(name)
        if rule is not None and given and not isinstance(given[0], torch.Tensor):
            return [rule(*given)]
        if name in SHAPES and isinstance(given[0], torch.Tensor):
            return [SHAPES[name](*given)]
        schema = torch._C.parse_schema(node.schema())
        names = [a.name for a in schema.arguments]
        kwargs = {n: v for n, a, v in zip(names, schema.arguments, given, strict=True) if a.kwarg_only}
        args = [v for a, v in zip(schema.arguments, given, strict=True) if not a.kwarg_only]
        packet = getattr(getattr(torch.ops, space), name)
        if name.rstrip("_") in ("add", "sub") and len(args) == 3:
            kwargs["alpha"] = args.pop()
        result = call(t, getattr(packet, schema.overload_name or "default"), args, kwargs)
        return list(result) if len(list(node.outputs())) > 1 else [result]

    def place(self, node: Any) -> None:
        """The module that an operator belongs to, by the names that tracing gives its scope."""
        parts = [p.rpartition("::")[2] for p in node.scopeName().split("/") if p]
        path = parts[-1].partition("__module.")[2] if parts else ""
        self.t.stack[:] = [("", False), (path, bool(path) and path in self.leaves)] if path else [("", False)]

    @property
    def leaves(self) -> Mapping[str, bool]:
        """Paths of modules that have no others."""
        found = self.__dict__.get("_leaves")
        if found is None:
            named = dict(self.module.named_modules())
            found = {p: True for p, m in named.items() if p and not any(True for _ in m.children())}
            self.__dict__["_leaves"] = found
        return found


def follow(t: Tracer, module: torch.jit.ScriptModule, graph: Any, inputs: Sequence[Any]) -> Any:
    """What the forward gives for its inputs: stand-ins for tensors, and settings."""
    own, *names = [v.debugName() for v in graph.inputs()]
    values: dict[str, Any] = {own: Attribute(""), **dict(zip(names, inputs, strict=True))}
    found = Script(t, module).block(graph, values)
    no_unread(t, found)
    return found[0] if len(found) == 1 else tuple(found)


def _uninitialised(given: Sequence[Any]) -> None:
    return None


PRIM: Mapping[str, Callable[[Sequence[Any]], Any]] = {
    "prim::ListConstruct": list,
    "prim::TupleConstruct": tuple,
    "prim::TupleUnpack": lambda g: list(g[0]),
    "prim::ListUnpack": lambda g: list(g[0]),
    "prim::TupleIndex": lambda g: g[0][g[1]],
    "prim::NumToTensor": lambda g: g[0],
    "prim::unchecked_cast": lambda g: g[0],
    "prim::Uninitialized": _uninitialised,
    "prim::dtype": lambda g: g[0].dtype,
    "prim::device": lambda g: torch.device("cpu"),
    "prim::is_cuda": lambda g: False,
    "prim::min": lambda g: min(g) if len(g) > 1 else min(g[0]),
    "prim::max": lambda g: max(g) if len(g) > 1 else max(g[0]),
}
"""What is no function of ATen."""

SHAPES: Mapping[str, Callable[..., Any]] = {
    "size": lambda x, dim=None: list(x.shape) if dim is None else x.shape[dim],
    "dim": lambda x: x.dim(),
    "len": lambda x: x.shape[0],
    "numel": lambda x: x.numel(),
    "is_floating_point": lambda x: x.is_floating_point(),
    "__is__": lambda a, b: a is b,
    "__isnot__": lambda a, b: a is not b,
}
"""What asks a tensor for its sizes."""


def _changed(change: Callable[..., Any]) -> Callable[..., Any]:
    """A function that changes its first argument, a list, and gives it back."""

    def run(items: Any, *rest: Any) -> Any:
        change(items, *rest)
        return items

    return run


SIZES: Mapping[str, Callable[..., Any]] = {
    "add": lambda a, b, *_: a + b, "sub": lambda a, b, *_: a - b, "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b, "floor_divide": lambda a, b: a // b, "remainder": lambda a, b: a % b,
    "div": lambda a, b, *mode: a // b if mode else a / b, "neg": lambda a: -a, "pow": lambda a, b: a**b,
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b, "__and__": lambda a, b: a and b,
    "__or__": lambda a, b: a or b, "__not__": lambda a: not a, "__is__": lambda a, b: a is b,
    "__isnot__": lambda a, b: a is not b, "__getitem__": lambda a, b: a[b], "len": len, "Int": int, "Float": float,
    "Bool": bool, "IntImplicit": int, "FloatImplicit": float, "ScalarImplicit": lambda a: a,
    "append": _changed(list.append), "extend": _changed(list.extend), "_set_item": _changed(list.__setitem__),
    "__contains__": lambda a, b: b in a, "sqrt": lambda a: a**0.5, "floor": lambda a: a // 1,
    "ceil": lambda a: -(-a // 1),
    "detach": lambda a: a, "to": lambda a, *_: a, "list": list, "__range_length": lambda a, b, c: len(range(a, b, c)),
    "__derive_index": lambda i, start, step: start + i * step,
}  # fmt: skip
"""Arithmetic of sizes and lists."""
