"""Opening and reading files, with one reader for each format of the standard library.

    with opened("net.onnx") as stream: ...        # a regular file; a folder, a device or a pipe is refused by name
    text = read_text("net.net")                   # UTF-8, at most `TEXT_BYTES`
    value = json_value(raw, "run.json")           # JSON whose values, depth and numbers are bounded
    header = npy_header(stream, "x.npy")          # type and shape of a NumPy array, before any memory is taken
    with zipped("data.zip") as archive:           # members that are stored or deflated, and not encrypted
        raw = unpacked(archive, info, budget)
    with gzipped("images.gz") as stream: ...

Each turns every exception of the standard library into a `FileError` that names the file, the cause and the remedy.
A `MemoryError` has its own message, because the file may be intact. Standard library only.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import gzip
import io
import json
import os
import re
import stat
import struct
import zipfile
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO, NoReturn, cast

from dojang.base.budget import Budget
from dojang.base.errors import DojangError, FileError
from dojang.base.showing import one_line

Name = str | os.PathLike[str]

TEXT_BYTES = 1 << 24
"""The most bytes of a text (.net, tables, JSON): 16 MiB; networks of 20,000 layers take about 2 MiB."""
JSON_MARKS = 2_000_000
"""The most brackets, braces, commas and colons of a JSON text, since each value takes up to 200 bytes of memory."""
DIGITS = 20
"""The most digits of a whole number in JSON; 64 bits take 20."""
MEMBERS = 1 << 21
"""The most members of a .zip; data sets of 1.3 million pictures exist."""
ARRAY_AXES = 64
"""The most axes of an array; NumPy has the same limit."""
ARRAY_VALUES = 1 << 48
"""The most values of an array, with axes of size 0 taken as 1; for more, NumPy and loops over axes fail differently."""
CHUNK = 1 << 20

# Inputs that are not regular files may block (pipes), never end (/dev/zero), or do something when opened (devices).
_NONBLOCK = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)


# ---------------------------------------------------------------------------------------------- any file


@contextlib.contextmanager
def opened(path: Name, wanted: str = "a file") -> Generator[io.BufferedReader]:
    """The regular file at `path`, open for reading bytes; a link is followed. `wanted` ends the advice in messages.

    Raises `FileError` for what is missing, a folder, a device, a pipe or a socket, or may not be read. It does not
    wait for the writer of a pipe.
    """
    name = os.fspath(path)
    try:
        descriptor = os.open(name, os.O_RDONLY | _NONBLOCK)
    except (OSError, ValueError) as error:
        raise FileError(f"{name}: {_refusal(error, name, wanted)}") from None
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise FileError(f"{name}: is a folder; give {wanted}")
        if not stat.S_ISREG(mode):
            raise FileError(f"{name}: is a device, a pipe or a socket; copy what it gives into a file, and name that")
        stream = open(descriptor, "rb")  # noqa: SIM115 - closed below
    except BaseException:
        os.close(descriptor)
        raise
    with stream:
        try:
            yield stream
        except OSError as error:
            raise FileError(f"{name}: cannot be read: {error.strerror or error}") from None


def check_regular(path: Name, wanted: str = "a file") -> None:
    """Raises `FileError` as `opened` would, for libraries that open files by name themselves."""
    with opened(path, wanted):
        pass


def read_bytes(path: Name, most: int | None = None, wanted: str = "a file") -> bytes:
    """The content of a regular file. Raises `FileError`, also where it has more than `most` bytes."""
    with opened(path, wanted) as stream:
        size = os.fstat(stream.fileno()).st_size
        if most is not None and size > most:
            _too_long(path, most)
        try:
            # not by the size that the system reports: for files of /proc it is 0
            raw = stream.read() if most is None else stream.read(most + 1)
        except MemoryError:
            raise FileError(
                f"{os.fspath(path)}: its {size:,} bytes need more memory than is available; use a smaller file"
            ) from None
    if most is not None and len(raw) > most:
        _too_long(path, most)
    return raw


def read_text(path: Name, most: int = TEXT_BYTES, wanted: str = "a text file") -> str:
    """The UTF-8 text of a regular file of at most `most` bytes, without a byte order mark. Raises `FileError`."""
    raw = read_bytes(path, most, wanted)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(
            f"{os.fspath(path)}: is not UTF-8 text (byte {error.start}); give {wanted}, saved as UTF-8"
        ) from None


def _too_long(path: Name, most: int) -> NoReturn:
    raise FileError(f"{os.fspath(path)}: has more than {most:,} bytes, the limit for such a file; split it")


def _refusal(error: OSError | ValueError, name: str, wanted: str) -> str:
    if not isinstance(error, OSError):
        return f"no file has such a name; give {wanted}"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "no such file"
    if error.errno == errno.ENXIO:
        return "is a device, a pipe or a socket; copy what it gives into a file, and name that"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "cannot be read: no permission; change it or copy the file"
    return f"cannot be read: {error.strerror or error}"


@contextlib.contextmanager
def damaged_as(place: str, what: str) -> Generator[None]:
    """Turns whatever a library raises while it reads `place` into a `FileError`: "t.npz: damaged .npz (cause)".

    Our own errors pass. A `MemoryError` is its own message.
    """
    try:
        yield
    except DojangError:
        raise
    except MemoryError:
        raise FileError(
            f"{place}: needs more memory than there is; use a smaller file or a machine with more"
        ) from None
    except Exception as error:  # libraries raise exceptions of any class for damaged files
        raise FileError(f"{place}: {what} ({cause(error)}); copy or write it again") from None


def cause(error: BaseException) -> str:
    """The message of an exception in one line of at most 200 letters; the name of its class if it is empty."""
    try:
        said = one_line(str(error), 500)
    except Exception:  # an exception that cannot print itself
        said = ""
    return said[:200] or type(error).__name__


# ---------------------------------------------------------------------------------------------- JSON


def json_value(raw: bytes | str, place: str, what: str = "damaged JSON", unique: bool = False) -> Any:
    """The value of a JSON text, as `json.loads` gives it. With `unique`, an object with the same name twice is an
    error.

    Raises `FileError` ("`place`: `what` (cause)") for what is not JSON, for more than `JSON_MARKS` marks, and for whole
    numbers of more than `DIGITS` digits.
    """
    marks = sum(raw.count(m) for m in ((b"[", b"{", b",", b":") if isinstance(raw, bytes) else "[{,:"))  # type: ignore[arg-type]
    if marks > JSON_MARKS:
        raise FileError(f"{place}: {what} (more than {JSON_MARKS:,} values); write it again")
    with damaged_as(place, what):
        return json.loads(raw, object_pairs_hook=_once if unique else None, parse_int=_whole)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a name twice")
    return found


def _whole(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


# ---------------------------------------------------------------------------------------------- NumPy arrays


@dataclass(frozen=True, slots=True)
class NpyHeader:
    """The header of an .npy file: NumPy's type string, shape, order in memory, and the position of the values."""

    dtype: str
    shape: tuple[int, ...]
    fortran: bool
    start: int

    @property
    def item_bytes(self) -> int:
        """Bytes of one value."""
        return _item_bytes(self.dtype)

    @property
    def data_bytes(self) -> int:
        """Bytes of all values."""
        return prod(self.shape) * self.item_bytes


