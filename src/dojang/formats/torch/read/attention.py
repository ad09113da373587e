"""Attention as nodes: scaled_dot_product_attention, nn.MultiheadAttention."""

from __future__ import annotations

from math import sqrt
from typing import Any

import torch
from torch import nn

from dojang.formats.torch.read.ops import lowers
from dojang.formats.torch.read.trace import Tracer
from dojang.formats.torch.read.traced import MODULES, Traced

FAR = -1e30
"""Added to scores that a mask forbids: exp() of it is 0 in every float format, and it is no infinity."""


def _mask(t: Tracer, mask: Any) -> Any:
    """A real mask as numbers to add; True means 'may look' as in scaled_dot_product_attention."""
    mask = t.mask(mask)
    if isinstance(mask, Traced):
        return mask if mask.dtype.is_floating_point else None
    if mask.dtype == torch.bool:
        return t.value(torch.zeros(mask.shape).masked_fill(~mask.cpu(), FAR) if mask.device.type != "meta" else mask)
    return t.value(mask.clamp(min=FAR) if mask.device.type != "meta" else mask)


@lowers("scaled_dot_product_attention")
def attention(
    t: Tracer, query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    """softmax(q kᵀ · scale + mask) v."""
    query, key, value = t.value(query), t.value(key), t.value(value)
    if enable_gqa and query.sizes[-3] != key.sizes[-3]:
        return NotImplemented
    return _attend(t, query, key, value, attn_mask, is_causal, scale)[0]


def _attend(t: Tracer, q: Traced, k: Traced, v: Traced, mask: Any, causal: bool, scale: float | None) -> Any:
    factor = scale if scale is not None else 1 / sqrt(q.sizes[-1])
    scaled = t.emit("mul", q, t.fill(factor, (1,)), part="scale")
    perm = (*range(k.dim() - 2), k.dim() - 1, k.dim() - 2)
    scores = t.emit("matmul", scaled, t.emit("transpose", k, part="key", perm=perm), part="scores")
    if causal:
        mask = torch.ones(q.sizes[-2], k.sizes[-2], dtype=torch.bool).tril()
    if mask is not None:
        added = _mask(t, mask)
        if added is None:
            return NotImplemented, None
        scores = t.emit("add", scores, added, part="mask")
    weights = t.emit("softmax", scores, part="softmax", axis=scores.dim() - 1)
    return t.emit("matmul", weights, v), weights


def multihead(
    t: Tracer, m: nn.MultiheadAttention, query: Any, key: Any, value: Any, key_padding_mask: Any = None,
    need_weights: bool = True, attn_mask: Any = None, average_attn_weights: bool = True, is_causal: bool = False,
) -> Any:  # fmt: skip
    """Attention with heads: dense layers for queries, keys and values, the attention, a dense layer out."""
    path = t.stack[-1][0]
    plain = m.bias_k is None and m.bias_v is None and not m.add_zero_attn and key_padding_mask is None
    plain = plain and not (isinstance(attn_mask, Traced) and not attn_mask.dtype.is_floating_point)
    if not plain or not all(isinstance(v, Traced) for v in (query, key, value)):
        return _opaque_multihead(t, m, query, key, value)
    if query.dim() == 2:
        return NotImplemented
    same_input = query.node == key.node == value.node
    if not m.batch_first:
        query, key, value = (t.emit("transpose", v, part="batch_first", perm=(1, 0, 2)) for v in (query, key, value))
    _n, _rows, width = query.sizes
    heads = m.num_heads
    t.func = ""
    if same_input and m.in_proj_weight is not None:
        name = f"{path}.in_proj" if path else "in_proj"
        arrays = t.roles(name, weight=m.in_proj_weight, bias=m.in_proj_bias)
        bias = m.in_proj_bias is not None
        joint = t.emit("dense", query, name=name, arrays=arrays, out=3 * width, bias=bias)
        parts = [t.emit("slice", joint, part=f"in_proj.{c}", axis=2, start=i * width, stop=(i + 1) * width)
                 for i, c in enumerate("qkv")]  # fmt: skip
    else:
        parts = [_project(t, m, x, i) for i, x in enumerate((query, key, value))]
    q, k, v = (_heads(t, x, heads, c) for x, c in zip(parts, "qkv", strict=True))
    mask = attn_mask
    if mask is not None and not isinstance(mask, Traced):
        mask = ~mask if mask.dtype == torch.bool else mask
        if mask.dim() == 3:
            return _opaque_multihead(t, m, query, key, value)
    with_part = t.stack[-1]
    t.stack[-1] = (f"{path}.attention" if path else "attention", True)
    mixed, weights = _attend(t, q, k, v, mask, False, None)
    t.stack[-1] = with_part
    joined = t.emit("transpose", mixed, part="join", perm=(0, 2, 1, 3))
    flat = t.emit("reshape", joined, part="merge", shape=(0, 0, width))
    name = f"{path}.out_proj" if path else "out_proj"
    arrays = t.roles(name, weight=m.out_proj.weight, bias=m.out_proj.bias)
    out = t.emit("dense", flat, name=name, arrays=arrays, out=width, bias=m.out_proj.bias is not None)
    if not m.batch_first:
        out = t.emit("transpose", out, part="batch_second", perm=(1, 0, 2))
    if not need_weights:
        return out, None
    seen = (
        t.emit("reduce_mean", weights, part="weights", axes=(1,), keepdims=False) if average_attn_weights else weights
    )
    return out, seen


def _project(t: Tracer, m: nn.MultiheadAttention, x: Traced, i: int) -> Traced:
    """Queries, keys or values of different inputs: their rows of the one weight matrix."""
    width, part = m.embed_dim, f"{'qkv'[i]}_proj"
    if m.in_proj_weight is None:
        weight = t.value((m.q_proj_weight, m.k_proj_weight, m.v_proj_weight)[i])
    else:
        whole = t.value(m.in_proj_weight)
        weight = t.emit("slice", whole, part=f"{part}.rows", axis=0, start=i * width, stop=(i + 1) * width)
    turned = t.emit("transpose", weight, part=f"{part}.transpose", perm=(1, 0))
    out = t.emit("matmul", x, turned, part=part)
    if m.in_proj_bias is None:
        return out
    bias = t.emit("slice", t.value(m.in_proj_bias), part=f"{part}.bias", axis=0, start=i * width, stop=(i + 1) * width)
    return t.emit("add", out, bias, part=f"{part}.add")


def _heads(t: Tracer, x: Traced, heads: int, part: str) -> Traced:
    split = t.emit("reshape", x, part=f"{part}.split", shape=(0, 0, heads, x.sizes[-1] // heads))
    return t.emit("transpose", split, part=f"{part}.heads", perm=(0, 2, 1, 3))


def _opaque_multihead(t: Tracer, m: nn.MultiheadAttention, query: Traced, key: Any, value: Any) -> Any:
    """Forms that are not decomposed: unknown, with their parameters counted."""
    given = [v for v in (query, key, value) if isinstance(v, Traced)]
    sources = {v.node: v for v in [*given, *(t.value(p) for p in m.parameters())]}
    return t.opaque("MultiheadAttention", tuple(sources.values()), (*query.sizes[:-1], m.embed_dim)), None


MODULES[nn.MultiheadAttention] = multihead
