"""Attention as nodes: scaled_dot_product_attention, nn.MultiheadAttention."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import torch
from torch import nn

from dojang.formats.torch.read.kinds import truths
from dojang.formats.torch.read.logic import choose
from dojang.formats.torch.read.ops import lowers
from dojang.formats.torch.read.trace import Tracer
from dojang.formats.torch.read.traced import MODULES, Traced

FAR = -1e30
"""Added to scores that a mask forbids: exp() of it is 0 in every float format, and it is no infinity."""


def _mask(t: Tracer, mask: Any) -> tuple[Traced, Traced | None]:
    """A mask as numbers to add to scores, and 1 for each query that sees a key, 0 for the others; None where each sees
    one. True means 'may look', as in scaled_dot_product_attention.
    """
    mask = t.mask(mask)
    if isinstance(mask, Traced):
        if mask.dtype.is_floating_point:
            return mask, None
        seen = t.cast(truths(t, mask), torch.float32)
        sees = t.emit("reduce_max", seen, part="sees", axes=(mask.dim() - 1,), keepdims=True)
        return choose(t, mask, 0.0, FAR, part="far"), sees
    if mask.device.type == "meta":
        return t.value(mask), None
    mask = mask.cpu()
    numbers = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else mask
    sees = (numbers > -torch.inf).any(-1, keepdim=True).float()
    return t.value(numbers.clamp(min=FAR)), None if sees.all() else t.value(sees)


@lowers("scaled_dot_product_attention")
def attention(
    t: Tracer, query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    """softmax(q kᵀ · scale + mask) v."""
    query, key, value = t.value(query), t.value(key), t.value(value)
    if enable_gqa and query.sizes[-3] != key.sizes[-3]:
        return NotImplemented
    return _attend(t, query, key, value, (attn_mask,), is_causal, scale)[0]


def _attend(
    t: Tracer, q: Traced, k: Traced, v: Traced, masks: Sequence[Any], causal: bool, scale: float | None
) -> tuple[Traced, Traced]:
    """What each query reads, 0 for one that sees nothing, and by what weights."""
    factor = scale if scale is not None else 1 / sqrt(q.sizes[-1])
    scaled = t.emit("mul", q, t.fill(factor, (1,)), part="scale")
    perm = (*range(k.dim() - 2), k.dim() - 1, k.dim() - 2)
    scores = t.emit("matmul", scaled, t.emit("transpose", k, part="key", perm=perm), part="scores")
    if causal:
        masks = (*masks, torch.ones(q.sizes[-2], k.sizes[-2], dtype=torch.bool).tril())
    blind = []
    for mask in masks:
        if mask is not None:
            added, sees = _mask(t, mask)
            scores = t.emit("add", scores, added, part="mask")
            blind += [] if sees is None else [sees]
    weights = t.emit("softmax", scores, part="softmax", axis=scores.dim() - 1)
    mixed = t.emit("matmul", weights, v)
    for sees in blind:
        mixed = t.emit("mul", mixed, sees, part="sees")
    return mixed, weights


def multihead(
    t: Tracer, m: nn.MultiheadAttention, query: Any, key: Any, value: Any, key_padding_mask: Any = None,
    need_weights: bool = True, attn_mask: Any = None, average_attn_weights: bool = True, is_causal: bool = False,
) -> Any:  # fmt: skip
    """Attention with heads: dense layers for queries, keys and values, the attention, a dense layer out."""
    path = t.stack[-1][0]
    plain = m.bias_k is None and m.bias_v is None and not m.add_zero_attn
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
    if attn_mask is not None and attn_mask.dim() == 3:
        return _opaque_multihead(t, m, query, key, value)
    # these masks are true where a query may *not* look
    masks = [mask if mask is None or mask.dtype != torch.bool else ~mask for mask in (attn_mask, key_padding_mask)]
    if masks[1] is not None:
        masks[1] = masks[1][:, None, None, :]
        if masks[0] is not None and masks[1].dtype == torch.bool:
            only = _only(masks[0])
            masks = masks if only is None else [masks[1] & only]  # a query may see nothing by both alone
    with_part = t.stack[-1]
    t.stack[-1] = (f"{path}.attention" if path else "attention", True)
    mixed, weights = _attend(t, q, k, v, masks, False, None)
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


def _only(mask: Any) -> Any:
    """A mask as truth values: True where a query may look; None for one that adds other numbers than 0 and -inf."""
    if mask.dtype == torch.bool:
        return mask
    if isinstance(mask, Traced) or not ((mask == 0) | (mask == -torch.inf)).all():
        return None
    return mask == 0


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
