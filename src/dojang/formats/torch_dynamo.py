"""What `torch.compile` hands to a backend, as Graphs: which parts can be read, how they are run, what is left.

`Split` takes a captured FX graph. At its first call for given sizes it follows the graph with stand-ins; functions
that the handlers do not know, and values that are not float32, stay with PyTorch, and the rest becomes one or several
`Part`s, each a Graph for `run` of the caller's choice. A graph that changes its inputs in place, draws random numbers
or needs gradients is left to PyTorch as a whole. Nothing is left in silence: `Report` names every reason.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner
from torch.fx.passes.operator_support import OperatorSupportBase

from dojang.arith.graph import Graph
from dojang.base.errors import DojangError
from dojang.formats.torch import first_line
from dojang.formats.torch_follow import FAILURES, Final, Follow, Leave, in_place, is_number, is_static, leaves

log = logging.getLogger("dojang")

Run = Callable[[Mapping[str, np.ndarray]], Sequence[np.ndarray]]
Compile = Callable[[Graph], Run]

HEAVY = frozenset(
    "conv conv_transpose dense matmul maxpool avgpool adaptive_avgpool global_avgpool deform_conv dynamic_conv".split()
)
"""A part without any of these is not worth leaving PyTorch for."""

KEPT = 8  # shapes (and states of the weights) for which a part keeps what it compiled

MOST_MADE = 64  # times that one part is compiled anew, for new sizes or weights, before it is left to PyTorch


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one captured graph: how many of its calls run here, and what stayed with PyTorch and why."""

    graph: str
    calls: int
    native_calls: int
    parts: tuple[str, ...]
    left: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def __str__(self) -> str:
        """One line."""
        said = "; ".join(f"{place}: {why}" for place, why in self.left[:4])
        more = f"; and {len(self.left) - 4} more" if len(self.left) > 4 else ""
        kept = f" ({said}{more})" if said else ""
        return f"{self.graph}: {self.native_calls} of {self.calls} calls run by dojang, the rest by PyTorch{kept}"


_REPORTS: deque[Report] = deque(maxlen=256)


def reports(clear: bool = False) -> tuple[Report, ...]:
    """What became of the graphs captured in this process, oldest first (the last 256)."""
    found = tuple(_REPORTS)
    if clear:
        _REPORTS.clear()
    return found


def threads() -> int:
    """How many threads PyTorch uses in an operator."""
    return torch.get_num_threads()


# -- one captured graph ---------------------------------------------------------------------------------------------


class Split:
    """A captured graph, run by parts. Thread-safe; what a call needs is made when its sizes are first seen."""

    def __init__(self, module: fx.GraphModule, compile: Compile, name: str = "graph") -> None:
        """`compile` makes a function from arrays by input name to output arrays out of a Graph with weights."""
        self.module, self.compile, self.name = module, compile, name
        self._run: Callable[..., Any] | None = None
        self._lock = threading.Lock()

    def __call__(self, *args: Any) -> Any:
        """What the graph computes."""
        if self._run is None:
            with self._lock:
                if self._run is None:
                    self._run = self._prepare(args)
        return self._run(*args)

    def _prepare(self, args: Sequence[Any]) -> Callable[..., Any]:
        calls = [n for n in self.module.graph.nodes if n.op.startswith("call_")]
        try:
            if not calls:
                raise Leave("nothing to compute")
            part = Part(self.module, self.compile)
            left = part.examine(args)
            if not left:
                part.prepare(args)
                self._say(len(calls), len(calls), (self.name,), {})
                return part
            return self._parts(args, left, len(calls))
        except DojangError as error:
            self._say(len(calls), 0, (), {self.name: str(error)})
        except Exception as error:  # PyTorch's own passes; what it captured still runs
            self._say(len(calls), 0, (), {self.name: f"{type(error).__name__}: {first_line(error)}"})
        return self.module

    def _parts(self, args: Sequence[Any], left: dict[fx.Node, str | None], calls: int) -> Callable[..., Any]:
        """The graph with what can be read cut out as parts."""
        for node in self.module.graph.nodes:
            if in_place(node):
                first = node.args[0] if node.args else None
                if node in left or not isinstance(first, fx.Node) or len(first.users) > 1:
                    raise Leave(f"{node.name} works in place beside {next(iter(left)).name}, which only PyTorch runs")
        names = {n.name for n in left}
        whole = fx.GraphModule(self.module, _copied(self.module.graph))
        support = _Support(names)
        fused = CapabilityBasedPartitioner(whole, support, allows_single_node_partition=True).partition_and_fuse()
        said = {n.name: why for n, why in left.items() if why}
        parts: dict[str, Part] = {}
        for title, inner in list(fused.named_children()):
            if isinstance(inner, fx.GraphModule) and title.startswith("fused_"):
                parts[title] = Part(inner, self.compile, said)
                fused.add_submodule(f"{title}_run", _Holder(parts[title]))
        for node in fused.graph.nodes:
            if node.op == "call_module" and node.target in parts:
                node.target = f"{node.target}_run"
        fused.recompile()
        fused(*args)  # prepares every part on the values it gets
        native = [p for p in parts.values() if p.native]
        bad = [p for p in parts.values() if not p.native and any(in_place(n) for n in p.module.graph.nodes)]
        if bad:
            raise Leave(f"{bad[0].why}, in a part that works in place")
        count = sum(sum(n.op.startswith("call_") for n in p.module.graph.nodes) for p in native)
        self._say(calls, count, tuple(t for t, p in parts.items() if p.native), said)
        return fused if native else self.module

    def _say(self, calls: int, native: int, parts: tuple[str, ...], left: Mapping[str, str]) -> None:
        report = Report(self.name, calls, native, parts, tuple(left.items()))
        _REPORTS.append(report)
        log.info("%s", report)
        if left:
            warnings.warn(f"torch.compile(backend='dojang'): {report}", stacklevel=2)


