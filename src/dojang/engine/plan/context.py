"""What the rules of the plan know and add to: shapes, the machine, where values lie, the steps so far.

Values of two or more axes lie channels last; concatenations and slices of channels are views, not copies, wherever
the kernel that makes a value can write it in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from types import ModuleType
from typing import Any

from dojang.arith.conv import Conv
from dojang.arith.shapes import Shape
from dojang.arith.standard import REAL
from dojang.engine.fuse import Fused, Group
from dojang.engine.kernels.conv import fallback
from dojang.engine.kernels.task import Refusal, Task
from dojang.engine.plan.choose import Choice, choose
from dojang.engine.plan.held import held
from dojang.engine.plan.shortcuts import Shortcut, shortcuts
from dojang.engine.plan.steps import HostStep, KernelStep, Packing, Place
from dojang.engine.weights import Weights
from dojang.engine.whole import exact
from dojang.native.costs import COSTS
from dojang.native.machine import Machine

Chosen = dict[tuple[Task, bool], tuple[ModuleType, float, tuple[tuple[str, str], ...]]]
"""What `choose` said of each task (and whether its code shall serve images of any size), so that it says it again
whatever was measured meanwhile."""


@dataclass(frozen=True)
class AnySize:
    """For a network that takes images of any size: the shapes that algorithms are chosen for, and the values whose
    shapes depend on the size.
    """

    shapes: Mapping[str, Shape | None]
    open: frozenset[str]


@dataclass(frozen=True)
class Request:
    """What a plan is made for: a batch on so many threads of a machine, run by `workers` (None: as many).

    `like` is the batch size that algorithms are chosen for, if not this one. `sizes`: the network takes images of any
    size. `keep` are values that stay visible beside
    the outputs. `tune` chooses by measuring. `eight`: quantised layers are computed in bytes.
    """

    batch: int
    machine: Machine
    threads: int
    workers: int | None = None
    strict: bool = False
    keep: frozenset[str] = frozenset()
    like: int | None = None
    tune: bool = False
    sizes: AnySize | None = None
    eight: bool = False


@dataclass(frozen=True)
class Rules:
    """By operator, the rule that adds a group's steps and says whether it did: `of_values` where all inputs are values
    with a place, `of_constants` where that fails; `of_rows`, asked before both, where values lie in rows. `placed`
    gives a constant a place, and says whether it could; `brought` brings a value from its rows to channels last. `flat`
    are the operators whose rules take values of fewer than two axes, too. `in_bytes` adds the steps of a group in
    bytes, `real` those that make a value of bytes real.
    """

    of_rows: Mapping[str, Rule]
    of_values: Mapping[str, Rule]
    of_constants: Mapping[str, Rule]
    placed: Callable[[PlanContext, str], bool]
    brought: Callable[[PlanContext, str], Place]
    in_bytes: Callable[[PlanContext, Group], None]
    real: Callable[[PlanContext, str], Place]
    flat: frozenset[str] = frozenset()


class Places(dict[str, Place]):
    """Where real values lie, channels last. A value that only lies in rows, or as bytes, is brought here when it is
    first asked for. `eights` has the values that lie as bytes, `planes` inputs that are made bytes as they come,
    channels first.

    `rows` has the values that lie in rows (their last axis fastest), each as kernels know it: the last axis as
    channels, (images, last axis, *axes between).
    """

    def __init__(self, bring: Callable[[str], Place]) -> None:
        """`bring` adds the step that copies."""
        super().__init__()
        self.bring = bring
        self.rows: dict[str, Place] = {}
        self.eights: dict[str, Place] = {}
        self.planes: dict[str, Place] = {}

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self.rows or name in self.eights

    def __missing__(self, name: str) -> Place:
        if name not in self.rows and name not in self.eights:
            raise KeyError(name)
        found = self[name] = self.bring(name)
        return found

    def get(self, name: str, default: Any = None) -> Any:
        """The place of a value, if it has one."""
        return self[name] if name in self else default  # noqa: SIM401  (the same, were it not this method)

    def only_rows(self, name: str) -> bool:
        """Whether a value lies in rows and not channels last."""
        return name in self.rows and not super().__contains__(name)

    def forget(self, name: str) -> None:
        """A value lies nowhere yet."""
        self.pop(name, None)
        self.rows.pop(name, None)

    def all(self, shapes: Mapping[str, Shape | None]) -> dict[str, Place]:
        """Every value once, channels last where it lies so."""
        found = dict(self)
        for name, place in self.rows.items():
            shape = shapes[name]
            if name not in found and shape is not None:
                found[name] = replace(place, shape=shape, in_rows=True)
        return found


class PlanContext:
    """The state of one plan while the rules are applied, group by group."""

    def __init__(self, fused: Fused, request: Request, chosen: Chosen, rules: Rules) -> None:
        """`chosen` is what was chosen before, and is added to."""
        self.rules = rules
        self.fused, self.graph, self.shapes = fused, fused.graph, fused.shapes
        self.threads, self.strict, self.tune = request.threads, request.strict, request.tune
        # Work is cut for the cores that do it.
        self.machine = replace(request.machine, cores=min(request.machine.cores, request.threads))
        like = request.like
        self.chosen, self.chosen_shapes = chosen, self.shapes
        self.sizes = request.sizes
        if request.sizes is not None:
            self.chosen_shapes = request.sizes.shapes
        elif like is not None and like != request.batch:
            self.chosen_shapes = self.graph.shapes(like)
        self.bounds = held(self.graph, self.shapes)
        self.resident_ratio = resident_ratio(self.graph.param_shapes, self.machine)
        self.exact = exact(self.graph)
        self.eight = any(group.eight for group in fused.groups)
        self.shortcuts: Mapping[str, Shortcut] = {} if request.sizes or self.eight else shortcuts(fused)
        self.steps: list[KernelStep | HostStep] = []
        self.buffers: list[int] = []
        self.places = Places(
            lambda name: (self.rules.real if name in self.places.eights else self.rules.brought)(self, name)
        )
        self.reserved: dict[str, Place] = {}  # slices of concatenations
        self.constants: list[str] = []
        self.copied: list[str] = []
        self.made: dict[Any, Any] = {}  # what operators with several outputs computed, by what determines it

    # -- values -----------------------------------------------------------------------------------------------------

    def shape(self, name: str) -> Shape:
        """The shape of a value; known, since unknown operators were refused before."""
        shape = self.shapes[name]
        assert shape is not None
        return shape

    def fresh(self, shape: Shape) -> Place:
        """A place in a buffer of its own."""
        self.buffers.append(4 * prod(shape))
        return Place(len(self.buffers) - 1, 0, shape[1] if len(shape) > 1 else 1, shape)

    def target(self, name: str) -> Place:
        """Where a value shall be written: its slice of a concatenation, or a place of its own."""
        place = self.reserved.get(name) or self.fresh(self.shape(name))
        self.places[name] = place
        return place

    def number(self, name: str) -> float | None:
        """The value of a constant of one number; None for others, and where there are no weights."""
        node = self.graph[name]
        if node.op != "constant" or prod(self.shape(name)) != 1:
            return None
        if any(node.array(role) not in self.graph.weights for role in self.graph.node_params(node)):
            return None
        return float(Weights(self.graph).constant(node).reshape(-1)[0])

    # -- choices ----------------------------------------------------------------------------------------------------

    def chosen_for(self, group: Group, problem: Conv) -> Conv:
        """The problem with as many images as it has in the batch that algorithms are chosen for."""
        shape = self.chosen_shapes.get(group.inputs[0], self.shapes[group.inputs[0]])
        assert shape is not None
        return replace(problem, n=shape[0])

    def any_size(self, group: Group) -> Shape | None:
        """The shape of a group's input that its algorithm is chosen for, where that depends on the image's size."""
        name = group.inputs[0]
        return self.sizes.shapes.get(name) if self.sizes is not None and name in self.sizes.open else None

    def choose(self, task: Task, any_size: bool = False) -> tuple[ModuleType, float, tuple[tuple[str, str], ...]]:
        """As `plan.choose`; the same for the same task as long as the network is compiled."""
        key = (task, any_size)
        found = self.chosen.get(key)
        if found is None:
            found = self.chosen[key] = choose(task, self.machine, self.tune, any_size)
        return found

    # -- steps ------------------------------------------------------------------------------------------------------

    def add(self, step: KernelStep | HostStep) -> None:
        """Adds a step."""
        self.steps.append(step)

    def simple(
        self, group: Group | str, kernel: ModuleType, task: Any, images: int, slots: Mapping[int, Place | str],
        packing: Packing | None = None, export: str | None = None,
    ) -> bool:  # fmt: skip
        """Adds a step of a kernel without alternatives, unless it refuses; whether it was added. `group` is a name for
        steps that only change the layout of a value.
        """
        offer = kernel.offer(task, self.machine)
        if isinstance(offer, Refusal):
            return False
        value, op, members = (group, "layout", ()) if isinstance(group, str) else (
            group.value, group.node.op, group.members)  # fmt: skip
        choice = Choice(value, op, kernel.NAME, members, (), offer.seconds * images / self.threads)
        like = task if self.sizes is not None and hasattr(kernel, "emit_open") else None
        self.add(KernelStep(choice, kernel, task, images, slots, packing, export, like))
        return True

    def group(self, group: Group) -> None:
        """Adds the steps of one group: natively if its operator and its sizes allow, else by its reference function."""
        node = group.node
        if group.eight is not None:
            self.rules.in_bytes(self, group)
            return
        if node.op == "constant":
            self.constants.append(node.name)
            return
        if not self.kernels_can(group):
            self.on_host(group)
            return
        rule = self.rules.of_rows.get(node.op)
        if rule is not None:
            if rule(self, group):
                return
            self.places.forget(group.value)
        shortcut = self.shortcuts.get(group.value)
        read = (*group.inputs, shortcut.source if shortcut else group.residual)
        if len(self.shape(group.value)) >= 2 or node.op in self.rules.flat:
            rule = self.rules.of_values.get(node.op) if all(i is None or i in self.places for i in read) else None
            if rule is not None and rule(self, group):
                return
        self.groups(shortcut.groups if shortcut else ())
        rule = self.rules.of_constants.get(node.op)
        if rule is not None and rule(self, group):
            return
        if not self.with_placed(group):
            self.on_host(group)

    def with_placed(self, group: Group) -> bool:
        """Adds the steps of a group whose constants are brought to places first; whether that was possible."""
        rule, read = (
            self.rules.of_values.get(group.node.op),
            [i for i in (*group.inputs, group.residual) if i is not None],
        )
        missing = [i for i in dict.fromkeys(read) if i not in self.places]
        if rule is None or not missing or len(self.shape(group.value)) < 2:
            return False
        if any(i not in self.constants for i in missing):
            return False
        before, known = len(self.steps), (set(self.places), set(self.places.rows))
        done = all(self.rules.placed(self, i) for i in missing) and rule(self, group)
        for name in missing:
            self.places.pop(name, None)  # others may read it as a constant
        if not done:
            del self.steps[before:]
            for held, names in zip((self.places, self.places.rows), known, strict=True):
                for name in [n for n in held if n not in names]:
                    del held[name]
        return done

    def kernels_can(self, group: Group) -> bool:
        """Whether kernels can hold all values of a group, and these have shapes, empty in the batch only."""
        read = (*group.inputs, *([group.residual] if group.residual else ()), group.value)
        return all((shape := self.shapes[name]) is not None and prod(shape[1:]) and self.numbers(name) for name in read)

    def numbers(self, name: str) -> bool:
        """Whether kernels can hold a value: real numbers of up to 32 bits, or whole ones that float32 holds."""
        return self.graph.is_single(name) or (name in self.bounds and self.graph.types[name] not in REAL)

    def groups(self, groups: Sequence[Group]) -> None:
        """Adds the steps of some groups in order."""
        for group in groups:
            self.group(group)

    def on_host(self, group: Group) -> None:
        """Adds a step by the reference function (and those of the fused nodes)."""
        for name in (*group.inputs, group.residual):
            if name in self.places.eights:
                self.places[name]  # made real
        shape = self.shapes[group.value]
        by_python = shape is None or len(shape) < 2 or not prod(shape[1:]) or not self.numbers(group.value)
        place = None if by_python else self.target(group.value)
        choice = Choice(group.value, group.node.op, fallback.NAME, group.members, (("native", "no kernel"),))
        self.add(HostStep(choice, group, group.inputs, place))


def resident_ratio(shapes: Mapping[str, tuple[int, ...]], machine: Machine) -> float:
    """Bytes of the second cache that packed weights may take, for each byte of weights; 0 if they do not fit there."""
    ratio = COSTS.resident * machine.l2 / max(1, 4 * sum(prod(s) for s in shapes.values()))
    return ratio if ratio > 1 else 0.0


Rule = Callable[[PlanContext, Group], bool]
