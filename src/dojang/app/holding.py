"""What a page in one file holds: the picture, and networks that compute in the browser."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, final

import numpy as np

from dojang.app.class_names import class_names
from dojang.app.looking import Array, PictureInside
from dojang.app.prepared import InputPreparation
from dojang.app.wasting import WasteOnData
from dojang.arith.outputs import output_numbers
from dojang.base.errors import UsageError
from dojang.engine.browser.program import MOST_BYTES, browser_program

MOST_SAMPLE_BYTES = 4 << 20
"""Samples that a page carries as proof of waste, as float32: as many as fit, at least one."""

BYTES = {"float32": 4, "float16": 2, "int8": 1}
"""Of one weight."""


@final
class HeldArrays:
    """Arrays one behind the other, and in `told` where each of them lies. `weights` is how those of the networks are
    stored, "" without a network; `lacking` names operators that the page cannot compute, as layer (operator).
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._end = 0
        self.told: dict[str, Any] = {"sides": {}}
        self.weights = ""
        self.lacking: list[str] = []

    @property
    def content(self) -> bytes:
        """All bytes."""
        return b"".join(self._parts)

    def put(self, raw: bytes) -> int:
        """Where the bytes begin: at a multiple of 4."""
        at = self._end
        padded = raw + b"\0" * (-len(raw) % 4)
        self._parts.append(padded)
        self._end += len(padded)
        return at

    def put_picture(self, pixels: Array, name: str, prepared: InputPreparation | None) -> dict[str, Any]:
        """Where the picture is, as the network sees it, and how it was made (None: it is shown as it is)."""
        height, width, _ = pixels.shape
        at = self.put(pixels.tobytes())
        return {
            "h": height,
            "w": width,
            "at": at,
            "name": name,
            "prepared": prepared.to_dict() if prepared else None,
        }

    def put_samples(self, samples: Array, pictures: Array) -> None:
        """Samples of the data as the network reads them, and as pictures."""
        fit = max(1, MOST_SAMPLE_BYTES // max(1, samples[0].nbytes)) if len(samples) else 0
        samples, pictures = samples[:fit], pictures[:fit]
        if not len(samples):
            return
        self.told["samples"] = {
            "n": len(samples), "ph": pictures.shape[1], "pw": pictures.shape[2],
            "at": self.put(np.ascontiguousarray(samples, "<f4").tobytes()), "size": int(samples[0].size),
            "rgb": self.put(np.ascontiguousarray(pictures).tobytes()),
        }  # fmt: skip


def held_networks(
    sides: Mapping[str, PictureInside], weights: str | None = None, waste: WasteOnData | None = None
) -> HeldArrays:
    """What the inputs have, and each network as a program for the browser; a network that cannot be run is left out.

    `weights` as in `browser_program`. Raises `UsageError` for a network that is too large for a page.
    """
    held = HeldArrays()
    some = next(iter(sides.values()))
    runs = any(inside.why_not is None for inside in sides.values())
    held.told["inputs"] = [
        {"picture": held.put_picture(one.pixels, one.name, one.prepared),
         "at": held.put(one.x.astype("<f4").tobytes()) if runs else 0, "size": int(one.x.size) if runs else 0}
        for one in some.inputs
    ]  # fmt: skip
    stored: list[str] = []
    for side, inside in sides.items():
        if inside.why_not is not None:
            continue
        graph = inside.graph
        _check_size(inside, weights)
        program = browser_program(graph, weights=weights)
        stored.append(program.weights)
        lacking = [f"{name} ({op})" for name, op in program.missing]
        held.lacking += [one for one in lacking if one not in held.lacking]
        shape = graph.unit_shapes[graph.outputs[0]] or ()
        held.told["sides"][side] = {
            "program": program.to_dict(), "scores": output_numbers(graph), "lacking": lacking,
            "classes": list(class_names(graph, shape[1]).names) if len(shape) > 1 else [],
        }  # fmt: skip
    held.weights = " and ".join(dict.fromkeys(stored))
    if waste is not None and held.told["sides"]:
        held.put_samples(*waste.seen())
    return held


def _check_size(inside: PictureInside, weights: str | None) -> None:
    """Raises `UsageError` where the weights do not fit into a page, with the sizes and what to do."""
    graph = inside.graph
    numbers = sum(prod(shape) for shape in graph.param_shapes.values())
    wanted = weights or "int8"
    if numbers * BYTES.get(wanted, 1) <= MOST_BYTES:
        return
    fits = [kind for kind in BYTES if numbers * BYTES[kind] <= MOST_BYTES]
    sizes = ", ".join(f"{_megabytes(numbers * size)} as {kind}" for kind, size in BYTES.items())
    remedy = f"use --page-weights {fits[0]}, or leave out -o" if fits else "leave out -o: the server has no such limit"
    raise UsageError(
        f"{graph.name}: {numbers:,} weights take {sizes}; a page in one file carries at most "
        f"{_megabytes(MOST_BYTES)}: {remedy}"
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def held_picture(pixels: Array, name: str) -> HeldArrays:
    """A photo alone."""
    held = HeldArrays()
    held.told["picture"] = held.put_picture(pixels, name, None)
    return held
