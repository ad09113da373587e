"""The types of ONNX by their numbers."""

from __future__ import annotations

from dojang.base.errors import UnsupportedError

BY_CODE = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16",
    17: "float8_e4m3fn", 18: "float8_e4m3fnuz", 19: "float8_e5m2", 20: "float8_e5m2fnuz", 21: "uint4", 22: "int4",
    23: "float4_e2m1fn", 24: "float8_e8m0fnu", 25: "uint2", 26: "int2",
}  # fmt: skip
"""Names of element types by their number in a file."""


def type_of(code: object) -> str:
    """The name of a type; raises `UnsupportedError` for those that NumPy does not compute with."""
    name = BY_CODE.get(code) if isinstance(code, int) else str(code).lower()
    name = {"float": "float32", "double": "float64"}.get(name or "", name)
    if name is None or name.startswith(("float8", "float4")):
        raise UnsupportedError(f"type {name or code} is not computed with")
    return name
