"""PyTorch modules in and out: `from_module` reads one, `to_module` makes one, `load_state` reads weight files.

Only this module and its parts (`torch_*.py`) import torch.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import pickle
import re
import sys
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from dojang.arith.conv import by
from dojang.arith.graph import Graph, Node, reachable
from dojang.arith.ops import UNKNOWN
from dojang.arith.stored import ROLES, Origin
from dojang.base.budget import Budget
from dojang.base.errors import DojangError, FileError, ShapeError, UnsupportedError, UsageError
from dojang.base.reading import cause, damaged_as, opened, zipped
from dojang.formats import torch_attention, torch_layers, torch_ops, torch_patches, torch_views
from dojang.formats.checkpoint import apply_state, read_arrays, without_prefix
from dojang.formats.torch_export import exported, replay
from dojang.formats.torch_module import Network, to_module, weights_of
from dojang.formats.torch_restore import undisturbed
from dojang.formats.torch_stored import Store
from dojang.formats.torch_trace import DataDependent, Traced, Tracer

__all__ = [
    "Network",
    "apply_state",
    "from_module",
    "load_callable",
    "load_state",
    "paths_of",
    "to_module",
    "weights_of",
]

_HANDLERS = (torch_ops, torch_layers, torch_attention, torch_views, torch_patches)
"""Imported for the handlers that they register."""

Sizes = Sequence[int] | Sequence[Sequence[int]] | Mapping[str, Sequence[int]]


def from_module(module: nn.Module, input_size: Sizes = (3, 224, 224), weights: bool = True) -> Graph:
    """The network that a PyTorch module computes at inference, by following its forward without running it.

    `input_size` is one shape without batch, one per argument of `forward`, or a dictionary of such by name. Node names
    are the paths of modules (`layer1.0.conv1`), function calls take the function's name under their module's path;
    arrays are named as in `module.state_dict()`. With `weights` the Graph holds copies of the module's numbers
    (float32), unless they are on the meta device. The module is left as it is, whatever its forward keeps
    (`torch_restore`).

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

    Ways with fewer decisions come first. Of more than `limit`, as a `while` on values has, the rest stands as `unknown`
    nodes: one Graph for each place where ways were left, with what leads there. So does all that follows where values
    decide by other means, as sizes or indices. Raises `UnsupportedError` where the forward cannot be followed at all.
    """
    _check_module(module)
    sizes = _input_sizes(module, input_size)
    graphs: list[Graph] = []
    waiting: deque[tuple[list[bool], DataDependent | None]] = deque([([], None)])
    while waiting and len(graphs) + len(waiting) <= limit and sum(len(g.nodes) for g in graphs) <= MOST_NODES:
        ahead, _ = waiting.popleft()
        try:
            graphs.append(_trace(module, sizes, False, ahead)[0])
        except DataDependent as error:
            if error.yes_or_no:
                waiting += [([*ahead, False], error), ([*ahead, True], error)]
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
            f"{type(module).__name__}.forward takes {words}, but {count} input size{'s' * (count != 1)} "
            "was given; give one per argument: --input-size '3,32,32;10', in Python input_size=((3, 32, 32), (10,))"
        )
    names = [p.name for p in named[:count]]
    return names + [f"input{i}" for i in range(len(names), count)]


def _trace(module: nn.Module, sizes: list[tuple[int, ...]], weights: bool, ahead: list[bool]) -> tuple[Graph, Tracer]:
    names = _input_names(module, len(sizes))
    t = Tracer(module, sizes)
    t.ahead = ahead
    inputs = [t.input(name, size) for name, size in zip(names, sizes, strict=True)]
    with undisturbed(module) as noted:
        t.before_write = noted.before_write
        return _graph(module, t, _followed(module, t, inputs), weights), t


def _followed(module: nn.Module, t: Tracer, inputs: Sequence[Traced]) -> Any:
    """What the forward gives for stand-ins."""
    try:
        with t.active():
            return module(*inputs)
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
    return _graph(module, t, t.made(name, ()), False)


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
            result = replay(t, program, inputs)
        except DojangError:
            raise
        except Exception as error:
            raise UnsupportedError(f"{first_line(reason)}; {t.place}: {first_line(error)}") from error
        return _graph(module, t, result, weights)


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its kind."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _outputs(result: Any) -> list[torch.Tensor]:
    """The tensors in what forward returned, in order."""
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, Mapping):
        return [o for v in cast(Mapping[Any, Any], result).values() for o in _outputs(v)]
    if isinstance(result, list | tuple):
        return [o for v in cast(Sequence[Any], result) for o in _outputs(v)]
    if is_dataclass(result) and not isinstance(result, type):
        return [o for f in fields(result) for o in _outputs(getattr(result, f.name))]
    return []


def _graph(module: nn.Module, t: Tracer, result: Any, weights: bool) -> Graph:
    """The Graph of what was traced: what the outputs need, and what costs before a decision by values."""
    t.stack[:] = [("", False)]
    t.func = "output"
    outputs = [t.read(o if isinstance(o, Traced) else t.value(o)) for o in _outputs(result)]
    title = type(module).__name__
    if not outputs:
        raise UnsupportedError(f"{title}: its forward returns no tensor")
    weighed = reachable(t.nodes, t.decided)
    live = reachable(t.nodes, outputs + [n.name for n in t.nodes if n.name in weighed and _costs(n)])
    nodes = tuple(n for n in t.nodes if n.name in live or n.op == "input")
    read = {n.array(role) for n in nodes if n.rule.params is not None for role in ROLES}
    added = {a for a in t.trained if a.endswith(".value")}
    idle = [name for name in t.arrays.values() if name in t.trained and name not in read and name not in added]
    meta = {"source": f"PyTorch module {type(module).__module__}.{type(module).__qualname__}"}
    if idle:
        meta["unused"] = ", ".join(idle)
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
    return graph.replace(stored=store.stored, origins=origins, weights=_weights(graph, t) if weights else {})


FREE = frozenset(
    "gt greater ge greater_equal lt less le less_equal eq ne not_equal logical_not logical_and logical_or logical_xor "
    "bitwise_not bitwise_and bitwise_or any all isnan isinf isfinite isclose".split()
)
"""Functions without a node of their own that multiply nothing: a decision by values ends in them."""


def _costs(node: Node) -> bool:
    """Whether a node has parameters or MACs, or may have."""
    return bool(node.rule.params or node.rule.macs) or (node.op == UNKNOWN and node.attrs["kind"] not in FREE)


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


# -- files and names -----------------------------------------------------------------------------------------------


def load_state(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a `.safetensors`, `.pt` or `.pth` file, float32 where they are floating point.

    `.pt` and `.pth` are read with `weights_only=True`: a file that holds code raises `FileError`. `{"state_dict": ...}`
    (also `model`, `model_state_dict`, `net`, `params_ema`, ...) is unwrapped and a `module.` before every name removed.
    """
    file = Path(path)
    if file.suffix == ".safetensors":
        return without_prefix(read_arrays(file))
    budget = Budget(str(file), file_bytes=_checked_bytes(file))
    try:
        with (
            opened(file, "a .pt, .pth or .safetensors file") as stream,
            warnings.catch_warnings(),
            torch.sparse.check_sparse_tensor_invariants(),  # else indices outside a tensor are written to
        ):
            warnings.simplefilter("ignore")  # about unusual pickle protocols
            found = torch.load(stream, map_location="cpu", weights_only=True)
    except (DojangError, MemoryError):
        raise
    except Exception as error:  # unpickling raises whatever the calls in a file meet
        said = str(error)
        code = isinstance(error, pickle.UnpicklingError)
        if code and any(word in said for word in ("weights_only", "Unsupported", "GLOBAL")):
            raise FileError(
                f"{file}: holds Python code besides weights, which is not run; "
                "save only `model.state_dict()`, or a .safetensors file"
            ) from None
        raise FileError(f"{file}: is damaged or no PyTorch file ({cause(error)})") from None
    with damaged_as(str(file), "its tensors cannot be read"):
        return without_prefix(_state(found, file, budget))


