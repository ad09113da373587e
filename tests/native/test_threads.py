# ruff: noqa: E501 - trees of control groups, one a line
"""How many threads are used: control groups of both versions (real files, and a real group where one may be made), the
environment, the mask of processors, and a system that gives no threads."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dojang.base.errors import UsageError
from dojang.native import threads

SOURCE = Path(__file__).parents[2] / "src"
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def tree(root, own, mounts, files):
    """A file system as a process sees it: its groups, its mounts, the files of the groups."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(own)
    lines = [
        f"{30 + i} 25 0:{26 + i} {inside} {at} rw,nosuid shared:4 - {kind}\n"
        for i, (inside, at, kind) in enumerate(mounts)
    ]
    (root / "proc/self/mountinfo").write_text("22 28 0:21 / /sys rw - sysfs sysfs rw\n" + "".join(lines))
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V2 = [("/", "/sys/fs/cgroup", "cgroup2 cgroup2 rw")]
V1 = [("/", "/sys/fs/cgroup/cpu,cpuacct", "cgroup cgroup rw,cpu,cpuacct"), ("/", "/sys/fs/cgroup/memory", "cgroup cgroup rw,memory")]  # fmt: skip


@pytest.mark.parametrize(
    ("own", "mounts", "files", "quota"),
    [
        ("0::/a/b\n", V2, {"sys/fs/cgroup/a/b/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", V2, {"sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, None),
        # The group around it allows less.
        ("0::/a/b\n", V2, {"sys/fs/cgroup/a/b/cpu.max": "max 100000\n", "sys/fs/cgroup/a/cpu.max": "25000 50000\n"}, 0.5),
        # In a container the tree is mounted from the group on.
        ("0::/docker/x\n", [("/docker/x", "/sys/fs/cgroup", "cgroup2 cgroup2 rw")], {"sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3.0),
        ("0::/\n", V2, {"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2.0),
        ("0::/../other\n", V2, {"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2.0),
        (
            "5:memory:/a\n4:cpu,cpuacct:/a\n", V1,
            {"sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "250000\n", "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"},
            2.5,
        ),
        (
            "4:cpu,cpuacct:/a\n", V1,
            {"sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"},
            None,
        ),
        ("4:cpuset:/a\n", V1, {}, None),
        ("0::/a b\n", [("/", "/sys/fs/c\\040g", "cgroup2 cgroup2 rw")], {"sys/fs/c g/a b/cpu.max": "100000 100000\n"}, 1.0),
        ("", [], {}, None),
        ("0::/a\n", V2, {"sys/fs/cgroup/a/cpu.max": "nonsense\n"}, None),
    ],
)  # fmt: skip
def test_quotas(tmp_path, own, mounts, files, quota):
    root = tree(tmp_path, own, mounts, files)
    assert threads.cpu_quota(root) == quota
    assert threads.usable_cores(root) == (CORES if quota is None else max(1, min(CORES, -int(-quota // 1))))


def test_no_proc(tmp_path):
    assert threads.usable_cores(tmp_path) == CORES


def test_a_real_group():
    top = Path("/sys/fs/cgroup/cpu") if Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").exists() else Path("/sys/fs/cgroup")
    group = top / f"dojang-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("no control group may be made here")
    try:
        try:
            if (group / "cpu.max").exists():
                (group / "cpu.max").write_text("50000 100000")
            else:
                (group / "cpu.cfs_quota_us").write_text("50000")
        except OSError:
            pytest.skip("this group takes no quota")
        code = "import sys; from dojang.native import threads; print(threads.cpu_quota(), threads.default_threads())"
        script = f"echo $$ > {group}/cgroup.procs && exec {sys.executable} -c '{code}'"
        env = {**os.environ, "PYTHONPATH": str(SOURCE)}
        env.pop("DOJANG_THREADS", None)
        done = subprocess.run(["sh", "-c", script], env=env, capture_output=True, text=True, check=False)
        if done.returncode and "write error" in done.stderr:
            pytest.skip("no process may be moved here")
        assert done.stdout.split() == ["0.5", "1"], done.stderr
    finally:
        group.rmdir()


def test_a_quota_holds_for_a_second(monkeypatch):
    """So that a small picture does not wait for files; after that it is read again."""
    now = threads.usable_cores("/.")  # another name of the root, of which nothing is kept
    monkeypatch.setattr(threads, "monotonic", lambda: 100.0)
    monkeypatch.setattr(threads, "_read", (99.5, 0.5))
    assert threads.usable_cores() == 1
    monkeypatch.setattr(threads, "_read", (98.0, 0.5))
    assert threads.usable_cores() == now


def test_the_environment(monkeypatch):
    monkeypatch.setenv("DOJANG_THREADS", "7")
    assert threads.default_threads() == 7
    with threads.limited(3):
        assert threads.default_threads() == 3
    with threads.limited(None):
        assert threads.default_threads() == 7
    for wrong in ("0", "-1", "2.5", "many", "٣"):
        monkeypatch.setenv("DOJANG_THREADS", wrong)
        with pytest.raises(UsageError, match=r"DOJANG_THREADS=.*whole number"):
            threads.default_threads()
    monkeypatch.delenv("DOJANG_THREADS")
    assert threads.default_threads() == threads.usable_cores()


NET = """
import os, sys, threading
import numpy as np
from dojang.arith.graph import Graph, Node
from dojang.native import runtime
from dojang.engine.compiled import compile
N = Node.of
nodes = [N("x", "input", shape=(16, 40, 40))]
for i in range(4):
    nodes.append(N(f"c{i}", "conv", nodes[-1].name, out=16, kernel=(3, 3), padding=1))
graph = Graph(tuple(nodes), (nodes[-1].name,), "net")
rng = np.random.default_rng(0)
graph = graph.replace(weights={k: rng.standard_normal(s).astype("f4") * .1 for k, s in graph.param_shapes.items()})
x = rng.standard_normal((2, 16, 40, 40)).astype("f4")
right = compile(graph, threads=1)(x)
def same(y): assert (y == right).all()
"""


def run(code, *before, env=None):
    done = subprocess.run(
        [*before, sys.executable, "-W", "error::RuntimeWarning", "-c", NET + code],
        env={**os.environ, "PYTHONPATH": str(SOURCE), **(env or {})}, capture_output=True, text=True, check=False,
        timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.skipif(CORES < 2, reason="needs two processors")
def test_a_mask_that_is_narrowed_later_is_never_left():
    run("""
shared = compile(graph, threads=2)
same(shared(x))
allowed = os.sched_getaffinity(0)
here, other = sorted(allowed)[:2]
for mask in ({here}, {other}, {here, other}, {here}):
    os.sched_setaffinity(0, mask)
    for _ in range(3): same(shared(x))
    for thread in threading.enumerate():  # those of the BLAS library in NumPy are not ours
        assert os.sched_getaffinity(thread.native_id) <= mask, (thread, mask)
os.sched_setaffinity(0, allowed)
same(shared(x))
""")


def test_a_system_that_gives_no_threads(tmp_path):
    """A real limit on the processes of another user; the first call answers all the same, and says so once."""
    if os.geteuid() != 0 or not shutil.which("setpriv") or not shutil.which("prlimit"):
        pytest.skip("needs root, setpriv and prlimit")
    tmp_path.chmod(0o755)
    before = ["prlimit", "--nproc=1:1", "setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]
    if subprocess.run(
        [*before, sys.executable, "-c", "import numpy"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        check=False,
        capture_output=True,
    ).returncode:
        pytest.skip("another user cannot run this Python")
    env = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "DOJANG_CACHE_DIR": "/dev/null/none"}
    done = run("""
try:
    threading.Thread(target=int).start()
except RuntimeError:
    pass
else:
    print("no limit")
    sys.exit()
for batch in range(3): same(compile(graph, threads=2)(x))
same(compile(graph, threads=2)(x))
""", *before, env=env)  # fmt: skip
    if "no limit" in done.stdout:
        pytest.skip("the limit does not hold here")
    assert done.stderr.count("networks run on 1 of 2 threads") == 1


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_while_another_thread_compiles_and_runs(tmp_path):
    """Ten children, forked at ten moments of compiling; each compiles and runs by itself."""
    run("""
import dojang, signal
shared = compile(graph, threads=2)
same(shared(x))
stop = []
rounds = threading.Semaphore(0)
def work(k):
    n = 1
    while not stop:
        n += 1
        dojang.conv(np.ones((1, n, 9, 9), "f4"), np.ones((k + 1, n, 3, 3), "f4"))
        same(shared(x))
        rounds.release()
        if n > 60: n = 1
workers = [threading.Thread(target=work, args=(k,)) for k in range(2)]
for w in workers: w.start()
for turn in range(10):
    for _ in range(1 + turn % 4):
        assert rounds.acquire(timeout=120)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            same(shared(x))
            same(compile(graph, threads=2)(x))
            y = dojang.conv(np.ones((1, 3, 9, 9 + turn), "f4"), np.ones((5, 3, 3, 3), "f4"))
            assert (y == 27).all()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status: stop.append(1)
    assert status == 0, status
stop.append(1)
for w in workers: w.join()
""", env={"DOJANG_CACHE_DIR": str(tmp_path / "cache"), "PYTHONWARNINGS": "ignore"})  # fmt: skip
