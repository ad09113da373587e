"""NumPy's files, .npy and .npz. The header is checked first, and memory is allocated only for data that the file has.

`numpy.load` trusts the header: it allocates memory first, parses Python in it, and raises any exception of its parsers.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dojang.base.budget import Budget
from dojang.base.errors import FileError
from dojang.base.reading import NpyHeader, damaged_as, member, npy_header, opened, zipped

Array = NDArray[Any]


class _Counted:
    """A member of a .zip as a stream, for `npy_header`."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self.read = read


def read_npy(path: str | os.PathLike[str]) -> Array:
    """The array in an .npy file, writable, in the memory order in which it was written.

    Raises `FileError` for other files, truncated files, and Python objects or records.
    """
    place = os.fspath(path)
    with opened(path, "an .npy file") as stream:
        header = npy_header(stream, place)
        left = os.fstat(stream.fileno()).st_size - header.start
        if header.data_bytes > left:
            raise _short(place, header, left)
        return _filled(header, place, stream.readinto)


def read_npz(path: str | os.PathLike[str], names: Iterable[str] | None = None) -> dict[str, Array]:
    """The arrays of an .npz by name; only those among `names`, if it is given.

    Other members are not unpacked; one `Budget` limits all members together. Raises `FileError`.
    """
    place = os.fspath(path)
    wanted = None if names is None else set(names)
    found: dict[str, Array] = {}
    with zipped(path, "an .npz file") as archive:
        budget = Budget(place, file_bytes=Path(path).stat().st_size)
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if wanted is None or name in wanted:
                found[name] = _member(archive, info, f"{place}: {name}", budget)
    return found


def npz_names(path: str | os.PathLike[str]) -> list[str]:
    """The names of the arrays in an .npz, in its order. Raises `FileError`."""
    with zipped(path, "an .npz file") as archive:
        return [info.filename.removesuffix(".npy") for info in archive.infolist()]


def is_npy(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins like a single array. Raises `FileError` if it cannot be read."""
    with opened(path) as stream:
        return stream.read(6) == b"\x93NUMPY"


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, place: str, budget: Budget) -> Array:
    with member(archive, info, place) as read:
        header = npy_header(_Counted(read), place)
        left = info.file_size - header.start
        if header.data_bytes > left:
            raise _short(place, header, left)
        budget.unpack(header.data_bytes)

        def fill(view: memoryview) -> int:
            at = 0
            while at < len(view) and (chunk := read(min(1 << 20, len(view) - at))):
                view[at : at + len(chunk)] = chunk
                at += len(chunk)
            return at

        return _filled(header, place, fill)


def _filled(header: NpyHeader, place: str, fill: Callable[[memoryview], int | None]) -> Array:
    with damaged_as(place, "damaged array"):
        flat = np.empty(header.data_bytes, np.uint8)
        got = fill(memoryview(flat.data)) if flat.size else 0
        if got != flat.size:
            raise _short(place, header, got or 0)
        dtype = np.dtype(header.dtype)
        if dtype.kind == "b":
            flat = (flat != 0).view(np.uint8)  # NumPy allows only 0 and 1 as truth values
        return flat.view(dtype).reshape(header.shape, order="F" if header.fortran else "C")


def _short(place: str, header: NpyHeader, left: int) -> FileError:
    shape = "×".join(map(str, header.shape)) or "one value"
    return FileError(
        f"{place}: truncated: {shape} of {header.dtype} takes {header.data_bytes} bytes, the file has {max(0, left)}; "
        "fetch or write it again"
    )
