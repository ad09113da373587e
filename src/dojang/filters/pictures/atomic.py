"""Results written whole or not at all: files by `base.writing`, Zarr folders in the same way."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path

from dojang.base import writing as files
from dojang.base.errors import UsageError


def is_store(path: str | PathLike[str]) -> bool:
    """Whether a result of that name is a folder."""
    return Path(path).suffix.lower() == ".zarr"


def check_target(path: str | PathLike[str], force: bool) -> Path:
    """The path, if a result may be written there; as `base.writing.check_target`."""
    return files.check_target(path, force, folder=is_store(path))


@contextmanager
def writing(path: str | PathLike[str], force: bool = False) -> Iterator[str]:
    """Gives a temporary name in the folder of `path`, which becomes `path` if the block succeeds and is removed if not.

    A file that is replaced is kept until the new content is on the disk. For new files it does not wait for the disk,
    which would take seconds for a thousand small pictures. A Zarr store is a folder to fill. Raises `UsageError` and
    `FileError`.
    """
    target = check_target(path, force)
    if not is_store(path):
        with files.writing(path, force, durable=target.exists()) as temporary:
            yield fspath(temporary)
        return
    with files.naming(path):
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.stem[:40]}-", suffix=target.suffix))
        try:
            with files.renamed(temporary, target):
                yield fspath(temporary)
            mode = files.FILE_MODE
            temporary.chmod(mode | (mode & 0o444) >> 2)  # users who may read the files may enter the folder
            place = Path(os.path.realpath(target))
            if not place.exists():
                temporary.replace(place)
                return
            if not force:
                raise UsageError(f"{target}: was made by another process meanwhile; it is kept")
            old = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{target.stem[:40]}-", suffix=".old"))
            place.replace(old)
            try:
                temporary.replace(place)
            except BaseException:
                old.replace(place)
                raise
            files.remove_tree(old)
        finally:
            files.remove_tree(temporary)
