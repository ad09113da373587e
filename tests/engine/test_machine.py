"""The description of the machine, and its peaks."""

import json
from dataclasses import asdict, replace

import pytest

from dojang.base.errors import UsageError
from dojang.engine import jit, runtime
from dojang.engine.machine import ISAS, Machine
from dojang.engine.peaks import Peaks, exceeded, peaks

HOST = Machine.host()


def test_host_is_described():
    assert HOST.isa in ISAS
    assert HOST.runs_here
    assert HOST.cores >= 1
    assert 8 << 10 <= HOST.l1 <= HOST.l2 <= 1 << 30
    assert HOST.lanes(4) * 4 == HOST.vector_bytes
    assert Machine.host() is HOST


def test_restricting_narrows_the_vectors():
    if HOST.isa not in ("avx512", "avx2"):
        pytest.skip("this machine cannot be restricted")
    narrow = HOST.restrict("generic")
    assert narrow.vector_bytes == 16
    assert (narrow.cores, narrow.l2) == (HOST.cores, HOST.l2)
    assert HOST.restrict(HOST.isa) == replace(HOST, amx=False)
    with pytest.raises(UsageError, match="cannot be restricted"):
        narrow.restrict("avx2")


@pytest.mark.parametrize("isa", ["neon", "avx512", "avx2"])
def test_the_runtime_compiles_for_other_processors(isa):
    machine = Machine.cross(isa)
    assert not machine.runs_here
    assert len(jit.compile_object(runtime.write(machine), machine)) > 1000


def test_peaks_are_measured_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("DOJANG_CACHE_DIR", str(tmp_path))
    peaks.cache_clear()
    try:
        first = peaks(HOST)
        assert first.fma_gflops > 1
        assert first.cache_gbs > 0.5
        assert first.read_gbs > 0.1
        (file,) = tmp_path.glob("peaks-*.json")
        assert Peaks(**json.loads(file.read_text())) == first
        file.write_text(json.dumps({"fma_gflops": 5.0, "read_gbs": 2.0, "cache_gbs": 3.0}))
        peaks.cache_clear()
        assert peaks(HOST) == Peaks(5.0, 2.0, 3.0)
        file.write_text("{")
        peaks.cache_clear()
        assert peaks(HOST).fma_gflops != 5.0
    finally:
        peaks.cache_clear()


def test_peaks_that_a_kernel_exceeds_are_measured_again(tmp_path, monkeypatch):
    monkeypatch.setenv("DOJANG_CACHE_DIR", str(tmp_path))
    peaks.cache_clear()
    try:
        real = peaks(HOST)
        (file,) = tmp_path.glob("peaks-*.json")
        low = Peaks(0.001, 1e6, 0.001)
        file.write_text(json.dumps(asdict(low)))
        peaks.cache_clear()
        assert not exceeded(HOST, 0.0005)
        assert peaks(HOST) == low
        assert exceeded(HOST, 100 * real.fma_gflops)
        kept = peaks(HOST)
        assert kept.fma_gflops == 100 * real.fma_gflops  # a kernel that ran so fast proves it
        assert kept.read_gbs == 1e6
        assert kept.cache_gbs > low.cache_gbs
        assert not exceeded(Machine.cross("neon"), 1e9)
    finally:
        peaks.cache_clear()


def test_peaks_of_a_machine_that_is_not_here_are_typical():
    assert peaks(Machine.cross("neon")).fma_gflops > 0
