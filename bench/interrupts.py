"""Breaks off the first call of a network at random moments of the clock, and asks whether the next one is right.

    python bench/interrupts.py 1000 > bench/results/interrupts.txt

Every other time a signal's handler raises in the main thread (`setitimer`), else another thread raises in the one that
runs (`PyThreadState_SetAsyncExc`). After each, the network must answer within 60 seconds, on another thread, as a
network that was left alone does. Ends with 1 at the first that does not.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from dojang.arith.graph import Graph
from dojang.engine.compiled import compile
from dojang.native import runtime
from nets import every_segment
from record import head


class Broken(BaseException):
    """What is raised."""


def raise_in(ident: int) -> None:
    """Raises `Broken` in a thread, once no other is being started.

    CPython 3.11 gives a thread that is being started the ident of its starter until it runs: the exception could end
    the new one instead, and `Thread.start` would wait for it without end.
    """
    while threading._limbo:  # pyright: ignore[reportAttributeAccessIssue]
        time.sleep(1e-5)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(Broken))


def _seconds(graph: Graph, x: np.ndarray, empty: bool) -> float:
    """How long a first call takes, from an empty cache or from a full one."""
    if empty:
        os.environ["DOJANG_CACHE_DIR"] = tempfile.mkdtemp(prefix="dojang-interrupts-")
    net = compile(graph, threads=2)
    start = time.perf_counter()
    net(x)
    return time.perf_counter() - start


def main() -> int:
    """Prints what happened; 0 where every answer was right."""
    turns = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(1 << 30)
    rng, graph = random.Random(seed), every_segment()
    xs = [np.random.default_rng(n).standard_normal((n, 5, 14, 13)).astype("f4") for n in (3, 1)]
    os.environ["DOJANG_CACHE_DIR"] = tempfile.mkdtemp(prefix="dojang-interrupts-")
    calm = compile(graph, threads=2)
    right = [calm(x) for x in xs]
    del calm  # and its kernels with it, so that each turn loads them
    warm, compiling = (_seconds(graph, xs[0], empty) for empty in (False, True))
    seen: Counter[str] = Counter()

    def handler(*_: object) -> None:
        raise Broken

    signal.signal(signal.SIGALRM, handler)
    for turn in range(turns):
        release, cold = rng.random() < 0.5, rng.random() < 0.1
        if cold:  # kernels are compiled too
            os.environ["DOJANG_CACHE_DIR"] = tempfile.mkdtemp(prefix="dojang-interrupts-")
            runtime._native.cache_clear()
        runtime._pool.cache_clear()
        net = compile(graph.replace(weights=dict(graph.weights)), threads=2, release=release)
        wait = rng.uniform(1e-5, 0.9 * (compiling if cold else warm))
        where = f"turn {turn}, seed {seed}"
        try:
            if turn % 2:
                signal.setitimer(signal.ITIMER_REAL, wait)
            else:
                timer = threading.Timer(wait, raise_in, (threading.get_ident(),))
                timer.start()
            net(xs[0])
            what = "came too late"
            time.sleep(0)
        except Broken:
            what = "broken off"
        try:  # one that is late may come anywhere until here
            signal.setitimer(signal.ITIMER_REAL, 0)
            if turn % 2 == 0:
                timer.cancel()
                timer.join()
            time.sleep(0.001)
        except Broken:
            pass
        seen[f"{what}{', kernels compiled' if cold else ''}"] += 1
        answers: list[np.ndarray] = []
        other = threading.Thread(target=lambda: answers.extend(net(x) for x in (*xs, xs[0])), daemon=True)  # noqa: B023
        other.start()
        other.join(60)
        if other.is_alive() or len(answers) != 3:
            print(f"no answer: {where}, {what}")
            return 1
        if not all((a == b).all() for a, b in zip(answers, (*right, right[0]), strict=True)):
            print(f"wrong answer: {where}, {what}")
            return 1
    print(head("src/dojang/engine", "src/dojang/native", threads=2, peaks=False))
    print(f"first calls interrupted at {turns} random moments, seed {seed}")
    for what, count in sorted(seen.items()):
        print(f"{count:6} {what}")
    print("every later answer equal to that of a network left alone")
    return 0


if __name__ == "__main__":
    sys.exit(main())
