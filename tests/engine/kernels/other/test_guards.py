"""Pooling, element-wise work and changes of layout with all arrays against unmapped pages, values checked too."""

from dataclasses import replace

import numpy as np
import pytest

from dojang.arith.conv import Conv
from dojang.engine.kernels import task as t
from dojang.engine.kernels.activations import Activation
from dojang.engine.kernels.other import elementwise, layout, matmul, norm, pool, resample, softmax
from dojang.engine.kernels.other.elementwise import MapTask
from dojang.engine.kernels.other.layout import LayoutTask
from dojang.engine.kernels.other.matmul import MatTask
from dojang.engine.kernels.other.norm import NormTask
from dojang.engine.kernels.other.softmax import SoftmaxTask
from dojang.engine.kernels.task import Offer
from dojang.native import jit
from dojang.native.machine import Machine
from kernels import guarded

HOST = Machine.host()
MACHINES = [
    HOST,
    *(HOST.restrict(isa) for isa in HOST.narrower()),
]
PLACES = [(HOST, False), *((m, True) for m in MACHINES)]
rng = np.random.default_rng(0)
N = 2


def rows(values, ld):
    """(n, pixels, channels) in rows of `ld`, flat; the last row ends with its last channel."""
    n, pixels, channels = values.shape
    out = np.full((n, pixels, ld), np.nan, "f4")
    out[..., :channels] = values
    return out.reshape(-1)[: out.size - (ld - channels)]


