"""Filter picture files, as `dojang filter` does."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dojang.base.errors import DojangError, FileError, UsageError
from dojang.base.result import Result
from dojang.filters.arrays import filter_array
from dojang.filters.job import Job, Options, as_stack, check_dtype
from dojang.filters.kernels.parse import Kernel, as_kernel, check_anchor, is_bank
from dojang.filters.large import BAND_PIXELS, STORES, as_stored, filter_large, is_large, opened
from dojang.filters.levels import PartOf, Saturation, middle, warning_of
from dojang.filters.pictures.atomic import check_target
from dojang.filters.pictures.images import (
    FORMATS,
    HOLD_FLOATS,
    ONLY_READ,
    Picture,
    form_of,
    with_pixels,
    without_outdated,
)
from dojang.filters.pictures.reading import read_picture
from dojang.filters.pictures.writing import write_picture
from dojang.filters.plan.choose import FilterPlan, make_plan
from dojang.native.machine import Machine
from dojang.native.threads import asked_threads, default_threads

PathArg = str | PathLike[str]


class NotKept(UserWarning):
    """A part of a picture file other than its pixels could not be kept in the result; the message names it."""


@dataclass(frozen=True, slots=True)
class Filtered:
    """A filtered file: source, target, kernel, size and pixel type."""

    source: str
    target: str
    kernel: str
    width: int
    height: int
    channels: int
    dtype: str
    lost: tuple[str, ...] = ()
    """The parts of the file, other than pixels, that could not be kept."""
    offset: float = 0.0
    """What was added to every value: the level that stands for 0."""
    saturated: float = 0.0
    """The share of values beyond the levels of integer pixels, alpha not counted; measured on 128 x 128 pixels."""
    warning: str = ""
    """What is wrong with the result as a picture: almost all of it saturates."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A file that could not be filtered, and why."""

    source: str
    message: str
    exit_code: int


