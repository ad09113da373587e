"""The least time that a processor's peaks leave a network: layer by layer, the longer of multiplying and fetching.

    python bench/limits.py [--threads 2] [--batch 1] [NAME ...]

Only convolutions and dense layers count; all else is taken as fused into them, for nothing. *Multiplying*: the
multiplications of the best known reduction, at the measured peak of all threads. For kernels of 3×3 and 5×5 with stride
1 whose groups have at least 16 channels on both sides that is a Winograd tile F(m×m, r×r), the best m from 2 to the
largest allowed, with whole tiles; its transforms count nothing. Elsewhere it is the definition, without products with
padding. *Fetching*: weights, as stored in float32, from memory where all of the network's weights do not fit into the
shared cache, and from that cache where they do; inputs and outputs from the shared cache. Peaks are measured on all
threads at once.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace

from dojang.arith.conv import Conv
from dojang.arith.graph import Graph
from dojang.arith.shapes import conv_problem
from dojang.formats import zoo
from dojang.native.families import Peaks
from dojang.native.machine import Machine
from dojang.native.peaks import measure

LARGEST = (4, 6)
"""Outputs along an axis of the largest Winograd tiles: what kernels in use have, and the largest known as useful."""


@dataclass(frozen=True)
class Layer:
    """A convolution or dense layer and the seconds that its multiplications and its bytes take at least."""

    name: str
    conv: Conv
    multiplying: float
    fetching: float

    @property
    def seconds(self) -> float:
        """The longer of both."""
        return max(self.multiplying, self.fetching)


def met(conv: Conv) -> int:
    """Multiplications of the definition, those with padding left out."""
    per_axis = []
    for size, out, kernel, stride, (low, _), dilation in zip(
        conv.size, conv.out_size, conv.kernel, conv.stride, conv.padding, conv.dilation, strict=True
    ):
        per_axis.append(sum(0 <= o * stride - low + k * dilation < size for o in range(out) for k in range(kernel)))
    return conv.n * math.prod(per_axis) * (conv.ic // conv.groups) * conv.oc


def multiplications(conv: Conv, largest: int) -> int:
    """The fewest multiplications that are known, with tiles of at most `largest` outputs along an axis."""
    found = met(conv)
    square = conv.rank == 2 and conv.kernel in ((3, 3), (5, 5)) and set(conv.stride) == set(conv.dilation) == {1}
    if square and min(conv.ic, conv.oc) // conv.groups >= 16:
        for m in range(2, largest + 1):
            tiles = math.prod(-(-size // m) for size in conv.out_size)
            taps = (m + conv.kernel[0] - 1) ** 2
            found = min(found, conv.n * tiles * taps * (conv.ic // conv.groups) * conv.oc)
    return found


def layers(graph: Graph, batch: int, peaks: Peaks, l3: int, largest: int) -> list[Layer]:
    """Every convolution and dense layer with its least times. `peaks` are those of all threads together."""
    weights = sum(4 * math.prod(shape) for shape in graph.param_shapes.values())
    slow = peaks.cache_gbs if weights <= l3 else peaks.read_gbs
    found = []
    for node in graph.nodes:
        arrives = [graph.unit_shapes[i] for i in node.inputs]
        if node.op == "conv":
            one = conv_problem(node.attrs, arrives)
        elif node.op == "dense":
            one = Conv.of(arrives[0][-1], node.attrs["out"], (*arrives[0][1:-1], 1), (1,) * len(arrives[0][1:]))
        else:
            continue
        conv = replace(one, n=batch * one.n)
        around = 4 * (math.prod(conv.in_shape) + math.prod(conv.out_shape))
        fetching = 4 * math.prod(conv.weight_shape) / slow / 1e9 + around / peaks.cache_gbs / 1e9
        found.append(Layer(node.name, conv, 2 * multiplications(conv, largest) / peaks.fma_gflops / 1e9, fetching))
    return found


def least(graph: Graph, batch: int, peaks: Peaks, l3: int, largest: int) -> float:
    """Seconds that all layers take at least."""
    return sum(layer.seconds for layer in layers(graph, batch, peaks, l3, largest))


def main() -> None:
    """A line for each layer of the networks named, and their sums."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("names", nargs="+")
    p.add_argument("--threads", type=int, default=Machine.host().cores)
    p.add_argument("--batch", type=int, default=1)
    args = p.parse_args()
    machine = Machine.host()
    peaks = measure(machine, args.threads)
    print(f"# {args.threads} threads together: {peaks.rounded()}; ms: multiplying by tiles to 4x4, 6x6; fetching")
    for name in args.names:
        graph = zoo.load(name)
        small, large = (layers(graph, args.batch, peaks, machine.l3, m) for m in LARGEST)
        for a, b in zip(small, large, strict=True):
            print(f"{a.name:32s} {a.multiplying * 1e3:8.3f} {b.multiplying * 1e3:8.3f} {a.fetching * 1e3:8.3f}")
        print(
            f"# {name}: {' and '.join(f'{1e3 * sum(la.seconds for la in found):.2f}' for found in (small, large))} ms"
        )


if __name__ == "__main__":
    main()
