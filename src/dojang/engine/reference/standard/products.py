"""Operators of ONNX that multiply matrices: products, attention, turned positions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dojang.engine.reference.standard.call import Array, Function, OperatorCall


def gemm(call: OperatorCall) -> tuple[Array, ...]:
    """α·a·b + β·c."""
    a, b, c = call[0], call[1], call.get(2)
    a, b = (a.T if call.attr("transA") else a), (b.T if call.attr("transB") else b)
    y = a @ b
    if call.attr("alpha", 1.0) != 1:
        y = (call.attr("alpha") * y).astype(y.dtype)
    return ((y + call.attr("beta", 1.0) * c).astype(y.dtype) if c is not None else y,)


def einsum(call: OperatorCall) -> tuple[Array, ...]:
    """A sum of products by an equation."""
    return (np.einsum(call.attrs["equation"], *call.present()),)


def det(call: OperatorCall) -> tuple[Array, ...]:
    """The determinant of each matrix."""
    return (np.asarray(np.linalg.det(call[0])),)


def attention(call: OperatorCall) -> tuple[Array, ...]:
    """softmax(scale·Q·Kᵀ + mask)·V for each head; the keys and values so far; and the products at a chosen stage."""
    q, k, v = call[0], call[1], call[2]
    mask, past_k, past_v, lengths = call.get(3), call.get(4), call.get(5), call.get(6)
    flat = q.ndim == 3
    if flat:
        heads, less = call.attrs["q_num_heads"], call.attrs["kv_num_heads"]
        q, k, v = (_heads(x, h) for x, h in ((q, heads), (k, less), (v, less)))
    k = np.concatenate([past_k, k], 2) if past_k is not None else k
    v = np.concatenate([past_v, v], 2) if past_v is not None else v
    before = past_k.shape[2] if past_k is not None else 0
    scale = call.attr("scale") or 1 / np.sqrt(q.shape[3])
    root = np.sqrt(scale)
    repeats = q.shape[1] // k.shape[1]
    wide_k, wide_v = (np.repeat(x, repeats, 1) if repeats > 1 else x for x in (k, v))
    scores = (q * root) @ (wide_k * root).swapaxes(2, 3)
    stages = [scores]
    bias = np.zeros(scores.shape[2:], q.dtype)
    rows, columns = scores.shape[2:]
    start = (lengths.astype(int) - rows).reshape(-1, 1, 1, 1) if lengths is not None else np.array(before)
    ahead = np.arange(columns) - (np.arange(rows)[:, None] + start)
    left, right = call.attr("left_window_size", -1), 0 if call.attr("is_causal") else call.attr("right_window_size", -1)
    if right >= 0:
        bias = np.where(ahead <= right, bias, -np.inf)
    if left >= 0:
        bias = np.where(-ahead <= left, bias, -np.inf)
    if mask is not None:
        bias = bias + _as_bias(mask, columns, q.dtype)
    if lengths is not None:
        inside = np.arange(columns) < lengths.astype(int).reshape(-1, 1, 1, 1)
        bias = np.where(inside, bias, -np.inf)
    cap = call.attr("softcap", 0.0)
    capped = cap * np.tanh(scores / cap) if cap else scores
    scores = capped + bias
    stages += [capped, scores]
    top = scores.max(3, keepdims=True, initial=-np.inf)
    parts = np.exp(scores - np.where(np.isfinite(top), top, 0))
    whole = parts.sum(3, keepdims=True)
    parts = np.divide(parts, whole, out=np.zeros_like(parts), where=whole > 0)
    stages.append(parts)
    y = parts.astype(v.dtype) @ wide_v
    if flat:
        y = y.swapaxes(1, 2).reshape(y.shape[0], y.shape[2], -1)
    asked = stages[call.attr("qk_matmul_output_mode", 0)]
    return y.astype(q.dtype), k, v, asked.astype(q.dtype)


def _heads(x: Array, heads: int) -> Array:
    return x.reshape(x.shape[0], x.shape[1], heads, -1).swapaxes(1, 2)


def _as_bias(mask: Array, columns: int, kind: np.dtype) -> Array:
    bias = np.where(mask, 0, -np.inf).astype(kind) if mask.dtype.kind == "b" else mask
    if bias.shape[-1] < columns:
        less = [(0, 0)] * (bias.ndim - 1) + [(0, columns - bias.shape[-1])]
        bias = np.pad(bias, less, constant_values=-np.inf)
    return bias


def rotary(call: OperatorCall) -> tuple[Array, ...]:
    """Pairs of numbers turned by angles that grow with the position (Su et al. 2021)."""
    x, cos, sin, places = call[0], call[1], call[2], call.get(3)
    flat = x.ndim == 3
    y = _heads(x, call.attrs["num_heads"]) if flat else x
    size = call.attr("rotary_embedding_dim", 0) or y.shape[3]
    turned, rest = y[..., :size], y[..., size:]
    if places is not None:
        cos, sin = cos[places.astype(int)], sin[places.astype(int)]
    cos, sin = (c[..., : size // 2][:, None] for c in (cos, sin))
    if call.attr("interleaved"):
        a, b = turned[..., 0::2], turned[..., 1::2]
        out = np.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(turned.shape)
    else:
        a, b = turned[..., : size // 2], turned[..., size // 2 :]
        out = np.concatenate([a * cos - b * sin, a * sin + b * cos], -1)
    out = np.concatenate([out, rest], -1)
    return (out.swapaxes(1, 2).reshape(x.shape) if flat else out,)


def causal_conv(call: OperatorCall) -> tuple[Array, ...]:
    """A depthwise convolution over what came before; then the last inputs, for the next piece."""
    x, w, bias, past = call[0], call[1], call.get(2), call.get(3)
    reach = w.shape[-1] - 1
    before = past if past is not None else np.zeros((*x.shape[:2], reach), x.dtype)
    whole = np.concatenate([before, x], 2)
    y = sum(whole[:, :, k : k + x.shape[2]] * w[:, 0, k][:, None] for k in range(reach + 1))
    y = y + bias[:, None] if bias is not None else y
    if call.attr("activation", "none") in ("silu", "swish"):
        y = y / (1 + np.exp(-y))
    return np.asarray(y, x.dtype), whole[:, :, whole.shape[2] - reach :]


FUNCTIONS: Mapping[str, Function] = {
    "MatMul": lambda call: (np.matmul(call[0], call[1]),),
    "Gemm": gemm,
    "Einsum": einsum,
    "Det": det,
    "Attention": attention,
    "RotaryEmbedding": rotary,
    "CausalConvWithState": causal_conv,
}
"""One function per operator."""
