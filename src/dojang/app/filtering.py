"""Pictures filtered from the command line. Apart from the other verbs, so that no network code is loaded for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from dojang.filters.closeup import CloseUp
    from dojang.filters.files import FilterPlans, FilterReport
    from dojang.filters.gallery import Shown
    from dojang.filters.pictures.images import Picture

Border = Literal["zero", "constant", "replicate", "reflect", "symmetric", "circular", "valid"]
Real = Literal["float32", "float64"]
WHOLE = (".jpg", ".jpeg", ".jpe", ".png", ".webp")  # formats that are always read whole


def paths_of(images: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    """One path as a list of one."""
    return [images] if isinstance(images, str | Path) else images


def filter_files(
    images: str | Path | Sequence[str | Path],
    kernel: Any,
    *,
    border: Border = "reflect",
    stride: int | tuple[int, int] = 1,
    dilation: int | tuple[int, int] = 1,
    value: float = 0.0,
    anchor: tuple[int, int] = (-1, -1),
    offset: float | None = None,
    dtype: Real | None = None,
    max_pixels: int | None = None,
    threads: int | None = None,
    output: str | Path | None = None,
    force: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> FilterReport:
    """Presses a kernel, or each of a list, on picture files, and writes the results as pictures.

    `images` is one path or several. One picture goes to the file `output`; several go into the folder `output`; without
    `output` the result of a/b.jpg is a/b-KERNEL.jpg. `kernel`, `border`, `stride`, `dilation`, `value` and `anchor` are
    as in `filter`. `offset` is added to every value; by default that is 0, but for kernels whose response has both
    signs, such as sobel-x, the middle level of integer pixels (128 or 32768), so that negative values show; the result
    says it. `dtype` "float32" or "float64" writes the response as it is, in a TIFF. `max_pixels` replaces the limit
    DOJANG_MAX_PIXELS on pictures that are decoded whole; `threads` is the most threads. EXIF orientation, colour
    profile, alpha and bit depth are kept; kernels without negative taps weigh the colours by alpha. `progress(done,
    total)` is called after each picture. Nothing is replaced without `force`, and no file is left half-written.

    If there is one picture and it fails, its error is raised: `FileError`, `UsageError`, `ShapeError` or `DataError`.
    If there are several, the others are done, and the failures are in the result.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> with TemporaryDirectory() as folder:
    ...     Image.new("L", (5, 4), 9).save(f"{folder}/grey.png")
    ...     done = filter_files([f"{folder}/grey.png"], "blur")
    ...     Path(done.done[0].target).name, done.done[0].width
    ('grey-blur.png', 5)
    """
    images = paths_of(images)
    with ThreadPoolExecutor(1, "dojang-ahead") as pool:
        ahead = None
        if len(images) == 1 and Path(images[0]).suffix.lower() in WHOLE:
            # Decoding needs no lock of the interpreter: it goes on while the rest of the program is loaded.
            ahead = pool.submit(_read, images[0], max_pixels).result
        from dojang.filters.files import filter_files as work

        return work(
            images, kernel, output, border, stride, dilation, force, progress, value, max_pixels, ahead=ahead,
            offset=offset, dtype=dtype, anchor=anchor, threads=threads,
        )  # fmt: skip


def _read(path: str | Path, max_pixels: int | None) -> Picture:
    """The picture in a file, decoded before NumPy is loaded."""
    from dojang.filters.pictures.opening import begun

    image = begun(path, max_pixels)
    from dojang.filters.pictures.reading import read_picture

    return read_picture(path, max_pixels, image)


def filter_plans(
    images: str | Path | Sequence[str | Path],
    kernel: Any,
    *,
    border: Border = "reflect",
    stride: int | tuple[int, int] = 1,
    dilation: int | tuple[int, int] = 1,
    value: float = 0.0,
    anchor: tuple[int, int] = (-1, -1),
    offset: float | None = None,
    dtype: Real | None = None,
    max_pixels: int | None = None,
) -> FilterPlans:
    """How `filter_files` would filter each picture: the algorithm, the time that is predicted, and why not another.
    Nothing is written. Raises what `filter_files` raises.
    """
    from dojang.filters.files import plan_files as work

    return work(
        paths_of(images), kernel, border=border, stride=stride, dilation=dilation, value=value, anchor=anchor,
        offset=offset, dtype=dtype, max_pixels=max_pixels,
    )  # fmt: skip


def close_ups(
    report: FilterReport,
    kernel: Any,
    *,
    border: Border = "reflect",
    stride: int | tuple[int, int] = 1,
    dilation: int | tuple[int, int] = 1,
    value: float = 0.0,
    anchor: tuple[int, int] = (-1, -1),
    dtype: Real | None = None,
    max_pixels: int | None = None,
    most: int = 24,
) -> list[CloseUp]:
    """The first results of a call of `filter_files` with the same arguments, from near, for a page."""
    from dojang.filters.closeup import close_up
    from dojang.filters.files import as_kernels
    from dojang.filters.job import Options

    options = Options.of(border, stride, dilation, value, 0.0, dtype)
    kernels = as_kernels(kernel, anchor)
    per_picture = len(kernels)
    return [close_up(done, kernels[i % per_picture], options, max_pixels) for i, done in enumerate(report.done[:most])]


def kernel_gallery() -> list[Shown]:
    """What each named kernel does to one picture; see `filters.gallery`."""
    from dojang.filters.gallery import gallery

    return gallery()
