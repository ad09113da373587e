"""Functions of PyTorch that have an operator of ONNX and none of our own: look-ups, grids, sampling by a grid."""

from __future__ import annotations

from typing import Any

import torch

from dojang.formats.torch.read.ops import lowers
from dojang.formats.torch.read.trace import Tracer


@lowers("embedding")
def embedding(t: Tracer, x: Any, weight: Any, *args: Any, **kwargs: Any) -> Any:
    """Rows of a table by computed numbers."""
    x, table = t.value(x), t.value(weight)
    whole = x if t.read(x) in t.whole else t.cast(x, torch.int64)
    return t.standard("Gather", (table, whole), (*x.sizes, table.sizes[-1]), axis=0)


@lowers("affine_grid", "affine_grid_generator")
def affine_grid(t: Tracer, theta: Any, size: Any, align_corners: bool | None = None) -> Any:
    """Places of pixels, moved by a matrix for each image."""
    sizes = tuple(int(s) for s in size)
    moved = t.value(theta)
    if len(sizes) not in (4, 5) or moved.sizes[0] != sizes[0]:
        return NotImplemented
    asked = t.loose(torch.tensor((1, *sizes[1:])))  # the batch is that of the matrices
    given = t.made(asked.node, asked.sizes, torch.int64)
    return t.standard("AffineGrid", (moved, given), (sizes[0], *sizes[2:], len(sizes) - 2),
                      align_corners=int(bool(align_corners)))  # fmt: skip


SAMPLING = {"bilinear": "linear", "nearest": "nearest", "bicubic": "cubic"}
MODES, BORDERS = ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection")


@lowers("grid_sample", "grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def grid_sample(
    t: Tracer, x: Any, grid: Any, mode: Any = "bilinear", padding_mode: Any = "zeros", align_corners: Any = None
) -> Any:
    """Values of a picture between its pixels."""
    x, grid = t.value(x), t.value(grid)
    mode = MODES[mode] if isinstance(mode, int) else mode
    border = BORDERS[padding_mode] if isinstance(padding_mode, int) else padding_mode
    shape = (x.sizes[0], x.sizes[1], *grid.sizes[1:-1])
    settings = {"mode": SAMPLING[mode], "padding_mode": border, "align_corners": int(bool(align_corners))}
    return t.standard("GridSample", (x, grid), shape, **settings)
