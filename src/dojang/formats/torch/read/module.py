"""From a PyTorch module to a Graph: `from_module`, and `paths_of` where values decide which path a forward takes."""

from __future__ import annotations

import inspect
import re
from collections import deque
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any, cast

import torch
from torch import nn
from torch.utils._pytree import tree_unflatten

from dojang.arith import outputs as output_names
from dojang.arith.conv import by
from dojang.arith.graph import Graph, Node, reachable
from dojang.arith.ops import UNKNOWN
from dojang.arith.stored import ROLES, Origin
from dojang.base.errors import DojangError, ShapeError, UnsupportedError, UsageError
from dojang.base.showing import first_line
from dojang.base.wording import counted
from dojang.formats.torch.read import attention as torch_attention
from dojang.formats.torch.read import composed as torch_composed
from dojang.formats.torch.read import composed_numbers as torch_composed_numbers
from dojang.formats.torch.read import fourier as torch_fourier
from dojang.formats.torch.read import layers as torch_layers
from dojang.formats.torch.read import ops as torch_ops
from dojang.formats.torch.read import patches as torch_patches
from dojang.formats.torch.read import picking as torch_picking
from dojang.formats.torch.read import places as torch_places
from dojang.formats.torch.read import recurrent as torch_recurrent
from dojang.formats.torch.read import sampling as torch_sampling
from dojang.formats.torch.read import views as torch_views
from dojang.formats.torch.read.adapted import Adapted
from dojang.formats.torch.read.export import exported, replay
from dojang.formats.torch.read.restore import undisturbed
from dojang.formats.torch.read.stored import Store
from dojang.formats.torch.read.trace import ONNX_TYPES, Tracer
from dojang.formats.torch.read.traced import DataDependent, Traced
from dojang.formats.torch.tensors import keys_in, tensors_in
from dojang.formats.torch.write.module import Network

_HANDLERS = (
    torch_ops, torch_layers, torch_attention, torch_views, torch_places, torch_patches, torch_recurrent, torch_sampling,
    torch_picking, torch_fourier, torch_composed, torch_composed_numbers,
)  # fmt: skip
"""Imported for the handlers that they register."""

Sizes = Sequence[int] | Sequence[Sequence[int]] | Mapping[str, Sequence[int]]


def from_module(module: nn.Module, input_size: Sizes = (3, 224, 224), weights: bool = True) -> Graph:
    """The network that a PyTorch module computes at inference, by following its forward without running it.

    `input_size` is one shape without batch, one per argument of `forward`, or a dictionary of such by name. Node names
    are the paths of modules (`layer1.0.conv1`), function calls take the function's name under their module's path;
    arrays are named as in `module.state_dict()`. With `weights` the Graph holds copies of the module's numbers
    (float32), unless they are on the meta device. The module is left as it is, whatever its forward keeps
    (`restore.py`).

    Weights that the forward computes from parameters (weight_norm, standardisation) are arrays of the layer that uses
    them, with the values they have now. Functions that are not known become `unknown` nodes. Raises `ShapeError` where
    sizes do not fit and `UnsupportedError`, with the place, where the forward cannot be followed.
    """
    _check_module(module)
    module = getattr(module, "_orig_mod", module)
    sizes = _input_sizes(module, input_size)
    try:
        return _trace(module, sizes, weights, [])[0]
    except (DataDependent, ShapeError):
        raise
    except Exception as error:
        with undisturbed(module):
            return _by_export(module, sizes, weights, error)


