"""Whole networks against PyTorch (four ways), ONNX Runtime and OpenVINO, in turns in one process.

    python bench/networks.py --threads 2 --seconds 4 --out bench/results/networks.txt [--batch 1] [NAME ...]

PyTorch runs eagerly in both layouts, as a frozen graph (batch norms folded, oneDNN's own layouts), and, with --compile,
by `torch.compile` with frozen weights, which takes a C++ compiler and some 10 to 30 s per network.
Runtimes take turns of some calls (`peers.in_bursts`: a pause, calls that wake the runtime's threads, then at least two
that count), since a call right after another runtime's finds the second core taken by its spinning threads.
Random weights, one batch of random numbers. The model that the peers run is the one that dojang exports (ONNX); the
PyTorch model is made from the same graph. Times in milliseconds; ratio: best peer / dojang.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from dojang.arith.graph import Graph
from dojang.engine.compiled import compile
from dojang.formats import onnx as onnx_format
from dojang.formats import zoo
from dojang.native.machine import Machine
from peers import Runner, in_bursts, onnx_runner, openvino_runner, spread
from record import head

NETWORKS = "alexnet googlenet resnet18 resnet50 resnext50-32x4d mobilenet-v2 vgg16".split()


def filled(graph: Graph) -> Graph:
    """The network with random weights that keep activations of about one size."""
    rng = np.random.default_rng(0)
    weights = {}
    for name, shape in graph.param_shapes.items():
        if name.endswith("running_var"):
            weights[name] = rng.uniform(0.5, 1.5, shape).astype("f4")
        elif len(shape) == 1:
            weights[name] = (0.1 * rng.standard_normal(shape)).astype("f4")
            if name.endswith("weight"):
                weights[name] += 1
        else:
            weights[name] = rng.standard_normal(shape, np.float32) * np.float32((2 / np.prod(shape[1:])) ** 0.5)
    return graph.replace(weights=weights)


def torch_runner(graph: Graph, x: np.ndarray, last: bool) -> Runner:
    """The graph as a PyTorch module."""
    import torch

    from dojang.formats.torch import to_module

    layout = torch.channels_last if last else torch.contiguous_format
    module: Any = to_module(graph).eval()
    module = module.to(memory_format=layout)
    xt = torch.from_numpy(x).contiguous(memory_format=layout)

    def run():
        with torch.inference_mode():
            return module(xt)

    return run


def frozen_runner(graph: Graph, x: np.ndarray) -> Runner:
    """The traced module, batch norms folded, in the layouts that oneDNN likes."""
    import torch

    from dojang.formats.torch import to_module

    xt = torch.from_numpy(x)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing is deprecated, and still PyTorch's fastest way on some networks
        traced = torch.jit.trace(to_module(graph).eval(), xt)
        module = torch.jit.optimize_for_inference(torch.jit.freeze(traced))

    def run():
        with torch.inference_mode():
            return module(xt)

    return run


def compiled_runner(graph: Graph, x: np.ndarray) -> Runner:
    """`torch.compile` of the exported module, weights frozen."""
    import torch
    import torch._inductor.config as settings

    from dojang.formats.torch import to_module

    settings.freezing = True
    torch._dynamo.reset()
    xt = torch.from_numpy(x)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        module = torch.compile(torch.export.export(to_module(graph).eval(), (xt,)).module())
        module(xt)

    def run():
        with torch.no_grad():
            return module(xt)

    return run


def main() -> None:
    """Runs the networks and prints the table, losses included."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("names", nargs="*", default=NETWORKS)
    p.add_argument("--threads", type=int, default=Machine.host().cores)
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--seconds", type=float, default=4.0, help="per network, all runtimes together")
    p.add_argument("--compile", action="store_true", help="torch.compile among the peers")
    p.add_argument("--out", type=Path)
    args = p.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    lines: list[str] = []

    def put(text: str) -> None:
        lines.append(text)
        print(text, flush=True)

    put(
        head("src/dojang/engine", "src/dojang/native", threads=args.threads)
        + f"# batch {args.batch}; milliseconds, least / median; ratio best peer / dojang"
    )
    names = ["dojang", "torch", "torch-last", "torch-frozen", "ort", "openvino"]
    if args.compile:
        names.insert(4, "torch-compile")
    put(f"{'network':16s} " + " ".join(f"{n:>15s}" for n in names) + " median  least  best peer      ready s  differs")
    ratios: list[tuple[float, float]] = []
    for name in args.names or NETWORKS:
        graph = filled(zoo.load(name))
        x = np.random.default_rng(1).standard_normal((args.batch, *graph.inputs[0].attrs["shape"]), np.float32)
        start = time.perf_counter()
        run = compile(graph, threads=args.threads)
        y = run(x)
        prepared = time.perf_counter() - start
        model = onnx_format.to_bytes(graph)
        feeds = {graph.inputs[0].name: x}
        runners: dict[str, Runner] = {"dojang": lambda run=run, x=x: run(x)}
        runners["torch"] = torch_runner(graph, x, False)
        runners["torch-last"] = torch_runner(graph, x, True)
        runners["torch-frozen"] = frozen_runner(graph, x)
        if args.compile:
            runners["torch-compile"] = compiled_runner(graph, x)
        runners["ort"] = onnx_runner(model, feeds, args.threads)
        runners["openvino"] = openvino_runner(model, feeds, args.threads)
        expected = np.asarray(runners["torch"]())
        difference = float(np.abs(y - expected).max() / np.abs(expected).max())
        stats = {k: spread(v) for k, v in in_bursts(runners, args.seconds).items()}
        median, least = (min(stats[k][i] for k in names[1:]) / stats["dojang"][i] for i in (1, 0))
        ratios.append((median, least))
        cells = " ".join(f"{stats[k][0] * 1e3:7.2f}/{stats[k][1] * 1e3:7.2f}" for k in names)
        best = min(names[1:], key=lambda k: stats[k][0])
        put(f"{name:16s} {cells} {median:6.2f} {least:6.2f}  {best:13s} {prepared:8.2f} {difference:8.0e}")
    for i, what in enumerate(("medians", "least times")):
        values = [r[i] for r in ratios]
        mean = math.exp(sum(map(math.log, values)) / len(values))
        put(f"# {what}: geometric mean {mean:.2f}, ahead on {sum(v > 1 for v in values)} of {len(values)}")
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
