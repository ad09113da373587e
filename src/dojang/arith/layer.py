"""One row of a cost table: what a layer is and costs; the sum of several; what could not be counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from dojang.arith.border import Border
from dojang.arith.field import Field
from dojang.arith.geometry import Geometry
from dojang.arith.ops import UNKNOWN
from dojang.arith.shapes import Shape
from dojang.arith.sight import Sight
from dojang.arith.symbol import Expr, symbolic


@dataclass(frozen=True, slots=True)
class Cost:
    """What a node or a whole network costs; costs can be added. `unknown` names operators that could not be counted."""

    weights: int = 0
    biases: int = 0
    macs: int = 0
    in_bytes: int = 0
    weight_bytes: int = 0
    out_bytes: int = 0
    unknown: tuple[str, ...] = ()

    @property
    def params(self) -> int:
        """weights + biases."""
        return self.weights + self.biases

    @property
    def status(self) -> str:
        """ "exact", or "lower-bound" when something could not be counted."""
        return "lower-bound" if self.unknown else "exact"

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.weights + other.weights,
            self.biases + other.biases,
            self.macs + other.macs,
            self.in_bytes + other.in_bytes,
            self.weight_bytes + other.weight_bytes,
            self.out_bytes + other.out_bytes,
            self.unknown + other.unknown,
        )


@dataclass(frozen=True, slots=True)
class Layer:
    """One row of the cost table.

    `shape` includes the batch, `out_shape` and `in_shapes` do not; a shape is None if it is not known. `shared` names
    the stored arrays that an earlier row has counted; `buffers` is how many numbers the layer stores that are not
    parameters. `geometry` is its window, None without one. `arrays` are the shapes of the arrays that it reads, by
    role, and `dtypes` the types in which the source stores them (none if it does not say). `trainable` is how many of
    the parameters counted here are not frozen; None if the source does not say. `scope` is the path of its module.

    Receptive fields are computed when they are first read; equal rows have equal ones.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    shape: Shape | None
    cost: Cost
    sight: Sight = dataclasses.field(repr=False, compare=False)
    shared: tuple[str, ...] = ()
    buffers: int = 0
    in_shapes: tuple[Shape | None, ...] = ()
    geometry: Geometry | None = None
    arrays: Mapping[str, Shape] = dataclasses.field(default_factory=dict[str, Shape], hash=False)
    dtypes: tuple[str, ...] = ()
    trainable: int | None = 0
    scope: tuple[str, ...] = ()

    @property
    def out_shape(self) -> Shape | None:
        """The output without the batch, which constants do not have."""
        return self.shape if self.shape is None or self.op == "constant" else self.shape[1:]

    @property
    def frozen(self) -> bool | None:
        """Whether all of its parameters are frozen; None if it has none, or the source does not say."""
        own = self.cost.params
        return None if self.trainable is None or symbolic(own) or not own else self.trainable == 0

    @property
    def field(self) -> Field | None:
        """The receptive field, one span per axis of the input; None where it is not known."""
        return self.sight[self.name][0]

    @property
    def border(self) -> tuple[Border, ...] | None:
        """Per axis, how much of the field padding clips; None where that is not known."""
        return self.sight[self.name][1]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Layer):
            return NotImplemented
        compared = (f.name for f in dataclasses.fields(self) if f.compare)
        same = all(getattr(self, name) == getattr(other, name) for name in compared)
        return same and self.sight[self.name] == other.sight[other.name]

    def to_dict(self) -> dict[str, Any]:
        """The row for JSON; what could not be counted is None, never 0.

        Of the receptive field, `size` is the largest over all positions and `jump` the mean step. Position o sees
        pixels o·jump + `start` to o·jump + `last`; both are None if no such formula holds for all positions. `phases`
        holds for every position (`Span.to_dict`). No position sees beyond o·jump + `bounds`.
        """
        known = not self.cost.unknown
        counted = known or bool(self.cost.params)  # the parameters that a file stores are known even if shapes are not
        spans = self.field or ()
        row = {
            "name": self.name,
            "op": self.op,
            "module": ".".join(self.scope),
            "inputs": list(self.inputs),
            "in_shapes": [None if s is None else list(s) for s in self.in_shapes],
            "out_shape": None if self.out_shape is None else list(self.out_shape),
            **({} if self.geometry is None else self.geometry.to_dict()),
            "arrays": {role: list(shape) for role, shape in self.arrays.items()},
            "dtypes": list(self.dtypes),
            "params": self.cost.params if counted else None,
            "weights": self.cost.weights if counted else None,
            "biases": self.cost.biases if counted else None,
            "trainable": self.trainable if counted else None,
            **({"shared": list(self.shared)} if self.shared else {}),
            **({"buffers": self.buffers} if self.buffers else {}),
            "macs": self.cost.macs if known else None,
            "out_bytes": self.cost.out_bytes if self.shape is not None else None,
            "receptive_field": {
                "size": [s.size for s in spans],
                "jump": [_number(s.jump) for s in spans],
                "start": [_number(s.first) if s.line else None for s in spans],
                "last": [_number(s.last) if s.line else None for s in spans],
                "bounds": [[_number(s.first), _number(s.last)] for s in spans],
                "phases": [s.to_dict() for s in spans],
                "clipped": [[b.before, b.after] for b in self.border] if self.border is not None else None,
                "unclipped_places": [b.whole for b in self.border] if self.border is not None else None,
            }
            if self.field is not None
            else None,
            "status": self.cost.status,
        }
        return plain(row)


