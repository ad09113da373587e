"""Data in a Zarr group: arrays named as in an .npz; samples that do not fit into memory are read as needed."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from dojang.base.errors import FileError, MissingPart
from dojang.training.asked import WHITE, Asked
from dojang.training.meaning import SAID, check_samples, laid_out, layout_of, samples_of
from dojang.training.named_arrays import array_names, class_names, pairs_of
from dojang.training.parts import PART_NAMES
from dojang.training.streams import StreamedSamples, fits


def read_zarr(path: Path, asked: Asked) -> tuple[dict[str, tuple[Any, Any]], tuple[str, ...] | None, tuple[str, ...]]:
    """(samples, labels) of each part, the names of the classes, and what was understood.

    Raises MissingPart without the package, FileError for what is no group or damaged, DataError for what arrays do not
    say.
    """
    try:
        import zarr
    except ModuleNotFoundError:
        raise MissingPart("Zarr data need zarr: pip install 'dojang[large]'") from None

    def sound(action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:  # zarr raises its own exceptions for damaged stores
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise FileError(f"{path}: no Zarr group that can be read ({line}); write it again") from None

    group: Any = sound(lambda: zarr.open_group(str(path), mode="r"))
    known = array_names(sound(lambda: sorted(name for name, _ in group.arrays())), str(path))
    stored = {meaning: group[name] for name, meaning in known.items()}
    pairs = pairs_of(stored, str(path))
    classes = class_names(sound(lambda: stored["classes"][:])) if "classes" in stored else None
    labels = {part: np.asarray(sound(lambda y=y: y[:])) for part, (_, y) in pairs.items()}
    wheres = {part: str(path) if part == "train" else f"{path}, {PART_NAMES[part]}" for part in pairs}
    every = [x for x, _ in pairs.values()]
    if fits(4 * prod(every[0].shape[1:]), sum(x.shape[0] for x in every)):
        raw = [(np.asarray(sound(lambda x=x: x[:])), wheres[part]) for part, (x, _) in pairs.items()]
        xs, notes = samples_of(raw, asked)
    else:
        found = [_streamed(x, asked, wheres[part], sound) for part, (x, _) in pairs.items()]
        xs = [x for x, _ in found]
        notes = ("the samples are larger than memory allows: they are read when they are needed", *found[0][1])
    return {part: (x, labels[part]) for x, part in zip(xs, pairs, strict=True)}, classes, notes


def _streamed(
    stored: Any, asked: Asked, where: str, sound: Callable[[Callable[[], Any]], Any]
) -> tuple[StreamedSamples, tuple[str, ...]]:
    """Samples that stay in their chunks, and what was understood of them."""
    check_samples(stored, where)
    how = layout_of(stored.shape, stored.dtype == np.uint8, asked, where)
    divisor = WHITE.get(asked.values or "")
    as_bytes = stored.dtype == np.uint8 and (asked.values in (None, "0-255"))

    def samples(rows: Any) -> Any:
        order = np.argsort(rows, kind="stable")
        at = rows[order]
        whole = len(at) > 0 and int(at[-1]) - int(at[0]) + 1 == len(at) and bool((np.diff(at) == 1).all())
        read = sound(lambda: stored[int(at[0]) : int(at[-1]) + 1] if whole else stored.oindex[at])
        x = np.empty_like(read)
        x[order] = read
        x = laid_out(x, how)
        if not as_bytes:
            x = x.astype(np.float32) / np.float32(divisor or 1)
        return np.ascontiguousarray(x)

    one = laid_out(np.broadcast_to(np.uint8(0), (1, *stored.shape[1:])), how).shape
    shape = (stored.shape[0], *one[1:])
    notes = (SAID[how],) if how in SAID else ()
    return StreamedSamples(samples, shape, np.uint8 if as_bytes else np.float32), notes
