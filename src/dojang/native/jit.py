"""LLVM IR to machine code in this process, with the object code kept on disk (`cache.py`).

The name of an entry is a hash of everything that the code depends on (text, processor, features, LLVM version), so
an entry is never stale.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import re
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache as cached
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from dojang.base.errors import UnsupportedError
from dojang.native import cache, forks
from dojang.native.cache import LIMIT as CACHE_LIMIT
from dojang.native.cache import cache_bytes, cache_dir, clear_cache
from dojang.native.machine import Machine

__all__ = ["CACHE_LIMIT", "cache_bytes", "cache_dir", "clear_cache"]
_KERNEL_PASSES = ("simplify_cfg", "new_gvn", "instruction_combine", "aggressive_dce", "simplify_cfg")
"""For kernels, which already unroll, hoist and share by themselves: their code is as fast as after all passes of level
2 (0.998 times the run time over 46 layers), and compiles in a tenth of the time (Zen 3, 2026)."""
_PIPELINE = f"names; speed 2, no unrolling, no vectorizers; kernels {_KERNEL_PASSES}"  # part of the cache key
_lock = threading.RLock()
_loaded: weakref.WeakValueDictionary[str, Native] = weakref.WeakValueDictionary()
_ready = False
# llvmlite lets one thread at a time into LLVM. A fork waits until no thread is in LLVM. An interrupt between the lines
# of llvmlite that acquire and release its lock must not leave it locked.
_foreign: Any = getattr(getattr(getattr(llvm.ffi, "lib", None), "_lock", None), "_lock", None)
COMPILERS = 4
"""Most threads that compile at a time. They write IR in turns, a third of their work, and are in LLVM at once, each
with a context of its own, which LLVM allows and llvmlite's lock does not."""
_seats = tuple(threading.Lock() for _ in range(COMPILERS))  # held by a thread that is in LLVM without llvmlite's lock
forks.whole(*(lock for lock in (*_seats, _lock, _foreign) if lock is not None))


class _Healed:
    """Leaves llvmlite's lock as it was; the caller has `_lock`.

    An interrupt between the lines of llvmlite that acquire and release its lock leaves it with this thread. In a
    destructor of llvmlite Python even drops the exception, so this looks however the block ends. A thread that has the
    lock before the block is in LLVM, in a signal's handler that interrupted it, and returns to it.
    """

    def __enter__(self) -> None:
        """Notes whether this thread is in LLVM."""
        self._inside = _owned()

    def __exit__(self, *raised: object) -> None:
        """Releases what an interrupt left."""
        while not self._inside and _owned():
            _foreign.release()


def _owned() -> bool:
    """Whether this thread has llvmlite's lock; False where that cannot be told."""
    try:
        return _foreign._is_owned()
    except AttributeError:
        return False


_linked: dict[weakref.ref[Any], Any] = {}  # the library of each `Native`
_unused: list[weakref.ref[Any]] = []


def _unload() -> None:
    """Unloads the code that nothing uses any more; the caller has `_lock`.

    The code is not left to the destructors of llvmlite, which could be interrupted anywhere (`_Healed`).
    """
    while _unused:
        _linked.pop(_unused.pop()).close()


