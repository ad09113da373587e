"""Which sizes of its inputs an ONNX file leaves open."""

from __future__ import annotations

from dojang.formats.onnx.protobuf import Buffer, decode
from dojang.formats.onnx.read import sizes_beside_batch
from dojang.formats.onnx.schema import MODEL


def input_sizes(data: Buffer) -> dict[str, tuple[int | str, ...] | None]:
    """The size of each input by name, without the batch; a size that is open is the name that the file gives it, or "".
    None for an input without a rank.
    """
    graph = decode(MODEL, data).get("graph") or {}
    held = {tensor.get("name", "") for tensor in graph.get("initializer", ())}
    inputs = [value for value in graph.get("input", ()) if value.get("name", "") not in held]
    sizes = sizes_beside_batch(inputs)
    return {v.get("name", ""): None if s is None else tuple(s) for v, s in zip(inputs, sizes, strict=True)}