def plain(value: Any) -> Any:
    """The same dicts and lists, with formulas as text, because JSON has no symbols."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in cast(dict[str, Any], value).items()}
    if isinstance(value, list):
        return [plain(v) for v in cast(list[Any], value)]
    if isinstance(value, Expr):
        return int(value.constant) if value.constant is not None else str(value)
    return value


def _number(value: Any) -> int | float:
    return int(value) if value == int(value) else float(value)


def total_of(layers: Sequence[Layer]) -> Cost:
    """The sum over some layers; each operator that could not be counted is named once."""
    costs = [layer.cost for layer in layers]
    return Cost(
        sum(c.weights for c in costs),
        sum(c.biases for c in costs),
        sum(c.macs for c in costs),
        sum(c.in_bytes for c in costs),
        sum(c.weight_bytes for c in costs),
        sum(c.out_bytes for c in costs),
        tuple(dict.fromkeys(name for c in costs for name in c.unknown)),
    )


@dataclass(frozen=True, slots=True)
class Uncounted:
    """How much a lower bound leaves out.

    `operators` are the operators that could not be counted, each with how often it does. `hidden` is how many
    layers of known operators have no MACs because the size of their input is not known. `rows` is how many layers there
    are in all. `params` are the parameters counted at these layers, or read by them alone, of which MACs are missing.
    """

    operators: Mapping[str, int]
    hidden: int
    rows: int
    params: int

    def to_dict(self) -> dict[str, Any]:
        """All fields."""
        return {
            "operators": dict(self.operators),
            "hidden": self.hidden,
            "rows": self.rows,
            "params": self.params,
        }


def uncounted_of(layers: Sequence[Layer]) -> Uncounted:
    """What a lower bound leaves out, from its layers."""
    operators: dict[str, int] = {}
    missing = {layer.name for layer in layers if layer.cost.unknown}
    readers: dict[str, set[str]] = {}
    for layer in layers:
        if layer.op == UNKNOWN:
            kind = layer.cost.unknown[0].removeprefix(f"{layer.name} (").removesuffix(")").partition(" (")[0]
            operators[kind] = operators.get(kind, 0) + 1
        for source in layer.inputs:
            readers.setdefault(source, set()).add(layer.name)
    params = 0
    for layer in layers:
        alone = layer.op == "constant" and readers.get(layer.name, {""}) <= missing
        params += layer.cost.params if layer.name in missing or alone else 0
    return Uncounted(operators, len(missing) - sum(operators.values()), len(layers), params)
