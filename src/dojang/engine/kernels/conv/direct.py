"""Direct convolution with register tiles: any kernel, stride, dilation, padding, groups, 1 to 3 dimensions.

A tile is `pixels` neighbouring outputs of one row times `vectors` registers of output channels. Per input channel and
tap it loads `vectors` weights, broadcasts `pixels` inputs and does pixels · vectors fused multiply-adds. Padding is
never stored: rows outside are skipped by the bounds of the loop over kernel rows, columns outside by code that is
written for the tiles at the border. Weights are packed [group][oc block][kd][kh][kw][ic][oc in block].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import gcd, prod
from typing import Any

import numpy as np

from dojang.arith.conv import Conv
from dojang.base.record import plain_repr
from dojang.engine.kernels import task as t
from dojang.engine.kernels.activations import activate
from dojang.engine.kernels.rows import OpenRow, RowPiece, exact, open_row
from dojang.engine.kernels.task import Code, Offer, Refusal, Step, Task
from dojang.native.costs import COSTS
from dojang.native.emit import Emit, Value
from dojang.native.machine import Machine

NAME = "direct"
UNIT_FLOPS = COSTS.unit_flops
LINE = 64
LARGE_KERNEL = 12  # taps per row above which border columns are done pixel by pixel, to bound the code size


@plain_repr
@dataclass(frozen=True, slots=True)
class Tile:
    """Pixels and vectors of a tile; rows of the output and groups that one unit computes."""

    pixels: int
    vectors: int
    rows_per_unit: Any  # a whole number, or a size that is known at run time
    groups_per_unit: int = 1


@plain_repr
@dataclass(frozen=True, slots=True)
class Nest:
    """The loop nest of a convolution in three dimensions: y[o] = Σ x[o·stride − padding + k·dilation] w[k].

    Unlike in `Conv`, padding may be negative (the input is cropped) and a kernel axis may have no tap at all.
    """

    ic: int
    oc: int
    groups: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    out_size: tuple[int, ...]


def offer(task: Task, machine: Machine) -> Offer | Refusal:
    """Transposed convolutions have their own kernel; more than 3 dimensions have none."""
    if task.conv.transposed:
        return Refusal("transposed")
    c = task.conv
    alone = c.pointwise and prod(c.size) == prod(c.out_size) == 1 and not any(before for before, _ in c.padding)
    if alone and c.groups == 1 and not task.residual_ld:
        return Refusal("one pixel: each weight is used once per image")
    if c.rank > 3:
        return Refusal("more than 3 dimensions")
    return Offer(seconds(task, machine))


def three(c: Conv) -> Nest:
    """A convolution as a nest: missing leading axes have size and kernel 1."""
    one, none = (1,) * (3 - c.rank), (0,) * (3 - c.rank)
    before = tuple(p for p, _ in c.padding)
    return Nest(
        c.ic,
        c.oc,
        c.groups,
        one + c.size,
        one + c.kernel,
        one + c.stride,
        none + before,
        one + c.dilation,
        one + c.out_size,
    )


def tile_of(task: Task, machine: Machine) -> Tile:
    """The tile with the least estimated cycles per row."""
    return tile_for(three(task.conv), task.element.bytes, machine)


@cache
def tile_for(c: Nest, element_bytes: int, machine: Machine, only: int | None = None) -> Tile:
    """Like `tile_of`, of a nest; `only`: with so many vectors."""
    ow, lanes = c.out_size[2], machine.lanes(element_bytes)
    vectors = -(-(c.oc // c.groups) // lanes)
    best: tuple[float, Tile] | None = None
    row = c.stride[2] * (c.ic // c.groups if gathers(c, element_bytes, machine) else c.ic) * element_bytes
    for v in range(1, min(4, vectors) + 1) if only is None else (only,):
        for p in range(1, min(machine.tile_rows(v), 28, ow) + 1):
            cost = 0.0
            for count, size in ((vectors // v, v), (1, vectors % v)):
                if size and count:
                    cost += count * sum(cycles(n, size) for _, n in t.balanced(ow, p))
            cost *= crowding(p, row, machine)
            if best is None or cost < best[0] - 1e-9:
                best = (cost, Tile(p, v, 1))
    assert best is not None
    tile = best[1]
    per_row = 2 * max(1, prod(c.kernel)) * (c.ic // c.groups) * ow * tile.vectors * lanes
    groups = shared_line(c, element_bytes) if tile.vectors == vectors else 1
    total, blocks = c.out_size[0] * c.out_size[1], c.groups // groups * t.ceil_div(vectors, tile.vectors)
    rows = shared_out(total, blocks, per_row * groups, machine)
    return replace(tile, rows_per_unit=rows, groups_per_unit=groups)


def shared_out(rows: int, blocks: int, row_flops: int, machine: Machine) -> int:
    """Rows of a unit: about `UNIT_FLOPS`, fewer where that leaves the cores with more equal shares of rows · blocks."""

    def longest(parts: int) -> int:
        """Work of the core that gets the most, in multiply-adds; a unit costs about a microsecond besides."""
        units = t.ceil_div(blocks * parts, machine.cores)
        return units * (t.ceil_div(rows, parts) * row_flops + UNIT_FLOPS // 20)

    least = t.ceil_div(rows, max(1, round(UNIT_FLOPS / row_flops)))
    parts = min(range(least, min(rows, 2 * least + machine.cores) + 1), key=longest)
    return t.ceil_div(rows, parts)


def shared_line(c: Nest, element_bytes: int) -> int:
    """Groups whose outputs of one pixel lie in one cache line: two threads must not write to the same line."""
    bytes_ = c.oc // c.groups * element_bytes
    if bytes_ >= LINE or LINE % bytes_:
        return 1
    return gcd(c.groups, LINE // bytes_)


def gathers(c: Nest, element_bytes: int, machine: Machine) -> bool:
    """Whether a unit first copies the input of its group into its scratch memory, pixel after pixel.

    The channels of a narrow group are a small part of every pixel: read in place they take as many cache lines as
    pixels, in few sets, once per tap; copied they take few, and the taps of a row follow each other.
    """
    icg = c.ic // c.groups * element_bytes
    pixels = prod(c.size)
    if c.groups == 1 or c.size[0] > 1 or c.out_size[0] > 1 or max(c.kernel) > LARGE_KERNEL or min(c.kernel) < 1:
        return False
    # Each input must be used often enough: by kernel taps and vectors of outputs.
    uses = prod(c.kernel) / prod(c.stride) * (c.oc // c.groups) * element_bytes / machine.vector_bytes
    return icg <= 256 and c.ic * element_bytes >= 512 and uses >= 2 and pixels * icg <= machine.l2 // 2


def cycles(pixels: int, vectors: int) -> float:
    """Estimated cycles of a tile per input channel and tap: two FMAs and two loads a cycle, FMA latency 4 and some
    slack, for 2 × 4 ran 10% slower than 6 × 2 with 16 registers (Zen 3, 2026).

    The last term stands for the many addresses of tall tiles: 6 × 4 ran 3 to 10% faster than 14 × 2 (Zen 5, 2026).
    """
    return max(pixels * vectors / 2, (pixels + vectors) / 2, 4.5) + 0.5 + 0.08 * pixels


def crowding(pixels: int, row_bytes: int, machine: Machine) -> float:
    """How much slower a tile runs because its rows of input fall into the same sets of the first cache.

    Rows at a multiple of 4096 bytes share one set of as many lines as the cache has ways, and outputs and prefetched
    lines need some too: at 2048 bytes, 8 rows ran twice as fast as 14 or 16 (Zen 5, 2026).
    """
    sets = 4096 // 64
    if row_bytes % 64:
        return 1.0
    lines = sets // gcd(row_bytes // 64, sets) * max(4, machine.l1 // 4096)
    return max(1.0, pixels / (0.5 * lines)) ** 2


def seconds(task: Task, machine: Machine) -> float:
    """Predicted seconds on one core per image, from the tile's cycles, the bytes of weights and the machine's peaks."""
    c, p = three(task.conv), machine.peaks
    tile, lanes = tile_of(task, machine), machine.lanes(task.element.bytes)
    vectors = -(-(c.oc // c.groups) // lanes)
    k = prod(c.kernel) * (c.ic // c.groups)
    total = 0.0
    for count, size in ((vectors // tile.vectors, tile.vectors), (1, vectors % tile.vectors)):
        if size and count:
            total += count * sum(cycles(n, size) * k + 12 + n * size for _, n in t.balanced(c.out_size[2], tile.pixels))
    total *= c.groups * c.out_size[0] * c.out_size[1]
    if c.groups > 1 and c.ic // c.groups * task.element.bytes < LINE and not gathers(c, task.element.bytes, machine):
        total *= 2  # each pass over a group uses a part of every cache line it reads
    fma_per_second = p.fma_gflops * 1e9 / 2 / machine.lanes(4)
    memory = task.fetched(task.conv.weight_bytes, p) / max(1, task.conv.n)
    return total * 2 / fma_per_second + COSTS.exposed * memory


def pack(task: Task, machine: Machine, weight: np.ndarray, bias: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Weights (oc, ic/groups, *kernel) as [group][block][kd][kh][kw][ic][oc in block], bias padded per group."""
    c, lanes = three(task.conv), machine.lanes(task.element.bytes)
    return pack_weights(weight, bias, c, lanes, tile_of(task, machine).vectors, task.element.dtype)


