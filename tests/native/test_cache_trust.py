"""Whom the cache trusts, tried with real users, modes, links and read-only file systems."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dojang.native import cache

SOURCE = Path(__file__).parents[2] / "src"
pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users here")
STRANGER = 12345
WORK = """
import sys
import numpy as np
import dojang
from dojang.native import cache, jit
got = dojang.conv(np.ones((1, 2, 9, 9), "f4"), np.ones((3, 2, 3, 3), "f4"))
assert (got == 18).all()
found = list(jit._loaded.values())
print(sum(n.from_disk for n in found), sum(not n.from_disk for n in found), cache.cache_dir(), cache.distrust())
"""


def child(env=None, user=None, before=()):
    """(kernels from disk, kernels compiled, cache folder, why not) of a process of its own."""
    prefix = list(before)
    if user is not None:
        if os.geteuid() != 0 or not shutil.which("setpriv"):
            pytest.skip("only root can be another user, by setpriv")
        prefix += ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    settings = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE), **(env or {})}
    # The interpreter's own packages must be readable by the other user. Where they are not, it may read anything (but
    # owns and writes no more than before); where that cannot be given, nothing can be tried.
    for reading in ([], [f"--{which}-caps=+dac_read_search" for which in ("inh", "ambient")] if prefix else []):
        command = [*prefix, *(reading if user is not None else []), sys.executable, "-c", WORK]
        done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
        if not done.returncode or ("Permission denied" not in done.stderr and "No module named" not in done.stderr):
            break
    else:
        pytest.skip("another user cannot read this Python")
    assert done.returncode == 0, done.stderr
    disk, made, folder, why = done.stdout.strip().split(" ", 3)
    return int(disk), int(made), Path(folder), why, done.stderr


@pytest.fixture
def open_folder():
    """A folder that every user can reach, unlike pytest's own."""
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="dojang-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def modes(folder):
    return {stat.S_IMODE(p.stat().st_mode) for p in folder.rglob("*.o")}


def test_entries_are_readable_by_all_whatever_the_mask(open_folder):
    for mask in (0o077, 0o002):
        folder = open_folder / f"c{mask}"
        code = f"import os; os.umask({mask})\n" + WORK
        env = {**os.environ, "PYTHONPATH": str(SOURCE), "DOJANG_CACHE_DIR": str(folder)}
        subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True)
        assert modes(folder) == {0o644}
        assert child({"DOJANG_CACHE_DIR": str(folder)})[0] > 0


def test_a_cache_of_root_is_used_by_others_who_cannot_write_it(open_folder):
    folder = open_folder / "baked"
    _, made, *_ = child({"DOJANG_CACHE_DIR": str(folder)})
    assert made
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*.o")}
    disk, made, *_ = child({"DOJANG_CACHE_DIR": str(folder)}, user=STRANGER)
    assert disk
    assert not made
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.o")} == before


def test_another_users_cache_is_not_used_and_that_is_said(open_folder):
    folder = open_folder / "theirs"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    os.chown(folder, STRANGER, STRANGER)
    assert child({"DOJANG_CACHE_DIR": str(folder)}, user=STRANGER)[1]
    entries = sorted(folder.rglob("*.o"))
    assert entries
    disk, made, _, why, said = child({"DOJANG_CACHE_DIR": str(folder)})
    assert not disk
    assert made
    assert f"belongs to user {STRANGER}" in why
    assert said.count("the cache is not used") == 1
    assert sorted(folder.rglob("*.o")) == entries  # nothing was written there either


@pytest.mark.parametrize("who", ["folder", "subfolder", "entry"])
def test_what_others_may_write_is_not_used(open_folder, who):
    folder = open_folder / "cache"
    child({"DOJANG_CACHE_DIR": str(folder)})
    assert child({"DOJANG_CACHE_DIR": str(folder)})[1] == 0
    for path in {"folder": [folder], "subfolder": folder.glob("objects/*"), "entry": folder.rglob("*.o")}[who]:
        path.chmod(path.stat().st_mode | stat.S_IWOTH)
    disk, made, *_ = child({"DOJANG_CACHE_DIR": str(folder)})
    assert not disk
    assert made


