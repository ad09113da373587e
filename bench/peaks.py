"""Whether plans made from shipped peaks are as fast as those made from peaks measured here: the networks whose plans
differ are timed under both, in turns.

    python bench/peaks.py                       # measures now; give GFLOP/s,GB/s,GB/s to compare with those instead
    python bench/peaks.py --peaks 118,14.5,90 --threads 2

A line per network and batch: in how many steps the plans differ, and the median milliseconds of each.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace

import numpy as np

from dojang.arith.graph import Graph
from dojang.engine.compiled import compile
from dojang.engine.plan.choose import Plan
from dojang.formats import zoo
from dojang.native.families import Peaks
from dojang.native.machine import Machine
from dojang.native.peaks import measure
from peers import interleaved
from record import head

NETWORKS = ("alexnet", "googlenet", "resnet18", "resnet50", "resnext50-32x4d", "mobilenet-v2", "vgg16", "nin-cifar10",
            "resnet20-cifar10", "digits-cnn")  # fmt: skip


def filled(name: str) -> Graph:
    """A network of the zoo with random weights."""
    graph, rng = zoo.load(name), np.random.default_rng(0)
    weights = {k: (rng.standard_normal(s) / 20).astype("f4") for k, s in graph.param_shapes.items()}
    return graph.replace(weights={k: np.abs(w) + 0.5 if "var" in k else w for k, w in weights.items()})


def chosen(plan: Plan) -> set[tuple[str, str]]:
    """What computes what."""
    return {(choice.value, choice.algorithm) for choice in plan.choices}


def main() -> None:
    """The table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--peaks", help="GFLOP/s, GB/s from memory, GB/s from the shared cache (default: measured now)")
    p.add_argument("--networks", nargs="+", default=NETWORKS)
    p.add_argument("--threads", type=int, default=Machine.processor().cores)
    p.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    p.add_argument("--seconds", type=float, default=3.0, help="for each network and batch")
    args = p.parse_args()
    here = Machine.processor()
    other = Peaks(*map(float, args.peaks.split(","))) if args.peaks else measure(here).rounded()
    print(head("src/dojang/engine", "src/dojang/native", threads=args.threads), end="")
    print(f"# shipped for {here.family}: {here.peaks}\n# other: {other}")
    columns = f"{'shipped ms':>10s} {'other ms':>10s} {'ratio':>6s}"
    print(f"{'network':20s} {'batch':>5s} {'steps':>5s} {'differ':>6s} {columns}")
    for name in args.networks:
        graph = filled(name)
        for batch in args.batch:
            runs = {
                key: compile(graph, threads=args.threads, machine=machine)
                for key, machine in (("shipped", here), ("other", replace(here, peaks=other)))
            }
            plans = [run.plan(batch) for run in runs.values()]
            differ = len(chosen(plans[0]) - chosen(plans[1]))
            line = f"{name:20s} {batch:5d} {len(plans[0].choices):5d} {differ:6d}"
            if differ:
                x = np.random.default_rng(1).standard_normal((batch, *graph.inputs[0].attrs["shape"]), np.float32)
                calls = {key: (lambda run=run, x=x: run(x)) for key, run in runs.items()}
                ms = [1e3 * statistics.median(t) for t in interleaved(calls, args.seconds).values()]
                line += f" {ms[0]:10.3f} {ms[1]:10.3f} {ms[1] / ms[0]:6.3f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
