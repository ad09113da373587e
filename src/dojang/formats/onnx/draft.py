"""The state while an ONNX graph is read: drafts of nodes, constants, and the position of the batch.

The batch is axis 0 of every input. While the graph is read it is the symbol N (`batch.py`), so every size that depends
on it is marked: a Reshape to the result of Shape becomes a reshape of one image, and a file written for a fixed batch
size works for any.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import prod
from pathlib import Path
from typing import Any

from dojang.arith.conv import by
from dojang.arith.graph import Node, with_batch
from dojang.arith.ops import OPS, STANDARD, UNKNOWN
from dojang.arith.shapes import Shape, axis_of, broadcast
from dojang.base.errors import DojangError, FileError, GraphError
from dojang.formats.onnx.batch import BATCH, any_depends, at, depends, several, simplified, whole
from dojang.formats.onnx.constants import (
    FOLD_LIMIT,
    MOST_AXES,
    TYPES,
    Const,
    Piece,
    Sort,
    of_fill,
    of_tensor,
    of_values,
)
from dojang.formats.onnx.fold import fold, shape_values
from dojang.formats.onnx.infer import DATA, OUTPUTS, Operands, apart
from dojang.formats.onnx.protobuf import Message

FOLD_BUDGET = 1_000_000
"""The most elements that are computed while a file is read; the shapes of a large network take about ten thousand."""

MADE = re.compile(r"val_\d+")
"""The names of constants that PyTorch's exporter makes itself; others may be parameters."""

NUMBERED = re.compile(r"(.*/)?_?(Constant|constant)(_\d+)?(_output_\d+)?|val_\d+|\d+|.*[._]?(constant|Constant)\.\d+")
"""Exporters' names of Constant nodes that are not parameters: `/model/Constant_3_output_0`, `45`, `p2o.Constant.7`."""

SAME = frozenset(
    "Celu ThresholdedRelu Shrink QuantizeLinear DequantizeLinear Cast CastLike IsNaN IsInf Not CumSum Trilu Swish "
    "Hardmax Acos Acosh Asin Asinh Atan Atanh Cosh Sinh Tan Bernoulli BitwiseNot MeanVarianceNormalization "
    "RMSNormalization".split()
)
"""Operators whose first output has the shape of their first input."""

ALIGNED = frozenset(
    "Where Equal Less Greater LessOrEqual GreaterOrEqual And Or Xor Mod BitwiseAnd BitwiseOr BitwiseXor Div Pow".split()
)
"""Operators whose output has the shape that their inputs broadcast to."""

QUANTISED: Mapping[str, tuple[int, ...]] = {
    "QLinearConv": (3, 8), "QLinearMatMul": (3,), "ConvInteger": (1,), "MatMulInteger": (1,), "QGemm": (3, 6),
}  # fmt: skip
"""Which inputs of quantised operators are weights; the others are scales and zero points."""

SORTS: Mapping[str, Sort] = {t.name: t.sort for t in TYPES.values()}
"""The sort of each type."""

LAYERS = frozenset(op for op, rule in OPS.items() if rule.params and rule.field != "constant")
"""Operators with arrays, whose names determine the name of the layer."""


class NotDone(Exception):
    """Raised for a use of an operator that dojang cannot express; the node becomes `unknown`, with this reason."""


@dataclass(eq=False)
class Draft:
    """A node whose inputs are drafts, and whose name is chosen when all nodes are known.

    `outer` is the position of the batch N in an axis of size outer * N * rest that it shares; None if it is not known.
    """

    node: Node
    inputs: tuple[Draft, ...]
    roles: dict[str, Const]
    shape: Shape | None
    labels: tuple[str, ...]
    dtype: str = "float32"
    outer: int | None = 1

    @property
    def sort(self) -> Sort:
        """Whether its values are real numbers, whole numbers, truth values or text."""
        return SORTS.get(self.dtype, "i")

    @property
    def before(self) -> int | None:
        """The product of the sizes before the batch, in memory order; None without a batch, or if that is not known."""
        axis = batch_axis(self.shape)
        return None if axis is None or self.outer is None or not self.shape else prod(self.shape[:axis]) * self.outer

    @property
    def op(self) -> str:
        """The operator."""
        return self.node.op