def run(module, task, machine, at_end, arrays, out):
    """Runs all units with the arrays (and the output, a size in elements) against unmapped pages."""
    code = module.emit(task, machine)
    kept = {word: guarded(a, at_end) for word, a in arrays.items()}
    kept[t.Y] = guarded(np.full(out, 7, "f4"), at_end)
    args = np.zeros(t.WORDS, np.int64)
    args[t.N] = N
    for word, array in kept.items():
        args[word] = array.ctypes.data
    scratch = guarded(np.zeros(code.scratch // 4, "f4"), at_end)
    for step in code.steps:
        args[t.SIZES : t.SIZES + len(step.sizes)] = step.sizes
        kernel = jit.load_recipe(step.kernel, machine).function("kernel", 3)
        for unit in range(step.units(N)):
            kernel(args.ctypes.data, unit, scratch.ctypes.data)
    return kept[t.Y]


def values(flat, pixels, channels, ld):
    """The output back as (n, pixels, channels); gaps keep what they held."""
    full = np.full(N * pixels * ld, 7, "f4")
    full[: flat.size] = flat
    full = full.reshape(N, pixels, ld)
    assert (full[..., channels:] == 7).all()
    return full[..., :channels]


MAPS = [
    ("copy", lambda x, r, w, b: x),
    ("fill", lambda x, r, w, b: np.full_like(x, 1.5)),
    ("affine", lambda x, r, w, b: x * w + b),
    *((f"lrn of {size}", None) for size in (1, 2, 3, 4, 12)),
    ("add", lambda x, r, w, b: x + r),
    ("sub", lambda x, r, w, b: x - r),
    ("mul", lambda x, r, w, b: x * r),
    ("div", lambda x, r, w, b: x / r),
    ("maximum", lambda x, r, w, b: np.maximum(x, r)),
    ("minimum", lambda x, r, w, b: np.minimum(x, r)),
]


@pytest.mark.parametrize(("machine", "at_end"), PLACES, ids=lambda v: getattr(v, "isa", v))
@pytest.mark.parametrize(("op", "truth"), MAPS, ids=lambda v: v if isinstance(v, str) else "")
def test_elementwise(op, truth, machine, at_end):
    pixels = 11
    op, _, near = op.partition(" of ")
    near = int(near or 0)
    for channels, gap, one in ((1, 0, False), (5, 2, False), (16, 0, False), (35, 0, True), (35, 3, True)):
        x, r = rng.standard_normal((2, N, pixels, channels)).astype("f4")
        if one:
            r = r[:, :1]
        w, b = rng.standard_normal((2, channels)).astype("f4")
        alone = op in elementwise.ALONE
        act = Activation("relu") if op != "lrn" else None
        task = MapTask(op, channels, pixels, channels + gap, channels + gap, 0 if alone or one else channels, act,
                       near, 0.5, 1.5)  # fmt: skip
        arrays = {t.X: rows(x, channels + gap)}
        if not alone:
            arrays[t.R] = np.ascontiguousarray(r).reshape(-1)
        if op == "affine":
            arrays |= {t.W: w, t.B: b}
        size = N * pixels * (channels + gap) - gap
        found = values(run(elementwise, task, machine, at_end, arrays, size), pixels, channels, channels + gap)
        if op == "lrn":
            # As PyTorch pads for an even size: one channel more before.
            square = np.pad(x.astype("f8") ** 2, ((0, 0), (0, 0), (near // 2, (near - 1) // 2)))
            total = sum(square[..., k : k + channels] for k in range(near))
            expected = x / (1.5 + 0.5 / near * total) ** 0.75
        else:
            expected = np.maximum(truth(x, r, w, b), 0)
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(("machine", "at_end"), PLACES, ids=lambda v: getattr(v, "isa", v))
def test_frame(machine, at_end):
    pixels = 11
    for channels, before, after, gap in ((1, 0, 3, 0), (5, 2, 0, 2), (16, 8, 8, 0), (35, 17, 20, 3)):
        x = rng.standard_normal((N, pixels, channels)).astype("f4")
        whole = before + channels + after
        task = MapTask("frame", channels, pixels, channels + gap, whole + gap, k=1.5, before=before, after=after)
        size = N * pixels * (whole + gap) - gap
        found = run(elementwise, task, machine, at_end, {t.X: rows(x, channels + gap)}, size)
        expected = np.pad(x, ((0, 0), (0, 0), (before, after)), constant_values=1.5)
        assert (values(found, pixels, whole, whole + gap) == expected).all()


@pytest.mark.parametrize(("machine", "at_end"), PLACES, ids=lambda v: getattr(v, "isa", v))
@pytest.mark.parametrize("last", [True, False])
def test_layout(last, machine, at_end):
    for channels, pixels, gap in ((1, 1, 0), (3, 17, 2), (16, 16, 0), (33, 35, 1)):
        x = rng.standard_normal((N, pixels, channels)).astype("f4")
        planes = np.ascontiguousarray(np.moveaxis(x, 1, 2)).reshape(-1)
        task = LayoutTask(channels, pixels, channels + gap, last)
        size = N * pixels * (channels + gap) - gap
        if last:
            flat = run(layout, task, machine, at_end, {t.X: planes}, size)
            assert (values(flat, pixels, channels, channels + gap) == x).all()
        else:
            flat = run(layout, task, machine, at_end, {t.X: rows(x, channels + gap)}, planes.size)
            assert (flat == planes).all()


@pytest.mark.parametrize(("machine", "at_end"), PLACES, ids=lambda v: getattr(v, "isa", v))
@pytest.mark.parametrize("what", ["max", "avg"])
def test_pooling(what, machine, at_end):
    for c in (
        Conv.of(5, 5, (7, 9), 3, stride=2, padding=1, groups=5),
        Conv.of(16, 16, (6, 21), 2, stride=2, groups=16),
        Conv.of(35, 35, (4, 5), (4, 5), groups=35),
        Conv.of(3, 3, (19,), 3, padding=1, groups=3),
    ):
        gap = 2
        pixels, out = int(np.prod(c.size)), int(np.prod(c.out_size))
        task = replace(pool.of_conv(c, what), x_ld=c.ic + gap, y_ld=c.ic + gap)
        assert isinstance(pool.offer(task, machine), Offer)
        x = rng.standard_normal((N, pixels, c.ic)).astype("f4")
        flat = run(pool, task, machine, at_end, {t.X: rows(x, c.ic + gap)}, N * out * (c.ic + gap) - gap)
        found = values(flat, out, c.ic, c.ic + gap)
        wide = np.full((N, *(s + p + q for s, (p, q) in zip(c.size, c.padding, strict=True)), c.ic), -np.inf)
        wide[(slice(None), *(slice(p, p + s) for s, (p, _) in zip(c.size, c.padding, strict=True)))] = x.reshape(
            N, *c.size, c.ic
        )
        for place, index in enumerate(np.ndindex(*c.out_size)):
            window = wide[
                (slice(None), *(slice(i * s, i * s + k) for i, s, k in zip(index, c.stride, c.kernel, strict=True)))
            ]
            window = window.reshape(N, -1, c.ic)
            if what == "max":
                assert (found[:, place] == window.max(1)).all()
            else:
                mean = np.where(np.isfinite(window), window, 0).mean(1)  # padding counts
                np.testing.assert_allclose(found[:, place], mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("machine", "at_end"), PLACES, ids=lambda v: getattr(v, "isa", v))
def test_softmax(machine, at_end):
    for channels, pixels, gap in ((1, 3, 0), (21, 5, 2), (32, 2, 0)):
        x = rng.standard_normal((N, pixels, channels)).astype("f4")
        task = SoftmaxTask(channels, pixels, channels + gap, channels + gap)
        size = N * pixels * (channels + gap) - gap
        flat = run(softmax, task, machine, at_end, {t.X: rows(x, channels + gap)}, size)
        powers = np.exp(x.astype("f8"))
        found = values(flat, pixels, channels, channels + gap)
        np.testing.assert_allclose(found, powers / powers.sum(-1, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize(("machine", "at_end"), PLACES, ids=lambda v: getattr(v, "isa", v))
@pytest.mark.parametrize("mixed", [False, True])
def test_resampling(mixed, machine, at_end):
    """Rows and columns turned about; or each the mean with its neighbour on the other side."""
    for channels, h, w, gap in ((1, 2, 3, 0), (21, 3, 4, 2), (16, 1, 5, 0)):
        turned = lambda n: tuple(  # noqa: E731
            (o, ((n - 1 - o, 0.5), (o, 0.5)) if mixed else ((n - 1 - o, 1.0),)) for o in range(n)
        )
        task = resample.of_axes(channels, (h, w), (h, w), turned(h), turned(w), channels + gap, channels + gap)
        shares, offsets = resample.pack(task, turned(h), turned(w))
        x = rng.standard_normal((N, h * w, channels)).astype("f4")
        arrays = {t.X: rows(x, channels + gap), t.W: shares, t.B: offsets}
        flat = run(resample, task, machine, at_end, arrays, N * h * w * (channels + gap) - gap)
        image = x.reshape(N, h, w, channels)
        right = image[:, ::-1, ::-1]
        if mixed:
            tall = (image + image[:, ::-1]) / 2
            right = (tall + tall[:, :, ::-1]) / 2
        found = values(flat, h * w, channels, channels + gap)
        np.testing.assert_allclose(found, right.reshape(found.shape), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("machine", "at_end"), PLACES, ids=lambda v: getattr(v, "isa", v))
@pytest.mark.parametrize(("channels", "rows_", "pixels", "groups", "affine", "share"),
                         [(70, 2, 9, 0, "pixel", 1), (33, 1, 7, 0, "channel", 1), (12, 1, 5, 0, "channel", 4),
                          (57, 1, 6, 3, "channel", 1), (32, 1, 1, 1, "", 1)])  # fmt: skip
def test_norm(channels, rows_, pixels, groups, affine, share, machine, at_end):
    gap, every = 3, rows_ * pixels
    x = rng.standard_normal((N, every, channels)).astype("f4")
    w, b = rng.standard_normal((2, pixels if affine == "pixel" else channels)).astype("f4")
    task = NormTask(channels, rows_, pixels, groups, channels + gap, channels + gap, 1e-5, affine, share)
    arrays = {t.X: rows(x, channels + gap)} | ({t.W: w, t.B: b} if affine else {})
    flat = run(norm, task, machine, at_end, arrays, N * every * (channels + gap) - gap)
    parts = x.reshape(N, rows_, pixels, groups or channels // share, -1).astype("f8")
    apart = parts - parts.mean((2, 4), keepdims=True)
    exact = (apart / np.sqrt((apart**2).mean((2, 4), keepdims=True) + 1e-5)).reshape(N, rows_, pixels, channels)
    if affine:
        exact = exact * (w[:, None] if affine == "pixel" else w) + (b[:, None] if affine == "pixel" else b)
    found = values(flat, every, channels, channels + gap)
    np.testing.assert_allclose(found, exact.reshape(found.shape), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("machine", "at_end"), PLACES, ids=lambda v: getattr(v, "isa", v))
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("count", "depth", "columns"), [(1, 1, 1), (7, 5, 16), (30, 9, 37), (41, 3, 130)])
def test_matmul(shared, count, depth, columns, machine, at_end):
    batch, gap = 2, 2
    a = rng.standard_normal((1 if shared else N * batch, count, depth)).astype("f4")
    x = rng.standard_normal((N * batch, depth, columns)).astype("f4")
    bias = rng.standard_normal(count).astype("f4")
    task = MatTask(batch, count, depth, columns, depth + gap, columns + gap, columns + gap, shared)
    arrays = {t.W: rows(a, depth + gap), t.X: rows(x, columns + gap)} | ({t.B: bias} if shared else {})
    flat = run(matmul, task, machine, at_end, arrays, N * batch * count * (columns + gap) - gap)
    exact = a.astype("f8") @ x + (bias[:, None] if shared else 0)
    found = values(flat, batch * count, columns, columns + gap)
    np.testing.assert_allclose(found, exact.reshape(found.shape), rtol=1e-5, atol=1e-5)
