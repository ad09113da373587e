"""Where the time of a call goes: the clock is read between the steps of one call, so that their times add up to it."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from dojang.engine.context import Context
from dojang.engine.kernels import task as t
from dojang.engine.plan.choose import CallTime, Plan
from dojang.engine.plan.steps import HostStep
from dojang.native.clock import CPU, WALL, Stamps, clock_id
from dojang.native.runtime import Program

Array = np.ndarray

LEAST_RUNS = 5
"""Calls that are timed at least, with and without reading the clock between steps."""

READINGS = 256
"""Readings of the clock by which the time of one is measured."""


def measure(context: Context, inputs: Sequence[Array], seconds: float, cpu: bool = False) -> Plan:
    """The plan with the time of every step and of one call, from calls on `inputs` for about so many seconds.

    In every second call the clock is read between the steps, in the others not; so what reading it costs shows as a
    difference of the two. What one reading takes by itself is left out of the step that it ends. A time is the mean
    over the faster half of the calls: the other half has most of what disturbed them. `cpu`: the clock is the
    processor time of the process; only on one thread is that the time of a step.
    """
    held = context.run(inputs)  # the answers are written into these arrays from now on
    timeline = Timeline(context, CPU if cpu else WALL)
    plain: list[int] = []
    stamped: list[tuple[int, Array]] = []
    clock = clock_id(CPU if cpu else WALL)

    def one(segments: Sequence[Program | HostStep | Stamping] | None) -> int:
        begin = time.clock_gettime_ns(clock)
        context.run(inputs, held, segments)
        return time.clock_gettime_ns(clock) - begin

    one(timeline.segments)
    start, computed = time.perf_counter(), time.process_time()
    while len(plain) < LEAST_RUNS or time.perf_counter() - start < seconds:
        plain.append(one(None))
        whole = one(timeline.segments)
        stamped.append((whole, timeline.durations()))
    passed, computed = time.perf_counter() - start, time.process_time() - computed
    fast = sorted(plain)[: -(-len(plain) // 2)]
    stamped.sort(key=lambda pair: pair[0])
    kept = stamped[: -(-len(stamped) // 2)]
    timed = 1e-9 * np.mean([durations for _, durations in kept], axis=0)
    steps = np.maximum(timed - 1e-9 * reading_ns(CPU if cpu else WALL), timed / 2)
    call_s, whole_s = 1e-9 * float(np.mean(fast)), 1e-9 * float(np.mean([whole for whole, _ in kept]))
    shared = context.build.threads if not any(isinstance(s, HostStep) for s in context.segments) else 1
    whole = CallTime(
        call_s, float(whole_s - timed.sum()), len(plain) + len(stamped), float(np.mean(plain)) * 1e-9 / call_s,
        min(1.0, computed / passed / shared),
    )  # fmt: skip
    return context.build.plan.with_times([float(s) for s in steps], whole)


def reading_ns(clock: str) -> float:
    """Nanoseconds from one reading of the clock to the next with nothing between: the median of some hundred."""
    stamps = Stamps(READINGS, clock)
    program = Program([stamps.call(i, t.WORDS) for i in range(READINGS)], t.WORDS, 0, 1)
    program.run()
    program.run()
    return float(np.median(np.diff(stamps.nanoseconds())))


class Stamping:
    """A part of a call that only reads the clock, before or behind a step that Python computes."""

    def __init__(self, stamps: Stamps, index: int) -> None:
        """Takes stamp `index` each time that it runs."""
        self.stamps, self.index = stamps, index

    def run(self) -> None:
        """Reads the clock."""
        self.stamps.take(self.index)


class Timeline:
    """The parts of a context with the clock read before the first step of each, and behind every step."""

    def __init__(self, context: Context, clock: str) -> None:
        """Programs of their own, on the same memory; the arguments are those of the context's last run."""
        steps = context.build.planned.steps
        number = {id(step): i for i, step in enumerate(steps)}
        self.stamps = Stamps(len(steps) + len(context.segments), clock)
        self.ends = np.zeros((len(steps), 2), np.int64)  # for each step the stamps before and behind it
        self.segments: list[Program | HostStep | Stamping] = []
        stamp = 0
        for segment in context.segments:
            if isinstance(segment, HostStep):
                self.segments += [Stamping(self.stamps, stamp), segment, Stamping(self.stamps, stamp + 1)]
                self.ends[number[id(segment)]] = stamp, stamp + 1
                stamp += 2
                continue
            rows = [(row, number[id(call)]) for program, row, call in context.native if program is segment]
            calls = [self.stamps.call(stamp, t.WORDS)]
            for place, (row, i) in enumerate(rows):
                calls.append(segment.call(row))
                if place == len(rows) - 1 or rows[place + 1][1] != i:
                    self.ends[i] = stamp, stamp + 1
                    stamp += 1
                    calls.append(self.stamps.call(stamp, t.WORDS))
            stamp += 1
            self.segments.append(Program(calls, t.WORDS, segment.scratch_bytes, segment.threads))

    def durations(self) -> Array:
        """Nanoseconds of every step in the last run, (steps,)."""
        stamps = self.stamps.nanoseconds()[self.ends]
        return stamps[:, 1] - stamps[:, 0]