def paths_of(module: nn.Module, input_size: Sizes = (3, 224, 224), limit: int = 64) -> tuple[Graph, ...]:
    """One Graph (without weights) per way through a forward that branches on values: `if` on a tensor, taken both ways.

    Ways with fewer decisions come first. Of more than `limit`, as a `while` on values has, `limit` - 1 are followed to
    their end, and the rest stands as `unknown` nodes: one Graph for each place where ways were left, with what leads
    there. So does all that follows where values decide by other means, as sizes or indices. Raises `UnsupportedError`
    where the forward cannot be followed at all.
    """
    _check_module(module)
    sizes = _input_sizes(module, input_size)
    graphs: list[Graph] = []
    waiting: deque[tuple[list[bool], DataDependent | None]] = deque([([], None)])
    tries = 0
    while waiting and tries < 3 * limit and sum(len(g.nodes) for g in graphs) <= MOST_NODES:
        fits = len(graphs) + len(waiting) <= limit
        if not fits and len(graphs) >= limit - 1:
            break
        tries += 1
        # Breadth first while all ways may fit; then way by way to its end, at each loop first the one that leaves it.
        ahead, _ = waiting.popleft() if fits else waiting.pop()
        try:
            graphs.append(_trace(module, sizes, False, ahead)[0])
        except DataDependent as error:
            if error.yes_or_no:
                both = [([*ahead, False], error), ([*ahead, True], error)]
                waiting += both if fits else both[::-1]
            elif error.what:
                graphs.append(error.begun(f"what follows {error.what}"))
            else:
                raise
    left = dict.fromkeys(error for _, error in waiting if error is not None)
    return (*graphs, *(error.begun(f"what follows {error.what}, after {len(graphs)} ways") for error in left))


MOST_NODES = 200_000
"""Nodes of all ways together: some ten seconds."""


def _check_module(module: Any) -> None:
    if not isinstance(module, nn.Module):
        raise UsageError(f"expected a torch.nn.Module, got {type(module).__name__}; call the class or function first")


def _input_sizes(module: nn.Module, input_size: Any) -> list[tuple[int, ...]]:
    """One shape per input."""
    if isinstance(input_size, Mapping):
        named = cast(Mapping[str, Any], input_size)
        names = _input_names(module, len(named))
        strange = next((name for name in named if name not in names), None)
        if strange is not None:
            raise UsageError(f"{type(module).__name__}.forward has no input {strange!r}; it takes {', '.join(names)}")
        input_size = [named[name] for name in names]
    if isinstance(input_size, int | str):
        raise UsageError(f"input size {input_size!r}: give one shape without batch, as in (3, 224, 224)")
    given: list[Any] = list(input_size) if isinstance(input_size, list | tuple | torch.Size) else [input_size]
    several = bool(given) and all(isinstance(s, list | tuple) for s in given)
    sizes = [tuple(s) for s in given] if several else [tuple(given)]
    for size in sizes:
        if any(not isinstance(s, int) or isinstance(s, bool) or s < 1 for s in size):
            raise UsageError(f"input size {size} must be whole numbers of at least 1, as in (3, 224, 224)")
    return sizes


def _input_names(module: nn.Module, count: int) -> list[str]:
    """Names of the first `count` arguments of forward, which must take that many."""
    if isinstance(module, Network) and len(module.graph.inputs) == count:
        return [node.name for node in module.graph.inputs]
    try:
        parameters = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        return [f"input{i}" for i in range(count)]
    named = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p.name for p in named if p.default is p.empty]
    more = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if len(needed) > count or (len(named) < count and not more):
        words = ", ".join(needed) or "nothing"
        raise UsageError(
            f"{type(module).__name__}.forward takes {words}, but {counted(count, 'input size')} "
            f"{'was' if count == 1 else 'were'} given; give one per argument: --input-size '3,32,32;10', in Python "
            "input_size=((3, 32, 32), (10,))"
        )
    names = [p.name for p in named[:count]]
    return names + [f"input{i}" for i in range(len(names), count)]


def _trace(
    module: nn.Module, sizes: list[tuple[int, ...]], weights: bool, ahead: list[bool], but: int = 0
) -> tuple[Graph, Tracer]:
    names = _input_names(module, len(sizes))
    t = Tracer(module, sizes, but=but)
    t.ahead = ahead
    inputs = [t.input(name, size) for name, size in zip(names, sizes, strict=True)]
    with undisturbed(module) as noted:
        t.before_write = noted.before_write
        made = graph_of(module, t, _followed(module, t, inputs), weights), t
    # With another prime for the batch, a number that only looked like the number of images does so no longer.
    return _trace(module, sizes, weights, ahead, t.batch) if t.counted and not but else made


