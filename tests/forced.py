"""Random layers that every algorithm computes which does not refuse, with all arrays between unmapped pages.

A case is a number. From it follow the layer (padding per side, ends only, strides, dilations, groups, channels 1 to 70,
images of 1 to 40 pixels a side, batch 0 to 3, 1 to 3 dimensions, ordinary or transposed; or a pooling, or layers that
one kernel computes in a row), what surrounds it (bias, residual, activation, gaps between pixels), and the figures of
the machine by which algorithms cut their work. Every algorithm that takes the layer is forced, for each instruction
set that this processor has, twice: with arrays that end, and with arrays that begin, where memory does. The oracle is
PyTorch in float64.

A stray load or store ends the process. So the cases run in a process of their own, which names each before it begins:

    python tests/forced.py CASE                # one case, in this process
    python tests/forced.py --work FIRST STOP   # what `supervise` starts

`bench/forced.py` is the long run.
"""

from __future__ import annotations

import ctypes
import json
import random
import selectors
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import torch
import torch.nn.functional as F

from dojang.arith.conv import Conv
from dojang.arith.window import out_size
from dojang.base.errors import ShapeError
from dojang.engine.kernels import bands
from dojang.engine.kernels import task as t
from dojang.engine.kernels.activations import Activation
from dojang.engine.kernels.bands import BandTask
from dojang.engine.kernels.conv import ALGORITHMS, amx, direct, fallback, fourier, streamed, winograd
from dojang.engine.kernels.other import pool
from dojang.engine.kernels.other.pool import PoolTask
from dojang.engine.kernels.task import Code, Offer, Refusal, Sparse, Task
from dojang.native import jit
from dojang.native import peaks as peaks_module
from dojang.native.machine import Machine
from dojang.native.peaks import Peaks
from kernels import gaps, guarded, last

MOST_MACS = 6_000_000  # of a case, with all its images
SILENT_S = 180  # a case takes a second at most; a longer silence is a kernel that does not end
FILL = 7.0
APPROXIMATE = (winograd, fourier)

ACTIVATIONS: dict[str, tuple[tuple[float, float], Callable[[np.ndarray], np.ndarray]]] = {
    "relu": ((0, 0), lambda v: np.maximum(v, 0)),
    "clip": ((-1.5, 6), lambda v: np.clip(v, -1.5, 6)),
    "leaky_relu": ((0.25, 0), lambda v: np.where(v < 0, v * 0.25, v)),
    "hard_swish": ((1 / 6, 0.5), lambda v: v * np.clip(v / 6 + 0.5, 0, 1)),
    "silu": ((0, 0), lambda v: v / (1 + np.exp(-v))),
    "tanh": ((0, 0), np.tanh),
    "gelu": ((0, 0), lambda v: F.gelu(torch.from_numpy(v)).numpy()),
}
EXACT = ("relu", "clip", "leaky_relu")  # of whole numbers


@dataclass(frozen=True)
class Case:
    """One random layer. `whole`: numbers are small integers, and sums therefore equal. `bad`: one pixel's
    number, which must not be felt by outputs that do not read it.
    """

    number: int
    task: Task | PoolTask | BandTask
    n: int
    whole: bool
    bad: float | None
    machine: dict[str, Any]
    peaks: Peaks
    limits: dict[str, int]


# --------------------------------------------------------------------------------------------------- drawing


