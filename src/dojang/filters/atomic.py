"""Files and folders written whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path

from dojang.base.errors import FileError, UsageError

UMASK = os.umask(0o022)  # asked for by setting it, so only once, before there are threads
os.umask(UMASK)


def check_target(path: str | PathLike[str], force: bool) -> Path:
    """The path, if a file may be written there. Raises `UsageError` if it exists (and not `force`) or has no folder."""
    target = Path(path)
    if target.is_dir() and not force and target.suffix != ".zarr":
        raise UsageError(f"{target}: is a folder; name a file")
    if target.exists() and not force:
        raise UsageError(f"{target}: exists already; use --force (force=True) to replace it")
    if not target.parent.is_dir():
        raise UsageError(f"{target}: the folder {target.parent} does not exist; create it first")
    return target


@contextmanager
def writing(path: str | PathLike[str], force: bool = False, folder: bool = False) -> Iterator[str]:
    """Gives a temporary name beside `path`, which becomes `path` when the block ends well and vanishes otherwise.

    With `folder` the temporary is a folder to fill. An `OSError` in the block becomes a `FileError`.
    """
    target = check_target(path, force)
    if target.is_dir() and not folder:
        raise UsageError(f"{target}: is a folder; name a file")
    temporary = ""
    try:
        if folder:
            temporary = tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
        else:
            handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}.", suffix=target.suffix)
            os.close(handle)
            os.chmod(temporary, 0o666 & ~UMASK)
        yield temporary
        if folder and target.is_dir():
            shutil.rmtree(target)
        if target.exists() and not force:
            raise UsageError(f"{target}: exists already; use --force (force=True) to replace it")
        os.replace(temporary, target)
    except OSError as error:
        _remove(temporary)
        raise FileError(f"{fspath(path)}: cannot be written ({error.strerror or error})") from None
    except BaseException:
        _remove(temporary)
        raise


def _remove(path: str) -> None:
    if path and os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    elif path and os.path.exists(path):
        os.unlink(path)