Value = Draft | Const


@dataclass(frozen=True)
class Call:
    """One node of the file: operator, attributes with decoded constants, inputs as values (None if left out)."""

    op: str
    name: str
    inputs: tuple[Value | None, ...]
    attrs: Mapping[str, Any]
    outputs: tuple[str, ...]
    sources: tuple[str, ...] = ()
    domain: str = ""

    @property
    def kind(self) -> str:
        """The name of the operator, with its domain if that is not the standard's own."""
        return self.op if self.domain in ("", "ai.onnx") else f"{self.domain}.{self.op}"

    def value(self, place: int) -> Value:
        """The input at a position; it must exist."""
        given = self.inputs[place] if place < len(self.inputs) else None
        if given is None:
            raise GraphError(f"{self.name}: {self.op} lacks its input {place + 1}")
        return given

    def const(self, place: int) -> Const | None:
        """The constant at a position, None if it is left out; raises `NotDone` for a computed value."""
        given = self.inputs[place] if place < len(self.inputs) else None
        if isinstance(given, Draft):
            raise NotDone(f"input {place + 1} computed in the network")
        return given

    def needed(self, place: int) -> Const:
        """The constant at a position; it must exist."""
        given = self.const(place)
        if given is None:
            raise GraphError(f"{self.name}: {self.op} lacks its input {place + 1}")
        return given

    def ints(self, place: int) -> list[int] | None:
        """Whole numbers from a small constant input; those that depend on the batch are formulas."""
        given = self.const(place)
        return [whole(v) for v in given.values()] if given is not None else None

    def only(self, count: int, used: Mapping[str, int]) -> None:
        """Raises `NotDone` if an output after the first `count` is read."""
        for output in self.outputs[count:]:
            if output and used.get(output):
                raise NotDone(f"output {output!r} is read")


