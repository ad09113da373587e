"""What kernels of bytes shall give, in NumPy: integers of 64 bits, then float32 as the operators of ONNX say."""

import numpy as np

from dojang.engine.kernels.eight.elements import EightMap
from dojang.engine.kernels.eight.pool import EightPool
from dojang.engine.kernels.eight.store import Requantised


def finished(total: np.ndarray, factor: np.ndarray, finish: Requantised) -> np.ndarray:
    """The same in NumPy, of sums (…, channels); without activation."""
    v = total.astype(np.int32).astype(np.float32) * factor.astype(np.float32)
    if finish.real:
        return v
    return np.clip(np.rint(v) + finish.zero, finish.low, finish.high).astype(np.uint8)


def mapped(task: EightMap, x: np.ndarray, r: np.ndarray | None = None) -> np.ndarray:
    """The same in NumPy, of arrays (…, channels); not for tables."""
    f4 = np.float32
    v = x if task.op == "quantise" else (x.astype("i4") - task.x_zero).astype(f4) * f4(task.x_scale)
    if task.op == "real":
        return v
    if r is not None:
        other = (r.astype("i4") - task.r_zero).astype(f4) * f4(task.r_scale)
        v = v + other if task.op == "add" else v * other
    with np.errstate(all="ignore"):
        whole = np.rint(v / f4(task.scale)) + f4(task.zero)
    return np.fmin(np.fmax(whole, task.low), task.high).astype("u1")


def pooled(task: EightPool, x: np.ndarray) -> np.ndarray:
    """The same in NumPy, of (n, channels, *size)."""
    p = task.pool
    out = np.zeros((*x.shape[:2], *p.out_size), "u1")
    for place in np.ndindex(*p.out_size):
        spans, reach = [], 1
        for o, s, (pad, after), d, k, size in zip(
            place, p.stride, p.padding, p.dilation, p.kernel, p.size, strict=True
        ):
            start = o * s - pad
            spans.append([start + i * d for i in range(k) if 0 <= start + i * d < size])
            reach *= min(k, size + after - start)
        window = x[(slice(None), slice(None), *np.ix_(*spans))].reshape(*x.shape[:2], -1)
        if p.what == "max":
            out[(..., *place)] = window.max(-1, initial=0)
            continue
        total = (window.astype("i8") - task.x_zero).sum(-1).astype("f4")
        v = np.rint(total * np.float32(task.ratio) / np.float32(reach if p.count_padding else window.shape[-1]))
        out[(..., *place)] = np.clip(v + task.zero, task.low, task.high)
    return out
