"""The machine that kernels are written for: instruction set, vector registers, cores, caches, peaks of one core."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import sys
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from dojang.base.errors import DojangError, FileError, UnsupportedError, UsageError
from dojang.base.record import plain_repr
from dojang.base.showing import one_line
from dojang.base.writing import replace_bytes
from dojang.native import descriptions
from dojang.native.cache import cache_dir
from dojang.native.families import FAMILIES, ISAS, Peaks, family_of, is_arm, plain
from dojang.native.threads import usable_cores

_VECTOR_BYTES = {"avx512": 64, "avx2": 32, "neon": 16, "generic": 16, "wasm": 16}
# Browsers turn WebAssembly into code of their machine: of the 16 registers of x86 V8 keeps one, a product takes one.
_REGISTERS = {"avx512": 32, "avx2": 16, "neon": 32, "generic": 16, "wasm": 14}
# For systems that do not report them: cache sizes of common server cores (2020 to 2025), in bytes.
_L1, _L2, _L3 = 32 << 10, 1 << 20, 16 << 20
_PLAIN_PEAKS = FAMILIES["x86-64-v2"].peaks("generic")
_AMX = "+amx-tile,+amx-bf16"


@plain_repr
@dataclass(frozen=True, slots=True)
class Machine:
    """What plans and kernels need to know about a processor. Sizes in bytes; `cores` are those that this process may
    use.

    `Machine.host()` is the one that this process plans for: the one it runs on, unless DOJANG_MACHINE describes
    another (`descriptions.py`). `restrict("avx2")` is the same one with a narrower instruction set;
    `Machine.cross("neon")` is another processor, for which code can be written but not run. `amx`: it has matrix
    tiles of bfloat16, and the system lets this process use them. `family` is a row of `families.FAMILIES`; `peaks` are
    those of the family, or measured ones; `name` and `source` are printed: which machine this is, and where the facts
    are from. Equal machines get equal plans.

    >>> Machine.cross("neon").lanes(4)
    4
    """

    isa: str
    triple: str
    cpu: str
    features: str
    cores: int
    l1: int = _L1
    l2: int = _L2
    l3: int = _L3
    runs_here: bool = True
    amx: bool = False
    family: str = "x86-64-v2"
    peaks: Peaks = _PLAIN_PEAKS
    name: str = field(default="", compare=False)
    source: str = field(default="", compare=False)

    @classmethod
    def host(cls) -> Machine:
        """The machine that this process plans for, determined once. Raises `UsageError` or `FileError` for a bad
        DOJANG_MACHINE."""
        return _host(os.environ.get(descriptions.ENVIRONMENT, ""))

    @classmethod
    def processor(cls) -> Machine:
        """The machine that this process runs on, whatever DOJANG_MACHINE says, with shipped peaks; determined once."""
        return _processor()

    @classmethod
    def cross(cls, isa: str = "neon") -> Machine:
        """A processor of another family, with common cache sizes, typical peaks and 4 cores: AArch64 for "neon", else
        x86-64; "amx" is AVX-512 with matrix tiles; "wasm" is WebAssembly in a browser, on one core.
        """
        if isa == "neon":
            family = FAMILIES["aarch64"]
            return cls("neon", "aarch64-unknown-linux-gnu", "generic", "+neon", 4, runs_here=False,
                       family=family.name, peaks=family.peaks("neon"))  # fmt: skip
        if isa == "wasm":
            family = FAMILIES["wasm32"]
            return cls("wasm", "wasm32-unknown-unknown", "generic", "+simd128,+bulk-memory", 1, runs_here=False,
                       family=family.name, peaks=family.peaks("wasm"), name="a browser",
                       source="typical of WebAssembly")  # fmt: skip
        if isa == "amx":
            return replace(cls.cross("avx512"), features=f"-prefer-256-bit,{_AMX}", amx=True)
        cpu, features = plainest(isa)
        family = FAMILIES[plain(isa)]
        return cls(isa, "x86_64-unknown-linux-gnu", cpu, features, 4, runs_here=False,
                   family=family.name, peaks=family.peaks(isa))  # fmt: skip

    def restrict(self, isa: str) -> Machine:
        """The same machine using only a narrower instruction set ("avx2" on an AVX-512 machine, or "generic"),
        without matrix tiles. Its peak of multiply-adds is scaled like the family's.
        """
        if isa == self.isa:
            return replace(self, amx=False) if self.amx else self
        if isa not in self.narrower():
            raise UsageError(
                f"a {self.isa} machine cannot be restricted to {isa}; use one of {', '.join(self.narrower()) or 'none'}"
            )
        cpu, features = plainest(isa, self.triple)
        per_cycle = FAMILIES[self.family].per_cycle
        gflops = round(self.peaks.fma_gflops * per_cycle[isa] / per_cycle[self.isa], 1)
        peaks = replace(self.peaks, fma_gflops=gflops)
        return replace(self, isa=isa, cpu=cpu, features=features, amx=False, peaks=peaks)

    def narrower(self) -> tuple[str, ...]:
        """The instruction sets that this machine has besides its own, widest first."""
        return {"avx512": ("avx2", "generic"), "avx2": ("generic",), "neon": ("generic",)}.get(self.isa, ())

    @property
    def vector_bytes(self) -> int:
        """Bytes of one vector register."""
        return _VECTOR_BYTES[self.isa]

    @property
    def registers(self) -> int:
        """Number of vector registers."""
        return _REGISTERS[self.isa]

    def lanes(self, element_bytes: int = 4) -> int:
        """Elements of this size in one vector register: 16 float32 in AVX-512."""
        return self.vector_bytes // element_bytes

    def tile_rows(self, vectors: int, spare: int = 1) -> int:
        """The most rows of a register tile of so many vectors: rows × vectors sums, `vectors` factors, `spare` others.

        V8 brings all loads of a loop's turn before its arithmetic, so there each row takes a register for its factor
        too: 64 to 64 channels, 3x3 on 56x56, ran at 43 GFLOP/s in tiles of 4 x 2, at 21 in 5 x 2 (Zen 4, 2026).
        """
        if self.isa == "wasm":
            return (self.registers - vectors) // (vectors + 1)
        return (self.registers - spare - vectors) // vectors

    def turns(self, rows: int, vectors: int) -> int:
        """How often the loop of a register tile may be unrolled before V8's loads take more registers than there are;
        a large number on other machines.
        """
        if self.isa == "wasm":
            return max(1, (self.registers - rows * vectors) // (rows + vectors))
        return 1 << 30

    def require_here(self) -> None:
        """Raises `UnsupportedError` if code for this machine cannot run in this process."""
        if self.runs_here:
            return
        here = Machine.processor()
        raise UnsupportedError(
            f"{self.name or self.triple}: code for {said_isa(self)} cannot run on this processor, which has "
            f"{said_isa(here)}; name another machine in DOJANG_MACHINE, or unset it; `dojang run NET INPUT --plan` "
            "makes a plan for it without running it"
        )


def said_isa(machine: Machine) -> str:
    """An instruction set in words: "avx512 with matrix tiles"."""
    return f"{machine.isa} with matrix tiles" if machine.amx else machine.isa


def plainest(isa: str, triple: str = "x86_64") -> tuple[str, str]:
    """The LLVM processor and features of the most basic processor with an instruction set."""
    if isa == "avx512":
        return "x86-64-v4", "-prefer-256-bit"
    if isa == "avx2":
        return "x86-64-v3", ""
    if isa == "neon" or (isa == "generic" and not triple.startswith("x86")):
        return "generic", "+neon" if is_arm(triple) else ""
    if isa == "generic":
        return "x86-64", ""
    raise UsageError(f"instruction set {isa} is not known; use one of {', '.join(ISAS)}")


@cache
def _processor() -> Machine:
    features = llvm.get_host_cpu_features()
    triple = llvm.get_process_triple()
    has = {name for name, on in features.items() if on}
    if is_arm(triple) or platform.machine().lower() in ("aarch64", "arm64"):
        isa = "neon"
    elif {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= has:
        isa = "avx512"
    elif {"avx2", "fma"} <= has:
        isa = "avx2"
    else:
        isa = "generic"
    flat = features.flatten()
    if isa == "avx512":
        # Some tunings prefer 256-bit vectors when the compiler vectorises; our code already has its width.
        flat += ",-prefer-256-bit"
    cpu = llvm.get_host_cpu_name()
    family = family_of(cpu, has, isa)
    l1, l2, l3 = (cache_bytes(level) or usual for level, usual in ((1, _L1), (2, _L2), (3, _L3)))
    return Machine(
        isa, triple, cpu, flat, usable_cores(), l1, max(l1, l2), max(l1, l2, l3),
        amx=isa == "avx512" and {"amx-tile", "amx-bf16"} <= has and _tiles_allowed(),
        family=family.name, peaks=family.peaks(isa), name="this processor", source=f"shipped for {family.name}",
    )  # fmt: skip


def _tiles_allowed() -> bool:
    """Requests the tile registers from the system, which does not save their 8 KB per thread otherwise (Linux 5.16).

    The system refuses if a thread's signal stack is too small to save them.
    """
    if sys.platform != "linux" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    return ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0


def cache_bytes(level: int) -> int:
    """Bytes of the first core's data or unified cache of a level, 0 if the system (not Linux) does not report it."""
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            here, kind = (index / "level").read_text().strip(), (index / "type").read_text().strip()
            size = (index / "size").read_text().strip()
        except OSError:
            continue
        if here == str(level) and kind in ("Data", "Unified"):
            unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(size[-1:], 1)
            return int(size.rstrip("KMG")) * unit
    return 0


