"""Which sizes of its inputs an ONNX file leaves open."""

from __future__ import annotations

from dojang.formats.onnx.protobuf import Buffer, Message, decode
from dojang.formats.onnx.schema import MODEL


def input_sizes(data: Buffer) -> dict[str, tuple[int | None, ...] | None]:
    """The size of each input by name, without the batch; None for one that is open, or for all if there is no rank."""
    graph = decode(MODEL, data).get("graph") or {}
    held = {tensor.get("name", "") for tensor in graph.get("initializer", ())}
    inputs = [value for value in graph.get("input", ()) if value.get("name", "") not in held]
    return {value.get("name", ""): _size(value) for value in inputs}


def _size(value: Message) -> tuple[int | None, ...] | None:
    shape = value.get("type", {}).get("tensor_type", {}).get("shape")
    if shape is None:
        return None
    # Some exporters write 0 or -1 for a size that may vary.
    return tuple(d["dim_value"] if d.get("dim_value", 0) > 0 else None for d in shape.get("dim", ())[1:])
