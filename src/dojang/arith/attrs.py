"""What the attributes of operators may hold, and how loosely given values become their one normal form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

from dojang.arith.conv import Pads, check_window
from dojang.arith.symbol import Expr
from dojang.base.errors import GraphError

Value = int | float | bool | str | None | tuple[int, ...] | tuple[float, ...] | Pads
Attrs = Mapping[str, Any]


class Kind(Enum):
    """The forms of an attribute. AXES and PADS follow the rank of `kernel` where the operator has one."""

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
    """One attribute of an operator: its kind, its default in normal form, the words it may be; or it is required."""

    kind: Kind
    default: Value = None
    required: bool = False
    words: tuple[str, ...] = ()


def normalise(op: str, specs: Mapping[str, Attr], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` with defaults filled in, each value in its normal form (tuples, pairs of padding), in table order.

    Raises `GraphError` for unknown or missing attributes and for values of the wrong kind.
    """
    unknown = [k for k in given if k not in specs]
    if unknown:
        raise GraphError(f"{op} has no attribute {unknown[0]!r}; it has {', '.join(specs) or 'none'}")
    missing = [k for k, spec in specs.items() if spec.required and given.get(k) is None]
    if missing:
        kind = specs[missing[0]].kind
        raise GraphError(f"{op} needs {missing[0]}: {kind.value}{', such as 3x3' if kind is Kind.SIZE else ''}")
    attrs = {k: convert(op, k, spec, given[k]) if k in given else spec.default for k, spec in specs.items()}
    if attrs.get("kernel") is not None:
        spread_over_axes(op, specs, attrs)
    return attrs


def convert(op: str, name: str, spec: Attr, value: Any) -> Any:
    """One value in the normal form of its kind; padding words stay words."""
    if value is None:
        return None
    try:
        match spec.kind:
            case Kind.INT:
                result: Any = whole(value)
            case Kind.FLOAT:
                result = float(value)
            case Kind.BOOL:
                if not isinstance(value, bool | int):
                    raise TypeError
                result = bool(value)
            case Kind.TEXT:
                result = str(value)
                if spec.words and result not in spec.words:
                    raise GraphError(f"{op} {name}={result} is not known; use one of {', '.join(spec.words)}")
            case Kind.FLOATS:
                result = tuple(float(v) for v in as_sequence(value))
            case Kind.INTS | Kind.SIZE | Kind.AXES:
                result = tuple([whole(v) for v in as_sequence(value)])
            case Kind.PADS:
                if isinstance(value, str):
                    if value not in ("same", "same-lower", "valid"):
                        raise GraphError(f'{op} {name}={value} is not known; use numbers, "same" or "valid"')
                    result = value
                else:
                    result = tuple([pad_pair(v) for v in as_sequence(value)])
    except (TypeError, ValueError):
        raise GraphError(f"{op} {name}={value!r} is not {spec.kind.value}") from None
    return result


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
    return cast(Sequence[Any], value) if isinstance(value, list | tuple) else (value,)


def pad_pair(value: Any) -> tuple[int, int]:
    """(before, after) from one number or two."""
    pair = as_sequence(value)
    before, after = pair if len(pair) == 2 else (pair[0], pair[0])
    return whole(before), whole(after)


def spread_over_axes(op: str, specs: Mapping[str, Attr], attrs: dict[str, Any]) -> None:
    """Single values become one per axis of `kernel`; a missing stride of a pool is its kernel."""
    rank = len(attrs["kernel"])
    for name, spec in specs.items():
        value = attrs[name]
        if name == "stride" and value is None:
            attrs[name] = attrs["kernel"]
        elif spec.kind is Kind.PADS and value == "valid":
            attrs[name] = ((0, 0),) * rank
        elif spec.kind in (Kind.AXES, Kind.PADS) and isinstance(value, tuple):
            values = cast(tuple[Any, ...], value)
            if len(values) == 1:
                attrs[name] = values * rank
            elif len(values) != rank:
                raise GraphError(f"{op} {name} has {len(values)} values for a {rank}-d kernel; give 1 or {rank}")
    words = isinstance(attrs["padding"], str)
    pads = ((0, 0),) * rank if words else attrs["padding"]
    check_window(attrs["kernel"], attrs["stride"], pads, attrs.get("dilation", (1,) * rank))
