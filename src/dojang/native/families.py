"""Peaks of one core of known processors: multiply-adds, bytes from memory, bytes from the shared cache.

Plans are made from this table, not from measurements of the first run, so that equal machines make equal plans and
equal replicas give equal results. A row is *measured* (by `peaks.measure`, on the machine and date that it names) or
*derived* by these rules:

- GFLOP/s = floating point operations per cycle × GHz. Operations per cycle are 2 × lanes × multiply-add units, as the
  maker documents them; without fused multiply-add ("generic" on x86) products and sums are separate: 13 per
  cycle on AMD (measured on Zen 4), 8 on Intel (two units for both). GHz is the clock of a server with all cores busy,
  or the highest clock of a client.
- GB/s are those of the most similar measured processor, or 20 from memory and 40 from the cache if there is none.

Predictions are only compared with each other, so only the ratios between the three numbers matter.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

ISAS = ("avx512", "avx2", "neon", "generic")
"""The instruction sets that kernels are written for."""


@dataclass(frozen=True, slots=True)
class Peaks:
    """GFLOP/s of fused multiply-adds on float32, and GB/s read from memory and from the shared cache, by one core."""

    fma_gflops: float
    read_gbs: float
    cache_gbs: float

    def rounded(self) -> Peaks:
        """The same, rounded to three digits, the precision of a measurement."""
        return Peaks(*(float(f"{value:.3g}") for value in (self.fma_gflops, self.read_gbs, self.cache_gbs)))


@dataclass(frozen=True)
class Family:
    """Processors that get equal plans. `cpus` are LLVM's names for them; `per_cycle` the float32 operations of a
    core per cycle, by instruction set; `source` says what the figures come from.
    """

    name: str
    cpus: tuple[str, ...]
    ghz: float
    per_cycle: Mapping[str, int]
    read_gbs: float
    cache_gbs: float
    source: str

    def peaks(self, isa: str) -> Peaks:
        """The peaks of one core with the vectors of an instruction set."""
        return Peaks(round(self.per_cycle[isa] * self.ghz, 1), self.read_gbs, self.cache_gbs)


_AMD = {"avx512": 32, "avx2": 32, "generic": 13}  # two units of 256 bits; 512 bits take two cycles
_AMD_512 = {"avx512": 64, "avx2": 32, "generic": 13}  # two units of 512 bits
_INTEL = {"avx512": 32, "avx2": 32, "generic": 8}  # two units of 256 bits, which join for 512
_INTEL_512 = {"avx512": 64, "avx2": 32, "generic": 8}  # two units of 512 bits
_ARM2 = {"neon": 16, "generic": 16}  # two units of 128 bits
_ARM4 = {"neon": 32, "generic": 32}  # four

_ROWS = (
    # name, LLVM's names, GHz, operations per cycle, GB/s from memory, GB/s from the shared cache, source
    ("amd-zen2", "znver2", 3.2, _AMD, 22, 54, "derived; GB/s of Zen 3"),
    ("amd-zen3", "znver3", 3.19, _AMD, 22, 54, "measured, 2 cores of a cloud server, November 2026"),
    ("amd-zen4", "znver4", 3.67, _AMD, 32, 89, "measured, 2 cores of a cloud server, November 2026"),
    ("amd-zen5", "znver5", 4.09, _AMD_512, 39, 104, "measured, 2 cores of a cloud server, November 2026"),
    ("intel-haswell", "haswell broadwell skylake", 3.2, _INTEL, 12, 30, "derived; GB/s as typical"),
    ("intel-skylake-server", "skylake-avx512 cascadelake cooperlake", 2.8, _INTEL_512, 12, 24,
     "derived; GB/s of Granite Rapids, by GHz"),
    ("intel-icelake-server", "icelake-server", 3.1, _INTEL_512, 13, 24, "derived; GB/s of Granite Rapids, by GHz"),
    ("intel-sapphire-rapids", "sapphirerapids emeraldrapids graniterapids graniterapids-d diamondrapids", 3.75,
     _INTEL_512, 16, 28, "measured, 2 cores of a cloud server (Granite Rapids), November 2026"),
    ("intel-icelake-client", "cannonlake icelake-client rocketlake tigerlake", 4.3, _INTEL, 18, 50, "derived; "
     "GB/s between the server's and Zen 4's"),
    ("intel-alder-lake", "alderlake raptorlake meteorlake arrowlake arrowlake-s lunarlake pantherlake gracemont", 4.8,
     _INTEL, 25, 60, "derived; GB/s between the server's and Zen 4's"),
    ("x86-64-v4", "x86-64-v4", 3.0, {**_INTEL, "avx512": 40}, 12, 30, "typical of rented servers, 2020 to 2025"),
    ("x86-64-v3", "x86-64-v3", 3.0, _INTEL, 12, 30, "typical of rented servers, 2015 to 2025"),
    ("x86-64-v2", "x86-64-v2 x86-64", 3.0, {**_INTEL, "generic": 13}, 10, 25,
     "typical of rented servers, 2010 to 2020"),
    ("neoverse-n1", "neoverse-n1 neoverse-n2 neoverse-e1", 2.6, _ARM2, 20, 40, "derived"),
    ("neoverse-v1", "neoverse-v1 neoverse-512tvb", 2.6, _ARM4, 20, 40, "derived"),
    ("neoverse-v2", "neoverse-v2 neoverse-v3 grace", 2.8, _ARM4, 20, 40, "derived"),
    ("apple", "apple-m1 apple-m2 apple-m3 apple-m4 apple-m5", 3.2, _ARM4, 60, 90, "derived; GB/s as published for M1"),
    ("aarch64", "", 2.5, _ARM2, 10, 25, "typical of AArch64 boards"),
    ("wasm32", "", 3.6, {"wasm": 16}, 32, 89, "V8 on Zen 4, November 2026: two units for products, two for sums"),
)  # fmt: skip

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        name: Family(name, tuple(cpus.split()), ghz, MappingProxyType(per_cycle), read, cache, source)
        for name, cpus, ghz, per_cycle, read, cache, source in _ROWS
    }
)
"""The families by name."""

_BY_CPU = {cpu: family.name for family in FAMILIES.values() for cpu in family.cpus}
_PLAIN = {"avx512": "x86-64-v4", "avx2": "x86-64-v3", "neon": "aarch64"}


def family_of(cpu: str, features: Collection[str], isa: str) -> Family:
    """The family of a processor by LLVM's name for it and the features that it has.

    A virtual machine may hide the name or report another model, but not the features that programs use. So features
    decide if they identify a family.

    >>> family_of("rocketlake", {"avx512f", "amx-tile"}, "avx512").name
    'intel-sapphire-rapids'
    >>> family_of("generic", {"sse4a", "avx2", "avx512f", "avx512vp2intersect"}, "avx512").name
    'amd-zen5'
    """
    return FAMILIES[_told_by_features(cpu, frozenset(features), isa) or _BY_CPU.get(cpu) or plain(isa)]


def plain(isa: str, arm: bool = False) -> str:
    """The family of unknown processors, by instruction set; "generic" is x86 unless `arm`.

    >>> plain("avx2"), plain("generic")
    ('x86-64-v3', 'x86-64-v2')
    """
    return _PLAIN.get(isa) or ("aarch64" if arm else "x86-64-v2")


def _told_by_features(cpu: str, has: frozenset[str], isa: str) -> str | None:
    """The family that features alone identify; None if they do not."""
    if isa not in ("avx512", "avx2"):
        return None
    if "sse4a" in has:  # AMD only
        if cpu in _BY_CPU and cpu.startswith("znver"):
            return None
        if isa == "avx512":
            return "amd-zen5" if has & {"avx512vp2intersect", "avxvnni"} else "amd-zen4"
        return "amd-zen3" if "vaes" in has else "amd-zen2"
    if has & {"amx-tile", "avx512fp16"}:
        return "intel-sapphire-rapids"
    if isa == "avx512" and _BY_CPU.get(cpu) == "intel-icelake-client" and "wbnoinvd" in has:
        return "intel-icelake-server"
    return None


def is_arm(triple: str) -> bool:
    """Whether a triple names AArch64."""
    return triple.startswith(("aarch64", "arm64"))
