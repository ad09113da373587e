"""Winograd convolution F(m×m, r×r), stride 1: fewer multiplications, as small matrix products with register tiles.

Also F(m, r) along one axis, for kernels 1×r and r×1 and for sequences.

For each tile of m × m outputs: transform a × a inputs (a = m + r − 1), multiply position by position over the input
channels, transform back with bias, residual and activation. Three orders of work:
*blocked*, where one unit carries a block of tiles through all three stages in its core's cache, for layers with few
weights; *phased*, three steps with all tiles in the shared cache, so that every transformed weight is read once;
*fresh*, where weights lie in memory as they are and a unit transforms those of some output channels in its cache, a
few input channels at a time, and uses them for many tiles: 9 numbers per kernel come from memory, not 16 or 36.
Transformed weights are packed [position][group][oc block][ic][oc in block], others [oc block][ic][tap][oc in block].
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import prod

import numpy as np

from dojang.engine.kernels import task as t
from dojang.engine.kernels.activations import Activation
from dojang.engine.kernels.conv.direct import crowding, cycles
from dojang.engine.kernels.conv.interpolate import matrices
from dojang.engine.kernels.conv.winograd_stages import (
    Shape,
    Winograd,
    positions,
    sides,
    tiles_of,
)
from dojang.engine.kernels.task import Code, Offer, Refusal, Step, Task
from dojang.native.costs import COSTS
from dojang.native.machine import Machine

NAME = "winograd"
MOST_TRANSFORMED = 3 << 19
"""Bytes of transformed weights of a layer above which they are not kept, so that the memory of a network stays near
that of its weights: ResNet-18 ran as fast with 54 MB packed as with 97 (5.6 ms on two threads; Zen 5, 2026), and as
fast with 49 as with 55; with this bound in place of 2.5 MB ResNet-50 took 4% less time, GoogLeNet 2% more (least times
on two threads; Granite Rapids, 2026)."""
MANY_TILES, MOST_FOR_MANY = 128, 10 << 20
"""An image of so many tiles is worth keeping so many bytes: 256 to 256 channels on 56×56 took 9.1 ms, not 11.8, in
blocks of tiles with weights transformed beforehand (one thread, Zen 4, 2026). Such layers have few of the weights."""


MONOTONE = (None, Activation("relu"))
"""Activations that may as well be applied to the largest result."""

KERNELS = ((3, 3), (5, 5), *(k for r in (3, 5) for k in ((1, r), (r, 1))))


def two(task: Task) -> Task:
    """A sequence as an image of one row."""
    c = task.conv
    if c.rank == 2:
        return task
    conv = replace(c, size=(1, *c.size), kernel=(1, *c.kernel), stride=(1, *c.stride), dilation=(1, *c.dilation),
                   padding=((0, 0), *c.padding), output_padding=(0, *c.output_padding))  # fmt: skip
    return replace(task, conv=conv)


def offer(task: Task, machine: Machine) -> Offer | Refusal:
    """For 3×3 and 5×5 kernels, and 3 or 5 taps along one axis; stride and dilation 1, enough channels.

    With 7 taps F(2, 7) ran at half the rate of direct kernels (Sapphire Rapids, 2026).
    """
    c = task.conv
    if task.strict:
        return Refusal("precision is strict")
    if task.kind != "f32":
        return Refusal("not float32")
    if c.transposed:
        return Refusal("transposed")
    if c.rank > 2 or two(task).conv.kernel not in KERNELS:
        return Refusal("kernel is not 3x3, 5x5, or 3 or 5 taps along one axis")
    if any(s != 1 for s in (*c.stride, *c.dilation)):
        return Refusal("stride or dilation above 1")
    if task.halved and (c.kernel != (3, 3) or task.residual_ld or task.activation not in MONOTONE):
        return Refusal("pooling behind other kernels than 3x3, a residual, or an activation that may fall")
    lanes = machine.lanes(4)
    if c.ic // c.groups < (8 if c.groups == 1 else 32) or c.oc // c.groups < lanes // 2:
        return Refusal(f"too few channels per group ({c.ic // c.groups} to {c.oc // c.groups})")
    if c.groups > 1 and (c.oc // c.groups) % lanes:
        return Refusal(f"{c.oc // c.groups} output channels per group are not whole vectors")
    return Offer(seconds(two(task), machine, shape_of(task, machine)))


@cache
def shape_of(task: Task, machine: Machine) -> Shape:
    """The cut with the least estimated time."""
    # F(4, 5) keeps 64 numbers where F(2, 5) keeps 36: on small images memory that little work pays for.
    task = two(task)
    most = max(task.conv.kernel)
    choices = (4, 2) if most == 3 or prod(task.conv.out_size) >= 100 else (2,)
    if any(weights_of(task, m) > most_transformed(task, m) for m in choices):
        cuts = [s for m in choices if (s := _fresh(task, machine, m)) is not None]
        if cuts:
            return min(cuts, key=lambda s: seconds(task, machine, s))
    cuts = [s for m in choices for s in _cuts(task, machine, m)]
    if task.resident_ratio and not any(weights_of(task, m) > most_transformed(task, m) for m in choices):
        cuts += [s for m in choices for s in _few(task, machine, m)]
    return min(cuts, key=lambda s: _all_cores(task, machine, s))


def weights_of(task: Task, m: int) -> int:
    """Bytes of the transformed weights."""
    c = task.conv
    return 4 * positions(task, m) * (c.ic // c.groups) * c.oc


def most_transformed(task: Task, m: int) -> int:
    """Bytes of transformed weights above which a layer does not keep them."""
    return MOST_FOR_MANY if prod(tiles_of(task, m)) >= MANY_TILES else MOST_TRANSFORMED


def _fresh(task: Task, machine: Machine, m: int) -> Shape | None:
    """The best cut with weights transformed where they are used; for one group and whole vectors."""
    c, lanes = task.conv, machine.lanes(4)
    chunks = [k for k in (32, 16, 8) if c.ic % k == 0 and k % lanes == 0]
    if c.groups != 1 or c.oc % lanes or c.kernel != (3, 3):
        return None
    th, tw = tiles_of(task, m)
    total = max(1, c.n) * th * tw
    best: tuple[float, Shape] | None = None
    # With 16 registers 4 × 2 ran 3 to 6% faster than 2 × 4, whose weights take twice the scratch (Zen 3, 2026).
    for v in (1, 2, 3, 4) if machine.registers >= 32 else (1, 2, 3):
        if c.oc // lanes % v:
            continue
        # With fewer registers to spare, 14 × 2 sums that are added to products were spilled.
        pixels = range(1, min(machine.tile_rows(v, spare=3), total) + 1)
        for p, chunk in ((p, chunk) for p in pixels for chunk in chunks):
            shape = Shape(m, p, v, 0, True, chunk)
            rows = 1 if _taken(machine, shape) <= 1 else m + 2
            shape = replace(shape, tiles=_fresh_tiles(machine, shape, total), rows=rows)
            cost = seconds(task, machine, shape)
            if best is None or cost < best[0]:
                best = (cost, shape)
    return best[1] if best else None


def _taken(machine: Machine, s: Shape) -> float:
    """The share of the first cache that a chunk of fresh weights and one row of their transform take: where that is
    less than all of it, weights are read again for each row, and what is transformed stays near.
    """
    return 4 * s.vectors * machine.lanes(4) * s.chunk * (9 + s.m + 2) / machine.l1


def _fresh_tiles(machine: Machine, s: Shape, total: int) -> int:
    """Tiles of a unit, of so many: as many as fit into the second cache beside their weights."""
    fit = int(0.6 * machine.l2) // (4 * (s.m + 2) ** 2 * s.vectors * machine.lanes(4)) - s.chunk
    parts = t.ceil_div(total, max(s.pixels, fit))
    return s.pixels * t.ceil_div(t.ceil_div(total, parts), s.pixels)


def _cuts(task: Task, machine: Machine, m: int) -> list[Shape]:
    """Cuts with weights transformed beforehand: for each width of a register tile the height of the fewest cycles, in
    both orders.
    """
    c = task.conv
    lanes = machine.lanes(4)
    th, tw = tiles_of(task, m)
    total = max(1, c.n) * th * tw
    vectors = t.ceil_div(c.oc // c.groups, lanes)
    found = []
    for v in range(
        min(2, vectors), min(4, vectors) + 1
    ):  # 28 × 1 ran 3 to 5% slower than 14 × 2 (Emerald Rapids, 2026)

        def cost(p: int, v: int = v) -> float:
            whole = vectors // v * cycles(p, v) + bool(vectors % v) * cycles(p, vectors % v)
            return t.ceil_div(total, p) * whole * crowding(p, 4 * c.ic, machine)

        p = min(range(1, min(machine.tile_rows(v), total) + 1), key=cost)
        found += [_ordered(task, machine, m, p, v, phased) for phased in (False, True)]
    return found


def _ordered(task: Task, machine: Machine, m: int, p: int, v: int, phased: bool) -> Shape:
    """One order of work for register tiles of p tiles and v vectors; blocked, in the blocks of the least time."""
    th, tw = tiles_of(task, m)
    total = max(1, task.conv.n) * th * tw
    if phased:
        return Shape(m, p, v, some_of(total, 8, machine), True)
    # Of 1 to 12 register tiles in a block, those ran best whose tiles leave most of the second cache to the weights.
    fit = machine.l2 // (12 * positions(task, m) * (task.conv.ic + task.conv.oc))
    most = max(1, min(t.ceil_div(total, p), fit // p))
    blocks = (Shape(m, p, v, k * p, False) for k in sorted({1, 2, 3, 4, 6, 8, 12, 16, 24, most}) if k <= most)
    return min(blocks, key=lambda s: _all_cores(task, machine, s))


def _all_cores(task: Task, machine: Machine, s: Shape) -> float:
    """Seconds by which cuts are compared: as estimated, and longer where the last round of units leaves cores idle."""
    th, tw = tiles_of(task, s.m)
    units = machine.cores if s.phased else t.ceil_div(max(1, task.conv.n) * th * tw, s.tiles)
    return seconds(task, machine, s) * _idle(units, machine.cores)


def _idle(units: int, cores: int) -> float:
    """How much longer all cores take than if so many equal units were shared out evenly."""
    return t.ceil_div(units, cores) * cores / units


def _few(task: Task, machine: Machine, m: int) -> list[Shape]:
    """Cuts of the blocked order in which a core takes its share of the tiles at once, and so reads each weight once.

    A share of the output channels instead would need no weight twice, but all that the other cores have just written:
    64 to 64 channels on 8×8 took 10.4 µs on two threads, not 7.7 (Granite Rapids, 2026).
    """
    c, a2, lanes = task.conv, positions(task, m), machine.lanes(4)
    th, tw = tiles_of(task, m)
    total, vectors = max(1, c.n) * th * tw, t.ceil_div(c.oc // c.groups, lanes)
    some = t.ceil_div(total, machine.cores)
    if a2 * 4 * some * (c.ic + c.oc) > machine.l2 // 4:
        return []
    cuts = []
    for v in range(1, min(4, vectors) + 1):
        most = min(machine.tile_rows(v), some)
        p = min(range(1, most + 1), key=lambda p: t.ceil_div(some, p) * cycles(p, v))
        cuts.append(Shape(m, p, v, t.ceil_div(some, p) * p, False))
    return cuts


def some_of(total: int, most: int, machine: Machine) -> int:
    """Tiles of a unit that only transforms: at most `most`, fewer where every core would not get some units."""
    return max(1, min(most, total // (4 * machine.cores)))


def seconds(task: Task, machine: Machine, s: Shape) -> float:
    """Estimated seconds on one core for one image of the batch."""
    c, p = task.conv, machine.peaks
    n = max(1, c.n)
    a2 = positions(task, s.m)
    th, tw = tiles_of(task, s.m)
    blocks = 1 if s.phased else t.ceil_div(n * th * tw, s.tiles)
    total = blocks * t.ceil_div(t.ceil_div(n * th * tw, blocks), s.pixels) * s.pixels
    lanes = machine.lanes(4)
    vectors = t.ceil_div(c.oc // c.groups, lanes)
    per_k = vectors // s.vectors * cycles(s.pixels, s.vectors)
    if vectors % s.vectors:
        per_k += cycles(s.pixels, vectors % s.vectors)
    # Per register tile: its sums are stored, its loop begins and ends. Half of it where all stays in the second cache.
    around = (3 * s.pixels * vectors + 60) / (2 if task.resident_ratio else 1)
    product = a2 * c.groups * (c.ic // c.groups * per_k + around) * total / s.pixels
    # Transforms: about 4a² + 2am operations and as many loads and stores per vector of channels and tile.
    each = a2 * (3.5 if task.resident_ratio else 4.5)
    moves = n * th * tw * (t.ceil_div(c.ic, lanes) + t.ceil_div(c.oc, lanes)) * each
    rate = p.fma_gflops * 1e9 / 4 / lanes
    if s.chunk:
        parts = t.ceil_div(n * th * tw, s.tiles)
        rows = t.ceil_div(t.ceil_div(n * th * tw, parts), s.pixels) * parts
        per_k = cycles(s.pixels, s.vectors)
        # Per chunk, sums are loaded and stored; per input channel, weights are transformed: 2 cycles a number where a
        # chunk's weights and a row of their transform stay in the first cache, 5 where they do not.
        work = a2 * vectors / s.vectors * c.ic * rows * (per_k + (1.2 * s.pixels * s.vectors + 8) / s.chunk)
        work += (2 + min(3, max(0, 9 * (_taken(machine, s) - 0.65)))) * a2 * vectors * c.ic * parts
        memory = task.fetched(4 * 9 * c.ic * c.oc, p)
        # Every block of output channels reads all transformed tiles.
        cache = 4 * a2 * c.ic * n * th * tw * (1 + vectors / s.vectors) / (p.cache_gbs * 1e9)
        return ((work + moves) / rate + COSTS.exposed * memory + COSTS.exposed_tiles_in_turn * cache) / n
    product *= crowding(s.pixels, 4 * c.ic, machine)
    u, tiles = 4 * a2 * (c.ic // c.groups) * c.oc, 4 * a2 * (c.ic + c.oc)
    # In a network the weights come from memory, once, and for every other block from the shared cache.
    memory = task.fetched(u, p)
    passes = 1 if s.phased or u < machine.l2 // 2 else blocks
    again = u * (passes - 1) / (p.cache_gbs * 1e9)
    # Register tiles that follow in a block find them in the second cache.
    moves += u * max(0, total / s.pixels - passes) * COSTS.from_second_cache
    if s.phased or s.tiles * tiles > machine.l2:  # transformed tiles are written to the shared cache and read from it
        # Of many, what one step writes and the next one reads is waited for.
        waited = 3 if s.phased and th * tw >= MANY_TILES else 1
        again += waited * 2 * total * tiles / (p.cache_gbs * 1e9)
    if not s.phased and task.resident_ratio:
        # Weights go into the second cache of every core.
        memory *= min(machine.cores, blocks)
        even = _idle(blocks, machine.cores)  # the last round is not full
        product, moves = product * even, moves * even
    longer, shorter = sorted((product / rate, again), reverse=True)
    return (longer + COSTS.exposed_shorter * shorter + COSTS.exposed * memory + moves / rate) / n


def pack(task: Task, machine: Machine, weight: np.ndarray, bias: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """G g Gᵀ in float64, rounded once, as [position][group][oc block][ic][oc in block]; fresh: weights as they are."""
    s, task, lanes = shape_of(task, machine), two(task), machine.lanes(4)
    c = task.conv
    if s.chunk:
        block = s.vectors * lanes
        out = t.lined((c.oc // block, c.ic, 9, block), "f4")
        out[...] = np.asarray(weight).reshape(-1, block, c.ic, 9).transpose(0, 2, 3, 1)
        return out.reshape(-1), t.pack_vector(bias, 1, lanes, c.oc, "f4")
    taps, ocg, icg = prod(c.kernel), c.oc // c.groups, c.ic // c.groups
    down, across = (np.array(matrices(m, r)[1], "f8") for (m, _), r in zip(sides(task, s.m), c.kernel, strict=True))
    both = np.kron(down, across)  # a row for each position, a column for each tap
    a2 = len(both)
    w = np.asarray(weight).reshape(c.groups, ocg, icg, taps)
    whole = t.ceil_div(ocg, lanes) * lanes
    if whole > ocg:
        w = np.concatenate([w, np.zeros((c.groups, whole - ocg, icg, taps), w.dtype)], 1)
    block = s.vectors * lanes
    full = whole // block * block
    parts = [w[:, :full].reshape(c.groups, -1, block, icg, taps).swapaxes(2, 3), w[:, full:].swapaxes(1, 2)]
    # In the order of the result first, which is small; then transformed, some at a time, so that it stays in cache.
    kernels = np.concatenate([part.reshape(c.groups, -1, taps) for part in parts], 1).reshape(-1, taps)
    out = t.lined((a2, len(kernels)), "f4")
    some = 768  # below 2¹⁸ products, OpenBLAS stays on this thread; waking others took 5 times as long
    for at in range(0, len(kernels), some):
        out[:, at : at + some] = both @ kernels[at : at + some].T.astype("f8")
    return out.reshape(-1), t.pack_vector(bias, c.groups, lanes, ocg, "f4")


def emit(task: Task, machine: Machine) -> Code:
    """One step (blocked) or three (phased)."""
    return steps_of(two(task), shape_of(task, machine), machine, False)


def emit_open(task: Task, like: Task, machine: Machine) -> Code:
    """Like `emit`, with code for images of any size, and the weights packed for `like`."""
    s, task = shape_of(like, machine), two(task)
    return steps_of(task, fitted(task, machine, s), machine, True)


def fitted(task: Task, machine: Machine, s: Shape) -> Shape:
    """A cut for images of another size, with the same code: the same tiles, the same order of work and of weights."""
    th, tw = tiles_of(task, s.m)
    if s.chunk:
        return replace(s, tiles=_fresh_tiles(machine, s, max(1, task.conv.n) * th * tw))
    return _ordered(task, machine, s.m, s.pixels, s.vectors, s.phased)


def steps_of(task: Task, s: Shape, machine: Machine, any_size: bool) -> Code:
    """The steps of a layer that is cut so."""
    c = task.conv
    th, tw = tiles_of(task, s.m)
    a2 = positions(task, s.m)
    task = replace(task, conv=replace(c, n=1))
    sizes = lambda some: (*c.size, *c.out_size, s.tiles, some) if any_size else ()  # noqa: E731
    lanes = machine.lanes(4)
    wide = c.groups * t.ceil_div(c.oc // c.groups, lanes) * lanes
    recipe = f"{NAME} open {t.form(task)} {replace(s, tiles=0)}" if any_size else f"{NAME} {task} {s}"
    kernel = lambda: Winograd(task, s, machine, any_size)  # noqa: E731
    if not s.phased:
        units = lambda n: t.ceil_div(n * th * tw, s.tiles)  # noqa: E731
        scratch = a2 * sum(kernel().blocked_planes())
        return Code((Step(recipe, lambda name: kernel().blocked(name), units, sizes(0)),), scratch)
    blocks = c.groups * t.ceil_div(t.ceil_div(c.oc // c.groups, lanes), s.vectors)
    chunks = lambda n: t.ceil_div(n * th * tw, s.tiles)  # noqa: E731
    padded = lambda n: t.ceil_div(n * th * tw, s.pixels) * s.pixels  # noqa: E731
    if s.chunk:
        some = some_of(th * tw, t.ceil_div(24, s.pixels), machine)  # tiles of a unit of the first step
        forward = Step(
            f"{recipe} forward {0 if any_size else some}",
            lambda name: kernel().forward(name, some),
            lambda n: t.ceil_div(n * th * tw, some),
            sizes(some),
        )
        rest = Step(f"{recipe} fresh", lambda name: kernel().fresh(name), lambda n: blocks * chunks(n), sizes(0))
        u, m = kernel().planes()
        held = s.rows * sides(task, s.m)[1][1]  # positions of fresh weights
        return Code((forward, rest), held * u + a2 * m, lambda n: (4 * a2 * padded(n) * c.ic, 0))
    # Blocks of a unit: a fifth of a millisecond shared out by a counter in parts of 0.2 µs ran on one core's speed.
    macs = c.ic // c.groups * s.vectors * lanes * padded(1)
    block = next(
        k for k in range(1, blocks + 1) if blocks % k == 0 and (k == blocks or k * macs >= COSTS.unit_winograd_macs)
    )
    steps = (
        Step(recipe + " forward", lambda name: kernel().forward(name), chunks, sizes(s.tiles)),
        Step(
            recipe + " product",
            lambda name: kernel().product(name, block),
            lambda n: a2 * blocks // block,
            sizes(block),
        ),
        Step(recipe + " back", lambda name: kernel().back(name), chunks, sizes(0)),
    )
    return Code(steps, 0, lambda n: (4 * a2 * padded(n) * c.ic, 4 * a2 * padded(n) * wide))
