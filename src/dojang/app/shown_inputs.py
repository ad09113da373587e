"""The inputs of a network on the page: what is given for them, dojang's own picture, and samples drawn by a rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dojang.app.prepared import InputPreparation
from dojang.app.running import prepare, prepare_picture, size_of
from dojang.arith.conv import by
from dojang.arith.graph import Graph, Node
from dojang.arith.open_sizes import at_size, is_open, nearest, reference_values, values_for
from dojang.arith.ops import STANDARD
from dojang.arith.preparation import takes_floats
from dojang.arith.standard import REAL, SINGLE, attrs_of
from dojang.base.errors import ShapeError, UsageError
from dojang.formats.arrays import read_npz

Array = np.ndarray
Given = str | Path | Array

OPEN = (3, 224, 224)
"""The size of a picture in a network that takes any, if no picture says it."""

KEPT_WHOLE = frozenset(("reshape", "squeeze", "unsqueeze", "flatten", "transpose", "slice", "identity", "concat"))
"""Operators behind which a whole number is still the same one."""


@dataclass(frozen=True, slots=True)
class ShownInput:
    """What one input has: `x` with its batch axis, if it has one; the name of the file it is from ("": dojang's own);
    how it was made; and how it looks, as uint8 (h, w, 3).
    """

    x: Array
    name: str
    prepared: InputPreparation
    pixels: Array

    @property
    def is_drawn(self) -> bool:
        """Whether it is a sample that was drawn, in place of one that was given."""
        return self.prepared.made in ("drawn", "drawn-whole", "ones")


def picture_node(node: Node) -> Node | None:
    """An input as one that takes a batch of pictures, (1, 3 or 4 channels, h, w); None of an input that takes none.

    A network that was exported for one picture without a batch axis takes (1, c, h, w) as it stands.
    """
    shape, axis = tuple(node.attrs["shape"]), node.attrs["batch_axis"]
    if axis == -1 and len(shape) == 4 and shape[0] == 1:
        shape, axis = shape[1:], 0
    fits = axis == 0 and len(shape) == 3 and shape[0] in (1, 3, 4) and node.attrs["dtype"] in SINGLE
    return node.with_attrs(shape=shape, batch_axis=0) if fits else None


def one_of(x: Array, node: Node) -> Array:
    """The first sample of an input, without its batch axis."""
    axis = node.attrs["batch_axis"]
    if axis >= 0:
        return x.take(0, axis)
    return x[0] if x.ndim > 1 and len(x) == 1 else x


def shown_inputs(graph: Graph, source: Given | Mapping[str, Given] | None) -> tuple[Graph, tuple[ShownInput, ...]]:
    """The network at one size, and what each of its inputs has.

    `source` is a picture, an .npy or an array, which goes into the first input that it fits; or one for each input by
    name, as an .npz has them. Inputs for which nothing is given have a picture of dojang's own where they take
    pictures (mirrored in every second one), else a sample that `drawn` makes. Raises what `prepare` raises,
    `UsageError` for a name that is no input's, `ShapeError` for what fits none of several inputs.
    """
    given = _by_name(graph, source)
    sized = _at_one_size(graph, given)
    floats = takes_floats(graph)
    found: list[ShownInput] = []
    mirrored = False
    for place, node in enumerate(sized.inputs):
        if node.name in given:
            found.append(_made(given[node.name], node, floats))
        elif picture_node(node) is not None:
            found.append(_own_picture(node, mirrored))
            mirrored = not mirrored
        else:
            x, prepared = drawn(sized, node, place)
            found.append(_shown(x, "", prepared, node))
    return sized, tuple(found)


def from_picture(raw: bytes, name: str, node: Node, called: str = "the picture") -> ShownInput:
    """What an input has of the content of a picture file. Raises what `prepare_picture` raises."""
    x, prepared = prepare_picture(raw, name or called, picture_node(node) or node)
    return _shown(x, name, prepared, node)


def drawn(graph: Graph, node: Node, place: int = 0) -> tuple[Array, InputPreparation]:
    """A sample for an input for which nothing is given, the same each time.

    Numbers with which rows of an array are looked up, as tokens are, are drawn from the rows that there are; bytes from
    0 to 255; real numbers from the normal distribution. All other whole numbers and truth values are 1, which is what
    a mask has where nothing is masked.
    """
    shape, axis, dtype = list(node.attrs["shape"]), node.attrs["batch_axis"], node.attrs["dtype"]
    unit = tuple(shape)
    if axis >= 0:
        shape.insert(axis, 1)
    rng = np.random.default_rng(place)
    kind = np.dtype(np.float32) if dtype in SINGLE else np.dtype(dtype)
    rows = 256 if dtype == "uint8" else rows_of(graph, node.name)
    if rows is not None:
        return rng.integers(0, rows, shape).astype(kind), InputPreparation("drawn-whole", unit, most=rows - 1)
    if dtype in REAL:
        return rng.standard_normal(shape).astype(kind), InputPreparation("drawn", unit)
    return np.ones(shape, kind), InputPreparation("ones", unit)


def is_drawable(node: Node) -> bool:
    """Whether `drawn` makes samples of the type of an input: not of text, complex numbers or packed bits."""
    try:
        return node.attrs["dtype"] in SINGLE or np.dtype(node.attrs["dtype"]).kind in "biuf"
    except TypeError:
        return False


def rows_of(graph: Graph, name: str) -> int | None:
    """How many rows the smallest array has from which the numbers of an input pick; None if they pick from none."""
    found: list[int] = []
    seen = {name}
    ahead = [name]
    while ahead:
        value = ahead.pop()
        for node in graph.consumers[value]:
            kind = node.attrs["kind"].rpartition(".")[2] if node.op == STANDARD else ""
            if kind == "Gather" and len(node.inputs) == 2 and node.inputs[1] == value:
                rows = graph.shapes(1)[node.inputs[0]]
                axis = attrs_of(node.attrs).get("axis", 0)
                if rows is not None and isinstance(rows[axis], int):
                    found.append(rows[axis])
            elif (node.op in KEPT_WHOLE or kind == "Cast") and node.name not in seen:
                seen.add(node.name)
                ahead.append(node.name)
    return min(found) if found else None


def pixels_of(x: Array, node: Node) -> Array:
    """What the network sees of one sample, as a picture of uint8 (h, w, 3): without normalisation, a row of numbers as
    a row.
    """
    maps = x.reshape(1, 1, -1) if x.ndim < 2 else as_maps(x)
    maps = maps.astype(np.float64) if maps.dtype.kind != "f" else maps
    mean, std = node.attrs["mean"], node.attrs["std"]
    channels = len(maps)
    if mean and std:
        maps = maps * _per_channel(std, channels) + _per_channel(mean, channels)
    if maps.min() < -0.01 or maps.max() > 1.01:
        span = float(maps.max() - maps.min()) or 1.0
        maps = (maps - maps.min()) / span
    shown = maps[:3] if channels >= 3 else np.repeat(maps[:1], 3, axis=0)
    return np.ascontiguousarray(np.rint(np.moveaxis(shown, 0, -1).clip(0, 1) * 255).astype(np.uint8))


def as_maps(values: Array) -> Array:
    """The values of one sample as (c, h, w)."""
    if values.ndim < 2:
        return values.reshape(-1, 1, 1)
    if values.ndim == 2:
        return values[:, None, :]
    return values.reshape(values.shape[0], -1, values.shape[-1])


def _per_channel(values: Sequence[float], channels: int) -> Array:
    """One value for each channel, (channels, 1, 1); another number of them is the first for all."""
    return np.asarray(values if len(values) == channels else [values[0]] * channels, np.float32)[:, None, None]


def _by_name(graph: Graph, source: Given | Mapping[str, Given] | None) -> dict[str, Given]:
    """What is given, by the name of its input."""
    names = [node.name for node in graph.inputs]
    if source is None:
        return {}
    if isinstance(source, str | Path) and Path(source).suffix == ".npz":
        source = dict(read_npz(source))
        if len(source) == len(names) == 1:
            return {names[0]: next(iter(source.values()))}
    if isinstance(source, Mapping):
        strange = next((name for name in source if name not in names), None)
        if strange is not None:
            raise UsageError(f"{graph.name} has no input {strange!r}; its inputs are {', '.join(names)}")
        return dict(source)
    if len(names) == 1:
        return {names[0]: source}
    fits = _array_fits if isinstance(source, Array) or Path(source).suffix == ".npy" else _takes_picture
    found = next((node.name for node in graph.inputs if fits(node, source)), None)
    if found is None:
        what = f"an array of {by(source.shape)}" if isinstance(source, Array) else str(source)
        inputs = ", ".join(f"{node.name} ({by(node.attrs['shape'])})" for node in graph.inputs)
        raise ShapeError(f"{what} fits none of the inputs {inputs}; give an .npz with an array for each by its name")
    return {found: source}


def _takes_picture(node: Node, _: Any) -> bool:
    return picture_node(node) is not None


def _array_fits(node: Node, source: Any) -> bool:
    """Whether an array has the axes of an input, with or without a batch."""
    from dojang.formats.arrays import read_npy

    given = source.shape if isinstance(source, Array) else read_npy(Path(source)).shape
    wanted, axis = tuple(node.attrs["shape"]), node.attrs["batch_axis"]
    without = given[:axis] + given[axis + 1 :] if axis >= 0 and len(given) == len(wanted) + 1 else given
    pairs = zip(without, wanted, strict=False)
    return len(without) == len(wanted) and all(not isinstance(size, int) or size == n for n, size in pairs)


def _at_one_size(graph: Graph, given: Mapping[str, Given]) -> Graph:
    """The network with numbers in place of sizes that it leaves open."""
    if not is_open(graph):
        return graph
    first = graph.inputs[0]
    if len(graph.inputs) > 1:
        return at_size(graph, reference_values(graph, OPEN[-1]))
    if first.name in given:
        source = given[first.name]
        return at_size(graph, values_for(graph, {first.name: size_of(graph, source).attrs["shape"]}))
    if picture_node(first) is None:
        return at_size(graph, reference_values(graph, OPEN[-1]))
    return at_size(graph, values_for(graph, {first.name: nearest(first.attrs["shape"], OPEN)}))


def _made(source: Given, node: Node, floats: bool) -> ShownInput:
    """An input from a picture or an array; of a batch the first sample."""
    name = "array" if isinstance(source, Array) else Path(source).name
    is_array = isinstance(source, Array) or Path(source).suffix == ".npy"
    how = node if is_array else picture_node(node) or node
    x, prepared = prepare(source, how, floats)
    axis = how.attrs["batch_axis"]
    return _shown(x.take([0], axis) if axis >= 0 else x, name, prepared, node)


def _own_picture(node: Node, mirrored: bool) -> ShownInput:
    from dojang.filters.gallery import png, sample

    pixels = sample(224, 336)
    return from_picture(png(pixels[:, ::-1] if mirrored else pixels), "", node, "dojang's own picture")


def _shown(x: Array, name: str, prepared: InputPreparation, node: Node) -> ShownInput:
    x = np.ascontiguousarray(x, np.float32 if node.attrs["dtype"] in SINGLE else None)
    return ShownInput(x, name, prepared, pixels_of(one_of(x, node), node))
