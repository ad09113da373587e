"""The digest of memory against its definition in whole numbers of any size, and against changes of every kind."""

import ctypes
import mmap
import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dojang.native import digest, jit
from dojang.native.digest import BLOCK, SEGMENT, Digest
from dojang.native.machine import Machine

PRIME = (1 << 61) - 1


def defined(raw):
    """Both hashes of one segment by their definition, modulo 2^61 - 1."""
    held, vector = digest._keys().tobytes(), Machine.host().vector_bytes
    found = []
    for i in range(2):
        keys = [int(k) for k in np.frombuffer(held[i * BLOCK : (i + 1) * BLOCK], np.uint32)]
        point = int.from_bytes(held[2 * BLOCK + 8 * i : 2 * BLOCK + 8 * i + 8], "little")
        state, whole = 1, len(raw) // BLOCK * BLOCK
        for block in [*(raw[at : at + BLOCK] for at in range(0, whole, BLOCK)), raw[whole:]]:
            words = [int(w) for w in np.frombuffer(block + bytes(-len(block) % vector), np.uint32)]
            total = (
                sum(
                    (a + k) % 2**32 * ((b + j) % 2**32)
                    for a, b, k, j in zip(words[::2], words[1::2], keys[::2], keys[1::2], strict=False)
                )
                % 2**64
            )
            state = (state * point + (total >> 32)) % PRIME
            state = (state * point + (total & 0xFFFFFFFF)) % PRIME
        found.append(state)
    return found


def digest_of(*arrays, threads=1):
    return Digest([(a.ctypes.data, a.nbytes) for a in arrays], threads).read()


@pytest.mark.parametrize(
    "size", [1, 3, 8, 31, 32, 63, 64, 65, 200, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17, 70_001]
)
def test_definition(size):
    x = np.frombuffer(os.urandom(size + 5), np.uint8)[5:]  # at any address
    found = np.frombuffer(digest_of(x), np.uint64)
    assert [int(v) % PRIME for v in found] == defined(x.tobytes())


def test_largest_numbers():
    x = np.full(5 * BLOCK, 255, np.uint8)
    assert [int(v) % PRIME for v in np.frombuffer(digest_of(x), np.uint64)] == defined(x.tobytes())


@settings(max_examples=100)
@given(st.integers(1, 3 * SEGMENT), st.integers(0, 2**32), st.integers(1, 3))
def test_any_change_of_one_bit_is_seen(size, seed, threads):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, size, np.uint8)
    reader = Digest([(x.ctypes.data, x.nbytes)], threads)
    before = reader.read()
    at, bit = int(rng.integers(size)), int(rng.integers(8))
    x[at] ^= 1 << bit
    assert reader.read() != before, f"size={size} seed={seed}: bit {bit} of byte {at}"
    x[at] ^= 1 << bit
    assert reader.read() == before


def test_changes_that_sums_do_not_see():
    x = np.random.default_rng(0).standard_normal(1 << 18).astype("f4")
    parts = np.split(x, 4)
    seen = {digest_of(x)}
    for k, (i, j) in enumerate([(0, 1), (0, 2), (1, 100_000), (17, 17 + BLOCK // 4), (5, 5 + SEGMENT // 4)]):
        x[[i, j]] = x[[j, i]]
        seen.add(digest_of(x))
        assert len(seen) == k + 2
    x[:] = np.concatenate(parts[::-1]).copy()
    seen.add(digest_of(x))
    x[:] = np.roll(x, 1)
    seen.add(digest_of(x))
    assert len(seen) == 8
    assert digest_of(parts[0], parts[1]) != digest_of(parts[1], parts[0])  # what is where counts


def test_nothing_is_read_outside():
    """The last bytes before a page that may not be read."""
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 2 * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + page), page, 0) == 0
    for size in (1, 7, 33, 100, page):
        assert len(Digest([(address + page - size, size)]).read()) == 16
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + page), page, 3) == 0


def test_nothing_and_many():
    assert Digest([]).read() == b""
    arrays = [np.arange(k, dtype="u1") for k in range(300)]
    assert len(digest_of(*arrays, threads=2)) == 16 * 299


def test_threads_share_one_reader():
    x = np.random.default_rng(0).standard_normal(1 << 20).astype("f4")
    reader = Digest([(x.ctypes.data, x.nbytes)], 2)
    right, wrong = reader.read(), []
    workers = [
        threading.Thread(target=lambda: wrong.extend(1 for _ in range(20) if reader.read() != right)) for _ in range(4)
    ]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not wrong


@pytest.mark.parametrize("isa", ["avx512", "avx2", "generic", "neon"])
def test_code_for_every_instruction_set(isa):
    machine = Machine.cross(isa)
    assert jit.compile_object(digest.write(machine), machine, False)