@dataclass
class Reader:
    """The state while the nodes of a graph are read in order.

    `pieces` are the arrays that the file stores. `own`: dojang wrote the file, so its Constant nodes are not
    parameters. `said` are the shapes of values that the file gives. `batch` is the size that the file fixes for axis 0,
    or N. `newer` brings operators of old versions to a newer form. `whole`: axis 0 is no batch, all sizes are as the
    file fixes them. `ahead` says which branch of each If to follow if values decide, `taken` which were (`control.py`).
    `runs`: the network is read to be run, with the branches between which values decide as networks (`deferred.py`).
    """

    opset: int
    batch: Any
    used: Counter[str]
    values: MutableMapping[str, Value] = field(default_factory=dict[str, Value])
    drafts: list[Draft] = field(default_factory=list[Draft])
    constants: dict[Hashable, Draft] = field(default_factory=dict[Hashable, Draft])
    drafted: list[Const] = field(default_factory=list[Const])
    call: Call = Call("", "", (), {}, ())
    label: tuple[str, ...] = ()
    folded: int = 0
    folder: Path | None = None
    rules: Callable[[str], Callable[[Reader, Call], Any] | None] = {}.get
    ahead: Sequence[bool] | None = None
    taken: dict[Draft, bool] = field(default_factory=dict[Draft, bool])
    bodies: dict[int, Any] = field(default_factory=dict[int, Any])
    turns: int = 0
    depth: int = 0
    pieces: list[Piece] = field(default_factory=list[Piece])
    own: bool = False
    newer: Callable[[Reader, Call], Call] | None = None
    whole: bool = False
    said: dict[str, Shape] = field(default_factory=dict[str, Shape])
    runs: bool = False

    def emit(
        self, op: str, *inputs: Value, tag: str = "", roles: Mapping[str, Const | None] | None = None, **attrs: Any
    ) -> Draft:
        """Adds a node; `tag` marks the inner nodes of an operator that becomes several nodes."""
        sources = tuple(self.draft(i) for i in inputs)
        own = {role: const for role, const in (roles or {}).items() if const is not None}
        labels = self.label
        if tag:
            labels = tuple(f"{w}.{tag}" for w in labels)
        elif op in LAYERS:
            labels = (*layer_names(own), *labels)
        if any_depends(attrs.values()):
            raise NotDone("a size or number that depends on the batch")
        node = Node.of(labels[-1], op, *("" for _ in sources), **attrs)
        dtype = node.attrs.get("dtype") or _dtype(sources)
        draft = Draft(node, sources, own, self.infer(node, sources, own), labels, dtype)
        draft.outer = _outer(draft)
        if self.batch == 1 and mixes(draft):
            raise NotDone("a file for a single image, in which this would mix images")
        self.drafts.append(draft)
        return draft

    def infer(self, node: Node, sources: Sequence[Draft], roles: Mapping[str, Const]) -> Shape | None:
        """The shape of a node; checks its arrays against what the layer needs."""
        shapes = [s.shape for s in sources if s.shape is not None]
        if node.op == UNKNOWN or node.op == STANDARD:
            return with_batch(node.attrs, BATCH)
        if len(shapes) < len(sources):
            return None
        try:
            shape = tuple(simplified(s) for s in node.infer(shapes))
            params = node.param_shapes(shapes)
        except (ArithmeticError, TypeError):
            if not any_depends(shapes):
                raise
            raise NotDone("a size that mixes the batch with others") from None
        if len(shape) > MOST_AXES:
            raise GraphError(f"{node.name}: {len(shape)} axes; a tensor has at most {MOST_AXES}")
        for role, wanted in params.items():
            if any_depends(wanted):
                raise NotDone("weights along the batch")
            if roles[role].shape != wanted:
                raise GraphError(f"{node.name}: its {role} is {by(roles[role].shape)}, the layer needs {by(wanted)}")
        return shape

    def draft(self, value: Value) -> Draft:
        """The node of a value; a constant gets one node."""
        if isinstance(value, Draft):
            return value
        known = self.constants.get(value.key)
        if known is None:
            labels = (value.name.removesuffix(".value"),) if value.name else tuple(f"{w}.constant" for w in self.label)
            if value.batched:
                return self.sizes(value)
            if any_depends(value.shape):
                return self.per_picture(value)
            attrs: dict[str, Any] = {"shape": value.shape, "dtype": value.kind}
            roles: dict[str, Const] = {}
            exact = value.sort == "f" or (value.sort != "s" and abs(value.fill or 0) <= 1 << 53)
            kept = value.trained and (value.shape or value.name.endswith(".value"))
            if value.fill is not None and exact and not kept:
                attrs["fill"] = float(value.fill)
            else:
                attrs["trained"] = value.trained
                roles["value"] = value
            known = Draft(Node.of(labels[-1], "constant", **attrs), (), roles, value.shape, labels, value.kind)
            self.drafts.append(known)
            self.constants[value.key] = known
            self.drafted.append(value)  # a key may be the id of the constant, which must not become another's
        return known

    def output(self, value: Value) -> Draft:
        """The node of a network output; `unknown` for numbers that no node computes, such as the batch size."""
        start = len(self.drafts)
        try:
            return self.draft(value)
        except NotDone as reason:
            self.drafts[start:] = [d for d in self.drafts[start:] if d.op == "constant"]
            return self.emit(UNKNOWN, kind=f"constant ({reason})", shape=None)

    def sizes(self, const: Const) -> Draft:
        """Numbers that depend on the size of the batch, as a node that computes them when the network runs."""
        numbers: list[list[list[Any]]] = []
        for value in const.values():
            terms = value.terms if depends(value) else {(): Fraction(value)}
            if any(set(letters) - {"N"} for letters in terms):
                raise NotDone("computes with the size of the batch")
            numbers.append([[len(letters), f.numerator, f.denominator] for letters, f in terms.items()])
        entry = next(d for d in self.drafts if d.op == "input" and d.node.attrs["batch_axis"] >= 0)
        made = self.standard(
            SIZES, entry, dtype=const.kind, tag="sizes", shape=const.shape, axis=entry.node.attrs["batch_axis"],
            numbers=numbers, sizes=list(const.shape),
        )  # fmt: skip
        self.constants[const.key] = made
        self.drafted.append(const)
        return made

    def spread(self, value: Value, shape: Shape) -> Draft:
        """One number at all places of a shape that has the batch."""
        if not isinstance(value, Const) or value.fill is None:
            raise NotDone("a constant that has the size of the batch")
        one = of_fill(value.fill, (), value.sort, dtype=value.kind)
        to = of_values(shape, (len(shape),), "i", dtype="int64")
        return self.standard("Expand", one, to, dtype=value.kind, tag="spread", shape=shape)

    def per_picture(self, value: Value, tag: str = "pictures") -> Draft:
        """A value (1, ...) as (N, ...): multiplied by a column of ones, one per image of the first input.

        Each of the ones is a value of an image to the power 0: x⁰ is 1 for every x, also for NaN and infinity. A
        constant of one number may already have N as its first size.
        """
        shape = self.shape(value)
        if isinstance(value, Const) and value.sort != "f":
            return self.spread(value, shape)
        if shape[0] == BATCH and isinstance(value, Const) and value.fill is not None and not any_depends(shape[1:]):
            value = of_fill(value.fill, (1, *shape[1:]), value.sort)
        elif any_depends(shape):
            return self.spread(value, shape)
        entry = next(d for d in self.drafts if d.op == "input")
        column: Draft = entry
        for axis in range(1, len(entry.node.attrs["shape"]) + 1):
            column = self.emit("slice", column, axis=axis, start=0, stop=1, tag=f"one{axis}")
        if len(self.shape(column)) != len(shape):
            column = self.emit("reshape", column, shape=(-1, *(1 for _ in shape[1:])), tag="column")
        column = self.emit("pow", column, self.fill(0.0), tag="ones")
        return self.emit("mul", value, column, tag=tag)

    def fill(self, value: float, *shape: int) -> Const:
        """A constant that is one number."""
        return of_fill(value, shape, "f")

    def shape(self, value: Value) -> Shape:
        """The shape of a value, with N as the batch; raises `NotDone` behind an unknown operator."""
        if value.shape is None:
            raise NotDone("after an unknown operator")
        return value.shape

    def visible(self, shape: Shape) -> Shape:
        """A shape for the file's own arithmetic: the batch is a number if the file fixes it."""
        return tuple(at(s, self.batch) for s in shape)

    def step(self, message: Message, node_of: Callable[[str], Callable[[Reader, Call], Any] | None]) -> None:
        """Reads one node of the file."""
        self.rules = node_of
        op, outputs = message.get("op_type", ""), tuple(message.get("output", ()))
        sources = tuple(message.get("input", ()))
        names = [n for n in (message.get("name", ""), *outputs) if n]
        self.label = tuple(dict.fromkeys([*names[:2], op.lower() or "node"]))
        self.label = self.label[:1] if message.get("name") else self.label
        name = self.label[0]
        values: list[Value | None] = []
        for source in sources:
            if source and source not in self.values:
                raise GraphError(
                    f"{name}: reads {source!r}, which no earlier node makes; the file is not in order or has a cycle"
                )
            values.append(self.values[source] if source else None)
        domain = message.get("domain", "")
        known = domain in ("", "ai.onnx")
        self.call = call = Call(op, name, tuple(values), attributes(message, name), outputs, sources, domain)
        try:
            if self.newer is not None and known:
                self.call = call = self.newer(self, call)
            const = self.constant(call) if known else None
            if const is not None:
                results: Sequence[Value] = [replace(const, name=const.name or (outputs[0] if outputs else ""))]
            else:
                results = self.translate(call, node_of(call.kind), call.kind)
        except KeyError as error:
            raise GraphError(f"{name}: {op} lacks its attribute {error}") from error
        except (TypeError, ValueError, IndexError, AttributeError, ArithmeticError, StopIteration) as error:
            # An attribute of a wrong type or a list of a wrong length: the file is invalid.
            raise GraphError(f"{name}: {op} has attributes or inputs that do not fit ({error})") from error
        for output, value in zip(outputs, results, strict=False):
            if output in self.values:
                raise GraphError(f"{name}: {output!r} is made twice")
            if output:
                self.values[output] = value

    def constant(self, call: Call) -> Const | None:
        """The constant that a node computes from constants or from a shape."""
        if call.op == "Constant":
            return self.stored(constant_node(call), call)
        first = call.inputs[0] if call.inputs else None
        if call.op in ("Shape", "Size") and isinstance(first, Draft):
            if first.shape is None:
                return None
            shape = self.visible(first.shape)
            return shape_values(shape, call.attrs) if call.op == "Shape" else None
        if any(isinstance(v, Draft) for v in call.inputs) or not call.inputs:
            return None
        consts = [v if isinstance(v, Const) else None for v in call.inputs]
        if self.folded > FOLD_BUDGET:
            raise FileError(
                f"{call.name}: the file computes too much with constants; fold its constants with another tool first"
            )
        result = fold(call.op, consts, call.attrs, self.opset)
        self.folded += sum(c.size for c in (*consts, result) if c is not None and c.small) + 1
        return result

    def learned(self, place: int) -> Value | None:
        """Whether an unknown operator keeps an input: computed values and parameters."""
        value, places = self.call.inputs[place], QUANTISED.get(self.call.op)
        if not isinstance(value, Const):
            return value
        if places is None:
            return value if value.trained and _learned(value) else None
        return replace(value, trained=True) if place in places and value.size > 1 else None

    def stored(self, const: Const | None, call: Call) -> Const | None:
        """The value of a Constant node: an array that the file stores, a parameter if it is named as one."""
        if const is None:
            return None
        name = call.outputs[0] if call.outputs else ""
        named = bool(name) and not self.own and not NUMBERED.fullmatch(name)
        piece = Piece(name, const.size, const.sort, named, const.pieces[0].dtype if const.pieces else "")
        self.pieces.append(piece)
        trained = named and const.sort == "f" and const.size > 1
        return replace(const, pieces=(piece,), trained=trained, name=name if trained else const.name)

    def translate(self, call: Call, rule: Callable[[Reader, Call], Any] | None, kind: str) -> Sequence[Value]:
        """The output values of a node, whose nodes are added; `unknown` nodes if the operator is not known."""
        start = len(self.drafts)
        typed = call.op not in ANY_TYPE and any(isinstance(v, Draft) and v.sort != "f" for v in call.inputs)
        try:
            if rule is not None and not typed:
                result = rule(self, call)
                return result if isinstance(result, list) else [result]
        except (TypeError, ArithmeticError):
            if not any(isinstance(v, Const) and v.batched for v in call.inputs):
                raise
            self.drafts[start:] = [d for d in self.drafts[start:] if d.op == "constant"]
            kind = f"{kind} (computes with the size of the batch)"
        except NotDone as reason:
            # A constant drafted meanwhile may be in `constants`, so it stays; everything else is undone.
            self.drafts[start:] = [d for d in self.drafts[start:] if d.op == "constant"]
            kind = f"{kind} ({reason})"
        standard = self.as_standard(call)
        if standard is not None:
            return standard
        # Parameters count, even if unknown operators read them.
        inputs = [v for v in map(self.learned, range(len(call.inputs))) if v is not None]
        wanted = [o for o in call.outputs if o and self.used[o]]
        made: list[Value] = []
        for place, output in enumerate(call.outputs):
            if not output:
                made.append(self.fill(0.0))  # an output that the file leaves out, so no node reads it
                continue
            tag = "" if output == call.outputs[0] or len(wanted) == 1 else str(place)
            made.append(self.emit(UNKNOWN, *inputs, kind=kind, tag=tag, **self.placed(self.unknown_shape(place))))
        return made

    def as_standard(self, call: Call) -> Sequence[Value] | None:
        """The outputs of an operator that is run as the standard defines it; None if it is not known, or if it would
        mix images that the file does not have.
        """
        rule = OUTPUTS.get(call.kind)
        if rule is None or any(o and self.used[o] for o in call.outputs[MOST_OUTPUTS.get(call.kind, 64) :]):
            return None
        seen = Operands(call.kind, call.inputs, call.attrs, self.opset, len(call.outputs))
        start = len(self.drafts)
        try:
            found = rule(seen)
            if not depends(self.batch) and not self.whole and not apart(seen):
                return None
            sources = [self.draft(v) for v in map(self.as_data, range(len(call.inputs))) if v is not None]
            places = tuple(i for i, v in enumerate(call.inputs) if v is not None)
            settings = as_json(call)
            made: list[Value] = []
            wanted = [o for o in call.outputs if o and self.used[o]]
            for place, output in enumerate(call.outputs):
                if not output or not self.used[output]:
                    made.append(self.fill(0.0))  # no node reads it
                    continue
                shape, kind = found[place] if place < len(found) else (None, "float32")
                shape = shape if shape is not None else self.said.get(output)
                if any(isinstance(size, int) and size < 0 for size in shape or ()):
                    raise NotDone(f"gives the shape {shape}")
                made.append(
                    self.emit(
                        STANDARD,
                        *sources,
                        tag="" if output == wanted[0] else str(place),
                        kind=call.kind,
                        dtype=kind,
                        settings=settings,
                        places=() if places == tuple(range(len(sources))) else places,
                        output=place,
                        first=output == wanted[0],
                        opset=self.opset,
                        **self.placed(shape),
                    )
                )
            return made
        except (NotDone, DojangError, ArithmeticError, ValueError, TypeError):
            self.drafts[start:] = [d for d in self.drafts[start:] if d.op == "constant"]
            return None

    def as_data(self, place: int) -> Value | None:
        """An input of the call; a constant that only says how something is done is no parameter."""
        value = self.call.inputs[place]
        how = isinstance(value, Const) and value.trained and place > 0 and self.call.op in DATA
        return replace(value, trained=False) if how and isinstance(value, Const) else value

    def standard(
        self, kind: str, *values: Value, dtype: str, tag: str = "", shape: Shape | None = None, output: int = 0,
        first: bool = True, **settings: Any,
    ) -> Draft:  # fmt: skip
        """Adds a node that is run as the standard defines it; without `shape` that of the first value."""
        shape = shape if shape is not None else values[0].shape
        text = json.dumps(settings, separators=(", ", ": "))
        return self.emit(
            STANDARD, *values, tag=tag, kind=kind, dtype=dtype, settings=text, output=output, first=first,
            opset=max(self.opset, 13), **self.placed(shape),
        )  # fmt: skip

    def placed(self, shape: Shape | None) -> dict[str, Any]:
        """A shape as attributes: without the batch, and where that is. No shape if it has the batch in a formula."""
        axes = [i for i, size in enumerate(shape or ()) if depends(size)]
        if shape is None or len(axes) > 1 or any(shape[i] != BATCH for i in axes):
            return {"shape": None}
        if not axes:
            return {"shape": shape, "batch_axis": -1}
        return {"shape": (*shape[: axes[0]], *shape[axes[0] + 1 :]), "batch_axis": axes[0]}

    def unknown_shape(self, place: int) -> Shape | None:
        """The shape of an output of an unknown operator: by a rule for the operator, or as the file gives it; None if
        there is neither.
        """
        call, shape = self.call, None
        sizes = [v.shape for v in call.inputs if v is not None]
        if call.op in SAME and place == 0 and sizes:
            shape = sizes[0]
        elif call.op in ALIGNED and None not in sizes:
            with suppress(DojangError):
                shape = broadcast({}, [s for s in sizes if s is not None])
        rule = OUTPUTS.get(call.kind)
        if shape is None and rule is not None:
            with suppress(DojangError, ArithmeticError, ValueError, TypeError, KeyError, IndexError):
                found = rule(Operands(call.kind, call.inputs, call.attrs, self.opset, len(call.outputs)))
                shape = found[place][0] if place < len(found) else None
        return shape if shape is not None else self.said.get(call.outputs[place])


