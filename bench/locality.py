"""How local Winograd and Fourier are: errors on activations, spikes and NaN, beside those of a direct float32 sum
and of PyTorch in float32.

    python bench/locality.py [--weights FILE --pictures FOLDER_OR_ZIP] > bench/results/locality.txt

Each convolution that an algorithm takes gets the activations that arrive there (8 pictures), and is computed by it, by
`direct` and by PyTorch in float32; the oracle is PyTorch in float64. Numbers are the largest over all outputs of all
such layers:

    of the map   error over the largest output of the layer
    own window   error over 2^-24 times the sum of |x·w| in the output's own window: what a sum of floats bounds
    near         the same over the largest such sum among the outputs of its neighbourhood (the same tile, at most m - 1
                 pixels away; for Fourier the whole map): what a fast algorithm bounds
    worse        outputs in a million whose error is above 10 times direct's largest by their own window

"spike": one pixel of the input is 10,000 times the largest activation. "NaN": one pixel is none; `spread` are the
outputs of one channel that become NaN besides those that read it. `--weights` and `--pictures` are those of
resnet20-cifar10; without them its weights and pictures are random.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from dojang.app.samples import load_samples
from dojang.arith.conv import Conv
from dojang.arith.graph import Graph, Node
from dojang.arith.shapes import conv_problem
from dojang.engine.kernels.conv import direct, fourier, winograd
from dojang.engine.kernels.task import Refusal, Task
from dojang.engine.reference.operators import run_reference
from dojang.formats import zoo
from dojang.native.machine import Machine
from kernels import run
from record import head

HOST = Machine.host()
UNIT = 2.0**-24
PICTURES = 8
Layer = tuple[Conv, np.ndarray, np.ndarray]


def layers_of(graph: Graph, x: np.ndarray) -> Iterator[Layer]:
    """Each convolution of stride 1 with the activations that reach it and its weights."""
    wanted = [n for n in graph.nodes if n.op == "conv" and max(n.attrs["stride"]) == 1 and max(n.attrs["kernel"]) > 1]
    taps = run_reference(graph, x, taps=[n.inputs[0] for n in wanted]).taps
    for node in wanted:
        arrives = taps[node.inputs[0]].astype("f4")
        yield conv_problem(node.attrs, [arrives.shape]), arrives, np.asarray(graph.weights[f"{node.name}.weight"], "f4")


def he(graph: Graph) -> Graph:
    """The network with random weights of the usual deviation, norms as new."""
    rng = np.random.default_rng(0)
    weights = {}
    for name, shape in graph.param_shapes.items():
        if len(shape) > 1:
            weights[name] = (rng.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5).astype("f4")
        else:
            weights[name] = np.full(shape, float(name.endswith(("scale", "var"))), "f4")
    return graph.replace(weights=weights)


def stack(kernel: int, channels: int, size: int, groups: int = 1) -> Graph:
    """Four convolutions with ReLU between."""
    nodes = [Node.of("x", "input", shape=(channels, size, size))]
    for k in range(4):
        nodes.append(Node.of(f"c{k}", "conv", nodes[-1].name, out=channels, kernel=(kernel, kernel), groups=groups,
                             padding=kernel // 2))  # fmt: skip
        nodes.append(Node.of(f"r{k}", "relu", nodes[-1].name))
    return he(Graph(tuple(nodes), (nodes[-1].name,), f"random {kernel}x{kernel}, {channels} channels"))


def convolved(c: Conv, x: np.ndarray, w: np.ndarray, dtype: torch.dtype = torch.float64) -> np.ndarray:
    """PyTorch, channels first."""
    wide = F.pad(torch.from_numpy(x).to(dtype), [p for pair in reversed(c.padding) for p in pair])
    return F.conv2d(wide, torch.from_numpy(w).to(dtype), None, 1, 0, c.dilation, c.groups).numpy()


def nearby(size: np.ndarray, reach: int | None) -> np.ndarray:
    """The largest within `reach` pixels, of the map where None, over all channels of an image."""
    most = torch.from_numpy(size).amax(1, keepdim=True)
    if reach is None:
        return most.amax((2, 3), keepdim=True).numpy()
    return F.max_pool2d(most, 2 * reach + 1, 1, reach).numpy()


class Ways:
    """Algorithms with one parameter fixed."""

    def __init__(self) -> None:
        """Winograd for two tile sizes, Fourier."""
        self.shape_of = winograd.shape_of

    def __iter__(self) -> Iterator[tuple[str, int | None, int]]:
        """(name, pixels within which an error stays, m of Winograd's tile)."""
        yield from (("direct", 0, 0), ("pytorch", 0, 0))
        yield from (("winograd m=2", 1, 2), ("winograd m=4", 3, 4), ("fourier", None, 0))

    def run(self, name: str, m: int, c: Conv, x: np.ndarray, w: np.ndarray) -> np.ndarray | None:
        """The output, channels first; None where the algorithm refuses."""
        if name == "pytorch":
            return convolved(c, x, w, torch.float32)
        algorithm = {"direct": direct, "fourier": fourier}.get(name, winograd)
        task = Task.of(c)
        if isinstance(algorithm.offer(task, HOST), Refusal):
            return None
        if m:
            winograd.shape_of = lambda task, machine: winograd._cut(winograd.two(task), machine, m)
        try:
            return np.moveaxis(run(algorithm, task, HOST, x, w, None), -1, 1)
        finally:
            winograd.shape_of = self.shape_of


def report(title: str, layers: list[Layer]) -> None:
    """The table of one source of activations."""
    print(f"\n{title}: {len(layers)} layers")
    print(f"{'':14}{'layers':>7}{'of the map':>12}{'own window':>12}{'near':>8}{'worse':>8}"
          f"{'spike: own':>13}{'near':>8}{'NaN: spread':>13}", flush=True)  # fmt: skip
    limit = 0.0
    for name, reach, m in Ways():
        ways, rows, spread = Ways(), [], 0
        for c, x, w in layers:
            row: list[float] = []
            for spike in (False, True):
                given = x.copy()
                if spike:
                    given[0, 0, c.size[0] // 2, c.size[1] // 2] = 1e4 * np.abs(x).max()
                y = ways.run(name, m, c, given, w)
                if y is None:
                    break
                right, size = convolved(c, given, w), convolved(c, np.abs(given), np.abs(w)) + 1e-30
                error = np.abs(y - right)
                own = error / (UNIT * size)
                near = (error / (UNIT * nearby(size, reach))).max()
                row += [error.max() / np.abs(right).max(), own.max(), near, (own > 10 * limit).mean() * 1e6]
            if not row:
                continue
            rows.append(row)
            given = x[:1].copy()
            given[0, 0, c.size[0] // 2, c.size[1] // 2] = np.nan
            y = ways.run(name, m, c, given, w)
            assert y is not None
            spread = max(spread, int((np.isnan(y[0, 0]) & ~np.isnan(convolved(c, given, w)[0, 0])).sum()))
        if not rows:
            continue
        most = np.max(rows, axis=0)
        if name == "direct":
            limit = most[1]
            most[3] = 0
        print(f"{name:14}{len(rows):7}{most[0]:12.1e}{most[1]:12.3g}{most[2]:8.3g}{most[3]:8.0f}"
              f"{most[5]:13.3g}{most[6]:8.3g}{spread:13}", flush=True)  # fmt: skip


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="weights of resnet20-cifar10")
    parser.add_argument("--pictures", help="CIFAR-10, as dojang takes data")
    args = parser.parse_args()
    print(head("src/dojang/engine/kernels", "src/dojang/native", peaks=False))
    print(f"{PICTURES} pictures; errors in units of 2^-24", flush=True)
    digits = zoo.load("digits-cnn")
    x = load_samples("digits", digits).test.inputs(0, PICTURES)
    report("digits-cnn, handwritten digits", [*layers_of(digits, x)])
    net = zoo.load("resnet20-cifar10")
    if args.weights:
        from dojang.app.networks import load

        net = load("resnet20-cifar10", weights=args.weights)
        x = load_samples(args.pictures, net).test.inputs(0, PICTURES)
        report("resnet20-cifar10 as trained, its test pictures", [*layers_of(net, x)])
    else:
        x = np.random.default_rng(0).standard_normal((PICTURES, 3, 32, 32)).astype("f4")
        report("resnet20-cifar10, random weights and pictures", [*layers_of(he(net), x)])
    for kernel, channels, size, groups in ((3, 64, 28, 1), (5, 32, 28, 1), (7, 16, 28, 1), (15, 8, 28, 8)):
        graph = stack(kernel, channels, size, groups)
        x = np.random.default_rng(1).standard_normal((PICTURES, channels, size, size)).astype("f4")
        report(graph.name, [*layers_of(graph, x)])


if __name__ == "__main__":
    main()
