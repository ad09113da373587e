"""Float32 convolution on matrix tiles (AMX): every factor as three bfloat16, six of their nine products.

The sums are those of the definition within float32 rounding (smaller errors than a direct sum, for each 32 products are
added before they meet the others), at twice the measured rate of fused multiply-adds. A tile of sums is `rows` output
pixels of one row times 16 output channels. Inputs are split into parts, padding as zeros, either by the unit that needs
them (`own`) or, where images are small and weights many, in a step before. Weights lie split, [16 oc][K / 32][part]
[k pair][oc][2], or, where they are many, as float32 in the order in which a unit reads and splits them as it goes
(`fresh`), [block of oc][K / 32][16 oc][k pair][2][oc], so that they take the memory of float32. K runs over taps and
channels; where channels are no multiple of 32, a row of taps is one run of K, for neighbouring pixels lie side by side.

An output that is not a finite number has its unit computed again by plain sums, so that infinity and NaN go where they
should. Values below 2⁻¹¹⁰ lose bits, for the tiles take denormal numbers as 0.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import prod

import numpy as np

from dojang.engine.kernels import task as t
from dojang.engine.kernels.conv import amx_tiles as tiles
from dojang.engine.kernels.conv.amx_kernel import CHUNK, AmxBlocking, AmxKernel, Depth, axes_of, depth_of, tall
from dojang.engine.kernels.conv.direct import Nest, three
from dojang.engine.kernels.conv.pointwise import best_width
from dojang.engine.kernels.task import Code, Offer, Refusal, Step, Task
from dojang.native.costs import COSTS
from dojang.native.machine import Machine

NAME = "amx"
MOST_SPLIT = 1 << 20
"""Bytes of split weights of a layer above which they are kept as float32, so that memory stays near the weights'."""
FIRST_CACHE = 24 << 10  # bytes of split pixels that stay in the first cache beside the weights


def offer(task: Task, machine: Machine) -> Offer | Refusal:
    """For float32 on processors with matrix tiles, up to 2 dimensions, one group."""
    c = task.conv
    if not machine.amx:
        return Refusal("no matrix tiles")
    if task.strict:
        return Refusal("precision is strict")
    if task.kind != "f32":
        return Refusal("not float32")
    if c.transposed or c.groups > 1:
        return Refusal("transposed" if c.transposed else "grouped")
    if c.rank > 2:
        return Refusal("more than 2 dimensions")
    if prod(c.out_size) < 2:
        return Refusal("one pixel: each weight is used once per image")
    if c.oc < 8 or c.ic * c.kernel[-1] < 8:
        return Refusal(f"too few channels ({c.ic} to {c.oc})")
    return Offer(seconds(task, machine, cut_of(task, machine)))


