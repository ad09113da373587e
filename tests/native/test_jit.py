"""Machine code from disk: found again, rebuilt when damaged, bounded, never half written."""

import os
import subprocess
import sys

import numpy as np
import pytest

from dojang.base.errors import UnsupportedError, UsageError
from dojang.native import cache, jit
from dojang.native.emit import I64, PTR, Emit
from dojang.native.machine import Machine

HOST = Machine.host()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DOJANG_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def plus(number):
    b = Emit.begin("plus", {"n": I64, "out": PTR}, HOST)
    b.vstore(b.add(b.arg.n, number), b.arg.out, I64)
    return b.finish()


def call(native, n):
    out = np.zeros(1, np.int64)
    native.function("plus", 2)(n, out.ctypes.data)
    return int(out[0])


def entry():
    (path,) = (jit.cache_dir() / "objects").glob("*/*.o")
    return path


def test_found_again_on_disk():
    first = jit.load(plus(7), HOST)
    assert not first.from_disk
    assert call(first, 1) == 8
    assert jit.load(plus(7), HOST) is first
    del first
    again = jit.load(plus(7), HOST)
    assert again.from_disk
    assert call(again, 1) == 8
    assert jit.cache_bytes() == entry().stat().st_size


@pytest.mark.parametrize("damage", [b"", b"dojang-object-1\n", None])
def test_damaged_entry_is_rebuilt(damage):
    jit.load(plus(9), HOST)
    whole = entry().read_bytes()
    entry().write_bytes(whole[:-20] + bytes(20) if damage is None else damage)
    native = jit.load(plus(9), HOST)
    assert not native.from_disk
    assert call(native, 1) == 10
    assert entry().read_bytes() == whole


def test_bounded():
    for number in range(3):
        jit.load(plus(100 + number), HOST)
        os.utime(cache.object_path(jit.key_of(plus(100 + number), HOST)), (number, number))
    size = jit.cache_bytes() // 3
    cache.trim(2 * size)
    left = [n for n in range(3) if cache.object_path(jit.key_of(plus(100 + n), HOST)).exists()]
    assert left == [1, 2]
    assert jit.clear_cache() == 2


def test_entries_of_all_processes_stay_below_the_limit_and_those_beside_a_new_one_are_looked_at(monkeypatch):
    """Every entry has 1,060 bytes, four fit into a folder; another process has left three, the oldest of all."""
    monkeypatch.setattr(cache, "LIMIT", cache.FOLDERS * 4500)
    others = [cache.cache_dir() / "objects" / "07" / f"07{n:062x}.o" for n in range(3)]
    elsewhere = cache.cache_dir() / "objects" / "09" / f"09{0:062x}.o"
    for number, path in enumerate([*others, elsewhere]):
        assert cache.keep(f"objects/{path.parent.name}", path.name, bytes(9000 if path is elsewhere else 1060))
        os.utime(path, (number, number))
    keys = [f"07{n:062x}" for n in range(100, 110)]
    for number, key in enumerate(keys):
        cache.keep_object(key, bytes(1000))
        os.utime(cache.object_path(key), (100 + number, 100 + number))
        there = [path.stem for path in (cache.cache_dir() / "objects" / "07").iterdir()]
        assert len(there) == 4
        assert cache.read_object(key) == bytes(1000)
        os.utime(cache.object_path(key), (100 + number, 100 + number))
    assert sorted(there) == keys[-4:]
    assert elsewhere.exists()
    cache.keep_object(keys[0], bytes(9000))  # more than the folder's share: it alone stays
    assert [path.stem for path in (cache.cache_dir() / "objects" / "07").iterdir()] == [keys[0]]
    monkeypatch.setattr(cache, "MOST", 2 * cache.FOLDERS)
    for key in keys[1:5]:
        cache.keep_object(key, b"")
    assert len(list((cache.cache_dir() / "objects" / "07").iterdir())) == 2


def test_unwritable_folder_only_costs_time(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DOJANG_CACHE_DIR", str(tmp_path / "file"))
    assert call(jit.load(plus(11), HOST), 1) == 12


def test_killed_while_writing_leaves_no_entry(own_cache):
    code = (
        "import os\nfrom dojang.native import jit\nfrom dojang.native.machine import Machine\n"
        "os.replace = lambda *a: os._exit(9)\n"
        f"jit.load({plus(13)!r}, Machine.host())\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert not list(own_cache.glob("objects/*/[!.]*.o"))
    assert call(jit.load(plus(13), HOST), 1) == 14


def test_key_depends_on_the_processor():
    keys = {jit.key_of(plus(1), m) for m in (HOST, Machine.cross("neon"), Machine.cross("avx2"))}
    assert len(keys) == 3


def test_other_processors_do_not_load():
    with pytest.raises(UnsupportedError, match="cannot run on this processor"):
        jit.load(plus(1), Machine.cross("neon"))
    with pytest.raises(UsageError, match="cannot be restricted"):
        Machine.cross("neon").restrict("avx512")


def reached(monkeypatch, module):
    """Modules whose source the key of a kernel written by `module` depends on."""
    found = {}
    real = jit._source
    monkeypatch.setattr(jit, "_source", lambda name: found.setdefault(name, real(name)))
    jit.sources_of.__wrapped__(module)
    return {name for name, path in found.items() if path is not None}


def test_key_follows_imports_and_no_others(monkeypatch):
    found = reached(monkeypatch, "dojang.engine.kernels.conv.winograd")
    short = {name.removeprefix("dojang.") for name in found}
    assert {
        "engine.kernels.conv.winograd_stages",
        "engine.kernels.conv.interpolate",
        "native.emit",
        "native.machine",
    } <= short
    assert "arith.conv" in short  # imported by a module that it imports
    assert not {"engine.kernels.other.pool", "engine.plan.network", "engine.compiled"} & short


def test_kernels_missing_together_are_the_same_as_one_by_one():
    recipes = [jit.Recipe(f"plus {n}", lambda n=n: plus(n), "dojang.native.emit") for n in (3, 4, 5, 4)]
    natives = jit.load_recipes(recipes, HOST)
    assert [call(native, 10) for native in natives] == [13, 14, 15, 14]
    assert natives[1] is natives[3]
    assert not natives[0].from_disk
    assert jit.load_recipe(recipes[0], HOST) is natives[0]


def test_a_kernel_that_cannot_be_written_raises():
    def fails():
        raise ZeroDivisionError

    recipes = [jit.Recipe(f"fails {n}", fails, "dojang.native.emit") for n in range(3)]
    with pytest.raises(ZeroDivisionError):
        jit.load_recipes(recipes, HOST)
