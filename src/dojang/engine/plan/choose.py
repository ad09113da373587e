"""Which algorithm computes each part of a network, and why not another. The only place that chooses."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from types import ModuleType
from typing import Any

import numpy as np

from dojang.base.result import Result
from dojang.engine.kernels import task as t
from dojang.engine.kernels.conv import ALGORITHMS, fallback
from dojang.engine.kernels.task import Code, Offer, Refusal, Task
from dojang.native import cache, jit
from dojang.native.families import Peaks
from dojang.native.machine import Machine
from dojang.native.runtime import NativeCall, Program

NEAR = 4.0  # times the least prediction: what is predicted slower is not timed


@dataclass(frozen=True, slots=True)
class Choice:
    """One step of a plan. `members` are the nodes it computes; `refused` are (algorithm, reason) pairs; times are
    seconds for the whole batch, predicted for the threads that share the work, measured where a run was timed.
    """

    value: str
    op: str
    algorithm: str
    members: tuple[str, ...]
    refused: tuple[tuple[str, str], ...] = ()
    predicted_s: float | None = None
    measured_s: float | None = None
    macs: int = 0

    def percent_of_peak(self, peak_gflops: float) -> float | None:
        """Multiply-adds per measured second against a peak; above 100 where an algorithm saves multiplications."""
        if not self.measured_s or not self.macs:
            return None
        return 100 * 2 * self.macs / self.measured_s / (peak_gflops * 1e9)


DISAGREE = 0.1
"""The steps may add up to this much more or less than one call."""

DISTURBED = 1.25
"""On a machine with nothing else to do all calls take about as long as the faster half of them."""

OWN_SHARE = 0.85
"""Threads that compute or wait for each other have the processor all the time, unless other work has it."""


@dataclass(frozen=True, slots=True)
class CallTime:
    """One call, timed in turns with calls whose steps were timed. `call_s` and the steps' times are means over the
    faster half of `runs` calls; `outside_s` is what a call takes beside its steps, in Python: checks, copying answers.

    `slowdown`: the mean over all calls divided by `call_s`. `own_share`: the share of the processor time of its threads
    that the process got while it measured. Both are about 1 where the machine had nothing else to do.
    """

    call_s: float
    outside_s: float
    runs: int
    slowdown: float
    own_share: float

    def doubt(self, steps_s: float) -> str | None:
        """Why the times are not to be relied on, where the steps take `steps_s` in all; None where they are."""
        whole = steps_s + self.outside_s
        reasons = []
        if self.own_share < OWN_SHARE:
            reasons.append(f"dojang's threads had the processor {self.own_share:.0%} of the time")
        if self.slowdown > DISTURBED:
            reasons.append(f"all calls took {self.slowdown:.2f} times as long as the faster half of them")
        if reasons:
            return f"the machine was busy: {', and '.join(reasons)}"
        if abs(whole - self.call_s) > DISAGREE * self.call_s:
            return (
                f"the times do not add up: the steps take {1e3 * steps_s:.4g} ms and what is outside of them "
                f"{1e3 * self.outside_s:.4g} ms, one call takes {1e3 * self.call_s:.4g} ms"
            )
        return None


@dataclass(frozen=True, slots=True)
class Plan(Result):
    """How a network is run for one batch size. Frozen; made when that batch size is first seen.

    Kernels were chosen and cut for `threads`. `run_threads` of them share the work: all, or one where all of it takes
    less time than handing some over. `machine`, `peaks_from` and `peaks` (of one core) say what it was planned
    for; `tuned`, that algorithms were timed to choose between them, so that another run may choose others. `call` is
    the time of one call, where times were measured.
    """

    network: str
    batch: int
    threads: int
    isa: str
    precision: str
    choices: tuple[Choice, ...]
    machine: str = ""
    peaks_from: str = ""
    peaks: Peaks | None = None
    tuned: bool = False
    run_threads: int = 1
    call: CallTime | None = None

    @property
    def measured_s(self) -> float:
        """Measured seconds of all steps together."""
        return sum(c.measured_s or 0.0 for c in self.choices)

    @property
    def doubt(self) -> str | None:
        """Why the measured times are not to be relied on; None where they are, or where there are none."""
        return self.call.doubt(self.measured_s) if self.call is not None else None

    @property
    def predicted_s(self) -> float:
        """Predicted seconds of one run; steps without a prediction count as nothing, so a lower bound."""
        return sum(c.predicted_s or 0.0 for c in self.choices)

    @property
    def in_python(self) -> tuple[str, ...]:
        """Values that have no native kernel and are computed by their reference function."""
        return tuple(c.value for c in self.choices if c.algorithm == "reference")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def with_times(self, seconds: Sequence[float], call: CallTime | None = None) -> Plan:
        """The plan with measured times, one for each step in order, and that of the call."""
        timed = (replace(c, measured_s=s) for c, s in zip(self.choices, seconds, strict=True))
        return replace(self, choices=tuple(timed), call=call)


def choose(
    task: Task, machine: Machine, tune: bool = False, any_size: bool = False
) -> tuple[ModuleType, float, tuple[tuple[str, str], ...]]:
    """(algorithm, predicted seconds per image on one core, refusals) for a convolution.

    Without `tune` a function of its arguments: nothing is measured and no clock is read. With `tune`, algorithms
    predicted within `NEAR` of the best are timed on this machine (once: times are kept beside the object code), and the
    fastest is taken. `any_size`: only of those whose code serves images of any size.

    >>> from dojang.arith.conv import Conv
    >>> task = Task.of(Conv.of(32, 32, (56, 56), 3, padding=1, groups=32))
    >>> choose(task, Machine.cross("avx2"))[0].NAME
    'depthwise'
    """
    refused: list[tuple[str, str]] = []
    able: list[tuple[float, ModuleType]] = []
    for algorithm in ALGORITHMS:
        if any_size and not hasattr(algorithm, "emit_open") and algorithm is not fallback:
            refused.append((algorithm.NAME, "its code is made for one size of the image"))
            continue
        match algorithm.offer(task, machine):
            case Offer(seconds):
                able.append((seconds, algorithm))
            case Refusal(reason):
                refused.append((algorithm.NAME, reason))
    # Stable: of equals the first in the tuple; the reference only where nothing else can.
    able.sort(key=lambda pair: (pair[1] is fallback, pair[0]))
    how = "predicted"
    if tune:
        near = [a for seconds, a in able if seconds <= NEAR * able[0][0] and hasattr(a, "emit")]
        if len(near) > 1:
            how = "measured"
            refused += [(a.NAME, "not timed: predicted far slower") for a in ALGORITHMS
                        if a not in near and any(a is other for _, other in able)]  # fmt: skip
            able = sorted(((seconds_of(a, task, machine), a) for a in near), key=lambda pair: pair[0])
    best, algorithm = able[0]
    refused += [(a.NAME, f"slower: {s * 1e6:.3g} µs {how}, not {best * 1e6:.3g}") for s, a in able[1:]]
    return algorithm, best, tuple(refused)


def seconds_of(algorithm: ModuleType, task: Task, machine: Machine) -> float:
    """Measured seconds per image on one core: the best of some runs on random numbers; kept on disk."""
    code = algorithm.emit(task, machine)
    key = jit.key_of(f"time 1 {task} {[s.recipe for s in code.steps]}", machine)
    with contextlib.suppress(ValueError):
        found = json.loads(cache.read("times", f"{key}.json") or b"null")
        if isinstance(found, float) and 0 < found < math.inf:
            return found
    seconds = _time(algorithm, code, task, machine)
    cache.keep("times", f"{key}.json", json.dumps(seconds).encode())
    return seconds


def _time(algorithm: ModuleType, code: Code, task: Task, machine: Machine) -> float:
    c, rng, dtype = task.conv, np.random.default_rng(0), task.element.dtype
    images = max(1, c.n)
    random = lambda *shape: t.on_line(rng.standard_normal(shape).astype(dtype))  # noqa: E731
    packed = [t.on_line(a) for a in algorithm.pack(task, machine, random(*c.weight_shape), None)]
    x, y = random(images * prod(c.size) * task.x_ld), random(images * prod(c.out_size) * task.y_ld)
    res = random(images * prod(c.out_size) * max(1, task.residual_ld))
    shared = [t.on_line(np.zeros(size, np.uint8)) for size in code.shared(images)]
    words = [0] * t.WORDS
    words[t.N] = images
    for slot, array in zip((t.X, t.W, t.B, t.Y, t.R, t.S0, t.S1), (x, *packed, y, res, *shared), strict=True):
        words[slot] = array.ctypes.data
    natives = jit.load_recipes([s.kernel for s in code.steps], machine)
    calls = [
        NativeCall(k.address("kernel"), t.table(words, s), s.units(images))
        for k, s in zip(natives, code.steps, strict=True)
    ]
    program = Program(calls, t.WORDS, code.scratch, 1)
    times: list[float] = []
    while len(times) < 5 or (sum(times) < 5e-3 and len(times) < 200):
        start = time.perf_counter()
        program.run()
        times.append(time.perf_counter() - start)
    return min(times) / images
