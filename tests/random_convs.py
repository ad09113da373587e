"""Random convolutions of every kind, computed three ways and held against PyTorch in float64.

`check(conv, seed)` runs one problem through `dojang.conv` (or `conv_transpose`) in float32 and float64, and as a
layer of a compiled network (which may choose Winograd). The bound is the rule for sums: the error of a float32 sum of
k products is at most about k·2⁻²⁴·Σ|products|; algorithms that save multiplications may have 10 times that of a
direct sum plus a floor.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from torch.nn import functional as F

import dojang
from dojang.arith.conv import Conv
from dojang.arith.graph import Graph, Node
from dojang.base.errors import ShapeError
from dojang.engine.compiled import compile


def draw(rng: random.Random) -> Conv | None:
    """One problem; None where the drawn sizes do not fit together."""
    rank = rng.choice((1, 2, 2, 2, 2, 3))
    groups = rng.choice((1, 1, 1, 2, 3, 8, 32))
    wide = rank < 3 and groups == 1
    icg = rng.choice((1, 2, 3, 4, 7, 16, 33, 64) if wide else (1, 1, 2, 3, 4, 9))
    ocg = rng.choice((1, 2, 5, 8, 16, 31, 64, 80) if wide else (1, 1, 2, 4, 8, 17))
    kernel = rng.choice(((1,), (2,), (3,), (3,), (3,), (5,), (7,), (9,), (11,))) * rank
    if rng.random() < 0.3:
        kernel = tuple(rng.choice((1, 2, 3, 4, 5, 7)) for _ in range(rank))
    if rank == 3:
        kernel = tuple(min(k, 4) for k in kernel)
    most = {1: 80, 2: 26, 3: 8}[rank]
    size = tuple(rng.choice((1, 2, 3, rng.randint(1, most), rng.randint(1, most))) for _ in range(rank))
    stride = rng.choice((1, 1, 2, rng.randint(1, 4)))
    dilation = rng.choice((1, 1, 1, 2, 3))
    padding: object = rng.choice((0, 1, tuple(k // 2 for k in kernel), tuple(rng.randint(0, 3) for _ in kernel)))
    transposed = rng.random() < 0.2
    extra = rng.randint(0, max(stride, dilation) - 1) if transposed else 0
    try:
        return Conv.of(groups * icg, groups * ocg, size, kernel, stride, padding, dilation, groups,
                       bias=rng.random() < 0.7, transposed=transposed, output_padding=extra,
                       n=rng.choice((0, 1, 1, 1, 2, 3)))  # fmt: skip
    except ShapeError:
        return None


def problems(count: int, seed: int) -> Iterator[Conv]:
    """So many problems."""
    rng = random.Random(seed)
    while count:
        conv = draw(rng)
        if conv is not None:
            count -= 1
            yield conv


def strange(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same numbers in another memory order: reversed, with gaps, channels last."""
    how = rng.integers(4)
    if how == 0:
        return array
    if how == 1:
        return np.ascontiguousarray(array[..., ::-1])[..., ::-1]
    if how == 2:
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


def truth(c: Conv, x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> np.ndarray:
    """PyTorch in float64."""
    x64, w64 = (torch.from_numpy(np.ascontiguousarray(a, np.float64)) for a in (x, w))
    b64 = None if b is None else torch.from_numpy(b.astype(np.float64))
    before = [p for p, _ in c.padding]
    if c.transposed:
        function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[c.rank - 1]
        return function(x64, w64, b64, c.stride, before, c.output_padding, c.groups, c.dilation).numpy()
    function = (F.conv1d, F.conv2d, F.conv3d)[c.rank - 1]
    return function(x64, w64, b64, c.stride, before, c.dilation, c.groups).numpy()


def again(seed: int, number: int) -> list[str]:
    """What is wrong with one of the problems of a seed, with the line that repeats it."""
    conv = next(islice(problems(number + 1, seed), number, None))
    return [f"{line}; again: python tests/random_convs.py {seed} {number}" for line in check(conv, number)]


def check(c: Conv, seed: int) -> list[str]:
    """What is wrong with one problem: nothing."""
    rng = np.random.default_rng(seed)
    x = strange(rng.standard_normal(c.in_shape).astype("f4"), rng)
    w = strange(rng.standard_normal(c.weight_shape).astype("f4"), rng)
    b = rng.standard_normal(c.oc).astype("f4") if c.bias else None
    right = truth(c, x, w, b)
    size = truth(c, np.abs(x), np.abs(w), None if b is None else np.abs(b)).max(initial=0)
    terms = max(1, c.macs // max(1, c.n * c.oc * int(np.prod(c.out_size))))
    small = 2.0**-24 * (2 + terms**0.5) * size
    before = [p for p, _ in c.padding]

    def one(dtype: str) -> np.ndarray:
        arrays = [None if a is None else a.astype(dtype) if dtype == "f8" else a for a in (x, w, b)]
        if c.transposed:
            return dojang.conv_transpose(*arrays, c.stride, before, c.output_padding, c.dilation, c.groups)
        return dojang.conv(*arrays, c.stride, before, c.dilation, c.groups)

    kinds = {
        "float32": (lambda: one("f4"), small),
        "float64": (lambda: one("f8"), 2.0**-53 * (2 + terms) * size + 1e-300),
        "network": (lambda: network(c, w, b)(x), 10 * small),
    }
    wrong = []
    for kind, (run, bound) in kinds.items():
        y = run()
        if y.shape != right.shape:
            wrong.append(f"{c}: {kind} has shape {y.shape}, not {right.shape}")
        elif not np.abs(y - right).max(initial=0) <= bound:
            wrong.append(f"{c}: {kind} is off by {np.abs(y - right).max():.3g}, allowed {bound:.3g}")
    return wrong


def network(c: Conv, w: np.ndarray, b: np.ndarray | None):
    """The problem as a compiled network of one layer."""
    extra = {"output_padding": c.output_padding} if c.transposed else {}
    layer = Node.of("c", "conv_transpose" if c.transposed else "conv", "x", out=c.oc, kernel=c.kernel, stride=c.stride,
                    padding=tuple(p for p, _ in c.padding), dilation=c.dilation, groups=c.groups, bias=c.bias,
                    **extra)  # fmt: skip
    weights = {"c.weight": np.ascontiguousarray(w)} | ({} if b is None else {"c.bias": b})
    graph = Graph((Node.of("x", "input", shape=(c.ic, *c.size)), layer), ("c",), "one")
    return compile(graph.replace(weights=weights), threads=1)


if __name__ == "__main__":
    print("\n".join(again(*map(int, sys.argv[1:]))) or "right")
