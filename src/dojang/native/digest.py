"""Detect changes of memory by 128 bits of a keyed universal hash over its bytes, at the speed of memory.

NumPy views, other tensors of the same storage, fused optimisers and other processes change weights without notice, so
only the bytes themselves show a change. Each segment of memory gives two independent hashes of 64 bits. A block of
`BLOCK` bytes is hashed by NH (Black et al., "UMAC: Fast and Secure Message Authentication", CRYPTO 1999): the sum over
64-bit words (lo, hi) of (lo + k) · (hi + k') modulo 2^64, with random 32-bit keys. The values of the blocks are the
coefficients of a polynomial at a random point modulo 2^61 - 1.

Keys are drawn from the system once per process. For any two different contents of the same layout, chosen without
knowledge of the keys, both hashes agree with a probability of at most (2^-32 + n / 2^59)^2, n the number of blocks of a
segment: below 2^-63. Swapped values, swapped tensors and changes that cancel in a plain sum are changes like any other.

>>> import numpy as np
>>> x = np.arange(1000, dtype="f4")
>>> digest = Digest([(x.ctypes.data, x.nbytes)])
>>> before = digest.read()
>>> x[[3, 5]] = x[[5, 3]]
>>> digest.read() == before
False
>>> x[[3, 5]] = x[[5, 3]]
>>> digest.read() == before
True
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from functools import cache

import llvmlite.ir as ir
import numpy as np

from dojang.native import jit
from dojang.native.emit import I32, I64, PTR, U8, Emit, Value
from dojang.native.machine import Machine
from dojang.native.runtime import NativeCall, Program

BLOCK = 2048  # bytes per value of NH; twice as many bytes of keys stay in the L1 cache
SEGMENT = 128 << 10  # bytes of memory per result
UNIT = 64 << 10  # the fewest bytes that a thread takes at a time
ALONE = 1 << 20  # for fewer bytes, waking a second thread costs more than it saves; 2 cores of Zen 4, 2026
_PRIME = (1 << 61) - 1
_KEYS, _SEGMENTS, _FIRST, _OUT = range(4)  # words of the argument table
_WORDS = 4
_LONG, _WIDE = ir.IntType(64), ir.IntType(128)


class Digest:
    """Ranges of memory, (address, bytes) each, whose contents can be hashed repeatedly. Thread-safe.

    The memory must stay readable for as long as `read` is called.
    """

    def __init__(self, ranges: Sequence[tuple[int, int]], threads: int = 1) -> None:
        """Divides the ranges into segments, and the segments among threads."""
        segments = [
            (address + at, min(SEGMENT, size - at)) for address, size in ranges for at in range(0, size, SEGMENT)
        ]
        firsts, held = [0], 0
        for k, (_, size) in enumerate(segments):
            held += size
            if held >= UNIT or k == len(segments) - 1:
                firsts.append(k + 1)
                held = 0
        self._segments = np.array(segments or [(0, 0)], np.int64)
        self._firsts = np.array(firsts, np.int64)
        self._out = np.zeros((len(segments), 2), np.int64)
        self._native, self._keys = _kernel(), _keys()
        words = [a.ctypes.data for a in (self._keys, self._segments, self._firsts, self._out)]
        total = sum(size for _, size in segments)
        units = len(firsts) - 1
        call = NativeCall(self._native.address("digest"), words, units)
        self._program = Program([call], _WORDS, 64, threads if total >= ALONE else 1) if units else None
        self._lock = threading.Lock()

    def read(self) -> bytes:
        """The hashes of all segments, as the memory is now."""
        if self._program is None:
            return b""
        with self._lock:
            self._program.run()
            return self._out.tobytes()


@cache
def _keys() -> np.ndarray:
    """This process's keys: two blocks of NH's, then the two points of the polynomials."""
    raw = np.frombuffer(os.urandom(2 * BLOCK + 16), np.int64).copy()
    raw[-2:] = [int(k) % (_PRIME - 2) + 2 for k in raw[-2:].view(np.uint64)]
    aligned = np.zeros(len(raw) + 8, np.int64)
    skip = -aligned.ctypes.data // 8 % 8
    aligned[skip : skip + len(raw)] = raw
    return aligned[skip : skip + len(raw)]


@cache
def _kernel() -> jit.Native:
    machine = Machine.host()
    return jit.load(write(machine), machine, thorough=False)


def write(machine: Machine) -> str:
    """`digest(args, unit, scratch)` as IR text: hashes the segments of one unit."""
    b = Emit.begin("digest", {"args": PTR, "unit": I64, "scratch": PTR}, machine)
    vector = machine.vector_bytes
    lanes = vector // 8
    last = b.local(_LONG, lanes)  # the end of a segment, padded with zeros
    keys, segments, firsts, out = (b.pload(b.at(b.arg.args, 8 * w)) for w in range(_WORDS))
    points = [b.sload(b.at(keys, 2 * BLOCK + 8 * i), I64) for i in (0, 1)]
    zero, half = b.const(I64, 0, lanes), b.const(I64, 32, lanes)

    def added(at: Value, key: Value | int, sums: Sequence[Value]) -> list[Value]:
        """NH's two sums with one more vector, whose keys lie `key` bytes into a block."""
        raw = b.bitcast(b.vload(at, I64, lanes, align=1), ir.VectorType(I32.ir, 2 * lanes))
        found = []
        for i, total in enumerate(sums):
            mixed = b.bitcast(b.add(raw, b.vload(b.at(keys, i * BLOCK, key), I32, 2 * lanes)), zero.type)
            low = b.and_(mixed, b.const(I64, 0xFFFFFFFF, lanes))
            found.append(b.add(total, b.mul(low, b.lshr(mixed, half))))
        return found

    def folded(states: Sequence[Value], sums: Sequence[Value]) -> list[Value]:
        """Both polynomials with one more block: its 64 bits are two coefficients."""
        found = []
        for state, point, vector_sum in zip(states, points, sums, strict=True):
            total = b.sum(vector_sum, I64)
            for part in (b.lshr(total, b.index(32)), b.and_(total, b.index(0xFFFFFFFF))):
                state = _step(b, state, point, part)
            found.append(state)
        return found

    def segment(k: Value, _: list[Value]) -> None:
        where = b.at(segments, b.mul(k, 16))
        start, size = b.pload(where), b.sload(b.at(where, 8), I64)
        whole = b.mul(b.udiv(size, BLOCK), BLOCK)

        def block(at: Value, states: list[Value]) -> list[Value]:
            here = b.at(start, at)
            sums = b.loop(0, BLOCK, vector, lambda j, s: added(b.at(here, j), j, s), [zero, zero], unroll=4)
            return folded(states, sums)

        states = b.loop(0, whole, BLOCK, block, [b.index(1), b.index(1)])
        left = b.sub(size, whole)
        full = b.mul(b.udiv(left, vector), vector)
        rest = b.at(start, whole)
        sums = b.loop(0, full, vector, lambda j, s: added(b.at(rest, j), j, s), [zero, zero])
        tail = b.sub(left, full)

        def ending() -> list[Value]:
            b.vstore(zero, last, I64)
            end = b.at(rest, full)
            b.loop(0, tail, 1, lambda j, _: [b.store(b.sload(b.at(end, j), U8), b.at(last, j), align=1)][:0])
            return added(last, full, sums)

        sums = b.choose(b.less(0, tail), ending, lambda: sums)
        for i, state in enumerate(folded(states, sums)):
            b.store(state, b.at(out, b.mul(k, 16), 8 * i), align=8)

    unit = b.at(firsts, b.mul(b.arg.unit, 8))
    b.loop(b.sload(unit, I64), b.sload(b.at(unit, 8), I64), 1, segment)
    return b.finish()


def _step(b: Emit, state: Value, point: Value, part: Value) -> Value:
    """state · point + part modulo 2^61 - 1, up to a multiple of it; below 2^61 + 4."""
    product = b.mul(b.zext(state, _WIDE), b.zext(point, _WIDE))
    low = b.and_(b.trunc(product, _LONG), b.index(_PRIME))
    high = b.trunc(b.lshr(product, ir.Constant(_WIDE, 61)), _LONG)
    total = b.add(b.add(low, high), part)
    return b.add(b.and_(total, b.index(_PRIME)), b.lshr(total, b.index(61)))
