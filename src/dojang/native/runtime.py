"""Runs a list of kernels in native code, on several threads, with one call from Python.

A program is a table of steps; a step is a kernel and a number of units. Threads take units by an atomic counter, so a
late or interrupted thread delays the others by at most one unit; a step ends when all its units are done. Every second
thread takes units from the end, so that a thread mostly reads what it wrote in the step before, from its own cache.
Workers join a run if they wake up while it is open; if none does, the caller does all the work. Between runs they spin
for a moment, then sleep in the operating system (Linux: futex; elsewhere: a Python semaphore).
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import platform
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import llvmlite.ir as ir
import numpy as np

from dojang.native import forks, jit
from dojang.native.emit import I64, PTR, Emit, Value
from dojang.native.machine import Machine
from dojang.native.threads import MOST_THREADS

_SPINS = 1 << 13  # pauses of an idle worker before it sleeps: about 100 µs
_CLOSED = 1 << 40  # bit of the gate: no run is open; the lower bits are the number of workers in the run
_STEP = 16  # words per step: first those that change during a run, on their own cache line, then the others
_TAKEN, _DONE, _FUNCTION, _ARGS, _UNITS = 0, 1, 8, 9, 10
_FRONT, _BACK = 1, 1 << 32  # in `_TAKEN`: one unit taken from the front; one taken from the end
_COUNT, _THREADS, _SCRATCH, _STEPS = 0, 1, 8, 8 + MOST_THREADS
# Words of the pool: counter of runs; workers that sleep or are about to; whether a caller uses it; workers in the run;
# the program; whether to stop; the processor mask that the workers were given; the caller's processor mask.
_EPOCH, _ASLEEP, _BUSY, _GATE, _PROGRAM, _STOP, _GIVEN, _NOW = 0, 1, 8, 16, 32, 48, 64, 80
_log = logging.getLogger("dojang")
_MASK = 16  # words of a mask: 1,024 processors
_RETRY = 256  # runs until the pool again requests a thread that the system refused
_LONG, _INT = ir.IntType(64), ir.IntType(32)


@dataclass(frozen=True)
class NativeCall:
    """One step of a program: the address of a kernel, its argument table, the number of its units."""

    function: int
    args: Sequence[int]
    units: int


def aligned(words: int) -> np.ndarray:
    """Zeroed int64 words that begin on a cache line."""
    raw = np.zeros(words + 8, np.int64)
    skip = (-raw.ctypes.data // 8) % 8
    return raw[skip : skip + words]


def _per_thread(scratch_bytes: int) -> int:
    return -(-scratch_bytes // 4096) * 4096 + 64


def scratch_room(scratch_bytes: int, threads: int) -> int:
    """Bytes of scratch memory of all threads."""
    return _per_thread(scratch_bytes) * max(1, min(threads, MOST_THREADS)) + 64


class Program:
    """Steps ready to run; `args` (steps × words) may be changed between runs. One run at a time."""

    def __init__(
        self, calls: Sequence[NativeCall], words: int, scratch_bytes: int, threads: int, scratch_at: int | None = None
    ) -> None:
        """Lays out the table and the scratch memory of `threads` threads, `scratch_bytes` each: at `scratch_at`, where
        the caller keeps `scratch_room` bytes for as long as the program lives, or in memory that it allocates.
        """
        self.threads = max(1, min(threads, MOST_THREADS))
        self.calls, self.scratch_bytes = tuple(calls), scratch_bytes
        count = len(calls)
        self._table = aligned(_STEPS + _STEP * count + words * count)
        steps = self._table[_STEPS : _STEPS + _STEP * count].reshape(count, _STEP)
        self.args = self._table[_STEPS + _STEP * count :].reshape(count, words)
        self._table[_COUNT], self._table[_THREADS] = count, self.threads
        room, per = scratch_room(scratch_bytes, self.threads), _per_thread(scratch_bytes)
        self._scratch = np.zeros(0 if scratch_at is not None else room // 8, np.int64)
        base = -(-(self._scratch.ctypes.data if scratch_at is None else scratch_at) // 64) * 64
        for slot in range(self.threads):
            self._table[_SCRATCH + slot] = base + slot * per
        for i, call in enumerate(calls):
            steps[i, _FUNCTION], steps[i, _UNITS] = call.function, call.units
            self.args[i] = call.args
            steps[i, _ARGS] = self.args[i].ctypes.data
        self._steps, self._address = steps, self._table.ctypes.data
        forks.renew(self)

    @property
    def nbytes(self) -> int:
        """Bytes of the tables and the scratch memory."""
        return self._table.nbytes + self._scratch.nbytes

    def after_fork(self) -> None:
        """Another thread of the parent may have been in a run: resets the counters of units."""
        self._steps[:, [_TAKEN, _DONE]] = 0

    def call(self, row: int) -> NativeCall:
        """A step with its arguments as they are now."""
        return NativeCall(self.calls[row].function, self.args[row].tolist(), self.calls[row].units)

    def run(self) -> None:
        """Runs all steps, on the pool if it is free and more than one thread is to be used, else on this thread."""
        if self.threads > 1:
            _pool().run(self._address, self.threads)
        else:
            _native().alone(self._address)


class _Functions:
    """The native part."""

    def __init__(self) -> None:
        machine = Machine.processor()  # it computes nothing, so it does not depend on DOJANG_MACHINE
        native = jit.load(write(machine), machine)
        self.alone = native.function("alone", 1)
        self.run = native.function("run", 3, ctypes.c_int64)
        self.serve = native.function("serve", 2)
        self.join = native.function("join", 2)


@cache
def _native() -> _Functions:
    return _Functions()


class _Worker:
    """A thread of the pool. It is added to the pool's list before it starts, so that no two have the same number."""

    def __init__(self, pool: _Pool, number: int) -> None:
        """Does not start it. All that the thread uses is stored here, because it may wake up late and look up nothing
        then.
        """
        self.bell = threading.Semaphore(0)
        bell, address, native, sleeps = self.bell, pool.address, _native(), bool(_FUTEX)

        def work() -> None:
            if sleeps:
                native.serve(address, number)
                return
            while True:
                bell.acquire()
                native.join(address, number)

        self.thread = threading.Thread(target=work, name=f"dojang-{number}", daemon=True)


