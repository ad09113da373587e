"""Memory of inference and training, bytes moved, arithmetic intensity, and time on a roofline."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from dojang.arith.cost import BYTES, VIEWS, count
from dojang.arith.graph import Graph, Node
from dojang.arith.layer import Layer
from dojang.arith.symbol import Expr, symbolic
from dojang.base.errors import UsageError
from dojang.base.result import Result

OPTIMISER_ARRAYS = {"none": 0, "sgd": 0, "momentum": 1, "rmsprop": 1, "adam": 2}
"""How many arrays of the size of the parameters each optimiser keeps."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes in memory at the same time, float32. `saved_bytes` is what the forward pass keeps for the backward pass."""

    batch: int
    optimiser: str
    weight_bytes: int
    inference_bytes: int
    saved_bytes: int
    gradient_bytes: int
    optimiser_bytes: int

    @property
    def training_bytes(self) -> int:
        """Weights, gradients, optimiser state and saved tensors. Not counted: gradients of activations (at most twice
        the largest), and scratch memory of the algorithms.
        """
        return self.weight_bytes + self.saved_bytes + self.gradient_bytes + self.optimiser_bytes

    def to_dict(self) -> dict[str, Any]:
        """Every part, and their sum for training."""
        return {**asdict(self), "training_bytes": self.training_bytes}


def memory(graph: Graph, batch: int = 1, optimiser: str = "momentum") -> Memory:
    """The memory of inference and of one training step, by liveness and by PyTorch's rules of what each operator saves.

    A tensor that two operators save counts once; views share memory. Frozen constants and running statistics count as
    weights but have no gradient. Raises `KeyError` for an optimiser that is not in `OPTIMISER_ARRAYS`.
    """
    counted = count(graph, batch)
    trained = BYTES * counted.total.params
    weight_bytes = BYTES * sum(prod(shape) for shape in graph.param_shapes.values())
    state = OPTIMISER_ARRAYS[optimiser] * trained
    return Memory(batch, optimiser, weight_bytes, counted.peak_bytes, saved_bytes(graph, batch), trained, state)


def saved_bytes(graph: Graph, batch: int = 1) -> int:
    """Bytes of activations that a forward pass in training keeps, each tensor once; none for what needs no gradient.

    Not counted: the copies that PyTorch makes to pad one side more than the other, and what it keeps of a deformable
    convolution, or of a resizing for which it has no function.
    """
    shapes = graph.shapes(batch)
    root: dict[str, str] = {}
    needs: set[str] = set()
    kept: set[str] = set()
    more = 0
    for node in graph.nodes:
        held = node.rule.held
        root[node.name] = root[node.inputs[0]] if held.view in ("in training", "always") else node.name
        if node.rule.params and (node.op != "constant" or node.attrs["trained"]):
            needs.add(node.name)
        if any(i in needs for i in node.inputs):
            needs.add(node.name)
        if node.name not in needs:
            continue
        kept |= {root[i] for i in _saved_inputs(node, needs) if graph[root[i]].op != "constant"}
        if held.output:
            kept.add(root[node.name])
        shape = shapes[node.name]
        if shape is not None:
            between = len(node.inputs) - 2 if held.between else 0
            more += held.more(node.attrs, shape) + BYTES * between * prod(shape)
    return more + BYTES * sum(prod(shape) for name in kept if (shape := shapes[name]) is not None)


def _saved_inputs(node: Node, needs: set[str]) -> tuple[str, ...]:
    """The inputs that an operator keeps. A product keeps a factor only if the other factor needs a gradient."""
    if node.rule.held.inputs == "factors":
        return tuple(
            i for i in node.inputs if any(j in needs for j in node.inputs if j != i) or node.inputs.count(i) > 1
        )
    return node.inputs if node.rule.held.inputs == "all" else ()


@dataclass(frozen=True, slots=True)
class MachinePeaks:
    """The peaks of a machine: float32 GFLOP/s (1 MAC = 2 FLOPs) and memory bandwidth in GB/s (10⁹ bytes)."""

    name: str
    gflops: float
    gbytes: float


