"""Memory of large results: used again only when nothing refers to it, bounded, and never shared."""

import gc
from concurrent.futures import ThreadPoolExecutor

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