class _Pool:
    """Workers that live as long as the process, and the words they share. Never freed.

    Native code acquires and releases the pool by one word, so that no Python exception, which may come between any two
    steps of Python, can leave it locked.
    """

    def __init__(self) -> None:
        self.words = aligned(_NOW + _MASK)
        self.words[_GATE] = _CLOSED
        self.address = self.words.ctypes.data
        self.hiring = threading.Lock()
        self.workers: list[_Worker] = []
        self.hired = 0  # workers that were started
        self.refused = 0  # runs for which no new thread is requested
        self.most = MOST_THREADS  # helpers for which the caller may use processors
        self.left_to_caller = -1

    def run(self, program: int, threads: int) -> None:
        """Runs a program with helpers, or alone if the pool is in use or the caller may use only one processor."""
        if self.hired < threads - 1:
            self._hire(threads - 1)
        if (here := _processor()) != self.left_to_caller:
            self._leave_to_caller(here)
        helpers = min(threads - 1, self.hired, self.most)
        if not _FUTEX:
            for worker in self.workers[:helpers]:
                worker.bell.release()
        if not _native().run(self.address, program, helpers):
            return
        self._leave_to_caller(_processor())
        if _native().run(self.address, program, min(helpers, self.most)):
            _native().alone(program)  # callers with different processors, in turns

    def _hire(self, wanted: int) -> None:
        if self.refused > 0:
            self.refused -= 1
            return
        with self.hiring:
            while len(self.workers) < wanted:
                self.workers.append(_Worker(self, len(self.workers) + 1))
            for number, worker in enumerate(self.workers[:wanted], 1):
                if worker.thread.ident is None:
                    try:
                        worker.thread.start()
                    except RuntimeError as error:
                        self.refused = _RETRY
                        _log.warning("%s: networks run on %d of %d threads", error, number, wanted + 1)
                        return
                    self.left_to_caller = -1
                self.hired = max(self.hired, number)

    def _leave_to_caller(self, processor: int) -> None:
        """Lets the workers use the processors that the caller may use, except the one that it runs on.

        The caller's mask may have been narrowed since the workers were started; they must stay inside it. They avoid
        the caller's own processor because, in a virtual machine, Linux may take a sleeping processor for one that the
        host has preempted, and wake a worker on the caller's processor although others are idle; the two then share it
        for the whole run. (Linux 6.18 under KVM, two processors: in three of four runs after a pause of 40 ms.)
        """
        if _LOOKUP is None:
            return
        allowed = os.sched_getaffinity(0)
        words = np.zeros(_MASK, np.int64)
        for cpu in allowed:
            if cpu < 64 * _MASK:
                words.view(np.uint8)[cpu // 8] |= 1 << cpu % 8
        others = allowed - {processor} or allowed
        for worker in self.workers:
            if worker.thread.native_id is not None:
                with contextlib.suppress(OSError):  # a thread that has ended
                    os.sched_setaffinity(worker.thread.native_id, others)
        self.most = len(allowed) - 1
        self.words[_GIVEN : _GIVEN + _MASK] = words
        self.left_to_caller = processor


_POOLS: list[_Pool] = []
"""All pools, which must stay in memory because workers read their words."""


@cache
def _pool() -> _Pool:
    _POOLS.append(_Pool())
    return _POOLS[-1]


# A child process has no threads of its parent: it makes its own pool.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)


def _futex_number() -> int:
    """The number of the futex system call, 0 where there is none."""
    if sys.platform != "linux" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return 0
    return {"x86_64": 202, "amd64": 202, "aarch64": 98, "arm64": 98}.get(platform.machine().lower(), 0)


_FUTEX = _futex_number()
_GETAFFINITY = {202: 204, 98: 123}.get(_FUTEX, 0)  # of the same system call tables


def _processor_lookup() -> Callable[[], int] | None:
    """The C library's `sched_getcpu` (0.2 µs), if threads can be bound to processors."""
    if sys.platform != "linux" or not hasattr(os, "sched_setaffinity"):
        return None
    return getattr(ctypes.PyDLL(None), "sched_getcpu", None)


_LOOKUP = _processor_lookup()
_processor: Callable[[], int] = _LOOKUP or (lambda: -1)


def write(machine: Machine) -> str:
    """The native part as IR text: `walk` (inlined), `alone`, `join`, `serve`, `run`."""
    module = ir.Module("runtime")
    module.triple = machine.triple
    kernel = ir.FunctionType(ir.VoidType(), [PTR, _LONG, PTR])
    _walk(module, machine, kernel)
    _alone(module, machine, kernel)
    _join(module, machine)
    _serve(module, machine)
    _run(module, machine)
    return str(module)


def _word(b: Emit, base: Value, word: int) -> Value:
    return b.sload(b.at(base, 8 * word), I64)


def _add(b: Emit, base: Value, word: int, n: Value | int) -> Value:
    return b.atomic_rmw("add", b.at(base, 8 * word), b.index(n), "seq_cst")


def _look(b: Emit, base: Value, word: int) -> Value:
    return b.load_atomic(b.at(base, 8 * word), "acquire", 8, typ=_LONG)


def _pause(b: Emit) -> None:
    if b.machine.triple.startswith("x86"):
        b.call(_external(b, "llvm.x86.sse2.pause", ir.FunctionType(ir.VoidType(), [])), [])
    elif b.machine.triple.startswith("aarch64"):
        hint = _external(b, "llvm.aarch64.hint", ir.FunctionType(ir.VoidType(), [_INT]))
        b.call(hint, [ir.Constant(_INT, 1)])  # yield


def _external(b: Emit, name: str, type_: ir.FunctionType) -> Value:
    return b.module.globals.get(name) or ir.Function(b.module, type_, name)


def _until(b: Emit, ready, patience: int = 2000) -> None:
    """Spins until `ready()`; yields the processor after `patience` pauses."""
    fn = b.function
    head, spin, end = (fn.append_basic_block(n) for n in ("wait", "spin", "done"))
    before = b.block
    b.branch(head)
    b.position_at_end(head)
    turns = b.phi(_LONG)
    turns.add_incoming(b.index(0), before)
    b.cbranch(ready(), end, spin)
    b.position_at_end(spin)
    _pause(b)
    if sys.platform != "win32":
        yield_ = _external(b, "sched_yield", ir.FunctionType(_INT, []))
        b.choose(b.less(patience, turns), lambda: [b.call(yield_, []), None][:0])
    turns.add_incoming(b.add(turns, 1), b.block)
    b.branch(head)
    b.position_at_end(end)


def _walk(module: ir.Module, machine: Machine, kernel: ir.FunctionType) -> None:
    b = Emit.begin("walk", {"program": PTR, "slot": I64}, machine, module, internal=True)
    scratch = b.pload(b.at(b.arg.program, 8 * _SCRATCH, b.mul(b.arg.slot, 8)))
    first = b.icmp_signed("==", b.urem(b.arg.slot, 2), b.index(0))
    one = b.select(first, b.index(_FRONT), b.index(_BACK))

    def step(s, _):
        at = b.at(b.arg.program, 8 * _STEPS, b.mul(s, 8 * _STEP))
        function = b.inttoptr(_word(b, at, _FUNCTION), kernel.as_pointer())
        args, units = b.pload(b.at(at, 8 * _ARGS)), _word(b, at, _UNITS)
        head, inside, over, end = (b.function.append_basic_block(n) for n in ("take", "work", "over", "taken"))
        before = b.block
        b.branch(head)
        b.position_at_end(head)
        mine = b.phi(_LONG)
        mine.add_incoming(b.index(0), before)
        # Both counts in one word: while their sum is below the number of units, the two ends have not met.
        taken = _add(b, at, _TAKEN, one)
        front, back = b.and_(taken, b.index(_BACK - 1)), b.lshr(taken, b.index(32))
        both = b.add(front, back)
        b.cbranch(b.less(both, units), inside, end)
        b.position_at_end(inside)
        last = b.sub(b.sub(units, 1), back)
        b.call(function, [args, b.select(first, front, last), scratch])
        more = b.add(mine, 1)
        mine.add_incoming(more, b.block)
        b.cbranch(b.less(b.add(both, 1), units), head, over)  # after the last step there is no next one
        b.position_at_end(over)
        b.branch(end)
        b.position_at_end(end)
        made = b.phi(_LONG)
        made.add_incoming(mine, head)
        made.add_incoming(more, over)
        mine = made
        b.choose(b.less(0, mine), lambda: [_add(b, at, _DONE, mine)][:0])
        _until(b, lambda: b.icmp_signed(">=", _look(b, at, _DONE), units))

    b.loop(0, _word(b, b.arg.program, _COUNT), 1, step)
    b.ret_void()


def _alone(module: ir.Module, machine: Machine, kernel: ir.FunctionType) -> None:
    b = Emit.begin("alone", {"program": PTR}, machine, module)
    scratch = b.pload(b.at(b.arg.program, 8 * _SCRATCH))

    def step(s, _):
        at = b.at(b.arg.program, 8 * _STEPS, b.mul(s, 8 * _STEP))
        function = b.inttoptr(_word(b, at, _FUNCTION), kernel.as_pointer())
        args = b.pload(b.at(at, 8 * _ARGS))
        b.loop(0, _word(b, at, _UNITS), 1, lambda u, _: [b.call(function, [args, u, scratch])][:0])

    b.loop(0, _word(b, b.arg.program, _COUNT), 1, step)
    b.ret_void()


def _join(module: ir.Module, machine: Machine) -> None:
    b = Emit.begin("join", {"pool": PTR, "slot": I64}, machine, module)
    old = _add(b, b.arg.pool, _GATE, 1)

    def enter():
        program = b.pload(b.at(b.arg.pool, 8 * _PROGRAM))
        walk = module.globals["walk"]
        b.choose(b.less(b.arg.slot, _word(b, program, _THREADS)), lambda: [b.call(walk, [program, b.arg.slot])][:0])

    b.choose(b.less(old, _CLOSED), enter)
    _add(b, b.arg.pool, _GATE, -1)
    b.ret_void()


def _futex(b: Emit, address: Value, op: int, value: Value) -> None:
    if not _FUTEX:
        return
    call = _external(b, "syscall", ir.FunctionType(_LONG, [_LONG] * 2, var_arg=True))
    zero = b.index(0)
    b.call(call, [b.index(_FUTEX), b.ptrtoint(address, _LONG), b.index(op), value, zero, zero, zero])


def _serve(module: ir.Module, machine: Machine) -> None:
    b = Emit.begin("serve", {"pool": PTR, "slot": I64}, machine, module)
    pool = b.arg.pool
    fn = b.function
    again, look, idle, spin, sleep, go, stop = (
        fn.append_basic_block(n) for n in ("again", "look", "idle", "spin", "sleep", "go", "stop")
    )
    entry = b.block
    b.branch(again)
    b.position_at_end(again)
    last = b.phi(_LONG)
    last.add_incoming(b.index(0), entry)
    b.branch(look)
    b.position_at_end(look)
    turns = b.phi(_LONG)
    turns.add_incoming(b.index(0), again)
    epoch = _look(b, pool, _EPOCH)
    b.cbranch(b.icmp_signed("==", epoch, last), idle, go)
    b.position_at_end(idle)
    b.cbranch(b.less(turns, _SPINS), spin, sleep)
    b.position_at_end(spin)
    _pause(b)
    turns.add_incoming(b.add(turns, 1), b.block)
    b.branch(look)
    b.position_at_end(sleep)
    _add(b, pool, _ASLEEP, 1)
    _futex(b, b.at(pool, 8 * _EPOCH), 128, last)  # FUTEX_WAIT_PRIVATE: returns at once if the epoch has changed
    _add(b, pool, _ASLEEP, -1)
    turns.add_incoming(b.index(0), b.block)
    b.branch(look)
    b.position_at_end(go)
    b.cbranch(b.icmp_signed("==", _word(b, pool, _STOP), b.index(0)), work := fn.append_basic_block("work"), stop)
    b.position_at_end(work)
    b.call(module.globals["join"], [pool, b.arg.slot])
    last.add_incoming(epoch, b.block)
    b.branch(again)
    b.position_at_end(stop)
    b.ret_void()


def _run(module: ir.Module, machine: Machine) -> None:
    """1, without any work, if the caller's processors are not those that the workers were given; else 0."""
    b = Emit.begin("run", {"pool": PTR, "program": PTR, "helpers": I64}, machine, module, result=I64)
    pool, program, fn = b.arg.pool, b.arg.program, b.function
    taken, mine, open_, alone, changed = (fn.append_basic_block(n) for n in ("ask", "mine", "open", "alone", "changed"))
    b.cbranch(b.less(0, b.arg.helpers), taken, alone)
    b.position_at_end(taken)
    busy = b.at(pool, 8 * _BUSY)
    old = b.atomic_rmw("xchg", busy, b.index(1), "seq_cst")
    b.cbranch(b.icmp_signed("==", old, b.index(0)), mine, alone)

    b.position_at_end(mine)
    apart = b.index(0)
    if _GETAFFINITY and _LOOKUP is not None:
        call = _external(b, "syscall", ir.FunctionType(_LONG, [_LONG] * 2, var_arg=True))
        at = b.ptrtoint(b.at(pool, 8 * _NOW), _LONG)
        written = b.call(call, [b.index(_GETAFFINITY), b.index(0), b.index(8 * _MASK), at])
        for word in range(_MASK):
            apart = b.or_(apart, b.xor(_word(b, pool, _NOW + word), _word(b, pool, _GIVEN + word)))
        apart = b.select(
            b.less(0, written), apart, b.index(0)
        )  # unknown: there are more processors than bits of the mask
    b.cbranch(b.icmp_signed("==", apart, b.index(0)), open_, changed)

    b.position_at_end(open_)
    b.store(program, b.at(pool, 8 * _PROGRAM), align=8)
    b.atomic_rmw("and", b.at(pool, 8 * _GATE), b.index(~_CLOSED), "seq_cst")
    _add(b, pool, _EPOCH, 1)
    # A worker announces its sleep before it reads the epoch for the last time. If none has announced it, none must be
    # woken, and no system call is needed. Read by an addition, which no processor moves before the one above.
    asleep = _add(b, pool, _ASLEEP, 0)
    # 129 is FUTEX_WAKE_PRIVATE.
    b.choose(b.less(0, asleep), lambda: [_futex(b, b.at(pool, 8 * _EPOCH), 129, b.arg.helpers)][:0])
    b.call(module.globals["walk"], [program, b.index(0)])
    b.atomic_rmw("or", b.at(pool, 8 * _GATE), b.index(_CLOSED), "seq_cst")
    _until(b, lambda: b.icmp_signed("==", _look(b, pool, _GATE), b.index(_CLOSED)))

    def reset(s, _):
        at = b.at(program, 8 * _STEPS, b.mul(s, 8 * _STEP))
        for word in (_TAKEN, _DONE):
            b.store(b.index(0), b.at(at, 8 * word), align=8)

    b.loop(0, _word(b, program, _COUNT), 1, reset)
    b.atomic_rmw("xchg", busy, b.index(0), "seq_cst")
    b.ret(b.index(0))

    b.position_at_end(alone)
    b.call(module.globals["alone"], [program])
    b.ret(b.index(0))

    b.position_at_end(changed)
    b.atomic_rmw("xchg", busy, b.index(0), "seq_cst")
    b.ret(b.index(1))
