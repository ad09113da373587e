"""A kernel that reads the clock: between the steps of a program it says when each of them began and ended."""

from __future__ import annotations

import ctypes
import time
from functools import cache

import llvmlite.ir as ir
import numpy as np

from dojang.base.errors import UnsupportedError
from dojang.native import jit
from dojang.native.emit import I64, PTR, Emit
from dojang.native.jit import Native
from dojang.native.machine import Machine
from dojang.native.runtime import NativeCall

WALL, CPU = "wall", "cpu"
"""The clocks: the time that passes, and the time that all threads of this process compute, which stands still while
other processes have the processor."""


class Stamps:
    """Times that a program writes while it runs: `call(i)` is a step that takes stamp number i."""

    def __init__(self, count: int, clock: str = WALL) -> None:
        """Memory for `count` stamps. Raises UnsupportedError where the system has no `clock_gettime` (Windows)."""
        self.id = clock_id(clock)
        self._table = np.zeros((count, 2), np.int64)  # seconds and nanoseconds, as the C library writes them
        self._kernel, self._function = _kernel(), _clock_gettime()

    def call(self, index: int, words: int) -> NativeCall:
        """The step that takes stamp `index`, for a program whose steps have so many argument words, at least 3."""
        at = self._table.ctypes.data + 16 * index
        return NativeCall(self._kernel.address("kernel"), [self._function, self.id, at, *[0] * (words - 3)], 1)

    def take(self, index: int) -> None:
        """Takes stamp `index` from Python."""
        self._table[index] = divmod(time.clock_gettime_ns(self.id), 1_000_000_000)

    def nanoseconds(self) -> np.ndarray:
        """All stamps, (count,) int64."""
        return self._table[:, 0] * 1_000_000_000 + self._table[:, 1]


def clock_id(clock: str) -> int:
    """The operating system's number of a clock. Raises UnsupportedError where it has none."""
    name = {WALL: "CLOCK_MONOTONIC", CPU: "CLOCK_PROCESS_CPUTIME_ID"}[clock]
    found = getattr(time, name, None)
    if found is None:
        raise UnsupportedError("steps are timed by clock_gettime, which this system does not have")
    return found


@cache
def _clock_gettime() -> int:
    function = getattr(ctypes.CDLL(None), "clock_gettime", None)
    address = ctypes.cast(function, ctypes.c_void_p).value if function is not None else None
    if address is None:
        raise UnsupportedError("steps are timed by clock_gettime, which this system's C library does not have")
    return address


@cache
def _kernel() -> Native:
    machine = Machine.processor()  # it computes nothing, so it does not depend on DOJANG_MACHINE
    return jit.load(write(machine), machine)


def write(machine: Machine) -> str:
    """The kernel as IR text. Its argument words: the address of `clock_gettime`, the clock, where to write."""
    b = Emit.begin("kernel", {"args": PTR, "unit": I64, "scratch": PTR}, machine)
    function = ir.FunctionType(ir.IntType(32), [ir.IntType(32), PTR])
    address, clock = (b.sload(b.at(b.arg.args, 8 * word), I64) for word in (0, 1))
    where = b.pload(b.at(b.arg.args, 16))
    b.call(b.inttoptr(address, function.as_pointer()), [b.trunc(clock, ir.IntType(32)), where])
    return b.finish()
