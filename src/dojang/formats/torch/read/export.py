"""The second way to read a module: `torch.export`, for forwards that change tensors in place through views.

Slower than following the forward (seconds against hundredths), but what it gives is functional. Its ATen functions are
lowered by the same handlers.
"""

from __future__ import annotations

import logging
import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from dojang.base.errors import UnsupportedError
from dojang.formats.torch.read.intercept import is_leaf
from dojang.formats.torch.read.trace import Tracer
from dojang.formats.torch.read.traced import HANDLERS, Stale, Traced, plain


def exported(module: nn.Module, sizes: Sequence[Sequence[int]], device: torch.device, dtype: torch.dtype) -> Any:
    """The functional program of a module in inference mode, its batch open where that is possible.

    Returns the program and whether the batch is open. Raises what `torch.export` raises.
    """
    batch = torch.export.Dim.DYNAMIC
    flags = [m for m in module.modules() if m.__dict__.get("training")]
    for m in flags:
        m.__dict__["training"] = False
    try:
        with warnings.catch_warnings(), _silent():
            warnings.simplefilter("ignore")
            for free in (True, False):
                args = tuple(torch.zeros((2 if free else 1, *s), dtype=dtype, device=device) for s in sizes)
                shapes = tuple({0: batch} for _ in sizes) if free else None
                try:
                    program = torch.export.export(module, args, dynamic_shapes=shapes, strict=False)
                    return program.run_decompositions({}), free
                except Exception:
                    if not free:
                        raise
    finally:
        for m in flags:
            m.__dict__["training"] = True
    raise AssertionError("one of the two attempts returns or raises")


@contextmanager
def _silent() -> Iterator[None]:
    """Without what `torch.export` logs of a forward that it cannot follow; the error says it."""
    kept = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(kept)


ORDER: Mapping[str, Sequence[int]] = {
    "batch_norm": (0, 3, 4, 1, 2, 5, 6, 7), "instance_norm": (0, 3, 4, 1, 2, 5, 6, 7), "embedding": (1, 0),
}  # fmt: skip
"""ATen's arguments in the order of `torch.nn.functional`, which the handlers have."""


UNREAD = object()
"""Stands for what an operator gives besides its first result, where its rule gives that alone."""


def no_unread(t: Tracer, values: Any) -> None:
    """Raises `UnsupportedError` where one of some values is a result that no rule reads."""
    if any(v is UNREAD for v in tree_leaves(values)):
        raise UnsupportedError(f"{t.place}: uses a second result of an operator of which dojang reads the first alone")


def replay(t: Tracer, program: Any, inputs: Sequence[Traced]) -> list[Any]:
    """The outputs of an exported program, made of nodes of `t`."""
    signature = program.graph_signature
    held = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    constants = dict(program.constants)
    loose = getattr(signature, "inputs_to_lifted_tensor_constants", {})
    given = iter(inputs)
    values: dict[fx.Node, Any] = {}
    modules = dict(t.root.named_modules())
    for node in program.graph.nodes:
        if node.op == "placeholder":
            if node.name in held:
                name = held[node.name]
                values[node] = t.tensors[name] if name in t.tensors else constants[name]
            elif node.name in loose:
                values[node] = constants[loose[node.name]]
            elif node.name in signature.user_inputs:
                values[node] = next(given, None)
            else:  # an object, such as a generator of random numbers
                raise UnsupportedError(f"{node.name}: what an exported program is given besides tensors is not known")
        elif node.op == "call_function":
            _enter(t, node, modules)
            args, kwargs = (map_arg(part, values.__getitem__) for part in (node.args, node.kwargs))
            values[node] = call(t, node.target, args, kwargs)
        elif node.op == "output":
            every = list(map_arg(node.args[0], values.__getitem__))
            user = torch.export.graph_signature.OutputKind.USER_OUTPUT  # others are new values of buffers
            no_unread(t, every)
            return [v for v, spec in zip(every, signature.output_specs, strict=True) if spec.kind == user]
        else:
            raise UnsupportedError(f"{node.name}: {node.op} of an exported program cannot be followed")
    return []


def _enter(t: Tracer, node: fx.Node, modules: dict[str, nn.Module]) -> None:
    """Sets the tracer's place to the module that the exported function came from."""
    scopes = list((node.meta.get("nn_module_stack") or {}).values())
    path = scopes[-1][0] if scopes else ""
    module = modules.get(path)
    t.stack[:] = [("", False), (path, module is not None and is_leaf(module))]


def call(t: Tracer, target: Any, args: Any, kwargs: Any) -> Any:
    """One function of the program."""
    traced = any(isinstance(v, Traced) for v in tree_leaves((args, kwargs)))
    if target is operator.getitem or getattr(target, "__module__", "") in ("_operator", "math", "builtins"):
        return target(*args, **kwargs)
    schema = getattr(target, "_schema", None)
    if schema is None:
        raise UnsupportedError(f"{t.place}: {target} (control flow) cannot be followed")
    name = schema.name.split("::")[1]
    base, _ = plain(name)
    base = base if base in HANDLERS or name not in HANDLERS else name
    t.func = base
    no_unread(t, (args, kwargs))
    if base == "stft":  # the operator without `center` does not pad, and the function has one argument more there
        kwargs = {
            "center": False,
            **dict(zip([a.name for a in schema.arguments[1:]], args[1:], strict=False)),
            **kwargs,
        }
        args = args[:1]
    if name in ORDER:
        args = [args[k] for k in ORDER[name] if k < len(args)]
    if not traced and not t.wants(base, args, kwargs):
        return t.real(target, base, args, kwargs)
    if base in ("assert_scalar", "_assert_scalar", "_assert_tensor_metadata", "assert_tensor_metadata"):
        return None
    kwargs = {k: v for k, v in kwargs.items() if k not in ("layout", "pin_memory", "memory_format", "device")}
    try:
        found = t.lower(target, base, name.endswith("_"), args, dict(kwargs))
    except Stale as error:
        raise UnsupportedError(str(error)) from error
    more = len(schema.returns) - 1
    return (found, *[UNREAD] * more) if more and isinstance(found, torch.Tensor) else found
