"""Networks that take images of any size: height and width stay symbols where a file leaves them open, or on request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dojang.app import networks
from dojang.app.networks import InputSize
from dojang.app.symbolic import OpenSizes, in_numbers, symbolised
from dojang.arith.graph import Graph, Node
from dojang.arith.open_sizes import is_open
from dojang.arith.ops import UNKNOWN
from dojang.arith.symbol import Expr, symbol
from dojang.base.errors import DojangError, GraphError, ShapeError, UsageError

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
    and the network takes images of any such size. An ONNX file that leaves sizes of its inputs open is read so where no
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
    name = networks.name_of(net)
    if size is not None and networks.is_symbolic(size):
        several = not isinstance(size, tuple)
        data = networks.onnx_bytes(net) if several else None
        if several and data is None:
            return read(input_size, True)  # which says that only counting works with symbols
        return with_symbols(read, networks.in_order(data, size, name) if isinstance(size, list) else size, name)
    if size is None and (found := open_sizes(net)):
        return at_any_size(read, found, name)
    return read(input_size, True)


def for_counting(net: Any, num_classes: int | None = None) -> Graph | None:
    """The network of an ONNX file that leaves sizes of its inputs open, with symbols for them and without arrays; None
    for anything else, and where its layers do not fit any size.
    """
    found = open_sizes(net)
    if not found:
        return None
    read = lambda size, _: networks.load(net, input_size=size, num_classes=num_classes, arrays=False)  # noqa: E731
    return _fitting(read, found, lambda made, size: symbolised(lambda sized: made(sized, False), size, ""))


def open_size(net: Any) -> tuple[int | None, ...] | None:
    """The size of the one input of an ONNX file, if something behind its channels is open; None for anything else."""
    found = open_sizes(net)
    size = found.get(None)
    if size is None or not isinstance(size[0], int):
        return None
    return tuple(s if isinstance(s, int) else None for s in size)


Named = dict[str | None, tuple[int | str, ...]]
"""Sizes of inputs, by name, or of the one input: numbers, and names for what is open."""


def open_sizes(net: Any) -> Named:
    """The sizes of the inputs of an ONNX file of which something is open besides the batch; none for anything else,
    and where it is not known what an open size is.

    Sizes to which the file gives one name in several inputs are one, but not two of one input, as ONNX Runtime has it:
    some exporters write "?" for each. They are called by their axes, H and W, and told apart by numbers.
    """
    data = networks.onnx_bytes(net)
    if data is None:
        return {}
    from dojang.formats.onnx.open_input import input_sizes

    try:
        inputs = input_sizes(data)
    except DojangError:  # whoever reads the network says so, with its name
        return {}
    found: Named = {}
    names: dict[object, str] = {}
    for entry, size in inputs.items():
        if size is None:
            return {}
        if all(isinstance(s, int) for s in size):
            continue
        axes = _axes(size)
        if axes is None:
            return {}
        made: list[int | str] = []
        for axis, said in enumerate(size):
            if isinstance(said, int):
                made.append(said)
                continue
            key = said if said[:1].isalpha() and size.count(said) == 1 else (entry, axis)
            if key not in names:
                taken, letter = set(names.values()), axes[axis]
                names[key] = next(n for n in (letter, *(f"{letter}{k}" for k in range(2, 99))) if n not in taken)
            made.append(names[key])
        found[entry if len(inputs) > 1 else None] = tuple(made)
    return found


def _axes(size: Sequence[int | str]) -> dict[int, str] | None:
    """What the axes of an input beside its channels are called; None where it is not known which axis has channels."""
    if len(size) == 1:
        return {0: "L"}
    first = 1 if isinstance(size[0], int) else 0 if isinstance(size[-1], int) else None
    names = AXES.get(len(size) - 1)
    return None if first is None or names is None else dict(enumerate(names, first))


Read = Callable[[Any, bool], Graph]
"""Reads a network at a size in numbers (or as it is: None), with its arrays or without."""


def at_any_size(read: Read, sizes: Named, name: str) -> Graph:
    """The network with symbols for what is open."""
    found = _fitting(read, sizes, lambda made, size: with_symbols(made, size, name))
    return read(None, True) if found is None else found  # which says that it needs a size


def _fitting(read: Read, sizes: Named, make: Callable[[Read, OpenSizes], Graph]) -> Graph | None:
    """What `make` makes of symbols for what is open: any number, or multiples of the least power of two that fits.

    Where several inputs leave sizes open under no name, the network takes different ones if its layers do.
    """
    known: dict[tuple[object, bool], Graph] = {}

    def kept(size: Any, arrays: bool) -> Graph:
        key = (tuple(size.items()) if isinstance(size, dict) else size), arrays
        if key not in known:
            known[key] = read(size, arrays)
        return known[key]

    plain = {entry: tuple(s.rstrip("0123456789") if isinstance(s, str) else s for s in one)
             for entry, one in sizes.items()}  # fmt: skip
    for times in MULTIPLES:
        for one in (sizes, plain) if plain != sizes else (sizes,):
            try:
                return make(kept, _symbols(one, times))
            except (UsageError, ShapeError, GraphError):  # its layers fit one size only
                continue
    return None


def _symbols(sizes: Named, times: int) -> OpenSizes:
    made = {entry: tuple(times * symbol(s) if isinstance(s, str) else s for s in one) for entry, one in sizes.items()}
    return made[None] if None in made else {str(entry): one for entry, one in made.items()}


def with_symbols(read: Read, size: OpenSizes, name: str) -> Graph:
    """The network with symbols in its input sizes. Raises `UsageError` where its numbers depend on the size."""
    import numpy as np

    from dojang.app.spaced import steps_of

    graph = symbolised(lambda sized: read(sized, False), size, name)
    if any(node.op == UNKNOWN for node in graph.nodes):  # branches that values decide are read with their arrays alone
        graph = symbolised(lambda sized: read(sized, True), size, name)
    assert is_open(graph)
    one, other = (read(in_numbers(size, lambda s, v=value: _number(s, v)), True) for value in (7, 13))
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
