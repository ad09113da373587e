"""What a page in one file holds: the picture, the values of layers and the filters, as 16-bit floats in one block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np

from dojang.app.looking import Array, PictureInside
from dojang.arith.graph import Graph, Node
from dojang.base.errors import GraphError

MOST_BYTES = 16 << 20
"""Values and filters of a page in one file, together; what is largest is left out beyond."""

LARGEST = 65504.0
"""The largest float16."""


@final
class HeldArrays:
    """Arrays one behind the other, and where each of them lies. `left_out` names what did not fit."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._end = 0
        self.told: dict[str, Any] = {"sides": {}}
        self.left_out: list[str] = []

    @property
    def content(self) -> bytes:
        """All bytes."""
        return b"".join(self._parts)

    def put(self, raw: bytes) -> int:
        """Where the bytes begin."""
        at = self._end
        padded = raw + b"\0" * (-len(raw) % 4)
        self._parts.append(padded)
        self._end += len(padded)
        return at

    def put_halves(self, array: Array) -> list[int]:
        """Where float16 numbers begin, and how many there are."""
        return [self.put(np.clip(array, -LARGEST, LARGEST).astype("<f2").tobytes()), int(array.size)]

    def put_picture(self, pixels: Array, name: str, prepared: str) -> None:
        """The picture as the network sees it."""
        height, width, _ = pixels.shape
        at = self.put(pixels.tobytes())
        self.told["picture"] = {"h": height, "w": width, "at": at, "name": name, "prepared": prepared}


def held_of(sides: Mapping[str, PictureInside]) -> HeldArrays:
    """What the page needs of each network, at most `MOST_BYTES`: of what is too much, the largest is left out."""
    held = HeldArrays()
    some = next(iter(sides.values()))
    held.put_picture(some.pixels, some.name, some.prepared)
    wanted: list[tuple[int, str, str, str]] = []
    for side, inside in sides.items():
        held.told["sides"][side] = {"values": {}, "taps": {}, "answer": inside.answer()}
        if inside.why_not is not None:
            continue
        for node in inside.graph.nodes:
            size = inside.size_of_values(node.name)
            if size:
                wanted.append((2 * size, "values", side, node.name))
            filters = _filters(inside.graph, node)
            if filters is not None:
                wanted.append((2 * filters[0].size, "taps", side, node.name))
    left = MOST_BYTES
    for size, what, side, name in sorted(wanted):
        if size > left:
            held.left_out.append(name)
            continue
        left -= size
        inside, told = sides[side], held.told["sides"][side][what]
        if what == "values":
            try:
                values = inside.values(name)
            except GraphError:  # what cannot be drawn
                continue
            told[name] = {"shape": list(values.shape), "at": held.put_halves(values)}
        else:
            weight, bias = _filters(inside.graph, inside.graph[name]) or (np.zeros(0), None)
            row: dict[str, Any] = {"shape": list(weight.shape), "at": held.put_halves(weight)}
            if bias is not None:
                row["bias"] = held.put_halves(bias)
            told[name] = row
    return held


def _filters(graph: Graph, node: Node) -> tuple[Array, Array | None] | None:
    """The filters of a layer as (oc, ic / groups, kh, kw), and its biases; None for a layer that has none."""
    if node.op not in ("conv", "conv_transpose", "dense") or node.array("weight") not in graph.weights:
        return None
    weight = np.asarray(graph.weights[node.array("weight")])
    if weight.ndim > 4:
        return None
    weight = weight.reshape(*weight.shape[:2], *(1,) * (4 - weight.ndim), *weight.shape[2:])
    if node.op == "conv_transpose":
        groups = int(node.attrs["groups"])
        ic, each, kh, kw = weight.shape
        apart = weight.reshape(groups, ic // groups, each, kh, kw).swapaxes(1, 2)
        weight = apart.reshape(groups * each, ic // groups, kh, kw)
    bias = graph.weights.get(node.array("bias"))
    return weight, None if bias is None else np.asarray(bias).reshape(-1)


def held_picture(pixels: Array, name: str) -> HeldArrays:
    """A photo alone."""
    held = HeldArrays()
    held.put_picture(pixels, name, "")
    return held
