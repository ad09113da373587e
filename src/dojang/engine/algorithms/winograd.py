"""Winograd convolution F(m×m, r×r), stride 1: fewer multiplications, as small matrix products with register tiles.

For each tile of m × m outputs: transform a × a inputs (a = m + r − 1), multiply position by position over the input
channels, transform back with bias, residual and activation. Three orders of work:
*blocked*, where one unit carries a block of tiles through all three stages in its core's cache, for layers with few
weights; *phased*, three steps with all tiles in the shared cache, so that every transformed weight is read once;
*fresh*, where weights lie in memory as they are and a unit transforms those of some output channels in its cache, a
few input channels at a time, and uses them for many tiles: 9 numbers per kernel come from memory, not 16 or 36.
Transformed weights are packed [position][group][oc block][ic][oc in block], others [oc block][ic][tap][oc in block].
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from dojang.engine.algorithms import task as t
from dojang.engine.algorithms.direct import crowding, cycles
from dojang.engine.algorithms.interpolate import apply, matrices
from dojang.engine.algorithms.task import Code, Step, Task
from dojang.engine.emit import F32, Emit, Value
from dojang.engine.machine import Machine

NAME = "winograd"
MOST_TRANSFORMED = 4 << 20
"""Bytes of transformed weights of a layer above which they are not kept: the memory of a network stays near that of
its weights, and memory is read less (1.2 times faster on 512 channels at 14 × 14; Zen 5, 2026)."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How a layer is cut: m outputs per tile side, register tile, tiles per unit (of all tiles when `phased`).

    `chunk` is the number of input channels whose weights are transformed at a time; 0: they are transformed beforehand.
    """

    m: int
    pixels: int
    vectors: int
    tiles: int
    phased: bool
    chunk: int = 0


def why_not(task: Task, machine: Machine) -> str | None:
    """For 2-d 3×3 and 5×5 kernels with stride and dilation 1 and enough channels to pay for the transforms."""
    c = task.conv
    if task.strict:
        return "precision is strict"
    if task.kind != "f32":
        return "not float32"
    if c.transposed:
        return "transposed"
    if c.rank != 2 or c.kernel not in ((3, 3), (5, 5)):
        return "kernel is not 3x3 or 5x5"
    if any(s != 1 for s in (*c.stride, *c.dilation)):
        return "stride or dilation above 1"
    lanes = machine.lanes(4)
    if c.ic // c.groups < (8 if c.groups == 1 else 32) or c.oc // c.groups < lanes // 2:
        return f"too few channels per group ({c.ic // c.groups} to {c.oc // c.groups})"
    if c.groups > 1 and (c.oc // c.groups) % lanes:
        return f"{c.oc // c.groups} output channels per group are not whole vectors"
    return None


def tiles_of(task: Task, m: int) -> tuple[int, int]:
    """Tiles down and across one image."""
    oh, ow = task.conv.out_size
    return t.ceil_div(oh, m), t.ceil_div(ow, m)


@cache
def shape_of(task: Task, machine: Machine) -> Shape:
    """The cut with the least estimated time."""
    choices = (4, 2) if task.conv.kernel[0] == 3 else (2,)
    cuts = [_cut(task, machine, m) for m in choices]
    if any(weights_of(task, s.m) > MOST_TRANSFORMED for s in cuts):
        cuts = [s for m in choices if (s := _fresh(task, machine, m)) is not None] or cuts
    return min(cuts, key=lambda s: seconds(task, machine, s))


def weights_of(task: Task, m: int) -> int:
    """Bytes of the transformed weights."""
    c = task.conv
    return 4 * (m + c.kernel[0] - 1) ** 2 * (c.ic // c.groups) * c.oc


def _fresh(task: Task, machine: Machine, m: int) -> Shape | None:
    """The best cut with weights transformed where they are used; for one group and whole vectors."""
    c, lanes = task.conv, machine.lanes(4)
    chunk = next((k for k in (32, 16, 8) if c.ic % k == 0 and k % lanes == 0), 0)
    if c.groups != 1 or c.oc % lanes or c.kernel[0] != 3 or not chunk:
        return None
    th, tw = tiles_of(task, m)
    total = max(1, c.n) * th * tw
    best: tuple[float, Shape] | None = None
    for v in (1, 2, 3, 4):
        if c.oc // lanes % v:
            continue
        fit = int(0.6 * machine.l2) // (4 * (m + 2) ** 2 * v * lanes) - chunk
        for p in range(1, min((machine.registers - 1 - v) // v, total) + 1):
            parts = t.ceil_div(total, max(p, fit))
            tiles = p * t.ceil_div(t.ceil_div(total, parts), p)
            shape = Shape(m, p, v, tiles, True, chunk)
            cost = seconds(task, machine, shape)
            if best is None or cost < best[0]:
                best = (cost, shape)
    return best[1] if best else None


def _cut(task: Task, machine: Machine, m: int) -> Shape:
    c = task.conv
    a2 = (m + c.kernel[0] - 1) ** 2
    lanes = machine.lanes(4)
    th, tw = tiles_of(task, m)
    total = max(1, c.n) * th * tw
    vectors = t.ceil_div(c.oc // c.groups, lanes)
    best: Any = None
    for v in range(1, min(4, vectors) + 1):
        for p in range(1, min((machine.registers - 1 - v) // v, total) + 1):
            cost = t.ceil_div(total, p) * (vectors // v * cycles(p, v) + bool(vectors % v) * cycles(p, vectors % v))
            cost *= crowding(p, 4 * c.ic, machine)
            if best is None or cost < best[0]:
                best = (cost, p, v)
    _, p, v = best
    per_tile = 4 * a2 * (c.ic + c.oc)
    u = 4 * a2 * c.ic // c.groups * c.oc
    fit = max(1, int(0.7 * machine.l2) // (per_tile * p))
    block = p * min(max(fit, t.ceil_div(24, p)), t.ceil_div(total, p))
    if t.ceil_div(total, block) < 2 * machine.cores:  # every core must get some units of the blocked order
        block = p * max(1, t.ceil_div(t.ceil_div(total, 2 * machine.cores), p))
    # Bytes through the shared cache: weights once per block of tiles, against twice all transformed tiles.
    blocked_bytes = u * t.ceil_div(total, block) if u > machine.l2 // 2 else 0
    phased_bytes = u + 2 * total * per_tile
    phased = phased_bytes < blocked_bytes and total * per_tile < machine.l3
    return Shape(m, p, v, min(8, total) if phased else block, phased)


def seconds(task: Task, machine: Machine, s: Shape) -> float:
    """Estimated seconds on one core for one image of the batch."""
    from dojang.engine.peaks import peaks

    c, p = task.conv, peaks(machine)
    n = max(1, c.n)
    a = s.m + c.kernel[0] - 1
    th, tw = tiles_of(task, s.m)
    total = t.ceil_div(n * th * tw, s.pixels) * s.pixels
    lanes = machine.lanes(4)
    vectors = t.ceil_div(c.oc // c.groups, lanes)
    per_k = vectors // s.vectors * cycles(s.pixels, s.vectors)
    if vectors % s.vectors:
        per_k += cycles(s.pixels, vectors % s.vectors)
    # Per register tile: its sums are stored, its loop begins and ends.
    around = 3 * s.pixels * vectors + 60
    product = a * a * c.groups * (c.ic // c.groups * per_k + around) * total / s.pixels
    # Transforms: about 4a² + 2am operations and as many loads and stores per vector of channels and tile.
    moves = n * th * tw * (t.ceil_div(c.ic, lanes) + t.ceil_div(c.oc, lanes)) * (4.5 * a * a)
    rate = p.fma_gflops * 1e9 / 4 / lanes
    if s.chunk:
        parts = t.ceil_div(n * th * tw, s.tiles)
        rows = t.ceil_div(t.ceil_div(n * th * tw, parts), s.pixels) * parts
        per_k = cycles(s.pixels, s.vectors)
        # Per chunk, sums are loaded and stored; per input channel, weights are transformed: about 1.3 cycles a number.
        product = a * a * vectors / s.vectors * c.ic * rows * (per_k + (1.2 * s.pixels * s.vectors + 8) / s.chunk)
        product += 1.3 * a * a * vectors * c.ic * parts
        memory = 4 * 9 * c.ic * c.oc / (p.read_gbs * 1e9)
        # Every block of output channels reads all transformed tiles.
        cache = 4 * a * a * c.ic * n * th * tw * (1 + vectors / s.vectors) / (p.cache_gbs * 1e9)
        work = product / rate
        return (max(work + 0.3 * (memory + cache), memory + 0.3 * work, cache + 0.3 * work) + moves / rate) / n
    u = 4 * a * a * (c.ic // c.groups) * c.oc
    passes = 1 if s.phased or u < machine.l2 // 2 else t.ceil_div(n * th * tw, s.tiles)
    # In a network the weights come from memory; the rest of the traffic stays in the shared cache.
    memory = u / (p.read_gbs * 1e9)
    cache = u * (passes - 1) / (p.cache_gbs * 1e9)
    if s.phased:
        cache += 2 * total * 4 * a * a * (c.ic + c.oc) / (p.cache_gbs * 1e9)
    work = product / rate
    return (max(work + 0.3 * (memory + cache), memory + 0.3 * work, cache + 0.3 * work) + moves / rate) / n


def predict(task: Task, machine: Machine) -> float:
    """Seconds on one core per image."""
    return seconds(task, machine, shape_of(task, machine))


def pack(task: Task, machine: Machine, weight: np.ndarray, bias: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """G g Gᵀ in float64, rounded once, as [position][group][oc block][ic][oc in block]; fresh: weights as they are."""
    s, c, lanes = shape_of(task, machine), task.conv, machine.lanes(4)
    if s.chunk:
        block = s.vectors * lanes
        out = np.empty((c.oc // block, c.ic, 9, block), "f4")
        out[...] = np.asarray(weight).reshape(-1, block, c.ic, 9).transpose(0, 2, 3, 1)
        return out.reshape(-1), t.pack_vector(bias, 1, lanes, c.oc, "f4")
    r, ocg, icg = c.kernel[0], c.oc // c.groups, c.ic // c.groups
    g = np.array([[float(v) for v in row] for row in matrices(s.m, r)[1]])
    a = len(g)
    both = np.einsum("ia,jb->ijab", g, g).reshape(a * a, r * r)
    w = np.asarray(weight).reshape(c.groups, ocg, icg, r * r)
    whole = t.ceil_div(ocg, lanes) * lanes
    if whole > ocg:
        w = np.concatenate([w, np.zeros((c.groups, whole - ocg, icg, r * r), w.dtype)], 1)
    block = s.vectors * lanes
    full = whole // block * block
    parts = [w[:, :full].reshape(c.groups, -1, block, icg, r * r).swapaxes(2, 3), w[:, full:].swapaxes(1, 2)]
    # In the order of the result first, which is small; then transformed, some at a time, so that it stays in cache.
    kernels = np.concatenate([part.reshape(c.groups, -1, r * r) for part in parts], 1).reshape(-1, r * r)
    out = np.empty((a * a, len(kernels)), "f4")
    some = 768  # below 2¹⁸ products, OpenBLAS stays on this thread; waking others took 5 times as long
    for at in range(0, len(kernels), some):
        out[:, at : at + some] = both @ kernels[at : at + some].T.astype("f8")
    return out.reshape(-1), t.pack_vector(bias, c.groups, lanes, ocg, "f4")


def emit(task: Task, machine: Machine) -> Code:
    """One step (blocked) or three (phased)."""
    s, c = shape_of(task, machine), task.conv
    th, tw = tiles_of(task, s.m)
    a2 = (s.m + c.kernel[0] - 1) ** 2
    task = replace(task, conv=replace(c, n=1))
    lanes = machine.lanes(4)
    wide = c.groups * t.ceil_div(c.oc // c.groups, lanes) * lanes
    recipe = f"{NAME} {task} {s}"
    kernel = lambda: Winograd(task, s, machine)  # noqa: E731
    if not s.phased:
        units = lambda n: t.ceil_div(n * th * tw, s.tiles)  # noqa: E731
        scratch = 4 * a2 * s.tiles * (c.ic + wide)
        return Code((Step(recipe, lambda name: kernel().blocked(name), units),), scratch)
    blocks = c.groups * t.ceil_div(t.ceil_div(c.oc // c.groups, lanes), s.vectors)
    chunks = lambda n: t.ceil_div(n * th * tw, s.tiles)  # noqa: E731
    padded = lambda n: t.ceil_div(n * th * tw, s.pixels) * s.pixels  # noqa: E731
    if s.chunk:
        some = t.ceil_div(24, s.pixels)  # tiles of a unit of the first step
        forward = Step(
            f"{recipe} forward", lambda name: kernel().forward(name, some), lambda n: t.ceil_div(n * th * tw, some)
        )
        rest = Step(f"{recipe} fresh", lambda name: kernel().fresh(name), lambda n: blocks * chunks(n))
        u, m = kernel().planes()
        return Code((forward, rest), a2 * (u + m), lambda n: (4 * a2 * padded(n) * c.ic, 0))
    steps = (
        Step(recipe + " forward", lambda name: kernel().forward(name), chunks),
        Step(recipe + " product", lambda name: kernel().product(name), lambda n: a2 * blocks),
        Step(recipe + " back", lambda name: kernel().back(name), chunks),
    )
    return Code(steps, 0, lambda n: (4 * a2 * padded(n) * c.ic, 4 * a2 * padded(n) * wide))


class Winograd:
    """The stages of one layer while they are written. Offsets in bytes unless said otherwise."""

    def __init__(self, task: Task, shape: Shape, machine: Machine) -> None:
        """Sizes as Python ints."""
        self.task, self.s, self.machine = task, shape, machine
        c = self.c = task.conv
        self.m, self.r = shape.m, c.kernel[0]
        self.a = self.m + self.r - 1
        self.at_, self.g, self.bt = matrices(self.m, self.r)
        self.th, self.tw = tiles_of(task, self.m)
        self.lanes = machine.lanes(4)
        self.icg, self.ocg = c.ic // c.groups, c.oc // c.groups
        self.vectors = t.ceil_div(self.ocg, self.lanes)
        self.wide = c.groups * self.vectors * self.lanes  # channels of a transformed output

    def start(self, symbol: str) -> Emit:
        """A builder with the arguments all stages use."""
        b = self.b = t.begin(symbol, self.machine)
        self.total = b.mul(t.word(b, t.N, pointer=False), self.th * self.tw)
        return b

    def blocked(self, symbol: str) -> str:
        """All stages for `tiles` tiles, in the thread's scratch."""
        b = self.start(symbol)
        s, tiles = self.s, self.s.tiles
        first = b.mul(b.arg.unit, tiles)
        count = b.imin(b.sub(self.total, first), tiles)
        v, m = b.arg.scratch, b.at(b.arg.scratch, 4 * self.a**2 * tiles * self.c.ic)
        b.loop(0, count, 1, lambda i, _: self.transform(b.add(first, i), b.at(v, b.mul(i, 4 * self.c.ic)),
                                                        4 * tiles * self.c.ic))  # fmt: skip
        groups = b.udiv(b.add(count, s.pixels - 1), s.pixels)

        def position(k, _):
            u = b.at(t.word(b, t.W), b.mul(k, 4 * self.wide * self.icg))
            vk, mk = b.at(v, b.mul(k, 4 * tiles * self.c.ic)), b.at(m, b.mul(k, 4 * tiles * self.wide))

            def group(g, _):
                gu, gv = b.at(u, b.mul(g, 4 * self.vectors * self.lanes * self.icg)), b.at(vk, b.mul(g, 4 * self.icg))
                gm = b.at(mk, b.mul(g, 4 * self.vectors * self.lanes))
                full, rest = divmod(self.vectors, s.vectors)
                block = s.vectors * self.lanes
                b.loop(0, full, 1, lambda o, _: self.multiply(
                    b.at(gu, b.mul(o, 4 * block * self.icg)), gv, b.at(gm, b.mul(o, 4 * block)), groups, s.vectors
                ))  # fmt: skip
                if rest:
                    self.multiply(b.at(gu, full * 4 * block * self.icg), gv, b.at(gm, full * 4 * block), groups, rest)

            b.loop(0, self.c.groups, 1, group)

        b.loop(0, self.a**2, 1, position)
        b.loop(0, count, 1, lambda i, _: self.inverse(b.add(first, i), b.at(m, b.mul(i, 4 * self.wide)),
                                                      4 * tiles * self.wide))  # fmt: skip
        return b.finish()

    def padded(self) -> Value:
        """All tiles, rounded up to whole register tiles."""
        b = self.b
        return b.mul(b.udiv(b.add(self.total, self.s.pixels - 1), self.s.pixels), self.s.pixels)

    def forward(self, symbol: str, some: int | None = None) -> str:
        """The input transform of some tiles into the first shared area."""
        b = self.start(symbol)
        first = b.mul(b.arg.unit, some or self.s.tiles)
        last = b.imin(b.add(first, some or self.s.tiles), self.total)
        wide = 4 * (self.s.chunk or self.c.ic)
        v, plane = t.word(b, t.S0), b.mul(self.padded(), wide)
        b.loop(first, last, 1, lambda i, _: self.transform(i, b.at(v, b.mul(i, wide)), plane))
        return b.finish()

    def product(self, symbol: str) -> str:
        """The product of one position and one block of output channels over all tiles."""
        b = self.start(symbol)
        s, c = self.s, self.c
        full, rest = divmod(self.vectors, s.vectors)
        per_group = full + (rest > 0)
        k, o = b.udiv(b.arg.unit, per_group * c.groups), b.urem(b.arg.unit, per_group * c.groups)
        g, inner = b.udiv(o, per_group), b.urem(o, per_group)
        block = s.vectors * self.lanes
        u = b.at(t.word(b, t.W), b.mul(k, 4 * self.wide * self.icg),
                 b.mul(g, 4 * self.vectors * self.lanes * self.icg), b.mul(inner, 4 * block * self.icg))  # fmt: skip
        padded = self.padded()
        v = b.at(t.word(b, t.S0), b.mul(k, b.mul(padded, 4 * c.ic)), b.mul(g, 4 * self.icg))
        m = b.at(t.word(b, t.S1), b.mul(k, b.mul(padded, 4 * self.wide)),
                 b.mul(g, 4 * self.vectors * self.lanes), b.mul(inner, 4 * block))  # fmt: skip
        groups = b.udiv(padded, s.pixels)
        if rest and full:
            b.choose(b.less(inner, full), lambda: self.multiply(u, v, m, groups, s.vectors),
                     lambda: self.multiply(u, v, m, groups, rest))  # fmt: skip
        else:
            self.multiply(u, v, m, groups, rest or s.vectors)
        return b.finish()

    def back(self, symbol: str) -> str:
        """The output transform of some tiles from the second shared area."""
        b = self.start(symbol)
        first = b.mul(b.arg.unit, self.s.tiles)
        last = b.imin(b.add(first, self.s.tiles), self.total)
        m, plane = t.word(b, t.S1), b.mul(self.padded(), 4 * self.wide)
        b.loop(first, last, 1, lambda i, _: self.inverse(i, b.at(m, b.mul(i, 4 * self.wide)), plane))
        return b.finish()

    def planes(self) -> tuple[int, int]:
        """Bytes from position to position of the fresh weights and of the products: not near a multiple of 4096, where
        all positions would fall into one set of the first cache."""
        block = 4 * self.s.vectors * self.lanes
        return self.s.chunk * block + 192, self.s.tiles * block + 192

    def fresh(self, symbol: str) -> str:
        """All that follows the input transform, for one block of output channels and `tiles` tiles."""
        b = self.start(symbol)
        s, c, a2 = self.s, self.c, self.a**2
        block = s.vectors * self.lanes
        blocks = c.oc // block
        part, o = b.udiv(b.arg.unit, blocks), b.urem(b.arg.unit, blocks)
        first = b.mul(part, s.tiles)
        count = b.imin(b.sub(self.total, first), s.tiles)
        groups = b.udiv(b.add(count, s.pixels - 1), s.pixels)
        u_plane, m_plane = self.planes()
        bytes_ = 4 * block * 9 * s.chunk
        u, m = b.arg.scratch, b.at(b.arg.scratch, a2 * u_plane)
        w = b.at(t.word(b, t.W), b.mul(o, 4 * block * c.ic * 9))
        v = b.at(t.word(b, t.S0), b.mul(first, 4 * s.chunk))
        v_plane = b.mul(self.padded(), 4 * s.chunk)  # [chunk][position][tile][ic in chunk]

        def chunk(k: Any, begin: bool) -> None:
            wk, vk = b.at(w, b.mul(k, 4 * block * 9)), b.at(v, b.mul(b.udiv(k, s.chunk), b.mul(v_plane, a2)))
            b.loop(0, s.chunk, 1, lambda i, _: self.weigh(b.at(wk, b.mul(i, 4 * block * 9)),
                                                          b.at(u, b.mul(i, 4 * block)), u_plane))  # fmt: skip

            # Meanwhile the weights of the next chunk come from memory.
            ahead, lines = b.at(wk, bytes_), t.ceil_div(bytes_, 64 * a2)

            def position(q, _):
                b.loop(0, lines, 1, lambda i, _: [b.prefetch(b.at(ahead, b.mul(b.add(b.mul(q, lines), i), 64)),
                                                             locality=2)][:0])  # fmt: skip
                self.multiply(b.at(u, b.mul(q, u_plane)), b.at(vk, b.mul(q, v_plane)), b.at(m, b.mul(q, m_plane)),
                              groups, s.vectors, s.chunk, block, begin)  # fmt: skip

            b.loop(0, a2, 1, position)

        chunk(0, True)
        b.loop(s.chunk, c.ic, s.chunk, lambda k, _: chunk(k, False))
        b.loop(0, count, 1, lambda i, _: self.inverse(b.add(first, i), b.at(m, b.mul(i, 4 * block)), m_plane,
                                                      (b.mul(o, 4 * block), block)))  # fmt: skip
        return b.finish()

    def weigh(self, w: Value, u: Value, plane: int) -> None:
        """G g Gᵀ of one input channel and a block of output channels."""
        b, r, a = self.b, self.r, self.a
        block = self.s.vectors * self.lanes
        for j in range(self.s.vectors):
            o = 4 * j * self.lanes
            rows = [[b.vload(b.at(w, 4 * block * (y * r + x) + o), F32) for x in range(r)] for y in range(r)]
            half = [apply(b, self.g, [rows[y][x] for y in range(r)]) for x in range(r)]
            for y in range(a):
                for x, value in enumerate(apply(b, self.g, [half[k][y] for k in range(r)])):
                    b.vstore(value, b.at(u, (y * a + x) * plane + o), F32)

    def place(self, tile: Value) -> tuple[Value, Value, Value]:
        """(image, first output row, first output column) of a tile."""
        b = self.b
        image, inside = b.udiv(tile, self.th * self.tw), b.urem(tile, self.th * self.tw)
        return image, b.mul(b.udiv(inside, self.tw), self.m), b.mul(b.urem(inside, self.tw), self.m)

    def transform(self, tile: Value, v: Value, plane: Any) -> None:
        """Bᵀ d B of one tile, all channels, to v; `plane` bytes from position to position."""
        b, c, a = self.b, self.c, self.a
        image, oh, ow = self.place(tile)
        ih, iw = b.sub(oh, c.padding[0][0]), b.sub(ow, c.padding[1][0])
        pixel, (height, width) = 4 * self.task.x_ld, c.size
        x = b.at(t.word(b, t.X), b.mul(b.add(b.mul(b.add(b.mul(image, height), ih), width), iw), pixel))

        def lanes(o: Any, rows: Any, columns: Any, tail: Any) -> None:
            xo, vo = b.at(x, b.mul(o, 4)), b.at(v, b.mul(o, 4))
            if chunk := self.s.chunk:
                vo = b.at(v, b.mul(b.udiv(o, chunk), b.mul(plane, a * a)), b.mul(b.urem(o, chunk), 4))

            def read(i: int, j: int) -> Value:
                mask = tail
                if rows is not None:
                    mask = b.splat(b.and_(rows[i], columns[j]), self.lanes)
                    mask = b.and_(mask, tail) if tail is not None else mask
                return b.vload(b.at(xo, (i * width + j) * pixel), F32, mask=mask)

            half = [apply(b, self.bt, [read(i, j) for i in range(a)]) for j in range(a)]
            for i in range(a):
                for j, value in enumerate(apply(b, self.bt, [half[j][i] for j in range(a)])):
                    b.vstore(value, b.at(vo, b.mul(i * a + j, plane)), F32, mask=tail)

        def every(rows: Any, columns: Any) -> None:
            whole = c.ic // self.lanes * self.lanes
            b.loop(0, whole, self.lanes, lambda o, _: lanes(o, rows, columns, None))
            if c.ic > whole:
                lanes(whole, rows, columns, b.mask(c.ic - whole, self.lanes))

        def inside(start: Value, size: int) -> Value:
            return b.icmp_unsigned("<=", start, b.index(max(0, size - a))) if size >= a else b.less(0, b.index(0))

        def border() -> None:
            rows = [b.icmp_unsigned("<", b.index(b.add(ih, i)), b.index(height)) for i in range(a)]
            columns = [b.icmp_unsigned("<", b.index(b.add(iw, j)), b.index(width)) for j in range(a)]
            every(rows, columns)

        b.choose(b.and_(inside(b.index(ih), height), inside(b.index(iw), width)), lambda: every(None, None), border)

    def multiply(
        self, u: Value, v: Value, m: Value, groups: Value, vectors: int, length: int = 0, wide: int = 0, begin=True
    ) -> None:
        """m[p, o] = Σ v[p, i] u[i, o] for groups of `pixels` tiles and `vectors` vectors of output channels.

        `length` input channels (all of the group); `wide` channels from tile to tile of m; not `begin`: added to m.
        """
        b, pixels = self.b, self.s.pixels
        ld, wide, length = 4 * (self.s.chunk or self.c.ic), 4 * (wide or self.wide), length or self.icg

        def group(q, _):
            vq, mq = b.at(v, b.mul(q, pixels * ld)), b.at(m, b.mul(q, pixels * wide))

            def k_step(k, acc):
                uk, vk = b.at(u, b.mul(k, 4 * vectors * self.lanes)), b.at(vq, b.mul(k, 4))
                us = [b.vload(b.at(uk, 4 * j * self.lanes), F32) for j in range(vectors)]
                acc = list(acc)
                for p in range(pixels):
                    xv = b.splat_load(b.at(vk, p * ld), F32)
                    for j in range(vectors):
                        acc[p * vectors + j] = b.fma(xv, us[j], acc[p * vectors + j])
                return acc

            places = [b.at(mq, i // vectors * wide + i % vectors * 4 * self.lanes) for i in range(pixels * vectors)]
            acc = [b.const(F32, 0.0)] * len(places) if begin else [b.vload(at, F32) for at in places]
            acc = b.loop(0, length, 1, k_step, acc, unroll=2 if length % 2 == 0 else 1)
            for at, value in zip(places, acc, strict=True):
                b.vstore(value, at, F32)

        b.loop(0, groups, 1, group)

    def inverse(self, tile: Value, m: Value, plane: Any, block: tuple[Value, int] | None = None) -> None:
        """Aᵀ M A of one tile, bias, residual, activation, to the output; outputs beyond the edge are not stored.

        `block`: (offset in bytes, count) of the output channels, all if None.
        """
        b, c, task, a = self.b, self.c, self.task, self.a
        image, oh, ow = self.place(tile)
        height, width = c.out_size
        pixel = b.add(b.mul(b.add(b.mul(image, height), oh), width), ow)
        y = b.at(t.word(b, t.Y), b.mul(pixel, 4 * task.y_ld))
        res = b.at(t.word(b, t.R), b.mul(pixel, 4 * task.residual_ld)) if task.residual_ld else None
        bias = t.word(b, t.B)
        channels = c.oc
        if block is not None:
            y, bias, channels = b.at(y, block[0]), b.at(bias, block[0]), block[1]
            res = b.at(res, block[0]) if res is not None else None

        def lanes(o: Any, edge: Any, tail: Any) -> None:
            mo, yo = b.at(m, b.mul(o, 4)), b.at(y, b.mul(o, 4))
            offset = b.vload(b.at(bias, b.mul(o, 4)), F32)
            half = [
                apply(b, self.at_, [b.vload(b.at(mo, b.mul(i * a + j, plane)), F32) for i in range(a)])
                for j in range(a)
            ]
            for i in range(self.m):
                for j, value in enumerate(apply(b, self.at_, [half[j][i] for j in range(a)])):
                    mask = tail
                    if edge is not None:
                        mask = b.splat(b.and_(edge[0][i], edge[1][j]), self.lanes)
                        mask = b.and_(mask, tail) if tail is not None else mask
                    value = b.fadd(value, offset)
                    if res is not None:
                        at = b.at(res, (i * width + j) * 4 * task.residual_ld, b.mul(o, 4))
                        value = b.fadd(value, b.vload(at, F32, mask=mask))
                    value = t.activate(b, value, task.activation, F32)
                    b.vstore(value, b.at(yo, (i * width + j) * 4 * task.y_ld), F32, mask=mask)

        def every(edge: Any) -> None:
            # One group may end in a masked vector; several groups are whole vectors (why_not).
            whole = channels // self.lanes * self.lanes
            b.loop(0, whole, self.lanes, lambda o, _: lanes(o, edge, None))
            if channels > whole:
                lanes(whole, edge, b.mask(channels - whole, self.lanes))

        def border() -> None:
            rows = [b.less(b.add(oh, i), height) for i in range(self.m)]
            columns = [b.less(b.add(ow, j), width) for j in range(self.m)]
            every((rows, columns))

        if height % self.m == 0 and width % self.m == 0:
            every(None)
            return
        fits = b.and_(b.less(b.add(oh, self.m - 1), height), b.less(b.add(ow, self.m - 1), width))
        b.choose(fits, lambda: every(None), border)
