"""The cache folder, which keeps object code and measured times between runs, and the rules by which it is trusted.

Object code from this folder is executed, so only files that no other user can have written are used: file and folders
must belong to the user or to root, and nobody else may have write permission. This is checked for the opened file, not
for its name, and no link is followed. A folder that only root may write, as in a container image, is only read.
If the folder is not trusted or cannot be written, kernels are compiled again at the next start.

Entries are written whole or not at all, carry a hash of their name and content, and are rebuilt when damaged. The
folder is kept below `LIMIT` bytes and `MOST` entries by removing those that were not used for the longest time.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

from dojang.base.errors import DojangError
from dojang.base.writing import replace_bytes

LIMIT = 512 << 20
"""Bytes of object code on disk; a network of 50 layers takes about 1 MB."""

MOST = 1 << 16
"""Entries of object code on disk."""

FOLDERS = 256
"""Folders that entries are in, by the first two digits of their keys, which are evenly spread. Each is kept below its
share of both limits, so that a new entry needs a look at those beside it only."""

AT_ONCE = 16
"""Entries that go for a new one at most: where there are far too many, no single process waits for all of them."""

ENVIRONMENT = "DOJANG_CACHE_DIR"
_MAGIC = b"dojang-object-2\n"
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_UNIX = os.name == "posix" and os.open in os.supports_dir_fd
_log = logging.getLogger("dojang")


def cache_dir() -> Path:
    """The cache folder: DOJANG_CACHE_DIR, or the platform's cache folder, or, if that cannot be used (no home folder, a
    read-only file system), a private folder among the temporary files.
    """
    names = (ENVIRONMENT, "XDG_CACHE_HOME", "LOCALAPPDATA", "HOME", "TMPDIR")
    return _cache_dir(tuple(os.environ.get(n) for n in names), _user())


def distrust() -> str | None:
    """Why the folder is not used, in one line; None if it is used, or does not exist yet."""
    return _distrust_of(cache_dir())


def read(kind: str, name: str) -> bytes | None:
    """The content of an entry such as ("objects/ab", "abcd.o"); None if it is absent or not trusted."""
    folder = cache_dir()
    if not _UNIX:
        with contextlib.suppress(OSError):
            return (folder / kind / name).read_bytes()
        return None
    opened: list[int] = []
    try:
        opened.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        for part in kind.split("/"):
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            opened.append(os.open(part, flags, dir_fd=opened[-1]))
        for at in opened:
            if _untrusted(os.fstat(at)):
                _say_once(folder)
                return None
        # Not blocking, so that a pipe of that name does not wait for a writer.
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=opened[-1])
        opened.append(file)
        here = os.fstat(file)
        if not stat.S_ISREG(here.st_mode) or _untrusted(here):
            return None
        with open(file, "rb", closefd=False) as stream:
            data = stream.read()
        with contextlib.suppress(OSError):  # the time of last use; a failure to set it does no harm
            os.utime(file)
        return data
    except OSError:
        return None
    finally:
        for at in opened:
            os.close(at)


def keep(kind: str, name: str, data: bytes) -> bool:
    """Writes an entry, readable by all users; False if that is not possible."""
    folder = cache_dir()
    try:
        at = folder
        for part in ("", *kind.split("/")):
            at /= part
            if not at.is_dir():
                at.mkdir(0o755, parents=True, exist_ok=True)
                if _UNIX:
                    at.chmod(0o755)  # independent of the process's umask
            here = at.lstat() if part else at.stat()
            if _untrusted(here):
                # An earlier version may have made it with group write permission; its files are checked one by one.
                if os.environ.get(ENVIRONMENT) or here.st_uid != _user():
                    _say_once(folder)
                    return False
                at.chmod(0o755)
        replace_bytes(at / name, data, durable=False, mode=0o644)
    except (OSError, DojangError):
        return False
    return True


def read_object(key: str) -> bytes | None:
    """The object code of an entry, or None if it is absent, damaged or not trusted."""
    raw = read(f"objects/{key[:2]}", f"{key}.o")
    if raw is None:
        return None
    magic, digest, data = raw[: len(_MAGIC)], raw[len(_MAGIC) : len(_MAGIC) + 32], raw[len(_MAGIC) + 32 :]
    return data if magic == _MAGIC and digest == _digest(key, data) else None


def keep_object(key: str, data: bytes) -> None:
    """Writes object code; of the entries beside it those not used for the longest time go, where they are too many."""
    whole = _MAGIC + _digest(key, data) + data
    if keep(f"objects/{key[:2]}", f"{key}.o", whole):
        trim(max(LIMIT // FOLDERS, len(whole)), MOST // FOLDERS, key[:2], AT_ONCE)


def object_path(key: str) -> Path:
    """The path of an entry's object code, whether it exists or not."""
    return cache_dir() / "objects" / key[:2] / f"{key}.o"


