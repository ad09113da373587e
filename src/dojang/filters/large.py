"""Pictures larger than memory: NPY, Zarr and TIFF files filtered by bands of rows with halos.

The result equals, bit for bit, that of the whole picture in memory: the same compiled code runs on every band.
Zarr and TIFF need the optional packages zarr and tifffile.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dojang.base.errors import DojangError, FileError, ShapeError, UnsupportedError
from dojang.filters.alpha import weigh_rows, weighs
from dojang.filters.job import AxesWarning, Job, Options, channels_first, check_dtype
from dojang.filters.kernels.parse import Kernel
from dojang.filters.levels import PartOf, Saturation
from dojang.filters.npy import mapped
from dojang.filters.pictures.atomic import check_target, writing
from dojang.filters.pictures.images import need
from dojang.filters.pictures.opening import encoding
from dojang.filters.pictures.tiff import Layout, Tag, kept_tags, names_of
from dojang.filters.pictures.tiff_rows import Rows
from dojang.filters.pictures.tiff_writing import TILE, TiffDetails, write_rows
from dojang.filters.plan.choose import FilterPlan, make_plan
from dojang.filters.run import Bound, part_rows
from dojang.native.machine import Machine
from dojang.native.threads import default_threads

BAND_BYTES = 128 << 20  # of source rows in memory at a time
BAND_PIXELS = 1 << 26
"""TIFFs of at least so many pixels are filtered in bands of rows."""
STORES = (".npy", ".zarr")
SUFFIXES = (*STORES, ".tif", ".tiff")


@dataclass(frozen=True)
class ArrayOnDisk:
    """An array on disk that can be read by slices: (h, w) or (h, w, channels), with the samples interpreted."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[int, int], NDArray]  # rows first to last
    layout: Layout | None = None
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def alpha(self) -> bool:
        """Whether the last channel is alpha."""
        return self.layout is not None and self.layout.alpha

    @property
    def orientation(self) -> int:
        """The EXIF orientation of the stored rows (EXIF 2.32)."""
        return 1 if self.layout is None else self.layout.orientation


def is_large(path: str | PathLike[str], pixels: int = BAND_PIXELS, reals: bool = False) -> bool:
    """Whether a file is filtered by bands: every NPY and Zarr file, and TIFFs of at least so many pixels. `reals` as in
    `Layout.of`.

    Not if the rows of a TIFF cannot be read separately (fax; JPEG and LZW if imagecodecs is missing).
    """
    suffix = Path(path).suffix.lower()
    if suffix in STORES:
        return True
    if suffix not in (".tif", ".tiff"):
        return False
    try:
        layout = Layout.of(fspath(path), reals)
    except DojangError:
        return False  # reading the picture will raise the error
    return layout.width * layout.height >= pixels and layout.in_bands


def as_stored(kernels: tuple[Kernel, ...], options: Options, orientation: int) -> tuple[tuple[Kernel, ...], Options]:
    """Kernels and options for the stored pixels, with the effect of the given ones on the displayed picture."""
    if orientation == 1:
        return kernels, options
    kernels = tuple(kernel.turned(orientation) for kernel in kernels)
    return kernels, replace(options, dilation=options.dilation[::-1]) if orientation >= 5 else options


