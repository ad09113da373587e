"""Which answers are equal to the last bit: what docs/engine.md says in "Which bits are equal" is tested here."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from dojang.engine.compiled import compile
from dojang.formats import zoo
from dojang.native.families import Peaks
from dojang.native.machine import Machine
from machines import LAPTOP, RUNNABLE, name_of
from nets import STRUCTURES, weighted

NETWORKS = ("digits-cnn", "lenet5")
DIGEST = (
    "import sys, hashlib, numpy as np\n"
    "sys.path.insert(0, sys.argv[1])\n"
    "from test_bits import digest, filled\n"
    "from dojang.engine.compiled import compile\n"
    "print(*(digest(compile(filled(n), threads=2), n) for n in sys.argv[2:]))\n"
)


def filled(name):
    graph, rng = zoo.load(name), np.random.default_rng(0)
    shapes = graph.param_shapes.items()
    return graph.replace(weights={k: rng.random(s, np.float32) - (0 if "var" in k else 0.5) for k, s in shapes})


def picture(graph, n=1):
    return np.random.default_rng(1).standard_normal((n, *graph.inputs[0].attrs["shape"]), np.float32)


def digest(run, name):
    return hashlib.sha256(run(picture(zoo.load(name))).tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("machine", RUNNABLE[:1] + RUNNABLE[-1:], ids=name_of)
def test_equal_in_another_process(tmp_path, machine):
    """Another process with the same description, an empty cache of code, and other work before it."""
    environment = {**os.environ, "DOJANG_MACHINE": machine.name, "DOJANG_CACHE_DIR": str(tmp_path)}
    here = os.path.dirname(__file__)
    command = [sys.executable, "-c", DIGEST, here, *reversed(NETWORKS)]
    paths = [here, os.path.dirname(here), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()
    assert found[::-1] == [digest(compile(filled(n), threads=2, machine=machine), n) for n in NETWORKS]


@pytest.mark.parametrize("machine", RUNNABLE, ids=name_of)
def test_equal_from_run_to_run_on_several_threads(machine):
    """Threads take units in any order; each result is one unit's."""
    graph = filled("digits-cnn")
    x = picture(graph)
    run = compile(graph, threads=2, machine=machine)
    first = run(x)
    assert all(np.array_equal(run(x), first) for _ in range(40))
    assert np.array_equal(compile(graph, threads=2, machine=machine)(x), first)


@pytest.mark.parametrize("machine", RUNNABLE, ids=name_of)
def test_a_plan_for_more_cores_than_there_are(machine):
    """Planned for 7 cores, run on those that there are: the bits are those of 7 threads."""
    graph, wide = filled("digits-cnn"), replace(machine, cores=7)
    run, seven = compile(graph, machine=wide), compile(graph, machine=wide, threads=7)
    assert run.plan().threads == seven.plan().threads == 7
    assert run.workers <= 7
    x = picture(graph)
    assert np.array_equal(run(x), seven(x))


@pytest.mark.skipif(LAPTOP not in RUNNABLE, reason="x86 with AVX2 only")
@pytest.mark.parametrize("name", ["mobile", "grouped", "squeeze_excite", "decoder", "residual_option_a"])
def test_equal_on_processors_of_other_makers(name):
    """LLVM schedules for the processor at hand. The same description gives the same sums, whichever that is: nothing
    in a kernel may be fused or reordered that the kernel does not say.
    """
    graph = weighted(STRUCTURES[name](), dtype=np.float32)
    x = picture(graph, 2)
    right = compile(graph, threads=2, machine=LAPTOP)(x)
    for cpu in ("haswell", "znver2", "skylake"):
        # Their scheduling, without the instructions that only they have.
        only = "-sse4a,-clwb,-clzero,-wbnoinvd,-rdpid,-rdpru,-mwaitx,-adx,-rdseed,-sgx,-invpcid"
        machine = replace(LAPTOP, cpu=cpu, features=only)
        assert np.array_equal(compile(graph, threads=2, machine=machine)(x), right), cpu


def test_the_plan_is_all_that_peaks_change():
    """Peaks choose between algorithms, and so may change last bits; where the plan stays, all bits stay."""
    machine = RUNNABLE[-1]
    graph = filled("digits-cnn")
    p = machine.peaks
    other = replace(machine, peaks=Peaks(1.01 * p.fma_gflops, 1.01 * p.read_gbs, 1.01 * p.cache_gbs))
    runs = [compile(graph, threads=1, machine=m) for m in (machine, other)]
    plans = [[(c.value, c.algorithm) for c in run.plan().choices] for run in runs]
    assert plans[0] == plans[1]
    x = picture(graph)
    assert np.array_equal(runs[0](x), runs[1](x))


def test_the_host_plans_as_its_description_says(tmp_path, monkeypatch):
    """A file written on one machine makes an equal one of another: the whole plan comes from it."""
    from dojang.native import machine

    here = Machine.processor()
    machine.write(here, "a test", tmp_path / "m.json", False)
    monkeypatch.setenv("DOJANG_MACHINE", str(tmp_path / "m.json"))
    assert Machine.host() == here
