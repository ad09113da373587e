"""One picture after each named kernel, as small PNGs, for the page that lists the kernels.

The picture is computed (a bay at evening: sky, sun, hills, water, a boat, grain). So it is free of rights, equal on all
machines, and has what filters show: flat areas, fine texture, edges at all angles, a bright spot.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dojang.filters.filter import filter as apply
from dojang.filters.kernels.named import NAMED
from dojang.filters.kernels.parse import as_kernel
from dojang.filters.levels import signed

# Kernels whose default size is too fine to see on so small a picture.
SHOWN = {"blur": "blur:size=7", "gaussian": "gaussian:sigma=2.5", "motion": "motion:size=15,angle=30"}


@dataclass(frozen=True, slots=True)
class Shown:
    """A kernel on the page: name, what it does, source, how to call it, options, taps, and the filtered picture."""

    name: str
    does: str
    source: str
    spec: str
    options: dict[str, float]
    matrices: tuple[tuple[tuple[float, ...], ...], ...]
    png: bytes


def sample(height: int = 120, width: int = 180) -> NDArray[np.uint8]:
    """The picture, (height, width, 3) uint8. The same for the same size."""
    rng = np.random.default_rng(7)
    y, x = np.meshgrid(np.arange(height) / height, np.arange(width) / width, indexing="ij")
    line = np.arange(width) / width
    sky = np.stack([0.95 - 0.5 * y, 0.75 - 0.55 * y, 0.55 + 0.1 * y], -1)
    sun = np.exp(-(((x - 0.7) ** 2 * (width / height) ** 2 + (y - 0.3) ** 2) / 0.006))[..., None]
    picture = sky + sun * (np.array([1.0, 0.95, 0.7]) - sky)
    for level, rough, shade in ((0.46, 0.05, (0.42, 0.36, 0.46)), (0.53, 0.035, (0.25, 0.24, 0.3))):
        waves = [rough / k * np.sin(2 * np.pi * (k * 1.7 * line + rng.random())) for k in range(1, 9)]
        ridge = level + np.sum(waves, axis=0)
        picture = np.where((y > ridge[None, :])[..., None], np.array(shade), picture)
    glitter = 0.5 + 0.5 * np.sin(260 * (y - 0.6) / (0.3 + y) + 12 * np.sin(19 * x + 40 * y))
    band = np.exp(-((x - 0.7) ** 2) / (0.004 + 0.03 * (y - 0.6).clip(0)))
    water = np.stack([0.16 + 0.6 * glitter * band, 0.2 + 0.5 * glitter * band, 0.3 + 0.3 * glitter * band], -1)
    water += 0.05 * (glitter - 0.5)[..., None]
    picture = np.where((y > 0.6)[..., None], water, picture)
    hull = (np.abs(x - 0.3) < 0.11 - 0.5 * (y - 0.72).clip(0)) & (y > 0.72) & (y < 0.79)
    sail = (y < 0.71) & (y > 0.36) & (x > 0.3) & (x < 0.3 + 0.3 * (y - 0.36))
    mast = (np.abs(x - 0.297) < 0.004) & (y > 0.33) & (y < 0.73)
    for where, shade in ((hull, (0.35, 0.12, 0.1)), (sail, (0.93, 0.9, 0.84)), (mast, (0.1, 0.08, 0.07))):
        picture = np.where(where[..., None], np.array(shade), picture)
    picture += rng.normal(0, 0.012, (height, width, 1))
    return np.rint(picture.clip(0, 1) * 255).astype(np.uint8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file of the pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def gallery(names: Sequence[str] | None = None, picture: NDArray[np.uint8] | None = None) -> list[Shown]:
    """All kernels, or those in `names`, applied to one picture. Slopes of both signs are shown with mid-grey as 0."""
    picture = sample() if picture is None else picture
    shown = []
    for name in names or list(NAMED):
        spec = SHOWN.get(name, name)
        kernel = as_kernel(spec)
        both = signed(kernel)
        result = apply(picture.mean(-1).astype(np.float32) if both else picture, kernel)
        if both:
            reach = max(float(np.percentile(np.abs(result), 99.5)), 1e-6)
            result = np.rint(128 + 127 * (result / reach).clip(-1, 1)).astype(np.uint8)
        matrices = tuple(tuple(tuple(float(v) for v in row) for row in part) for part in kernel.parts)
        row = NAMED[name]
        shown.append(Shown(name, row.does, row.source, spec, dict(row.options), matrices, png(result)))
    return shown
