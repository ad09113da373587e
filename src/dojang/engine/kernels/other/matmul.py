"""Matrix products of what lies in memory as it is: C[i][j] = Σ a[i][k] b[k][j], j contiguous in b and C.

Values of three axes and more lie with their second axis fastest. A dense layer over the last axis is then a product
for each place of the axes between, with the weights as `a`; the product of two values is one with the second as `a`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.activations import Activation, activate
from dojang.engine.kernels.conv.direct import cycles
from dojang.engine.kernels.task import Code, Offer, Step
from dojang.native.costs import COSTS
from dojang.native.emit import F32, Value
from dojang.native.machine import Machine

NAME = "matmul"
UNIT_FLOPS = COSTS.unit_matmul_flops


@plain_repr
@dataclass(frozen=True, slots=True)
class MatTask:
    """`batch` products per image: `rows` × `depth` by `depth` × `columns`.

    From row to row are `a_ld`, `b_ld`, `y_ld` elements. `shared`: `a` is the same for all, and there is a bias per row.
    """

    batch: int
    rows: int
    depth: int
    columns: int
    a_ld: int
    b_ld: int
    y_ld: int
    shared: bool
    activation: Activation | None = None


@cache
def tile_of(task: MatTask, machine: Machine) -> tuple[int, int]:
    """(rows, vectors) of a register tile with the least estimated cycles."""
    vectors = t.ceil_div(task.columns, machine.lanes(4))
    tiles = [(v, p) for v in range(1, min(4, vectors) + 1) for p in range(1, min(machine.tile_rows(v), task.rows) + 1)]
    v, p = min(tiles, key=lambda tile: across(vectors, *tile) * t.ceil_div(task.rows, tile[1]))
    return p, v


def across(vectors: int, v: int, p: int) -> float:
    """Estimated cycles per step of depth for `p` rows of all columns."""
    return vectors // v * cycles(p, v) + (cycles(p, vectors % v) if vectors % v else 0.0)


def offer(task: MatTask, machine: Machine) -> Offer:
    """Takes every task: multiply-adds at the rate of the tile, or the bytes of `a`."""
    rate, lanes = machine.peaks, machine.lanes(4)
    p, v = tile_of(task, machine)
    total = across(t.ceil_div(task.columns, lanes), v, p) * t.ceil_div(task.rows, p) * task.depth * task.batch
    compute = total * 4 * lanes / (rate.fma_gflops * 1e9)
    return Offer(max(compute, 4 * task.rows * task.depth / (rate.read_gbs * 1e9)) + COSTS.start_s)


def cut(task: MatTask, machine: Machine) -> int:
    """Rows of a unit, whole tiles."""
    p, v = tile_of(task, machine)
    wide = min(task.columns, v * machine.lanes(4))
    return p * max(1, min(UNIT_FLOPS // max(1, 2 * task.depth * wide * p), t.ceil_div(task.rows, p)))


def emit(task: MatTask, machine: Machine) -> Code:
    """One step; a unit is some rows of one block of columns, which stays in the cache of a core over the rows."""
    per, (_, v) = cut(task, machine), tile_of(task, machine)
    parts = t.ceil_div(task.rows, per) * t.ceil_div(task.columns, v * machine.lanes(4)) * task.batch
    recipe = f"{NAME} {task} {tile_of(task, machine)} {per}"
    return Code((Step(recipe, lambda name: write(name, task, machine), lambda n: n * parts),))


def write(symbol: str, task: MatTask, machine: Machine) -> str:
    """The kernel as IR text."""
    b = t.begin(symbol, machine)
    lanes, per, (most, vectors) = machine.lanes(4), cut(task, machine), tile_of(task, machine)
    wide = vectors * lanes
    parts, blocks = t.ceil_div(task.rows, per), t.ceil_div(task.columns, wide)
    part, rest = b.urem(b.arg.unit, parts), b.udiv(b.arg.unit, parts)
    block, product = b.urem(rest, blocks), b.udiv(rest, blocks)
    first = b.mul(part, per)
    last = b.imin(b.add(first, per), task.rows)
    start = b.mul(block, 4 * wide)
    a = t.word(b, t.W)
    if not task.shared:
        a = b.at(a, b.mul(product, 4 * task.rows * task.a_ld))
    x = b.at(t.word(b, t.X), b.mul(product, 4 * task.depth * task.b_ld), start)
    y = b.at(t.word(b, t.Y), b.mul(product, 4 * task.rows * task.y_ld), start)

    def tile(row: Any, rows: int, columns: int) -> None:
        masks = [b.mask(columns - v, lanes) for v in range(0, columns, lanes)]
        count = len(masks)
        ar = b.at(a, b.mul(row, 4 * task.a_ld))

        def step(k: Any, acc: list[Value]) -> list[Value]:
            acc, xk = list(acc), b.at(x, b.mul(k, 4 * task.b_ld))
            vs = [b.vload(b.at(xk, 4 * lanes * v), F32, lanes, mask=mask) for v, mask in enumerate(masks)]
            for r in range(rows):
                one = b.splat_load(b.at(ar, 4 * r * task.a_ld, b.mul(k, 4)), F32)
                for v in range(count):
                    acc[r * count + v] = b.fma(one, vs[v], acc[r * count + v])
            return acc

        acc = [b.const(F32, 0.0)] * (rows * count)
        acc = b.loop(0, task.depth, 1, step, acc)
        for r in range(rows):
            out = b.at(y, b.mul(b.add(row, r), 4 * task.y_ld))
            shift = b.splat_load(b.at(t.word(b, t.B), b.mul(b.add(row, r), 4)), F32) if task.shared else None
            for v, mask in enumerate(masks):
                value = acc[r * count + v]
                value = value if shift is None else b.fadd(value, shift)
                b.vstore(activate(b, value, task.activation, F32), b.at(out, 4 * lanes * v), F32, mask=mask)

    def some(columns: int) -> None:
        whole = task.rows // most * most
        b.loop(first, b.imin(last, whole), most, lambda row, _: tile(row, most, columns))
        if task.rows > whole:
            b.choose(b.less(whole, last), lambda: tile(whole, task.rows - whole, columns))

    full, left = divmod(task.columns, wide)
    if full and left:
        b.choose(b.less(block, full), lambda: some(wide), lambda: some(left))
    else:
        some(wide if full else left)
    return b.finish()