# -- the machine that this process plans for --------------------------------------------------------------------------


@cache
def _host(said: str) -> Machine:
    """The machine that DOJANG_MACHINE names, or the processor at hand with measured peaks where they are kept."""
    if said:
        return described(said)
    here = Machine.processor()
    found, _ = measured(here)
    return here if found is None else replace(here, peaks=found, source=f"measured, {measured_path(here)}")


def forget() -> None:
    """Lets `Machine.host` look again: a machine file was written."""
    _host.cache_clear()


def described(said: str) -> Machine:
    """The machine of a shipped description, by name, or of a file. `runs_here` says whether its code can run here.

    A description never widens what kernels may use: where it asks for an instruction set that the processor does not
    have, plans are made for it and running is refused.

    >>> described("tiny-generic").lanes(4), described("tiny-generic").cores
    (4, 1)
    """
    facts, name = descriptions.named(said)
    source = f"shipped description {said}" if said in descriptions.SHIPPED else f"file {one_line(said)}"
    try:
        return _machine_of(facts, name, source)
    except FileError as error:
        raise error.within(f"{descriptions.ENVIRONMENT}={one_line(said)}") from None


def _machine_of(facts: Any, name: str, source: str) -> Machine:
    here = Machine.processor()
    told = descriptions.checked(facts, is_arm(here.triple))
    able = told.isa == here.isa or told.isa in here.narrower()
    if able and told.isa == here.isa:
        triple, cpu, features = here.triple, here.cpu, here.features
    elif able:
        narrow = here.restrict(told.isa)
        triple, cpu, features = narrow.triple, narrow.cpu, narrow.features
    else:
        triple = "aarch64-unknown-linux-gnu" if told.isa == "neon" else "x86_64-unknown-linux-gnu"
        cpu, features = plainest(told.isa, triple)
    if told.amx and not here.amx:
        able, features = False, f"{features},+amx-tile,+amx-bf16".lstrip(",")
    return Machine(
        told.isa, triple, cpu, features, told.cores, told.l1, told.l2, told.l3, able, told.amx, told.family, told.peaks,
        name, source,
    )  # fmt: skip