_TYPE = re.compile(r"[<>|=]?([?bBhHiIlLqQefdgFDG]|b1|[iu][1248]|f2|f4|f8|f16|c8|c16|c32|[SU][1-9]\d{0,5})")
_LETTERS = {"?": 1, "b": 1, "B": 1, "h": 2, "H": 2, "i": 4, "I": 4, "l": 8, "L": 8, "q": 8, "Q": 8, "e": 2, "f": 4,
            "d": 8, "g": 16, "F": 8, "D": 16, "G": 32}  # fmt: skip
_HEADER_BYTES = 1 << 16


def npy_header(stream: BinaryIO | Any, place: str) -> NpyHeader:
    """The header of an .npy (versions 1 to 3), from the current position of `stream`.

    Raises `FileError` for other files, for Python objects and records, and for impossible shapes.
    Source: numpy.org/devdocs/reference/generated/numpy.lib.format.html.
    """
    magic = stream.read(8)
    if len(magic) < 8 or magic[:6] != b"\x93NUMPY" or magic[6] not in (1, 2, 3):
        raise FileError(f"{place}: is no .npy array, or a truncated one; write it with numpy.save")
    wide = "<H" if magic[6] == 1 else "<I"
    raw = stream.read(struct.calcsize(wide))
    length = struct.unpack(wide, raw)[0] if len(raw) == struct.calcsize(wide) else 0
    if not 0 < length <= _HEADER_BYTES:
        raise FileError(f"{place}: the header of its array has {length} bytes; it is damaged, write it again")
    text = stream.read(length)
    with damaged_as(place, "the header of its array is damaged"):
        if len(text) < length:
            raise ValueError("truncated")
        said = text.decode("utf-8" if magic[6] == 3 else "latin-1")
        # Python 2 wrote (3L, 4L)
        found = _literal(re.sub(r"(\d)L\b", r"\1", said.strip()))
        if not isinstance(found, dict):
            raise ValueError("it is no dict")
        fields = cast(dict[Any, Any], found)
        if fields.keys() != {"descr", "fortran_order", "shape"}:
            raise ValueError("it does not name descr, fortran_order and shape")
        return _npy_checked(fields["descr"], fields["fortran_order"], fields["shape"], place, 8 + len(raw) + length)


def _literal(text: str) -> Any:
    """The value of a Python literal. Raises `ValueError` for all else, in words that say nothing of Python's parser.

    The parser's own stack is bounded: for signs or brackets within each other it raises `MemoryError`, whatever memory
    there is.
    """
    try:
        return ast.literal_eval(text)
    except (MemoryError, RecursionError):
        raise ValueError("it is nested too deeply") from None
    except Exception:  # of many classes, with the parser's places and addresses as their message
        raise ValueError("it is no dict of plain values") from None