def draw(number: int) -> Case:
    """The case of a number."""
    rng = random.Random(number)
    kind = rng.choice(("conv",) * 8 + ("pool", "bands"))
    task: Any = None
    while task is None:
        task = {"conv": draw_conv, "pool": draw_pool, "bands": draw_bands}[kind](rng)
    machine = {
        "cores": rng.choice((1, 2, 2, 4, 64)),
        "l1": rng.choice((32 << 10, 48 << 10)),
        "l2": rng.choice((256 << 10, 1 << 20, 2 << 20)),
        "l3": rng.choice((2 << 20, 32 << 20)),
    }
    peaks = Peaks(rng.choice((20.0, 90.0, 250.0)), rng.choice((3.0, 12.0, 40.0)), rng.choice((10.0, 30.0, 100.0)))
    limits = {
        "winograd.MOST_TRANSFORMED": rng.choice((winograd.MOST_TRANSFORMED, winograd.MOST_TRANSFORMED, 0)),
        "amx.MOST_SPLIT": rng.choice((amx.MOST_SPLIT, 0)),
        "direct.UNIT_FLOPS": rng.choice((direct.UNIT_FLOPS, 1, 20_000)),
        "streamed.SUMS": rng.choice((streamed.SUMS, 1)),
    }
    n = rng.choice((0, 1, 1, 1, 2, 2, 3))
    bad = rng.choice((np.nan, np.inf, -np.inf, 1e6, -1e6)) if rng.random() < 0.15 else None
    return Case(number, task, n, rng.random() < 0.6, bad, machine, peaks, limits)


