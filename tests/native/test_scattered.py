"""Machine code where free addresses lie more than 2 GiB apart, as in a process that maps large libraries."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
CODE = """
import ctypes
import numpy as np
import dojang
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
PAGE, PRIVATE, ANONYMOUS, NORESERVE, BIG = 4096, 0x02, 0x20, 0x4000, 6 << 30

def reserve(size):
    found = libc.mmap(None, size, 0, PRIVATE | ANONYMOUS | NORESERVE, -1, 0)
    assert found not in (None, 2**64 - 1)
    return found

rng = np.random.default_rng(0)
x, w = rng.integers(-4, 5, (1, 64, 14, 14)).astype("f4"), rng.integers(-4, 5, (64, 64, 3, 3)).astype("f4")
dojang.conv(x[:, :3, :5, :5], w[:2, :3, :1, :1])  # all that is not a kernel is loaded
block, size = reserve(BIG), 1 << 30
while size >= PAGE:  # every gap above the block is filled
    at = reserve(size)
    if at < block:
        libc.munmap(at, size)
        size >>= 1
for k in range(256):  # and it gets holes of one page, so that what is larger lies 6 GiB below
    libc.munmap(block + BIG - (2 * k + 2) * PAGE, PAGE)
y = dojang.conv(x, w, padding=1)
p = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))).astype("f8")
exact = sum(np.einsum("oi,nihw->nohw", w[:, :, a, b], p[:, :, a:a + 14, b:b + 14]) for a in range(3) for b in range(3))
assert (y == exact).all()
print("right")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux") or sys.maxsize < 2**32, reason="maps memory as Linux does")
def test_code_and_constants_far_apart(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "DOJANG_CACHE_DIR": str(tmp_path)}
    for _ in range(2):  # compiled, then from disk
        done = subprocess.run([sys.executable, "-c", CODE], env=env, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr[-2000:]