class Native:
    """Machine code in memory, alive as long as this object or any function taken from it."""

    def __init__(self, library: Any, key: str, from_disk: bool, size: int) -> None:
        """Of a linked library, which knows its functions; `size` is that of the object, in bytes."""
        self._library = library
        _linked[weakref.ref(self, _unused.append)] = library
        self.key, self.from_disk, self.size = key, from_disk, size

    def address(self, name: str) -> int:
        """The address of a function, as an integer. Raises `KeyError`."""
        return self._library[name]

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
    """A kernel whose IR is built only if its code is not cached. `text` names everything that `build` depends on except
    source files; `depends` is the module that builds it, whose source files (with its imports) are part of the key, so
    that a changed kernel is compiled again. `thorough`: all passes, for code that leaves optimisation to the compiler.
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
    """Like `load`, but builds the IR only if the code is not cached."""
    return _load(recipe.key(machine), recipe.build, machine, True, recipe.thorough)


def load_recipes(recipes: Sequence[Recipe], machine: Machine) -> list[Native]:
    """`load_recipe` of each; what is missing is compiled by as many threads as there are processors."""
    keys = [r.key(machine) for r in recipes]
    missing = {
        k: r for k, r in zip(keys, recipes, strict=True) if k not in _loaded and not cache.object_path(k).exists()
    }
    if len(missing) < 2:
        return [load_recipe(r, machine) for r in recipes]
    machine.require_here()
    with ThreadPoolExecutor(min(len(missing), COMPILERS, processors()), "dojang-compile") as compilers:
        made: dict[str, Future[bytes]] = {}
        with contextlib.suppress(RuntimeError):  # the system refuses a thread: this thread compiles all of them
            for k, r in missing.items():
                made[k] = compilers.submit(_compile_at_once, r, machine)
        try:
            return [
                _load(k, r.build, machine, True, r.thorough, made[k].result if k in made else None)
                for k, r in zip(keys, recipes, strict=True)
            ]
        finally:
            compilers.shutdown(cancel_futures=True)


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _compile_at_once(recipe: Recipe, machine: Machine) -> bytes:
    """The entry of a recipe, made while other threads are in LLVM."""
    text = recipe.build()
    with _lock, _Healed():
        target = _target(machine)
        laid_out = _laid_out(text, machine, target)
        passes, builder = _passes(target, recipe.thorough)
        context = llvm.create_context()
    seat = next((s for s in _seats if s.acquire(blocking=False)), None)
    if seat is None:
        seat = _seats[0]
        seat.acquire()
    try:
        return _entry(text, _Unlocked(target, context).compile(laid_out, passes, builder))
    finally:
        seat.release()


class _Unlocked:
    """The three steps of compiling that take long, without llvmlite's lock: of a context and a target of one thread."""

    def __init__(self, target: llvm.TargetMachine, context: Any) -> None:
        """Where llvmlite has other names for them, `AttributeError`."""
        self.target, self.context = target, context
        names = ("ParseAssembly", "VerifyModule", "RunNewModulePassManager", "TargetMachineEmitToMemory")
        self.parse, self.verify, self.run, self.emit = (getattr(llvm.ffi.lib, f"LLVMPY_{n}")._cfn for n in names)

    def compile(self, text: str, passes: Any, builder: Any) -> bytes:
        """Optimised object code of a module of IR text."""
        ffi = llvm.ffi
        with ffi.OutputString() as said:
            module = llvm.ModuleRef(self.parse(self.context, text.encode(), said), self.context)
            try:
                if said or self.verify(module, said):
                    raise RuntimeError(str(said))
                self.run(passes, module, builder)
                memory = self.emit(self.target, module, 1, said)
                if not memory:
                    raise RuntimeError(str(said))
            finally:
                module.close()
        try:
            start, size = ffi.lib.LLVMPY_GetBufferStart(memory), ffi.lib.LLVMPY_GetBufferSize(memory)
            return ctypes.string_at(start, size)
        finally:
            ffi.lib.LLVMPY_DisposeMemoryBuffer(memory)


_IMPORT = re.compile(r"^\s*(?:from\s+(dojang[\w.]*)\s+import\s+(\([^)]*\)|.*)|import\s+(dojang[\w.]*))", re.MULTILINE)


@cached
def sources_of(module: str) -> str:
    """A hash of the source files of a module and of all modules of dojang that it imports, also inside functions."""
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
    """The file of a module; None for other names, and for packages, which build no kernels."""
    path = Path(__file__).parents[1].joinpath(*module.split(".")[1:]).with_suffix(".py")
    return path if path.is_file() else None


def _load(
    key: str,
    build: Callable[[], str],
    machine: Machine,
    keep: bool,
    thorough: bool,
    made: Callable[[], bytes] | None = None,
) -> Native:
    """`made` waits for an entry that another thread compiles; in its place `build` gives the IR."""
    machine.require_here()
    waited = made() if made is not None else None  # before the lock, which others need meanwhile
    with _lock, _Healed():
        _unload()
        found = _loaded.get(key)
        if found is not None:
            return found
        data = cache.read_object(key) if keep else None
        native = _link(data, key, True) if data is not None else None
        if native is None:
            data = waited
            if data is None:
                text = build()
                data = _entry(text, compile_object(text, machine, thorough))
            if keep:
                cache.keep_object(key, data)
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
    with _lock, _Healed():
        return _compiled(text, machine, thorough)


def assembly(text: str, machine: Machine, thorough: bool = False) -> str:
    """Like `compile_object`, as assembly to read."""
    with _lock, _Healed():
        return _compiled(text, machine, thorough, as_text=True)


def _compiled(text: str, machine: Machine, thorough: bool, as_text: bool = False) -> Any:
    """What LLVM works with ends with this function, while its caller still has `_lock`."""
    target = _target(machine)
    module = llvm.parse_assembly(_laid_out(text, machine, target))
    module.verify()
    _optimise(module, target, thorough)
    return target.emit_assembly(module) if as_text else target.emit_object(module)


def _initialize() -> None:
    global _ready
    if not _ready:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        _ready = True