def sides(rng: random.Random, kernel: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Padding: none, alike, at the ends only, at the beginnings only, any, or far more than the kernel."""
    most = rng.choice((1, 3, 3, 8))
    ways: dict[str, Callable[[int], tuple[int, int]]] = {
        "none": lambda k: (0, 0),
        "same": lambda k: (k // 2, k // 2),
        "ends": lambda k: (0, rng.randint(0, most)),
        "beginnings": lambda k: (rng.randint(0, most), 0),
        "any": lambda k: (rng.randint(0, most), rng.randint(0, most)),
        "far": lambda k: (rng.choice((0, rng.randint(0, 30))), rng.choice((0, rng.randint(0, 30)))),
    }
    way = rng.choice(("none", "same", "same", "ends", "ends", "beginnings", "any", "any", "far"))
    return tuple(ways[way](k) for k in kernel)


def draw_image(rng: random.Random, rank: int) -> tuple[int, ...]:
    """Pixels a side, 1 to 40."""
    most = {1: 40, 2: 40, 3: 12}[rank]
    side = lambda: rng.choice((1, 2, 3, rng.randint(1, 9), rng.randint(1, most)))  # noqa: E731
    return (side(),) * rank if rng.random() < 0.3 else tuple(side() for _ in range(rank))


def draw_activation(rng: random.Random) -> Activation | None:
    name = rng.choice((None, None, None, "relu", "relu", *ACTIVATIONS))
    return None if name is None else Activation(name, *ACTIVATIONS[name][0])


def draw_conv(rng: random.Random) -> Task | None:
    """A convolution that fits, with what surrounds it; None where the drawn sizes do not."""
    rank = rng.choice((1, 2, 2, 2, 2, 3))
    kernel = rng.choice(((1,), (1,), (2,), (3,), (3,), (3,), (5,), (7,), (9,))) * rank
    if rng.random() < 0.4:
        kernel = tuple(rng.choice((1, 1, 2, 3, 3, 4, 5, 7, 15)) for _ in range(rank))
    channels = lambda: rng.choice((1, 2, 3, 8, 16, 32, 64, rng.randint(1, 70), rng.randint(1, 70)))  # noqa: E731
    how = rng.choice(("one", "one", "one", "depthwise", "narrow", "any", "square", "square", "dense"))
    groups, ic, oc = 1, channels(), channels()
    size = draw_image(rng, rank)
    if how == "depthwise":
        groups = ic = oc = channels()
        oc *= rng.choice((1, 1, 1, 2)) if oc <= 35 else 1
    elif how == "narrow":
        each = rng.choice((1, 2, 4, 8, 16))
        groups = rng.randint(2, max(2, 70 // each))
        ic, oc = groups * rng.choice((1, each)), groups * each
    elif how == "any":
        groups = rng.randint(2, 9)
        ic, oc = groups * rng.randint(1, 70 // groups), groups * rng.randint(1, 70 // groups)
    elif how == "square":  # what Winograd takes
        rank = rng.choice((1, 2, 2))
        kernel = rng.choice(((3, 3),) * 6 + ((5, 5), (1, 3), (3, 1), (1, 5), (5, 1)) if rank == 2 else ((3,), (5,)))
        size = draw_image(rng, rank)
        ic, oc = rng.choice((8, 32, 64, rng.randint(8, 70))), rng.choice((16, 32, 64, rng.randint(8, 70)))
    elif how == "dense":
        kernel, size = (1,) * rank, (1,) * rank
    plain = how in ("square", "dense") or rng.random() < 0.5
    stride = (1,) * rank if plain else tuple(rng.choice((1, 1, 2, 3, 4)) for _ in range(rank))
    dilation = (1,) * rank if plain or rng.random() < 0.5 else tuple(rng.choice((1, 2, 3)) for _ in range(rank))
    transposed = how not in ("square", "dense") and rng.random() < 0.2
    extra = tuple(rng.randint(0, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True)) if transposed else 0
    try:
        conv = Conv.of(ic, oc, size, kernel, stride, sides(rng, kernel), dilation, groups,
                       bias=rng.random() < 0.7, transposed=transposed, output_padding=extra)  # fmt: skip
    except ShapeError:
        return None
    if conv.macs > MOST_MACS or prod(conv.out_shape) > 200_000:
        return None
    gap = lambda: rng.choice((0, 0, 1, 3))  # noqa: E731
    residual = rng.random() < 0.25
    task = Task.of(conv, x_ld=ic + gap(), y_ld=oc + gap(), residual_ld=oc + gap() if residual and how != "dense" else 0,
                   activation=draw_activation(rng), kind="f64" if how != "square" and rng.random() < 0.25 else "f32",
                   resident_ratio=rng.choice((0.0, 0.0, 2.0)))  # fmt: skip
    if task.kind == "f64" and task.activation is not None and task.activation.name not in EXACT:
        task = replace(task, activation=None)
    if residual and rank == 2 and task.kind == "f32" and rng.random() < 0.5:
        some = rng.randint(1, oc)
        step = (rng.randint(1, 2), rng.randint(1, 2))
        size = tuple((o - 1) * s + 1 + rng.randint(0, s - 1) for o, s in zip(conv.out_size, step, strict=True))
        task = replace(task, sparse=Sparse(size, step, some, rng.randint(0, oc - some)), residual_ld=some)
    elif how == "square" and rng.random() < 0.5:
        halved = replace(task, halved=True, activation=rng.choice((None, Activation("relu"))), residual_ld=0)
        if isinstance(winograd.offer(halved, HOST), Offer) and min(conv.out_size) >= 2 and rank == 2:
            task = halved
    return task


def draw_pool(rng: random.Random) -> PoolTask | None:
    """A pooling: padding per side, ceil mode, dilation."""
    rank = rng.choice((1, 2, 2, 3))
    what, channels, size = rng.choice(("max", "avg")), rng.randint(1, 70), draw_image(rng, rank)
    kernel = tuple(rng.choice((1, 2, 2, 3, 3, 4, 5)) for _ in range(rank))
    stride = tuple(rng.choice((1, 1, 2, 2, 3, 4)) for _ in range(rank))
    dilation = tuple(rng.choice((1, 1, 2, 3)) if what == "max" else 1 for _ in range(rank))
    if rng.random() < 0.2:
        kernel, stride = size, size
        dilation = (1,) * rank
    padding, ceil = sides(rng, kernel), rng.random() < 0.3
    out = tuple(out_size(i, k, s, p, q, d, ceil)
                for i, k, s, (p, q), d in zip(size, kernel, stride, padding, dilation, strict=True))  # fmt: skip
    if min(out) < 1 or prod(out) * prod(kernel) * channels > MOST_MACS:
        return None
    gap = lambda: rng.choice((0, 0, 1, 3))  # noqa: E731
    return PoolTask(what, channels, size, kernel, stride, padding, dilation, out, channels + gap(), channels + gap(),
                    rng.random() < 0.5)  # fmt: skip


def draw_bands(rng: random.Random) -> BandTask | None:
    """A convolution, a depthwise convolution or pooling, a 1×1 convolution; the first or the last may be missing."""
    rank = rng.choice((1, 2, 2, 2))
    parts = rng.choice((("front", "back"), ("front",), ("back",)))
    ic, mid, oc = (rng.randint(1, 70) for _ in range(3))
    size, gap = draw_image(rng, rank), rng.choice((0, 0, 3))
    axis = lambda values: tuple(rng.choice(values) for _ in range(rank))  # noqa: E731
    try:
        front = None
        if "front" in parts:
            kernel = axis((1, 1, 3, 5))
            front = Task.of(Conv.of(ic, mid, size, kernel, axis((1, 1, 2)), sides(rng, kernel), axis((1, 1, 2))),
                            x_ld=ic + gap, activation=draw_activation(rng))  # fmt: skip
            size = front.conv.out_size
        kernel, stride = axis((1, 2, 3, 3, 5)), axis((1, 1, 2, 3))
        pads = sides(rng, kernel)
        middle: Task | PoolTask
        if rng.random() < 0.4:
            what = rng.choice(("max", "avg"))
            out = tuple(out_size(i, k, s, p, q, 1) for i, k, s, (p, q) in zip(size, kernel, stride, pads, strict=True))
            if min(out) < 1:
                return None
            middle = PoolTask(what, mid, size, kernel, stride, pads, (1,) * rank, out, mid, mid, rng.random() < 0.5)
        else:
            if mid < 2:
                return None
            conv = Conv.of(mid, mid, size, kernel, stride, pads, axis((1, 1, 2)), groups=mid)
            middle = Task.of(conv, activation=draw_activation(rng))
        if front is None:
            middle = replace(middle, x_ld=mid + gap)
        back = None
        end = rng.choice((0, 0, 2))
        if "back" in parts:
            out = middle.out_size if isinstance(middle, PoolTask) else middle.conv.out_size
            back = Task.of(Conv.of(mid, oc, out, 1), y_ld=oc + end, activation=draw_activation(rng),
                           residual_ld=oc if rng.random() < 0.3 else 0)  # fmt: skip
        else:
            middle = replace(middle, y_ld=mid + end)
    except ShapeError:
        return None
    task = BandTask(front, middle, back)
    macs = sum(s.conv.macs for s in task.stages if isinstance(s, Task))
    pixels = max(prod(s.conv.out_shape) for s in task.stages if isinstance(s, Task)) if macs else 0
    return None if macs > MOST_MACS or not macs or pixels > 200_000 else task


# --------------------------------------------------------------------------------------------------- the oracle


def tensor(a: np.ndarray) -> torch.Tensor:
    """Float64, contiguous."""
    return torch.from_numpy(np.ascontiguousarray(a, "f8"))


def conv_of(c: Conv, x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> np.ndarray:
    """PyTorch in float64. Padding is zeros, and no weight here is infinite, so that 0 · inf does not arise."""
    if not len(x):
        return np.zeros((0, *c.out_shape[1:]))
    bias = None if b is None else tensor(b)
    if c.transposed:
        function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[c.rank - 1]
        y = function(tensor(x), tensor(w), bias, c.stride, 0, c.output_padding, c.groups, c.dilation)
        crop = tuple(slice(p, p + o) for (p, _), o in zip(c.padding, c.out_size, strict=True))
        return y.numpy()[(..., *crop)]
    function = (F.conv1d, F.conv2d, F.conv3d)[c.rank - 1]
    wide = F.pad(tensor(x), [p for pair in reversed(c.padding) for p in pair])
    return function(wide, tensor(w), bias, c.stride, 0, c.dilation, c.groups).numpy()


def pool_of(p: PoolTask, x: np.ndarray) -> np.ndarray:
    """Window by window, by the definition: outside the image nothing is the largest, and an average divides by the
    places on the image, or, with `count_padding`, by those on image and padding.
    """
    out = np.empty((*x.shape[:2], *p.out_size))
    axes = tuple(range(2, x.ndim))
    for place in np.ndindex(*p.out_size):
        box, counted = [], 1
        for o, i, k, s, (before, after), d in zip(
            place, p.size, p.kernel, p.stride, p.padding, p.dilation, strict=True
        ):
            taps = [o * s - before + j * d for j in range(k)]
            box.append([tap for tap in taps if 0 <= tap < i])
            counted *= sum(tap < i + after for tap in taps) if p.count_padding else len(box[-1])
        seen = x[(slice(None), slice(None), *np.ix_(*box))]
        if p.what == "max":
            out[(..., *place)] = seen.max(axes, initial=-np.inf)
        else:
            out[(..., *place)] = seen.sum(axes) / max(1, counted)
    return out


def shortcut(source: np.ndarray, sparse: Sparse, channels: int, out: tuple[int, ...]) -> np.ndarray:
    """What a sparse residual adds."""
    total = np.zeros((len(source), channels, *out))
    picked = source[:, :, :: sparse.step[0], :: sparse.step[1]][:, :, : out[0], : out[1]]
    total[:, sparse.before : sparse.before + sparse.channels] = picked
    return total


def activated(v: np.ndarray, act: Activation | None) -> np.ndarray:
    """The activation, in float64."""
    with np.errstate(over="ignore", invalid="ignore"):
        return v if act is None else ACTIVATIONS[act.name][1](v)


@dataclass
class Stage:
    """What one layer gives: values, and how far a sum of float32 products may be off at each of them."""

    values: np.ndarray
    slack: np.ndarray


def stage_of(s: Task | PoolTask, before: Stage, arrays: Any, residual: np.ndarray | None) -> Stage:
    """A layer on the layer before it."""
    with np.errstate(invalid="ignore"):
        if isinstance(s, PoolTask):
            places = prod(s.kernel)
            value = pool_of(s, before.values)
            slack = pool_of(replace(s, what="max"), before.slack)
            if s.what == "avg":
                slack = slack + 2.0**-23 * places * pool_of(s, np.abs(before.values))
            return Stage(value, np.where(np.isfinite(slack), slack, 0))
        w, b = arrays
        c, eps = s.conv, 2.0**-24 if s.kind == "f32" else 2.0**-53
        value = conv_of(c, before.values, w, b)
        terms = c.macs // max(1, prod(c.size if c.transposed else c.out_size) * c.oc) + 4
        size = conv_of(c, np.abs(before.values), np.abs(w), None if b is None else np.abs(b))
        slack = conv_of(c, before.slack, np.abs(w), None) + eps * terms * size
        slack[~np.isfinite(slack)] = 0  # what is not finite is so exactly, and what an activation makes of it too
        if residual is not None:
            more = shortcut(residual, s.sparse, c.oc, c.out_size) if s.sparse else residual
            value, slack = value + more, slack + eps * 2 * (np.abs(more) + np.abs(value))
        if s.halved:
            box = (..., *(slice(0, o // 2 * 2) for o in c.out_size))
            value = F.max_pool2d(tensor(value[box]), 2).numpy() if len(value) else value[:, :, ::2, ::2]
            slack = F.max_pool2d(tensor(slack[box]), 2).numpy() if len(slack) else slack[:, :, ::2, ::2]
        act = s.activation
        rough = 0.0 if act is None or act.name in EXACT else 1e-5
        done = activated(value, act)
        return Stage(done, 1.2 * slack + rough * np.maximum(np.abs(done), 1) + eps * np.abs(done))


# --------------------------------------------------------------------------------------------------- running


HOST = Machine.host()


def machines(case: Case) -> list[Machine]:
    """Every instruction set of this processor, with matrix tiles too, and the caches and cores of the case."""
    order = ("avx512", "avx2", "generic")
    narrow = [HOST.restrict(isa) for isa in order[order.index(HOST.isa) :]] if HOST.isa in order else []
    found = [HOST, *narrow] if HOST.amx else narrow or [HOST]
    return [replace(m, **case.machine) for m in found]


def name_of(machine: Machine) -> str:
    """The instruction set in one word."""
    return "amx" if machine.amx else machine.isa


def native(text: str, machine: Machine, quick: bool) -> Callable[[int, int, int], None]:
    """The function of a kernel. `quick`: as it is written, without passes, in an eighth of the time."""
    if not quick:
        return jit.load(text, machine, keep=False, thorough=False).function("kernel", 3)
    target = llvm.Target.from_triple(machine.triple).create_target_machine(
        cpu=machine.cpu, features=machine.features, opt=0, reloc="pic", codemodel="default"
    )
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(text), target)
    engine.finalize_object()
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(engine.get_function_address("kernel"))
    function.engine = engine  # type: ignore[attr-defined]  # keeps the code in memory
    return function


@dataclass(frozen=True)
class Data:
    """Arrays of a case, channels first, and what comes out of them by the definition."""

    x: np.ndarray
    arrays: list[Any]
    residual: np.ndarray | None
    right: Stage


def stages_of(task: Task | PoolTask | BandTask) -> tuple[Task | PoolTask, ...]:
    """The layers one after the other."""
    return task.stages if isinstance(task, BandTask) else (task,)


def data_of(case: Case) -> Data:
    """Random arrays; at most one pixel is not a finite number."""
    rng = np.random.default_rng(case.number)
    stages = stages_of(case.task)
    first = stages[0]
    channels, size = (first.conv.ic, first.conv.size) if isinstance(first, Task) else (first.channels, first.size)

    def numbers(*shape: int) -> np.ndarray:
        return (rng.integers(-3, 4, shape) if case.whole else rng.standard_normal(shape)).astype("f4")

    x = numbers(case.n, channels, *size)
    if case.bad is not None and x.size:
        x.reshape(-1)[rng.integers(x.size)] = case.bad
    value, arrays, residual = Stage(x.astype("f8"), np.zeros(x.shape)), [], None
    for s in stages:
        given, mine = None, None
        if isinstance(s, Task):
            given = (numbers(*s.conv.weight_shape), numbers(s.conv.oc) if s.conv.bias else None)
            if case.bad is not None:  # 0 · inf would be of no use, and the oracle pads with zeros
                given = (np.where(given[0] == 0, np.float32(1), given[0]), given[1])
            if s.residual_ld:
                shape = (s.sparse.channels, *s.sparse.size) if s.sparse else (s.conv.oc, *s.conv.out_size)
                mine = residual = numbers(case.n, *shape)
        arrays.append(given)
        value = stage_of(s, value, given, mine)
    return Data(x, arrays, residual, value)


def strided(x: np.ndarray, ld: int, dtype: Any, fill: float) -> np.ndarray:
    """Channels last in rows of `ld`, flat; after the last channel nothing follows, and gaps are not to be read."""
    rows = gaps(last(x.astype(dtype)), ld, fill).reshape(-1)
    return rows[: rows.size - (ld - x.shape[1])] if rows.size else rows


def run(case: Case, algorithm: ModuleType, task: Any, machine: Machine, data: Data, quick: bool) -> list[np.ndarray]:
    """What the algorithm writes, (n, *places, y_ld), with arrays at the end and at the beginning of memory."""
    code: Code = algorithm.emit(task, machine)
    first, final = stages_of(task)[0], stages_of(task)[-1]
    dtype = first.element.dtype if isinstance(first, Task) else "f4"
    n, shape = case.n, data.right.values.shape
    if isinstance(task, BandTask):
        w, b = bands.pack(task, machine, data.arrays)
    elif isinstance(task, Task):
        w, b = algorithm.pack(task, machine, *data.arrays[0])
    else:
        w = b = np.zeros(0, "f4")
    functions = [(native(s.build("kernel"), machine, quick), s.units(n)) for s in code.steps]
    oc, y_ld = shape[1], final.y_ld
    whole = n * prod(shape[2:]) * y_ld
    results = []
    for at_end in (True, False):
        place = lambda a, at_end=at_end: guarded(a, at_end)  # noqa: E731
        arrays = {t.X: place(strided(data.x, first.x_ld, dtype, np.nan)), t.W: place(w), t.B: place(b)}
        arrays[t.Y] = place(np.full(max(0, whole - (y_ld - oc)), FILL, dtype))
        if data.residual is not None:
            ld = next(s.residual_ld for s in stages_of(task) if isinstance(s, Task) and s.residual_ld)
            arrays[t.R] = place(strided(data.residual, ld, dtype, np.nan))
        shared = [place(np.full(size // 4, np.nan, "f4")) for size in code.shared(n)]
        arrays |= {t.S0: shared[0], t.S1: shared[1]}
        scratch = place(np.full(code.scratch // 4, np.nan, "f4"))
        args = np.zeros(t.WORDS, np.int64)
        args[t.N] = n
        for word, array in arrays.items():
            args[word] = array.ctypes.data
        order = random.Random(case.number)
        for function, units in functions:
            for unit in order.sample(range(units), units):  # in any order
                function(args.ctypes.data, unit, scratch.ctypes.data)
        out = np.full(whole, FILL, dtype)
        out[: arrays[t.Y].size] = arrays[t.Y]
        results.append(out.reshape(n, *shape[2:], y_ld))
    return results


def judged(case: Case, algorithm: ModuleType, data: Data, found: np.ndarray, kind: str) -> str | None:
    """What is wrong with a result."""
    oc = data.right.values.shape[1]
    if not (found[..., oc:] == FILL).all():
        return "wrote between the pixels"
    if not found.size:
        return None
    right, slack = (np.moveaxis(a, 1, -1) for a in (data.right.values, data.right.slack))
    found = found[..., :oc].astype("f8")
    if kind == "f32":
        right = right.astype("f4").astype("f8")
    if algorithm in APPROXIMATE:
        terms = case.task.conv.weights // case.task.conv.oc  # type: ignore[union-attr]
        scale = 4.0 if case.whole else 1.0
        slack = slack + (3e-5 if kind == "f32" else 1e-13) * scale * (terms + 2) ** 0.5
    odd = ~np.isfinite(right)
    if not np.array_equal(found[odd], right[odd], equal_nan=True):
        return f"{(~np.isclose(found[odd], right[odd], equal_nan=True)).sum()} numbers that are not finite differ"
    off = np.abs(found[~odd] - right[~odd]) - slack[~odd]
    if not (off <= 0).all():
        wrong = ~(off <= 0)
        return f"{wrong.sum()} of {found.size} numbers are off, by {np.abs(found[~odd] - right[~odd])[wrong].max():.3g}"
    return None


LIMITED = {"winograd": winograd, "amx": amx, "direct": direct, "streamed": streamed}
CACHES = (winograd.shape_of, amx.cut_of, fourier.cut_of, direct.tile_for, streamed._cut, bands.plan)


def forced(case: Case) -> list[tuple[ModuleType, Any]]:
    """The algorithms that may be asked, each with its task."""
    task = case.task
    if isinstance(task, PoolTask):
        return [(pool, task)]
    if isinstance(task, BandTask):
        return [(bands, task)]
    if task.halved:
        return [(winograd, task)]
    if task.sparse:
        return [(winograd, task), (amx, task)]
    return [(a, task) for a in ALGORITHMS if a is not fallback]


def attempts(case: Case, quick: bool, begin: Callable[[str, str], None]) -> Iterator[tuple[str, str, str | None]]:
    """(instruction set, algorithm, what is wrong) of everything that the case is computed by."""
    for name, value in case.limits.items():
        module, _, constant = name.partition(".")
        setattr(LIMITED[module], constant, value)
    for cache in CACHES:
        cache.cache_clear()
    peaks_module.peaks = lambda machine: case.peaks  # type: ignore[assignment]  # cuts must not depend on the host
    data = data_of(case)
    for machine in machines(case):
        for algorithm, task in forced(case):
            if case.bad is not None and algorithm in APPROXIMATE:
                continue  # `strict` refuses them where this matters
            if isinstance(task, Task) and case.n > 1:
                task = replace(task, conv=replace(task.conv, n=case.n))
            if isinstance(algorithm.offer(task, machine), Refusal):
                continue
            begin(name_of(machine), algorithm.NAME)
            kind = task.kind if isinstance(task, Task) else "f32"
            wrong = None
            for found in run(case, algorithm, task, machine, data, quick):
                wrong = wrong or judged(case, algorithm, data, found, kind)
            yield name_of(machine), algorithm.NAME, wrong


# --------------------------------------------------------------------------------------------------- processes


def work(numbers: Iterable[int], quick: bool) -> None:
    """Runs cases; says on stdout, line by line, what begins and what came of it."""
    torch.set_num_threads(1)
    jit._initialize()
    say = lambda *line: print(json.dumps(line), flush=True)  # noqa: E731
    for number in numbers:
        case = draw(number)
        say("case", number)
        for done in attempts(case, quick, lambda isa, name: say("begin", isa, name)):
            say("done", *done)
    say("end")


@dataclass
class Tally:
    """What a run has found: how often each algorithm ran on each instruction set, and a line for each failure."""

    cases: int = 0
    runs: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def line(self, number: int, isa: str, algorithm: str, what: str) -> None:
        """Notes a failure, with the command that repeats it."""
        self.wrong.append(f"python tests/forced.py {number}  # {algorithm} on {isa}: {what}")


def supervise(
    numbers: range,
    tally: Tally,
    quick: bool,
    every: Callable[[int], None] = lambda _: None,
    script: str | Path = __file__,
) -> None:
    """Runs cases in another process, and starts it again behind a case that ended it. `every(next case)`."""
    while numbers:
        words = [str(v) for v in (numbers.start, numbers.stop, numbers.step)]
        command = [sys.executable, str(script), "--work", *words, *(["--quick"] if quick else [])]
        case, now = numbers.start, ("", "the start")
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            waiting = selectors.DefaultSelector()
            waiting.register(child.stdout, selectors.EVENT_READ)
            ended = False
            while True:
                if not waiting.select(SILENT_S):
                    child.kill()
                    tally.line(case, *now, f"nothing came for {SILENT_S} s")
                    break
                line = child.stdout.readline()
                if not line:
                    break
                what, *rest = json.loads(line)
                if what == "case":
                    if rest[0] != numbers.start:
                        every(rest[0])
                    case, now = rest[0], ("", "the oracle")
                    tally.cases += 1
                elif what == "begin":
                    now = (rest[0], rest[1])
                elif what == "done":
                    tally.runs[f"{rest[1]} {rest[0]}"] += 1
                    if rest[2] is not None:
                        tally.line(case, rest[0], rest[1], rest[2])
                ended = ended or what == "end"
            waiting.close()
        if ended:
            return
        if child.returncode not in (0, -9) or not tally.wrong:
            how = f"ended by signal {-child.returncode}" if child.returncode < 0 else f"exit {child.returncode}"
            tally.line(case, *now, how)
        numbers = range(case + numbers.step, numbers.stop, numbers.step)
        every(case + numbers.step)


def main(words: list[str]) -> int:
    """One case here, or the work that `supervise` asks for."""
    quick = "--quick" in words
    words = [w for w in words if w != "--quick"]
    if words[:1] == ["--work"]:
        work(range(*(int(w) for w in words[1:])), quick)
        return 0
    if len(words) != 1:
        print(__doc__)
        return 2
    torch.set_num_threads(1)
    jit._initialize()
    case, bad = draw(int(words[0])), 0
    print(case)
    for _, _, wrong in attempts(case, quick, lambda *now: print(*now, end=" ", flush=True)):
        print(wrong or "ok")
        bad += wrong is not None
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
