"""Whole networks against every peer: each runtime in a process of its own, taking turns while the others are stopped.

    pip install --target /tmp/peers --no-deps -c constraints.txt ncnn pnnx MNN openvino openvino-telemetry onnxruntime
    python bench/networks.py --peers /tmp/peers --threads 2 --seconds 20 --out bench/results/networks.txt [NAME ...]

Peers: PyTorch eagerly in both layouts, as a frozen graph (batch norms folded, oneDNN's own layouts) and by inductor
with frozen weights (where there is a C++ compiler), ONNX Runtime, OpenVINO (float32), ncnn (Winograd and packed layouts
on, half precision off; pnnx converts) and MNN (precision "high"). All run the same file, which dojang exports with
random weights, on the same random input, and answers are compared with dojang's; a batch goes through ncnn image by
image.

A process takes turns: it is continued, makes calls for 60 ms and at least two that wake its threads and caches and
count nothing, then calls for 60 ms and at least two that count, and is stopped. So no thread of another runtime spins
meanwhile. Times in milliseconds (on one thread of the processor, which other work does not add to), least / median;
ratio: best peer / dojang. *limit*: what the measured peaks of all threads together leave at least, layer by layer, with
Winograd tiles to 4x4 and to 6x6 (`bench/limits.py`), and dojang's part of it by its least time. *ready*: seconds from
the file to dojang's first answer, kernels compiled where they were not. Where networks are named, the lines of others
stay in the file of --out, so that each may wait for a quiet minute.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType

import numpy as np

from dojang.arith.graph import Graph
from dojang.formats import onnx as onnx_format
from dojang.formats import zoo
from dojang.native.families import Peaks
from dojang.native.machine import Machine
from dojang.native.peaks import measure
from limits import LARGEST, least
from record import head

NETWORKS = "alexnet googlenet resnet18 resnet50 resnext50-32x4d mobilenet-v2 vgg16".split()
RUNTIMES = "dojang torch torch-last torch-frozen inductor ort openvino ncnn mnn".split()
DIFFERENCE = 1e-3
"""The largest difference to dojang's answer, over its largest number, of a peer that counts."""
ROUNDS = 5
TOGETHER = re.compile(r"# \d+ threads together: (\S+) GFLOP/s FMA, (\S+) GB/s memory, (\S+) GB/s cache")


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


