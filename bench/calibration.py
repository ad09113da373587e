"""Predicted against measured times: of every network of the zoo, and of every algorithm over all their steps.

    flock /tmp/bench.lock python bench/calibration.py --threads 1 -o bench/results/predicted.txt
    python bench/calibration.py --networks resnet18 --measure       # with peaks measured now, not the family's

Run it before and after a change to a constant of `native/costs.py`. The ratio is the measured time over the predicted
one. If all rows had the same ratio, only the peaks would be those of another machine and no choice would be wrong: look
at how far rows differ. A network's time is the least of its runs. A step's time is the mean over the
faster half of calls in which the clock is read between steps. With `--threads 1` the clock is the
processor's, which stands still while other work runs; that is the way on a busy machine.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from dojang.engine.compiled import compile
from dojang.formats import zoo
from dojang.native.costs import COSTS
from dojang.native.machine import Machine
from dojang.native.peaks import measure
from peaks import filled
from peers import Runner, in_bursts
from record import head


def least(run: Runner, seconds: float, threads: int) -> float:
    """The least time of a run: in bursts by the wall's clock, or, on one thread, by the processor's."""
    if threads > 1:
        return min(in_bursts({"": run}, seconds)[""])
    times: list[float] = []
    run()
    while sum(times) < seconds or len(times) < 5:
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    """The tables."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--networks", nargs="+", default=zoo.names())
    p.add_argument("--threads", type=int, default=Machine.processor().cores)
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--seconds", type=float, default=1.0, help="for each network, twice (default 1)")
    p.add_argument("--measure", action="store_true", help="plan for peaks measured now")
    p.add_argument("-o", type=Path, help="also written there")
    args = p.parse_args()
    machine = Machine.processor()
    if args.measure:
        machine = replace(machine, peaks=measure(machine).rounded(), source="measured now")
    said: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        said.append(line)

    say(head("src/dojang/engine", "src/dojang/native", threads=args.threads).rstrip())
    say(f"# planned for {machine.family}: {machine.peaks}; batch {args.batch}")
    say(f"\n{'network':20s} {'steps':>5s} {'predicted ms':>12s} {'measured ms':>12s} {'ratio':>6s} {'of steps':>11s}")
    ratios: dict[str, list[tuple[float, float]]] = defaultdict(list)
    whole: list[float] = []
    for name in args.networks:
        graph = filled(name)
        run = compile(graph, threads=args.threads, machine=machine, release=True, batch_size=args.batch)
        x = np.random.default_rng(1).standard_normal((args.batch, *graph.inputs[0].attrs["shape"]), np.float32)
        del graph
        measured = least(lambda run=run, x=x: run(x), args.seconds, args.threads)
        plan = run.measured(args.batch, args.seconds, cpu=args.threads == 1)
        alone = 0.0
        for choice in plan.choices:
            alone += choice.measured_s or 0.0
            if choice.predicted_s and choice.measured_s:
                ratios[choice.algorithm].append((choice.predicted_s, choice.measured_s))
        whole.append(measured / plan.predicted_s)
        say(f"{name:20s} {len(plan.choices):5d} {1e3 * plan.predicted_s:12.3f} {1e3 * measured:12.3f} {whole[-1]:6.2f} "
            f"{1e3 * alone:11.3f}")  # fmt: skip
    say(f"{'geometric mean':52s} {math.exp(np.mean(np.log(whole))):6.2f}")
    say("\nmeasured over predicted, step by step: median, first and last tenth, and total time over total prediction")
    say(f"{'algorithm':12s} {'steps':>5s} {'median':>7s} {'tenth':>6s} {'to':>6s} {'total':>6s}")
    for algorithm, pairs in sorted(ratios.items()):
        low, middle, high = np.quantile([m / p for p, m in pairs], (0.1, 0.5, 0.9))
        total = sum(m for _, m in pairs) / sum(p for p, _ in pairs)
        say(f"{algorithm:12s} {len(pairs):5d} {middle:7.2f} {low:6.2f} {high:6.2f} {total:6.2f}")
    say("\ncosts (native/costs.py)")
    for cost in fields(COSTS):
        say(f"{cost.name:24s} {getattr(COSTS, cost.name):>12g} {cost.metadata['unit']}")
    if args.o:
        args.o.write_text("\n".join(said) + "\n")


if __name__ == "__main__":
    main()
