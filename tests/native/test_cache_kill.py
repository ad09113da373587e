"""A process killed while it compiles leaves a cache that works; many processes and threads may share one."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import dojang
from dojang.native import cache
from waiting import until

pytestmark = pytest.mark.slow

WORK = """
import sys
import numpy as np
import dojang
print("ready", flush=True)
for k in range(1, 60):
    dojang.conv(np.ones((1, k, 9, 9), "f4"), np.ones((k + 1, k, 3, 3), "f4"))
"""


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DOJANG_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def start():
    process = subprocess.Popen([sys.executable, "-c", WORK], stdout=subprocess.PIPE, env=os.environ.copy())
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_killed_while_compiling(own_cache: Path) -> None:
    for more in (1, 4, 9):
        before = len(list(own_cache.glob("objects/*/*.o")))
        process = start()
        until(lambda most=before + more: len(list(own_cache.glob("objects/*/*.o"))) >= most, f"{more} more kernels")
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        assert process.returncode == -signal.SIGKILL
        process.stdout.close()
    entries = [p.stem for p in own_cache.glob("objects/*/[!.]*.o")]  # a name with a dot was being written
    assert entries
    assert all(cache.read_object(key) is not None for key in entries)  # none is half written
    y = dojang.conv(np.ones((1, 2, 9, 9), "f4"), np.ones((3, 2, 3, 3), "f4"))
    assert (y == 18).all()
    cache.trim(0)  # what was left half written counts, and goes
    assert not list(own_cache.glob("objects/*/*"))


def test_every_damaged_entry_is_rebuilt(own_cache: Path) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 5, 11, 11)).astype("f4"), rng.standard_normal((7, 5, 3, 3)).astype("f4")
    code = (
        "import sys, numpy as np, dojang\n"
        "x, w = (np.load(p) for p in sys.argv[1:3])\n"
        "np.save(sys.argv[3], dojang.conv(x, w, padding=1))\n"
    )
    names = [str(own_cache.parent / n) for n in ("x.npy", "w.npy", "y.npy")]
    np.save(names[0], x)
    np.save(names[1], w)
    answers, used = [], set()
    for damage in (None, b"", b"garbage", "flip"):
        for path in own_cache.glob("objects/*/*.o"):
            whole = path.read_bytes()
            if damage == "flip" and len(whole) < 100:
                continue  # damaged before, and not needed since
            if damage == "flip":
                path.write_bytes(whole[:60] + bytes([whole[60] ^ 1]) + whole[61:])
            elif damage is not None:
                path.write_bytes(damage)
        subprocess.run([sys.executable, "-c", code, *names], check=True)
        answers.append(np.load(names[2]))
        whole_now = {p.stem for p in own_cache.glob("objects/*/*.o") if cache.read_object(p.stem) is not None}
        used = used or whole_now
        assert len(whole_now) >= 3
        assert used <= whole_now
    assert all((a == answers[0]).all() for a in answers)


def test_many_threads_compile_and_run_at_once(own_cache: Path) -> None:
    """Eight threads, new sizes all the time, one session for all; every answer is that of one thread alone."""
    from dojang.arith.graph import Graph, Node
    from dojang.engine.compiled import compile

    rng = np.random.default_rng(1)
    nodes = (
        Node.of("x", "input", shape=(3, 8, 8)),
        Node.of("c", "conv", "x", out=8, kernel=(3, 3), padding=1),
        Node.of("s", "log_softmax", "c", axis=1),  # between two native programs
        Node.of("d", "conv", "s", out=4, kernel=(1, 1)),
    )
    graph = Graph(nodes, ("d",), "shared")
    weights = {k: rng.standard_normal(s).astype("f4") for k, s in graph.param_shapes.items()}
    graph = graph.replace(weights=weights)
    shared, xs = compile(graph, threads=2), [rng.standard_normal((n, 3, 8, 8)).astype("f4") for n in range(1, 5)]
    right = [compile(graph, threads=1)(x) for x in xs]
    wrong, begin = [], threading.Barrier(8)

    def work(k: int) -> None:
        begin.wait()
        for turn in range(12):
            n = (k + turn) % 4
            taps = ("c",) if turn % 3 == 0 else ()
            if not np.allclose(shared.run(xs[n], taps).outputs[0], right[n], rtol=1e-6, atol=1e-6):
                wrong.append((k, turn))

    workers = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
