"""Convolution by Fourier transforms, for large kernels: a product per frequency in place of a sum over the taps.

y = F⁻¹(F(x) · conj F(w)), tile by tile; tiles of the input overlap by the kernel's extent less one, and of the
circular results the places that wrapped around are left out ("overlap-save"; Oppenheim and Schafer, "Discrete-Time
Signal Processing", section 8.7.3). A tile that is a whole axis may wrap where the input is padding. Kernels are
transformed when they are packed. A channel by itself goes through all stages in the cache of a core; where channels
are summed there are three steps, and the products are complex matrix products over all tiles, one for each frequency.

What is not finite spreads over its tile, and over all channels that are summed with it.

Packed: factors of the transforms across and down, each to a whole cache line, then the spectrum,
[vector][column][row][re, im][lane] or [column][row][group][oc block][ic][re, im][oc in block].
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import prod

import numpy as np

from dojang.engine.kernels import task as t
from dojang.engine.kernels.conv.fourier_spread import Spread
from dojang.engine.kernels.conv.fourier_stages import FourierStages
from dojang.engine.kernels.conv.fourier_tiles import FourierAxis, FourierBlocking, axes_of
from dojang.engine.kernels.conv.winograd import two
from dojang.engine.kernels.task import Code, Offer, Refusal, Step, Task
from dojang.native import transforms as passes
from dojang.native.costs import COSTS
from dojang.native.machine import Machine

NAME = "fourier"
LEAST_TAPS = 16  # of a kernel; below, register tiles were never slower (Granite Rapids, 2026)
LONGEST_ROW, LONGEST_COLUMN = 4096, 512
MOST_TRANSFORMED = 64 << 20
"""Bytes of the spectrum of a layer's kernels above which memory would be another than that of the network."""
PACKED_AT_ONCE = 8 << 20  # bytes of spectrum in float64


def offer(task: Task, machine: Machine) -> Offer | Refusal:
    """For kernels of many taps, stride 1, in one or two dimensions."""
    c = task.conv
    if task.strict:
        return Refusal("precision is strict")
    if c.transposed:
        return Refusal("transposed")
    if c.rank > 2:
        return Refusal("more than 2 dimensions")
    if any(s != 1 for s in c.stride):
        return Refusal("stride above 1")
    if prod(c.kernel) < LEAST_TAPS:
        return Refusal(f"a kernel of {prod(c.kernel)} taps")
    if not prod(c.size):
        return Refusal("no input")
    if machine.isa == "wasm":
        return Refusal("a page would have to carry its transformed weights")
    down, across = axes_of(two(task))
    if down.extent > 1 and across.extent == 1:
        return Refusal("a kernel of one column")
    if _needed(down) > LONGEST_COLUMN or _needed(across) > LONGEST_ROW:
        return Refusal(f"a kernel of {down.extent}x{across.extent} places is too long")
    cut = cut_of(task, machine)
    bytes_ = spectrum_bytes(task, machine, cut)
    if bytes_ > MOST_TRANSFORMED:
        return Refusal(f"its transformed weights would take {bytes_ / 1e6:.0f} MB")
    return Offer(seconds(task, machine, cut))


def _needed(axis: FourierAxis) -> int:
    """The least length of a transform for an axis."""
    return min(axis.whole, axis.extent)


def stages(task: Task, cut: FourierBlocking, machine: Machine) -> FourierStages:
    """What writes the code of a cut."""
    return (Spread if cut.spread else FourierStages)(two(task), cut, machine)


def spectrum_bytes(task: Task, machine: Machine, cut: FourierBlocking) -> int:
    """Bytes of the transformed weights."""
    s = stages(task, cut, machine)
    if s.alone:
        return s.frequencies * s.vectors * s.spectrum_step
    return s.frequencies * task.conv.groups * s.icg * s.vectors * s.point


def _cuts(axis: FourierAxis, most: int) -> list[tuple[int, int]]:
    """(length, outputs) of one to many tiles of an axis, the shortest lengths."""
    lengths, found = passes.smooth(most), {}
    for tiles in range(1, min(axis.out, 32 if axis.extent < 256 else 128) + 1):
        outputs = t.ceil_div(axis.out, tiles)
        need = axis.whole if tiles == 1 else outputs + axis.extent - 1
        length = next((n for n in lengths if n >= need), None)
        if length is not None and length not in found:
            # Of outputs that fit, as few as the number of tiles needs.
            fit = axis.out if tiles == 1 else min(axis.out, length - axis.extent + 1)
            found[length] = t.ceil_div(axis.out, t.ceil_div(axis.out, fit))
    return list(found.items())