def _followed(module: nn.Module, t: Tracer, inputs: Sequence[Traced]) -> Any:
    """What the forward gives for stand-ins."""
    try:
        with t.active():
            result = module(*inputs)
            for value in tensors_in(result):
                if isinstance(value, Traced):
                    t.read(value)  # with what was written in it, while functions are followed
            return result
    except DojangError as error:
        error.args = (re.sub(rf"(?<!\d){t.batch}(?!\d)", "n", str(error)),)  # the batch of the trace is nobody's number
        if isinstance(error, DataDependent):
            error.begun = partial(_begun, module, t, t.stack[-1][0])
        raise
    except RecursionError:
        raise UnsupportedError(f"{t.place}: the forward calls itself without end") from None
    except Exception as error:
        raise _Failed(f"{t.place}: {type(error).__name__}: {first_line(error)}") from error


def _begun(module: nn.Module, t: Tracer, path: str, why: str) -> Graph:
    """What was followed and leads to the last decision; an `unknown` node stands for the rest."""
    name = t.fresh(name=f"{path}.rest" if path else "rest")
    t.nodes.append(Node.of(name, UNKNOWN, kind=why))
    return graph_of(module, t, t.made(name, ()), False)


class _Failed(UnsupportedError):
    """The forward itself raised while it was followed."""


def _by_export(module: nn.Module, sizes: list[tuple[int, ...]], weights: bool, reason: Exception) -> Graph:
    """The Graph by `torch.export`; when that fails too, the error says why the first way failed."""
    if not isinstance(reason, DojangError | Exception):
        raise reason
    if isinstance(reason, DojangError) and not isinstance(reason, UnsupportedError):
        raise reason
    names = _input_names(module, len(sizes))
    t = Tracer(module, sizes)
    try:
        program, free = exported(module, sizes, t.device, t.dtype)
    except Exception as error:
        said = "data-dependent" if "data-dependent" in str(error) or "DataDependent" in type(error).__name__ else ""
        also = f"; torch.export: {said or first_line(error)}"
        raise UnsupportedError(f"{first_line(reason)}{also}") from error
    t = Tracer(module, sizes, None if free else 1)
    with t.active(follow=False):
        inputs = [t.input(name, size) for name, size in zip(names, sizes, strict=True)]
        try:
            result: Any = replay(t, program, inputs)
            with suppress(ValueError):  # where the program returns other values than the forward
                result = tree_unflatten(result, program.call_spec.out_spec)
        except DojangError:
            raise
        except Exception as error:
            raise UnsupportedError(f"{first_line(reason)}; {t.place}: {first_line(error)}") from error
        return graph_of(module, t, result, weights)


def _typed(t: Tracer, value: Traced) -> str:
    """The node of an output, by a cast where whole numbers were computed as real ones."""
    name = t.read(value)
    with torch._C.DisableTorchFunctionSubclass():
        kind = value.dtype
    known = next(n.op for n in reversed(t.nodes) if n.name == name) != UNKNOWN
    if kind.is_floating_point or kind not in ONNX_TYPES or name in t.whole or not known:
        return name
    return t.cast(value, kind).node