class _Holder(nn.Module):
    """A part as a submodule."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part = part

    def forward(self, *args: Any) -> Any:
        """What the part computes."""
        return self.part(*args)


class _Support(OperatorSupportBase):
    """Everything that was not named."""

    def __init__(self, left: set[str]) -> None:
        self.left = left

    def is_node_supported(self, submodules: Mapping[str, nn.Module], node: fx.Node) -> bool:
        """Whether a node can be read."""
        return node.op.startswith("call_") and node.name not in self.left


def _copied(graph: fx.Graph) -> fx.Graph:
    """The graph again, same names."""
    new = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        values[node] = new.node_copy(node, values.__getitem__)
    return new


# -- one part -------------------------------------------------------------------------------------------------------


class Part:
    """A captured graph, or a piece of one, that is run as a Graph."""

    def __init__(self, module: fx.GraphModule, compile: Compile, left: dict[str, str] | None = None) -> None:
        """`left` collects why this part stays with PyTorch after all; without it that is raised."""
        self.module, self.compile, self.left = module, compile, left
        self.holders = [n for n in module.graph.nodes if n.op == "placeholder"]
        self.static = [is_static(n) for n in self.holders]
        self.single = not isinstance(module.graph.output_node().args[0], tuple | list)
        self.why: str | None = None
        self.native = False
        self.count = 0
        self._made: OrderedDict[Any, Any] = OrderedDict()
        self._lock = threading.Lock()

    def examine(self, args: Sequence[Any]) -> dict[fx.Node, str | None]:
        """The calls that cannot be read, with the reason (None: plain numbers, that are left in Python)."""
        left: dict[fx.Node, str | None] = {}
        for node in self.module.graph.nodes:
            if node.op.startswith("call_") and (why := leaves(node)):
                left[node] = why
        if not left:
            try:
                self.read(args)
                return {}
            except Exception as error:
                log.debug("not read as a whole: %s", error)
        follow = Follow(self, args, free=False, left=left)
        follow.run()
        if not any(follow.left.values()):
            self.read(args)  # raises what is wrong with the whole
        return follow.left

    def read(self, args: Sequence[Any]) -> tuple[Graph, list[tuple[str, int]]]:
        """The part as a Graph for any batch, else for that of the arguments."""
        try:
            return Follow(self, args, free=True).graph()
        except (DojangError, *FAILURES) as error:
            if isinstance(error, Final):
                raise
            return Follow(self, args, free=False).graph()

    def __call__(self, *args: Any) -> Any:
        """The part's outputs; by PyTorch where `why` says so."""
        if self.why is not None:
            return self.module(*args)
        try:
            made = self.prepare(args)
        except Leave as error:
            if self.left is None:
                self._warn(str(error))
            else:
                self.left.setdefault(self.holders[0].name if self.holders else "part", str(error))
            self.why = str(error)
            return self.module(*args)
        names, run = made[0], made[1]
        fed = {name: args[k].detach().numpy() for name, k in names}
        outputs = [torch.from_numpy(np.ascontiguousarray(y)) for y in run(fed)]
        return outputs[0] if self.single else tuple(outputs)

    def _warn(self, why: str) -> None:
        warnings.warn(f"torch.compile(backend='dojang'): left to PyTorch from now on: {why}", stacklevel=3)

    def prepare(self, args: Sequence[Any]) -> tuple[list[tuple[str, int]], Run]:
        """What runs arguments of these sizes with these weights: (input names with their places, function)."""
        key = self._key(args)
        found = self._made.get(key)
        if found is None:
            with self._lock:
                found = self._made.get(key)
                if found is None:
                    self.count += 1
                    if self.count > MOST_MADE:
                        raise Leave("sizes or weights change too often to be worth compiling for each")
                    found = self._make(args)
                    self._made[key] = found
                    while len(self._made) > KEPT:
                        self._made.popitem(last=False)
        if isinstance(found, Leave):
            raise found
        return found

    def _key(self, args: Sequence[Any]) -> Any:
        """What a compiled form depends on: sizes, and the weights' identity and state."""
        key: list[Any] = []
        grad = torch.is_grad_enabled()
        for value, static in zip(args, self.static, strict=True):
            if not isinstance(value, torch.Tensor):
                key.append(value)
                continue
            if grad and value.requires_grad:
                raise Leave("needs gradients; call it under torch.no_grad() or torch.inference_mode()")
            if is_number(value):
                key.append(value.item())
            elif static:
                key.append((value.data_ptr(), 0 if value.is_inference() else value._version, value.shape))
            else:
                key.append(value.shape)
        return tuple(key)

    def _make(self, args: Sequence[Any]) -> Any:
        """Follows the graph for any batch, else for this one."""
        try:
            if torch.is_autocast_enabled("cpu"):
                raise Leave("autocast is on, only float32 is run")
            graph, names = self.read(args)
            if self.left is not None and not any(n.op in HEAVY for n in graph.nodes):
                raise Leave("too little to be worth it")
            run = self.compile(graph)
            # Weights are held, so that what has their addresses later is still they.
            made = (names, run, [v for v, s in zip(args, self.static, strict=True) if s])
            self.native = True
            return made
        except Leave as error:
            return error
        except (DojangError, *FAILURES) as error:
            return Leave(first_line(error))


__all__ = ["Compile", "Leave", "Part", "Report", "Run", "Split", "reports", "threads"]