def _target(machine: Machine) -> llvm.TargetMachine:
    _initialize()
    reloc = "static" if machine.triple.startswith("wasm") else "pic"
    return llvm.Target.from_triple(machine.triple).create_target_machine(
        cpu=machine.cpu, features=machine.features, opt=3, reloc=reloc, codemodel="default"
    )


def _laid_out(text: str, machine: Machine, target: llvm.TargetMachine) -> str:
    """The module with the sizes of a machine of 32 bits stated; without, passes would take pointers for 64 bits."""
    if not machine.triple.startswith("wasm"):
        return text
    return text.replace('target datalayout = ""', f'target datalayout = "{target.target_data}"', 1)


def _optimise(module: llvm.ModuleRef, target: llvm.TargetMachine, thorough: bool) -> None:
    passes, builder = _passes(target, thorough)
    passes.run(module, builder)


def _passes(target: llvm.TargetMachine, thorough: bool) -> tuple[Any, Any]:
    """What optimises a module, and what this works with."""
    # Kernels unroll and vectorise by themselves; the compiler would unroll again, and spill registers.
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_unrolling = options.loop_vectorization = options.slp_vectorization = False
    builder = llvm.create_pass_builder(target, options)
    if thorough:
        passes = builder.getModulePassManager()
    else:
        passes = llvm.create_new_module_pass_manager()
        for name in _KERNEL_PASSES:
            getattr(passes, f"add_{name}_pass")()
    return passes, builder


class _Linker:
    """One of LLVM's in-process linkers, which lays code and constants of an object side by side in one mapping.

    (MCJIT maps them one by one, which aborts the process if the free addresses are more than 2 GiB apart.) Of unloaded
    code a name of some kilobytes remains in the linker, so each linker takes `MOST` objects and is then replaced.
    """

    MOST = 64

    def __init__(self) -> None:
        """A new linker without objects."""
        llvm.initialize_native_target()  # initialising all targets takes 5 ms; code from disk does not need them
        llvm.initialize_native_asmprinter()
        target = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine()
        self.jit = llvm.create_lljit_compiler(target, use_jit_link=True)
        self.count = 0

    def link(self, names: Sequence[str], data: bytes) -> Any:
        """A library with an object's code, which knows the addresses of these functions. Raises `RuntimeError`.

        The addresses come with the library: each of those that LLJIT looks up afterwards is an object that unloads the
        code when it is deleted, as it would be by an interrupt before anything holds it.
        """
        self.count += 1
        library = llvm.JITLibraryBuilder().add_object_img(data).add_current_process()
        for name in names:
            library.export_symbol(name)
        return library.link(self.jit, f"object-{self.count}")


_linker: _Linker | None = None


def _link(entry: bytes, key: str, from_disk: bool) -> Native | None:
    """The functions of an entry in memory; None where it holds no object code. Raises `MemoryError`."""
    global _linker
    linker = _linker
    if linker is None or linker.count >= _Linker.MOST:
        full, linker = linker, _Linker()
        _linker = linker
        if full is not None:
            full.jit.close()  # LLVM keeps it until the last of its libraries is unloaded
    names, _, data = entry.partition(b"\n")
    try:
        library = linker.link(names.decode("ascii", "replace").split(), data)
    except RuntimeError as error:
        try:
            llvm.ObjectFileRef.from_data(data)
        except (RuntimeError, ValueError):
            return None
        raise MemoryError(
            f"the system refuses memory for machine code ({error}); free some memory or raise its limit"
        ) from None
    return Native(library, key, from_disk, len(data))


_FUNCTION = re.compile(r'^define (?!internal |private )[^@\n]*@"?(\w+)"?\(', re.MULTILINE)


def _entry(text: str, data: bytes) -> bytes:
    """What is kept of a module of IR text: the names of its functions on a line of their own, and its object code."""
    return " ".join(_FUNCTION.findall(text)).encode() + b"\n" + data


def object_codes(recipes: Sequence[Recipe], machine: Machine) -> list[bytes]:
    """The objects of recipes for any machine that this LLVM knows, from disk or compiled now (and then kept there)."""
    entries = [cache.read_object(r.key(machine)) for r in recipes]
    missing = [k for k, entry in enumerate(entries) if entry is None]
    with ThreadPoolExecutor(max(1, min(len(missing), COMPILERS, processors())), "dojang-compile") as compilers:
        try:
            made = compilers.map(lambda k: _compile_at_once(recipes[k], machine), missing)
            for k, entry in zip(missing, made, strict=True):
                cache.keep_object(recipes[k].key(machine), entry)
                entries[k] = entry
        finally:
            compilers.shutdown(cancel_futures=True)
    return [(entry or b"").partition(b"\n")[2] for entry in entries]
