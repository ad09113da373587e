"""What a result file says about itself, and whether the code that it measured has changed since.

Every file under bench/results begins with lines `# key: value`:

    command    what was typed
    machine    processor, cores, threads, system, load, measured peaks of one core
    versions   dojang and its peers
    commit     the state of the repository
    date       the day
    measures   the files and folders whose code the figures depend on
    code       a digest of that code

The digest is made from the top-level statements of all measured Python files, without imports, docstrings and comments,
in no order. So moving code between files, renaming files and rewording docstrings leave it as it is, and any other
change gives another one. It needs no history: a shallow clone computes the same.
"""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dojang import __version__

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
KEYS = ("command", "machine", "versions", "commit", "date", "measures", "code")
VERSIONS = ("dojang", "numpy", "torch", "onnxruntime", "openvino")
_LINE = re.compile(r"# (\w+): (.*)")


@dataclass(frozen=True)
class Record:
    """The head of a result file."""

    name: str
    command: str
    machine: str
    versions: str
    commit: str
    date: str
    measures: tuple[str, ...]
    code: str

    @property
    def current(self) -> bool:
        """Whether the measured code is still the code that was measured."""
        return self.code == digest(self.measures)


def read(path: Path) -> Record:
    """The head of a file. Raises ValueError naming the first key that is missing or out of order."""
    lines = path.read_text(encoding="utf-8").splitlines()
    values = []
    for key, line in zip(KEYS, [*lines, *[""] * len(KEYS)], strict=False):
        found = _LINE.fullmatch(line)
        if not found or found[1] != key or not found[2].strip():
            raise ValueError(f"{path.name}: line {len(values) + 1} is not `# {key}: …` but {line!r}")
        values.append(found[2].strip())
    command, machine, versions, commit, date, measures, code = values
    return Record(path.name, command, machine, versions, commit, date, tuple(measures.split()), code)


def records() -> list[Record]:
    """Every result file, by name."""
    return [read(path) for path in sorted(RESULTS.glob("*.txt"))]


@cache
def digest(paths: tuple[str, ...]) -> str:
    """12 hexadecimal digits for the code under these paths. Raises FileNotFoundError if one of them is gone."""
    texts = []
    for path in paths:
        here = ROOT / path
        files = [here] if here.is_file() else [f for f in here.rglob("*") if f.suffix in (".py", ".net")]
        if not files:
            raise FileNotFoundError(f"{path}: no code there; `measures` names paths of the repository")
        texts += [file.read_text(encoding="utf-8") for file in files]
    return digest_of(texts)


def digest_of(texts: Iterable[str]) -> str:
    """The digest of these texts: Python modules, or networks as text (which do not parse as Python)."""
    parts = []
    for text in texts:
        try:
            body = ast.parse(text).body
        except SyntaxError:
            parts.append(text)
            continue
        parts += [
            "".join(_spelled(statement)) for statement in body if not isinstance(statement, ast.Import | ast.ImportFrom)
        ]
    hashes = sorted(hashlib.sha256(part.encode()).hexdigest() for part in parts if part)
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:12]


def _spelled(node: ast.AST) -> Iterator[str]:
    """A statement as text, the same in all versions of Python: empty fields and docstrings are left out."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return
    yield f"({type(node).__name__}"
    for name, value in ast.iter_fields(node):
        if value is None or value == [] or name in ("ctx", "kind", "type_comment"):
            continue
        yield f" {name}="
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, ast.AST):
                yield from _spelled(item)
            else:
                yield repr(item)
    yield ")"


def head(*measures: str, threads: int | None = None, peaks: bool = True, extra: Iterable[str] = ()) -> str:
    """The first lines of a new result file, for a bench that measures the code under `measures`.

    `peaks=False` leaves out the peaks of one core, where nothing is timed; `extra` names further packages.
    """
    return "".join(
        f"# {key}: {value}\n"
        for key, value in {
            "command": _command(),
            "machine": _machine(threads, peaks),
            "versions": ", ".join(_version(name) for name in (*VERSIONS, *extra)),
            "commit": _commit(measures),
            "date": time.strftime("%Y-%m-%d"),
            "measures": " ".join(measures),
            "code": digest(measures),
        }.items()
    )


def _command() -> str:
    """What was typed, with the name of a file in place of its whole path."""
    words = [Path(w).name if Path(w).is_absolute() else w for w in sys.argv[1:]]
    return shlex.join(["python", f"bench/{Path(sys.argv[0]).name}", *words])


def _machine(threads: int | None, peaks: bool) -> str:
    from dojang.native.machine import Machine
    from dojang.native.peaks import measure

    m = Machine.host()
    parts = [f"{m.cpu} ({m.isa})", f"{m.cores} cores"]
    parts += [f"{threads} threads"] if threads else []
    parts += [platform.system(), f"Python {platform.python_version()}"]
    parts += [f"load {os.getloadavg()[0]:.1f}"] if hasattr(os, "getloadavg") else []
    if peaks:
        p = measure(m)
        parts.append(
            f"one core {p.fma_gflops:.0f} GFLOP/s FMA, {p.read_gbs:.0f} GB/s memory, {p.cache_gbs:.0f} GB/s cache"
        )
    return ", ".join(parts)


def _version(name: str) -> str:
    if name == "dojang":
        return f"{name} {__version__}"  # not that of an installation elsewhere
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name} -"


def _commit(measures: tuple[str, ...]) -> str:
    """The commit, "with changes" where measured files differ from it, "unknown" outside a repository."""
    git = ["git", "-C", str(ROOT)]
    try:
        found = subprocess.run([*git, "rev-parse", "--short=7", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *measures], check=False).returncode
    return found.stdout.strip() + (" with changes" if changed else "")
