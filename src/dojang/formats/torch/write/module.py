"""A Graph as a trainable `nn.Module`: PyTorch's own layers where they mean the same, wired as the Graph is.

`state_dict()` of the module has exactly the Graph's array names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dojang.arith.graph import Graph, Node
from dojang.arith.ops import OPS, STANDARD
from dojang.arith.table import Table
from dojang.base.errors import GraphError, UnsupportedError
from dojang.formats.checkpoint import apply_state
from dojang.formats.torch.write import standard
from dojang.formats.torch.write.compute import COMPUTE, even


class NodeModule(nn.Module):
    """One node that PyTorch has no layer for, or whose arrays belong to another. `where`: which module holds each."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.node = node
        self.where: dict[str, tuple[nn.Module, str]] = {}

    def forward(self, *inputs: Tensor) -> Tensor:
        """The node's output."""
        arrays = {role: getattr(holder, name) for role, (holder, name) in self.where.items()}
        return COMPUTE.of(self.node)(self, self.node.attrs, inputs, arrays)

    def extra_repr(self) -> str:
        """The operator and its attributes."""
        attrs = ", ".join(f"{k}={v}" for k, v in self.node.attrs.items() if v is not None)
        return f"{self.node.op}, {attrs}" if attrs else self.node.op


class Network(nn.Module):
    """A Graph that PyTorch runs and trains. Submodules stand at the nodes' names; weights are kept by array name.

    `forward` takes one tensor per input node and returns a tensor, or a tuple when the Graph has several outputs.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        refuse_unknown(graph)
        self.graph = graph.replace(weights={})
        self.steps: list[tuple[str, tuple[str, ...], nn.Module, str]] = []
        self.gone = last_readers(graph)
        built = _Builder(graph, self)
        for node in graph.nodes:
            if node.op != "input":
                holder, key = built.place(node)
                self.steps.append((node.name, node.inputs, holder, key))
        built.arrays()

    def forward(self, *inputs: Tensor) -> Any:
        """The outputs for a batch."""
        names = [node.name for node in self.graph.inputs]
        if len(inputs) != len(names):
            raise GraphError(f"{self.graph.name} takes {len(names)} inputs ({', '.join(names)}), got {len(inputs)}")
        values: dict[str, Tensor] = dict(zip(names, inputs, strict=True))
        for name, sources, holder, key in self.steps:
            layer = holder._modules[key]
            assert layer is not None
            values[name] = layer(*[values[s] for s in sources])
            for old in self.gone.get(name, ()):
                del values[old]
        outputs = tuple(values[o] for o in self.graph.outputs)
        return outputs[0] if len(outputs) == 1 else outputs


def to_module(graph: Graph) -> Network:
    """A trainable module with the Graph's weights, or PyTorch's usual initial ones where the Graph has none.

    Batch norms use momentum 0.1 and keep no count of batches. Raises `UnsupportedError` for unknown operators and for
    ranks that PyTorch does not have, `GraphError` for weights that do not fit.
    """
    return Network(graph)


def weights_of(module: nn.Module, graph: Graph) -> Graph:
    """The Graph with the module's weights as they are now (copies, float32)."""
    state = {k: v.detach().to("cpu", torch.float32).numpy().copy() for k, v in module.state_dict().items()}
    return apply_state(graph, state, strict=False)


def refuse_unknown(graph: Graph) -> None:
    """Raises for operators that have no meaning here."""
    for node in graph.nodes:
        if node.op == STANDARD:
            try:
                standard.function_of(node.attrs)
            except UnsupportedError as error:
                raise UnsupportedError(f"{node.name}: {error}") from None
        elif node.op != "input":
            COMPUTE.of(node)


def last_readers(graph: Graph) -> dict[str, tuple[str, ...]]:
    """For each node the values that nobody reads after it."""
    last: dict[str, str] = {}
    for node in graph.nodes:
        for source in node.inputs:
            last[source] = node.name
    gone: dict[str, list[str]] = {}
    for source, reader in last.items():
        if source not in graph.outputs:
            gone.setdefault(reader, []).append(source)
    return {reader: tuple(sources) for reader, sources in gone.items()}


