"""Memory of large results: used again only when nothing refers to it, bounded, and never shared."""

import gc
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dojang.filters import memory
from dojang.filters.memory import LEAST_BYTES, MOST_BYTES, empty

U8 = np.dtype("uint8")
LARGE = LEAST_BYTES + 4096


@pytest.fixture(autouse=True)
def nothing_waits():
    memory._waiting.clear()
    yield
    memory._waiting.clear()


def address(array):
    return array.ctypes.data


def test_what_is_small_or_huge_is_plain():
    assert empty((10, 10), U8).flags.owndata
    assert empty((LEAST_BYTES,), U8).flags.owndata
    assert empty((MOST_BYTES + 1,), U8).flags.owndata


def test_used_again_when_the_last_view_is_gone():
    first = empty((LARGE // 4, 4), U8)
    first[...] = 7
    where, view = address(first), first[5:, 1]
    del first
    other = empty((LARGE,), U8)
    assert address(other) != where
    assert (view == 7).all()
    del view
    gc.collect()
    again = empty((LARGE // 8,), np.dtype("float64"))
    assert address(again) == where
    assert again.dtype == np.float64
    again[:] = np.arange(again.size)
    assert again[-1] == again.size - 1


def test_what_waits_is_bounded_and_fits():
    arrays = [empty((LARGE,), U8) for _ in range(5)]
    assert len({address(a) for a in arrays}) == 5
    del arrays
    assert len(memory._waiting) == 2
    assert empty((3 * LARGE,), U8).size == 3 * LARGE  # none that waits is large enough
    kept = [address(empty((n * LARGE,), U8)) for n in (4, 1)]
    assert len(set(kept)) == 2  # one that waits is too large for so small a result


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_has_its_own():
    lent, waiting = empty((LARGE,), U8), empty((LARGE,), U8)
    lent[:] = 1
    del waiting
    child = os.fork()
    if child == 0:
        lent[:] = 2
        empty((LARGE,), U8)[:] = 3
        os._exit(0)
    mine = empty((LARGE,), U8)
    mine[:] = 4
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (lent == 1).all()
    assert (mine == 4).all()


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux tells what may be taken")
def test_the_system_may_take_what_waits():
    def may_be_taken():
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("LazyFree"))

    before = may_be_taken()
    array = empty((LARGE,), U8)
    array[:] = 1
    assert may_be_taken() - before < LARGE // 2
    del array
    assert may_be_taken() - before > LARGE // 2


def test_threads_never_share():
    def work(seed):
        for i in range(20):
            mine = empty((LARGE,), U8)
            mine[:: 1 << 16] = seed + i
            if not (mine[:: 1 << 16] == seed + i).all():
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(0, 200, 50)))
