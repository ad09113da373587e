"""Pictures filtered from the command line. Apart from the other verbs, so that no network code is loaded for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dojang.filters.files import FilterReport, Planned
    from dojang.filters.gallery import Shown
    from dojang.filters.pictures.images import Picture

WHOLE = (".jpg", ".jpeg", ".jpe", ".png", ".webp")  # formats that are always read whole


def filter_files(
    images: Sequence[str | Path],
    kernel: Any,
    *,
    border: str = "reflect",
    stride: int | tuple[int, int] = 1,
    dilation: int | tuple[int, int] = 1,
    value: float = 0.0,
    output: str | Path | None = None,
    force: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> FilterReport:
    """Presses a kernel, or each of a list, on picture files; see `filters.files.filter_files`."""
    with ThreadPoolExecutor(1, "dojang-ahead") as pool:
        ahead = None
        if len(images) == 1 and Path(images[0]).suffix.lower() in WHOLE:
            # Decoding needs no lock of the interpreter: it goes on while the rest of the program is loaded.
            ahead = pool.submit(_read, images[0]).result
        from dojang.filters.files import filter_files as work

        return work(images, kernel, output, border, stride, dilation, force, progress, value, ahead=ahead)


def _read(path: str | Path) -> Picture:
    """The picture in a file, decoded before NumPy is loaded."""
    from dojang.filters.pictures.opening import begun

    image = begun(path)
    from dojang.filters.pictures.images import read_picture

    return read_picture(path, image=image)


def filter_plans(
    images: Sequence[str | Path],
    kernel: Any,
    *,
    border: str = "reflect",
    stride: int | tuple[int, int] = 1,
    dilation: int | tuple[int, int] = 1,
    value: float = 0.0,
) -> tuple[Planned, ...]:
    """How `filter_files` would do it, and why not otherwise; nothing is written."""
    from dojang.filters.files import plan_files as work

    return work(images, kernel, border=border, stride=stride, dilation=dilation, value=value)


def kernel_gallery() -> list[Shown]:
    """What each named kernel does to one picture; see `filters.gallery`."""
    from dojang.filters.gallery import gallery

    return gallery()
