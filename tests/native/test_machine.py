"""The description of the machine: where its peaks come from, what DOJANG_MACHINE may name, what is refused."""

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from dojang.base.errors import DojangError, FileError, UnsupportedError, UsageError
from dojang.native import jit, runtime
from dojang.native import machine as machines
from dojang.native.descriptions import SHIPPED
from dojang.native.families import FAMILIES, ISAS, Peaks, family_of
from dojang.native.machine import Machine, described
from dojang.native.peaks import measure
from machines import EVERY, LAPTOP, RUNNABLE, SERVER_AMX, SERVER_AVX512, TINY, name_of

HOST = Machine.processor()
WHOLE = {"isa": "generic", "cores": 3, "l1_bytes": 32768, "l2_bytes": 262144, "l3_bytes": 1 << 20}
PEAKS = {"fma_gflops": 50, "read_gbs": 8.5, "cache_gbs": 20}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of its own, and no description."""
    monkeypatch.setenv("DOJANG_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("DOJANG_MACHINE", raising=False)
    machines.forget()
    yield tmp_path
    machines.forget()


def test_processor_is_described():
    assert HOST.isa in ISAS
    assert HOST.runs_here
    assert HOST.cores >= 1
    assert 4 << 10 <= HOST.l1 <= HOST.l2 <= HOST.l3
    assert HOST.lanes(4) * 4 == HOST.vector_bytes
    assert Machine.processor() is HOST
    assert HOST.peaks == FAMILIES[HOST.family].peaks(HOST.isa)


@pytest.mark.parametrize("machine", RUNNABLE, ids=name_of)
def test_restricting_narrows_the_vectors(machine):
    for isa in machine.narrower():
        narrow = machine.restrict(isa)
        assert (narrow.cores, narrow.l2, narrow.runs_here) == (machine.cores, machine.l2, True)
        assert narrow.vector_bytes < machine.vector_bytes or machine.isa == "neon"
        assert narrow.peaks == FAMILIES[machine.family].peaks(isa)
        with pytest.raises(UsageError, match="cannot be restricted"):
            narrow.restrict(machine.isa)
    assert machine.restrict(machine.isa) == replace(machine, amx=False)


@pytest.mark.parametrize("isa", ["neon", "avx512", "avx2"])
def test_the_runtime_compiles_for_other_processors(isa):
    machine = Machine.cross(isa)
    assert not machine.runs_here
    assert len(jit.compile_object(runtime.write(machine), machine)) > 1000


# -- families --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpu", "features", "isa", "family"),
    [
        ("znver2", "sse4a avx2", "avx2", "amd-zen2"),
        ("znver4", "sse4a avx2 avx512f avx512vl vaes", "avx512", "amd-zen4"),
        ("znver5", "sse4a avx512f avxvnni", "avx512", "amd-zen5"),
        ("generic", "sse4a avx2 avx512f", "avx512", "amd-zen4"),  # names hidden by a virtual machine
        ("x86-64", "sse4a avx512f avxvnni", "avx512", "amd-zen5"),
        ("generic", "sse4a avx2 vaes", "avx2", "amd-zen3"),
        ("generic", "sse4a avx2", "avx2", "amd-zen2"),
        ("cascadelake", "avx512f", "avx512", "intel-skylake-server"),
        ("icelake-client", "avx512f wbnoinvd", "avx512", "intel-icelake-server"),
        ("tigerlake", "avx512f", "avx512", "intel-icelake-client"),
        ("rocketlake", "avx512f amx-tile amx-bf16", "avx512", "intel-sapphire-rapids"),  # seen on Granite Rapids
        ("rocketlake", "avx512f avx512fp16", "avx512", "intel-sapphire-rapids"),
        ("raptorlake", "avx2 avxvnni", "avx2", "intel-alder-lake"),
        ("broadwell", "avx2", "avx2", "intel-haswell"),
        ("neoverse-v2", "neon sve2", "neon", "neoverse-v2"),
        ("apple-m3", "neon", "neon", "apple"),
        ("never-heard-of", "avx512f", "avx512", "x86-64-v4"),
        ("never-heard-of", "avx2", "avx2", "x86-64-v3"),
        ("never-heard-of", "", "generic", "x86-64-v2"),
        ("never-heard-of", "neon", "neon", "aarch64"),
    ],
)
def test_families_are_known_by_name_and_by_features(cpu, features, isa, family):
    assert family_of(cpu, set(features.split()), isa).name == family


def test_llvm_knows_the_names_of_the_families():
    """A name that LLVM does not know could never match: it lists those that it knows."""
    code = "import sys, llvmlite.binding as l; l.initialize_all_targets()\n"
    code += "l.Target.from_triple(sys.argv[1]).create_target_machine(cpu='help')"
    command = [sys.executable, "-c", code]
    said = "".join(
        subprocess.run([*command, f"{arch}-linux-gnu"], capture_output=True, text=True, check=False).stderr
        for arch in ("x86_64", "aarch64")  # LLVM helps once per process
    )
    known = set(re.findall(r"^\s+([\w.-]+)\s+- Select the", said, re.MULTILINE))
    assert {cpu for f in FAMILIES.values() for cpu in f.cpus} <= known


def test_peaks_of_families_are_plausible():
    """Bounds that no processor core of these years leaves; every row can be used for each of its instruction sets."""
    for family in FAMILIES.values():
        for isa in family.per_cycle:
            peaks = family.peaks(isa)
            assert 10 < peaks.fma_gflops < 500
            assert 5 < peaks.read_gbs <= peaks.cache_gbs < 200
        assert family.source


# -- what a process plans for ----------------------------------------------------------------------------------------


def test_nothing_is_measured_unasked(cache):
    """Compiling, running, filtering and counting read no clock, so that nothing can depend on one."""
    code = (
        "import time\n"
        "def clock(*_): raise SystemExit('a clock was read')\n"
        "import numpy as np, dojang\n"
        "from dojang.engine.compiled import compile\n"
        "from dojang.formats import zoo\n"
        "graph = zoo.load('digits-cnn')\n"
        "time.perf_counter = time.perf_counter_ns = time.monotonic = time.process_time = clock\n"
        "x = np.ones((2, *graph.inputs[0].attrs['shape']), 'f4')\n"
        "run = compile(graph, threads=2); run(x); run.plan(2)\n"
        "dojang.conv(x, np.ones((4, x.shape[1], 3, 3), 'f4'))\n"
        "dojang.filter(np.ones((40, 50), 'u1'), 'gaussian:sigma=2')\n"
        "print('done')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr
    assert not list(cache.glob("machine-*.json"))
    assert not (cache / "times").exists()


def test_measured_peaks_are_used_where_they_were_asked_for(cache):
    assert Machine.host() == HOST
    path = machines.measured_path(HOST)
    machines.write(replace(HOST, peaks=Peaks(50.0, 8.5, 20.0)), "a test", path, False)
    path.chmod(0o644)
    assert Machine.host() == HOST  # asked once
    machines.forget()
    assert Machine.host() == replace(HOST, peaks=Peaks(50.0, 8.5, 20.0))
    assert "measured" in Machine.host().source


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", "null", "[" * 100_000, "{}", "\xff", "1" * 5000, "a" * 70_000,
     '{"isa": "avx2", "isa": "avx2"}',
     json.dumps(WHOLE | {"peaks": dict.fromkeys(PEAKS, 0)}), json.dumps(WHOLE | {"peaks": PEAKS | {"read_gbs": -1}}),
     json.dumps(WHOLE | {"peaks": PEAKS | {"read_gbs": float("nan")}}),
     json.dumps(WHOLE | {"peaks": PEAKS | {"cache_gbs": 1e300}}), json.dumps(WHOLE | {"peaks": PEAKS | {"more": 1}}),
     json.dumps(WHOLE | {"peaks": 7}), json.dumps(WHOLE | {"peaks": PEAKS | {"fma_gflops": "50"}}),
     json.dumps(WHOLE | {"peaks": PEAKS | {"fma_gflops": True}})],
    ids=lambda text: text[:40] if text.isascii() else "bytes",
)  # fmt: skip
def test_nonsense_is_ignored_in_the_cache_and_refused_by_name(cache, monkeypatch, content):
    path = machines.measured_path(HOST)
    path.write_bytes(content.encode("latin-1"))
    path.chmod(0o644)
    assert Machine.host() == HOST
    assert machines.measured(HOST)[1]  # the reason, which `dojang env` shows
    monkeypatch.setenv("DOJANG_MACHINE", str(path))
    with pytest.raises(FileError, match=re.escape(str(path))) as caught:
        Machine.host()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="users as POSIX has them")
def test_a_cached_file_that_others_may_write_is_ignored(cache):
    path = machines.measured_path(HOST)
    machines.write(replace(HOST, peaks=Peaks(50.0, 8.5, 20.0)), "a test", path, False)
    path.chmod(0o666)
    assert Machine.host() == HOST
    assert machines.measured(HOST) == (None, "another user could have written it")


def test_measuring_gives_peaks_that_can_be_written_and_read(tmp_path):
    found = measure(HOST).rounded()
    machines.write(replace(HOST, peaks=found), "a test", tmp_path / "m.json", False)
    back = described(str(tmp_path / "m.json"))
    assert back == replace(HOST, peaks=found)
    with pytest.raises(UnsupportedError):
        measure(Machine.cross("neon" if HOST.isa != "neon" else "avx2"))


# -- DOJANG_MACHINE --------------------------------------------------------------------------------------------------


def test_shipped_descriptions():
    assert tuple(SHIPPED) == tuple(m.name for m in EVERY)
    assert TINY in RUNNABLE
    assert SERVER_AMX.amx
    assert {m.isa for m in EVERY} == {"avx512", "avx2", "generic"}
    assert TINY.cores == 1
    for machine in EVERY:
        assert machine.runs_here == (machine.isa in (HOST.isa, *HOST.narrower()) and machine.amx <= HOST.amx)
        assert set(machine.features.split(",")) & {"+amx-tile"} <= ({"+amx-tile"} if machine.amx or HOST.amx else set())


def test_a_file_is_a_machine(tmp_path, monkeypatch):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(WHOLE | {"peaks": PEAKS, "name": "mine\x1b[31m"}))
    monkeypatch.setenv("DOJANG_MACHINE", str(path))
    machine = Machine.host()
    assert (machine.isa, machine.cores, machine.l1, machine.l2, machine.l3) == ("generic", 3, 32768, 262144, 1 << 20)
    assert asdict(machine.peaks) == PEAKS
    assert machine.runs_here
    assert machine.name == "mine\\x1b[31m"
    assert str(path) in machine.source
    assert Machine.processor() is HOST


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"isa": "sse9"}, 'isa is "sse9"; use one of avx512'),
        ({"isa": None}, "isa is missing"),
        ({"isa": ["avx2"]}, "isa is"),
        ({"cores": 0}, "cores is 0: a whole number from 1"),
        ({"cores": True}, "cores is true"),
        ({"cores": 2.0}, "cores is 2.0"),
        ({"l1_bytes": 10**400}, "l1_bytes is 1000"),
        ({"l1_bytes": 512}, "l1_bytes is 512"),
        ({"l2_bytes": 8192}, "must not shrink"),
        ({"family": "amd-zen9"}, 'family is "amd-zen9"; with isa generic use one of'),
        ({"family": {}}, "family is {}"),
        ({"isa": "avx2", "family": "apple"}, "with isa avx2 use one of"),
        ({"amx": 1}, "amx is 1"),
        ({"amx": True}, "with isa avx512 only"),
        ({"l4_bytes": 1 << 20}, "'l4_bytes' is not known"),
        ({"schema": "dojang.machine/2"}, "this version reads dojang.machine/1"),
        ({"peaks": {}}, "peaks must hold"),
    ],
)
def test_fields_that_make_no_machine_are_named(tmp_path, change, said):
    path = tmp_path / "m.json"
    path.write_text(json.dumps({k: v for k, v in (WHOLE | change).items() if v is not None}))
    with pytest.raises(FileError, match=re.escape(said)):
        described(str(path))


@pytest.mark.parametrize("said", ["server", "/no/such/file", "a\x1b[31mb", "a\0b", "x" * 5000, "."])
def test_names_that_are_no_machine(said):
    with pytest.raises((UsageError, FileError), match="DOJANG_MACHINE=") as caught:
        described(said)
    assert "\x1b" not in str(caught.value)


def test_a_pipe_does_not_block(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes here")
    os.mkfifo(tmp_path / "p")
    with pytest.raises(FileError, match="no regular file"):
        described(str(tmp_path / "p"))


@pytest.mark.parametrize(
    "machine", [m for m in EVERY if not m.runs_here] + [Machine.cross("neon")], ids=lambda m: m.name
)
def test_a_wider_machine_may_be_planned_for_and_not_run(machine):
    import numpy as np

    from dojang.engine.compiled import compile
    from nets import plain, weighted

    if machine.isa == HOST.isa and machine.amx <= HOST.amx:
        pytest.skip("it runs here")
    engine = compile(weighted(plain()), machine=machine)
    plan = engine.plan(4)
    assert (plan.isa, plan.batch, plan.threads, plan.peaks) == (machine.isa, 4, machine.cores, machine.peaks)
    assert plan.predicted_s > 0
    with pytest.raises(UnsupportedError, match="cannot run on this processor") as caught:
        engine(np.zeros((1, 3, 8, 8), "f4"))
    assert isinstance(caught.value, DojangError)


@pytest.mark.parametrize("machine", EVERY, ids=name_of)
def test_equal_machines_are_equal_whatever_they_are_called(machine):
    twin = replace(machine, name="twin", source="elsewhere")
    assert twin == machine
    assert hash(twin) == hash(machine)
    assert twin != replace(machine, peaks=replace(machine.peaks, read_gbs=1.0))


def test_descriptions_differ_in_what_plans_look_at():
    """Three that differ in nothing would show nothing when the tests pass under each of them."""
    seen = {(m.vector_bytes, m.l1, m.l2, m.cores, m.peaks) for m in (SERVER_AVX512, LAPTOP, TINY)}
    assert len(seen) == 3
