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

from dojang.base.errors import DojangError, FileError, UsageError
from dojang.base.result import Result
from dojang.filters.filter import filter_array
from dojang.filters.job import Job, Options, check_dtype
from dojang.filters.kernels.parse import Kernel, as_kernel, is_bank
from dojang.filters.large import BAND_PIXELS, STORES, as_stored, filter_large, is_large, opened
from dojang.filters.pictures.atomic import check_target
from dojang.filters.pictures.images import FORMATS, Picture, form_of, read_picture, without_outdated, write_picture
from dojang.filters.plan.choose import FilterPlan, make_plan
from dojang.native.machine import Machine

PathArg = str | PathLike[str]


class CutOff(UserWarning):
    """Many values of a result lie beyond the pixels' range, and become black or white; the message says why."""


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
    cut_off: float = 0.0
    """The share of values that fell on the ends of the pixels' range and did not lie there before (of about 65,000)."""


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
) -> FilterReport:
    """Filters picture files. One file goes to the file (or into the folder) `out`; several go into the folder `out`.

    Without `out` the result of a/b.jpg is a/b-KERNEL.jpg. A list of kernels writes one file for each, with such names,
    and reads each picture once. The picture is filtered as it is displayed; EXIF orientation, colour profile, alpha and
    bit depth are kept. `progress(done, total)` is called after each file, in this thread. A single file that fails
    raises its `DojangError`; of several files, the others are filtered, and the failures are in the report. Nothing is
    overwritten without `force`, and no file is left half-written. Parts of a file that cannot be kept are in the report
    and in a warning. `ahead`, for a single path that is already being read, returns its picture or raises the error of
    reading it. TIFFs of at least `band_pixels` pixels are filtered in bands of rows.
    """
    if not paths:
        raise UsageError("no picture given")
    chosen = as_kernels(kernel)
    options = Options.of(border, stride, dilation, value)
    targets = plan_targets(paths, chosen, out)
    if len(paths) == 1:
        done = filter_file(paths[0], targets[0], chosen, options, force, max_pixels, ahead, band_pixels)
        if progress:
            progress(1, 1)
        report = FilterReport(tuple(k.name for k in chosen), border, done, ())
    else:
        report = _many(paths, targets, chosen, options, force, max_pixels, progress, workers, band_pixels)
    for one in report.done:
        if one.lost:  # in this thread: the other threads sometimes switch off warnings, for Pillow
            warnings.warn(f"{one.target}: not kept of {one.source}: {', '.join(one.lost)}", NotKept, stacklevel=2)
    for one in report.done:
        why = _why_cut_off(one.cut_off, next(k for k in chosen if k.name == one.kernel)) if one.cut_off >= MUCH else ""
        if why:
            warnings.warn(f"{one.target}: {why}", CutOff, stacklevel=2)
    return report


MUCH = 0.3
"""From this share of values on, what is cut off is said."""


def _cut_off(before: Picture, after: Picture) -> float:
    """`Filtered.cut_off` of a result."""
    if after.pixels.dtype.kind != "u":
        return 0.0
    most = np.iinfo(after.pixels.dtype).max
    shares = []
    for pixels in (before.pixels, after.pixels):
        step = max(1, int((pixels.shape[0] * pixels.shape[1] / 65_000) ** 0.5))
        some = pixels[::step, ::step]
        shares.append([float((some == end).mean()) for end in (0, most)])
    return max(0.0, *(end - start for start, end in zip(*shares, strict=True)))


def _why_cut_off(share: float, kernel: Kernel) -> str:
    """What is said of a result of which much is cut off because the taps sum to more than 1; "" for other kernels.

    Kernels that sum to 0 give values of both signs; of those half is cut off, as everybody expects.
    """
    taps = [float(np.sum(part)) for part in kernel.parts]
    if len(taps) != 1 or abs(taps[0]) <= 1.5:
        return ""
    said = f"{100 * share:.0f} % of the values lie beyond the pixels' range and became 0 or white"
    return f"{said}: the taps of the kernel sum to {taps[0]:g}; divide them by it to keep the brightness"


def as_kernels(kernel: Any) -> tuple[Kernel, ...]:
    """One kernel or a list of kernels, in any form that `as_kernel` accepts."""
    return tuple(as_kernel(k) for k in kernel) if is_bank(kernel) else (as_kernel(kernel),)


