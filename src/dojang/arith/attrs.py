"""The types of the operators' attributes, and how a given value is brought into its normal form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, cast

from dojang.arith.conv import Pads, check_window
from dojang.arith.symbol import Expr
from dojang.base.errors import GraphError

Value = int | float | bool | str | None | tuple[int, ...] | tuple[float, ...] | Pads
Attrs = Mapping[str, Any]


class Kind(Enum):
    """The types of an attribute. AXES and PADS have one value per axis of `kernel`, if the operator has a kernel."""

    INT = "a whole number"
    FLOAT = "a number"
    BOOL = "yes or no"
    TEXT = "a word"
    INTS = "whole numbers, comma-separated"
    FLOATS = "numbers, comma-separated"
    AXES = "one whole number, or one per axis"
    PADS = "one whole number, one per axis, or before:after per axis"
    SIZE = "sizes joined by x"


@dataclass(frozen=True, slots=True)
class Attr:
    """An attribute of an operator: its type, its default in normal form unless it is required, its possible words."""

    kind: Kind
    default: Value = None
    required: bool = False
    words: tuple[str, ...] = ()
    read: Callable[[Any], Any] = field(init=False, repr=False, compare=False)
    """Brings a given value into its normal form; raises `TypeError` or `ValueError`."""
    per_axis: bool = field(init=False, repr=False, compare=False)
    """Whether it has one value per axis of `kernel`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "read", _READ[self.kind])
        object.__setattr__(self, "per_axis", self.kind in (Kind.AXES, Kind.PADS))


def normalise(op: str, specs: Mapping[str, Attr], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` with defaults filled in, each value in its normal form (tuples, pairs of padding), in table order.

    Raises `GraphError` for unknown or missing attributes and for values of the wrong type.
    """
    if not given.keys() <= specs.keys():
        unknown = next(k for k in given if k not in specs)
        raise GraphError(f"{op} has no attribute {unknown!r}; its attributes: {', '.join(specs) or 'none'}")
    attrs: dict[str, Any] = {}
    for name, spec in specs.items():
        value = convert(op, name, spec, given[name]) if name in given else spec.default
        if value is None and spec.required:
            kind = spec.kind
            raise GraphError(f"{op} needs {name}: {kind.value}{', such as 3x3' if kind is Kind.SIZE else ''}")
        attrs[name] = value
    if attrs.get("kernel") is not None:
        spread_over_axes(op, specs, attrs)
    return attrs


def convert(op: str, name: str, spec: Attr, value: Any) -> Any:
    """One value in the normal form of its type; words for padding stay words."""
    if value is None:
        return None
    try:
        result = spec.read(value)
    except (TypeError, ValueError):
        raise GraphError(f"{op} {name}={value!r} is not {spec.kind.value}") from None
    if type(result) is str:
        if spec.kind is Kind.PADS and result not in PADDING_WORDS:
            raise GraphError(f'{op} {name}={value} is not known; use numbers, "same" or "valid"')
        if spec.words and result not in spec.words:
            raise GraphError(f"{op} {name}={result} is not known; use one of {', '.join(spec.words)}")
    return result


PADDING_WORDS = ("same", "same-lower", "valid")


def whole(value: Any) -> int:
    """An int, exactly; 3.0 passes, 3.5, True and "3" do not. A symbolic size (`symbol.Expr`) stays one."""
    if type(value) is int:
        return value
    if isinstance(value, Expr):
        return cast(int, value)
    if isinstance(value, bool | str) or int(value) != value:
        raise TypeError
    return int(value)


def as_sequence(value: Any) -> Sequence[Any]:
    """A sequence from one value or several."""
    return cast(Sequence[Any], value) if isinstance(value, (list, tuple)) else (value,)


def pad_pair(value: Any) -> tuple[int, int]:
    """(before, after) from one number or two."""
    if value.__class__ is tuple and len(value) == 2 and type(value[0]) is int and type(value[1]) is int:
        return value
    pair = as_sequence(value)
    before, after = pair if len(pair) == 2 else (pair[0], pair[0])
    return whole(before), whole(after)


def _yes_or_no(value: Any) -> bool:
    if not isinstance(value, (bool, int)):
        raise TypeError
    return bool(value)


def _wholes(value: Any) -> tuple[int, ...]:
    values: Sequence[Any] = value if value.__class__ is tuple else as_sequence(value)
    return tuple([v if type(v) is int else whole(v) for v in values])


def _floats(value: Any) -> tuple[float, ...]:
    return tuple([float(v) for v in as_sequence(value)])


def _pads(value: Any) -> str | Pads:
    return value if isinstance(value, str) else tuple([pad_pair(v) for v in as_sequence(value)])


_READ: Mapping[Kind, Callable[[Any], Any]] = {
    Kind.INT: whole, Kind.FLOAT: float, Kind.BOOL: _yes_or_no, Kind.TEXT: str, Kind.INTS: _wholes,
    Kind.FLOATS: _floats, Kind.AXES: _wholes, Kind.PADS: _pads, Kind.SIZE: _wholes,
}  # fmt: skip


def spread_over_axes(op: str, specs: Mapping[str, Attr], attrs: dict[str, Any]) -> None:
    """Repeat single values for every axis of `kernel`; a missing stride of a pool is its kernel size."""
    rank = len(attrs["kernel"])
    for name, spec in specs.items():
        if not spec.per_axis:
            continue
        value: Any = attrs[name]
        if name == "stride" and value is None:
            attrs[name] = attrs["kernel"]
        elif value == "valid" and spec.kind is Kind.PADS:
            attrs[name] = ((0, 0),) * rank
        elif value.__class__ is tuple:
            if len(value) == 1:
                attrs[name] = value * rank
            elif len(value) != rank:
                raise GraphError(f"{op} {name} has {len(value)} values for a {rank}-d kernel; give 1 or {rank}")
    words = isinstance(attrs["padding"], str)
    pads = ((0, 0),) * rank if words else attrs["padding"]
    check_window(attrs["kernel"], attrs["stride"], pads, attrs.get("dilation", (1,) * rank))
