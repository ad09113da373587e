"""Functions of PyTorch that have an operator of ONNX and none of our own: look-ups, grids, sampling by a grid."""

from __future__ import annotations

from math import prod
from typing import Any

import torch

from dojang.formats.torch.read.ops import lowers
from dojang.formats.torch.read.trace import Tracer
from dojang.formats.torch.read.traced import HANDLERS


@lowers("embedding")
def embedding(t: Tracer, x: Any, weight: Any, *args: Any, **kwargs: Any) -> Any:
    """Rows of a table by computed numbers."""
    x, table = t.value(x), t.value(weight)
    whole = x if t.read(x) in t.whole else t.cast(x, torch.int64)
    if whole is not x:
        t.tokens.add(whole.node)
    return t.standard("Gather", (table, whole), (*x.sizes, table.sizes[-1]), axis=0)


@lowers("affine_grid", "affine_grid_generator")
def affine_grid(t: Tracer, theta: Any, size: Any, align_corners: bool | None = None) -> Any:
    """Places of pixels, moved by a matrix for each image: a product of the places, and 1, with the matrix."""
    rank, places = len(size) - 2, prod(int(s) for s in size[2:])
    moved = t.value(theta)
    if rank not in (2, 3) or moved.sizes[0] != size[0]:
        return NotImplemented
    with torch._C.DisableTorchFunction():
        still = torch.eye(rank, rank + 1)[None]
        grid = torch.nn.functional.affine_grid(still, [1, 1, *size[2:]], align_corners=bool(align_corners))
        whole = torch.cat((grid.reshape(1, places, rank), torch.ones(1, places, 1)), 2)
    turned = t.emit("transpose", moved, part="transpose", perm=(0, 2, 1))
    product = t.emit("matmul", t.loose(whole), turned, part="product")
    return HANDLERS["reshape"](t, product, -1, *(int(s) for s in size[2:]), rank)


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
