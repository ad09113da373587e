"""Picture files in, filtered picture files out: what the command line calls."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from dojang.arith.errors import DojangError, FileError, UsageError
from dojang.engine.machine import Machine
from dojang.filters.filter import filter_array
from dojang.filters.images import FORMATS, MAX_PIXELS, Picture, read_picture, write_picture
from dojang.filters.job import Job, Options, check_dtype
from dojang.filters.kernels import Kernel, as_kernel, is_bank
from dojang.filters.large import filter_large, is_large, opened
from dojang.filters.plan import Plan, make_plan

PathArg = str | PathLike[str]


@dataclass(frozen=True, slots=True)
class Filtered:
    """One file done: where from, where to, its size and pixel type."""

    source: str
    target: str
    width: int
    height: int
    channels: int
    dtype: str


@dataclass(frozen=True, slots=True)
class Failed:
    """One file not done, and why."""

    source: str
    message: str
    exit_code: int


@dataclass(frozen=True, slots=True)
class FilterReport:
    """All files of one call, in the order given."""

    kernel: str
    border: str
    done: tuple[Filtered, ...]
    failed: tuple[Failed, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


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
    max_pixels: int = MAX_PIXELS,
    workers: int | None = None,
) -> FilterReport:
    """Filters picture files. One file goes to the file (or into the folder) `out`; several go into the folder `out`.

    Without `out` the result of a/b.jpg is a/b-KERNEL.jpg. EXIF orientation, colour profile, alpha and bit depth are
    kept; the picture as shown is what is filtered. `progress(done, total)` is called after each file, from this
    thread. One file that fails raises its `DojangError`; of several, the others are done and the failures are in the
    report. Nothing is overwritten without `force`, and no file is left half-written.
    """
    if not paths:
        raise UsageError("no picture given")
    if is_bank(kernel):
        raise UsageError("one kernel is needed for files; call once for each kernel")
    chosen = as_kernel(kernel)
    options = Options.of(border, stride, dilation, value)
    targets = plan_targets(paths, chosen, out)
    if len(paths) == 1:
        done = filter_file(paths[0], targets[0], chosen, options, force, max_pixels)
        if progress:
            progress(1, 1)
        return FilterReport(chosen.name, border, (done,), ())
    return _many(paths, targets, chosen, options, force, max_pixels, progress, workers)


def filter_file(
    source: PathArg,
    target: PathArg,
    kernel: Kernel,
    options: Options,
    force: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Filtered:
    """Reads, filters and writes one picture."""
    if Path(target).exists() and not force:
        raise FileError(f"{fspath(target)}: exists already; use --force (force=True) to replace it")
    if is_large(source):
        (height, width, *rest), dtype = filter_large(source, target, kernel, options, force)
        return Filtered(fspath(source), fspath(target), width, height, rest[0] if rest else 1, str(dtype))
    picture = read_picture(source, max_pixels)
    try:
        result = filter_picture(picture, kernel, options)
    except DojangError as error:
        raise error.within(fspath(source)) from None
    write_picture(result, target, force)
    height, width = result.pixels.shape[:2]
    return Filtered(fspath(source), fspath(target), width, height, result.channels, str(result.pixels.dtype))


def filter_picture(picture: Picture, kernel: Kernel, options: Options) -> Picture:
    """The picture filtered as it is shown: its pixels stay as stored, and the kernel is turned instead.

    With a stride the pixels are turned, since the places that are kept count from the shown upper left corner.
    """
    if picture.orientation != 1 and options.stride != (1, 1):
        picture = picture.upright()
    if picture.orientation != 1:
        kernel = kernel.turned(picture.orientation)
        if picture.orientation >= 5:
            dy, dx = options.dilation
            options = Options(options.border, options.stride, (dx, dy), options.value, options.offset, options.dtype)
    pixels = filter_array(picture.pixels, (kernel,), options, alpha=picture.alpha)[0]
    return replace(picture, pixels=pixels)


def plan_targets(paths: Sequence[PathArg], kernel: Kernel, out: PathArg | None) -> list[Path]:
    """Where each result goes. Raises when two results would have one name, or `out` cannot be the folder for many."""
    sources = [Path(p) for p in paths]
    if out is None:
        tag = "".join(c if c.isalnum() or c in "-_=." else "-" for c in kernel.name)
        targets = [s.with_name(f"{s.stem}-{tag}{s.suffix}") for s in sources]
    else:
        target = Path(out)
        into = len(sources) > 1 or target.is_dir() or fspath(out).endswith(("/", os.sep))
        if into and (target.is_file() or (len(sources) > 1 and target.suffix.lower() in FORMATS)):
            raise UsageError(f"{target}: {len(sources)} pictures need a folder to go to, not a file")
        if into:
            try:
                target.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise FileError(f"{target}: cannot be made a folder ({error.strerror or error})") from None
        targets = [target / s.name for s in sources] if into else [target]
    seen: dict[Path, Path] = {}
    for source, target in zip(sources, targets, strict=True):
        if target in seen:
            raise UsageError(f"{seen[target]} and {source} would both be written to {target}; filter them apart")
        seen[target] = source
    return targets


def _many(
    paths: Sequence[PathArg],
    targets: Sequence[Path],
    kernel: Kernel,
    options: Options,
    force: bool,
    max_pixels: int,
    progress: Callable[[int, int], object] | None,
    workers: int | None,
) -> FilterReport:
    done: list[Filtered] = []
    failed: list[Failed] = []
    count = workers or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))
    pool = ThreadPoolExecutor(min(count, len(paths)), "dojang-files")
    try:
        jobs = [
            pool.submit(filter_file, s, t, kernel, options, force, max_pixels)
            for s, t in zip(paths, targets, strict=True)
        ]
        for i, (source, job) in enumerate(zip(paths, jobs, strict=True)):
            try:
                done.append(job.result())
            except DojangError as error:
                failed.append(Failed(fspath(source), str(error), error.exit_code))
            if progress:
                progress(i + 1, len(paths))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return FilterReport(kernel.name, options.border, tuple(done), tuple(failed))


def plan_file(
    path: PathArg,
    kernel: Any,
    border: str = "reflect",
    stride: int | tuple[int, int] = 1,
    dilation: int | tuple[int, int] = 1,
    value: float = 0.0,
    max_pixels: int = MAX_PIXELS,
) -> tuple[Plan, ...]:
    """How the picture in a file would be filtered: plans with `explain()` for people and `to_dict()` for JSON."""
    chosen, options = as_kernel(kernel), Options.of(border, stride, dilation, value)
    if is_large(path):
        with opened(path) as source:
            shape, dtype = source.shape, source.dtype
    else:
        pixels = read_picture(path, max_pixels).pixels
        shape, dtype = pixels.shape, pixels.dtype
    stack = (1, *shape) if len(shape) == 3 else (1, *shape, 1)
    try:
        job = Job.of(chosen, stack, check_dtype(dtype), options)
    except DojangError as error:
        raise error.within(fspath(path)) from None
    return tuple(make_plan((job,), Machine.host()))
