"""Programs on several threads: every unit once, steps in order, from many callers, after a fork."""

import os
import threading

import numpy as np
import pytest

from dojang.engine.kernels import task as t
from dojang.native import jit, runtime
from dojang.native.emit import I64
from dojang.native.machine import Machine
from dojang.native.runtime import NativeCall, Program
from waiting import until

HOST = Machine.host()


def kernel(name, factor):
    """x[unit] = x[unit] * factor + unit, x at word X."""
    b = t.begin(name, HOST)
    at = b.at(t.word(b, t.X), b.mul(b.arg.unit, 8))
    b.vstore(b.add(b.mul(b.sload(at, I64), factor), b.arg.unit), at, I64)
    native = jit.load(b.finish(), HOST)
    return native, native.address(name)


def expected(units, factors):
    x = np.arange(units)
    for f in factors:
        x = x * f + np.arange(units)
    return x


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("units", [0, 1, 5, 1000])
def test_every_unit_once_and_steps_in_order(threads, units):
    factors = [3, 5, 2, 7]
    kernels = [kernel("scale", f) for f in factors]
    x = np.zeros(units + 1, np.int64)
    program = Program(
        [NativeCall(address, [x.ctypes.data] + [0] * (t.WORDS - 1), units) for _, address in kernels],
        t.WORDS,
        64,
        threads,
    )
    for _ in range(50):
        x[:] = np.arange(units + 1)
        program.run()
        assert (x[:units] == expected(units, factors)).all()


def test_many_callers_share_the_pool():
    native, address = kernel("scale", 3)
    errors = []

    def work(seed):
        x = np.zeros(200, np.int64)
        program = Program([NativeCall(address, [x.ctypes.data] + [0] * (t.WORDS - 1), 200)] * 5, t.WORDS, 64, 2)
        for _ in range(200):
            x[:] = np.arange(200)
            program.run()
            if not (x == expected(200, [3] * 5)).all():
                errors.append(seed)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert native.from_disk in (True, False)


@pytest.fixture
def without_futex(monkeypatch):
    """Native code and a pool that know no futexes, and neither left to later tests."""
    monkeypatch.setattr(runtime, "_FUTEX", 0)
    for made in (runtime._pool, runtime._native):
        made.cache_clear()
    yield
    for made in (runtime._pool, runtime._native):
        made.cache_clear()


@pytest.mark.usefixtures("without_futex")
def test_without_futex():
    test_every_unit_once_and_steps_in_order(2, 100)


@pytest.mark.usefixtures("without_futex")
def test_a_worker_that_wakes_up_late_builds_nothing():
    """What it would build, without futexes, is a server that spins for good, kept for all later pools."""
    test_every_unit_once_and_steps_in_order(2, 100)
    bell = runtime._pool().workers[0].bell
    runtime._native.cache_clear()
    bell.release(2)
    until(lambda: bell._value == 0, "the worker to come for its second ring, after its work for the first")
    assert runtime._native.cache_info().currsize == 0


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two processors"
)
def test_workers_keep_off_the_processor_of_the_caller():
    allowed = os.sched_getaffinity(0)
    for _ in range(20):
        test_every_unit_once_and_steps_in_order(2, 100)
        pool = runtime._pool()
        (worker,) = pool.workers[:1]
        assert os.sched_getaffinity(worker.thread.native_id) == allowed - {pool.left_to_caller}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_after_fork():
    test_every_unit_once_and_steps_in_order(2, 100)
    child = os.fork()
    if child == 0:
        try:
            test_every_unit_once_and_steps_in_order(2, 100)
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