def pack_weights(weight: np.ndarray, bias: np.ndarray | None, c: Nest, lanes: int, vectors: int, dtype: str):
    """Like `pack`, for a tile of `vectors`."""
    ocg, icg, taps = c.oc // c.groups, c.ic // c.groups, prod(c.kernel)
    whole = -(-ocg // lanes) * lanes
    w = np.asarray(weight).reshape(c.groups, ocg, icg, taps)
    if whole > ocg:
        w = np.concatenate([w, np.zeros((c.groups, whole - ocg, icg, taps), w.dtype)], 1)
    out = t.lined((c.groups, whole * icg * taps), dtype)
    block, at = vectors * lanes, 0
    full = whole // block
    if full:
        part = w[:, : full * block].reshape(c.groups, full, block, icg, taps).transpose(0, 1, 4, 3, 2)
        at = full * block * icg * taps
        out[:, :at].reshape(part.shape)[...] = part  # one pass: no copy in between
    if full * block < whole:
        out[:, at:] = w[:, full * block :].transpose(0, 3, 2, 1).reshape(c.groups, -1)
    return out.reshape(-1), t.pack_vector(bias, c.groups, lanes, ocg, dtype)


def emit(task: Task, machine: Machine) -> Code:
    """One step; a unit is some rows of one image for one block of output channels."""
    return fixed_steps(NAME, task, three(task.conv), tile_of(task, machine), machine)


def fixed_steps(name: str, task: Task, c: Nest, tile: Tile, machine: Machine) -> Code:
    """One step for images of one size."""
    task = replace(task, conv=replace(task.conv, n=1))  # the code does not depend on the batch
    rows = c.out_size[0] * c.out_size[1]
    chunks = -(-rows // tile.rows_per_unit)
    lanes = machine.lanes(task.element.bytes)
    blocks = c.groups // tile.groups_per_unit * t.ceil_div(t.ceil_div(c.oc // c.groups, lanes), tile.vectors)
    image = prod(c.size) * c.ic // c.groups * task.element.bytes
    scratch = image * tile.groups_per_unit if gathers(c, task.element.bytes, machine) else 0
    recipe = f"{name} {task} {tile}{' gathered' if scratch else ''}"  # the second cache decides this, not the task

    def build(name: str) -> str:
        kernel = Direct(name, task, c, tile, machine)
        kernel.gathered = scratch > 0
        return kernel.text()

    return Code((Step(recipe, build, lambda n: n * blocks * chunks),), scratch)


def emit_open(task: Task, like: Task, machine: Machine) -> Code:
    """Like `emit`, with code for images of any size where they are not too small, and the weights packed for `like`."""
    return open_steps(NAME, task, three(task.conv), tile_of(like, machine).vectors, machine)


def open_steps(name: str, task: Task, c: Nest, vectors: int, machine: Machine) -> Code:
    """One step for images of any size, which is given at run time."""
    size = task.element.bytes
    most = min(machine.tile_rows(vectors), 28)
    row = open_row(c.out_size[2], most, lambda start, count: columns(c, start, count))
    if row is None or c.size[0] > 1 or c.out_size[0] > 1 or c.kernel[2] > LARGE_KERNEL:
        return fixed_steps(name, task, c, tile_for(c, size, machine, vectors), machine)
    rows, blocks, tile = c.out_size[1], blocks_of(c, vectors, size, machine), Tile(row.pixels, vectors, 0)
    per_row = 2 * max(1, prod(c.kernel)) * (c.ic // c.groups) * c.out_size[2] * vectors * machine.lanes(size)
    some = shared_out(rows, blocks, per_row, machine)
    form = replace(c, size=(1, 0, 0), out_size=(1, 0, 0))

    def build(symbol: str) -> str:
        b = t.begin(symbol, machine)
        ih, iw, oh, ow, rows_per_unit = t.sizes(b, 5)
        nest = replace(form, size=(1, ih, iw), out_size=(1, oh, ow))
        kernel = Direct(b, task, nest, replace(tile, rows_per_unit=rows_per_unit), machine)
        kernel.cut_open = row
        return kernel.text()

    recipe = f"{name} open {t.form(task)} {form} {row} {vectors}"
    sizes = (*c.size[1:], *c.out_size[1:], some)
    return Code((Step(recipe, build, lambda n: n * blocks * t.ceil_div(rows, some), sizes),))


def open_places(name: str, task: Task, places: int, vectors: int, machine: Machine) -> Code | None:
    """One step of a kernel of one tap for any number of pixels in a row; None where they are fewer than a tile."""
    c, size = three(task.conv), task.element.bytes
    pixels = min(machine.tile_rows(vectors), 28)
    if places < pixels:
        return None
    rows, blocks = t.ceil_div(places, pixels), blocks_of(c, vectors, size, machine)
    some = shared_out(rows, blocks, 2 * (c.ic // c.groups) * pixels * vectors * machine.lanes(size), machine)
    form = replace(c, size=(1, 0, 0), out_size=(1, 0, 0))

    def build(symbol: str) -> str:
        b = t.begin(symbol, machine)
        count, rows_per_unit = t.sizes(b, 2)
        nest = replace(form, size=(1, 1, count), out_size=(1, t.ceil_div(count, pixels), 1))
        kernel = Direct(b, task, nest, Tile(pixels, vectors, rows_per_unit), machine)
        kernel.places = kernel.pixels = count
        return kernel.text()

    recipe = f"{name} open {t.form(task)} {form} {pixels} {vectors}"
    return Code((Step(recipe, build, lambda n: n * blocks * t.ceil_div(rows, some), (places, some)),))


def blocks_of(c: Nest, vectors: int, size: int, machine: Machine) -> int:
    """Blocks of output channels of all groups."""
    return c.groups * t.ceil_div(t.ceil_div(c.oc // c.groups, machine.lanes(size)), vectors)


def columns(c: Nest, start: int, count: int) -> tuple[tuple[int, int], ...]:
    """For each tap of a row the pixels lo..hi, of `count` from `start` on, whose input column lies inside."""
    s, d, pad, iw = c.stride[2], c.dilation[2], c.padding[2], c.size[2]
    spans = []
    for k in range(c.kernel[2]):
        ok = [p for p in range(count) if 0 <= (start + p) * s - pad + k * d < iw]
        spans.append((ok[0], ok[-1] + 1) if ok else (0, 0))
    return tuple(spans)


class Direct:
    """The loop nest of one direct kernel while it is written."""

    def __init__(self, b: Emit | str, task: Task, nest: Nest, tile: Tile, machine: Machine) -> None:
        """Sizes in elements, as Python ints. Subclasses may write the outputs farther apart (`steps`, `origin`).

        `b` is the name of a new function, or the builder of one that does more than this.
        """
        self.task, self.tile, self.c = task, tile, nest
        self.b: Emit = t.begin(b, machine) if isinstance(b, str) else b
        self.kind = task.element
        self.size = self.kind.bytes
        self.lanes = machine.lanes(self.size)
        self.icg, self.ocg = self.c.ic // self.c.groups, self.c.oc // self.c.groups
        self.vectors = -(-self.ocg // self.lanes)
        self.taps = prod(self.c.kernel)
        oh, ow = nest.out_size[1:]
        self.pixels: Any = prod(nest.out_size)  # of one image of the output
        self.steps: tuple[Any, Any, Any] = (oh * ow, ow, 1)  # pixels from one output to the next along each axis
        self.origin: Any = 0  # pixel of the first output
        self.cut_open: OpenRow | None = None  # how rows of any length are cut
        self.places: Any = None  # pixels of an image, where a row is one tile of them
        self.weights_at = self.bias_at = 0  # bytes
        self.gathered = False  # the unit copies its groups' inputs first
        self.x: Any = None  # the input of the group
        self.ahead: t.Ahead | None = None  # from the first tile of the next row on
        self.coming: Any = None  # the weights of the groups that this thread's next unit has, where it gathers

    @property
    def group_bytes(self) -> int:
        """Bytes of a group's weights."""
        return self.vectors * self.lanes * self.icg * self.taps * self.size

    @property
    def x_ld(self) -> int:
        """Elements from pixel to pixel of the input that the tiles read."""
        return self.icg if self.gathered else self.task.x_ld

    def text(self) -> str:
        """Decodes the unit and writes the blocks."""
        b, c, v = self.b, self.c, self.tile.vectors
        full, rest = divmod(self.vectors, v)
        per_group = full + (rest > 0)
        rows = c.out_size[0] * c.out_size[1]
        chunks = t.ceil_div(rows, self.tile.rows_per_unit)
        # Blocks of weights are the slow index: a thread keeps one in its cache over images and rows.
        images = t.word(b, t.N, pointer=False)
        chunk = b.urem(b.arg.unit, chunks)
        rest_of_unit = b.udiv(b.arg.unit, chunks)
        image = b.urem(rest_of_unit, images)
        block = b.udiv(rest_of_unit, images)
        first = b.mul(chunk, self.tile.rows_per_unit)
        last = b.imin(b.add(first, self.tile.rows_per_unit), rows)
        some = self.tile.groups_per_unit
        if some == 1:
            group, inner = (0, block) if c.groups == 1 else (b.udiv(block, per_group), b.urem(block, per_group))
        else:  # narrower than a cache line: one block each
            group, inner = b.mul(block, some), 0
        x = b.at(t.word(b, t.X), b.mul(image, prod(c.size) * self.task.x_ld * self.size))
        x, plane = b.at(x, b.mul(group, self.icg * self.size)), self.icg * self.size
        if self.taps == c.groups == 1 and self.steps[2] == 1:
            units = t.ceil_div(self.vectors, v) * chunks
            self.ahead = t.Ahead.of(b, b.arg.unit, units, self.tile.rows_per_unit * self.row_tiles)
        if self.gathered:
            if some == per_group == chunks == 1:
                # Threads take units from both ends, so this one's next unit is probably the one farther in.
                inward = b.select(b.less(b.mul(b.arg.unit, 2), b.mul(images, c.groups)), b.index(1), b.index(-1))
                following = b.udiv(b.imax(b.add(b.arg.unit, inward), 0), images)
                self.coming = b.at(t.word(b, t.W), b.mul(following, self.group_bytes))
            self.gather(x, first, last)
            x, plane = b.arg.scratch, prod(c.size) * plane

        def one(g: Any, _: Any) -> None:
            self.x = b.at(x, b.mul(g, plane))
            self.block(image, b.add(group, g), inner, first, last)

        b.loop(0, some, 1, one)
        return b.finish()

    def block(self, image: Value, group: Any, inner: Any, first: Value, last: Value) -> None:
        """Output rows first..last of one block of channels of one group."""
        b, v = self.b, self.tile.vectors
        full, rest = divmod(self.vectors, v)
        per_group = full + (rest > 0)
        out = b.add(b.mul(group, self.ocg), b.mul(inner, v * self.lanes))
        self.y = self.r = None
        for slot, ld in ((t.Y, self.task.y_ld), (t.R, self.task.residual_ld)):
            if ld:
                base = b.at(t.word(b, slot), self.origin * ld * self.size)
                base = b.at(base, b.mul(image, self.pixels * ld * self.size), b.mul(out, self.size))
                if slot == t.Y:
                    self.y = base
                else:
                    self.r = base
        whole = self.vectors * self.lanes
        self.w = b.at(
            t.word(b, t.W),
            self.weights_at,
            b.mul(group, whole * self.icg * self.taps * self.size),
            b.mul(inner, v * self.lanes * self.icg * self.taps * self.size),
        )
        self.bias = b.at(
            t.word(b, t.B), self.bias_at, b.mul(group, whole * self.size), b.mul(inner, v * self.lanes * self.size)
        )

        def block_of(count: int, channels: int) -> None:
            self.rows(first, last, count, channels)

        # The last block of a group may have fewer vectors and a masked one.
        tail = self.ocg - (per_group - 1) * v * self.lanes
        if per_group == 1:
            block_of(self.vectors, self.ocg)
        elif tail == v * self.lanes:
            block_of(v, v * self.lanes)
        else:
            b.choose(
                b.less(inner, per_group - 1),
                lambda: block_of(v, v * self.lanes),
                lambda: block_of(rest or v, tail),
            )

    def gather(self, x: Value, first: Value, last: Value) -> None:
        """The inputs of the unit's groups for output rows first..last to scratch memory, an image for each group."""
        b, c = self.b, self.c
        width, pixel = c.size[2], self.icg * self.size
        lo = b.imax(b.sub(b.mul(first, c.stride[1]), c.padding[1]), 0)
        reach = (c.kernel[1] - 1) * c.dilation[1] + 1 - c.padding[1]
        hi = b.imin(b.add(b.mul(b.sub(last, 1), c.stride[1]), reach), c.size[1])

        def copy(p: Value, _: Any) -> None:
            source, to = b.at(x, b.mul(p, self.task.x_ld * self.size)), b.at(b.arg.scratch, b.mul(p, pixel))
            for g in range(self.tile.groups_per_unit):
                for o in range(0, self.icg, self.lanes):
                    mask = b.mask(self.icg - o, self.lanes)
                    v = b.vload(b.at(source, (g * self.icg + o) * self.size), self.kind, mask=mask)
                    b.vstore(v, b.at(to, g * prod(c.size) * pixel + o * self.size), self.kind, mask=mask)

        b.loop(b.mul(lo, width), b.mul(hi, width), 1, copy)

    def row(self, r: Value | int, vectors: int, channels: int) -> None:
        """One output row: its tiles, neighbours with the same border in a loop."""
        b, c = self.b, self.c
        if self.places is not None:
            self.tile_of_places(r, vectors, channels)
            return
        od: Any
        od, oh = (0, r) if c.out_size[0] == 1 else (b.udiv(r, c.out_size[1]), b.urem(r, c.out_size[1]))
        self.at_row = oh
        depth = t.tap_range(b, od, c.stride[0], c.padding[0], c.dilation[0], c.kernel[0], c.size[0])
        height = t.tap_range(b, oh, c.stride[1], c.padding[1], c.dilation[1], c.kernel[1], c.size[1])
        place = b.add(b.mul(od, self.steps[0]), b.mul(oh, self.steps[1]))
        y = b.at(self.y, b.mul(place, self.task.y_ld * self.size))
        res = b.at(self.r, b.mul(place, self.task.residual_ld * self.size)) if self.r is not None else None
        ahead, before = self.ahead, 0
        for piece in self.pieces():

            def body(i, piece=piece, before=before):
                if ahead is not None:
                    self.ahead = ahead.tile(b, b.add(b.udiv(b.sub(i, piece.start), piece.count), before))
                self.one(i, piece.count, piece.border, depth, height, y, res, vectors, channels)

            piece.loop(b, body)
            before += 1 if self.cut_open else (piece.end - piece.start) // piece.count
        self.ahead = ahead

    def tile_of_places(self, r: Any, vectors: int, channels: int) -> None:
        """A tile of pixels in a row, where the kernel has one tap; the last one begins early enough to be whole."""
        b, pixels, x = self.b, self.tile.pixels, self.x
        place = b.imin(b.mul(r, pixels), self.places - pixels)
        self.at_row, self.x = 0, b.at(x, b.mul(place, self.x_ld * self.size))
        y = b.at(self.y, b.mul(place, self.task.y_ld * self.size))
        res = b.at(self.r, b.mul(place, self.task.residual_ld * self.size)) if self.r is not None else None
        self.one(0, pixels, ((0, pixels),), (0, 0, 1), (0, 0, 1), y, res, vectors, channels)
        self.x = x

    def rows(self, first: Any, last: Any, vectors: int, channels: int) -> None:
        """Output rows first..last."""
        b, ahead = self.b, self.ahead

        def one(r: Any, _: Any) -> None:
            if ahead is not None:
                self.ahead = ahead.tile(b, b.mul(b.sub(r, first), self.row_tiles))
            self.row(r, vectors, channels)

        b.loop(first, last, 1, one)
        self.ahead = ahead

    def pieces(self) -> Sequence[RowPiece]:
        """Tiles of a row; a border says per tap the pixels lo..hi whose input column lies inside (None: unsaid)."""
        if self.cut_open is not None:
            return self.cut_open.pieces(self.c.out_size[2])
        tiles = self.cut()
        borders = {start: spans for start, _, spans in tiles}
        return exact([(start, count) for start, count, _ in tiles], lambda start, _: borders[start])

    @property
    def row_tiles(self) -> Any:
        """Tiles of a row."""
        if self.places is not None:
            return 1
        if self.cut_open is not None:  # an upper bound
            return t.ceil_div(self.c.out_size[2], self.tile.pixels) + 1
        return len(self.cut())

    def cut(self) -> list[tuple[int, int, tuple[tuple[int, int], ...] | None]]:
        """Tiles of a row: (start, pixels, border)."""
        c = self.c
        ow, kw, s, d, pad, iw = c.out_size[2], c.kernel[2], c.stride[2], c.dilation[2], c.padding[2], c.size[2]
        if kw <= LARGE_KERNEL:
            return [(start, n, columns(c, start, n)) for start, n in t.balanced(ow, self.tile.pixels)]
        whole = lambda o: o * s - pad >= 0 and o * s - pad + (kw - 1) * d < iw  # noqa: E731
        middle = [o for o in range(ow) if whole(o)]
        lo, hi = (middle[0], middle[-1] + 1) if middle else (ow, ow)
        tiles: list[Any] = [(o, 1, None) for o in range(lo)]
        if middle:
            tiles += [(lo + start, n, ((0, n),) * kw) for start, n in t.balanced(hi - lo, self.tile.pixels)]
        return tiles + [(o, 1, None) for o in range(hi, ow)]

    def one(self, start, count, spans, depth, height, y, res, vectors, channels) -> None:
        """One tile: sums over taps and input channels, then bias, residual, activation, store."""
        b, c, task = self.b, self.c, self.task
        step = c.stride[2] * self.x_ld * self.size
        pixel = self.x_ld * self.size
        block = vectors * self.lanes * self.size
        xw = b.at(self.x, b.mul(b.sub(b.mul(start, c.stride[2]), c.padding[2]), pixel))
        biases = [b.vload(b.at(self.bias, v * self.lanes * self.size), self.kind) for v in range(vectors)]
        acc = [biases[v] for _ in range(count) for v in range(vectors)]
        contiguous = self.x_ld == self.icg and c.dilation[2] == 1
        full = spans is not None and all(span == (0, count) for span in spans)

        # Lines of the next group's weights that each tile fetches, at an even rate; none where they are few.
        tiles = self.pixels // c.out_size[2] * len(self.cut()) if self.coming is not None else 0
        lines = t.ceil_div(self.group_bytes, LINE * tiles) if tiles else 0
        every = max(1, self.taps * self.icg // lines) if lines else 0
        if lines:
            line = b.add(b.mul(self.at_row, len(self.cut())), b.udiv(start, self.tile.pixels))
            coming = b.at(self.coming, b.mul(line, lines * LINE))

        def multiply(x, w, lo, hi, length, acc, before: Any = 0):
            def k_step(k, acc):
                acc = list(acc)
                if self.ahead is not None and full:
                    self.ahead.fetch(b, k)
                if lines:
                    b.prefetch(b.at(coming, b.mul(b.udiv(b.add(before, k), every), LINE)), locality=2)
                wk, xk = b.at(w, b.mul(k, block)), b.at(x, b.mul(k, self.size))
                ws = [b.vload(b.at(wk, v * self.lanes * self.size), self.kind) for v in range(vectors)]
                for p in range(lo, hi):
                    xv = b.splat_load(b.at(xk, p * step), self.kind)
                    for v in range(vectors):
                        acc[p * vectors + v] = b.fma(xv, ws[v], acc[p * vectors + v])
                return acc

            # Only what runs often is worth code: the inside of a row, by two, or whole where it is short. In a tile
            # that leaves one register, the second turn's weights are loaded early and sums are spilled.
            tight = count * vectors + vectors + 2 >= b.machine.registers
            unroll = 1 if not full else length if length * count * vectors <= 128 else 1 if tight or length % 2 else 2
            unroll = unroll if unroll <= b.machine.turns(count, vectors) else 1
            return b.loop(0, length, 1, k_step, acc, unroll=unroll)

        def kernel_row(kd, kh, acc):
            ih = b.add(height[0], b.mul(kh, c.dilation[1]))
            i_d = b.add(depth[0], b.mul(kd, c.dilation[0]))
            x = b.at(xw, b.mul(b.add(b.mul(i_d, c.size[1]), ih), c.size[2] * pixel))
            w = b.at(self.w, b.mul(b.add(b.mul(kd, c.kernel[1]), kh), c.kernel[2] * self.icg * block))
            if spans is None:  # a single border pixel of a large kernel: the taps inside, counted at run time
                _, lo, hi = t.tap_range(b, start, c.stride[2], c.padding[2], c.dilation[2], c.kernel[2], c.size[2])
                return b.loop(lo, hi, 1, lambda k, a: multiply(
                    b.at(x, b.mul(k, c.dilation[2] * pixel)), b.at(w, b.mul(k, self.icg * block)), 0, 1, self.icg, a
                ), acc)  # fmt: skip
            before = b.mul(kh, c.kernel[2] * self.icg)  # products of the tile, in one plane
            if full and contiguous:
                return multiply(x, w, 0, count, c.kernel[2] * self.icg, acc, before)
            if full and c.kernel[2] > 3:
                return b.loop(0, c.kernel[2], 1, lambda k, a: multiply(
                    b.at(x, b.mul(k, c.dilation[2] * pixel)), b.at(w, b.mul(k, self.icg * block)), 0, count, self.icg, a
                ), acc)  # fmt: skip
            for k, (lo, hi) in enumerate(spans):
                if lo < hi:
                    acc = multiply(
                        b.at(x, k * c.dilation[2] * pixel), b.at(w, k * self.icg * block), lo, hi, self.icg, acc,
                        b.add(before, k * self.icg),
                    )  # fmt: skip
            return acc

        acc = b.loop(depth[1], depth[2], 1, lambda kd, a: b.loop(
            height[1], height[2], 1, lambda kh, a: kernel_row(kd, kh, a), a
        ), acc)  # fmt: skip
        store(b, task, acc, count, vectors, channels,
              b.at(y, b.mul(start, self.steps[2] * task.y_ld * self.size)),
              b.at(res, b.mul(start, self.steps[2] * task.residual_ld * self.size)) if res is not None else None,
              self.steps[2])  # fmt: skip


def store(b: Emit, task: Task, acc: list[Value], pixels: int, vectors: int, channels: int, y, res, step=1) -> None:
    """activation(acc + residual) to `pixels` outputs `step` apart, only `channels` of the vectors' lanes."""
    kind = task.element
    lanes = b.lanes(kind)
    for p in range(pixels):
        for v in range(vectors):
            mask = b.mask(channels - v * lanes, lanes)
            value, o = acc[p * vectors + v], v * lanes * kind.bytes
            if res is not None:
                old = b.vload(b.at(res, p * step * task.residual_ld * kind.bytes + o), kind, mask=mask)
                value = b.fadd(value, old)
            value = activate(b, value, task.activation, kind)
            b.vstore(value, b.at(y, p * step * task.y_ld * kind.bytes + o), kind, mask=mask)