def _npy_checked(dtype: Any, fortran: Any, shape: Any, place: str, start: int) -> NpyHeader:
    if isinstance(dtype, str) and dtype.lstrip("<>|=") in ("O", "O4", "O8"):
        raise FileError(f"{place}: holds Python objects, which could run code; write plain arrays")
    if not isinstance(dtype, str) or not _TYPE.fullmatch(dtype):
        raise FileError(f"{place}: holds values of type {one_line(str(dtype))[:60]}; write plain numbers or texts")
    if type(fortran) is not bool or not isinstance(shape, tuple):
        raise ValueError("fortran_order or shape is of a wrong type")
    sizes = cast(tuple[Any, ...], shape)
    if any(type(s) is not int or s < 0 for s in sizes):
        raise ValueError("a size is no whole number of at least 0")
    check_array_shape(sizes, place)
    return NpyHeader(dtype, sizes, fortran, start)


def check_array_shape(shape: Sequence[int], place: str) -> None:
    """Raises `FileError` for more than `ARRAY_AXES` axes or `ARRAY_VALUES` values."""
    if len(shape) > ARRAY_AXES:
        raise FileError(f"{place}: its array has {len(shape)} axes; at most {ARRAY_AXES} are read")
    if prod(max(1, min(s, ARRAY_VALUES + 1)) for s in shape) > ARRAY_VALUES:
        sizes = "×".join(map(str, shape))[:80]
        raise FileError(
            f"{place}: says that its array is {sizes}, which no machine can store; it is damaged, write it again"
        )


def _item_bytes(dtype: str) -> int:
    code = dtype.lstrip("<>|=")
    if code in _LETTERS:
        return _LETTERS[code]
    return int(code[1:]) * (4 if code[0] == "U" else 1)


# ---------------------------------------------------------------------------------------------- .gz and .zip


class _Gzip:
    """A .gz as a stream; every error is a `FileError`."""

    def __init__(self, raw: BinaryIO, place: str) -> None:
        self._file, self._place = gzip.GzipFile(fileobj=raw, mode="rb"), place

    def read(self, size: int) -> bytes:
        """At most `size` bytes; less only at the end."""
        with damaged_as(self._place, "truncated or damaged .gz"):
            return self._file.read(size)


@contextlib.contextmanager
def gzipped(path: Name) -> Generator[_Gzip]:
    """The unpacked content of a .gz, as a stream with `read(size)`. Raises `FileError`."""
    with opened(path) as raw:
        yield _Gzip(cast(BinaryIO, raw), os.fspath(path))


def take(read: Callable[[int], bytes], count: int) -> bytearray:
    """Up to `count` bytes, in a buffer that grows as they arrive, so that a wrong size in a header costs no memory."""
    found = bytearray()
    while len(found) < count and (chunk := read(min(CHUNK, count - len(found)))):
        found += chunk
    return found


_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_NAMES = {zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "LZMA", 9: "deflate64", 93: "Zstandard", 95: "xz", 99: "AES"}


@contextlib.contextmanager
def zipped(path: Name, wanted: str = "a .zip file") -> Generator[zipfile.ZipFile]:
    """A .zip, open for reading. Raises `FileError` for other files, and for more than `MEMBERS` members."""
    place = os.fspath(path)
    with opened(path, wanted) as raw:
        with damaged_as(place, "truncated or damaged, or no .zip"):
            archive = zipfile.ZipFile(cast(Any, raw))
        if any(not info.filename or "\0" in info.orig_filename for info in archive.infolist()):
            raise FileError(f"{place}: a member of it has no name, or a zero byte in it; write it again")
        if len(archive.infolist()) > MEMBERS:
            raise FileError(f"{place}: holds more than {MEMBERS:,} members, the limit for one .zip; split it")
        yield archive


@contextlib.contextmanager
def member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, place: str) -> Generator[Callable[[int], bytes]]:
    """A function that reads the next bytes of one member: `read(size)`. `place` names file and member in messages.

    Only stored and deflated members are read: the decompressors of the others unpack a block of 4 KB to gigabytes
    before they can be stopped. Raises `FileError` for these, for encryption, and for damage.
    """
    if info.flag_bits & 1:
        raise FileError(f"{place}: is encrypted; write a .zip without a password")
    if info.compress_type not in _METHODS:
        method = _NAMES.get(info.compress_type, f"method {info.compress_type}")
        raise FileError(f"{place}: is compressed by {method}; write a .zip with deflate, or store it")
    with damaged_as(place, "damaged in the .zip"):
        stream = archive.open(info)

    def read(size: int) -> bytes:
        with damaged_as(place, "damaged in the .zip"):
            return stream.read(size)

    with stream:
        yield read


def unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo, place: str, budget: Budget) -> bytes:
    """All bytes of one member, announced to the budget first. Raises `FileError`."""
    with member(archive, info, place) as read:
        # zipfile returns at most the size in the directory, so this is the most memory that it needs
        budget.unpack(info.file_size)
        return bytes(take(read, info.file_size))


__all__ = ["ARRAY_VALUES", "JSON_MARKS", "TEXT_BYTES", "NpyHeader", "cause", "check_array_shape", "damaged_as",
           "gzipped", "json_value", "member", "npy_header", "opened", "read_bytes", "read_text", "take", "unpacked",
           "zipped"]  # fmt: skip