def _checked_bytes(file: Path) -> int:
    """The size of a file, whose members (where it is a .zip, as PyTorch writes them) unpack to what a file may."""
    with opened(file, "a .pt, .pth or .safetensors file") as stream:
        size, packed = os.fstat(stream.fileno()).st_size, stream.read(4) == b"PK\x03\x04"
    if packed:
        with zipped(file) as archive:
            Budget(str(file), file_bytes=size).unpack(sum(info.file_size for info in archive.infolist()))
    return size


WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "params_ema", "params", "state_dict_ema", "module")
"""Keys under which training scripts put the state dict."""


def _state(found: Any, file: Path, budget: Budget) -> dict[str, np.ndarray]:
    """The innermost dictionary of tensors."""
    for _ in range(4):
        inner = next(
            (found[k] for k in WRAPPERS if isinstance(found, Mapping) and isinstance(found.get(k), Mapping)), None
        )
        if inner is None:
            break
        found = inner
    tensors = {str(k): v for k, v in found.items() if isinstance(v, torch.Tensor)} if isinstance(found, Mapping) else {}
    if not tensors:
        raise FileError(f"{file}: holds no dictionary of tensors; save `model.state_dict()`")
    for value in tensors.values():
        # strides of 0 and sparse tensors state more values than the file holds
        budget.unpack(value.numel() * max(4, value.element_size()))
    return {k: _numpy(v) for k, v in tensors.items()}


