"""Attention: softmax(q kᵀ · scale + mask) v for each head, the scores of a few rows at a time.

A unit is one head and some of its queries. It brings the keys into the order in which their products are computed, then
takes the queries in tiles of as many rows as registers hold sums of: the scores of these rows, their softmax and the
products with the values follow each other while the scores lie in the first cache. The matrix of all scores is never in
memory (the purpose of Dao et al. 2022, "FlashAttention", whose running maximum is not needed where whole rows fit).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import Any

from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.activations import exp
from dojang.engine.kernels.conv.direct import cycles
from dojang.engine.kernels.other.strided import dot, spot
from dojang.engine.kernels.task import Code, Offer, Refusal, Step
from dojang.native.costs import COSTS
from dojang.native.emit import F32, Emit, Value
from dojang.native.machine import Machine

NAME = "attention"
K, V, MASK = t.R, t.S0, t.B
"""The words of the argument table of keys, values and mask; queries are X, results Y."""
EXP_FLOPS, ORDER_FLOPS = 20, 16
"""Operations that take as long: the exponential of a score and what surrounds it; one number of the keys put in order.
"""
MOST_ROW_BYTES = 256 << 10
"""Scores of a tile of rows that are kept in the second cache at most."""


@plain_repr
@dataclass(frozen=True, slots=True)
class AttentionTask:
    """Heads over a box of `heads`; each has `queries` and `keys`, products over `depth`, results of `width`.

    `q`, `k`, `v`, `mask` and `y` are elements from place to place along the axes of the box, then along queries (keys
    for k and v), then along the depth or width (keys for the mask); `mask` is empty where there is none. The last one
    is 1 for v and y, and 0 or 1 for the mask.
    """

    heads: tuple[int, ...]
    queries: int
    keys: int
    depth: int
    width: int
    scale: float
    q: tuple[int, ...]
    k: tuple[int, ...]
    v: tuple[int, ...]
    y: tuple[int, ...]
    mask: tuple[int, ...] = ()


def tile_of(machine: Machine) -> tuple[int, int]:
    """(rows, vectors) of a register tile: the fewest cycles for a product.

    >>> tile_of(Machine.cross("avx512")), tile_of(Machine.cross("avx2"))
    ((6, 4), (6, 2))
    """
    tiles = [(p, v) for v in (4, 2, 1) for p in range(1, (machine.registers - 1 - v) // v + 1)]
    p, v = min(tiles, key=lambda tile: cycles(*tile) / (tile[0] * tile[1]))
    return min(p, 6), v


def offer(task: AttentionTask, machine: Machine) -> Offer | Refusal:
    """Takes heads whose values and results run along their width: of a whole batch, multiply-adds at the tile's rate,
    the exponential of each score, and bringing the keys into order for every unit.
    """
    if task.v[-1] != 1 or task.y[-1] != 1 or (task.mask and task.mask[-1] not in (0, 1)):
        return Refusal("values that do not run along their width")
    p, v = tile_of(machine)
    if 4 * p * padded(task, machine) > MOST_ROW_BYTES:
        return Refusal("rows of scores beyond the second cache")
    rate, lanes = machine.peaks.fma_gflops * 1e9, machine.lanes(4)
    rows = -(-task.queries // p) * p
    sums = rows * padded(task, machine) * task.depth + rows * task.keys * -(-task.width // lanes) * lanes
    order = task.keys * task.depth * blocks_of(task, machine)
    total = 4 * sums * cycles(p, v) / (p * v) + EXP_FLOPS * rows * padded(task, machine) + ORDER_FLOPS * order
    return Offer(prod(task.heads) * total / rate + COSTS.start_s)


def padded(task: AttentionTask, machine: Machine) -> int:
    """Keys in whole vectors."""
    return t.ceil_div(task.keys, machine.lanes(4)) * machine.lanes(4)


def blocks_of(task: AttentionTask, machine: Machine) -> int:
    """Units of a head: as few as give each core two in all."""
    p, _ = tile_of(machine)
    wanted = t.ceil_div(2 * machine.cores, prod(task.heads)) if machine.cores > 1 else 1
    return max(1, min(wanted, task.queries // (4 * p) or 1))


def emit(task: AttentionTask, machine: Machine) -> Code:
    """One step; a unit is a block of queries of one head."""
    p, _ = tile_of(machine)
    units = prod(task.heads) * blocks_of(task, machine)
    scratch = 4 * padded(task, machine) * (task.depth + p)
    recipe = f"{NAME} {task} {blocks_of(task, machine)}"
    return Code((Step(recipe, lambda name: write(name, task, machine), lambda n: n * units),), scratch)


def write(symbol: str, task: AttentionTask, machine: Machine) -> str:
    """The kernel as IR text."""
    b = t.begin(symbol, machine)
    lanes, (most, vectors) = machine.lanes(4), tile_of(machine)
    wide, blocks = vectors * lanes, blocks_of(task, machine)
    head, block = b.udiv(b.arg.unit, blocks), b.urem(b.arg.unit, blocks)
    places = spot(b, head, task.heads)

    def base(slot: int, steps: Sequence[int]) -> Value:
        return b.at(t.word(b, slot), b.mul(dot(b, places, steps[: len(task.heads)]), 4))

    q, k, v, y = (base(slot, s) for slot, s in ((t.X, task.q), (K, task.k), (V, task.v), (t.Y, task.y)))
    mask = base(MASK, task.mask) if task.mask else None
    keys_at = b.arg.scratch
    scores = b.at(b.arg.scratch, 4 * padded(task, machine) * task.depth)
    whole_row = 4 * padded(task, machine)
    in_order(b, task, k, keys_at, wide)
    per = t.ceil_div(t.ceil_div(task.queries, most), blocks) * most
    first = b.mul(block, per)
    last = b.imin(b.add(first, per), task.queries)

    def rows_of(row: Any, rows: int) -> None:
        lines = [b.at(scores, r * whole_row) for r in range(rows)]
        top = products(b, task, row, rows, q, keys_at, mask, lines, vectors)
        shares = softmax(b, task, lines, top, padded(task, machine))
        mixed(b, task, row, rows, v, y, lines, shares, vectors)

    full = task.queries // most * most
    b.loop(first, b.imin(last, full), most, lambda row, _: rows_of(row, most))
    if task.queries > full:
        b.choose(b.less(full, last), lambda: rows_of(full, task.queries - full))
    return b.finish()


def in_order(b: Emit, task: AttentionTask, k: Value, to: Value, wide: int) -> None:
    """Keys as [block of `wide` keys][depth][key], the last block as wide as its vectors; beyond the last key 0."""
    lanes = b.lanes(F32)
    along, deep = task.k[-2:]

    def piece(start: Any, j: Any, count: int, wide: int = wide) -> None:
        """`lanes` keys from number j of a block of `wide` on, of which `count` are there."""
        if deep != 1:  # keys side by side, or neither: one vector for each place of the depth

            def line(d: Any, _: Any) -> None:
                at = b.at(k, b.mul(b.add(b.mul(b.add(start, j), along), b.mul(d, deep)), 4))
                if along == 1:
                    value = b.vload(at, F32, mask=b.mask(count, lanes))
                else:
                    value = b.const(F32, 0.0)
                    for i in range(count):
                        value = b.insert(value, b.sload(b.at(at, 4 * i * along), F32), i)
                b.vstore(value, b.at(to, b.mul(b.add(b.mul(start, task.depth), b.add(b.mul(d, wide), j)), 4)), F32)

            b.loop(0, task.depth, 1, line)
            return

        def square(d: Any, size: int) -> None:
            at = b.at(k, b.mul(b.add(b.mul(b.add(start, j), along), d), 4))
            zero = b.const(F32, 0.0)
            got = [b.vload(b.at(at, 4 * i * along), F32, mask=b.mask(size, lanes)) if i < count else zero
                   for i in range(lanes)]  # fmt: skip
            for i, column in enumerate(b.transpose(got)[:size]):
                place = b.add(b.mul(start, task.depth), b.add(b.mul(b.add(d, i), wide), j))
                b.vstore(column, b.at(to, b.mul(place, 4)), F32)

        whole = task.depth // lanes * lanes
        b.loop(0, whole, lanes, lambda d, _: square(d, lanes))
        if task.depth > whole:
            square(whole, task.depth - whole)

    full = task.keys // wide * wide
    b.loop(0, full, wide, lambda start, _: b.loop(0, wide, lanes, lambda j, _: piece(start, j, lanes)))
    left = task.keys - full
    for j in range(0, left, lanes):
        piece(full, j, min(lanes, left - j), t.ceil_div(left, lanes) * lanes)


def products(
    b: Emit, task: AttentionTask, row: Any, rows: int, q: Value, keys_at: Value, mask: Value | None,
    lines: Sequence[Value], vectors: int,
) -> list[Value]:  # fmt: skip
    """Writes the scores of some rows, −∞ beyond the last key; the largest of each row, lane by lane."""
    lanes = b.lanes(F32)
    wide, (down, deep) = vectors * lanes, task.q[-2:]
    qr = b.at(q, b.mul(row, 4 * down))
    factor, nothing = b.const(F32, task.scale), b.const(F32, -inf)

    def block(start: Any, top: list[Value], count: int) -> list[Value]:
        kt = b.at(keys_at, b.mul(start, 4 * task.depth))
        vectors = t.ceil_div(count, lanes)
        wide = vectors * lanes

        def step(d: Any, acc: list[Value]) -> list[Value]:
            line = b.at(kt, b.mul(d, 4 * wide))
            vs = [b.vload(b.at(line, 4 * lanes * n), F32) for n in range(vectors)]
            acc = list(acc)
            for r in range(rows):
                one = b.splat_load(b.at(qr, b.mul(d, 4 * deep), 4 * r * down), F32)
                for n in range(vectors):
                    acc[r * vectors + n] = b.fma(one, vs[n], acc[r * vectors + n])
            return acc

        acc = b.loop(0, task.depth, 1, step, [b.const(F32, 0.0)] * (rows * vectors))
        top = list(top)
        for r in range(rows):
            for n in range(vectors):
                there = b.mask(count - n * lanes, lanes)
                value = b.fmul(acc[r * vectors + n], factor) if task.scale != 1 else acc[r * vectors + n]
                if mask is not None:
                    over, right = task.mask[-2:]
                    at = b.at(mask, b.mul(b.add(row, r), 4 * over), b.mul(b.add(start, n * lanes), 4 * right))
                    more = b.splat_load(at, F32) if right == 0 else b.vload(at, F32, mask=there)
                    value = b.fadd(value, more)
                if there is not None:
                    value = b.select(there, value, nothing)
                b.vstore(value, b.at(lines[r], b.mul(b.add(start, n * lanes), 4)), F32)
                top[r] = b.maximum_nan(top[r], value)
        return top

    full = task.keys // wide * wide
    top = b.loop(0, full, wide, lambda start, s: block(start, s, wide), [nothing] * rows)
    return block(full, top, task.keys - full) if task.keys > full else top


def folded(b: Emit, v: Value, both: Callable[[Value, Value], Value]) -> Value:
    """All lanes combined, in every lane."""
    lanes, step = v.type.count, 1
    while step < lanes:
        v, step = both(v, b.shuffle(v, None, [lane ^ step for lane in range(lanes)])), 2 * step
    return v


def softmax(b: Emit, task: AttentionTask, lines: Sequence[Value], top: Sequence[Value], whole: int) -> list[Value]:
    """Scores become exponentials of what they are below the largest; gives 1 over the sum of each row."""
    most = [folded(b, v, b.maximum_nan) for v in top]

    def step(j: Any, sums: list[Value]) -> list[Value]:
        found: list[Value] = []
        for line, high, total in zip(lines, most, sums, strict=True):
            at = b.at(line, b.mul(j, 4))
            value = exp(b, b.fsub(b.vload(at, F32), high))
            b.vstore(value, at, F32)
            found.append(b.fadd(total, value))
        return found

    sums = b.loop(0, whole, b.lanes(F32), step, [b.const(F32, 0.0)] * len(lines))
    return [b.fdiv(b.const(F32, 1.0), folded(b, v, b.fadd)) for v in sums]


def mixed(
    b: Emit, task: AttentionTask, row: Any, rows: int, v: Value, y: Value, lines: Sequence[Value],
    shares: Sequence[Value], vectors: int,
) -> None:  # fmt: skip
    """Writes the sums of the values, each by its share."""
    lanes = b.lanes(F32)
    yr = b.at(y, b.mul(row, 4 * task.y[-2]))

    def columns(start: Any, count: int) -> None:
        masks = [b.mask(count - n, lanes) for n in range(0, count, lanes)]
        many = len(masks)

        def step(j: Any, acc: list[Value]) -> list[Value]:
            at = b.at(v, b.mul(j, 4 * task.v[-2]), b.mul(start, 4))
            vs = [b.vload(b.at(at, 4 * lanes * n), F32, mask=m) for n, m in enumerate(masks)]
            acc = list(acc)
            for r, line in enumerate(lines):
                one = b.splat_load(b.at(line, b.mul(j, 4)), F32)
                for n in range(many):
                    acc[r * many + n] = b.fma(one, vs[n], acc[r * many + n])
            return acc

        acc = b.loop(0, task.keys, 1, step, [b.const(F32, 0.0)] * (rows * many))
        for r in range(rows):
            out = b.at(yr, 4 * r * task.y[-2], b.mul(start, 4))
            for n, m in enumerate(masks):
                b.vstore(b.fmul(acc[r * many + n], shares[r]), b.at(out, 4 * lanes * n), F32, mask=m)

    wide = vectors * lanes
    full = task.width // wide * wide
    b.loop(0, full, wide, lambda start, _: columns(start, wide))
    if task.width > full:
        columns(full, task.width - full)