def test_links_are_not_followed(open_folder, monkeypatch):
    monkeypatch.setenv("DOJANG_CACHE_DIR", str(open_folder / "cache"))
    cache.keep_object("aa01", b"code")
    assert cache.read_object("aa01") == b"code"
    path = cache.object_path("aa01")
    path.rename(open_folder / "elsewhere.o")
    path.symlink_to(open_folder / "elsewhere.o")
    assert cache.read_object("aa01") is None


def test_an_entry_under_anothers_name_is_not_used(open_folder, monkeypatch):
    monkeypatch.setenv("DOJANG_CACHE_DIR", str(open_folder / "cache"))
    cache.keep_object("aa01", b"code")
    shutil.copy(cache.object_path("aa01"), cache.object_path("aa02"))
    assert cache.read_object("aa02") is None
    os.mkfifo(cache.object_path("aa03"))  # and nobody waits for a writer
    assert cache.read_object("aa03") is None


def test_no_home_and_a_user_that_the_system_does_not_know(open_folder):
    own = open_folder / "tmp"
    own.mkdir()
    own.chmod(0o1777)
    env = {"TMPDIR": str(own)}
    _, made, folder, why, _ = child(env, user=STRANGER)
    assert made
    assert folder == own / f"dojang-{STRANGER}"
    assert why == "None"
    disk, made, *_ = child(env, user=STRANGER)
    assert disk
    assert not made
    given = {**env, "XDG_CACHE_HOME": str(own / "xdg")}
    assert child(given, user=STRANGER)[2] == own / "xdg" / "dojang"
    assert child({**env, "DOJANG_CACHE_DIR": "~/kept"}, user=STRANGER)[1]
    # A folder of that name that somebody else made first is not taken.
    shutil.rmtree(own / f"dojang-{STRANGER}")
    (own / f"dojang-{STRANGER}").mkdir()
    os.chown(own / f"dojang-{STRANGER}", STRANGER + 1, STRANGER + 1)
    disk, made, _, why, _ = child(env, user=STRANGER)
    assert (disk, why.startswith(str(own))) == (0, True)


def test_read_only_file_system(open_folder):
    """The cache's folder mounted read-only, and nowhere else to write."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("mounting needs root and unshare")
    folder = open_folder / "cache"
    child({"DOJANG_CACHE_DIR": str(folder)})
    script = f'mount --bind {open_folder} {open_folder} && mount -o remount,ro,bind {open_folder} && exec "$@"'
    before = ["unshare", "-m", "sh", "-c", script, "sh"]
    if subprocess.run([*before, "true"], check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    disk, made, *_ = child({"DOJANG_CACHE_DIR": str(folder)}, before=before)
    assert disk
    assert not made
    for path in folder.rglob("*.o"):
        path.unlink()
    assert child({"DOJANG_CACHE_DIR": str(folder)}, before=before)[1]
    # Without a home to write to it looks among the temporary files, where an earlier process may have left kernels.
    disk, made, *_ = child({"HOME": str(open_folder), "TMPDIR": str(open_folder)}, before=before)
    assert disk + made


def test_answers_are_right_with_every_one_of_these(open_folder, monkeypatch):
    """Nothing of the above may change an answer."""
    import dojang

    monkeypatch.setenv("DOJANG_CACHE_DIR", "/dev/null/nowhere")
    x = np.random.default_rng(0).standard_normal((1, 3, 7, 7))
    w = np.random.default_rng(1).standard_normal((2, 3, 3, 3))
    taps = [(i, a, b) for i in range(3) for a in range(3) for b in range(3)]
    exact = sum(x[0, i, a : a + 5, b : b + 5] * w[:, i, a, b][:, None, None] for i, a, b in taps)
    assert np.allclose(dojang.conv(x, w)[0], exact)
