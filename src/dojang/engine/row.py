"""Sums of products along one row of numbers: a signal and its taps, both of any length, from one kernel a type.

The taps come from memory, so that nothing is compiled for new ones. Several vectors of results are summed at once, tap
by tap, each tap with one multiply-add a vector; what lies outside the row is not multiplied, but for the taps that a
chunk of results has in common. Long sums are added up in pieces of `PIECE` taps, whose rounding grows with the piece
rather than with the sum.
"""

from __future__ import annotations

import threading
from functools import lru_cache

import numpy as np

from dojang.native import forks, jit
from dojang.native.emit import F32, F64, I64, PTR, Emit
from dojang.native.machine import Machine
from dojang.native.runtime import NativeCall, Program
from dojang.native.threads import default_threads

Array = np.ndarray
VECTORS = 8  # of results that are summed at once: they hide the delay of a multiply-add, and fit 16 registers
PIECE = 256  # taps
MOST_UNITS = 64  # parts of a row that threads take
SMALL_PRODUCTS = 1 << 20  # below, one thread: about 30 µs of work
FIELDS = ("x", "taps", "y", "from", "to", "k", "chunks", "share")
_X, _TAPS, _Y, _FROM, _TO, _K, _CHUNKS, _SHARE = range(len(FIELDS))


def chunk_of(kind: str, machine: Machine) -> int:
    """Results that are summed at once."""
    return VECTORS * machine.lanes(4 if kind == "f32" else 8)


def emit(kind: str, machine: Machine) -> str:
    """The IR of `kernel(args, unit, scratch)`, for rows of float32 ("f32") or float64 ("f64").

    y[i] = Σ_j x[i + j] · taps[j] over the taps j with from ≤ i + j < to for any i of its chunk; the chunks from
    unit · share on, `share` of them.
    """
    number = F32 if kind == "f32" else F64
    size, lanes, chunk = number.bytes, machine.lanes(number.bytes), chunk_of(kind, machine)
    b = Emit.begin("kernel", {"args": PTR, "unit": I64, "scratch": PTR}, machine)
    words = [b.at(b.arg.args, 8 * i) for i in range(len(FIELDS))]
    x, taps, y = (b.pload(words[i]) for i in (_X, _TAPS, _Y))
    begin, end, k, chunks, share = (b.sload(words[i], I64) for i in (_FROM, _TO, _K, _CHUNKS, _SHARE))
    zero = b.const(number, 0.0)

    def results(c, _):
        i = b.mul(c, chunk)
        first = b.imax(b.sub(begin, b.add(i, chunk - 1)), 0)
        last = b.imin(k, b.sub(end, i))

        def piece(j, sums):
            def tap(j, sums):
                factor = b.splat_load(b.at(taps, b.mul(j, size)), number)
                row = b.at(x, b.mul(b.add(i, j), size))
                return [b.fma(b.vload(b.at(row, v * lanes * size), number), factor, s) for v, s in enumerate(sums)]

            part = b.loop(j, b.imin(b.add(j, PIECE), last), 1, tap, [zero] * VECTORS)
            return [b.fadd(s, p) for s, p in zip(sums, part, strict=True)]

        sums = b.loop(first, last, PIECE, piece, [zero] * VECTORS)
        for v, s in enumerate(sums):
            b.vstore(s, b.at(y, b.mul(b.add(i, v * lanes), size)), number)

    start = b.mul(b.arg.unit, share)
    b.loop(start, b.imin(b.add(start, share), chunks), 1, results)
    return b.finish()


class _Kernel:
    """The kernel of one type, and the table of its arguments."""

    def __init__(self, kind: str, threads: int) -> None:
        self.kind, self.threads, self.machine = kind, threads, Machine.host()
        recipe = jit.Recipe(f"row {kind}", lambda: emit(kind, self.machine), __name__)
        self.native = jit.load_recipe(recipe, self.machine)
        self.address = self.native.address("kernel")
        self.programs: dict[int, Program] = {}
        self.after_fork()
        forks.renew(self)

    def after_fork(self) -> None:
        """In a child process nobody else is in the middle of it."""
        self.lock = threading.Lock()

    def run(self, x: Array, taps: Array, y: Array, span: tuple[int, int]) -> None:
        """Fills y, whole chunks; `span` says where the signal begins in x, and where it ends."""
        chunks = y.size // chunk_of(self.kind, self.machine)
        units = 1 if self.threads == 1 else min(chunks, MOST_UNITS)
        share = -(-chunks // units)
        words = [x.ctypes.data, taps.ctypes.data, y.ctypes.data, *span, taps.size, chunks, share]
        with self.lock:
            units = -(-chunks // share)
            program = self.programs.get(units)
            if program is None:
                program = Program([NativeCall(self.address, words, units)], len(words), 0, self.threads)
                self.programs[units] = program
            program.args[0] = words
            program.run()


@lru_cache(maxsize=8)
def _kernel(kind: str, threads: int) -> _Kernel:
    return _Kernel(kind, threads)


def correlate(x: Array, taps: Array, before: int, results: int) -> Array:
    """y[i] = Σ_j x[i + j − before] · taps[j] for 0 ≤ i < results, with zeros outside of x; taps must be finite.

    Both of one type, float32 or float64, of one axis.
    """
    kind = "f32" if x.dtype == np.float32 else "f64"
    kernel = _kernel(kind, default_threads() if x.size * taps.size > SMALL_PRODUCTS else 1)
    chunk = chunk_of(kind, kernel.machine)
    whole = -(-results // chunk) * chunk
    row = np.zeros(whole + taps.size - 1, x.dtype)
    on = x[: row.size - before]
    row[before : before + on.size] = on
    y = np.empty(whole, x.dtype)
    kernel.run(row, np.ascontiguousarray(taps), y, (before, before + on.size))
    return y[:results]
