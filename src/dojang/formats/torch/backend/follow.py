"""A captured FX graph as a Graph: followed call by call with stand-ins; what has to stay with PyTorch, and why."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from dojang.arith.graph import Graph, reachable
from dojang.arith.ops import UNKNOWN
from dojang.base.errors import UnsupportedError
from dojang.base.showing import first_line
from dojang.formats.torch.backend.captured import Captured, is_number
from dojang.formats.torch.read.trace import Tracer, pick_batch
from dojang.formats.torch.read.traced import Stale, Traced, name_of, plain

RANDOM = frozenset("dropout alpha_dropout feature_dropout feature_alpha_dropout dropout1d dropout2d dropout3d".split())


class Leave(UnsupportedError):
    """A graph or a part of one that stays with PyTorch, and why."""


class Final(Leave):
    """No other way of following the graph would help."""


FAILURES = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError)
"""What the captured code may raise when it is followed with stand-ins."""


def in_place(node: fx.Node) -> bool:
    """Whether a call changes its first argument, or writes into one that it is given."""
    if not node.op.startswith("call_") or node.op == "call_module":
        return False
    if node.kwargs.get("inplace") is True or node.kwargs.get("out") is not None:
        return True
    name = node.target if isinstance(node.target, str) else name_of(node.target)
    if getattr(node.target, "__module__", "") == "torch.nn.functional" and _argument(node, "inplace") is True:
        return True
    module = getattr(node.target, "__module__", "")
    if module == "_operator":
        return (name.startswith("i") and name not in ("index", "invert", "inv", "is_", "is_not")) or name == "setitem"
    return (name.endswith("_") and not name.endswith("__")) or plain(name)[1]


def writes_unseen(node: fx.Node) -> str | None:
    """Whether a call changes buffers beside its result, without a name that says so."""
    if not node.op.startswith("call_") or node.op == "call_module":
        return None
    name = plain(node.target if isinstance(node.target, str) else name_of(node.target))[0]
    word = {"batch_norm": "training", "instance_norm": "use_input_stats"}.get(name)
    if word and _argument(node, "running_mean") is not None and _argument(node, word):
        return f"{node.name} updates running statistics"
    if name in ("embedding", "embedding_bag") and _argument(node, "max_norm") is not None:
        return f"{node.name} changes its weights to hold their norm"
    return None


def _argument(node: fx.Node, name: str) -> Any:
    """The value of an argument by its name, for functions that say their parameters."""
    if name in node.kwargs:
        return node.kwargs[name]
    if isinstance(node.target, str):
        return None
    try:
        words = list(inspect.signature(node.target).parameters)
    except (TypeError, ValueError):
        return None
    at = words.index(name) if name in words else len(node.args)
    return node.args[at] if at < len(node.args) else None


def leaves(node: fx.Node) -> str | None:
    """Why a call stays with PyTorch whatever the handlers say: random numbers, training, another kind of number."""
    name = plain(node.target if isinstance(node.target, str) else name_of(node.target))[0]
    if name in RANDOM or name == "rrelu":
        training = _argument(node, "training")
        if training is None:  # torch.dropout(x, p, train) says no parameters
            training = node.kwargs.get("train", node.args[2] if len(node.args) > 2 and name in RANDOM else False)
        if training:
            return f"{name} in training mode"
    if name == "batch_norm" and (_argument(node, "training") or node.args[5:6] == (True,)):
        return "batch_norm in training mode"
    if why := writes_unseen(node):
        return why
    if name == "scaled_dot_product_attention":
        rate = node.kwargs.get("dropout_p", node.args[4] if len(node.args) > 4 else 0.0)
        if rate:
            return "scaled_dot_product_attention with dropout"
    elif name not in RANDOM and name != "rrelu" and _draws(name):
        return f"{name} draws random numbers"
    for value in tree_leaves(node.meta.get("example_value")):
        if isinstance(value, torch.Tensor) and value.dtype != torch.float32:
            return f"gives {str(value.dtype).removeprefix('torch.')}, only float32 is run"
        if isinstance(value, torch.Tensor) and value.device.type != "cpu":
            return f"is on {value.device.type}, only the CPU is run"
    return None


def _draws(name: str) -> bool:
    """Whether PyTorch says of a function that it draws random numbers."""
    packet = getattr(torch.ops.aten, name, None)
    if packet is None:
        return False
    return any(torch.Tag.nondeterministic_seeded in getattr(packet, o).tags for o in packet.overloads())


_PATH = re.compile(r"^[lL]_(?:self|\w+?)_(?P<path>(?:_?modules_)?.*?)_?(?P<kind>parameters|buffers)_(?P<role>\w+?)_$")


def array_name(held: str) -> str:
    """The name of a weight by that of the placeholder that holds it.

    >>> array_name("L_self_modules_layer1_modules_0_modules_conv_parameters_weight_")
    'layer1.0.conv.weight'
    """
    found = _PATH.match(held)
    if not found:
        return held
    path = found["path"].removeprefix("_").removeprefix("modules_").replace("_modules_", ".").strip("_")
    return f"{path}.{found['role']}" if path else found["role"]


class Follow:
    """One way through a captured graph with stand-ins; `free`: for any batch, else for that of the arguments."""

    def __init__(
        self, part: Captured, args: Sequence[Any], free: bool, left: dict[fx.Node, str | None] | None = None
    ) -> None:
        """Binds the arguments: weights stay real, other tensors become inputs. Raises `Leave` for other kinds."""
        self.part, self.left, self.free = part, dict(left or {}), free
        self.examining = left is not None
        self.names: list[tuple[str, int]] = []
        self.inputs: list[Traced] = []
        real = [s or is_number(a) for a, s in zip(args, part.static, strict=True)]
        data = [a for a, s in zip(args, real, strict=True) if isinstance(a, torch.Tensor) and not s]
        held = [a for a, s in zip(args, part.static, strict=True) if isinstance(a, torch.Tensor) and s]
        for value in data:
            if value.dtype != torch.float32 or value.device.type != "cpu" or value.layout != torch.strided:
                kind = str(value.dtype).removeprefix("torch.")
                raise Final(f"an input is {kind} on {value.device.type}; only float32 on the CPU is run")
            if value.dim() < 1:
                raise Final("an input is a single number, without a batch")
        for value in held:
            if (value.is_floating_point() and value.dtype != torch.float32) or value.is_complex():
                raise Final(f"weights are {str(value.dtype).removeprefix('torch.')}; only float32 is run")
            if value.device.type != "cpu" or value.layout != torch.strided:
                raise Final(f"weights are {value.layout} on {value.device.type}; only plain tensors on the CPU are run")
        batches = {v.shape[0] for v in data}
        if len(batches) != 1:
            raise Final(f"inputs of batch {', '.join(map(str, sorted(batches)))}" if batches else "no input")
        self.actual = batches.pop()
        sizes = [tuple(v.shape[1:]) for v in data]
        if any(0 in s for s in sizes):
            raise Final("an input without elements")
        prime = pick_batch([tuple(v.shape) for v in held] + sizes)
        if not free and self.actual < 1:
            raise Leave("an empty batch that the graph fixes")
        batch = prime if free else self.actual
        self.t = t = Tracer(part.module, sizes, batch)
        t.dtype = torch.float32
        self.values: dict[fx.Node, Any] = {}
        for k, (node, value, static) in enumerate(zip(part.holders, args, part.static, strict=True)):
            if not isinstance(value, torch.Tensor):
                same = k in part.letters and not isinstance(value, bool)
                self.values[node] = batch if same and value == self.actual else value
            elif is_number(value):
                self.values[node] = value
            elif static:
                if id(value) not in t.arrays:
                    name = array_name(str(node.target))
                    t.register(name if name not in t.tensors else str(node.target), value)
                self.values[node] = value
            else:
                traced = t.input(str(node.target).strip("_"), value.shape[1:])
                self.inputs.append(traced)
                self.names.append((traced.node, k))
                self.values[node] = traced

    def run(self) -> list[Any]:
        """The outputs. Calls that cannot be read are noted while examining, else raised."""
        t, module = self.t, self.part.module
        with t.active():
            for node in module.graph.nodes:
                if node.op == "placeholder":
                    continue
                if node.op == "output":
                    return list(tree_leaves(map_arg(node.args[0], self.values.__getitem__)))
                args, kwargs = (map_arg(part, self.values.__getitem__) for part in (node.args, node.kwargs))
                if node.op == "get_attr":
                    value: Any = module
                    for word in str(node.target).split("."):
                        value = getattr(value, word)
                    self.values[node] = value
                    continue
                self.values[node] = self.call(node, args, kwargs)
        return []

    def call(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """One call of the graph."""
        t = self.t
        if node.op == "call_module":
            return t.root.get_submodule(str(node.target))(*args, **kwargs)
        func: Any = getattr(torch.Tensor, node.target, None) if isinstance(node.target, str) else node.target
        if func is None:
            raise Leave(f"{node.name}: no function {node.target}")
        if in_place(node) and args and isinstance(args[0], torch.Tensor) and not isinstance(args[0], Traced):
            raise Final(f"{node.name}: changes a weight or buffer in place")
        before = len(t.nodes)
        try:
            result = t.unknown(func, node.name, args, kwargs) if node in self.left else func(*args, **kwargs)
        except Exception as error:
            if not self.examining or node in self.left or isinstance(error, Stale):
                raise
            self.left[node] = first_line(error)
            del t.nodes[before:]
            result = t.unknown(func, node.name, args, kwargs)
        strange = next((n for n in t.nodes[before:] if n.op == UNKNOWN), None)
        if strange is not None and node not in self.left:
            if not self.examining:
                raise Leave(f"{node.name}: {strange.attrs['kind']} is not known")
            self.left[node] = f"{strange.attrs['kind']} is not known"
        tensors = [v for v in tree_leaves(result) if isinstance(v, torch.Tensor)]
        if self.examining and not tensors and result is not None:
            self.left.setdefault(node, None)  # numbers stay in Python where the graph is cut
        return result

    def graph(self) -> tuple[Graph, list[tuple[str, int]]]:
        """The Graph with its weights, and (input name, place among the arguments) pairs.

        Raises `Leave` where the graph changes its inputs, gives them back, or fixes the batch in free form.
        """
        t = self.t
        outputs = self.run()
        t.stack[:] = [("", False)]
        t.func = "output"
        for traced in self.inputs:
            if traced.memory.version:
                raise Leave(f"{traced.node}: an input is changed in place")
        if any(o is None or not isinstance(o, torch.Tensor) for o in outputs) or not outputs:
            raise Leave("an output is no tensor")
        if any(not isinstance(o, Traced) for o in outputs):
            raise Leave("an output is a weight itself")
        if any(o.memory is i.memory for o in outputs for i in self.inputs):
            raise Leave("an output shares memory with an input")
        own = list({id(o): o for o in outputs}.values())
        if any(a.memory is b.memory and not self.apart(a, b) for a, b in combinations(own, 2)):
            raise Leave("two outputs share memory")
        with torch._C.DisableTorchFunctionSubclass():
            if any(o.dtype != torch.float32 for o in outputs):
                raise Leave("an output is not float32")
        names = tuple(t.read(o) for o in outputs)
        live = reachable(t.nodes, names)
        nodes = tuple(n for n in t.nodes if n.name in live or n.op == "input")
        graph = Graph(nodes, names, "captured")
        self.check(graph)
        weights = {}
        for name in graph.param_shapes:
            value = t.tensors[name].detach().to(torch.float32)
            weights[name] = value.contiguous().numpy().copy()
        return graph.replace(weights=weights), self.names

    def apart(self, a: Traced, b: Traced) -> bool:
        """Whether two views are known to have no place in common: slices of one value, side by side on one axis."""
        made = {n.name: n for n in self.t.nodes}
        one, other = (made[v.node] for v in (a, b))
        one, other = (made[n.inputs[0]] if n.op == "squeeze" else n for n in (one, other))
        if not one.op == other.op == "slice" or one.inputs != other.inputs or one.attrs["axis"] != other.attrs["axis"]:
            return False
        size = self.t.shapes[one.inputs[0]][one.attrs["axis"]]
        places = [range(size)[slice(n.attrs["start"], n.attrs["stop"], n.attrs["step"])] for n in (one, other)]
        return not set(places[0]) & set(places[1])

    def check(self, graph: Graph) -> None:
        """Raises `Leave` unless the Graph's shapes are those of the trace, in free form for any batch."""
        t = self.t
        for batch in (1, 2, 3) if self.free else (self.actual,):
            shapes = graph.shapes(batch)
            for name, shape in shapes.items():
                traced = t.shapes[name]
                if self.free:
                    traced = tuple(s // t.batch * batch if s % t.batch == 0 else s for s in traced)
                if shape != traced:
                    raise Leave(f"{name}: its shape does not follow the batch")
