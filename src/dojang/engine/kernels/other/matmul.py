"""Matrix products of what lies in memory as it is: C[i][j] = Σ a[i][k] b[k][j], j contiguous in b and C.

Values of three axes and more lie with their second axis fastest. A dense layer over the last axis is then a product
for each place of the axes between, with the weights as `a`; the product of two values is one with the second as `a`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.activations import Activation, activate
from dojang.engine.kernels.conv.direct import cycles
from dojang.engine.kernels.task import Code, Offer, Step
from dojang.native.costs import COSTS
from dojang.native.emit import F32, Emit, Value
from dojang.native.machine import Machine

NAME = "matmul"
UNIT_FLOPS = COSTS.unit_matmul_flops
OPEN_ROWS = 8
"""Rows of a tile whose code serves any size: each needs a register for its address."""


@plain_repr
@dataclass(frozen=True, slots=True)
class MatTask:
    """`batch` products per image: `rows` × `depth` by `depth` × `columns`.

    From row to row are `a_ld`, `b_ld`, `y_ld` elements. `shared`: `a` is the same for all, and there is a bias per row.
    """

    batch: int
    rows: Any  # whole numbers, or sizes that are known at run time
    depth: Any
    columns: Any
    a_ld: Any
    b_ld: Any
    y_ld: Any
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


def rows_per_unit(task: MatTask, machine: Machine, tile: tuple[int, int]) -> int:
    """Rows of a unit, whole tiles."""
    p, v = tile
    wide = min(task.columns, v * machine.lanes(4))
    return p * max(1, min(UNIT_FLOPS // max(1, 2 * task.depth * wide * p), t.ceil_div(task.rows, p)))


def emit(task: MatTask, machine: Machine) -> Code:
    """One step; a unit is some rows of one block of columns, which stays in the cache of a core over the rows."""
    tile = tile_of(task, machine)
    per = rows_per_unit(task, machine, tile)
    parts = t.ceil_div(task.rows, per) * t.ceil_div(task.columns, tile[1] * machine.lanes(4)) * task.batch
    recipe = f"{NAME} {task} {tile} {per}"

    def build(symbol: str) -> str:
        return MatrixProducts(t.begin(symbol, machine), task, machine, tile, per).one_size()

    return Code((Step(recipe, build, lambda n: n * parts),))


def open_tile(task: MatTask, machine: Machine) -> tuple[int, int]:
    """(rows, vectors) of a register tile whose code serves any size: rows begin at addresses that are computed, so that
    few are taken; the last block of columns takes as many vectors as the others.
    """
    vectors = t.ceil_div(task.columns, machine.lanes(4))
    tiles = [(min(machine.tile_rows(v), OPEN_ROWS, task.rows), v) for v in range(1, min(4, vectors) + 1)]
    return min(tiles, key=lambda tile: t.ceil_div(vectors, tile[1]) * cycles(*tile) / tile[0])


def emit_open(task: MatTask, like: MatTask, machine: Machine) -> Code:
    """Like `emit`, with code for matrices of any size."""
    tile = open_tile(task, machine)
    per = rows_per_unit(task, machine, tile)
    parts = t.ceil_div(task.rows, per) * t.ceil_div(task.columns, tile[1] * machine.lanes(4)) * task.batch
    sizes = (task.rows, task.depth, task.columns, task.a_ld, task.b_ld, task.y_ld, per)
    recipe = f"{NAME} open {tile} {task.shared} {task.activation}"

    def build(symbol: str) -> str:
        b = t.begin(symbol, machine)
        rows, depth, columns, a_ld, b_ld, y_ld, per = t.sizes(b, 7)
        form = replace(task, batch=1, rows=rows, depth=depth, columns=columns, a_ld=a_ld, b_ld=b_ld, y_ld=y_ld)
        return MatrixProducts(b, form, machine, tile, per).any_size()

    return Code((Step(recipe, build, lambda n: n * parts, sizes),))


class MatrixProducts:
    """The kernel of some products while it is written."""

    def __init__(self, b: Emit, task: MatTask, machine: Machine, tile: tuple[int, int], per: Any) -> None:
        """Decodes the unit: `per` rows of one block of columns of one product."""
        self.b, self.task, self.lanes = b, task, machine.lanes(4)
        self.most, self.vectors = tile
        self.wide = self.vectors * self.lanes
        parts, blocks = t.ceil_div(task.rows, per), t.ceil_div(task.columns, self.wide)
        part, rest = b.urem(b.arg.unit, parts), b.udiv(b.arg.unit, parts)
        self.block, product = b.urem(rest, blocks), b.udiv(rest, blocks)
        self.first = b.mul(part, per)
        self.last = b.imin(b.add(self.first, per), task.rows)
        self.start = b.mul(self.block, self.wide)
        start = b.mul(self.start, 4)
        a = t.word(b, t.W)
        self.a = a if task.shared else b.at(a, b.mul(product, 4 * task.rows * task.a_ld))
        self.x = b.at(t.word(b, t.X), b.mul(product, 4 * task.depth * task.b_ld), start)
        self.y = b.at(t.word(b, t.Y), b.mul(product, 4 * task.rows * task.y_ld), start)

    def tile(self, row: Any, rows: int, masks: Sequence[Value | None]) -> None:
        """`rows` rows by as many vectors as there are masks."""
        b, task, lanes, count = self.b, self.task, self.lanes, len(masks)
        ar = b.at(self.a, b.mul(row, 4 * task.a_ld))

        def step(k: Any, acc: list[Value]) -> list[Value]:
            acc, xk = list(acc), b.at(self.x, b.mul(k, 4 * task.b_ld))
            vs = [b.vload(b.at(xk, 4 * lanes * v), F32, lanes, mask=mask) for v, mask in enumerate(masks)]
            for r in range(rows):
                one = b.splat_load(b.at(ar, 4 * r * task.a_ld, b.mul(k, 4)), F32)
                for v in range(count):
                    acc[r * count + v] = b.fma(one, vs[v], acc[r * count + v])
            return acc

        acc = [b.const(F32, 0.0)] * (rows * count)
        acc = b.loop(0, task.depth, 1, step, acc)
        for r in range(rows):
            out = b.at(self.y, b.mul(b.add(row, r), 4 * task.y_ld))
            shift = b.splat_load(b.at(t.word(b, t.B), b.mul(b.add(row, r), 4)), F32) if task.shared else None
            for v, mask in enumerate(masks):
                value = acc[r * count + v]
                value = value if shift is None else b.fadd(value, shift)
                b.vstore(activate(b, value, task.activation, F32), b.at(out, 4 * lanes * v), F32, mask=mask)

    def one_size(self) -> str:
        """The text for matrices of one size."""
        b, task, most = self.b, self.task, self.most

        def some(columns: int) -> None:
            masks = [b.mask(columns - v, self.lanes) for v in range(0, columns, self.lanes)]
            whole = task.rows // most * most
            b.loop(self.first, b.imin(self.last, whole), most, lambda row, _: self.tile(row, most, masks))
            if task.rows > whole:
                b.choose(b.less(whole, self.last), lambda: self.tile(whole, task.rows - whole, masks))

        full, left = divmod(task.columns, self.wide)
        if full and left:
            b.choose(b.less(self.block, full), lambda: some(self.wide), lambda: some(left))
        else:
            some(self.wide if full else left)
        return b.finish()

    def any_size(self) -> str:
        """The text for any size, of as many rows as a tile has at least: the last tile begins early enough to be whole,
        and computes some rows again.
        """
        b, task, lanes = self.b, self.task, self.lanes

        def some(masks: Sequence[Value | None]) -> None:
            b.loop(self.first, self.last, self.most,
                   lambda row, _: self.tile(b.imin(row, task.rows - self.most), self.most, masks))  # fmt: skip

        left = b.sub(task.columns, self.start)
        b.choose(
            b.less(left, self.wide),
            lambda: some([b.mask(b.sub(left, v * lanes), lanes) for v in range(self.vectors)]),
            lambda: some([None] * self.vectors),
        )
        return b.finish()
