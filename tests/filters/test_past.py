"""Results stored past the caches, and memory beside pictures and results: the same bits, nothing touched outside."""

import ctypes
import mmap

import numpy as np
import pytest

from dojang.filters import run as running
from dojang.filters.code.straight import Straight, emit_straight
from dojang.filters.job import Job, Options
from dojang.filters.kernels.parse import Kernel, named
from dojang.filters.plan.choose import FilterPlan
from dojang.filters.plan.methods import METHODS
from dojang.filters.run import Bound, compiled
from dojang.native import jit
from dojang.native.machine import Machine

HOST = Machine.host()
LIBC = ctypes.CDLL(None)


def guarded(shape, dtype, at_end):
    """An array between two pages that may not be touched, next to the one after it or to the one before it."""
    count, page = int(np.prod(shape)) * np.dtype(dtype).itemsize, mmap.PAGESIZE
    inside = -(-count // page) * page
    memory = mmap.mmap(-1, inside + 2 * page)
    base = np.frombuffer(memory, np.uint8).ctypes.data
    for guard in (base, base + page + inside):
        assert LIBC.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0) == 0
    return np.frombuffer(memory, dtype, int(np.prod(shape)), page + (inside - count if at_end else 0)).reshape(shape)


def kernel_of(way):
    rng = np.random.default_rng(3)
    if way == "doubling":
        return named("blur", size=5)
    if way in ("direct", "straight", "looped"):
        return Kernel("dense", (rng.standard_normal((3, 5)),))
    return Kernel("outer", (np.outer(rng.random(5), rng.random(3)),))


def bound(way, job, machine=HOST, threads=2):
    found = dict(METHODS)[way](job, machine)
    assert not isinstance(found, str), found
    return Bound(FilterPlan((job,), found, machine), job, machine, threads)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("way", ["direct", "straight", "columns first", "separable", "doubling", "looped"])
@pytest.mark.parametrize(("width", "channels"), [(2048, 1), (64, 3), (1040, 4), (6016, 1)])
def test_the_same_bits(way, width, channels, dtype, monkeypatch):
    """Wherever the result begins: on a cache line, in the middle of one, next to a page that may not be touched."""
    rng = np.random.default_rng(1)
    image = rng.standard_normal((21, width, channels)).astype(dtype)
    job = Job.of(kernel_of(way), (1, *image.shape), image.dtype, Options("reflect"))
    want = np.empty((1, *image.shape), dtype)
    assert bound(way, job).run(image, want)
    monkeypatch.setattr(running, "PAST_BYTES", 1)
    past = bound(way, job)
    assert past._past == 1
    for at_end in (True, False):
        here = guarded(image.shape, dtype, at_end)
        here[...] = image
        got = guarded(want.shape, dtype, at_end)
        assert past.run(here, got)
        np.testing.assert_array_equal(got, want)
    for skip in (1, 3, 7):  # elements into a line
        room = np.full(want.size + 16, 7, dtype)
        assert past.run(image, room[skip : skip + want.size].reshape(want.shape))
        np.testing.assert_array_equal(room[skip : skip + want.size], want.ravel())
        assert (room[:skip] == 7).all()
        assert (room[skip + want.size :] == 7).all()
    room = np.zeros(want.nbytes + 1, np.uint8)
    odd = room[1:].view(dtype).reshape(want.shape)  # no multiple of an element: stored the common way
    assert past.run(image, odd)
    np.testing.assert_array_equal(odd, want)


@pytest.mark.parametrize("width", [65, 66, 67, 70, 79, 96, 97, 130])
def test_narrow_pictures_are_read_inside(width):
    """Two chunks at the edges and less than one between them."""
    rng = np.random.default_rng(2)
    kernel = Kernel("dense", (rng.standard_normal((3, 17)),))
    for at_end in (True, False):
        image = guarded((5, width, 1), np.float32, at_end)
        image[...] = rng.standard_normal(image.shape)
        job = Job.of(kernel, (1, *image.shape), image.dtype, Options("replicate"))
        got = guarded((1, *image.shape), np.float32, at_end)
        assert bound("straight", job).run(image, got)
        wide = np.pad(image[..., 0].astype(float), ((1, 1), (8, 8)), "edge")
        want = sum(kernel.parts[0][i, j] * wide[i : i + 5, j : j + width] for i in range(3) for j in range(17))
        np.testing.assert_allclose(got[0, ..., 0], want, atol=1e-5)


@pytest.mark.skipif(not HOST.triple.startswith("x86"), reason="looks for an instruction of x86")
def test_the_instruction_is_there():
    job = Job.of(kernel_of("straight"), (1, 64, 2048, 1), np.dtype("f4"), Options())
    program = dict(METHODS)["straight"](job, HOST).program
    assert isinstance(program, Straight)
    assert "movntps" in jit.assembly(emit_straight(program, HOST), HOST, thorough=True)
    assert compiled(program, HOST).address("press")