def _learned(const: Const) -> bool:
    """Whether a constant of the file is probably a parameter: floating point, and more than one number."""
    return const.sort == "f" and const.size > 1 and not const.batched and not any_depends(const.shape)


def batch_axis(shape: Shape | None) -> int | None:
    """The axis that is the batch, or contains it."""
    return next((i for i, s in enumerate(shape or ()) if depends(s)), None)


def _outer(draft: Draft) -> int | None:
    axis = batch_axis(draft.shape)
    if axis is None or not draft.shape or draft.shape[axis] == BATCH:
        return 1
    if draft.op in ("reshape", "flatten"):  # these keep the memory order
        before, now = draft.inputs[0].before, prod(draft.shape[:axis])
        return before // now if before is not None and now and before % now == 0 else None
    same = [s for s in draft.inputs if s.shape and draft.shape[axis] in s.shape]
    return same[0].outer if same else None


def mixes(draft: Draft) -> bool:
    """Whether a node computes along the batch axis.

    In a file with an open batch size, its author wants that; in a file for one image it means that the position of the
    batch is not known.
    """
    if sum(depends(s) for s in draft.shape or ()) > 1 or any(several(s) for s in draft.shape or ()):
        return True
    shape = draft.inputs[0].shape if draft.inputs else None
    axis = batch_axis(shape)
    if axis is None or shape is None:
        return False
    attrs = draft.node.attrs
    if draft.op in ("softmax", "log_softmax"):
        return axis_of(attrs["axis"], len(shape)) == axis
    if draft.op.startswith("reduce_"):
        return axis in {axis_of(a, len(shape)) for a in attrs["axes"]}
    if draft.op == "matmul":
        return axis == len(shape) - 1
    if draft.op == "recurrent":
        return axis != 1
    return axis > 0 and ("kernel" in attrs or draft.op in ("resize", "lrn", *PER_PICTURE))