class Runtime:
    """A process of `bench/runtimes.py`, stopped except while it takes a turn."""

    def __init__(self, name: str, folder: Path, threads: int, peers: Path | None) -> None:
        """Starts it and waits until it is ready; `error` says why it will not be."""
        paths = [str(p) for p in (Path(__file__).parent.parent / "src", peers, os.environ.get("PYTHONPATH")) if p]
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": str(threads),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
        }
        command = [sys.executable, str(Path(__file__).with_name("runtimes.py")), name, str(folder), str(threads)]
        self.name, self.times, self.differs = name, list[float](), 0.0
        self.noise = (folder / f"{name}.log").open("w")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.noise, text=True, env=env
        )
        said = self._answer()
        self.ready, self.error = said.get("ready", 0.0), said.get("error")
        self._stop()

    def _answer(self) -> dict:
        assert self.process.stdout
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": f"its process ended with {self.process.wait()}"}

    def turn(self) -> None:
        """Calls that are timed, all other processes being stopped."""
        assert self.process.stdin
        self.process.send_signal(signal.SIGCONT)
        print("turn", file=self.process.stdin, flush=True)
        self.times += self._answer()["times"]
        self._stop()

    def _stop(self) -> None:
        """Stops all of its threads; returns when they stand still, or when it has ended."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()
        self.noise.close()


def measured(name: str, args: argparse.Namespace, folder: Path) -> Row:
    """A network by all runtimes that run it."""
    graph = filled(zoo.load(name))
    (folder / "model.onnx").write_bytes(onnx_format.to_bytes(graph))
    shape = graph.inputs[0].attrs["shape"]
    np.save(folder / "x.npy", np.random.default_rng(1).standard_normal((args.batch, *shape), np.float32))
    del graph
    notes: list[str] = []
    with ExitStack() as stack:
        runtimes: list[Runtime] = []
        for runtime in args.runtimes:
            started = stack.enter_context(Runtime(runtime, folder, args.threads, args.peers))
            if started.error:
                notes.append(f"# {name}: {runtime} does not run: {started.error}")
                continue
            mine, answer = (np.load(folder / f"{n}.npy").ravel() for n in (args.runtimes[0], runtime))
            started.differs = (
                float(np.abs(answer - mine).max() / np.abs(mine).max()) if answer.size == mine.size else 9.0
            )
            if started.differs > DIFFERENCE:
                notes.append(f"# {name}: {runtime} does not count: its answer differs by {started.differs:.0e}")
                continue
            runtimes.append(started)
        order, start, rounds = list(runtimes), time.perf_counter(), 0
        while rounds < ROUNDS or time.perf_counter() - start < args.seconds:
            rounds += 1
            for runtime in order:
                runtime.turn()
            order = order[1:] + order[:1]
    times = {r.name: (1e3 * min(r.times), 1e3 * statistics.median(r.times)) for r in runtimes}
    return Row(name, times, runtimes[0].ready, max(r.differs for r in runtimes), tuple(notes))


@dataclass(frozen=True)
class Row:
    """What was measured of a network: least and median milliseconds by runtime, and why others have none."""

    network: str
    times: dict[str, tuple[float, float]]
    ready: float
    differs: float
    notes: tuple[str, ...] = ()

    def ratios(self, names: list[str]) -> tuple[float, float]:
        """The best peer's least time and median over those of the first of these names."""
        least_, median = (min(self.times[n][i] for n in names[1:] if n in self.times) for i in (0, 1))
        return least_ / self.times[names[0]][0], median / self.times[names[0]][1]

    def limits(self, batch: int, peaks: Peaks) -> list[float]:
        """Milliseconds that the peaks leave at least, by the largest tiles."""
        return [1e3 * least(zoo.load(self.network), batch, peaks, Machine.host().l3, m) for m in LARGEST]

    def line(self, names: list[str], batch: int, peaks: Peaks) -> str:
        """Its line of the table."""
        mine = self.times[names[0]][0]
        cells = " ".join(f"{'{:.2f}/{:.2f}'.format(*self.times[n]) if n in self.times else '-':>13s}" for n in names)
        shares = "  ".join(f"{limit:6.2f} {100 * limit / mine:3.0f}%" for limit in self.limits(batch, peaks))
        least_, median = self.ratios(names)
        best = min((n for n in names[1:] if n in self.times), key=lambda n: self.times[n][0])
        ends = f"{self.ready:8.2f} {self.differs:8.0e}"
        return f"{self.network:16s} {cells} {least_:6.2f} {median:6.2f}  {best:13s} {shares} {ends}"


def row(line: str, names: list[str], notes: list[str]) -> Row:
    """What a line of an earlier table says."""
    network, *words = line.split()
    times = {
        name: (float(low), float(middle))
        for name, word in zip(names, words, strict=False)
        if word != "-"
        for low, middle in [word.split("/")]
    }
    return Row(
        network, times, float(words[-2]), float(words[-1]), tuple(n for n in notes if n.startswith(f"# {network}:"))
    )


def earlier(path: Path | None, conditions: str, names: list[str]) -> tuple[dict[str, Row], Peaks | None]:
    """The rows of an earlier run by network and its peaks; stops where it was measured under other conditions."""
    if not path or not path.exists():
        return {}, None
    lines = path.read_text().splitlines()
    if conditions not in lines or columns(names) not in lines:
        sys.exit(
            f"{path} holds other measurements than {conditions[2:]!r} of these runtimes: name another file for --out"
        )
    notes = [line for line in lines if line.startswith("# ")]
    rows = [row(line, names, notes) for line in lines[lines.index(columns(names)) + 1 :] if not line.startswith("#")]
    (found,) = (m for m in map(TOGETHER.match, lines) if m)
    return {r.network: r for r in rows}, Peaks(*map(float, found.groups()))


