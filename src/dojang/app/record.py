"""The facts of a run: versions, machine, what was asked. Written as run.json and shown by `dojang env`."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from dojang.base.version import __version__
from dojang.report.results import Environment

PACKAGES: Mapping[str, str] = {
    "numpy": "required",
    "llvmlite": "required",
    "pillow": "required",
    "safetensors": "required",
    "tqdm": "required",
    "torch": "PyTorch networks, training, slimming: pip install 'dojang[torch]'",
    "scikit-learn": "the digits: pip install 'dojang[data]'",
    "onnxruntime": "as a runtime to slim for, and to check what is written: pip install 'dojang[onnxruntime]'",
}
"""Packages that dojang uses and what for."""


def versions() -> dict[str, str | None]:
    """Installed versions without importing anything; None for what is not installed."""
    found: dict[str, str | None] = {"dojang": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def machine() -> dict[str, Any]:
    """Processor, memory, system, and the machine that plans are made for: which, instruction set, cores, caches, peaks
    of one core, and where those are from.
    """
    from dojang.native.machine import Machine

    host = Machine.host()
    return {
        "system": platform.platform(),
        "processor": _processor() or Machine.processor().cpu,
        "name": host.name,
        "isa": host.isa,
        "amx": host.amx,
        "cores": host.cores,
        "l1_bytes": host.l1,
        "l2_bytes": host.l2,
        "l3_bytes": host.l3,
        "family": host.family,
        "peaks": asdict(host.peaks),
        "peaks_from": host.source,
        "runs_here": host.runs_here,
        "memory_bytes": _memory_bytes(),
    }


def measured(output: str | Path | None = None, force: bool = False) -> dict[str, Any]:
    """Measures the peaks of a core of this processor and writes the machine file that plans are made from afterwards.

    `output`: write them there instead, for DOJANG_MACHINE to name. The answer has the file, and the shipped and the
    measured peaks. Raises what writing raises.
    """
    from dojang.base.writing import check_target
    from dojang.native import machine as machines
    from dojang.native.descriptions import ENVIRONMENT
    from dojang.native.machine import Machine
    from dojang.native.peaks import measure

    here = Machine.processor()
    path = machines.measured_path(here)
    if output is not None:
        path = check_target(output, force)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
    found = measure(here).rounded()
    source = f"measured on {_processor() or here.cpu}, {datetime.now(UTC).date()}"
    machines.write(replace(here, peaks=found), source, path, force or output is None)
    if output is None:
        path.chmod(0o644)  # a file that others may write would not be trusted
    machines.forget()
    return {
        "file": str(path),
        "used": output is None and not os.environ.get(ENVIRONMENT),
        "shipped": asdict(here.peaks),
        "measured": asdict(found),
    }


def record(
    command: str, configuration: Mapping[str, Any], data_hash: str | None, results: Mapping[str, Any]
) -> dict[str, Any]:
    """What run.json holds: enough to repeat the run and to judge whether a repeat should agree."""
    return {
        "schema": "dojang.run-record/1",
        "command": command,
        "arguments": sys.argv[1:] if sys.argv[:1] and "dojang" in sys.argv[0] else None,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "configuration": dict(configuration),
        "seed": configuration.get("seed"),
        "data_hash": data_hash,
        "versions": versions(),
        "machine": machine(),
        "results": dict(results),
    }


def environment(measure: bool = False, output: str | Path | None = None, force: bool = False) -> Environment:
    """What a bug report needs: versions, machine, the cache, settings that change how dojang behaves.

    With `measure` the peaks of one core of this machine are measured first (half a second), and plans are made by them
    from now on; with `output` they are written to that file instead, for DOJANG_MACHINE to name. `force` replaces a
    file that exists. Raises `UsageError` for a file that exists, `FileError` where it cannot be written.

    >>> environment().versions["dojang"] == __version__
    True
    """
    from dojang.native import jit
    from dojang.native import machine as machines
    from dojang.native.cache import distrust
    from dojang.native.machine import Machine

    found = measured(output, force) if measure else None
    names = ("NO_COLOR", "OMP_NUM_THREADS", "PYTHONHASHSEED")
    settings = {k: v for k, v in os.environ.items() if k.startswith("DOJANG_") or k in names}
    cache = {
        "directory": str(jit.cache_dir()),
        "bytes": jit.cache_bytes(),
        "limit_bytes": jit.CACHE_LIMIT,
        "not_used": distrust(),
    }
    ignored = machines.measured(Machine.processor())[1]
    here = machine() | ({"ignored_file": ignored} if ignored else {})
    return Environment(versions(), here, cache, settings, sys.executable, found)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.lower().startswith("model name")]
    return names[0] if names else platform.processor()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