class _Builder:
    """Puts layers at the paths of their nodes and arrays at theirs."""

    def __init__(self, graph: Graph, root: Network) -> None:
        self.graph = graph
        self.root = root
        self.layers: dict[str, nn.Module] = {}
        self.owners = {f"{n.name}.{role}": n.name for n in graph.nodes for role in graph.node_params(n)}
        # layers whose path holds arrays that are not theirs: PyTorch's own layer might take such an array for its own
        self.crowded = {name.rpartition(".")[0] for name in graph.param_shapes if name not in self.owners}

    def holder(self, path: str) -> nn.Module:
        """The module at a path, made when it is not there."""
        module: nn.Module = self.root
        for key in path.split(".") if path else ():
            inner = module._modules.get(key)
            if inner is None:
                inner = module._modules[key] = nn.Module()
            module = inner
        return module

    def place(self, node: Node) -> tuple[nn.Module, str]:
        """Makes the node's layer; returns where it stands."""
        own = all(node.array(role) == f"{node.name}.{role}" for role in self.graph.node_params(node))
        own = own and node.name not in self.crowded
        shape = self.graph.unit_shapes[node.inputs[0]] if node.inputs else None
        layer = native(node, len(shape) if shape else 0, shape) if own else None
        layer = layer if layer is not None else NodeModule(node)
        if node.op == "constant" and node.attrs["fill"] is not None:
            filled = torch.full(node.attrs["shape"], node.attrs["fill"])
            layer.register_buffer("filled", filled, persistent=False)
        path, _, key = node.name.rpartition(".")
        if "training" in node.name.split("."):
            raise UnsupportedError(
                f"{node.name}: PyTorch's modules use the name 'training' themselves; rename the layer"
            )
        # an array may have the very name of a node (a parameter that is read directly)
        key = f"{key}_" if node.name in self.graph.param_shapes else key
        parent = self.holder(path)
        before = parent._modules.get(key)
        if before is not None:
            layer._modules.update(before._modules)
        parent._modules[key] = layer
        self.layers[node.name] = layer
        return parent, key

    def arrays(self) -> None:
        """Makes or fills every array, and tells the layers where theirs are."""
        placed: dict[str, tuple[nn.Module, str]] = {}
        for node in self.graph.nodes:
            layer = self.layers.get(node.name)
            for role, shape in self.graph.node_params(node).items():
                array = node.array(role)
                if array not in placed:
                    placed[array] = self._make(node, role, array, shape)
                if isinstance(layer, NodeModule):
                    layer.where[role] = placed[array]

    def _make(self, node: Node, role: str, array: str, shape: tuple[int, ...]) -> tuple[nn.Module, str]:
        """One array: a parameter, or a buffer where the operator says so."""
        owner = self.layers.get(self.owners.get(array, ""))
        path, _, key = array.rpartition(".")
        holder, key = (
            (owner, array.removeprefix(f"{self.owners[array]}.")) if owner is not None else (self.holder(path), key)
        )
        held = holder._parameters.get(key)
        held = held if held is not None else holder._buffers.get(key)
        value = self._value(node, role, array, shape)
        if held is None:
            fixed = role in node.rule.buffers or (node.op == "constant" and not node.attrs["trained"])
            start = value if value is not None else INITIAL.of(node)(node, role, shape)
            if fixed:
                holder._buffers[key] = start
            else:
                holder._parameters[key] = nn.Parameter(start)
        elif value is not None:
            with torch.no_grad():
                held.copy_(value)
        return holder, key

    def _value(self, node: Node, role: str, array: str, shape: tuple[int, ...]) -> Tensor | None:
        if array not in self.graph.weights:
            if self.graph.weights or (node.op == "constant" and not node.attrs["trained"]):
                raise GraphError(f"{self.graph.name}: no weights for {array}; give a checkpoint that has it")
            return None
        value = torch.from_numpy(np.array(self.graph.weights[array], np.float32, copy=True))
        if tuple(value.shape) != shape:
            raise GraphError(f"{array}: the weights are {tuple(value.shape)}, the layer needs {shape}")
        return value


def _uniform(node: Node, role: str, shape: tuple[int, ...]) -> Tensor:
    """Uniform within 1/√fan-in."""
    fan = max(1, torch.Size(shape[1:]).numel()) if role == "weight" else max(1, shape[0])
    return torch.empty(shape).uniform_(-1 / sqrt(fan), 1 / sqrt(fan))


def _neutral(node: Node, role: str, shape: tuple[int, ...]) -> Tensor:
    """What changes nothing: ones and zeros."""
    return torch.ones(shape) if role in ("weight", "running_var") else torch.zeros(shape)