def columns(names: list[str]) -> str:
    """The heading of the table."""
    ends = " least median  best peer     limit to 4x4   to 6x6      ready s  differs"
    return f"{'network':16s} " + " ".join(f"{n:>13s}" for n in names) + ends


def summary(rows: list[Row], names: list[str], batch: int, peaks: Peaks) -> list[str]:
    """Geometric means over the networks."""
    mean_of = lambda values: math.exp(sum(map(math.log, values)) / len(values))  # noqa: E731
    lines = []
    for i, what in enumerate(("least times", "medians")):
        values = [r.ratios(names)[i] for r in rows]
        ahead = f"ahead on {sum(v > 1 for v in values)} of {len(values)}"
        lines.append(f"# {what}: geometric mean {mean_of(values):.2f}, smallest {min(values):.2f}, {ahead}")
    parts = [[limit / r.times[names[0]][0] for limit in r.limits(batch, peaks)] for r in rows]
    means = [
        f"{100 * mean_of(p):.0f}% (tiles to {m}x{m})" for p, m in zip(zip(*parts, strict=True), LARGEST, strict=True)
    ]
    return [*lines, f"# part of the limit, geometric mean: {', '.join(means)}"]


def main() -> None:
    """Runs the networks and prints the table, losses included."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("names", nargs="*", default=NETWORKS)
    p.add_argument("--threads", type=int, default=Machine.host().cores)
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--seconds", type=float, default=20.0, help="per network, all runtimes together")
    p.add_argument("--runtimes", nargs="+", default=RUNTIMES, help="the first is compared with the others")
    p.add_argument("--peers", type=Path, help="folder with peers that are not installed beside dojang")
    p.add_argument("--note", default="", help="a line for the head of the table: what else ran meanwhile")
    p.add_argument("--out", type=Path, help="its lines of other networks stay")
    args = p.parse_args()
    if args.peers:
        sys.path.append(str(args.peers))  # the head tells their versions
    names = args.runtimes
    conditions = f"# {args.threads} threads, batch {args.batch}; milliseconds, least/median; ratio best peer / dojang"
    conditions += "; limit in milliseconds, % of it by least times"
    conditions += "; times of the processor" if args.threads == 1 else ""
    rows, known = earlier(args.out, conditions, names)
    peaks = measure(Machine.host(), args.threads).rounded()
    if known:
        peaks = Peaks(*(max(getattr(k, f.name) for k in (peaks, known)) for f in fields(Peaks)))
    together = f"# {args.threads} threads together: {peaks.fma_gflops} GFLOP/s FMA, {peaks.read_gbs} GB/s memory, "
    together += f"{peaks.cache_gbs} GB/s cache, the best of these runs"
    begin = [
        head("src/dojang/engine", "src/dojang/native", threads=args.threads, extra=("ncnn", "pnnx", "MNN")).rstrip(),
        conditions,
        together,
        *([f"# {args.note}"] if args.note else []),
        columns(names),
    ]
    print(*begin, sep="\n", flush=True)
    for name in args.names or NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = measured(name, args, Path(folder))
        print(rows[name].line(names, args.batch, peaks), *rows[name].notes, sep="\n", flush=True)
        if args.out:  # after each line, so that a run that is stopped loses nothing
            found = [rows[n] for n in NETWORKS if n in rows] + [r for n, r in rows.items() if n not in NETWORKS]
            table = [text for r in found for text in (r.line(names, args.batch, peaks), *r.notes)]
            args.out.write_text("\n".join([*begin, *table, *summary(found, names, args.batch, peaks)]) + "\n")
    print(*summary([rows[n] for n in args.names or NETWORKS], names, args.batch, peaks), sep="\n")


if __name__ == "__main__":
    main()