@cache
def cut_of(task: Task, machine: Machine) -> FourierBlocking:
    """The cut with the least estimated time."""
    down, across = axes_of(two(task))
    c = task.conv
    spread = c.ic == c.oc == 1 and task.x_ld == task.y_ld == 1 and task.residual_ld in (0, 1)
    rows = _cuts(down, LONGEST_COLUMN) if down.extent > 1 else [(1, 1)]
    cuts = []
    for height, high in rows:
        for width, wide in _cuts(across, LONGEST_ROW):
            cut = FourierBlocking(height, width, high, wide, spread)
            if c.ic > c.groups or c.oc > c.groups:
                cut = replace(cut, vectors=1, pixels=1)
                s = stages(task, cut, machine)
                tiles = s.tiles(max(1, c.n))
                v = min(2 if machine.registers >= 32 else 1, s.vectors)
                most = min((machine.registers - 2 * v - 2) // (2 * v), tiles)
                p = min(range(1, most + 1), key=lambda p: (t.ceil_div(tiles, p) * (2 * p + 3), p))
                cut = replace(cut, vectors=v, pixels=p)
            cuts.append(cut)
    return min(cuts, key=lambda cut: seconds(task, machine, cut))


def seconds(task: Task, machine: Machine, cut: FourierBlocking) -> float:
    """Estimated seconds on one core for one image of the batch."""
    c, p, s = task.conv, machine.peaks, stages(task, cut, machine)
    n = max(1, c.n)
    tiles = s.tiles(n)
    slow = [COSTS.beyond_l1 if 2 * k * s.point > machine.l1 else 1.0 for k in (cut.width, cut.height)]
    across = slow[0] * passes.cycles(cut.width, machine.registers)
    down = slow[1] * passes.cycles(cut.height, machine.registers) if s.plane else 0.0
    # A pair of rows in and out: reading and writing, telling apart; then columns through the second cache.
    rows_in = t.ceil_div(min(s.rows, s.down.size), 2) if s.plane else 1
    rows_out = t.ceil_div(cut.down, 2) if s.plane else 1
    line = across + 4 * cut.width + 6 * s.half
    column = down + 5 * cut.height
    ahead, back = rows_in * line + s.half * column, rows_out * line + s.half * column
    rate = p.fma_gflops * 1e9 / 4 / machine.lanes(4)
    memory = spectrum_bytes(task, machine, cut) / (p.read_gbs * 1e9)
    # Of each pixel a signal reads and writes one line, and its neighbour comes with it.
    overlap = prod(min(k, a.size) for k, a in zip((cut.height, cut.width), (s.down, s.across), strict=True))
    lines = tiles * (overlap * t.ceil_div(c.ic, s.lanes) + cut.down * cut.across * c.groups * s.vectors)
    if s.alone and not cut.spread:
        lines = tiles * (overlap + cut.down * cut.across) * s.vectors
    if s.vectors > 1:
        memory += 2 * lines * s.part / (p.cache_gbs * 1e9)
    if s.alone:
        signals = t.ceil_div(tiles, s.tiles_per_unit) * s.vectors
        again = (tiles - 1) * s.frequencies * s.vectors * s.spectrum_step / (p.cache_gbs * 1e9)
        work = signals * (ahead + back + 4 * s.frequencies) / rate
        return (work + memory + (again if s.frequencies * s.point > machine.l2 // 2 else 0)) / n
    units = t.ceil_div(tiles, s.per_unit)
    moves = units * (t.ceil_div(c.ic, s.lanes) * ahead + c.groups * s.vectors * back)
    padded = s.padded_tiles(n)
    around = 4 * cut.pixels * cut.vectors + 20
    turns = s.frequencies * c.groups * padded / cut.pixels * t.ceil_div(s.vectors, cut.vectors)
    work = turns * (s.icg * max(2 * cut.pixels * cut.vectors, 4.5) * 1.15 + around)
    traffic = 2 * s.frequencies * padded * 2 * (s.ic_row + s.oc_row) / (p.cache_gbs * 1e9)
    return ((moves + work) / rate + memory + traffic) / n


def pack(task: Task, machine: Machine, weight: np.ndarray, bias: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Transforms in float64, rounded once."""
    cut = cut_of(task, machine)
    s, c, dtype = stages(task, cut, machine), two(task).conv, task.element.dtype
    first, second = s.table_words
    out = t.lined((second + spectrum_bytes(task, machine, cut) // s.size,), dtype)
    out[:second] = 0
    for at, length in ((0, cut.width), (first, cut.height)):
        table = passes.twiddles(length, machine.registers)
        out[at : at + len(table)] = table
    # Rows that were told apart are twice as large.
    scale = 1.0 if s.alone and not s.plane else 0.5

    def spectrum(taps: np.ndarray) -> np.ndarray:
        """Kernels (..., kh, kw) as (..., frequency)."""
        places = np.zeros((*taps.shape[:-2], s.down.extent, s.across.extent))
        index = []
        for axis, kernel, dilation in zip((s.down, s.across), c.kernel, c.dilation, strict=True):
            at = np.arange(kernel) * dilation - axis.skipped
            index.append((np.flatnonzero((at >= 0) & (at < axis.extent)), at))
        (rows, row_at), (columns, column_at) = index
        places[..., row_at[rows][:, None], column_at[columns]] = taps[..., rows[:, None], columns]
        found = np.fft.rfft2(places, (cut.height, cut.width)).conj() * (scale / (cut.height * cut.width))
        return np.swapaxes(found, -1, -2).reshape(*taps.shape[:-2], -1)

    w = np.asarray(weight).reshape(c.groups, s.ocg, s.icg, *c.kernel)
    if s.alone:
        some = max(1, PACKED_AT_ONCE // (16 * s.frequencies) // s.lanes) * s.lanes
        lanes = 1 if cut.spread else s.lanes
        whole: np.ndarray = out[second:].reshape(-1, s.frequencies, 2, lanes)  # [vector][frequency][re, im][lane]
        for at in range(0, c.oc, some):
            found = spectrum(w[at : at + some, 0, 0])
            found = np.concatenate([found, np.zeros((-len(found) % lanes, s.frequencies), found.dtype)])
            found = found.reshape(-1, lanes, s.frequencies).swapaxes(1, 2)
            part = whole[at // lanes : at // lanes + len(found)]
            part[:, :, 0], part[:, :, 1] = np.real(found), np.imag(found)
        return out, t.pack_vector(bias, 1, s.lanes, c.oc, dtype)
    whole = out[second:].reshape(s.frequencies, c.groups, -1)
    for group in range(c.groups):
        for vector in range(0, s.vectors, cut.vectors):
            lanes = min(cut.vectors, s.vectors - vector) * s.lanes
            here = w[group, vector * s.lanes : vector * s.lanes + lanes]
            start = vector * s.lanes * s.icg * 2
            block = whole[:, group, start : start + lanes * s.icg * 2].reshape(s.frequencies, s.icg, 2, lanes)
            some = max(1, PACKED_AT_ONCE // (16 * s.frequencies * lanes))
            for at in range(0, s.icg, some):
                found = spectrum(here[:, at : at + some]).transpose(2, 1, 0)  # (frequency, ic, oc)
                part = block[:, at : at + some]
                part[..., len(here) :] = 0
                part[:, :, 0, : len(here)], part[:, :, 1, : len(here)] = np.real(found), np.imag(found)
    return out, t.pack_vector(bias, c.groups, s.lanes, s.ocg, dtype)


def emit(task: Task, machine: Machine) -> Code:
    """One step (channels by themselves) or three."""
    cut = cut_of(task, machine)
    task = replace(task, conv=replace(task.conv, n=1))  # the code does not depend on the batch
    s = stages(task, cut, machine)
    recipe = f"{NAME} {task} {cut}"
    fresh = lambda: stages(task, cut, machine)  # noqa: E731
    signals = lambda n: t.ceil_div(s.tiles(n), s.tiles_per_unit)  # noqa: E731
    if s.alone:
        step = Step(recipe, lambda name: fresh().whole(name), lambda n: signals(n) * s.vectors)
        return Code((step,), s.scratch)
    blocks = task.conv.groups * t.ceil_div(s.vectors, cut.vectors)
    macs = 4 * s.icg * cut.vectors * s.lanes * s.padded_tiles(1)
    some = max(1, min(s.frequencies, t.ceil_div(COSTS.unit_fourier_macs, macs)))
    steps = (
        Step(recipe + " forward", lambda name: fresh().forward(name), lambda n: signals(n) * (s.ic_row // s.part)),
        Step(recipe + f" product {some}", lambda name: fresh().product(name, some),
             lambda n: bool(n) * blocks * t.ceil_div(s.frequencies, some)),
        Step(recipe + " back", lambda name: fresh().back(name), lambda n: signals(n) * (s.oc_row // s.part)),
    )  # fmt: skip
    words = lambda n: 2 * s.frequencies * s.padded_tiles(n)  # noqa: E731
    return Code(steps, s.scratch, lambda n: (words(n) * s.ic_row, words(n) * s.oc_row))