def filter_large(
    source: str | PathLike[str],
    target: str | PathLike[str],
    kernel: Kernel,
    options: Options,
    force: bool = False,
    progress: Callable[[int, int], object] | None = None,
    band_bytes: int = BAND_BYTES,
    threads: int | None = None,
) -> tuple[tuple[int, ...], np.dtype, tuple[str, ...], float]:
    """Filters the file `source` into the file `target`, a band of rows at a time.

    Returns the result's shape and dtype, the names of what could not be kept, and the share of saturated values
    (`levels.Saturation`).

    `progress(rows done, rows)` is called after each band. It needs about twice `band_bytes` of memory, and the kernel's
    rows. The target is written whole or not at all. Raises `FileError`, `ShapeError`, `UnsupportedError`,
    `MissingPart`.
    """
    check_target(target, force)
    machine = Machine.host()
    with opened(source, options.dtype is not None and options.dtype.kind == "f") as picture:
        try:
            dtype = check_dtype(picture.dtype)
            if picture.orientation != 1 and options.stride != (1, 1):
                raise UnsupportedError(
                    f"a stride on a large picture that is stored rotated (orientation {picture.orientation}); rotate "
                    "its pixels first"
                )
            (kernel,), options = as_stored((kernel,), options, picture.orientation)
            if len(picture.shape) == 3 and channels_first(picture.shape):
                warnings.warn(f"{fspath(source)}: {channels_first(picture.shape)}", AxesWarning, stacklevel=2)
            shape = (1, *picture.shape) if len(picture.shape) == 3 else (1, *picture.shape, 1)
            job = Job.of(kernel, shape, dtype, options)
        except DojangError as error:
            raise error.within(fspath(source)) from None
        (plan,) = make_plan((job,), machine)
        oh, ow = job.out_size
        out_shape = (oh, ow, *picture.shape[2:])
        rows = band_height(job, plan, band_bytes)
        meter = Saturation(job, job.channels - int(picture.alpha))
        bands = _bands(picture, job, plan, rows, machine, threads or default_threads(machine.cores), progress, meter)
        moved = options.stride != (1, 1) or options.border == "valid"
        lost = _write(target, out_shape, job.out_dtype, bands, force, picture, moved)
    return out_shape, job.out_dtype, lost, meter.share


