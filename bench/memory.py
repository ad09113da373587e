"""What a network costs besides its arithmetic: seconds until it is ready, and memory while it runs.

    python bench/memory.py --out bench/results/memory.txt [--threads 2] [NAME ...]

Each network runs in a process of its own, whose kernels are in the cache on disk. *ready*: seconds of wall clock and
of processor from a network with its weights in memory to its first answer. *run*: the peak of all arrays while it runs
(`tracemalloc`), the weights released and the caller's copy dropped; the bound is 1.3 times weights plus activations,
where activations are the memory planned for them. *command*: the same ratio for `dojang run NETWORK input.npy --weights
FILE` as a person types it, from the peak of resident memory of its process, reading and packing included, less that of
the same command with a network of a few kilobytes (interpreter, libraries, memory of the compiler).
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np

from dojang.engine.compiled import BuildKey, compile
from dojang.formats import checkpoint, zoo
from dojang.native.machine import Machine
from networks import NETWORKS, filled
from record import head

TINY = "digits-cnn"
WATCH = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""  # in a small process: what one begins with counts into the peak of those it starts


def peak_of_command(name: str) -> int:
    """Peak bytes of resident memory of `dojang run`, whose kernels are in the cache."""
    graph = zoo.load(name)
    with tempfile.TemporaryDirectory() as folder:
        file, x = Path(folder) / "net.safetensors", Path(folder) / "x.npy"
        checkpoint.save(filled(graph), file)
        shape = graph.inputs[0].attrs["shape"]
        np.save(x, np.random.default_rng(0).standard_normal((1, *shape), np.float32))
        command = [sys.executable, "-m", "dojang", "run", str(file), str(x)]
        for _ in range(2):  # the first fills the cache
            said = subprocess.run([sys.executable, "-c", WATCH, *command], check=True, capture_output=True, text=True)
    return int(said.stdout.split()[-1]) * 1024


def one(name: str, threads: int) -> str:
    """A line of the table."""
    shape = zoo.load(name).inputs[0].attrs["shape"]
    x = np.random.default_rng(0).standard_normal((1, *shape), np.float32)
    graph = filled(zoo.load(name))
    wall, cpu = time.perf_counter(), time.process_time()
    compile(graph, threads=threads)(x)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    del graph
    gc.collect()
    tracemalloc.start()  # from here, so that it does not slow down what was timed
    graph = filled(zoo.load(name))
    weights = sum(np.asarray(a).nbytes for a in graph.weights.values())
    run = compile(graph, threads=threads, release=True)
    run(x)
    del graph
    gc.collect()
    tracemalloc.reset_peak()
    run(x)
    peak = tracemalloc.get_traced_memory()[1]
    live = run._build(BuildKey((), 1, frozenset())).lowered.scratch_at
    return (
        f"{name:18s} {wall:6.2f} {cpu:6.2f} {weights / 1e6:9.1f} {live / 1e6:9.1f} {peak / 1e6:9.1f}"
        f" {(peak - live) / weights:6.2f} {(peak_of_command(name) - peak_of_command(TINY) - live) / weights:7.2f}"
    )


def main() -> None:
    """Prints the table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("names", nargs="*", default=NETWORKS)
    p.add_argument("--threads", type=int, default=Machine.host().cores)
    p.add_argument("--single", action="store_true", help="the one network named, in this process")
    p.add_argument("--out", type=Path)
    args = p.parse_args()
    if args.single:
        print(one(args.names[0], args.threads))
        return
    lines = [
        head("src/dojang/engine", "src/dojang/native", threads=args.threads, peaks=False)
        + "# batch 1; 10^6 bytes; ratio: (peak - live) / weights",
        f"{'network':18s} {'wall s':>6s} {'cpu s':>6s} {'weights':>9s} {'live':>9s} {'peak':>9s}  ratio command",
    ]
    print("\n".join(lines), flush=True)
    for name in args.names or NETWORKS:
        command = [sys.executable, __file__, "--single", name, "--threads", str(args.threads)]
        subprocess.run(command, check=True, capture_output=True)  # fills the cache
        lines.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout.rstrip())
        print(lines[-1], flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
