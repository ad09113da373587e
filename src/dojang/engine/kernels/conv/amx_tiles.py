"""Matrix tiles of x86 processors (AMX): the instructions as calls, and float32 numbers as sums of three bfloat16.

A tile register holds up to 16 rows of 64 bytes. `dot` multiplies a tile of rows × 32 bfloat16 with one of 32 × 16 and
adds to rows × 16 float32 sums: 8192 multiply-adds in 16 cycles, where two vector units do 512. A float32 has 24
significant bits, a bfloat16 has 8: x = h + m + l exactly, each part being what rounding to bfloat16 leaves of the rest.
Of the nine products of two such sums `PRODUCTS` are the six that matter; the other three come to 2⁻²³ of the product
at most, which is the spacing of float32, and to less than 2⁻²⁶ on the average (Henry, Tang, Heinecke, "Leveraging the
bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations", ARITH 2019; JAX's precision HIGHEST and
oneMKL's float_to_bf16x3 are the same sums).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import llvmlite.ir as ir
import numpy as np

from dojang.native.emit import F32, I16, I32, Emit, Value

ROWS, LANES, DEPTH = 16, 16, 32  # of a tile: sums down, sums across, products added to each
TILE = 1024  # bytes
PARTS = 3
PRODUCTS = ((1, 1), (0, 1), (0, 2), (1, 0), (2, 0), (0, 0))
"""(part of the left factor, part of the right): small ones first, in an order that keeps parts in registers."""
LEFT, RIGHT = 4, 6  # registers 0 to 3 hold sums, 4 and 5 left factors, 6 and 7 right factors
MOST_SUMS = 4
CONFIG = 64  # bytes that `configure` needs

_BYTE, _LONG, _VOID = ir.IntType(8), ir.IntType(64), ir.VoidType()


def configure(b: Emit, at: Value, rows: int) -> None:
    """Gives all tiles rows of 64 bytes: `rows` of sums and left factors, 16 of right factors; `at`: 64 bytes to use."""
    heights = [rows] * RIGHT + [ROWS] * (8 - RIGHT)
    words = [1, 0, 0, 0, *[64 | 64 << 16] * 4, *[0] * 4]  # palette 1; bytes of a row, 16 bits each
    words += [sum(h << 8 * k for k, h in enumerate(heights[i : i + 4])) for i in (0, 4)] + [0, 0]
    b.vstore(b.constants(I32, words), at, I32, align=4)
    _call(b, "ldtilecfg", [at])


def release(b: Emit) -> None:
    """The tiles are free again: a thread without tiles in use is switched faster."""
    _call(b, "tilerelease", [])


def zero(b: Emit, tile: int) -> None:
    """Sums of 0."""
    _call(b, "tilezero", [_number(tile)])


def load(b: Emit, tile: int, at: Value, stride: Value | int) -> None:
    """A tile from memory, `stride` bytes from row to row."""
    _call(b, "tileloadd64", [_number(tile), at, b.index(stride)])


def store(b: Emit, tile: int, at: Value, stride: Value | int) -> None:
    """A tile to memory."""
    _call(b, "tilestored64", [_number(tile), at, b.index(stride)])


def dot(b: Emit, sums: int, left: int, right: int) -> None:
    """sums[i, j] += Σ left[i, k] right[k, j] over 32 bfloat16 k; right lies as [k / 2][j][k mod 2]."""
    _call(b, "tdpbf16ps", [_number(sums), _number(left), _number(right)])


def multiply(
    b: Emit, pixels: int, vectors: int, left: Callable, right: Callable, pitch: int, beside: Callable | None = None
) -> None:
    """`PRODUCTS` of 32 terms for pixels × vectors tiles of sums, at most four, in registers 0 to 3 (pixel first).

    `left(i, part)` and `right(j, part)` are the addresses of the factors; `pitch` is the left one's stride. A right
    factor goes into the multiplier in 16 cycles, whatever the rows, so neighbouring products share it. `beside(i)`
    writes what is done while the tiles work, after each of the `PRODUCTS`: what comes later than some 500 instructions
    finds them idle.
    """
    held: dict[int, tuple] = {}

    def factor(first: int, index: int, part: int, where: Callable, stride: int) -> int:
        register = first + index % 2
        if held.get(register) != (index, part):
            load(b, register, where(index, part), stride)
            held[register] = (index, part)
        return register

    across = list(range(vectors))
    for turn, (a, w) in enumerate(PRODUCTS):
        for j in across:
            for i in range(pixels):
                right_one = factor(RIGHT, j, w, right, 64)
                dot(b, i * vectors + j, factor(LEFT, i, a, left, pitch), right_one)
        across.reverse()
        if beside is not None:
            beside(turn)


def split(b: Emit, pair: Sequence[Value], store_part: Callable[[int, Value], None], woven: bool = False) -> None:
    """Two vectors of 16 float32 as three vectors of 32 bfloat16, handed over with the part's number: one vector after
    the other, or `woven`, a number of the first, one of the second, which takes less.

    Infinity and NaN give NaN in the second part, so that no sum they enter is finite.
    """
    half, keep = b.const(I32, 0x8000, LANES), b.const(I32, -0x10000, LANES)
    floats, ints, shorts = F32.vector(LANES), I32.vector(LANES), I16.vector(2 * LANES)
    rest = list(pair)
    for part in range(PARTS):
        # The last part has 8 bits left: nothing to round.
        kept = rest
        if part < PARTS - 1:
            kept = [b.bitcast(b.and_(b.add(b.bitcast(v, ints), half), keep), floats) for v in rest]
            rest = [b.fsub(v, k) for v, k in zip(rest, kept, strict=True)]
        if woven:
            low, upper = (b.bitcast(k, ints) for k in kept)
            both = b.or_(b.lshr(low, b.const(I32, 16, LANES)), b.and_(upper, keep))
            store_part(part, b.bitcast(both, shorts))
            continue
        high = b.shuffle(b.bitcast(kept[0], shorts), b.bitcast(kept[1], shorts), list(range(1, 4 * LANES, 2)))
        store_part(part, high)


def parts_of(values: np.ndarray) -> np.ndarray:
    """Float32 values as (3, *shape) bfloat16 parts in uint16; what is not finite keeps to the first part.

    >>> parts = parts_of(np.array([1.2345678], "f4"))
    >>> [float(v) for v in (parts.astype("u4") << 16).view("f4")[:, 0]]
    [1.234375, 0.0001926422119140625, 1.1920928955078125e-07]
    """
    rest = np.ascontiguousarray(values, "f4")
    out = np.empty((PARTS, *rest.shape), np.uint16)
    finite = np.isfinite(rest)
    rounds = np.abs(rest) < 3.38e38  # above, rounding to bfloat16 would give infinity
    for part in range(PARTS):
        bits = rest.view("u4")
        if part < PARTS - 1:
            bits = np.where(rounds, bits + np.uint32(0x8000), bits)
            bits = np.where(np.isnan(rest), np.uint32(0x7FC00000), bits)
        out[part] = bits >> 16
        rest = rest - np.where(finite, (out[part].astype("u4") << 16).view("f4"), np.float32(0))
        rest = np.where(finite, rest, np.float32(0))
    return out


def _call(b: Emit, name: str, args: Sequence[Value]) -> None:
    b.call(b._intrinsic(f"llvm.x86.{name}", _VOID, [a.type for a in args]), args)


def _number(tile: int) -> Value:
    return ir.Constant(_BYTE, tile)
