"""Descriptions of machines: those that are shipped, and JSON files that DOJANG_MACHINE names.

    {"isa": "avx2", "cores": 2, "l1_bytes": 32768, "l2_bytes": 262144, "l3_bytes": 4194304,
     "family": "intel-haswell", "amx": false,
     "peaks": {"fma_gflops": 102.4, "read_gbs": 12, "cache_gbs": 30}}

`family`, `amx` and `peaks` may be left out: the peaks are then the family's, and the family is the generic one of the
instruction set. `name` and `source` are only printed. `machine.write` makes such a file; `machine.described` makes the
machine of a description.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dojang.base.errors import FileError, UsageError
from dojang.base.showing import one_line, shown
from dojang.native.families import FAMILIES, ISAS, Peaks, plain

ENVIRONMENT = "DOJANG_MACHINE"
SCHEMA = "dojang.machine/1"
MOST_BYTES = 64 << 10
"""The most bytes of a description file."""
MOST_LETTERS = 60
_KIB, _MIB = 1 << 10, 1 << 20

SHIPPED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "server-amx": {
            "isa": "avx512", "amx": True, "cores": 8, "family": "intel-sapphire-rapids",
            "l1_bytes": 48 * _KIB, "l2_bytes": 2 * _MIB, "l3_bytes": 160 * _MIB,
        },
        "server-avx512": {
            "isa": "avx512", "cores": 4, "family": "amd-zen5",
            "l1_bytes": 48 * _KIB, "l2_bytes": 2 * _MIB, "l3_bytes": 128 * _MIB,
        },
        "server-avx2": {
            "isa": "avx2", "cores": 4, "family": "amd-zen3",
            "l1_bytes": 32 * _KIB, "l2_bytes": 512 * _KIB, "l3_bytes": 32 * _MIB,
        },
        "laptop-avx2": {
            "isa": "avx2", "cores": 2, "family": "intel-haswell",
            "l1_bytes": 32 * _KIB, "l2_bytes": 256 * _KIB, "l3_bytes": 4 * _MIB,
        },
        "tiny-generic": {
            "isa": "generic", "cores": 1,
            "l1_bytes": 16 * _KIB, "l2_bytes": 128 * _KIB, "l3_bytes": 1 * _MIB,
        },
    }
)  # fmt: skip
"""Descriptions by name: for tests, for plans made in advance, and for replicas that must give equal results."""

_SIZES = {"cores": (1, 1 << 12), "l1_bytes": (4 * _KIB, 1 << 30), "l2_bytes": (4 * _KIB, 1 << 36),
          "l3_bytes": (4 * _KIB, 1 << 40)}  # fmt: skip
_PEAKS = tuple(Peaks.__dataclass_fields__)
_LEAST_PEAK, _MOST_PEAK = 0.01, 1e6
_KNOWN = {"schema", "name", "source", "isa", "amx", "family", "peaks", *_SIZES}


@dataclass(frozen=True, slots=True)
class Description:
    """What a description says of a machine, checked. Caches in bytes."""

    isa: str
    amx: bool
    cores: int
    l1: int
    l2: int
    l3: int
    family: str
    peaks: Peaks

    def facts(self, source: str) -> dict[str, Any]:
        """What a file says of it."""
        return {
            "schema": SCHEMA, "isa": self.isa, "amx": self.amx, "cores": self.cores, "l1_bytes": self.l1,
            "l2_bytes": self.l2, "l3_bytes": self.l3, "family": self.family, "peaks": asdict(self.peaks),
            "source": source,
        }  # fmt: skip


def named(said: str) -> tuple[Any, str]:
    """The facts of a shipped description, or of a file, with a name for people.

    Raises `UsageError` for a name that is neither and `FileError` for a file that cannot be read.
    """
    if said in SHIPPED:
        return SHIPPED[said], said
    place = f"{ENVIRONMENT}={one_line(said) or repr(said)}"
    try:
        facts = load(Path(said))
    except FileNotFoundError:
        raise UsageError(f"{place}: neither a file nor a shipped machine; use one of {', '.join(SHIPPED)}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"{place}: it does not describe a machine: {reason(error)}") from None
    return facts, _short(str(facts.get("name", said))) if isinstance(facts, dict) else ""


def checked(facts: Any, arm: bool) -> Description:
    """A description from what a file holds; `arm` says whether "generic" without a family is AArch64.

    Raises `FileError` that names the field, its value and the rule.
    """
    if not isinstance(facts, Mapping):
        raise FileError("a machine is one JSON object")
    for key in facts:
        if key not in _KNOWN:
            raise FileError(f"{_short(str(key))!r} is not known; a machine has {', '.join(sorted(_KNOWN))}")
    if facts.get("schema", SCHEMA) != SCHEMA:
        raise FileError(f"schema is {_short(str(facts['schema']))!r}, and this version reads {SCHEMA}")
    isa, amx = facts.get("isa"), facts.get("amx", False)
    if isa not in ISAS:
        raise FileError(f"isa is {_said(isa)}; use one of {', '.join(ISAS)}")
    if not isinstance(amx, bool) or (amx and isa != "avx512"):
        raise FileError(f"amx is {_said(amx)}: true or false, and true with isa avx512 only")
    for key, (least, most) in _SIZES.items():
        value = facts.get(key)
        if type(value) is not int or not least <= value <= most:
            raise FileError(f"{key} is {_said(value)}: a whole number from {least:,} to {most:,}")
    l1, l2, l3 = (int(facts[f"l{k}_bytes"]) for k in (1, 2, 3))
    if not l1 <= l2 <= l3:
        raise FileError(f"caches must not shrink from level to level, got {l1:,}, {l2:,}, {l3:,} bytes")
    family = facts.get("family", plain(isa, arm))
    if not isinstance(family, str) or family not in FAMILIES or isa not in FAMILIES[family].per_cycle:
        able = [f.name for f in FAMILIES.values() if isa in f.per_cycle]
        raise FileError(f"family is {_said(family)}; with isa {isa} use one of {', '.join(able)}")
    peaks = peaks_of(facts["peaks"]) if "peaks" in facts else FAMILIES[family].peaks(isa)
    return Description(isa, amx, facts["cores"], l1, l2, l3, family, peaks)


def peaks_of(facts: Any) -> Peaks:
    """The peaks. Raises `FileError` for zeros, negative numbers and text."""
    if not isinstance(facts, Mapping) or set(facts) != set(_PEAKS):
        raise FileError(f"peaks must hold {', '.join(_PEAKS)}, and nothing else")
    for key in _PEAKS:
        value = facts[key]
        if type(value) not in (int, float) or not _LEAST_PEAK <= value <= _MOST_PEAK:
            raise FileError(f"peaks: {key} is {_said(value)}: a number from {_LEAST_PEAK} to {_MOST_PEAK:,.0f}")
    return Peaks(**{key: float(facts[key]) for key in _PEAKS})


def load(path: Path) -> Any:
    """The JSON in a file. Raises OSError, ValueError, RecursionError."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError("it is no regular file")
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"it is longer than {MOST_BYTES:,} bytes")
    return json.loads(content.decode(), object_pairs_hook=_once, parse_constant=_no_constant)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("it has a key twice")
    return made


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _short(text: str) -> str:
    """The beginning of a text, safe to show."""
    return shown(text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}…")


def _said(value: object) -> str:
    """A value as a message shows it."""
    if value is None:
        return "missing"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    with contextlib.suppress(ValueError, RecursionError):
        return _short(json.dumps(value, default=str))
    return f"a {type(value).__name__} that cannot be shown"


def reason(error: Exception) -> str:
    """Why a file could not be read, in one line."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, UnicodeDecodeError):
        return "it is no UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    return one_line(str(error))
