"""What `torch.compile` hands to a backend, as Graphs: which parts can be read, how they are run, what is left.

`SplitGraph` takes a captured FX graph. At its first call for given sizes it follows the graph with stand-ins. Functions
that the handlers do not know, and values that are not float32, stay with PyTorch; the rest becomes one or several
`CapturedPart`s, each a Graph that the caller's `run` computes. A graph that changes its inputs in place, draws random
numbers or needs gradients is left to PyTorch as a whole. Nothing is left in silence: `Report` names every reason.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner
from torch.fx.passes.operator_support import OperatorSupportBase

from dojang.arith.graph import Graph
from dojang.base.errors import DataError, DojangError, UnsupportedError
from dojang.base.showing import first_line
from dojang.formats.torch.backend.captured import Captured, is_number
from dojang.formats.torch.backend.follow import (
    FAILURES,
    Final,
    Follow,
    Leave,
    in_place,
    leaves,
    writes_unseen,
)
from dojang.formats.torch.backend.weights import CapturedWeights, State, Watch

log = logging.getLogger("dojang")

Run = Callable[[Mapping[str, np.ndarray]], Sequence[np.ndarray]]
Compile = Callable[[Graph], Run]
AnySize = Callable[[Callable[[tuple[int, ...]], Graph], Sequence[int | str]], tuple[Graph, int] | None]
"""Gives a graph for any sizes in place of names, and what they must be multiples of, from one that takes numbers."""

HEAVY = frozenset(
    "conv conv_transpose dense matmul maxpool avgpool adaptive_avgpool global_avgpool deform_conv dynamic_conv "
    "recurrent".split()
)
"""A part without any of these is not worth leaving PyTorch for."""

KEPT = 8  # sizes for which a part keeps what it compiled
KEPT_STATES = 2  # states of the weights, of these for each size: the trained ones and their average, say
MOST_SIZES = 64  # sizes for which one part is compiled, before it is left to PyTorch
BY_PYTORCH = object()  # in place of a compiled form: these weights cannot be run here, others may
HASTY = 4  # states of the weights that are compiled at once; later ones when they are seen for the second time


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


class SplitGraph:
    """A captured graph, run by parts. Thread-safe; what a call needs is made when its sizes are first seen."""

    def __init__(
        self, module: fx.GraphModule, compile: Compile, watch: Watch, name: str = "graph", frozen: bool = False,
        any_size: AnySize | None = None,
    ) -> None:  # fmt: skip
        """`compile` makes a function from arrays by input name to output arrays out of a Graph with weights; `watch`
        tells whether memory has changed, which with `frozen` the caller promises for weights. `any_size` reads a graph
        with symbols for the sizes of its image.
        """
        self.module, self.name = module, name
        self.make = partial(CapturedPart, compile=compile, watch=watch, frozen=frozen, any_size=any_size)
        self._run: Callable[..., Any] | None = None
        self._lock = threading.Lock()

    def __call__(self, *args: Any) -> Any:
        """What the graph computes."""
        run = self._run
        if run is None:
            with self._lock:
                run = self._run
                if run is None:
                    self._run, first = self._prepare(args)
                    if first is not None:
                        return first[0]
                    run = self._run
        return run(*args)

    def _prepare(self, args: Sequence[Any]) -> tuple[Callable[..., Any], tuple[Any] | None]:
        """What runs the graph, and what it gave for these arguments where it has been run for that."""
        calls = [n for n in self.module.graph.nodes if n.op.startswith("call_")]
        drawn = torch.get_rng_state()
        try:
            if not calls:
                raise Leave("nothing to compute")
            part = self.make(self.module)
            left = part.examine(args)
            if not left:
                part.prepare(args)
                self._say(len(calls), len(calls), (self.name,), {})
                return part, None
            return self._parts(args, left, len(calls))
        except DojangError as error:
            self._say(len(calls), 0, (), {self.name: str(error)})
        except Exception as error:  # PyTorch's own passes; what it captured still runs
            self._say(len(calls), 0, (), {self.name: f"{type(error).__name__}: {first_line(error)}"})
        torch.set_rng_state(drawn)  # the numbers that a preparing run drew are drawn again
        return self.module, None

    def _parts(self, args: Sequence[Any], left: dict[fx.Node, str | None], calls: int) -> Any:
        """The graph with what can be read cut out as parts, and its first result."""
        for node in self.module.graph.nodes:
            if why := writes_unseen(node):
                raise Leave(why)
            if in_place(node):
                first = node.args[0] if node.args else None
                if node in left or not isinstance(first, fx.Node) or len(first.users) > 1:
                    raise Leave(f"{node.name} works in place beside {next(iter(left)).name}, which only PyTorch runs")
        names = {n.name for n in left}
        whole = fx.GraphModule(self.module, _copied(self.module.graph))
        support = _Support(names)
        fused = CapabilityBasedPartitioner(whole, support, allows_single_node_partition=True).partition_and_fuse()
        said = {n.name: why for n, why in left.items() if why}
        parts: dict[str, CapturedPart] = {}
        for title, inner in list(fused.named_children()):
            if isinstance(inner, fx.GraphModule) and title.startswith("fused_"):
                parts[title] = self.make(inner, left=said)
                fused.add_submodule(f"{title}_run", _Holder(parts[title]))
        for node in fused.graph.nodes:
            if node.op == "call_module" and node.target in parts:
                node.target = f"{node.target}_run"
        fused.recompile()
        first = fused(*args)  # prepares every part on the values it gets
        native = [p for p in parts.values() if p.native]
        bad = [p for p in parts.values() if not p.native and any(in_place(n) for n in p.module.graph.nodes)]
        if bad:
            raise Leave(f"{bad[0].why}, in a part that works in place")
        count = sum(sum(n.op.startswith("call_") for n in p.module.graph.nodes) for p in native)
        self._say(calls, count, tuple(t for t, p in parts.items() if p.native), said)
        return (fused if native else self.module), (first,)

    def _say(self, calls: int, native: int, parts: tuple[str, ...], left: Mapping[str, str]) -> None:
        report = Report(self.name, calls, native, parts, tuple(left.items()))
        _REPORTS.append(report)
        log.info("%s", report)
        if left:
            warnings.warn(f"torch.compile(backend='dojang'): {report}", stacklevel=2)


class _Holder(nn.Module):
    """A part as a submodule."""

    def __init__(self, part: CapturedPart) -> None:
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


class CapturedPart:
    """A captured graph, or a piece of one, that is run as a Graph."""

    def __init__(
        self,
        module: fx.GraphModule,
        compile: Compile,
        watch: Watch,
        frozen: bool = False,
        left: dict[str, str] | None = None,
        any_size: AnySize | None = None,
    ) -> None:
        """`left` collects why this part stays with PyTorch after all; without it that is raised.

        `any_size`: tried where PyTorch captured sizes as symbols, and a second size is seen.
        """
        self.module, self.compile, self.left = module, compile, left
        self.captured = Captured.of(module)
        self.weights = CapturedWeights(module, self.captured.static, watch, frozen)
        self.single = not isinstance(module.graph.output_node().args[0], tuple | list)
        self.why: str | None = None
        self.native = False
        self._sizes: set[Any] = set()
        self._open: set[Any] = set()  # sizes, without the batch, of forms that do for any batch
        self._made: OrderedDict[tuple[Any, State], Any] = OrderedDict()
        self._states = 0
        self._waiting: Any = None
        self._lock = threading.Lock()
        self._any_size = any_size
        self._input = self.captured.open_input if any_size else None
        self._times: int | None = None  # what sizes must be multiples of, for the form that does for any

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
        follow = Follow(self.captured, args, free=False, left=left)
        follow.run()
        if not any(follow.left.values()):
            self.read(args)  # raises what is wrong with the whole
        return follow.left

    def read(self, args: Sequence[Any]) -> tuple[Graph, list[tuple[str, int]], bool]:
        """The part as a Graph for any batch, else for that of the arguments; and which of the two it is."""
        try:
            return (*Follow(self.captured, args, free=True).graph(), True)
        except (DojangError, *FAILURES) as error:
            if isinstance(error, Final):
                raise
            return (*Follow(self.captured, args, free=False).graph(), False)

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
                self.left.setdefault(self.captured.holders[0].name if self.captured.holders else "part", str(error))
            self.why = str(error)
            return self.module(*args)
        if made is None:
            return self.module(*args)
        names, run = made[0], made[1]
        outputs = [
            torch.from_numpy(np.asarray(y, order="C")) for y in run({name: _array(args[k]) for name, k in names})
        ]
        return outputs[0] if self.single else tuple(outputs)

    def _warn(self, why: str) -> None:
        warnings.warn(f"torch.compile(backend='dojang'): left to PyTorch from now on: {why}", stacklevel=3)

    def prepare(self, args: Sequence[Any]) -> tuple[list[tuple[str, int]], Run] | None:
        """What runs arguments of these sizes with the weights as they are: (input names with their places, function).

        None where this call is PyTorch's: the weights have changed often, and are not known to stay as they are; or
        derivatives are computed forward.
        """
        if getattr(torch.autograd.forward_ad, "_current_level", -1) >= 0:
            return None  # derivatives go forward with the values
        sizes, state = self._sizes_of(args), self._state(args)
        found = self._made.get((self._key(sizes), state))
        if found is None:
            with self._lock:
                key = self._key(sizes)  # which another thread may have opened meanwhile
                found = self._made.get((key, state))
                if found is None:
                    if self._passing(key, state):
                        return None
                    found = self._make(args, sizes)
                    if self._state(args) != state:
                        return None  # somebody writes weights at this moment; nobody knows which ones were packed
                    self._keep(self._key(sizes), state, found)
        if isinstance(found, Leave):
            raise found
        return None if found is BY_PYTORCH else found

    def _passing(self, key: Any, state: State) -> bool:
        """Whether the weights are in a state that may be gone at the next call. Raises `Leave` for too many sizes."""
        if key not in self._sizes:
            if len(self._sizes) >= MOST_SIZES:
                raise Leave("sizes change too often to be worth compiling for each")
            return False
        if any(held == state for _, held in self._made) or self._waiting == state:
            return False
        self._states += 1
        self._waiting = state
        return self._states > HASTY

    def _keep(self, key: Any, state: State, made: Any) -> None:
        """Keeps what was compiled, in place of what was compiled first where that is too much."""
        self._sizes.add(key)
        older = [k for k in self._made if k[0] == key]
        for k in older[: max(0, len(older) - KEPT_STATES + 1)]:
            del self._made[k]
        self._made[key, state] = made
        while len({sizes for sizes, _ in self._made}) > KEPT:
            self._made.popitem(last=False)

    def _state(self, args: Sequence[Any]) -> State:
        try:
            return self.weights.state(args)
        except UnsupportedError as error:
            raise Leave(str(error)) from None

    def _sizes_of(self, args: Sequence[Any]) -> tuple[Any, Any]:
        """What a compiled form depends on besides the weights: all else, and the batch (a tuple where sizes differ)."""
        sizes: list[Any] = [torch.is_autocast_enabled("cpu")]
        batches: list[int] = []
        grad = torch.is_grad_enabled()
        for value, static in zip(args, self.captured.static, strict=True):
            if not isinstance(value, torch.Tensor):
                sizes.append((type(value), value))
                continue
            if grad and value.requires_grad:
                raise Leave("needs gradients; call it under torch.no_grad() or torch.inference_mode()")
            if static:
                sizes.append(None)
            elif is_number(value):
                sizes.append(value.item())
            else:
                batches += value.shape[:1]
                sizes.append((value.shape[1:], value.dim(), value.dtype))
        if not batches or batches.count(batches[0]) < len(batches):
            return tuple(sizes), tuple(batches)
        batch = (int, batches[0])
        return tuple(
            "batch" if s == batch and k in self.captured.letters else s for k, s in enumerate(sizes, -1)
        ), batches[0]

    def _key(self, sizes: tuple[Any, Any]) -> Any:
        """The sizes, without the batch where a form does for any, without those of the image likewise."""
        if self._times is not None and (form := self._form(sizes)) is not None:
            return form
        return sizes[0] if sizes[0] in self._open and isinstance(sizes[1], int) else sizes

    def _form(self, sizes: tuple[Any, Any]) -> Any:
        """The sizes without those of the image; None where these do not divide."""
        assert self._input is not None
        place, names = self._input
        rest = list(sizes[0])
        shape = rest[place + 1][0]
        if any(isinstance(n, str) and s % (self._times or 1) for n, s in zip(names, shape, strict=True)):
            return None
        rest[place + 1] = ("any size", len(names))
        for k in self.captured.numbers:
            rest[k + 1] = "size"
        return tuple(rest)

    def _for_any_size(self, args: Sequence[Any]) -> tuple[Graph, list[tuple[str, int]]] | None:
        """The part for images of any size, where it can be read for several."""
        assert self._input is not None
        assert self._any_size is not None
        place, names = self._input
        found: list[list[tuple[str, int]]] = []

        def make(size: tuple[int, ...]) -> Graph:
            given = list(args)
            given[place] = torch.empty((args[place].shape[0], *size))
            values = {n: s for n, s in zip(names, size, strict=True) if isinstance(n, str)}
            for k, name in self.captured.numbers.items():
                given[k] = values.get(name, given[k])
            graph, fed = Follow(self.captured, given, free=True).graph()
            found.append(fed)
            return graph

        made = self._any_size(make, names)
        if made is None:
            return None
        self._times = made[1]
        return made[0], found[0]

    def _make(self, args: Sequence[Any], sizes: tuple[Any, Any]) -> Any:
        """Follows the graph for any batch, else for this one."""
        try:
            if torch.is_autocast_enabled("cpu"):
                raise Leave("autocast is on, only float32 is run")
            graph, names, free = self.read(args)
            if free and self._input is not None and self._sizes:  # not the first size
                opened = self._for_any_size(args)
                if opened is None:
                    self._input = self._times = None
                elif self._form(sizes) is not None:
                    graph, names = opened
            if self.left is not None and not any(n.op in HEAVY for n in graph.nodes):
                raise Leave("too little to be worth it")
            run = self.compile(graph)
            if free:
                self._open.add(sizes[0])
            # Where weights are known by their addresses, they are held: what has an address later is still they.
            made = (names, run, self.weights.tensors(args) if self.weights.frozen else ())
            self.native = True
            return made
        except Leave as error:
            return error
        except DataError:  # weights of this moment, such as those of a training that has diverged
            return BY_PYTORCH
        except (DojangError, *FAILURES) as error:
            return Leave(first_line(error))


def _array(value: torch.Tensor) -> np.ndarray:
    """A tensor's numbers, without a copy where they lie in memory as they are."""
    return value.detach().resolve_neg().numpy()


__all__ = ["CapturedPart", "Compile", "Leave", "Report", "Run", "SplitGraph", "Watch", "reports", "threads"]