MACHINES = {
    "a100": MachinePeaks("NVIDIA A100 40 GB, float32 without tensor cores", 19_500, 1_555),
    "h200": MachinePeaks("NVIDIA H200, float32 without tensor cores", 67_000, 4_800),
    "raspberry-pi-5": MachinePeaks("Raspberry Pi 5, 4 Cortex-A76 at 2.4 GHz", 153.6, 17.1),
}
"""From the makers' data sheets; the Raspberry Pi from 2 x 4-wide FMA x 4 cores x 2.4 GHz and LPDDR4X-4267."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """For one layer: the least bytes moved, FLOPs per byte, and the interval of its time on a machine in milliseconds
    (None without a machine). For a layer that could not be counted they are lower bounds.
    """

    name: str
    moved_bytes: int
    intensity: float
    least_ms: float | None
    most_ms: float | None
    unknown: bool = False

    def to_dict(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def traffic(graph: Graph, machine: MachinePeaks | None = None, batch: int = 1) -> tuple[Traffic, ...]:
    """Bytes and intensity of every layer, and its roofline (Williams, Waterman, Patterson 2009) as an interval.

    Lower bound: only the weights come from memory, while arithmetic goes on: max(FLOPs/peak, weight bytes/bandwidth).
    Upper bound for kernels at peak: inputs, weights and output all go through memory, and nothing overlaps:
    FLOPs/peak + bytes/bandwidth. Kernels below peak take longer than that.
    """
    skipped = VIEWS | {"input", "constant"}
    return tuple(_row(layer, machine) for layer in count(graph, batch).layers if layer.op not in skipped)


def _row(layer: Layer, machine: MachinePeaks | None) -> Traffic:
    cost = layer.cost
    moved = cost.in_bytes + cost.weight_bytes + cost.out_bytes
    intensity = 2 * cost.macs / moved if moved else 0.0
    unknown = bool(cost.unknown)
    if machine is None:
        return Traffic(layer.name, moved, intensity, None, None, unknown)
    compute_ms = 2 * cost.macs / machine.gflops / 1e6
    per_ms = machine.gbytes * 1e6
    least = max(compute_ms, cost.weight_bytes / per_ms)
    return Traffic(layer.name, moved, intensity, least, compute_ms + moved / per_ms, unknown)


def total_ms(rows: tuple[Traffic, ...]) -> tuple[float, float]:
    """Least and most time of a whole network: the sums over its layers."""
    return sum(row.least_ms or 0.0 for row in rows), sum(row.most_ms or 0.0 for row in rows)


@dataclass(frozen=True, slots=True)
class MemoryUse(Result):
    """Memory of a network, traffic per layer, and the machine for which times are given, if any.

    `unknown` names what could not be counted; the figures are then lower bounds. If the values of a tensor decide which
    path the network takes, this is the path with the most MACs, and `ways` has all paths, the cheapest first.
    """

    network: str
    memory: Memory
    rows: tuple[Traffic, ...]
    machine: MachinePeaks | None
    unknown: tuple[str, ...] = ()
    ways: tuple[MemoryUse, ...] = ()

    @property
    def status(self) -> str:
        """ "exact"; "lower-bound" if something could not be counted; "range" if values decide between paths."""
        if any(path.unknown for path in (self, *self.ways)):
            return "lower-bound"
        return "range" if self.ways else "exact"

    def to_dict(self) -> dict[str, Any]:
        """The keys `memory` and `traffic`, and with a machine `roofline`; of several paths the least and the most."""
        least, most = total_ms(self.rows)
        machine = asdict(self.machine) if self.machine is not None else None
        spread: dict[str, int] = {}
        for key in ("weight_bytes", "inference_bytes", "training_bytes"):
            sizes = [path.memory.to_dict()[key] for path in self.ways]
            spread |= {f"{key}_min": min(sizes), f"{key}_max": max(sizes)} if sizes else {}
        paths = {"ways": len(self.ways), **spread} if self.ways else {}
        return {
            "memory": {**self.memory.to_dict(), "status": self.status, **paths},
            "traffic": [row.to_dict() for row in self.rows],
            **({"roofline": {"machine": machine, "least_ms": least, "most_ms": most}} if machine else {}),
        }


def memory_use(
    graph: Graph, machine: MachinePeaks | None = None, batch: int = 1, optimiser: str = "momentum"
) -> MemoryUse:
    """Memory and traffic of a network. Raises `UsageError` for symbolic sizes: rooflines need numbers."""
    if symbolic(batch) or any(isinstance(s, Expr) for n in graph.inputs for s in n.attrs["shape"]):
        raise UsageError(
            f"{graph.name}: memory and time need numbers; give the input size and the batch size in numbers"
        )
    unknown = count(graph, batch).total.unknown
    return MemoryUse(graph.name, memory(graph, batch, optimiser), traffic(graph, machine, batch), machine, unknown)
