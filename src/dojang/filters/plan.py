"""The only place that chooses how a picture is filtered, and says why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dojang.engine.machine import Machine
from dojang.filters.codegen_box import Box
from dojang.filters.codegen_fourier import Fourier, radices, tables
from dojang.filters.codegen_pairs import FixedTap, Pairs
from dojang.filters.factor import factors, rounded_division, whole_factors, whole_form
from dojang.filters.fixed import TOP, fixed, fixed_passes
from dojang.filters.job import Job
from dojang.filters.kernels import Kernel
from dojang.filters.named import Taps
from dojang.filters.program import Finish, Program, RowTap, Tap

TIE = 1 / 64  # a result may be rounded the other way only this near to a half
UNROLLED = 144  # taps above which a kernel is a loop over taps in memory: compiling grows with every tap written out

# Cycles per vector, measured with single loops on a Zen 5 core at 512-bit vectors, November 2026.
TAP, LOOPED_TAP, LOAD, STORE = 0.55, 0.62, 2.0, 4.0
# How many times more with 16 registers (Zen 3 at 256 bits, November 2026): a tap, transforms up to 64 rows and longer
# ones, running sums that do not lie in one register, a tile that leaves level 2 cache no room.
SIXTEEN, SIXTEEN_SHORT, SIXTEEN_LONG, SIXTEEN_BOX, SIXTEEN_TILE = 1.2, 1.9, 1.4, 1.5, 1.6
SIXTEEN_EQUAL_TAP = 0.62  # in place of PASS_TAP, where all taps of a pass are one number
PASS_TAP, PASS, PASSES = 0.95, 2.0, 3.0  # each tap, each pair of passes, all of them
BOX, BOX_STEP = 6.0, 2.0  # the sums, each step of the prefix sum
BUTTERFLY2, BUTTERFLY4 = 6.0, 14.0
PAIR_TAP, PAIR, PAIR_PASS_TAP, PAIR_PASSES = 0.73, 3.0, 0.95, 3.6  # pairs of taps, measured on a Zen 3 core


@dataclass(frozen=True, slots=True)
class Way:
    """One way to do a job: its program (or box, or Fourier tile) and its predicted cycles per element."""

    name: str
    cycles: float
    program: Program | Box | Fourier | Pairs | None = None
    taps: NDArray | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """The way chosen for kernels of one geometry, and the others with the reason against them."""

    jobs: tuple[Job, ...]
    way: Way
    refused: tuple[tuple[str, str], ...]
    instead: Way | None = None  # for pictures that the way cannot do: running sums with a NaN in them

    @property
    def grid(self) -> int:
        """Result rows come out the same, to the bit, when they are done in parts that begin at multiples of this."""
        return self.way.program.grid if self.way.program is not None else 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "kernel": [job.kernel.name for job in self.jobs],
            "size": list(self.jobs[0].kernel.size),
            "algorithm": self.way.name,
            "detail": self.way.detail,
            "cycles_per_element": self.way.cycles,
            "refused": [{"algorithm": name, "reason": reason} for name, reason in self.refused],
        }

    def explain(self) -> str:
        """A few lines for people."""
        job = self.jobs[0]
        names = ", ".join(j.kernel.name for j in self.jobs)
        kh, kw = job.kernel.size
        lines = [f"{names}: {kh}x{kw} taps on {job.channels} channels of {job.dtype}, result {job.out_dtype}"]
        lines.append(f"  {self.way.name}: {self.way.detail} ({self.way.cycles:.2f} cycles per element predicted)")
        lines += [f"  not {name}: {reason}" for name, reason in self.refused]
        return "\n".join(lines)


def make_plan(jobs: Sequence[Job], machine: Machine) -> list[Plan]:
    """Plans that together do the jobs, which differ in their kernels only. A small bank is one program.

    A plan does not depend on the picture's height and width, so that tiles of a picture give what the whole gives.
    """
    key = tuple(_without_size(job) for job in jobs)
    return list(_make_plan(key, machine))


def _without_size(job: Job) -> Job:
    """The job on a picture of one fixed size: the part of it that a plan may depend on."""
    return replace(job, height=1 << 40, width=1 << 40)


@lru_cache(maxsize=256)
def _make_plan(jobs: tuple[Job, ...], machine: Machine) -> tuple[Plan, ...]:
    if len(jobs) > 1:
        together = _bank(jobs, machine)
        if together is not None:
            return (together,)
    return tuple(_one(job, machine) for job in jobs)


def _one(job: Job, machine: Machine) -> Plan:
    """The cheapest of the ways that are possible."""
    ways: list[Way] = []
    refused: list[tuple[str, str]] = []
    for name, find in (
        ("direct", _direct),
        ("pairs", _pairs),
        ("separable", _separable),
        ("separable pairs", _separable_pairs),
        ("running sums", _box),
        ("fourier", _fourier),
        ("looped", _looped),
    ):
        found = find(job, machine)
        if isinstance(found, str):
            refused.append((name, found))
        else:
            ways.append(found)
    ways.sort(key=lambda w: w.cycles)
    best = ways[0]
    refused += [(w.name, f"{w.cycles:.2f} cycles per element predicted; {w.detail}") for w in ways[1:]]
    instead = next((w for w in ways if not isinstance(w.program, (Box, Fourier))), None)
    return Plan((job,), best, tuple(refused), instead)


@dataclass(frozen=True, slots=True)
class _Sums:
    """How taps are summed: element type, the matrices in it, and what is done to a sum."""

    work: str
    unsigned: bool
    parts: tuple[Taps, ...]
    finish: Finish
    whole: bool


def _source_top(job: Job) -> float:
    return float(np.iinfo(job.dtype).max) if job.dtype.kind == "u" else 1.0


def _sums(job: Job) -> _Sums:
    """16-bit integers where no result overflows them, float32 where it is exact or exact but for ties, else float64."""
    parts, offset = job.kernel.parts, job.options.offset
    top, total = _source_top(job), max(np.abs(p).sum() for p in parts)
    plain = Finish(1.0, offset)
    if job.out_dtype == np.float64 or job.dtype == np.float64:
        return _Sums("f64", False, parts, plain, False)
    whole = whole_form(parts) if job.dtype.kind == "u" else None
    if whole is not None:
        scaled = Finish(whole.unit, offset)
        if job.dtype == np.uint8:
            found = _sixteen_bits(whole.parts, whole.unit, offset)
            if found is not None:
                return found
        if top * max(np.abs(p).sum() for p in whole.parts) < 2**24:
            return _Sums("f32", False, whole.parts, scaled, True)
    count = max(np.count_nonzero(p) for p in parts)
    # About three standard deviations of the error of sums that only grow; loops add up each kernel row by itself.
    steps = sqrt(count) + 2 if count <= UNROLLED else sqrt(job.kernel.size[0]) + 4
    exact = job.out_dtype.kind == "f" or top * total * 2**-24 * steps <= TIE
    if exact and max(np.abs(p).max() for p in parts) < 1e38:
        return _Sums("f32", False, parts, plain, False)
    return _Sums("f64", False, parts, plain, False)


def _sixteen_bits(parts: tuple[Taps, ...], unit: float, offset: float) -> _Sums | None:
    """Sums of uint8 pixels in 16 bits. Only the final sum must fit: what overflows on the way wraps, and comes back."""
    high = max(255 * p.clip(0).sum() for p in parts)
    low = min(255 * p.clip(None, 0).sum() for p in parts)
    unsigned = low == 0
    if not (high <= 65535 if unsigned else (high <= 32767 and low >= -32768)):
        return None
    finish = Finish(unit, offset)
    near = round(1 / unit) if unit <= 1 else 0
    if unit != 1 and offset == 0 and len(parts) == 1 and near and unit == 1 / near:
        room = (65535 if unsigned else 32767) - high
        if near & (near - 1) == 0 and near // 2 <= room:
            finish = Finish(unit, 0.0, shift=near.bit_length() - 1)
        elif unsigned:
            finish = Finish(unit, 0.0, magic=rounded_division(near, int(high)))
    return _Sums("i16", unsigned, parts, finish, True)


def _lanes(sums: _Sums, machine: Machine) -> int:
    return machine.lanes({"i16": 2, "f32": 4, "f64": 8}[sums.work])


def _program(job: Job, sums: _Sums, machine: Machine, segments: tuple, outputs: tuple, **more: Any) -> Program:
    rows = more.pop("rows", 4 if job.extent[0] > 1 else 1)
    vectors = more.pop("vectors", 2)
    work = sum(len(part) for parts in outputs for part in parts)
    while work * rows * vectors > 1200 and vectors > 1:
        vectors //= 2
    while work * rows * vectors > 1600 and rows > 1:
        rows //= 2
    return Program(
        source=_kind(job.dtype),
        target=_kind(job.out_dtype),
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


def _kind(dtype: np.dtype) -> str:
    return {"uint8": "u8", "uint16": "u16", "float32": "f32", "float64": "f64"}[dtype.name]


def _tap_list(job: Job, matrix: Taps, segment: int = 0) -> tuple[Tap, ...]:
    (dy, dx), c = job.options.dilation, job.channels
    return tuple((int(i) * dy, segment, int(j) * dx * c, float(matrix[i, j])) for i, j in np.argwhere(matrix))


def _direct(job: Job, machine: Machine) -> Way | str:
    sums = _sums(job)
    count = sum(int(np.count_nonzero(p)) for p in sums.parts)
    if count > UNROLLED:
        return f"{count} taps are more than the {UNROLLED} that are written out; compiling would take too long"
    # With 16 registers taps do not stay in them: each is loaded once for four vectors instead of two.
    shape = {"rows": 2, "vectors": 4} if machine.registers < 32 and sums.work != "i16" and job.extent[0] > 1 else {}
    program = _program(job, sums, machine, (), (tuple(_tap_list(job, p) for p in sums.parts),), **shape)
    cycles = (count * TAP * _crowded(machine, SIXTEEN) + LOAD + STORE) / _lanes(sums, machine)
    zeros = sum(p.size for p in sums.parts) - count
    return Way("direct", cycles, program, None, f"{count} taps as constants, {zeros} zeros skipped, {_in(sums)}")


def _crowded(machine: Machine, times: float) -> float:
    return times if machine.registers < 32 else 1.0


def _in(sums: _Sums) -> str:
    if sums.work == "i16":
        how = "halved by shifts" if sums.finish.shift else "divided by a multiplication" if sums.finish.magic else ""
        return "16-bit integers" + (f", {how}" if how else "")
    return {"f32": "float32", "f64": "float64"}[sums.work] + (" on whole numbers (exact)" if sums.whole else "")


def _tolerance(job: Job, sums: _Sums, matrix: Taps) -> float:
    """What the factors may leave of a matrix: far below a tie for integers, below the rounding of floats."""
    if job.out_dtype.kind == "u":
        return TIE / 4 / _source_top(job)
    return float(np.abs(matrix).sum()) * (2.0**-24 if sums.work == "f32" else 2.0**-51)


def _separable(job: Job, machine: Machine) -> Way | str:
    sums = _sums(job)
    kh, kw = job.kernel.size
    if kh == 1 or kw == 1:
        return "one row or one column"
    most = max(1, kh * kw // (kh + kw))
    found: list[list[tuple[Taps, Taps]]] = []
    for matrix in sums.parts:
        if sums.work == "i16":
            one = whole_factors(matrix)
            pairs = [one] if one else None
        else:
            one = whole_factors(matrix) if sums.whole else None
            pairs = [one] if one else factors(matrix, _tolerance(job, sums, matrix), most)
        if pairs is None:
            return f"its rows are not multiples of one{'' if sums.work == 'i16' else f', nor sums of {most} such'}"
        if sums.work == "f32" and sum(np.abs(c).sum() * np.abs(r).sum() for c, r in pairs) > 8 * np.abs(matrix).sum():
            return "its factors cancel: float32 would lose digits"
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
        return f"{count} taps in {len(segments)} pairs of passes are too many to be written out"
    program = _program(job, sums, machine, tuple(segments), (tuple(parts),))
    lanes = _lanes(sums, machine)
    pass_tap = PASS_TAP
    if machine.registers < 32:
        equal = all(len({abs(t) for _, t in s}) == 1 for s in segments) and len({abs(t[3]) for t in parts[0]}) == 1
        pass_tap = SIXTEEN_EQUAL_TAP if equal else PASS_TAP
        least = max(512, 4 * program.reach) * len(segments) * program.work_kind.bytes
        if program.tile_rows * least > 0.45 * machine.l2:
            pass_tap *= SIXTEEN_TILE
    cycles = (count * pass_tap + PASSES + PASS * len(segments)) / lanes
    detail = f"{len(segments)} pair(s) of passes, {count} taps, {_in(sums)}"
    return Way("separable", cycles, program, None, detail)


def _not_fixed(job: Job, machine: Machine) -> str | None:
    """Why uint8 sums in fixed point are not for this job."""
    if machine.isa not in ("avx2", "avx512"):
        return "its instruction is one of x86 with AVX2"
    if job.dtype != np.uint8 or job.out_dtype != np.uint8:
        return "fixed point is for uint8"
    if job.kernel.combine != "linear":
        return "two parts are joined"
    if job.options.stride != (1, 1) or job.options.dilation[0] != 1:
        return "rows in pairs take no stride and no dilation"
    return "16-bit sums are exact" if _sums(job).work == "i16" else None


def _pieces(taps: Taps, job: Job) -> tuple[FixedTap, ...]:
    """The taps, those above 16 bits in several pieces."""
    step = job.options.dilation[1] * job.channels
    pieces: list[FixedTap] = []
    for i, j in np.argwhere(taps):
        tap = int(taps[i, j])
        count = -(-abs(tap) // TOP)
        pieces += [(int(i), int(j) * step, tap // count + (k < tap % count)) for k in range(count)]
    return tuple(pieces)


def _pairs(job: Job, machine: Machine) -> Way | str:
    """All taps at once in fixed point."""
    reason = _not_fixed(job, machine)
    if reason:
        return reason
    matrix = job.kernel.parts[0]
    found = fixed(matrix, job.options.offset, TIE)
    if found is None:
        return "32 bits do not hold its sums"
    taps = _pieces(found.taps, job)
    if len(taps) > UNROLLED:
        return f"{len(taps)} taps are more than the {UNROLLED} that are written out; compiling would take too long"
    columns = np.count_nonzero(found.taps, axis=0)
    count = int(np.sum(columns // 2 + 1)) + (len(taps) - np.count_nonzero(found.taps)) / 2
    program = Pairs(
        job.channels, job.extent[0], (job.extent[1] - 1) * job.channels, taps, (), 0, 0, 0, found.shift, found.add,
        int(job.fill), 4 if len(taps) < 100 else 2, 2,
    )  # fmt: skip
    cycles = (count * PAIR_TAP + PAIR) / machine.lanes(4)
    detail = f"{len(taps)} taps in 16 bits, two rows at a time, at most {found.error:.4f} off"
    return Way("pairs", cycles, program, None, detail)


def _separable_pairs(job: Job, machine: Machine) -> Way | str:
    """A column and a row in fixed point."""
    reason = _not_fixed(job, machine)
    if reason:
        return reason
    kh, kw = job.kernel.size
    if kh == 1 or kw == 1:
        return "one row or one column"
    pairs = factors(job.kernel.parts[0], TIE / 64 / 255, 1)
    if pairs is None:
        return "its rows are not multiples of one"
    found = fixed_passes(*pairs[0], job.options.offset, TIE * 63 / 64)
    if found is None:
        return "16 bits between the passes would round differently"
    taps = tuple((int(i), 0, int(found.column[i])) for i in np.flatnonzero(found.column))
    if kh + kw > UNROLLED:
        return f"{kh + kw} taps are more than the {UNROLLED} that are written out"
    step = job.options.dilation[1] * job.channels
    program = Pairs(
        job.channels, kh, (kw - 1) * step, taps, tuple(int(t) for t in found.row), step, found.first, found.middle,
        found.shift, found.add, int(job.fill), 4, 1,
    )  # fmt: skip
    cycles = ((kh // 2 + kw // 2 + 2) * PAIR_PASS_TAP + PAIR_PASSES) / machine.lanes(4)
    detail = f"a column and a row of {kh} + {kw} taps in 16 bits, at most {found.error:.4f} off"
    return Way("separable pairs", cycles, program, None, detail)


def _box(job: Job, machine: Machine) -> Way | str:
    """Running sums, for a kernel whose taps are all one number."""
    matrix = job.kernel.parts[0]
    kh, kw = matrix.shape
    if job.kernel.combine != "linear" or (matrix != matrix[0, 0]).any() or matrix.size == 1:
        return "its taps are not all one number"
    if job.options.stride != (1, 1) or job.options.dilation != (1, 1):
        return "a running sum takes no stride and no dilation"
    floats = job.dtype.kind == "f"
    if floats and job.anywhere:
        return "float sums would depend on where a tile begins"
    lanes = machine.lanes(8 if floats else 4)
    if job.channels > lanes:
        return f"{job.channels} channels are more than the {lanes} sums of a register"
    if not floats and _source_top(job) * kh * kw >= 2**31:
        return "the sums overflow 32 bits"
    box = Box(
        _kind(job.dtype),
        _kind(job.out_dtype),
        job.channels,
        kh,
        kw,
        float(matrix[0, 0]),
        job.options.offset,
        job.fill,
    )
    sums = "float64" if floats else "32-bit integers (exact)"
    steps = (-(-lanes // job.channels) - 1).bit_length()
    plain = floats and lanes % job.channels == 0
    return Way(
        "running sums",
        (BOX + BOX_STEP * steps) / lanes * (1.0 if plain else _crowded(machine, SIXTEEN_BOX)),
        box,
        None,
        f"{kh}x{kw} box in {sums}, at a cost free of its size",
    )


def _fourier(job: Job, machine: Machine) -> Way | str:
    """Transforms down the columns, taps along the rows; the length that is cheapest for each result row."""
    if job.kernel.combine != "linear":
        return "two parts are joined"
    if job.options.stride != (1, 1):
        return "a transform makes every row; a stride drops most of them"
    if job.anywhere:
        return "its rounding would depend on where a tile begins"
    sums = _sums(job)
    if sums.work == "f64":
        return "float64 is needed"
    matrix, finish = sums.parts[0], Finish(sums.finish.scale, sums.finish.offset)
    noise = 2.0**-24 * 16 * _source_top(job) * float(np.abs(matrix).sum()) * abs(finish.scale)
    if job.out_dtype.kind == "u" and noise > TIE:
        return "float32 transforms would round differently"
    kw, extent = matrix.shape[1], job.extent[0]
    spread = np.zeros((extent, kw))
    spread[:: job.options.dilation[0]] = matrix
    step = job.options.dilation[1] * job.channels
    best: tuple[float, Fourier] | None = None
    for length in (32, 64, 128, 256):
        if extent > length * 3 // 4:
            continue
        half = 256 if length > 64 else 512
        program = Fourier(
            _kind(job.dtype), _kind(job.out_dtype), job.channels, extent, kw, step, length, half, finish, job.fill
        )
        cycles = _fourier_cycles(program, machine)
        if best is None or cycles < best[0]:
            best = (cycles, program)
    if best is None:
        return f"{extent} rows are more than its transforms are long"
    cycles, program = best
    detail = f"transforms of {program.length} rows, {kw} taps along the rows of their frequencies, float32"
    return Way("fourier", cycles, program, tables(spread, program.length), detail)


def _fourier_cycles(program: Fourier, machine: Machine) -> float:
    """Predicted cycles per element, from those of a butterfly and of a tap, as measured (see TAP)."""
    n, half, columns = program.length, program.half, program.columns(machine)
    lanes = machine.lanes(4)
    transform = sum(n / r * (BUTTERFLY4 if r == 4 else BUTTERFLY2) for r in radices(n))
    taps = n * half / lanes * program.kw * 4 * TAP
    moves = 2 * n * columns / lanes * LOAD + 2 * program.grid * half / lanes * STORE
    cycles = (taps + transform * (columns + half) / lanes + moves) / (program.grid * 2 * half)
    return cycles * _crowded(machine, SIXTEEN_SHORT if n <= 64 else SIXTEEN_LONG)


def _looped(job: Job, machine: Machine) -> Way | str:
    """Every tap from memory: for large kernels that are not separable."""
    if job.kernel.combine != "linear":
        return "two parts are joined"
    sums = _sums(job)
    if sums.work == "i16":
        sums = _Sums("f32", False, sums.parts, Finish(sums.finish.scale, sums.finish.offset), True)
    matrix = sums.parts[0]
    kh, kw = matrix.shape
    (dy, dx), sy = job.options.dilation, job.options.stride[0]
    rows = 4 if dy == 1 and sy == 1 and kh > 1 else 1
    dtype = np.float32 if sums.work == "f32" else np.float64
    taps = np.ascontiguousarray(matrix, dtype)
    program = _program(
        job, sums, machine, (), (), rows=rows, vectors=4, dense=(kh, kw, dy, dx * job.channels), finishes=(sums.finish,)
    )
    lanes = _lanes(sums, machine)
    cycles = ((kh + rows - 1) * kw * LOOPED_TAP + LOAD + STORE) / lanes
    return Way("looped", cycles, program, taps, f"{kh}x{kw} taps read in a loop, {_in(sums)}")


def _bank(jobs: tuple[Job, ...], machine: Machine) -> Plan | None:
    """One program for small kernels of one size and one way of summing, which then load each pixel once."""
    if any(job.kernel.size != jobs[0].kernel.size or job.kernel.anchor != jobs[0].kernel.anchor for job in jobs):
        grown = _grown(jobs)
        if grown is None:
            return None
        jobs = grown
    sums = [_sums(job) for job in jobs]
    same = len({(s.work, s.unsigned) for s in sums}) == 1
    if not same:  # float32 holds what 16 bits hold
        if {s.work for s in sums} - {"i16", "f32"}:
            return None
        sums = [_Sums("f32", False, s.parts, Finish(s.finish.scale, s.finish.offset), s.whole) for s in sums]
    outputs = tuple(tuple(_tap_list(job, p) for p in s.parts) for job, s in zip(jobs, sums, strict=True))
    count = sum(len(p) for parts in outputs for p in parts)
    if count > 3 * UNROLLED:
        return None
    program = _program(jobs[0], sums[0], machine, (), outputs, finishes=tuple(s.finish for s in sums))
    lanes = _lanes(sums[0], machine)
    together = (count * TAP + LOAD + STORE * len(jobs)) / lanes
    apart = sum(_one(job, machine).way.cycles for job in jobs)
    if together > apart:
        return None
    detail = f"one pass over the picture for {len(jobs)} kernels, {count} taps as constants, {_in(sums[0])}"
    return Plan(jobs, Way("bank", together, program, None, detail), (("apart", f"{apart:.2f} cycles per element"),))


def _grown(jobs: tuple[Job, ...]) -> tuple[Job, ...] | None:
    """Kernels of unlike sizes with rows and columns of zeros around, so that all have one size and anchor."""
    if jobs[0].options.border == "valid":
        return None
    before = [max(j.kernel.anchor[a] for j in jobs) for a in (0, 1)]
    after = [max(j.kernel.size[a] - 1 - j.kernel.anchor[a] for j in jobs) for a in (0, 1)]
    grown = []
    for job in jobs:
        (ay, ax), (kh, kw) = job.kernel.anchor, job.kernel.size
        parts = []
        for part in job.kernel.parts:
            wide = np.zeros((before[0] + 1 + after[0], before[1] + 1 + after[1]))
            wide[before[0] - ay : before[0] - ay + kh, before[1] - ax : before[1] - ax + kw] = part
            parts.append(wide)
        kernel = Kernel(job.kernel.name, tuple(parts), job.kernel.combine, (before[0], before[1]), job.kernel.source)
        grown.append(job.like(kernel))
    return tuple(grown)
