"""Writing files: whole or not at all, durable, with the mode kept, and without following planted links.

    with writing("model.onnx", force=True) as temporary:
        temporary.write_bytes(blob)          # a random name in the same folder, renamed to the target at the end
    replace_bytes("run.json", b"{}")         # the same for given content

A file that exists keeps its mode. A path that is a symbolic link writes the file that the link points to, and the link
stays. A device, a pipe or a socket is refused, because it cannot be written whole. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dojang.base.errors import DojangError, FileError, UsageError

_UMASK = os.umask(0o077)  # the umask can only be read by setting it, so this is done once, before there are threads
os.umask(_UMASK)
FILE_MODE = 0o666 & ~_UMASK
"""The mode of a new file."""


def check_target(path: str | os.PathLike[str], force: bool, folder: bool = False) -> Path:
    """The path, if a file (with `folder`, a folder) may be written there. Called before the work begins.

    Raises `UsageError` when it exists and `force` is off, when its parent does not exist, when it is a folder (or, with
    `folder`, a file), and when it is a device, a pipe or a socket.
    """
    target = Path(path)
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        mode = None
    except (OSError, ValueError) as error:
        raise UsageError(f"{target}: cannot be written: {_reason(error)}") from None
    if mode is None:
        if not target.parent.is_dir():
            raise UsageError(f"{target}: the folder {target.parent} does not exist; create it first")
        return target
    if stat.S_ISDIR(mode) != folder:
        raise UsageError(f"{target}: is a {'file; name a folder' if folder else 'folder; name a file'}")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UsageError(f"{target}: is a device, a pipe or a socket, which cannot be written whole; name a file")
    if not force:
        raise UsageError(f"{target}: exists already; give --force (force=True) to replace it, or another name")
    return target


@contextmanager
def writing(
    path: str | os.PathLike[str], force: bool = False, durable: bool = True, mode: int | None = None
) -> Generator[Path]:
    """A temporary path in the folder of `path`, with its suffix, that is renamed to `path` if the block succeeds.

    If the block raises anything, KeyboardInterrupt included, the temporary file is removed and `path` stays as it was.
    `durable` flushes file and folder to the disk, so that a loss of power leaves the old file or the new one. `mode` is
    the permissions; None keeps those of the file that is replaced. Raises `UsageError` as `check_target` does, and
    `FileError` for errors of the system.
    """
    given = check_target(path, force)
    with naming(given):
        target = Path(os.path.realpath(given))
        if mode is None:
            mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else FILE_MODE
        # mkstemp opens an unpredictable name with O_EXCL, so a planted link is never followed.
        handle, name = tempfile.mkstemp(prefix=f".{target.stem[:40]}-", suffix=target.suffix[:40], dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            with renamed(temporary, given):
                yield temporary
            if durable:
                _flush(temporary)
            temporary.chmod(mode)
            _place(temporary, target, given, force)
            if durable:
                _flush(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


def replace_bytes(
    path: str | os.PathLike[str], content: bytes, force: bool = True, durable: bool = True, mode: int | None = None
) -> Path:
    """Writes `content` to `path`, whole or not at all. Raises as `writing` does."""
    with writing(path, force, durable, mode) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def replace_text(path: str | os.PathLike[str], content: str, force: bool = True, durable: bool = True) -> Path:
    """`replace_bytes` for UTF-8 text; unpaired surrogates, which UTF-8 cannot encode, become escapes."""
    return replace_bytes(path, content.encode("utf-8", "backslashreplace"), force, durable)


@contextmanager
def writing_folder(target: str | os.PathLike[str], files: Sequence[str], force: bool = False) -> Generator[Path]:
    """A temporary folder whose files move into `target` at the end, so that an interrupted command leaves nothing.

    `files` are the names that will be written: `UsageError` at once if one exists already and `force` is off. The
    folder and its parents are created if they are missing.
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
            with renamed(temporary, path):
                yield temporary
            path.mkdir(exist_ok=True)
            for file in sorted(temporary.iterdir()):
                check_target(path / file.name, force)
                _flush(file)
                mode = (path / file.name).stat().st_mode if (path / file.name).exists() else FILE_MODE
                file.chmod(stat.S_IMODE(mode))
                file.replace(os.path.realpath(path / file.name))
            _flush(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def renamed(temporary: Path, target: Path) -> Generator[None]:
    """Replaces the name of a temporary file in dojang's own errors by the path that the user gave."""
    try:
        yield
    except DojangError as error:
        said = str(error).replace(str(temporary), str(target)).replace(temporary.name, target.name)
        error.args = (said, *error.args[1:])
        raise


@contextmanager
def naming(path: str | os.PathLike[str]) -> Generator[None]:
    """Turns the system's errors while `path` is written into a `FileError` that names the path and the remedy."""
    try:
        yield
    except (OSError, FileError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError):
            raise
        raise FileError(f"{os.fspath(path)}: not written: {_reason(cause)}") from error


def remove_tree(path: str | os.PathLike[str]) -> None:
    """Removes a file or a folder if it exists, without following links and without errors."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _place(temporary: Path, target: Path, given: Path, force: bool) -> None:
    if not force:
        try:
            os.link(temporary, target)  # unlike renaming, it fails if the name exists meanwhile
        except FileExistsError:
            raise UsageError(f"{given}: was made by another process meanwhile; it is kept") from None
        except OSError:  # a file system without hard links
            pass
        else:
            return
    os.replace(temporary, target)


def _flush(path: Path) -> None:
    """Flushes a file or folder to the disk; errors of file systems that cannot flush a folder are ignored."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, ValueError):
        return "its name has a character that no file system accepts; choose another name"
    return {
        errno.ENOSPC: "the disk is full; free some space or write elsewhere with -o",
        errno.EDQUOT: "the disk quota is used up; free some space or write elsewhere with -o",
        errno.EFBIG: "the file would grow beyond the limit on file sizes (ulimit -f); raise it or write elsewhere",
        errno.EACCES: "no permission to write there; choose another place with -o",
        errno.EPERM: "no permission to write there; choose another place with -o",
        errno.EROFS: "that file system is read-only; choose another place with -o",
        errno.ENAMETOOLONG: "its name is too long; choose a shorter one",
    }.get(error.errno or 0, error.strerror or str(error))
