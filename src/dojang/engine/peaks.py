"""What this machine can do at most, measured by kernels of our own: multiply-adds, memory, cache.

Measured once per machine and instruction set, on first use (about half a second), and kept beside the object
code. All figures are for one core.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import asdict, astuple, dataclass
from functools import cache
from pathlib import Path

import numpy as np

from dojang.engine import jit
from dojang.engine.emit import F32, I64, PTR, Emit
from dojang.engine.machine import Machine

BURSTS, PAUSE_S = 8, 0.02  # a busy machine takes a core away for some milliseconds at a time


@dataclass(frozen=True, slots=True)
class Peaks:
    """GFLOP/s of fused multiply-adds on float32, and GB/s read from memory and from the shared cache, by one core."""

    fma_gflops: float
    read_gbs: float
    cache_gbs: float


TYPICAL = {"avx512": Peaks(120.0, 12.0, 30.0), "avx2": Peaks(90.0, 12.0, 30.0)}
"""Stand-ins for machines that kernels are written for but cannot be measured."""


@cache
def peaks(machine: Machine) -> Peaks:
    """The measured peaks of this machine; typical ones for a machine that is not here."""
    if not machine.runs_here:
        return TYPICAL.get(machine.isa, Peaks(40.0, 10.0, 25.0))
    try:
        return Peaks(**json.loads(_path(machine).read_text()))
    except (OSError, ValueError, TypeError):
        pass
    found = measure(machine)
    _keep(found, machine)
    return found


def exceeded(machine: Machine, gflops: float) -> bool:
    """Told that a kernel ran at this rate on one core. Where the peaks say less they were measured on a busy machine:
    they are measured again, the best of each figure is kept, and the result is True.
    """
    old = peaks(machine)
    if gflops <= old.fma_gflops or not machine.runs_here:
        return False
    new = measure(machine)
    fma, read, shared = (max(pair) for pair in zip(astuple(old), astuple(new), strict=True))
    _keep(Peaks(max(fma, gflops), read, shared), machine)
    peaks.cache_clear()
    return True


def _path(machine: Machine) -> Path:
    return jit.cache_dir() / f"peaks-{jit.key_of('peaks 2', machine)[:12]}.json"


def _keep(found: Peaks, machine: Machine) -> None:
    """Writes the peaks, whole or not at all."""
    path = _path(machine)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
        with os.fdopen(handle, "w") as file:
            json.dump(asdict(found), file)
        os.replace(name, path)
    except OSError:
        pass  # measured again next time


def measure(machine: Machine) -> Peaks:
    """Measures now: the best of short bursts with pauses between them, so that other work disturbs little."""
    lanes, chains = machine.lanes(4), 12
    b = Emit.begin("fma", {"n": I64, "x": PTR}, machine)
    v = b.vload(b.arg.x, F32)
    sums = b.loop(0, b.arg.n, 1, lambda i, acc: [b.fma(a, v, v) for a in acc], [v] * chains)
    total = sums[0]
    for s in sums[1:]:
        total = b.fadd(total, s)
    b.vstore(total, b.arg.x, F32)
    fma = jit.load(b.finish(), machine).function("fma", 2)
    x = np.zeros(64, "f")
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
    out = np.zeros(step // 4, "f")

    large, small = (np.ones(s // 4, "f") for s in (2 * machine.l3 + (64 << 20), min(4 * machine.l2, machine.l3 // 2)))
    runs = (
        (6, lambda: fma(turns, x.ctypes.data)),
        (2, lambda: read(large.ctypes.data, large.nbytes, out.ctypes.data)),
        (8, lambda: read(small.ctypes.data, small.nbytes, out.ctypes.data)),
    )
    least = [float("inf")] * 3
    for burst in range(BURSTS):
        time.sleep(PAUSE_S if burst else 0)
        for i, (repeats, call) in enumerate(runs):
            for _ in range(repeats):
                start = time.perf_counter()
                call()
                least[i] = min(least[i], time.perf_counter() - start)
    return Peaks(
        2 * chains * lanes * turns / least[0] / 1e9, large.nbytes / least[1] / 1e9, small.nbytes / least[2] / 1e9
    )