SIZES = "dojang.Sizes"
"""Numbers computed from the size of the batch: polynomials in it."""

ANY_TYPE = frozenset(
    "Reshape Flatten Transpose Squeeze Unsqueeze Slice Split Concat Gather Identity Cast If Loop Scan Constant "
    "DequantizeLinear ConvInteger QLinearConv MatMulInteger QLinearMatMul QGemm MatMulIntegerToFloat "
    "DynamicQuantizeMatMul DynamicQuantizeLSTM".split()
)
"""Operators whose rules hold for values of any type: they move elements, or make them real first."""

MOST_OUTPUTS: Mapping[str, int] = {"LayerNormalization": 3, "BatchNormalization": 3}
"""The most outputs that are computed of operators that had more in older versions."""

PER_PICTURE = frozenset(op for op, rule in OPS.items() if rule.field in ("global", "adaptive"))


def _dtype(sources: Sequence[Draft]) -> str:
    """The type of what is computed from these: that of the first, as `Graph.types` has it."""
    return sources[0].dtype if sources else "float32"


def as_json(call: Call) -> str:
    """The attributes of an operator as JSON; a tensor with its numbers, shape and type."""
    settings: dict[str, Any] = {}
    for name, value in call.attrs.items():
        if isinstance(value, Const):
            settings[name] = {"values": value.values(), "shape": list(value.shape), "dtype": value.kind}
        elif not isinstance(value, bytes | memoryview | bytearray):
            settings[name] = value
    if call.op == "Split":
        settings["outputs"] = len(call.outputs)
    return json.dumps(settings, separators=(", ", ": "))


