"""NPY files mapped into memory. The header is checked here, because `numpy.load` trusts it and raises any exception."""

from __future__ import annotations

import os
from os import PathLike, fspath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dojang.base.errors import FileError
from dojang.base.reading import damaged_as, npy_header, opened


def mapped(path: str | PathLike[str]) -> NDArray[Any]:
    """The array in an NPY file, read-only; its pages are read when they are used.

    Raises `FileError` for other files, truncated files, and Python objects or records.
    """
    name = fspath(path)
    with opened(path, "an .npy file") as stream:
        header = npy_header(stream, name)
        there = os.fstat(stream.fileno()).st_size - header.start
        if header.data_bytes > there:
            sizes = "x".join(map(str, header.shape))
            raise FileError(
                f"{name}: truncated: {sizes} of {header.dtype} takes {header.data_bytes} bytes, the file has {there}; "
                "fetch or write it again"
            )
        order = "F" if header.fortran else "C"
        if not header.data_bytes:  # an empty array cannot be mapped
            return np.zeros(header.shape, header.dtype)
        with damaged_as(name, "an array that cannot be mapped"):
            return np.memmap(stream, header.dtype, "r", header.start, header.shape, order)
