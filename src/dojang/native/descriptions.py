"""The machine that plans are made for: this processor, or one that DOJANG_MACHINE names.

Without DOJANG_MACHINE it is this processor, with the peaks shipped for its family (`families.py`), or with those that
`dojang env --measure` has written to the cache folder. DOJANG_MACHINE is the name of a shipped description (`SHIPPED`)
or of a JSON file:

    {"isa": "avx2", "cores": 2, "l1_bytes": 32768, "l2_bytes": 262144, "l3_bytes": 4194304,
     "family": "intel-haswell", "amx": false,
     "peaks": {"fma_gflops": 102.4, "read_gbs": 12, "cache_gbs": 30}}

`family`, `amx` and `peaks` may be left out: the peaks are then the family's, and the family is the generic one of the
instruction set. `name` and `source` are only printed. `write` makes such a file.

If a description has an instruction set that this processor does not have, plans can be made for it, but running is
refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dojang.base.errors import DojangError, FileError, UsageError
from dojang.base.showing import one_line, shown
from dojang.base.writing import replace_bytes
from dojang.native.families import FAMILIES, Peaks, plain
from dojang.native.machine import ISAS, Machine, is_arm, plainest

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


def current() -> Machine:
    """The machine that this process plans for. Raises `UsageError` and `FileError` for what DOJANG_MACHINE names."""
    return _current(os.environ.get(ENVIRONMENT, ""))


@cache
def _current(said: str) -> Machine:
    if said:
        return described(said)
    here = Machine.processor()
    found, _ = measured(here)
    return here if found is None else replace(here, peaks=found, source=f"measured, {measured_path(here)}")


def forget() -> None:
    """Makes `current` read the files again, after a machine file was written."""
    _current.cache_clear()


def described(said: str) -> Machine:
    """The machine of a shipped description, by name, or of a file. `runs_here` says whether its code can run.

    >>> described("tiny-generic").lanes(4), described("tiny-generic").cores
    (4, 1)
    """
    if said in SHIPPED:
        return machine_of(SHIPPED[said], said, f"shipped description {said}")
    place = f"{ENVIRONMENT}={one_line(said)}"
    try:
        facts = _load(Path(said))
        name = _short(str(facts.get("name", said))) if isinstance(facts, dict) else ""
    except FileNotFoundError:
        raise UsageError(f"{place}: neither a file nor a shipped machine; use one of {', '.join(SHIPPED)}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"{place}: it does not describe a machine: {_reason(error)}") from None
    try:
        return machine_of(facts, name, f"file {one_line(said)}")
    except FileError as error:
        raise error.within(place) from None


def machine_of(facts: Mapping[str, Any], name: str, source: str) -> Machine:
    """The machine of a description's facts. Raises `FileError` that names the field, its value and the rule."""
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
    here = Machine.processor()
    family = facts.get("family", plain(isa, is_arm(here.triple)))
    if not isinstance(family, str) or family not in FAMILIES or isa not in FAMILIES[family].per_cycle:
        able = [f.name for f in FAMILIES.values() if isa in f.per_cycle]
        raise FileError(f"family is {_said(family)}; with isa {isa} use one of {', '.join(able)}")
    peaks = peaks_of(facts["peaks"]) if "peaks" in facts else FAMILIES[family].peaks(isa)
    able = isa == here.isa or isa in here.narrower()
    if able and isa == here.isa:
        triple, cpu, features = here.triple, here.cpu, here.features
    elif able:
        narrow = here.restrict(isa)
        triple, cpu, features = narrow.triple, narrow.cpu, narrow.features
    else:
        triple = "aarch64-unknown-linux-gnu" if isa == "neon" else "x86_64-unknown-linux-gnu"
        cpu, features = plainest(isa, triple)
    if amx and not here.amx:
        able, features = False, f"{features},+amx-tile,+amx-bf16".lstrip(",")
    return Machine(
        isa, triple, cpu, features, facts["cores"], l1, l2, l3, able, amx, family, peaks, name, source
    )  # fmt: skip


def peaks_of(facts: Any) -> Peaks:
    """The peaks. Raises `FileError` for zeros, negative numbers and text."""
    if not isinstance(facts, Mapping) or set(facts) != set(_PEAKS):
        raise FileError(f"peaks must hold {', '.join(_PEAKS)}, and nothing else")
    for key in _PEAKS:
        value = facts[key]
        if type(value) not in (int, float) or not _LEAST_PEAK <= value <= _MOST_PEAK:
            raise FileError(f"peaks: {key} is {_said(value)}: a number from {_LEAST_PEAK} to {_MOST_PEAK:,.0f}")
    return Peaks(**{key: float(facts[key]) for key in _PEAKS})


def facts_of(machine: Machine, source: str) -> dict[str, Any]:
    """The content of a machine file."""
    return {
        "schema": SCHEMA, "isa": machine.isa, "amx": machine.amx, "cores": machine.cores, "l1_bytes": machine.l1,
        "l2_bytes": machine.l2, "l3_bytes": machine.l3, "family": machine.family, "peaks": asdict(machine.peaks),
        "source": source,
    }  # fmt: skip


def write(machine: Machine, source: str, path: Path, force: bool) -> None:
    """Writes a description that DOJANG_MACHINE can name, whole or not at all."""
    text = json.dumps(facts_of(machine, source), indent=1) + "\n"
    replace_bytes(path, text.encode(), force)


# -- measured peaks in the cache folder ------------------------------------------------------------------------------


def measured_path(machine: Machine) -> Path:
    """The file of a processor's measured peaks; several machines may share one folder."""
    from dojang.native import jit

    facts = (machine.triple, machine.cpu, machine.features, machine.l1, machine.l2, machine.l3)
    return jit.cache_dir() / f"machine-{hashlib.sha256(repr(facts).encode()).hexdigest()[:12]}.json"


def measured(machine: Machine) -> tuple[Peaks | None, str | None]:
    """Measured peaks of a processor, if they were ever measured; None with the reason if the file cannot be used."""
    try:
        path = measured_path(machine)
        return _measured(path)
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError, RecursionError, RuntimeError, DojangError) as error:
        return None, _reason(error)


def _measured(path: Path) -> tuple[Peaks | None, str | None]:
    facts = _load(path)
    owner = path.stat()
    if hasattr(os, "geteuid") and (owner.st_uid not in (0, os.geteuid()) or owner.st_mode & 0o022):
        return None, "another user could have written it"
    return machine_of(facts, "", "").peaks, None


def _load(path: Path) -> Any:
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


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, UnicodeDecodeError):
        return "it is no UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    return one_line(str(error))