def cache_bytes() -> int:
    """Bytes of object code on disk."""
    return sum(size for _, size, _ in _entries())


def clear_cache() -> int:
    """Removes all object code from disk; returns how many entries."""
    entries = _entries()
    for _, _, path in entries:
        with contextlib.suppress(OSError):
            os.unlink(path)
    return len(entries)


def trim(limit: int = LIMIT, most: int = MOST, folder: str | None = None, at_once: int | None = None) -> None:
    """Removes the entries not used for the longest time until there are at most `limit` bytes and `most` entries, in
    one folder or in the whole cache; no more than `at_once` of them.
    """
    entries = _entries(folder)
    total, count = sum(size for _, size, _ in entries), len(entries)
    if total <= limit and count <= most:
        return
    for _, size, path in sorted(entries)[:at_once]:
        if total <= limit and count <= most:
            break
        with contextlib.suppress(OSError):
            os.unlink(path)
        total, count = total - size, count - 1


def _digest(key: str, data: bytes) -> bytes:
    """A hash of name and content, so that a file with the name of another entry is not accepted."""
    return hashlib.sha256(key.encode() + b"\0" + data).digest()


def _entries(folder: str | None = None) -> list[tuple[float, int, str]]:
    """(last use, bytes, path) of every file of object code, or of those in one folder."""
    found: list[tuple[float, int, str]] = []
    objects = cache_dir() / "objects"
    for place in [one.path for one in _listed(objects)] if folder is None else [objects / folder]:
        for file in _listed(place):
            with contextlib.suppress(OSError):
                here = file.stat(follow_symlinks=False)
                found.append((here.st_mtime, here.st_size, file.path))
    return found


def _listed(folder: str | Path) -> list[os.DirEntry[str]]:
    """What a folder holds; nothing where it is none, or cannot be read."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return list(entries)
    return []


def _user() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0


def _untrusted(here: os.stat_result) -> bool:
    """Whether a user other than this one and root may have written the file."""
    return _UNIX and (here.st_uid not in (0, _user()) or bool(here.st_mode & _OTHERS_WRITE))


def _distrust_of(folder: Path) -> str | None:
    if not _UNIX:
        return None
    for at in (folder, folder / "objects"):
        try:
            here = at.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            return f"{at}: {error.strerror}"
        if not stat.S_ISDIR(here.st_mode):
            return f"{at}: is no folder"
        if here.st_uid not in (0, _user()):
            return f"{at}: belongs to user {here.st_uid}; only a folder of yours (user {_user()}) or of root is trusted"
        if here.st_mode & _OTHERS_WRITE:
            return (
                f"{at}: others may write it (mode {stat.S_IMODE(here.st_mode):o}), so its code is not run; chmod go-w"
            )
    return None


@lru_cache(maxsize=16)
def _say_once(folder: Path) -> None:
    _log.warning("the cache is not used, kernels are compiled at each start: %s", _distrust_of(folder))


@lru_cache(maxsize=16)
def _cache_dir(environment: tuple[str | None, ...], user: int) -> Path:
    said = environment[0]
    if said:
        return _expanded(said)
    for folder in _usual():
        if _usable(folder, user):
            return folder
    with contextlib.suppress(OSError):  # there is no folder for temporary files, either
        return Path(tempfile.gettempdir()) / f"dojang-{user}"
    return Path(os.devnull) / "dojang"  # an empty path: nothing can be read or written


def _expanded(text: str) -> Path:
    with contextlib.suppress(RuntimeError):  # `~` without a home folder
        return Path(text).expanduser()
    return Path(text)


def _usual() -> list[Path]:
    """The platform's cache folders, the preferred one first."""
    with contextlib.suppress(RuntimeError):  # no HOME, and the system does not know the user
        home = Path.home()
        if sys.platform == "win32":
            return [Path(os.environ.get("LOCALAPPDATA") or home / "AppData/Local") / "dojang" / "cache"]
        if sys.platform == "darwin":
            return [home / "Library/Caches/dojang"]
        return [*_given(), home / ".cache/dojang"]
    return _given()


def _given() -> list[Path]:
    said = os.environ.get("XDG_CACHE_HOME", "")
    return [Path(said) / "dojang"] if os.path.isabs(said) else []


def _usable(folder: Path, user: int) -> bool:
    """Whether a folder exists and is trusted, or can be made."""
    try:
        here = folder.stat()
        return stat.S_ISDIR(here.st_mode) and (not _untrusted(here) or here.st_uid == user)
    except FileNotFoundError:
        pass
    except OSError:
        return False
    parent = folder.parent
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    return parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)
