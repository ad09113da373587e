"""The filter methods: each returns its program and its predicted cost, or the reason why it refuses the job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from dojang.base.wording import counted
from dojang.filters.code.box import Box
from dojang.filters.code.columns import Columns, PassTap
from dojang.filters.code.doubling import Doubling, doublings
from dojang.filters.code.pairs import FixedTap, Pairs
from dojang.filters.code.program import Finish, RowProgram, RowTap, Tap
from dojang.filters.code.straight import Straight
from dojang.filters.job import Job
from dojang.filters.kernels.factor import factors, whole_factors
from dojang.filters.kernels.fixed import TOP, fixed, fixed_passes
from dojang.filters.kernels.fixed import fixed_columns as fixed_columns_of
from dojang.filters.kernels.named import Taps
from dojang.filters.kernels.parse import Kernel
from dojang.filters.plan.bounds import (
    MOST_ROWS,
    columns_cycles,
    direct_cycles,
    looped_cycles,
    one_tap,
    pairs_cycles,
    separable_cycles,
    separable_pairs_cycles,
    straight_cycles,
)
from dojang.filters.plan.costs import costs_of
from dojang.filters.plan.loops import dense_cycles, dense_loop, passes_cycles, row_passes
from dojang.filters.plan.method import Method, kind_of
from dojang.filters.plan.sums import (
    FIXED_TOLERANCE,
    TIE,
    UNROLLED,
    Sums,
    cancels,
    lanes_of,
    said,
    source_top,
    sums_of,
    tap_tolerance,
    tolerance,
)
from dojang.filters.plan.transforms import fourier
from dojang.native.emit import KINDS
from dojang.native.machine import Machine

LEAST_BLOCK, BLOCK_LOADS = 16, 7  # rows of a box that is summed in blocks, and the vectors that are read for a result
MOST_TILE = 1 << 28  # bytes of a tile of doubled sums


def program_of(job: Job, sums: Sums, machine: Machine, segments: tuple, outputs: tuple, **more: Any) -> RowProgram:
    """A program of tiles; with more taps, it computes fewer rows and vectors at a time."""
    rows = more.pop("rows", 4 if job.extent[0] > 1 else 1)
    vectors = more.pop("vectors", 2)
    work = sum(len(part) for parts in outputs for part in parts)
    while work * rows * vectors > 1200 and vectors > 1:
        vectors //= 2
    while work * rows * vectors > 1600 and rows > 1:
        rows //= 2
    return RowProgram(
        source=kind_of(job.dtype),
        target=kind_of(job.out_dtype),
        work=sums.work,
        unsigned=sums.unsigned,
        channels=job.channels,
        extent=job.extent[0],
        reach=(job.extent[1] - 1) * job.channels,
        segments=segments,
        outputs=outputs,
        finishes=(sums.finish,) * max(1, len(outputs)) if "finishes" not in more else more.pop("finishes"),
        dense=more.pop("dense", None),
        stride=job.options.stride,
        fill=job.fill,
        rows=rows,
        vectors=vectors,
    )


def tap_list(job: Job, matrix: Taps, segment: int = 0) -> tuple[Tap, ...]:
    """The taps that are not 0, by rows."""
    (dy, dx), c = job.options.dilation, job.channels
    rows, columns = np.nonzero(matrix)
    found = zip((rows * dy).tolist(), (columns * (dx * c)).tolist(), matrix[rows, columns].tolist(), strict=True)
    return tuple((i, segment, j, float(tap)) for i, j, tap in found)


def direct(job: Job, machine: Machine) -> Method | str:
    """All taps as constants."""
    sums = sums_of(job)
    count = sum(int(np.count_nonzero(p)) for p in sums.parts)
    if count > UNROLLED:
        return f"{count} taps are more than the {UNROLLED} that are unrolled; compiling would take too long"
    # With 16 registers, taps do not stay in registers: each is loaded once for four vectors instead of two.
    shape = {"rows": 2, "vectors": 4} if machine.registers < 32 and sums.work != "i16" and job.extent[0] > 1 else {}
    program = program_of(job, sums, machine, (), (tuple(tap_list(job, p) for p in sums.parts),), **shape)
    cost = costs_of(machine)
    cycles = direct_cycles(count, cost) / lanes_of(sums, machine)
    zeros = sum(p.size for p in sums.parts) - count
    return Method("direct", cycles, program, None, f"{count} taps as constants, {zeros} zeros skipped, {said(sums)}")


def straight(job: Job, machine: Machine) -> Method | str:
    """All taps as constants, on floats in place."""
    if job.dtype.kind != "f" or job.out_dtype != job.dtype:
        return "it needs floats, and a result of the same type"
    if job.kernel.combine != "linear":
        return "two parts are joined"
    if job.options.stride != (1, 1):
        return "it takes no stride"
    sums = sums_of(job)
    count = int(np.count_nonzero(sums.parts[0]))
    if not 0 < count <= UNROLLED:
        return f"{count} taps: from 1 to {UNROLLED} can be unrolled"
    taps = tuple((row, shift, tap) for row, _, shift, tap in tap_list(job, sums.parts[0]))
    if job.extent[0] > MOST_ROWS:
        return f"{job.extent[0]} rows are more than the {MOST_ROWS} that it reads in parallel"
    reach = (job.extent[1] - 1) * job.channels
    lanes = lanes_of(sums, machine)
    if sums.work != kind_of(job.dtype) or reach > 2 * lanes:
        return "its edges are wider than two registers"
    program = Straight(
        kind_of(job.dtype), job.channels, job.extent[0], reach, taps, sums.finish, job.fill,
        1 if job.extent[0] == 1 else 4 if machine.registers >= 32 else 2, 2 if machine.registers >= 32 else 4,
    )  # fmt: skip
    cycles = straight_cycles(len(taps), costs_of(machine)) / lanes
    return Method(
        "straight", cycles, program, None, f"{len(taps)} taps as constants, {said(sums)}, no copy of the rows"
    )


def most_pairs(size: tuple[int, int]) -> int:
    """The most columns and rows whose products are tried for a kernel of this size."""
    kh, kw = size
    return max(1, min(kh * kw, 4 * UNROLLED) // (kh + kw))


def separable(job: Job, machine: Machine) -> Method | str:
    """Rows, then columns, in a tile, for kernels of rank 1 or a small sum of those."""
    sums = sums_of(job)
    kh, kw = job.kernel.size
    if kh == 1 or kw == 1:
        return "one row or one column"
    most = most_pairs(job.kernel.size)
    if kh + kw > (2 if job.kernel.pair else 4) * UNROLLED:  # checked before singular values are computed
        return f"{kh} + {kw} taps are too many to be unrolled"
    found: list[list[tuple[Taps, Taps]]] = []
    for matrix in sums.parts:
        if sums.work == "i16":
            one = whole_factors(matrix)
            pairs = [one] if one else None
        else:
            one = whole_factors(matrix) if sums.whole else None
            pairs = [one] if one else known(job) or _pair(job, sums, matrix)
            if pairs is None and most > 1:
                pairs = factors(matrix, tolerance(job, sums, matrix), most)
        if pairs is None:
            return f"its rows are not multiples of one{'' if sums.work == 'i16' else f', nor sums of {most} such'}"
        if cancels(job, sums, matrix, pairs):
            return "its factors cancel each other and would lose digits"
        found.append(pairs)
    (dy, dx), c = job.options.dilation, job.channels
    segments, parts = [], []
    count = 0
    for pairs in found:
        taps: list[Tap] = []
        for column, row in pairs:
            segment: tuple[RowTap, ...] = tuple((int(j) * dx * c, float(row[j])) for j in np.flatnonzero(row))
            taps += [(int(i) * dy, len(segments), 0, float(column[i])) for i in np.flatnonzero(column)]
            count += len(segment)
            segments.append(segment)
        parts.append(tuple(taps))
    count += sum(len(p) for p in parts)
    if count > 4 * UNROLLED:
        return f"{count} taps in {len(segments)} pairs of passes are too many to be unrolled"
    program = program_of(job, sums, machine, tuple(segments), (tuple(parts),))
    lanes = lanes_of(sums, machine)
    cost = costs_of(machine)
    equal = all(len({abs(t) for _, t in s}) == 1 for s in segments) and len({abs(t[3]) for t in parts[0]}) == 1
    pass_tap = cost.equal_tap if equal else cost.pass_tap
    least = max(512, 4 * program.reach) * len(segments) * program.work_kind.bytes
    if program.tile_rows * least > 0.45 * machine.l2:
        pass_tap *= cost.large_tile
    cycles = separable_cycles(count, len(segments), pass_tap, cost) / lanes
    detail = f"{counted(len(segments), 'pair of passes', 'pairs of passes')}, {count} taps, {said(sums)}"
    return Method("separable", cycles, program, None, detail)


def _pair(job: Job, sums: Sums, matrix: Taps) -> list[tuple[Taps, Taps]] | None:
    """A column and a row whose product is near enough to the matrix for these sums, as `factors` gives them."""
    if matrix is not job.kernel.parts[0]:
        return factors(matrix, tolerance(job, sums, matrix), 1)
    allowed = tolerance(job, sums, matrix)
    return _rank_one(job.kernel, allowed if isinstance(allowed, float) else None, sums.work)


@lru_cache(maxsize=64)
def _rank_one(kernel: Kernel, allowed: float | None, work: str = "") -> list[tuple[Taps, Taps]] | None:
    """`factors` of a linear kernel in one pair; without `allowed` within the rounding of each tap in sums of `work`."""
    matrix = kernel.parts[0]
    return factors(matrix, tap_tolerance(matrix, work) if allowed is None else allowed, 1)


def known(job: Job) -> list[tuple[Taps, Taps]] | None:
    """The column and the row of which a kernel is known to be the product, as `factors` gives them; None if all taps
    are 0.
    """
    pair = job.kernel.pair
    return [pair] if pair is not None and all(v.any() for v in pair) else None


def _nothing(job: Job) -> list[tuple[Taps, Taps]]:
    """A column of zeros times a row of one tap, for a kernel of zeros only."""
    kh, kw = job.kernel.size
    return [(np.zeros(kh), np.eye(1, kw)[0])]


def _not_fixed(job: Job, machine: Machine, rows: bool = True) -> str | None:
    """Why fixed point (taps rounded to fractions of a power of 2) is not for this job."""
    if rows and machine.isa not in ("avx2", "avx512"):
        return "it needs an instruction of x86 with AVX2"
    if job.dtype != np.uint8 or job.out_dtype != np.uint8:
        return "fixed point is for uint8"
    if job.kernel.combine != "linear":
        return "two parts are joined"
    if job.options.stride != (1, 1) or (rows and job.options.dilation[0] != 1):
        return "pairs of rows support no stride and no dilation" if rows else "it takes no stride"
    return "not needed: 16-bit integers hold the sums exactly" if sums_of(job).work == "i16" else None


def _pieces(taps: Taps, job: Job) -> tuple[FixedTap, ...]:
    """The taps; those above 16 bits are split."""
    step = job.options.dilation[1] * job.channels
    pieces: list[FixedTap] = []
    whole = taps.astype(int).tolist()
    for i, line in enumerate(whole):
        for j, tap in enumerate(line):
            if 0 < abs(tap) <= TOP:
                pieces.append((i, j * step, tap))
            elif tap:
                count = -(-abs(tap) // TOP)
                pieces += [(i, j * step, tap // count + (k < tap % count)) for k in range(count)]
    return tuple(pieces)


def pairs(job: Job, machine: Machine) -> Method | str:
    """All taps at once in fixed point."""
    reason = _not_fixed(job, machine)
    if reason:
        return reason
    matrix = job.kernel.parts[0]
    found = fixed(matrix, job.options.offset, TIE)
    if found is None:
        return "32 bits do not hold its sums"
    if np.count_nonzero(found.taps) > UNROLLED:
        return f"{np.count_nonzero(found.taps)} taps are more than the {UNROLLED} that are unrolled"
    taps = _pieces(found.taps, job)
    if len(taps) > UNROLLED:
        return f"{len(taps)} taps are more than the {UNROLLED} that are unrolled; compiling would take too long"
    columns = np.count_nonzero(found.taps, axis=0)
    count = int(np.sum(columns // 2 + 1)) + (len(taps) - np.count_nonzero(found.taps)) / 2
    program = Pairs(
        job.channels, job.extent[0], (job.extent[1] - 1) * job.channels, taps, (), 0, 0, 0, found.shift, found.add,
        int(job.fill), 4 if len(taps) < 100 else 2, 2,
    )  # fmt: skip
    cycles = pairs_cycles(count, costs_of(machine)) / machine.lanes(4)
    detail = f"{len(taps)} taps in 16 bits, two rows at a time, at most {found.error:.4f} off"
    return Method("pairs", cycles, program, None, detail)


def separable_pairs(job: Job, machine: Machine) -> Method | str:
    """A column and a row in fixed point."""
    reason = _not_fixed(job, machine)
    if reason:
        return reason
    kh, kw = job.kernel.size
    if kh == 1 or kw == 1:
        return "one row or one column"
    if kh + kw > UNROLLED:
        return f"{kh + kw} taps are more than the {UNROLLED} that are unrolled"
    pairs = known(job) or _rank_one(job.kernel, FIXED_TOLERANCE)
    if pairs is None:
        return "its rows are not multiples of one"
    found = fixed_passes(*pairs[0], job.options.offset, TIE * 63 / 64)
    if found is None:
        return "16 bits between the passes would round differently"
    taps = tuple((int(i), 0, int(found.column[i])) for i in np.flatnonzero(found.column))
    step = job.options.dilation[1] * job.channels
    program = Pairs(
        job.channels, kh, (kw - 1) * step, taps, tuple(int(t) for t in found.row), step, found.first, found.middle,
        found.shift, found.add, int(job.fill), 4, 1,
    )  # fmt: skip
    cycles = separable_pairs_cycles(kh, kw, costs_of(machine)) / machine.lanes(4)
    detail = f"a column and a row of {kh} + {kw} taps in 16 bits, at most {found.error:.4f} off"
    return Method("separable pairs", cycles, program, None, detail)


def columns(job: Job, machine: Machine) -> Method | str:
    """A column and a row, straight from the picture."""
    kh, kw = job.kernel.size
    if job.kernel.combine != "linear":
        return "two parts are joined"
    if job.options.stride != (1, 1):
        return "it takes no stride"
    if kh == 1 or kw == 1:
        return "one row or one column"
    if kh > MOST_ROWS:
        return f"{kh} rows are more than the {MOST_ROWS} that it reads in parallel"
    sums = sums_of(job)
    matrix = sums.parts[0]
    pair = whole_factors(matrix) if sums.whole else None
    if pair is None and sums.work != "i16":
        found = known(job) or _pair(job, sums, matrix)
        pair = found[0] if found else None
    if pair is None:
        return "its rows are not multiples of one"
    column, row = pair
    down = tuple((int(i), -1, float(column[i])) for i in np.flatnonzero(column))
    along = tuple((int(j), -1, float(row[j])) for j in np.flatnonzero(row))
    program, cycles = _columns_program(job, machine, sums, down, along, False)
    return Method("columns first", cycles, program, None, f"{len(down)} + {len(along)} taps, {said(sums)}")


def fixed_columns(job: Job, machine: Machine) -> Method | str:
    """A column and a row of positive taps on uint8, products of 16 bits."""
    reason = _not_fixed(job, machine, rows=False)
    if reason:
        return reason
    kh, kw = job.kernel.size
    if kh == 1 or kw == 1 or kh > MOST_ROWS or job.options.offset:
        return f"it is for 2 to {MOST_ROWS} rows, two columns or more, and no offset"
    pairs = known(job) or _rank_one(job.kernel, FIXED_TOLERANCE)
    if pairs is None:
        return "its rows are not multiples of one"
    found = fixed_columns_of(*pairs[0], TIE * 63 / 64)
    if found is None:
        return "products of 16 bits would round differently"
    sums = Sums("i16", True, job.kernel.parts, Finish(1.0, float(found.add)), False)
    program, cycles = _columns_program(job, machine, sums, found.down, found.along, True)
    detail = f"{len(found.down)} + {len(found.along)} products of 16 bits, at most {found.error:.4f} off"
    return Method("columns first in fixed point", cycles, program, None, detail)


def _columns_program(
    job: Job,
    machine: Machine,
    sums: Sums,
    down: tuple[PassTap, ...],
    along: tuple[PassTap, ...],
    fixed: bool,
) -> tuple[Columns, float]:
    """The program for these taps, and its cost without the products."""
    (dy, dx), c = job.options.dilation, job.channels

    def moved(taps: tuple[PassTap, ...], step: int) -> tuple[PassTap, ...]:
        return tuple((i * step, j if j < 0 else j * step, t) for i, j, t in taps)

    program = Columns(
        kind_of(job.dtype), kind_of(job.out_dtype), sums.work, sums.unsigned, c, job.extent[0],
        (job.extent[1] - 1) * c, moved(down, dy), moved(along, dx * c), sums.finish, fixed, job.fill,
    )  # fmt: skip
    cost = costs_of(machine)
    each = cost.fixed_product if fixed else cost.column_tap
    return program, columns_cycles(len(down) + len(along), each, cost) / lanes_of(sums, machine)


def box(job: Job, machine: Machine) -> Method | str:
    """Running sums, for a kernel whose taps are all equal."""
    kh, kw = job.kernel.size
    tap = one_tap(job.kernel)
    if tap is None:
        return "its taps are not all equal"
    if job.options.stride != (1, 1) or job.options.dilation != (1, 1):
        return "a running sum supports no stride and no dilation"
    if job.dtype.kind == "f":
        return "floats subtracted from a running sum leave rounding errors of large pixels in it"
    top = source_top(job) * kh * kw
    work = KINDS["i32" if top < 2**31 else "u32" if top < 2**32 else "i64"]
    lanes = machine.lanes(work.bytes)
    if job.channels > lanes:
        return f"{job.channels} channels are more than the {lanes} sums of a register"
    if top >= 2**53:
        return "the sums overflow 53 bits"
    box = Box(
        kind_of(job.dtype),
        kind_of(job.out_dtype),
        work.name,
        job.channels,
        kh,
        kw,
        tap,
        job.options.offset,
        job.fill,
    )
    steps = (-(-lanes // job.channels) - 1).bit_length()
    cost = costs_of(machine)
    cycles = (cost.box + cost.box_step * steps) / lanes * cost.uneven_box
    return Method(
        "running sums",
        cycles,
        box,
        None,
        f"{kh}x{kw} box in {8 * work.bytes}-bit integers (exact), at a cost that does not depend on its size",
    )


def doubling(job: Job, machine: Machine) -> Method | str:
    """Sums of 1, 2, 4 … pixels, for a kernel on floats whose taps are all equal."""
    kh, kw = job.kernel.size
    tap = one_tap(job.kernel)
    if tap is None:
        return "its taps are not all equal"
    if job.options.stride != (1, 1):
        return "it takes no stride"
    if job.dtype.kind != "f":
        return "integers have running sums, which are exact"
    sums = sums_of(job)
    (dy, dx), c = job.options.dilation, job.channels
    finish = Finish(tap, job.options.offset)
    program = Doubling(kind_of(job.dtype), kind_of(job.out_dtype), sums.work, c, kh, kw, dy, dx * c, finish, job.fill)
    if kh >= LEAST_BLOCK and dy == 1 and not job.anywhere:
        program = replace(program, blocks=True)
    if program.scratch_bytes(machine, 0) > MOST_TILE:
        return f"its tile would need {program.scratch_bytes(machine, 0) >> 20} MiB"
    cost = costs_of(machine)
    along, down = ((2 * len(doublings(k)) + sum(more for _, more in doublings(k))) for k in (kw, kh))
    cycles = (along + 1.25 * (BLOCK_LOADS if program.blocks else down)) * cost.doubling + cost.doublings
    columns = f"blocks of {kh} rows" if program.blocks else f"{len(doublings(kh))} doublings"
    detail = f"{kh}x{kw} box by {len(doublings(kw))} doublings along the rows and {columns}, {said(sums)}"
    return Method("doubling", cycles / lanes_of(sums, machine), program, None, detail)


def looped(job: Job, machine: Machine) -> Method | str:
    """Taps read from memory, for large kernels that are not separable."""
    if job.kernel.combine != "linear":
        return "two parts are joined"
    sums = sums_of(job)
    if sums.work == "i16":
        sums = Sums("f32", False, sums.parts, Finish(sums.finish.scale, sums.finish.offset), True)
    matrix = sums.parts[0]
    kh, kw = matrix.shape
    (dy, dx), stride = job.options.dilation, job.options.stride
    lanes, cost = lanes_of(sums, machine), costs_of(machine)
    detail = f"{kh}x{kw} taps read in a loop, {said(sums)}"
    if stride == (1, 1) and (dy == 1 or kh == 1):
        apart = kh * kw > UNROLLED
        found = dense_loop(job, sums.work, "dense rows" if apart else "dense", matrix, machine, sums.finish)
        cycles = dense_cycles(kh, kw, cost) / lanes
        return Method("looped", cycles, *found, detail)
    dtype = np.float32 if sums.work == "f32" else np.float64
    taps = np.ascontiguousarray(matrix, dtype)
    program = program_of(
        job, sums, machine, (), (), rows=1, vectors=4, dense=(kh, kw, dy, dx * job.channels), finishes=(sums.finish,)
    )
    cycles = looped_cycles(kh, kw, cost) / lanes
    return Method("looped", cycles, program, taps, detail)


def passes(job: Job, machine: Machine) -> Method | str:
    """A column and a row of any size, their taps read from memory."""
    if job.kernel.combine != "linear":
        return "two parts are joined"
    if job.options.stride != (1, 1) or job.options.dilation[0] != 1:
        return "it takes no stride, and no dilation down the columns"
    kh, kw = job.kernel.size
    if kh == 1 or kw == 1:
        return "one row or one column"
    sums = sums_of(job)
    if sums.work == "i16":
        return "not needed: 16-bit integers hold the sums exactly"
    if sums.whole:
        one = whole_factors(sums.parts[0])
        pairs = [one] if one else None
    else:
        large = kh * kw > UNROLLED**2
        pairs = (
            known(job)
            or (_nothing(job) if job.kernel.pair else None)
            or (None if large else _pair(job, sums, sums.parts[0]))
        )
    if pairs is None:
        return "its rows are not multiples of one"
    ((column, row),) = pairs
    if (
        job.dtype.kind == "f"
        and column.any()
        and not column[np.flatnonzero(column)[0] : np.flatnonzero(column)[-1] + 1].all()
    ):
        return "a tap of its column is 0, which would turn an infinite pixel into NaN"
    found = row_passes(job, sums.work, column, row, machine, sums.finish)
    cycles = passes_cycles(kh, int(np.count_nonzero(row)), costs_of(machine)) / lanes_of(sums, machine)
    return Method("passes", cycles, *found, f"{kh} + {kw} taps read in loops, {said(sums)}")


METHODS: tuple[tuple[str, Callable[[Job, Machine], Method | str]], ...] = (
    ("direct", direct),
    ("straight", straight),
    ("pairs", pairs),
    ("separable", separable),
    ("separable pairs", separable_pairs),
    ("columns first", columns),
    ("columns first in fixed point", fixed_columns),
    ("running sums", box),
    ("doubling", doubling),
    ("fourier", fourier),
    ("passes", passes),
    ("looped", looped),
)