def layer_names(roles: Mapping[str, Const]) -> list[str]:
    """Layer names from the names of its arrays: `layer1.0.conv1.weight` belongs to `layer1.0.conv1`."""
    names = [const.name.removesuffix(f".{role}") for role, const in roles.items() if const.name.endswith(f".{role}")]
    return [n for n in names if n][:1]


def attributes(message: Message, name: str) -> dict[str, Any]:
    """Attributes by name: numbers, text, lists, and tensors as constants."""
    out: dict[str, Any] = {}
    for attr in message.get("attribute", ()):
        key, code = attr.get("name", ""), attr.get("type", 0)
        if code == 1 or (code == 0 and "f" in attr):
            out[key] = shortest(attr.get("f", 0.0))
        elif code == 2 or (code == 0 and "i" in attr):
            out[key] = attr.get("i", 0)
        elif code == 3 or (code == 0 and "s" in attr):
            try:
                out[key] = str(attr.get("s", b""), "utf-8")
            except UnicodeDecodeError:
                raise FileError(f"{name}: attribute {key} is not UTF-8") from None
        elif code == 4 or (code == 0 and "t" in attr):
            try:
                out[key] = of_tensor(attr.get("t", {}), None)
            except DojangError as error:
                raise error.within(name) from None
        elif code == 5:
            out[key] = attr.get("g", b"")
        elif code == 6 or (code == 0 and "floats" in attr):
            floats = attr.get("floats", ())
            out[key] = [shortest(f) for f in floats] if len(floats) <= FOLD_LIMIT else list(floats)
        elif code == 7 or (code == 0 and "ints" in attr):
            out[key] = list(attr.get("ints", ()))
        elif code == 8 or (code == 0 and "strings" in attr):
            out[key] = [str(text, "utf-8", "replace") for text in attr.get("strings", ())]
    return out