def nest_of(task: Task) -> Nest:
    """The convolution in two dimensions; pixels of 1×1 kernels in rows that tile well."""
    c = task.conv
    if c.pointwise and all(s == 1 for s in c.stride) and not any(p for pair in c.padding for p in pair):
        places = prod(c.size)
        width = places if places <= 64 else best_width(places)
        size = (1, places // width, width)
        one = (1, 1, 1)
        return Nest(c.ic, c.oc, 1, size, one, one, (0, 0, 0), one, size)
    return three(c)


@cache
def cut_of(task: Task, machine: Machine) -> AmxBlocking:
    """The cut with the least estimated time."""
    c = nest_of(task)
    depth = depth_of(c)
    oh, ow = c.out_size[1:]
    vectors = t.ceil_div(c.oc, tiles.LANES)
    rows = t.ceil_div(ow, t.ceil_div(ow, tiles.ROWS))
    per_line = t.ceil_div(ow, rows)
    fresh = depth.total * vectors * tiles.PARTS * tiles.TILE > MOST_SPLIT
    cuts = []
    for wide in (2, 4, 1):
        if wide > vectors:
            continue
        for lines in range(1, oh + 1):
            pixels = min(tiles.MOST_SUMS // wide, lines * per_line)
            inner = not fresh and c.kernel[1] * pixels * rows * depth.pitch * 2 * tiles.PARTS <= FIRST_CACHE
            blocks = t.ceil_div(vectors, wide)
            cuts.append(AmxBlocking(rows, pixels, wide, lines, blocks, True, fresh, inner))
            if lines == oh or lines * per_line >= 16:
                # As many groups of channels as keep the cores busy, but no more: each reads all split pixels.
                for groups in (1, 2, 4, 8):
                    some = t.ceil_div(blocks, groups * machine.cores)
                    cuts.append(AmxBlocking(rows, pixels, wide, lines, some, False, fresh, inner))
    return min(dict.fromkeys(cuts), key=lambda s: seconds(task, machine, s))


def seconds(task: Task, machine: Machine, s: AmxBlocking) -> float:
    """Estimated seconds on one core for one image of the batch."""
    c, p, n = nest_of(task), machine.peaks, max(1, task.conv.n)
    depth, (down, across) = depth_of(c), axes_of(c)
    oh, ow = c.out_size[1:]
    rate = p.fma_gflops * 1e9 / 64
    vectors = t.ceil_div(c.oc, tiles.LANES)
    per_line = t.ceil_div(ow, s.rows)
    chunks = t.ceil_div(oh, s.lines)
    numbers = lambda lines: down.places(lines) * across.places(ow) * depth.pitch  # noqa: E731
    work = 0.0
    for lines, count in ((s.lines, oh // s.lines), (oh % s.lines, 1)):
        if not lines or not count:
            continue
        for wide, many in ((s.vectors, vectors // s.vectors), (vectors % s.vectors, 1)):
            if wide and many:
                pixels = tall(s, wide, per_line)
                blocks = t.ceil_div(lines * per_line, pixels)
                work += (
                    count * many * blocks * block_cycles(s.rows, pixels, wide, depth, s.fresh, task.resident_ratio > 0)
                )
        if s.own:
            work += count * COSTS.tile_split_cycles * numbers(lines)
    if not s.own:
        work += (
            COSTS.tile_split_cycles * numbers(oh) + 4000 * machine.cores / n
        )  # one step more: threads wait for each other
    weight_bytes = depth.total * vectors * tiles.TILE * (2 if s.fresh else tiles.PARTS)
    if s.fresh:
        work += chunks * depth.total * vectors * COSTS.tile_fresh_cycles * tiles.TILE / 2
    groups = 1 if s.own else t.ceil_div(vectors, s.vectors * s.blocks)
    units = chunks * n * groups
    rounds = t.ceil_div(units, machine.cores)
    work *= rounds * machine.cores / units  # the last round is not full
    memory = task.fetched(weight_bytes, p) / n
    region = tiles.PARTS * 2 * numbers(s.lines)
    # What a core reads again and again: its weights for every chunk, all split pixels for every group of channels.
    crowded = min(1.0, max(0.0, (weight_bytes / groups + region) / machine.l2 - 0.3))
    again = 0 if s.inner else region * chunks * t.ceil_div(vectors, s.vectors)
    cache = (weight_bytes * (chunks - 1) + again) * crowded
    if not s.own:
        cache += 2 * region * chunks
    time = work / rate + COSTS.exposed_tiles * cache / (p.cache_gbs * 1e9)
    return max(time + 0.3 * memory, memory + 0.3 * time)


def block_cycles(rows: int, pixels: int, wide: int, depth: Depth, fresh: bool, short: bool) -> float:
    """Cycles of one block: products, loads, and what is done once."""
    sums = pixels * wide
    row, right = (
        (COSTS.tile_short_row_cycles, COSTS.tile_short_right_cycles)
        if short
        else (COSTS.tile_row_cycles, COSTS.tile_right_cycles)
    )
    products = len(tiles.PRODUCTS) * wide * max(right, pixels * row * max(rows, 8))
    if sums < 3:  # a product waits for the one before
        products = max(products, len(tiles.PRODUCTS) * 52.0)
    left, right = (5, 3) if pixels <= 2 and wide <= 2 else (6, 3) if pixels > wide else (5, 6)
    loads = (
        left * pixels * (COSTS.tile_across_cycles if depth.pitch % tiles.DEPTH else COSTS.tile_load_cycles)
        + right * wide * COSTS.tile_load_cycles
    )
    once = sums * (16 + 3.5 * rows) + 60
    if fresh:
        once += t.ceil_div(depth.total, CHUNK) * COSTS.tile_drain_cycles
    return depth.total * (products + loads) + once


def pack(task: Task, machine: Machine, weight: np.ndarray, bias: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Weights in one of the two orders above, bias in whole vectors."""
    c, s = nest_of(task), cut_of(task, machine)
    depth, vectors = depth_of(c), t.ceil_div(c.oc, tiles.LANES)
    w = np.asarray(weight).reshape(c.oc, c.ic, c.kernel[1], c.kernel[2])
    padded = t.pack_vector(bias, 1, tiles.LANES, c.oc, "f4")
    out = t.lined((vectors, depth.total, tiles.DEPTH // 2, 2, tiles.LANES), "f4")
    flat = out.reshape(-1)
    for v in range(vectors):  # one vector at a time: no second array of all weights
        some = np.zeros((tiles.LANES, depth.runs, depth.steps * tiles.DEPTH), "f4")
        mine = w[v * tiles.LANES : (v + 1) * tiles.LANES]
        some[: len(mine), :, : depth.length] = mine.transpose(0, 2, 3, 1).reshape(len(mine), depth.runs, depth.length)
        # A block's vectors lie side by side, step by step, so that a unit reads on and on.
        block = v // s.vectors * s.vectors
        wide = min(s.vectors, vectors - block) if s.fresh else 1
        size = depth.total * tiles.DEPTH * tiles.LANES
        place = flat[block * size : (block + wide) * size].reshape(depth.total, wide, tiles.DEPTH // 2, 2, tiles.LANES)
        place = place[:, v - block] if s.fresh else out[v]
        place[...] = some.reshape(tiles.LANES, depth.total, tiles.DEPTH // 2, 2).transpose(1, 2, 3, 0)
    if s.fresh:
        return flat, padded
    out = out.swapaxes(3, 4)
    parts = t.lined((vectors, depth.total, tiles.PARTS, tiles.DEPTH // 2, tiles.LANES, 2), "u2")
    parts[...] = np.moveaxis(tiles.parts_of(out), 0, 2)
    return parts.reshape(-1).view("f4"), padded


def emit(task: Task, machine: Machine) -> Code:
    """One step (own), or one that splits all inputs and one that multiplies."""
    s, c = cut_of(task, machine), nest_of(task)
    task = replace(task, conv=replace(task.conv, n=1))
    recipe = f"{NAME} {task} {s}"
    kernel = lambda: AmxKernel(task, c, s, machine)  # noqa: E731
    k = kernel()
    chunks = t.ceil_div(c.out_size[1], s.lines)
    many = Step(recipe, lambda name: kernel().product(name), lambda n: n * chunks * k.groups)
    if s.own:
        return Code((many,), k.scratch)
    lines = k.shared_lines
    first = Step(
        f"{recipe} split {lines}",
        lambda name: kernel().splitting(name),
        lambda n: n * t.ceil_div(k.region.lines, lines),
    )
    return Code((first, many), k.scratch, lambda n: (n * k.region.bytes, 0))
