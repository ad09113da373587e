"""LLVM IR to machine code in this process, with the object code kept on disk.

The name of an entry is a hash of everything that the code depends on (text, processor, features, LLVM version), so
an entry is never stale. Entries are written whole or not at all, carry a hash of themselves, and are rebuilt when
damaged; the folder is kept below `CACHE_LIMIT` bytes by dropping what was not used for longest.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import re
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import llvmlite.binding as llvm

from dojang.base.errors import UnsupportedError
from dojang.engine.machine import Machine

CACHE_LIMIT = 512 << 20  # bytes of object code on disk; a network of 50 layers takes about 1 MB
_MAGIC = b"dojang-object-1\n"
_KERNEL_PASSES = ("simplify_cfg", "new_gvn", "instruction_combine", "aggressive_dce", "simplify_cfg")
"""For kernels, which say themselves what is unrolled, hoisted and shared: as fast as after all passes of level 2 (0.998
times their time over 46 layers), in a tenth of the time (Zen 3, 2026)."""
_PIPELINE = f"speed 2, no unrolling, no vectorizers; kernels {_KERNEL_PASSES}"  # part of the key
_lock = threading.RLock()
_loaded: weakref.WeakValueDictionary[str, Native] = weakref.WeakValueDictionary()
_stores = 0
_ready = False


class Native:
    """Machine code in memory, alive as long as this object or any function taken from it."""

    def __init__(self, engine: llvm.ExecutionEngine, key: str, from_disk: bool) -> None:
        """Takes over an engine whose object is loaded and finalized."""
        self._engine = engine
        self.key = key
        self.from_disk = from_disk

    def address(self, name: str) -> int:
        """The address of a function, as an integer."""
        with _lock:
            address = self._engine.get_function_address(name)
        if not address:
            raise KeyError(name)
        return address

    def function(self, name: str, args: int | Sequence[type], result: type | None = None) -> Callable:
        """A callable; the interpreter's lock is released while it runs.

        `args` is a number of 64-bit integers (pointers are passed as integers: `array.ctypes.data`), or ctypes types.
        """
        types = [ctypes.c_int64] * args if isinstance(args, int) else list(args)
        function = ctypes.CFUNCTYPE(result, *types)(self.address(name))
        function.native = self  # type: ignore[attr-defined]  # keeps the code in memory
        return function


@dataclass(frozen=True)
class Recipe:
    """A kernel that is written only when its code is not there. `text` says all that `build` depends on besides source
    files; `depends` is the module that writes it, whose files (itself and what it imports) are part of the key, so
    that a changed kernel is compiled anew. `thorough`: all passes, for code that leaves work to the compiler.
    """

    text: str
    build: Callable[[], str]
    depends: str
    thorough: bool = False

    def key(self, machine: Machine) -> str:
        """The name of the cache entry."""
        return key_of(f"{sources_of(self.depends)}\0{self.thorough}\0{self.text}", machine)


def load(text: str, machine: Machine, keep: bool = True, thorough: bool = True) -> Native:
    """Machine code for a module of IR text, from memory, from disk, or compiled now (and then kept on disk)."""
    return _load(key_of(text if thorough else f"kernel\0{text}", machine), lambda: text, machine, keep, thorough)


def load_recipe(recipe: Recipe, machine: Machine) -> Native:
    """Like `load`, without writing the IR when the code is there."""
    return _load(recipe.key(machine), recipe.build, machine, True, recipe.thorough)


def load_recipes(recipes: Sequence[Recipe], machine: Machine) -> list[Native]:
    """`load_recipe` of each; while one is compiled, another thread writes those that are missing after it."""
    keys = [r.key(machine) for r in recipes]
    missing = {k: r for k, r in zip(keys, recipes, strict=True) if k not in _loaded and not _path(k).exists()}
    if len(missing) < 2:
        return [load_recipe(r, machine) for r in recipes]
    with ThreadPoolExecutor(1, "dojang-write") as writer:
        texts = {k: writer.submit(r.build) for k, r in missing.items()}
        try:
            return [
                _load(k, texts[k].result if k in texts else r.build, machine, True, r.thorough)
                for k, r in zip(keys, recipes, strict=True)
            ]
        finally:
            writer.shutdown(cancel_futures=True)


_IMPORT = re.compile(r"^\s*(?:from\s+(dojang[\w.]*)\s+import\s+(\([^)]*\)|.*)|import\s+(dojang[\w.]*))", re.MULTILINE)


@cache
def sources_of(module: str) -> str:
    """A hash of the source files of a module and of all modules of dojang that it imports, wherever it does."""
    files: dict[str, bytes] = {}
    left = [module]
    while left:
        name = left.pop()
        if name in files:
            continue
        path = _source(name)
        if path is None:
            continue
        files[name] = path.read_bytes()
        for package, names, whole in _IMPORT.findall(files[name].decode()):
            left.append(package or whole)
            left += [f"{package}.{part}" for part in re.findall(r"\w+", names) if package]
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + files[name])
    return digest.hexdigest()


def _source(module: str) -> Path | None:
    """The file of a module; None for names that are no module, and for packages, which write no kernels."""
    path = Path(__file__).parents[1].joinpath(*module.split(".")[1:]).with_suffix(".py")
    return path if path.is_file() else None


def _load(key: str, build: Callable[[], str], machine: Machine, keep: bool, thorough: bool) -> Native:
    machine.require_here()
    with _lock:
        found = _loaded.get(key)
        if found is not None:
            return found
        data = _read(key) if keep else None
        native = _link(data, key, True) if data is not None else None
        if native is None:
            data = compile_object(build(), machine, thorough)
            if keep:
                _write(key, data)
            native = _link(data, key, False)
            if native is None:
                raise UnsupportedError("the compiler's object code cannot be loaded in this process")
        _loaded[key] = native
        return native


def key_of(text: str, machine: Machine) -> str:
    """The name of a cache entry: a hash of text, processor, features, LLVM version and pipeline."""
    parts = (text, machine.triple, machine.cpu, machine.features, str(llvm.llvm_version_info), _PIPELINE)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]


def compile_object(text: str, machine: Machine, thorough: bool = True) -> bytes:
    """Optimised object code of a module of IR text, for any machine that this LLVM knows."""
    with _lock:
        target = _target(machine)
        module = llvm.parse_assembly(text)
        module.verify()
        _optimise(module, target, thorough)
        return target.emit_object(module)


def assembly(text: str, machine: Machine, thorough: bool = False) -> str:
    """Like `compile_object`, as assembly to read."""
    with _lock:
        target = _target(machine)
        module = llvm.parse_assembly(text)
        _optimise(module, target, thorough)
        return target.emit_assembly(module)


def cache_dir() -> Path:
    """Where object code is kept: DOJANG_CACHE_DIR, else the platform's cache folder."""
    if os.environ.get("DOJANG_CACHE_DIR"):
        return Path(os.environ["DOJANG_CACHE_DIR"]).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "dojang" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/dojang"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dojang"


