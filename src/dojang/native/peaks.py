"""Measures the peaks of a core of this machine with dojang's own kernels: multiply-adds, memory, cache.

Only on request (`dojang env --measure`, the headers of benchmarks): plans use shipped peaks (`families.py`) or those
that `dojang env --measure` wrote (`descriptions.py`), and never measure during a run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np

from dojang.native import jit
from dojang.native.emit import F32, I64, PTR, Emit
from dojang.native.families import Peaks
from dojang.native.machine import Machine

BURSTS, PAUSE_S = 8, 0.02  # on a busy machine, other work takes the core for some milliseconds at a time
WAKE_S = 0.05  # threads that wake up may share a core until the system moves one


def measure(machine: Machine, threads: int = 1) -> Peaks:
    """The peaks of one core, or of so many together, measured now (about half a second): the best of short bursts with
    pauses, so that other work disturbs little. Raises `UnsupportedError` for a machine other than this one.
    """
    lanes, chains = machine.lanes(4), 12
    b = Emit.begin("fma", {"n": I64, "x": PTR}, machine)
    v = b.vload(b.arg.x, F32)
    sums = b.loop(0, b.arg.n, 1, lambda i, acc: [b.fma(a, v, v) for a in acc], [v] * chains)
    total = sums[0]
    for s in sums[1:]:
        total = b.fadd(total, s)
    b.vstore(total, b.arg.x, F32)
    fma = jit.load(b.finish(), machine).function("fma", 2)
    turns = 100_000

    b = Emit.begin("read", {"x": PTR, "bytes": I64, "out": PTR}, machine)
    step = 8 * machine.vector_bytes
    zero = [b.const(F32, 0.0)] * 8
    sums = b.loop(
        0,
        b.arg.bytes,
        step,
        lambda i, acc: [b.fadd(a, b.vload(b.at(b.arg.x, i, k * machine.vector_bytes), F32)) for k, a in enumerate(acc)],
        zero,
    )
    for k, s in enumerate(sums):
        b.vstore(s, b.at(b.arg.out, k * machine.vector_bytes), F32)
    read = jit.load(b.finish(), machine).function("read", 3)

    sizes = 2 * machine.l3 // threads + (64 << 20), min(4 * machine.l2, machine.l3 // 2 // threads)
    memory = [[np.ones(size // 4, "f") for size in sizes] for _ in range(threads)]
    outs = [np.zeros((2, 16 * step), "f") for _ in range(threads)]  # a thread's lines are far from those of others
    runs: tuple[tuple[int, Callable[[int], object]], ...] = (
        (6, lambda k: fma(turns, outs[k].ctypes.data)),
        (2, lambda k: read(memory[k][0].ctypes.data, memory[k][0].nbytes, outs[k].ctypes.data)),
        (8, lambda k: read(memory[k][1].ctypes.data, memory[k][1].nbytes, outs[k].ctypes.data)),
    )
    least = [float("inf")] * 3
    barrier = Barrier(threads)

    def timed(call: Callable[[int], object], k: int) -> tuple[float, float]:
        barrier.wait()
        start = time.perf_counter()
        call(k)
        return start, time.perf_counter()

    def awake(k: int) -> None:
        end = time.perf_counter() + WAKE_S
        while time.perf_counter() < end:
            fma(turns, outs[k].ctypes.data)

    with ThreadPoolExecutor(threads) as pool:
        for burst in range(BURSTS):
            time.sleep(PAUSE_S if burst else 0)
            if threads > 1:
                list(pool.map(awake, range(threads)))
            for i, (repeats, call) in enumerate(runs):
                for _ in range(repeats):
                    spans = list(pool.map(timed, [call] * threads, range(threads)))
                    least[i] = min(least[i], max(end for _, end in spans) - min(start for start, _ in spans))
    work = (2 * chains * lanes * turns, *(array.nbytes for array in memory[0]))
    return Peaks(*(threads * amount / seconds / 1e9 for amount, seconds in zip(work, least, strict=True)))