@dataclass(frozen=True, slots=True)
class FilterReport(Result):
    """The files of one call, in the given order, with one entry per kernel."""

    kernels: tuple[str, ...]
    border: str
    done: tuple[Filtered, ...]
    failed: tuple[Failed, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `kernel` is the name, or the names with commas."""
        return {"kernel": ", ".join(self.kernels), **asdict(self)}


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """How the picture in one file would be filtered: one plan for each kernel, or one for a bank.

    `channels` are those of the picture; its plans count one more where 3 channels are held as 4 in memory.
    """

    source: str
    channels: int
    plans: tuple[FilterPlan, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"source": self.source, "channels": self.channels, "plans": [plan.to_dict() for plan in self.plans]}


@dataclass(frozen=True, slots=True)
class FilterPlans(Result):
    """How each picture would be filtered, in the order given."""

    pictures: tuple[PlannedFile, ...]

    def to_dict(self) -> dict[str, Any]:
        """The plans of every picture."""
        return {"pictures": [planned.to_dict() for planned in self.pictures]}


@dataclass(frozen=True, slots=True)
class Settings:
    """How the files of one call are filtered. `centred`: nobody gave an offset, so signed kernels get mid-grey."""

    options: Options
    centred: bool = False
    force: bool = False
    max_pixels: int | None = None
    threads: int | None = None
    band_pixels: int = BAND_PIXELS

    def options_for(self, kernel: Kernel, dtype: np.dtype) -> Options:
        """The options for one kernel on pixels of a dtype."""
        offset = middle(kernel, dtype, self.options) if self.centred else 0.0
        return replace(self.options, offset=offset) if offset else self.options

    @property
    def reals(self) -> bool:
        """Whether results are floats, so that samples that no picture of integers holds can be read."""
        return self.options.dtype is not None and self.options.dtype.kind == "f"


def filter_files(
    paths: Sequence[PathArg],
    kernel: Any,
    out: PathArg | None = None,
    border: str = "reflect",
    stride: int | tuple[int, int] = 1,
    dilation: int | tuple[int, int] = 1,
    force: bool = False,
    progress: Callable[[int, int], object] | None = None,
    value: float = 0.0,
    max_pixels: int | None = None,
    workers: int | None = None,
    ahead: Callable[[], Picture] | None = None,
    band_pixels: int = BAND_PIXELS,
    *,
    offset: float | None = None,
    dtype: DTypeLike | None = None,
    anchor: tuple[int, int] = (-1, -1),
    threads: int | None = None,
) -> FilterReport:
    """Filters picture files. One file goes to the file (or into the folder) `out`; several go into the folder `out`.

    Without `out` the result of a/b.jpg is a/b-KERNEL.jpg. A list of kernels writes one file for each, with such names,
    and reads each picture once. The picture is filtered as it is displayed; EXIF orientation, colour profile, alpha and
    bit depth are kept. `offset` is added to every value; None shows the responses of kernels of both signs around
    mid-grey (`levels.middle`). `dtype` "float32" or "float64" keeps the response itself, in a TIFF. `progress(done,
    total)` is called after each file, in this thread. A single file that fails raises its `DojangError`; of several
    files, the others are filtered, and the failures are in the report. Nothing is overwritten without `force`, and no
    file is left half-written. Parts of a file that cannot be kept are in the report and in a warning. `ahead`, for a
    single path that is already being read, returns its picture or raises the error of reading it. TIFFs of at least
    `band_pixels` pixels are filtered in bands of rows. `max_pixels` replaces the limit of `base.pictures`.
    """
    if not paths:
        raise UsageError("no picture given")
    chosen = as_kernels(kernel, anchor)
    options = Options.of(border, stride, dilation, value, 0.0 if offset is None else offset, dtype)
    if max_pixels is not None and not (isinstance(max_pixels, (int, np.integer)) and max_pixels >= 1):
        raise UsageError(f"max_pixels {max_pixels!r} must be a whole number, at least 1")
    settings = Settings(options, offset is None, force, max_pixels, threads, band_pixels)
    targets = plan_targets(paths, chosen, out, settings.reals)
    if len(paths) == 1:
        done = filter_file(paths[0], targets[0], chosen, settings, ahead)
        if progress:
            progress(1, 1)
        report = FilterReport(tuple(k.name for k in chosen), border, done, ())
    else:
        report = _many(paths, targets, chosen, settings, progress, workers)
    for one in report.done:
        if one.lost:  # in this thread: the other threads sometimes switch off warnings, for Pillow
            warnings.warn(f"{one.target}: not kept of {one.source}: {', '.join(one.lost)}", NotKept, stacklevel=2)
    return report


def as_kernels(kernel: Any, anchor: tuple[int, int] = (-1, -1)) -> tuple[Kernel, ...]:
    """One kernel or a list of kernels, in any form that `as_kernel` accepts."""
    check_anchor(anchor)
    return tuple(as_kernel(k, anchor) for k in kernel) if is_bank(kernel) else (as_kernel(kernel, anchor),)


def filter_file(
    source: PathArg,
    targets: Sequence[PathArg],
    kernels: tuple[Kernel, ...],
    settings: Settings,
    ahead: Callable[[], Picture] | None = None,
) -> tuple[Filtered, ...]:
    """Reads one picture, filters it and writes one picture for each kernel."""
    for target in targets:
        check_target(target, settings.force)
    name = fspath(source)
    if Path(source).suffix.lower() not in STORES and Path(source).is_dir():
        raise FileError(f"{name}: is a folder; name a picture, or several as {name.rstrip('/')}/*.jpg")
    if is_large(source, settings.band_pixels, settings.reals):
        done = []
        with opened(source, settings.reals) as picture:
            dtype = picture.dtype
        for target, kernel in zip(targets, kernels, strict=True):
            try:
                options = settings.options_for(kernel, check_dtype(dtype))
            except DojangError as error:
                raise error.within(name) from None
            shape, out_dtype, lost, share = filter_large(
                source, target, kernel, options, settings.force, threads=settings.threads
            )
            (height, width), channels = shape[:2], shape[2] if len(shape) == 3 else 1
            about = (name, fspath(target), kernel.name, width, height, channels, str(out_dtype), lost)
            said = warning_of(kernel, out_dtype, options.offset, share)
            done.append(Filtered(*about, options.offset, share, said))
        return tuple(done)
    for target in targets:
        form_of(fspath(target))  # check the formats first
    picture = ahead() if ahead else read_picture(source, settings.max_pixels, reals=settings.reals)
    try:
        results = filter_picture(picture, kernels, settings)
    except DojangError as error:
        raise error.within(name) from None
    lost = [
        write_picture(result, target, settings.force) for (result, *_), target in zip(results, targets, strict=True)
    ]
    height, width = results[0][0].pixels.shape[:2]
    return tuple(
        Filtered(
            name,
            fspath(t),
            k.name,
            width,
            height,
            r.channels,
            str(r.pixels.dtype),
            gone,
            offset,
            share,
            warning_of(k, r.pixels.dtype, offset, share),
        )
        for (r, offset, share), t, k, gone in zip(results, targets, kernels, lost, strict=True)
    )


def filter_picture(
    picture: Picture, kernels: tuple[Kernel, ...], settings: Settings
) -> list[tuple[Picture, float, float]]:
    """For each kernel: the picture filtered as it is displayed (the kernels are rotated instead of the stored pixels),
    its offset, and its share of saturated values.

    With a stride the pixels are rotated, since positions are counted from the displayed upper left corner.
    """
    options = settings.options
    if picture.orientation != 1 and options.stride != (1, 1):
        picture = picture.upright()
    moved = options.stride != (1, 1) or options.border == "valid"
    pixels = picture.pixels
    dtype = check_dtype(pixels.dtype)
    each = [settings.options_for(kernel, dtype) for kernel in kernels]
    found: dict[int, tuple[Picture, float, float]] = {}
    for one in dict.fromkeys(each):  # kernels of one offset share one pass
        places = [i for i, other in enumerate(each) if other == one]
        turned, stored = as_stored(tuple(kernels[i] for i in places), one, picture.orientation)
        results = filter_array(pixels, turned, stored, threads=settings.threads, alpha=picture.alpha)
        for i, kernel, result in zip(places, turned, results, strict=True):
            share = _saturated(picture, kernel, stored, result)
            found[i] = without_outdated(with_pixels(picture, result), moved), one.offset, share
    return [found[i] for i in range(len(kernels))]


def _saturated(picture: Picture, kernel: Kernel, options: Options, result: NDArray) -> float:
    stack = as_stack(picture.pixels)
    job = Job.of(kernel, stack.shape, check_dtype(picture.pixels.dtype), options)
    meter = Saturation(job, picture.channels - int(picture.alpha))
    meter.look(PartOf(np.arange(len(stack[0])), stack[0]), as_stack(result)[0])
    return meter.share


def plan_targets(
    paths: Sequence[PathArg], kernels: Sequence[Kernel], out: PathArg | None, reals: bool = False
) -> list[list[Path]]:
    """The target paths of each picture. Raises if two targets are equal, or if `out` cannot be their folder.

    A target that is named after its picture keeps the suffix, if the result can be written in that format
    (`suffix_for`).
    """
    sources = [Path(p) for p in paths]
    tags = []
    for kernel in kernels:
        tag = "".join(c if c.isalnum() or c in "-_=." else "-" for c in kernel.name)
        tags.append(tag if tag not in tags else f"{tag}-{len(tags) + 1}")  # two matrices, say
    tagged = [[f"{s.stem}-{tag}{suffix_for(s, reals)}" for tag in tags] for s in sources]
    into = False
    if out is None:
        targets = [[s.parent / name for name in names] for s, names in zip(sources, tagged, strict=True)]
    else:
        target = Path(out)
        count = len(sources) * len(tags)
        store = count == 1 and target.suffix.lower() == ".zarr"  # a Zarr folder is one picture
        into = count > 1 or (target.is_dir() and not store) or fspath(out).endswith(("/", os.sep))
        if into and (target.is_file() or (count > 1 and target.suffix.lower() in FORMATS)):
            raise UsageError(f"{target}: {count} pictures need a folder, not a file; name a folder")
        names = tagged if len(tags) > 1 else [[s.stem + suffix_for(s, reals)] for s in sources]
        targets = [[target / name for name in each] for each in names] if into else [[target]]
    seen: dict[Path, Path] = {}
    for source, each in zip(sources, targets, strict=True):
        for target in each:
            if target in seen:
                raise UsageError(
                    f"{seen[target]} and {source} would both be written to {target}; filter them separately"
                )
            seen[target] = source
    if into:
        assert out is not None
        try:
            Path(out).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"{out}: cannot be created as a folder ({error.strerror or error})") from None
    return targets


def suffix_for(source: Path, reals: bool) -> str:
    """The suffix of a result named after its picture: the same, but .tif for floats, .png for what is only read, and
    for a name that says no format (.mpo, .jfif, none) what the file's content is.
    """
    suffix = source.suffix.lower()
    if reals and suffix in FORMATS and FORMATS[suffix] not in HOLD_FLOATS:
        return ".tif"
    if suffix in ONLY_READ:
        return ".tif" if reals or suffix == ".pfm" else ".png"
    if suffix not in FORMATS and suffix not in STORES:
        return ".tif" if reals else _suffix_of_content(source)
    return source.suffix


def _suffix_of_content(source: Path) -> str:
    """The suffix for a file as its first bytes say; .png for what dojang does not write, and for what is no picture,
    which is refused when it is read.
    """
    try:
        if not source.is_file():  # a pipe would be waited for
            return ".png"
        with open(source, "rb") as file:
            head = file.read(4)
    except OSError:
        return ".png"
    return next((suffix for start, suffix in BEGINNINGS.items() if head.startswith(start)), ".png")


BEGINNINGS = {
    b"\xff\xd8\xff": ".jpg", b"II*\0": ".tif", b"MM\0*": ".tif", b"II+\0": ".tif", b"MM\0+": ".tif", b"RIFF": ".webp",
    b"#?R": ".hdr",
}  # fmt: skip
"""The first bytes of files of the formats that are written."""


def _many(
    paths: Sequence[PathArg],
    targets: Sequence[Sequence[Path]],
    kernels: tuple[Kernel, ...],
    settings: Settings,
    progress: Callable[[int, int], object] | None,
    workers: int | None,
) -> FilterReport:
    done: list[Filtered] = []
    failed: list[Failed] = []
    asked = settings.threads or asked_threads()  # the pool's own threads do not see what `limited` says here
    count = workers or asked or default_threads()
    if asked:
        settings = replace(settings, threads=max(1, asked // min(count, len(paths))))
    pool = ThreadPoolExecutor(min(count, len(paths)), "dojang-files")
    try:
        jobs = [pool.submit(filter_file, s, t, kernels, settings) for s, t in zip(paths, targets, strict=True)]
        for i, (source, job) in enumerate(zip(paths, jobs, strict=True)):
            try:
                done.extend(job.result())
            except DojangError as error:
                failed.append(Failed(fspath(source), str(error), error.exit_code))
            if progress:
                progress(i + 1, len(paths))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return FilterReport(tuple(k.name for k in kernels), settings.options.border, tuple(done), tuple(failed))


def plan_files(paths: Sequence[PathArg], kernel: Any, **options: Any) -> FilterPlans:
    """How the picture in each file would be filtered; `options` as in `plan_file`. Writes nothing."""
    return FilterPlans(tuple(plan_file(path, kernel, **options) for path in paths))


def plan_file(
    path: PathArg,
    kernel: Any,
    border: str = "reflect",
    stride: int | tuple[int, int] = 1,
    dilation: int | tuple[int, int] = 1,
    value: float = 0.0,
    max_pixels: int | None = None,
    offset: float | None = None,
    dtype: DTypeLike | None = None,
    anchor: tuple[int, int] = (-1, -1),
) -> PlannedFile:
    """How the picture in a file would be filtered: plans with `explain()` for people and `to_dict()` for JSON.

    One plan for each kernel; kernels that share one pass over the picture share one plan.
    """
    chosen = as_kernels(kernel, anchor)
    options = Options.of(border, stride, dilation, value, 0.0 if offset is None else offset, dtype)
    settings = Settings(options, offset is None, max_pixels=max_pixels)
    if is_large(path, reals=settings.reals):
        with opened(path, settings.reals) as source:
            shape, pixel_dtype = source.shape, source.dtype
        channels = shape[2] if len(shape) == 3 else 1
    else:
        picture = read_picture(path, max_pixels, reals=settings.reals)
        shape, pixel_dtype, channels = picture.pixels.shape, picture.pixels.dtype, picture.channels
    stack = (1, *shape) if len(shape) == 3 else (1, *shape, 1)
    plans: list[FilterPlan] = []
    try:
        pixel_dtype = check_dtype(pixel_dtype)
        each = [settings.options_for(k, pixel_dtype) for k in chosen]
        for one in dict.fromkeys(each):
            jobs = tuple(
                Job.of(k, stack, pixel_dtype, one) for k, other in zip(chosen, each, strict=True) if other == one
            )
            plans += make_plan(jobs, Machine.host())
    except DojangError as error:
        raise error.within(fspath(path)) from None
    return PlannedFile(fspath(path), channels, tuple(plans))