def cache_bytes() -> int:
    """Bytes of object code on disk."""
    return sum(size for _, size, _ in _entries())


def clear_cache() -> int:
    """Removes all object code from disk; returns how many entries."""
    entries = _entries()
    for _, _, path in entries:
        path.unlink(missing_ok=True)
    return len(entries)


def _initialize() -> None:
    global _ready
    if not _ready:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        _ready = True


def _target(machine: Machine) -> llvm.TargetMachine:
    _initialize()
    return llvm.Target.from_triple(machine.triple).create_target_machine(
        cpu=machine.cpu, features=machine.features, opt=3, reloc="pic", codemodel="default"
    )


def _optimise(module: llvm.ModuleRef, target: llvm.TargetMachine, thorough: bool) -> None:
    # Kernels say themselves what is unrolled and what is a vector; left to it, the compiler unrolls again and spills.
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_unrolling = options.loop_vectorization = options.slp_vectorization = False
    builder = llvm.create_pass_builder(target, options)
    if thorough:
        passes = builder.getModulePassManager()
    else:
        passes = llvm.create_new_module_pass_manager()
        for name in _KERNEL_PASSES:
            getattr(passes, f"add_{name}_pass")()
    passes.run(module, builder)


def _link(data: bytes, key: str, from_disk: bool) -> Native | None:
    llvm.initialize_native_target()  # all targets take 5 ms, which code from disk need not wait for
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target)
    try:
        engine.add_object_file(llvm.ObjectFileRef.from_data(data))
        engine.finalize_object()
    except RuntimeError:
        return None
    return Native(engine, key, from_disk)


def _path(key: str) -> Path:
    return cache_dir() / "objects" / key[:2] / f"{key}.o"


def _read(key: str) -> bytes | None:
    """The object code of an entry, or None if it is absent or damaged."""
    path = _path(key)
    try:
        raw = path.read_bytes()
        magic, digest, data = raw[: len(_MAGIC)], raw[len(_MAGIC) : len(_MAGIC) + 32], raw[len(_MAGIC) + 32 :]
        if magic != _MAGIC or hashlib.sha256(data).digest() != digest:
            return None
        os.utime(path)
    except OSError:
        return None
    return data


def _write(key: str, data: bytes) -> None:
    """Keeps an entry. A folder that cannot be written costs time at the next start, nothing else."""
    global _stores
    path = _path(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    except OSError:
        return
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_MAGIC + hashlib.sha256(data).digest() + data)
        os.replace(name, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(name)
        return
    _stores += 1
    if _stores % 64 == 1:
        _trim()


def _entries() -> list[tuple[float, int, Path]]:
    """(last use, bytes, path) of every file in the cache."""
    found = []
    for path in (cache_dir() / "objects").glob("*/*"):
        with contextlib.suppress(OSError):
            stat = path.stat()
            found.append((stat.st_mtime, stat.st_size, path))
    return found


def _trim(limit: int | None = None) -> None:
    """Drops the entries that were not used for longest until the cache is below the limit."""
    limit = CACHE_LIMIT if limit is None else limit
    entries = sorted(_entries())
    total = sum(size for _, size, _ in entries)
    for _, size, path in entries:
        if total <= limit:
            break
        with contextlib.suppress(OSError):
            path.unlink()
        total -= size
