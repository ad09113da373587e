"""Layers whose weights come from memory, as in a network, beside the same layers with weights in cache.

    python bench/cold.py [--threads 2] [--seconds 0.1] "512x7x7 conv 512 3x3 pad=1" ... [--by streamed direct]

`--by` names algorithms (default: all that take the layer, but the reference). *hot*: one layer again and again, as in
`bench/layers.py`. *cold*: as many copies of its packed weights in turns as take 200 MB; activations stay the same. In
a network the truth lies near the second: ResNet-50 uses 100 MB of weights between two uses of one. Least times.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from types import ModuleType

import numpy as np

from dojang.arith.conv import Conv
from dojang.engine.kernels import task as t
from dojang.engine.kernels.activations import Activation
from dojang.engine.kernels.conv import ALGORITHMS
from dojang.engine.kernels.task import Refusal, Task
from dojang.native import jit
from dojang.native.machine import Machine
from dojang.native.runtime import NativeCall, Program
from problems import parse

COLD_BYTES = 200_000_000


def programs(algorithm: ModuleType, task: Task, machine: Machine, threads: int) -> tuple[list[Program], list[object]]:
    """The layer once for each copy of its weights, and what must live as long."""
    conv, code = task.conv, algorithm.emit(task, machine)
    rng = np.random.default_rng(0)
    random = lambda *shape: t.on_line(rng.standard_normal(shape, np.float32))  # noqa: E731
    x, y = random(conv.n, *conv.size, conv.ic), random(conv.n, *conv.out_size, conv.oc)
    weight = rng.standard_normal(conv.weight_shape, np.float32) / np.float32(math.prod(conv.weight_shape[1:]) ** 0.5)
    weights, bias = (t.on_line(p) for p in algorithm.pack(task, machine, weight, None))
    copies = [weights, *(t.on_line(weights.copy()) for _ in range(COLD_BYTES // weights.nbytes))]
    shared = [t.on_line(np.zeros(size // 4 + 1, "f4")) for size in code.shared(conv.n)]
    natives = jit.load_recipes([s.kernel for s in code.steps], machine)
    found = []
    for some in copies:
        words = [0] * t.WORDS
        words[t.N] = conv.n
        for slot, array in zip((t.X, t.W, t.B, t.Y, t.R, t.S0, t.S1), (x, some, bias, y, y, *shared), strict=True):
            words[slot] = array.ctypes.data
        calls = [
            NativeCall(k.address("kernel"), t.table(words, s), s.units(conv.n))
            for k, s in zip(natives, code.steps, strict=True)
        ]
        found.append(Program(calls, t.WORDS, code.scratch, threads))
    return found, [x, y, bias, copies, shared, natives]


def least(run: Callable[[], object], seconds: float) -> float:
    """The least time of a call."""
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        run()
        times.append(time.perf_counter() - before)
    return min(times)


def main() -> None:
    """One line for each layer and algorithm."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("problems", nargs="+", help="lines as in bench/problems.txt")
    p.add_argument("--by", nargs="+", default=[a.NAME for a in ALGORITHMS[:-1]])
    p.add_argument("--threads", type=int, default=Machine.host().cores)
    p.add_argument("--seconds", type=float, default=0.1, help="for each time")
    args = p.parse_args()
    machine = Machine.host()
    names = {a.NAME: a for a in ALGORITHMS[:-1]}
    if unknown := [name for name in args.by if name not in names]:
        sys.exit(f"algorithm {unknown[0]} is not known; use some of {', '.join(names)}")
    peak = machine.peaks.fma_gflops * args.threads
    print(f"# {machine.cpu} ({machine.isa}), {args.threads} threads, {peak:.0f} GFLOP/s; microseconds, % of that peak")
    print(f"{'problem':44s} {'algorithm':10s} {'hot':>14s} {'cold':>14s} {'predicted':>10s}")
    for text in args.problems:
        conv: Conv = parse(text)
        task = Task.of(conv, activation=Activation("relu"))
        for name in args.by:
            offer = names[name].offer(task, machine)
            if isinstance(offer, Refusal):
                print(f"{text:44s} {name:10s} {offer.reason}")
                continue
            copies, keep = programs(names[name], task, machine, args.threads)
            hot = least(copies[0].run, args.seconds)
            cold = least(lambda copies=copies: [c.run() for c in copies], args.seconds) / len(copies)
            share = [f"{1e6 * s:8.1f} {100 * 2e-9 * conv.macs / s / peak:4.0f}%" for s in (hot, cold)]
            predicted = 1e6 * offer.seconds / args.threads
            print(f"{text:44s} {name:10s} {share[0]:>14s} {share[1]:>14s} {predicted:10.1f}", flush=True)
            del copies, keep


if __name__ == "__main__":
    main()