def band_height(job: Job, plan: FilterPlan, band_bytes: int) -> int:
    """Result rows of one band: as many as fit into `band_bytes`, a multiple of the plan's grid."""
    per_row = job.width * job.channels * (job.dtype.itemsize * job.options.stride[0] + job.out_dtype.itemsize)
    return max(1, band_bytes // per_row // plan.grid) * plan.grid


def _bands(
    picture: ArrayOnDisk,
    job: Job,
    plan: FilterPlan,
    rows: int,
    machine: Machine,
    threads: int,
    progress: Callable[[int, int], object] | None,
    meter: Saturation,
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
            if weighs(job.kernel):
                part = PartOf(needed, source)
                weigh_rows(job, part.__getitem__, y0, y1, band[0], threads)
        meter.look(PartOf(needed, source), band[0], y0)
        if progress:
            progress(y1, oh)
        yield band[0]


def _runs(rows: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """(first, last + 1, index) of each run of neighbouring rows."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    for begin, end in zip([0, *breaks], [*breaks, len(rows)], strict=True):
        if begin < end:
            yield int(rows[begin]), int(rows[end - 1]) + 1, int(begin)


@contextmanager
def opened(path: str | PathLike[str], reals: bool = False) -> Iterator[ArrayOnDisk]:
    """The picture in an NPY, Zarr or TIFF file, not yet read; `reals` as in `Layout.of`."""
    name, suffix = fspath(path), Path(path).suffix.lower()
    if suffix == ".npy":
        yield _open_npy(name)
    elif suffix == ".zarr":
        yield _open_zarr(name)
    elif suffix in (".tif", ".tiff"):
        with _open_tiff(name, reals) as source:
            yield source
    else:
        raise UnsupportedError(f"{name}: only {', '.join(SUFFIXES)} are filtered by bands")


def _checked(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) not in (2, 3):
        raise ShapeError(f"{name}: a picture has shape (h, w) or (h, w, channels); got {shape}")


def _open_npy(name: str) -> ArrayOnDisk:
    array = mapped(name)
    _checked(name, array.shape)
    return ArrayOnDisk(array.shape, array.dtype, lambda first, last: array[first:last])


def _open_zarr(name: str) -> ArrayOnDisk:
    zarr = need("zarr", "Zarr")
    if not Path(name).exists():
        raise FileError(f"{name}: no such file")
    try:
        array = zarr.open(name, mode="r")
        shape, dtype = tuple(array.shape), np.dtype(array.dtype)
    except Exception as error:  # zarr raises its own exceptions for damaged stores
        raise FileError(f"{name}: not a readable Zarr array ({str(error).partition(chr(10))[0]})") from None
    _checked(name, shape)
    return ArrayOnDisk(
        shape, dtype, lambda first, last: np.asarray(array[first:last]), attributes=dict(getattr(array, "attrs", {}))
    )


@contextmanager
def _open_tiff(name: str, reals: bool) -> Iterator[ArrayOnDisk]:
    layout = Layout.of(name, reals)
    rows = Rows(name, layout)
    try:
        yield ArrayOnDisk(layout.shape, layout.dtype, rows.read, layout)
    finally:
        rows.close()


def _write(
    target: str | PathLike[str],
    shape: tuple[int, ...],
    dtype: np.dtype,
    bands: Iterator[NDArray],
    force: bool,
    picture: ArrayOnDisk,
    moved: bool,
) -> tuple[str, ...]:
    """Writes the bands; returns the names of what could not be kept."""
    suffix = Path(target).suffix.lower()
    if suffix not in SUFFIXES:
        raise UnsupportedError(f"{fspath(target)}: large results are written as {', '.join(SUFFIXES)}")
    layout = picture.layout
    lost: tuple[str, ...] = layout.lost if layout else ()
    with writing(target, force) as temporary:
        if suffix == ".npy":
            _write_npy(temporary, shape, dtype, bands)
        elif suffix == ".zarr":
            _write_zarr(temporary, shape, dtype, bands, picture.attributes)
        else:
            tags, gone = kept_tags(layout.tags, moved) if layout else ((), ())
            with encoding(fspath(target)):
                _write_tiff(temporary, shape, dtype, bands, layout, tags)
            return (*lost, *gone)
    if layout is not None:
        lost += names_of(layout.tags) + (("the colour profile",) if layout.icc else ())
        lost += (f"orientation {layout.orientation}",) if layout.orientation != 1 else ()
    elif suffix == ".npy" and picture.attributes:
        lost += tuple(f"attribute {key}" for key in picture.attributes)
    return lost


def _write_npy(temporary: str, shape: tuple[int, ...], dtype: np.dtype, bands: Iterator[NDArray]) -> None:
    with open(temporary, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        )
        for band in bands:
            file.write(band.reshape(-1).view(np.uint8).data)


def _write_zarr(
    temporary: str, shape: tuple[int, ...], dtype: np.dtype, bands: Iterator[NDArray], attributes: dict[str, Any]
) -> None:
    zarr = need("zarr", "Zarr")
    chunks = (min(TILE, shape[0]), min(4 * TILE, shape[1]), *shape[2:])
    array = zarr.open(temporary, mode="w", shape=shape, dtype=dtype, chunks=chunks)
    array.attrs.update(attributes)
    first = 0
    for band in _regrouped(bands, 4 * TILE):
        array[first : first + len(band)] = band.reshape(len(band), *shape[1:])
        first += len(band)


def _regrouped(bands: Iterator[NDArray], rows: int) -> Iterator[NDArray]:
    """The same rows in bands of a multiple of `rows` (except the last), so that tiles and chunks are written whole."""
    waiting: list[NDArray] = []
    for band in bands:
        waiting.append(band)
        have = sum(len(b) for b in waiting)
        whole = have // rows * rows
        if whole:
            joined = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
            yield joined[:whole]
            waiting = [joined[whole:]] if whole < have else []
    if waiting:
        yield waiting[0] if len(waiting) == 1 else np.concatenate(waiting)


def _write_tiff(
    temporary: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    bands: Iterator[NDArray],
    layout: Layout | None,
    tags: tuple[Tag, ...],
) -> None:
    need("tifffile", "large TIFF")
    channels = shape[2] if len(shape) == 3 else 1

    def tiles() -> Iterator[NDArray]:
        for band in _regrouped(bands, TILE):
            for y in range(0, len(band), TILE):
                for x in range(0, shape[1], TILE):
                    tile = np.zeros((TILE, TILE, channels), dtype)
                    piece = band[y : y + TILE, x : x + TILE]
                    tile[: piece.shape[0], : piece.shape[1]] = piece
                    yield tile if len(shape) == 3 else tile[..., 0]

    mode = layout.mode if layout is not None else "RGB" if channels == 3 else "DATA"
    more: dict[str, Any] = {"tags": tags}
    if layout is not None:
        more |= {"orientation": layout.orientation, "icc": layout.icc, "packed": layout.compression != 1}
    write_rows(
        temporary,
        shape,
        dtype,
        tiles(),
        TiffDetails.of(mode, channels, layout is not None and layout.alpha, layout, **more),
    )
