"""Constants that grow with the image, as the centres of a detector's cells, as nodes that compute them for any size."""

from __future__ import annotations

import numpy as np

from dojang.arith.graph import Node
from dojang.arith.ops import STANDARD

Array = np.ndarray


def steps_of(node: Node, first: Array, second: Array) -> tuple[Node, ...]:
    """Nodes for a constant of real numbers that are evenly spaced along its one axis, 0.5, 1.5, 2.5 …, as many as its
    shape says: one step times the number of places before each, and the first number. Its arrays at two sizes; none
    where it is anything else.
    """
    if first.dtype.kind != "f" or first.ndim != second.ndim or first.size < 2 or second.size < 2:
        return ()
    if max(first.shape) != first.size or max(second.shape) != second.size:
        return ()
    one, other = first.ravel().astype("f8"), second.ravel().astype("f8")
    start, step = float(one[0]), float(one[1] - one[0])
    if any((line != start + step * np.arange(line.size)).any() for line in (one, other)):
        return ()
    shape, kind = node.attrs["shape"], node.attrs["dtype"]
    names = [f"{node.name}.{part}" for part in ("step", "axis", "places", "start")]
    total = names[2] if start else node.name
    made = [
        Node.of(names[0], "constant", shape=shape, fill=step, dtype=kind),
        Node.of(names[1], "constant", shape=(), fill=float(np.argmax(first.shape)), dtype="int64"),
        Node.of(total, STANDARD, names[0], names[1], kind="CumSum", settings='{"exclusive": 1}', shape=shape,
                batch_axis=-1, dtype=kind),
    ]  # fmt: skip
    if start:
        made += [
            Node.of(names[3], "constant", shape=(), fill=start, dtype=kind),
            Node.of(node.name, "add", total, names[3]),
        ]
    return tuple(made)
