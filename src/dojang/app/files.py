"""What the commands write: whole or not at all, and over nothing unless forced."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dojang.base.errors import DojangError, FileError, UsageError


def refuse_existing(path: str | Path, force: bool) -> None:
    """Raises `UsageError` when the file is there already and may not be replaced. Asked before the work begins."""
    target = Path(path)
    if target.is_dir():
        raise UsageError(f"{path}: is a folder; name a file")
    if target.exists() and not force:
        raise UsageError(f"{path}: exists already; give --force to replace it, or another name")
    if not target.parent.is_dir():
        raise UsageError(f"{path}: the folder {target.parent} does not exist; create it first")


def write_bytes(path: str | Path, content: bytes, force: bool = False) -> Path:
    """Writes a file by way of a temporary one beside it. Raises `UsageError` if it exists, `FileError` if it fails."""
    target = Path(path)
    refuse_existing(target, force)
    with naming(target), beside(target) as temporary:
        temporary.write_bytes(content)
    return target


def write_text(path: str | Path, content: str, force: bool = False) -> Path:
    """`write_bytes` for UTF-8 text."""
    return write_bytes(path, content.encode("utf-8"), force)


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A temporary path with the target's suffix that takes the target's place at the end; gone if anything fails."""
    handle, name = tempfile.mkstemp(prefix=f".{target.stem[:40]}-", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        temporary.chmod(0o666 & ~_umask())
        with _renamed(temporary, target):
            yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _renamed(temporary: Path, target: Path) -> Iterator[None]:
    """Errors that name a temporary file or folder name what the user asked for instead."""
    try:
        yield
    except DojangError as error:
        said = str(error).replace(str(temporary), str(target)).replace(temporary.name, target.name)
        error.args = (said, *error.args[1:])
        raise


@contextmanager
def folder(target: str | Path, files: Sequence[str], force: bool = False) -> Iterator[Path]:
    """A temporary folder whose files move into `target` at the end, so that an interrupted command leaves nothing.

    `files` are the names that will be written: `UsageError` at once when one is there already without `force`.
    """
    path = Path(target)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path}: is a file; -o names a folder")
    taken = [name for name in files if (path / name).exists()]
    if taken and not force:
        raise UsageError(f"{path / taken[0]}: exists already; give --force to replace it, or another folder with -o")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}-", dir=path.parent))
        try:
            with _renamed(temporary, path):
                yield temporary
            path.mkdir(exist_ok=True)
            for file in sorted(temporary.iterdir()):
                file.replace(path / file.name)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Turns the system's errors while writing `path` into a `FileError` that names it and the remedy."""
    try:
        yield
    except (OSError, FileError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError):
            raise
        remedy = {
            errno.ENOSPC: "the disk is full; free some space or write elsewhere with -o",
            errno.EDQUOT: "the disk quota is used up; free some space or write elsewhere with -o",
            errno.EFBIG: "the file would grow beyond the limit on file sizes (ulimit -f); raise it or write elsewhere",
            errno.EACCES: "no permission to write there; choose another place with -o",
            errno.EROFS: "that file system is read-only; choose another place with -o",
        }.get(cause.errno or 0, cause.strerror or str(cause))
        raise FileError(f"{path}: not written: {remedy}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