def shortest(value: float) -> float:
    """The shortest decimal of a float32: 0.1, not 0.10000000149011612.

    >>> shortest(0.10000000149011612)
    0.1
    """
    if value != value or value in (float("inf"), float("-inf")):
        return value
    for digits in (6, 7, 8):
        text = float(f"{value:.{digits}g}")
        if single(text) == value:
            return text
    return value


def single(value: float) -> float:
    """The nearest float32, infinity beyond its range."""
    from struct import error, pack, unpack

    try:
        return unpack("<f", pack("<f", value))[0]
    except (OverflowError, error):
        return float("inf") if value > 0 else float("-inf")


def constant_node(call: Call) -> Const | None:
    """The value of a Constant node; None for strings and sparse tensors."""
    attrs = call.attrs
    if "value" in attrs:
        const: Const = attrs["value"]
        if const.size == 1:
            value = const.values()[0]
            return replace(const, fill=shortest(value) if const.sort == "f" else float(value))
        return const
    kinds: tuple[tuple[Sort, str, str], ...] = (("f", "value_float", "value_floats"), ("i", "value_int", "value_ints"))
    for sort, one, many in kinds:
        if one in attrs:
            return of_values([attrs[one]], (), sort)
        if many in attrs:
            return of_values(attrs[many], (len(attrs[many]),), sort)
    return None