def graph_of(module: nn.Module, t: Tracer, result: Any, weights: bool) -> Graph:
    """The Graph of what was traced: what the outputs need, and what costs before a decision by values."""
    t.stack[:] = [("", False)]
    t.func = "output"
    outputs = [_typed(t, o if isinstance(o, Traced) else t.value(o)) for o in tensors_in(result)]
    own = module.whole if isinstance(module, Adapted) else module
    title = type(own).__name__
    if not outputs:
        raise UnsupportedError(f"{title}: its forward returns no tensor")
    weighed = reachable(t.nodes, t.decided)
    live = reachable(t.nodes, outputs + [n.name for n in t.nodes if n.name in weighed and _costs(n)])
    nodes = tuple(n for n in t.nodes if n.name in live or n.op == "input")
    nodes = _tokens(nodes, outputs, t.tokens)
    read = {n.array(role) for n in nodes if n.rule.params is not None for role in ROLES}
    added = {a for a in t.trained if a.endswith(".value")}
    idle = [name for name in t.arrays.values() if name in t.trained and name not in read and name not in added]
    meta = {"source": f"PyTorch module {type(own).__module__}.{type(own).__qualname__}"}
    if idle:
        meta["unused"] = ", ".join(idle)
    if keys := keys_in(result):
        meta[output_names.KEY] = output_names.as_text(keys)
    if isinstance(module, Network):
        said = {node.name: node.attrs for node in module.graph.inputs}
        nodes = tuple(
            n.with_attrs(mean=said[n.name]["mean"], std=said[n.name]["std"])
            if n.op == "input" and n.name in said and n.attrs["shape"] == said[n.name]["shape"] else n
            for n in nodes
        )  # fmt: skip
        title, meta = module.graph.name, dict(module.graph.meta)
    graph = Graph(nodes, tuple(outputs), title, meta=meta)
    _check_batch(graph, t)
    store = Store(t.held)
    origins = {
        name: Origin(shape, store.sources(t.values.get(name, t.tensors[name]), t.derived))
        for name, shape in graph.param_shapes.items()
    }
    classes = {t.paths[id(m)]: type(m).__name__ for m in t.modules if t.paths[id(m)]}
    arrays = _weights(graph, t) if weights else {}
    return graph.replace(stored=store.stored, origins=origins, weights=arrays, modules=classes)


def _tokens(nodes: tuple[Node, ...], outputs: Sequence[str], casts_of_tokens: Set[str]) -> tuple[Node, ...]:
    """The nodes with an input of whole numbers where only embeddings read it, whose casts are then left out."""
    readers: dict[str, list[Node]] = {}
    for node in nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    as_whole = {
        n.name: readers[n.name] for n in nodes
        if n.op == "input" and n.attrs["dtype"] == "float32" and n.name in readers and n.name not in outputs
        and all(r.name in casts_of_tokens and r.name not in outputs for r in readers[n.name])
    }  # fmt: skip
    if not as_whole:
        return nodes
    moved = {cast.name: name for name, casts in as_whole.items() for cast in casts}
    return tuple(
        n.with_attrs(dtype="int64") if n.name in as_whole
        else replace(n, inputs=tuple(moved.get(i, i) for i in n.inputs))
        for n in nodes if n.name not in moved
    )  # fmt: skip


def _costs(node: Node) -> bool:
    """Whether a node has parameters or MACs, or may have."""
    return bool(node.rule.params or node.rule.macs) or (node.op == UNKNOWN and not node.attrs["free"])


def _check_batch(graph: Graph, t: Tracer) -> None:
    """Raises where the batch of the trace got into the network as a number: it must follow the input's."""
    if t.batch == 1:
        try:
            three = graph.shapes(3)
        except ShapeError as error:
            raise UnsupportedError(f"{error}: the forward fixes the batch; write it for any batch size") from None
        for name in graph.outputs:
            shape, wide = graph.unit_shapes[name], three[name]
            if shape is not None and wide is not None and prod(wide) != 3 * prod(shape):
                raise UnsupportedError(f"{name}: the forward fixes the batch; write it for any batch size")
    for name, shape in graph.unit_shapes.items():
        traced = tuple(s // t.batch if s % t.batch == 0 else s for s in t.shapes[name])
        if shape is not None and shape != traced:
            raise UnsupportedError(
                f"{name}: its shape {by(shape)} does not follow the batch; it should be {by(traced)}"
            )


def _weights(graph: Graph, t: Tracer) -> dict[str, Any]:
    """Copies of the arrays; none when they are on the meta device."""
    found: dict[str, Any] = {}
    for name in graph.param_shapes:
        value = t.tensors[name]
        if value.device.type == "meta":
            return {}
        with torch.no_grad():
            found[name] = value.detach().to("cpu", torch.float32).numpy().copy()
    return found
