"""Pictures larger than memory: NPY, Zarr and TIFF files filtered by bands of rows with halos.

The result is equal, to the bit, to that of the whole picture in memory: the same compiled code runs on every band.
Zarr and TIFF need the optional packages zarr and tifffile.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dojang.base.errors import DojangError, FileError, ShapeError, UnsupportedError
from dojang.engine.machine import Machine
from dojang.engine.threads import default_threads
from dojang.filters.atomic import check_target, writing
from dojang.filters.images import need
from dojang.filters.job import Job, Options, check_dtype
from dojang.filters.kernels import Kernel
from dojang.filters.plan import Plan, make_plan
from dojang.filters.run import Bound, part_rows

BAND_BYTES = 128 << 20  # of source rows in memory at a time
TIFF_TILE = 256
SUFFIXES = (".npy", ".zarr", ".tif", ".tiff")


@dataclass(frozen=True)
class Source:
    """An array on disk that can be read by slices: (h, w) or (h, w, channels)."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[int, int], NDArray]  # rows first to last
    alpha: bool = False
    icc: bytes | None = None


def is_large(path: str | PathLike[str], pixels: int = 1 << 26) -> bool:
    """Whether a file is done by bands: every NPY and Zarr, and TIFF of at least so many pixels."""
    suffix = Path(path).suffix.lower()
    if suffix in (".npy", ".zarr"):
        return True
    if suffix not in (".tif", ".tiff"):
        return False
    from dojang.filters.opening import opened

    try:
        with opened(fspath(path), sys.maxsize) as image:
            return image.width * image.height >= pixels
    except FileError:
        return False  # the reader of pictures says what is wrong


def filter_large(
    source: str | PathLike[str],
    target: str | PathLike[str],
    kernel: Kernel,
    options: Options,
    force: bool = False,
    progress: Callable[[int, int], object] | None = None,
    band_bytes: int = BAND_BYTES,
    threads: int | None = None,
) -> tuple[tuple[int, ...], np.dtype]:
    """Filters the file `source` into the file `target`, a band of rows at a time; the result's shape and dtype.

    `progress(rows done, rows)` with each band. Memory: about twice `band_bytes` and the kernel's rows. The target is
    written whole or not at all. Raises `FileError`, `ShapeError`, `UnsupportedError`, `MissingPart`.
    """
    check_target(target, force)
    machine = Machine.host()
    with opened(source) as picture:
        try:
            dtype = check_dtype(picture.dtype)
            shape = (1, *picture.shape) if len(picture.shape) == 3 else (1, *picture.shape, 1)
            job = Job.of(kernel, shape, dtype, options)
        except DojangError as error:
            raise error.within(fspath(source)) from None
        (plan,) = make_plan((job,), machine)
        oh, ow = job.out_size
        out_shape = (oh, ow, *picture.shape[2:])
        rows = band_height(job, plan, band_bytes)
        bands = _bands(picture, job, plan, rows, machine, threads or default_threads(), progress)
        _write(target, out_shape, job.out_dtype, bands, force, picture)
    return out_shape, job.out_dtype


