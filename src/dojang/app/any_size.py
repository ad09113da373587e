"""Networks that take images of any size: height and width stay symbols where a file leaves them open, or on request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

from dojang.app import networks
from dojang.app.networks import InputSize
from dojang.app.symbolic import symbolised
from dojang.arith.graph import Graph, Node
from dojang.arith.open_sizes import is_open
from dojang.arith.symbol import Expr, symbol
from dojang.base.errors import DojangError, ShapeError, UsageError

AXES = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}
"""Names of the axes behind the channels."""
MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
"""What the sizes of a network may have to be multiples of, as it halves its images and adds them to larger ones."""


def load(
    net: Any,
    *,
    weights: str | Path | None = None,
    input_size: InputSize | None = None,
    num_classes: int | None = None,
    arrays: bool = True,
) -> Graph:
    """The network that `net` names, as a `Graph`: its layers with their attributes, and its weights by name.

    `net` is a name of the zoo (`available("networks")`), a .net, .onnx, .safetensors or .pt2 file, the bytes of an
    ONNX file, an `onnx.ModelProto`, Python code as "package.module:callable" or "file.py:callable" (which is run), a
    `torch.nn.Module`, or a Graph.

    `weights` is a .safetensors or .pt/.pth file whose arrays are taken by name. `input_size` (channels first, without
    batch) is needed for PyTorch modules, and replaces the size that a text or zoo network states; for several inputs
    it is a sequence of sizes in order, or a dictionary of sizes by name. A module is left as it is, and its numbers are
    copied: what is trained afterwards does not change the Graph. `num_classes`
    replaces the number of classes of texts that leave it open. With `arrays=False` weights are not read, which is
    enough to count.

    A size may be a name instead of a number, as in (3, "H", "W"), or a multiple of one, as in "32H": it stays a symbol,
    and the network takes images of any such size. An ONNX file that leaves height and width open is read so where no
    size is given.

    Raises `UsageError` for a name that means nothing, `FileError` for a file that cannot be read, `ParseError` for a
    text that does not follow the notation, `GraphError` where layers or weights do not fit together, `DataError` for
    weights that are not finite, `MissingPart` where PyTorch is needed and not installed.

    >>> net = load("lenet5")
    >>> net.inputs[0].attrs["shape"], len(net.nodes)
    ((1, 32, 32), 13)
    """
    if not arrays:
        return networks.load(net, weights=weights, input_size=input_size, num_classes=num_classes, arrays=False)
    read = lambda size, with_arrays: networks.load(  # noqa: E731
        net, weights=weights if with_arrays else None, input_size=size, num_classes=num_classes, arrays=with_arrays
    )
    size = networks.checked_size(input_size)
    if isinstance(net, Graph):
        return networks.finished(networks.with_size(net, size), weights)
    if isinstance(size, tuple) and any(isinstance(s, Expr) for s in size):
        return with_symbols(read, size, networks.name_of(net))
    if size is None and (found := open_size(net)) is not None:
        return at_any_size(read, found, networks.name_of(net))
    return read(input_size, True)


def open_size(net: Any) -> tuple[int | None, ...] | None:
    """The size of the one input of an ONNX file, if something behind its channels is open; None for anything else."""
    data = networks.onnx_bytes(net)
    if data is None:
        return None
    from dojang.formats.onnx.open_input import input_sizes

    try:
        sizes = list(input_sizes(data).values())
    except DojangError:  # whoever reads the network says so, with its name
        return None
    size = sizes[0] if len(sizes) == 1 else None
    if size is None or None not in size or size[0] is None or len(size) - 1 not in AXES:
        return None
    return size


Read = Callable[[Any, bool], Graph]
"""Reads a network at a size in numbers (or as it is: None), with its arrays or without."""


def at_any_size(read: Read, size: Sequence[int | None], name: str) -> Graph:
    """The network with symbols for what is open: any number, or multiples of the least power of two that fits."""
    names = AXES[len(size) - 1]
    kept = cache(lambda sized, arrays: read(sized, arrays))
    for times in MULTIPLES:
        symbols = (times * symbol(n) if s is None else s for s, n in zip(size[1:], names, strict=True))
        try:
            return with_symbols(kept, cast(Any, (size[0], *symbols)), name)
        except (UsageError, ShapeError):  # a ShapeError: its layers fit one size only
            continue
    return read(None, True)  # which says that it needs a size


def with_symbols(read: Read, size: tuple[Any, ...], name: str) -> Graph:
    """The network with symbols in its input size. Raises `UsageError` where its numbers depend on the size."""
    import numpy as np

    from dojang.app.spaced import steps_of

    graph = symbolised(lambda sized: read(sized, False), size, name)
    assert is_open(graph)
    one, other = (read(tuple(_number(s, value) for s in size), True) for value in (7, 13))
    moved: dict[str, Node | tuple[Node, ...]] = {}
    weights = dict(one.weights)
    for node in graph.nodes:
        for role in graph.node_params(node) if node.op == "constant" else ():
            first, second = (np.asarray(g.weights[node.array(role)]) for g in (one, other))
            if np.array_equal(first, second, equal_nan=True):
                continue
            if not (made := steps_of(node, first, second)) or {n.name for n in made[:-1]} & graph.by_name.keys():
                raise UsageError(f"{name}: {node.name} depends on the size of the input; give the size in numbers")
            moved[node.name] = made
            del weights[node.array(role)]
    return (graph.edited(moved) if moved else graph).replace(weights=weights)


def _number(size: Any, value: int) -> int:
    return int(size.at(dict.fromkeys(size.symbols, 32 * value // max(1, int(size.at(dict.fromkeys(size.symbols, 1))))))
               ) if isinstance(size, Expr) else size  # fmt: skip
