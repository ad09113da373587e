"""How a sample is normalised before it enters a network: what the network says about it, as numbers and as a sentence.

A network keeps the mean and the standard deviation of its input as attributes of the `input` node. Whether they belong
to pixels (x / 255) or to the values of the data as they stand is the entry `values` of its `meta`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dojang.arith.graph import Graph, Node

KEY = "values"
"""Entry of a network's `meta`: FLOATS where mean and deviation belong to values as they stand, absent for pixels."""

FLOATS = "float"

WHITE = 255.0
"""The largest value of a pixel, by which uint8 pictures are divided."""

Where = Literal["outside", "inside", "not stated"]


@dataclass(frozen=True, slots=True)
class Preparation:
    """How samples of one input are normalised: (x / `divisor` − `mean`) / `std` per channel.

    `where` says who does it. "outside": whoever calls the network. "inside": the network itself, which takes values as
    they stand. "not stated": the network does not say how its samples are normalised.
    """

    input: str
    where: Where
    divisor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def stated(self) -> str:
        """The sentence, or nothing where the network does not say how its samples are normalised."""
        return "" if self.where == "not stated" else str(self)

    def __str__(self) -> str:
        """A sentence that tells a person how to feed the network."""
        pixels = self.divisor == WHITE
        if self.where == "not stated":
            return f"The network does not say how the values of {self.input!r} are normalised."
        if self.where == "inside":
            what = "pixels from 0 to 255 as float32" if pixels else "values as they are in the training data"
            return f"Normalisation is inside of the network: give {self.input!r} {what}."
        x = "x / 255" if pixels else "x"
        domain = "pixels x from 0 to 255" if pixels else "values x as they are in the training data"
        return (
            f"Normalisation is outside of the network: give {self.input!r} ({x} − mean) / std for {domain}, with mean "
            f"{_listed(self.mean)} and std {_listed(self.std)}{' per channel' if len(self.mean) > 1 else ''}."
        )


def preparations(graph: Graph) -> tuple[Preparation, ...]:
    """The preparation of every input, in order."""
    return tuple(_preparation(graph, node) for node in graph.inputs)


def takes_floats(graph: Graph) -> bool:
    """Whether the stated mean and deviation belong to values as they stand, and not to pixels divided by 255."""
    return graph.meta.get(KEY) == FLOATS


def values_of(graph: Graph) -> dict[str, str]:
    """The entry of `meta` that says what mean and deviation belong to, where there is one."""
    return {KEY: graph.meta[KEY]} if KEY in graph.meta else {}


def stating(graph: Graph, mean: tuple[float, ...], std: tuple[float, ...], pixels: bool) -> Graph:
    """The network with these figures of its first input; the same network where it states some already."""
    node = graph.inputs[0]
    if node.attrs["mean"]:
        return graph
    told = node.with_attrs(mean=mean, std=std)
    graph = graph.replace(nodes=tuple(told if n is node else n for n in graph.nodes))
    return graph if pixels else graph.replace(meta={**graph.meta, KEY: FLOATS})


def unprepared(node: Node, floats: bool) -> Node:
    """The input node of a network that takes values as they stand: pixels from 0 to 255, or floats.

    (x / 255 − 0) / (1 / 255) is x, so everything that reads mean and deviation gives pixels as they are.
    """
    channels = node.attrs["shape"][0]
    return node.with_attrs(mean=(0.0,) * channels, std=((1.0 if floats else 1.0 / WHITE),) * channels)


def _preparation(graph: Graph, node: Node) -> Preparation:
    mean, std = node.attrs["mean"], node.attrs["std"]
    divisor = 1.0 if takes_floats(graph) else WHITE
    if not mean or not std:
        return Preparation(node.name, "not stated", divisor, (), ())
    inside = all(m == 0 for m in mean) and all(s * divisor == 1 for s in std)
    return Preparation(node.name, "inside" if inside else "outside", divisor, tuple(mean), tuple(std))


def _listed(numbers: tuple[float, ...]) -> str:
    """Numbers in full, so that what a person copies gives the same answers; equal ones once."""
    return ", ".join(f"{n:.9g}" for n in (numbers[:1] if len(set(numbers)) == 1 else numbers))