INITIAL: Table[Callable[[Node, str, tuple[int, ...]], Tensor]] = Table(
    "first weights",
    "given first weights",
    __name__,
    {
        **dict.fromkeys(("conv", "conv_transpose", "deform_conv", "dense"), _uniform),
        "dynamic_conv": _neutral,
        "recurrent": lambda node, role, shape: torch.empty(shape).uniform_(-1, 1).div_(sqrt(node.attrs["hidden"])),
        **dict.fromkeys(("batchnorm", "instancenorm", "groupnorm", "layernorm"), _neutral),
        "prelu": lambda node, role, shape: torch.full(shape, 0.25),
        "constant": lambda node, role, shape: torch.empty(shape).normal_(0, 0.02),
    },
    {op: "it has no arrays" for op, rule in OPS.items() if not rule.params},
)
"""First values of an operator's arrays, as PyTorch's layers have them, by role and shape."""


SIMPLE: Mapping[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "silu": nn.SiLU,
    "hard_swish": nn.Hardswish,
    "mish": nn.Mish,
    "selu": nn.SELU,
}


def native(node: Node, rank: int, shape: tuple[int, ...] | None) -> nn.Module | None:
    """PyTorch's own layer for a node, or None when none means exactly the same. `rank` counts all axes of its input."""
    a, op = node.attrs, node.op
    if op in SIMPLE:
        return SIMPLE[op]()
    if op in ("conv", "conv_transpose", "maxpool", "avgpool") and shape is not None:
        return _windowed(node, shape[1])
    if op == "dense" and shape is not None:
        return nn.Linear(shape[-1], a["out"], bias=a["bias"])
    if op == "batchnorm" and shape is not None and 2 <= rank <= 5:
        norm = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[rank - 2](
            shape[1], eps=a["eps"], affine=a["affine"]
        )
        norm.num_batches_tracked = None  # so that the state dict has the Graph's arrays only
        return norm
    if op in ("groupnorm", "layernorm") and shape is not None:
        if op == "groupnorm":
            return nn.GroupNorm(a["groups"], shape[1], eps=a["eps"], affine=a["affine"])
        return nn.LayerNorm(a["shape"], eps=a["eps"], elementwise_affine=a["affine"])
    if op == "lrn" and rank > 2:
        return nn.LocalResponseNorm(a["size"], a["alpha"], a["beta"], a["k"])
    match op:
        case "adaptive_avgpool" if len(a["out"]) <= 3 and set(a["out"]) != {1}:
            return (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[len(a["out"]) - 1](a["out"])
        case "adaptive_maxpool" if len(a["out"]) <= 3 and set(a["out"]) != {1}:
            return (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)[len(a["out"]) - 1](a["out"])
        case "global_avgpool" if 3 <= rank <= 5:
            return (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[rank - 3](1)
        case "gelu":
            return nn.GELU(approximate=a["approximate"])
        case "leaky_relu":
            return nn.LeakyReLU(a["slope"])
        case "elu":
            return nn.ELU(a["alpha"])
        case "prelu":
            return nn.PReLU(a["num"])
        case "clip" if (a["min"], a["max"]) == (0.0, 6.0):
            return nn.ReLU6()
        case "dropout":
            return nn.Dropout(a["p"])
        case "softmax":
            return nn.Softmax(a["axis"])
        case "log_softmax":
            return nn.LogSoftmax(a["axis"])
        case "flatten" if a["axis"] > 0 and a["axis"] < rank:
            return nn.Flatten(a["axis"])
        case _:
            return None


def _windowed(node: Node, ic: int) -> nn.Module | None:
    """Convolutions and pools whose padding PyTorch's layers can say."""
    a = node.attrs
    rank = len(a["kernel"])
    if rank > 3:
        raise UnsupportedError(f"{node.name}: PyTorch has no {rank}-d {node.op}; 1 to 3 dimensions work")
    if not even(a["padding"]):
        return None
    pads = tuple(p for p, _ in a["padding"])
    if node.op == "maxpool":
        if any(2 * p > k for p, k in zip(pads, a["kernel"], strict=True)):
            return None
        pool = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[rank - 1]
        return pool(a["kernel"], a["stride"], pads, a["dilation"], ceil_mode=a["ceil"])
    if node.op == "avgpool":
        if any(2 * p > k for p, k in zip(pads, a["kernel"], strict=True)):
            return None
        pool = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[rank - 1]
        return pool(a["kernel"], a["stride"], pads, a["ceil"], a["count_padding"])
    shared: dict[str, Any] = {"stride": a["stride"], "padding": pads, "dilation": a["dilation"], "groups": a["groups"]}
    if node.op == "conv_transpose":
        up = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[rank - 1]
        return up(ic, a["out"], a["kernel"], bias=a["bias"], output_padding=a["output_padding"], **shared)
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    return conv(ic, a["out"], a["kernel"], bias=a["bias"], **shared)