def write(machine: Machine, source: str, path: Path, force: bool) -> None:
    """Writes a description that DOJANG_MACHINE can name, whole or not at all."""
    said = descriptions.Description(
        machine.isa, machine.amx, machine.cores, machine.l1, machine.l2, machine.l3, machine.family, machine.peaks
    )
    text = json.dumps(said.facts(source), indent=1) + "\n"
    replace_bytes(path, text.encode(), force)


def measured_path(machine: Machine) -> Path:
    """The file of a processor's measured peaks; several machines may share one folder."""
    facts = (machine.triple, machine.cpu, machine.features, machine.l1, machine.l2, machine.l3)
    return cache_dir() / f"machine-{hashlib.sha256(repr(facts).encode()).hexdigest()[:12]}.json"


def measured(machine: Machine) -> tuple[Peaks | None, str | None]:
    """Measured peaks of a processor, if they were ever measured; None with the reason if the file cannot be used."""
    try:
        path = measured_path(machine)
        return _measured(path)
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError, RecursionError, RuntimeError, DojangError) as error:
        return None, descriptions.reason(error)


def _measured(path: Path) -> tuple[Peaks | None, str | None]:
    facts = descriptions.load(path)
    owner = path.stat()
    if hasattr(os, "geteuid") and (owner.st_uid not in (0, os.geteuid()) or owner.st_mode & 0o022):
        return None, "another user could have written it"
    return _machine_of(facts, "", "").peaks, None