def _numpy(value: torch.Tensor) -> np.ndarray:
    value = value.detach().to("cpu")
    if value.is_sparse or value.is_quantized:
        value = value.dequantize() if value.is_quantized else value.to_dense()
    return (value.float() if value.is_floating_point() else value).contiguous().numpy()


def load_callable(spec: str) -> nn.Module:
    """The module that `package.module:callable` or `path/file.py:callable` returns (or is, when it is a module).

    Runs the user's code. Raises `UsageError` when there is no such name or it returns something else, `FileError` when
    the file is missing or cannot be imported.
    """
    where, colon, name = spec.rpartition(":")
    if not colon or not where or not name:
        raise UsageError(f"{spec}: write package.module:callable or path/file.py:callable")
    found: Any = _import(where)
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise UsageError(f"{spec}: {where} has no {part!r}") from None
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise UsageError(f"{spec}: is a {type(found).__name__}; name a function or class that gives a torch.nn.Module")
    return _called(spec, found)


def _called(spec: str, make: Callable[[], Any]) -> nn.Module:
    try:
        module = make()
    except Exception as error:
        raise UsageError(
            f"{spec}: calling it without arguments failed: {type(error).__name__}: {first_line(error)}"
        ) from error
    if not isinstance(module, nn.Module):
        raise UsageError(f"{spec}: returned {type(module).__name__}, not a torch.nn.Module")
    return module


def _import(where: str) -> Any:
    """A module by its dotted name, or from a file, whose folder is then on the path as when Python runs it."""
    if not where.endswith(".py"):
        with _on_path(Path.cwd()):
            try:
                return importlib.import_module(where)
            except ModuleNotFoundError as error:
                if error.name and where.split(".")[0] == error.name.split(".")[0]:
                    raise UsageError(f"{where}: no such Python module; is it installed?") from None
                raise UsageError(f"{where}: needs {error.name}, which is not installed") from None
            except Exception as error:
                raise FileError(f"{where}: importing it failed: {type(error).__name__}: {first_line(error)}") from error
    file = Path(where)
    if not file.is_file():
        raise FileError(f"{file}: no such file")
    title = f"dojang_user_{file.stem}"
    description = importlib.util.spec_from_file_location(title, file)
    if description is None or description.loader is None:
        raise FileError(f"{file}: is no Python file")
    made = importlib.util.module_from_spec(description)
    sys.modules[title] = made
    with _on_path(file.resolve().parent):
        try:
            description.loader.exec_module(made)
        except Exception as error:
            del sys.modules[title]
            raise FileError(f"{file}: importing it failed: {type(error).__name__}: {first_line(error)}") from error
    return made


@contextlib.contextmanager
def _on_path(folder: Path) -> Any:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))