def band_height(job: Job, plan: Plan, band_bytes: int) -> int:
    """Result rows of one band: as many as `band_bytes` hold, a multiple of the plan's grid."""
    per_row = job.width * job.channels * (job.dtype.itemsize * job.options.stride[0] + job.out_dtype.itemsize)
    return max(1, band_bytes // per_row // plan.grid) * plan.grid


def _bands(
    picture: Source,
    job: Job,
    plan: Plan,
    rows: int,
    machine: Machine,
    threads: int,
    progress: Callable[[int, int], object] | None,
) -> Iterator[NDArray]:
    """The result's rows, band after band, each (rows, ow, channels)."""
    oh, ow = job.out_size
    for y0 in range(0, oh, rows):
        y1 = min(y0 + rows, oh)
        needed = part_rows(job, y0, y1)[0]
        source = np.empty((len(needed), job.width, job.channels), job.dtype)
        for first, last, at in _runs(needed):
            source[at : at + last - first] = picture.read(first, last).reshape(last - first, job.width, job.channels)
        band = np.empty((1, y1 - y0, ow, job.channels), job.out_dtype)
        Bound(plan, job, machine, threads, (y0, y1)).run(source, band)
        if picture.alpha:
            sy, sx = job.options.stride
            first = job.origin[0] + y0 * sy
            kept = picture.read(first, first + (y1 - y0 - 1) * sy + 1)[::sy, job.origin[1] :: sx]
            band[0, ..., -1] = kept[:, :ow, -1]
        if progress:
            progress(y1, oh)
        yield band[0]


def _runs(rows: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """(first, last + 1, place) of each run of neighbouring rows."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    for begin, end in zip([0, *breaks], [*breaks, len(rows)], strict=True):
        if begin < end:
            yield int(rows[begin]), int(rows[end - 1]) + 1, int(begin)


@contextmanager
def opened(path: str | PathLike[str]) -> Iterator[Source]:
    """The picture in an NPY, Zarr or TIFF file, not yet read."""
    name, suffix = fspath(path), Path(path).suffix.lower()
    if suffix == ".npy":
        yield _open_npy(name)
    elif suffix == ".zarr":
        yield _open_zarr(name)
    elif suffix in (".tif", ".tiff"):
        with _open_tiff(name) as source:
            yield source
    else:
        raise UnsupportedError(f"{name}: only {', '.join(SUFFIXES)} are filtered by bands")


def _checked(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) not in (2, 3):
        raise ShapeError(f"{name}: a picture has shape (h, w) or (h, w, channels); got {shape}")


def _open_npy(name: str) -> Source:
    try:
        array = np.load(name, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FileError(f"{name}: no readable NumPy array ({getattr(error, 'strerror', None) or error})") from None
    if not isinstance(array, np.ndarray):
        raise FileError(f"{name}: no NumPy array")
    _checked(name, array.shape)
    return Source(array.shape, array.dtype, lambda first, last: array[first:last])


def _open_zarr(name: str) -> Source:
    zarr = need("zarr", "Zarr")
    if not Path(name).exists():
        raise FileError(f"{name}: No such file or directory")
    try:
        array = zarr.open(name, mode="r")
        shape, dtype = tuple(array.shape), np.dtype(array.dtype)
    except Exception as error:  # zarr raises its own kinds for damaged stores
        raise FileError(f"{name}: no readable Zarr array ({str(error).partition(chr(10))[0]})") from None
    _checked(name, shape)
    return Source(shape, dtype, lambda first, last: np.asarray(array[first:last]))


def _damaged(name: str, error: Exception) -> FileError:
    return FileError(f"{name}: damaged or truncated picture ({str(error).partition(chr(10))[0]})")


def _tiff_page(file: Any, zarr: Any, name: str) -> tuple[Any, Any]:
    """The only page and its pixels as a Zarr array, which reads the tiles that a slice needs."""
    try:
        if len(file.pages) > 1:
            raise UnsupportedError(f"{name}: holds {len(file.pages)} pages; split it into single pictures first")
        page = file.pages[0]
        ends = [a + n for a, n in zip(page.dataoffsets, page.databytecounts, strict=False)]
        if not ends or max(ends) > file.filehandle.size:
            raise ValueError("pixels are missing at its end")
        return page, zarr.open(page.aszarr(), mode="r")
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise _damaged(name, error) from None


@contextmanager
def _open_tiff(name: str) -> Iterator[Source]:
    tifffile, zarr = need("tifffile", "large TIFF"), need("zarr", "large TIFF")
    try:
        file = tifffile.TiffFile(name)
    except (OSError, ValueError, tifffile.TiffFileError) as error:
        raise _damaged(name, error) from None
    try:
        page, array = _tiff_page(file, zarr, name)
        _checked(name, tuple(array.shape))
        if page.planarconfig != 1 and array.ndim == 3:
            raise UnsupportedError(f"{name}: its channels are stored apart; store them pixel by pixel")
        icc = page.iccprofile if isinstance(page.iccprofile, bytes) else None
        alpha = bool(page.extrasamples) and array.ndim == 3

        def read(first: int, last: int) -> NDArray:
            try:
                return np.asarray(array[first:last])
            except Exception as error:
                raise _damaged(name, error) from None

        yield Source(tuple(array.shape), np.dtype(array.dtype), read, alpha, icc)
    finally:
        file.close()


def _write(
    target: str | PathLike[str],
    shape: tuple[int, ...],
    dtype: np.dtype,
    bands: Iterator[NDArray],
    force: bool,
    picture: Source,
) -> None:
    suffix = Path(target).suffix.lower()
    if suffix not in SUFFIXES:
        raise UnsupportedError(f"{fspath(target)}: large results are written as {', '.join(SUFFIXES)}")
    with writing(target, force, folder=suffix == ".zarr") as temporary:
        if suffix == ".npy":
            _write_npy(temporary, shape, dtype, bands)
        elif suffix == ".zarr":
            _write_zarr(temporary, shape, dtype, bands)
        else:
            _write_tiff(temporary, shape, dtype, bands, picture)


def _write_npy(temporary: str, shape: tuple[int, ...], dtype: np.dtype, bands: Iterator[NDArray]) -> None:
    with open(temporary, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        )
        for band in bands:
            file.write(band.reshape(-1).view(np.uint8).data)


def _write_zarr(temporary: str, shape: tuple[int, ...], dtype: np.dtype, bands: Iterator[NDArray]) -> None:
    zarr = need("zarr", "Zarr")
    chunks = (min(TIFF_TILE, shape[0]), min(4 * TIFF_TILE, shape[1]), *shape[2:])
    array = zarr.open(temporary, mode="w", shape=shape, dtype=dtype, chunks=chunks)
    first = 0
    for band in _regrouped(bands, 4 * TIFF_TILE):
        array[first : first + len(band)] = band.reshape(len(band), *shape[1:])
        first += len(band)


def _regrouped(bands: Iterator[NDArray], rows: int) -> Iterator[NDArray]:
    """The same rows in bands of a multiple of `rows`, the last one perhaps less: tiles and chunks are written whole."""
    held: list[NDArray] = []
    for band in bands:
        held.append(band)
        have = sum(len(b) for b in held)
        whole = have // rows * rows
        if whole:
            joined = held[0] if len(held) == 1 else np.concatenate(held)
            yield joined[:whole]
            held = [joined[whole:]] if whole < have else []
    if held:
        yield held[0] if len(held) == 1 else np.concatenate(held)


def _write_tiff(
    temporary: str, shape: tuple[int, ...], dtype: np.dtype, bands: Iterator[NDArray], picture: Source
) -> None:
    tifffile = need("tifffile", "large TIFF")
    channels = shape[2] if len(shape) == 3 else 1

    def tiles() -> Iterator[NDArray]:
        for band in _regrouped(bands, TIFF_TILE):
            for y in range(0, len(band), TIFF_TILE):
                for x in range(0, shape[1], TIFF_TILE):
                    tile = np.zeros((TIFF_TILE, TIFF_TILE, channels), dtype)
                    piece = band[y : y + TIFF_TILE, x : x + TIFF_TILE]
                    tile[: piece.shape[0], : piece.shape[1]] = piece
                    yield tile if len(shape) == 3 else tile[..., 0]

    tifffile.imwrite(
        temporary,
        tiles(),
        shape=shape,
        dtype=dtype,
        tile=(TIFF_TILE, TIFF_TILE),
        photometric="rgb" if channels in (3, 4) else "minisblack",
        extrasamples=["unassalpha"] if picture.alpha else None,
        iccprofile=picture.icc,
        bigtiff=int(np.prod(shape)) * dtype.itemsize > (1 << 31),
        metadata=None,
    )
