"""How numbers are kept: float32, bfloat16, or whole numbers of few bits with a scale and a zero point.

A whole number q stands for the real number scale · (q − zero). `Graph.precisions` says so of weight arrays, whose
numbers in `Graph.weights` are the real ones; of the values between layers, operators say it (`fake_quantize`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from types import MappingProxyType
from typing import Any, cast

from dojang.base.errors import DataError
from dojang.base.wording import did_you_mean

BITS: Mapping[str, int] = MappingProxyType(
    {"float64": 64, "float32": 32, "float16": 16, "bfloat16": 16, "int32": 32, "int16": 16, "uint16": 16, "int8": 8,
     "uint8": 8, "int4": 4, "uint4": 4, "int2": 2, "uint2": 2}
)  # fmt: skip
"""Bits of one number, by the name of its type."""

WHOLE: Mapping[str, tuple[int, int]] = MappingProxyType(
    {name: (-(1 << bits - 1), (1 << bits - 1) - 1) if name[0] == "i" else (0, (1 << bits) - 1)
     for name, bits in BITS.items() if name.lstrip("u").startswith("int")}
)  # fmt: skip
"""The least and the greatest whole number of each type that values are quantised to."""


@dataclass(frozen=True, slots=True)
class Precision:
    """How the numbers of an array or of a value are kept.

    `scale` and `zero` have one number for the whole tensor (`axis` None), or one for each place of `axis`; real types
    have neither. Raises `DataError` for scales that are not positive and finite, for zero points that the type does not
    have, and where their numbers differ.

    >>> weights = Precision("int8", (0.5, 0.25), (0, 0), axis=0)
    >>> weights.bits, weights.per_channel, weights.real(-3, place=1)
    (8, True, -0.75)
    """

    kind: str = "float32"
    scale: tuple[float, ...] = ()
    zero: tuple[int, ...] = ()
    axis: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in BITS:
            raise DataError(f"precision {self.kind!r} is not known; {did_you_mean(self.kind, BITS, 'use int8')}")
        if self.kind not in WHOLE:
            if self.scale or self.zero:
                raise DataError(f"{self.kind} has no scale and no zero point; only whole numbers have")
            return
        if not self.scale or len(self.scale) != len(self.zero):
            raise DataError(
                f"{self.kind} has {len(self.scale)} scales and {len(self.zero)} zero points; give one of each for the "
                "whole tensor, or for each channel"
            )
        if self.axis is None and len(self.scale) > 1:
            raise DataError(f"{self.kind} has {len(self.scale)} scales and no axis; name the axis of the channels")
        for scale in self.scale:
            if not (isfinite(scale) and scale > 0):
                raise DataError(f"{self.kind} has a scale of {scale:g}; a scale is above 0 and finite")
        low, high = WHOLE[self.kind]
        for zero in self.zero:
            if not low <= zero <= high:
                raise DataError(f"{self.kind} has a zero point of {zero}; it is from {low} to {high}")

    @property
    def bits(self) -> int:
        """Bits of one number."""
        return BITS[self.kind]

    @property
    def whole(self) -> bool:
        """Whether the numbers are whole ones, with a scale."""
        return self.kind in WHOLE

    @property
    def per_channel(self) -> bool:
        """Whether each channel has a scale of its own."""
        return self.axis is not None

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the greatest whole number."""
        return WHOLE[self.kind]

    def bytes_of(self, count: int) -> int:
        """Bytes of so many numbers; several may share a byte. The scales and zero points are not counted."""
        return -(-count * self.bits // 8)

    def real(self, whole: int, place: int = 0) -> float:
        """The real number that a whole one stands for, in a channel."""
        place = place if self.per_channel else 0
        return self.scale[place] * (whole - self.zero[place])

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        own: dict[str, Any] = {"kind": self.kind}
        if self.whole:
            own |= {"scale": list(self.scale), "zero": list(self.zero), "axis": self.axis}
        return own

    @classmethod
    def of_dict(cls, told: Any) -> Precision:
        """Back from `to_dict`. Raises `DataError` for anything else."""
        damaged = DataError("a precision is a type with scales, zero points and an axis; this one is damaged")
        if not isinstance(told, dict):
            raise damaged
        fields = cast(dict[str, Any], told)
        kind, axis, scale, zero = (fields.get(key) for key in ("kind", "axis", "scale", "zero"))
        if not isinstance(kind, str) or not (axis is None or type(axis) is int):
            raise damaged
        scales, zeros = (cast(list[Any], v) if isinstance(v, list) else [] for v in (scale, zero))
        if any(v is not None and not isinstance(v, list) for v in (scale, zero)):
            raise damaged
        if any(type(s) not in (int, float) for s in scales) or any(type(z) is not int for z in zeros):
            raise damaged
        return cls(kind, tuple(float(s) for s in scales), tuple(zeros), axis)


FLOAT32 = Precision()
"""What an array has of which nothing else is said."""


def fits(precision: Precision, shape: tuple[int, ...]) -> bool:
    """Whether a precision has as many scales as an array of this shape has channels."""
    axis = precision.axis
    return axis is None or (0 <= axis < len(shape) and shape[axis] == len(precision.scale))


def grid_of(low: int, high: int, scale: float) -> Precision | None:
    """The precision of a `fake_quantize`, as unsigned whole numbers from 0 up; None where its range is wider than that
    of 16 bits, does not include 0, or its scale is none.

    >>> grid_of(-128, 127, 0.5)
    Precision(kind='uint8', scale=(0.5,), zero=(128,), axis=None)
    """
    kind = "uint8" if high - low <= 255 else "uint16"
    if not (low <= 0 <= high and high - low <= 65535 and isfinite(scale) and scale > 0):
        return None
    return Precision(kind, (scale,), (-low,))