def filter_file(
    source: PathArg,
    targets: Sequence[PathArg],
    kernels: tuple[Kernel, ...],
    options: Options,
    force: bool = False,
    max_pixels: int | None = None,
    ahead: Callable[[], Picture] | None = None,
    band_pixels: int = BAND_PIXELS,
) -> tuple[Filtered, ...]:
    """Reads one picture, filters it and writes one picture for each kernel."""
    for target in targets:
        check_target(target, force)
    name = fspath(source)
    if Path(source).suffix.lower() not in STORES and Path(source).is_dir():
        raise FileError(f"{name}: is a folder; name a picture, or several as {name.rstrip('/')}/*.jpg")
    if is_large(source, band_pixels):
        done = []
        for target, kernel in zip(targets, kernels, strict=True):
            (height, width, *rest), dtype, lost = filter_large(source, target, kernel, options, force)
            channels = rest[0] if rest else 1
            done.append(Filtered(name, fspath(target), kernel.name, width, height, channels, str(dtype), lost))
        return tuple(done)
    for target in targets:
        form_of(fspath(target))  # check the formats first
    picture = ahead() if ahead else read_picture(source, max_pixels)
    try:
        results = filter_picture(picture, kernels, options)
    except DojangError as error:
        raise error.within(name) from None
    lost = [write_picture(result, target, force) for result, target in zip(results, targets, strict=True)]
    height, width = results[0].pixels.shape[:2]
    return tuple(
        Filtered(name, fspath(t), k.name, width, height, r.channels, str(r.pixels.dtype), gone, _cut_off(picture, r))
        for r, t, k, gone in zip(results, targets, kernels, lost, strict=True)
    )


def filter_picture(picture: Picture, kernels: tuple[Kernel, ...], options: Options) -> list[Picture]:
    """The picture filtered as it is displayed: the kernels are rotated instead of the stored pixels.

    With a stride the pixels are rotated, since positions are counted from the displayed upper left corner.
    """
    if picture.orientation != 1 and options.stride != (1, 1):
        picture = picture.upright()
    kernels, options = as_stored(kernels, options, picture.orientation)
    moved = options.stride != (1, 1) or options.border == "valid"
    results = filter_array(picture.pixels, kernels, options, alpha=picture.alpha)
    return [without_outdated(replace(picture, pixels=pixels), moved) for pixels in results]


def plan_targets(paths: Sequence[PathArg], kernels: Sequence[Kernel], out: PathArg | None) -> list[list[Path]]:
    """The target paths of each picture. Raises if two targets are equal, or if `out` cannot be their folder."""
    sources = [Path(p) for p in paths]
    tags = []
    for kernel in kernels:
        tag = "".join(c if c.isalnum() or c in "-_=." else "-" for c in kernel.name)
        tags.append(tag if tag not in tags else f"{tag}-{len(tags) + 1}")  # two matrices, say
    tagged = [[f"{s.stem}-{tag}{s.suffix}" for tag in tags] for s in sources]
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
        names = tagged if len(tags) > 1 else [[s.name] for s in sources]
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


def _many(
    paths: Sequence[PathArg],
    targets: Sequence[Sequence[Path]],
    kernels: tuple[Kernel, ...],
    options: Options,
    force: bool,
    max_pixels: int | None,
    progress: Callable[[int, int], object] | None,
    workers: int | None,
    band_pixels: int,
) -> FilterReport:
    done: list[Filtered] = []
    failed: list[Failed] = []
    count = workers or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))
    pool = ThreadPoolExecutor(min(count, len(paths)), "dojang-files")
    try:
        jobs = [
            pool.submit(filter_file, s, t, kernels, options, force, max_pixels, None, band_pixels)
            for s, t in zip(paths, targets, strict=True)
        ]
        for i, (source, job) in enumerate(zip(paths, jobs, strict=True)):
            try:
                done.extend(job.result())
            except DojangError as error:
                failed.append(Failed(fspath(source), str(error), error.exit_code))
            if progress:
                progress(i + 1, len(paths))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return FilterReport(tuple(k.name for k in kernels), options.border, tuple(done), tuple(failed))


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
) -> PlannedFile:
    """How the picture in a file would be filtered: plans with `explain()` for people and `to_dict()` for JSON.

    One plan for each kernel; kernels that share one pass over the picture share one plan.
    """
    chosen, options = as_kernels(kernel), Options.of(border, stride, dilation, value)
    if is_large(path):
        with opened(path) as source:
            shape, dtype = source.shape, source.dtype
        channels = shape[2] if len(shape) == 3 else 1
    else:
        picture = read_picture(path, max_pixels)
        shape, dtype, channels = picture.pixels.shape, picture.pixels.dtype, picture.channels
    stack = (1, *shape) if len(shape) == 3 else (1, *shape, 1)
    try:
        jobs = tuple(Job.of(k, stack, check_dtype(dtype), options) for k in chosen)
    except DojangError as error:
        raise error.within(fspath(path)) from None
    return PlannedFile(fspath(path), channels, tuple(make_plan(jobs, Machine.host())))
