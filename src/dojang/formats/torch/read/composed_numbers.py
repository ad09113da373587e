"""PyTorch functions of numbers, products and layers that are read as what they are made of (see `composed.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import inf, log, pi
from typing import Any

import torch
from torch.nn import functional

from dojang.formats.torch.read.composed import batched, composed
from dojang.formats.torch.read.kinds import alike, picks, wide
from dojang.formats.torch.read.ops import per_axis
from dojang.formats.torch.read.trace import Tracer
from dojang.formats.torch.read.traced import HANDLERS, Traced

# -- element by element --------------------------------------------------------------------------------------------


@composed("logaddexp")
def logaddexp(a: Any, b: Any) -> Any:
    """log(eᵃ + eᵇ)."""
    apart = torch.maximum(a, b) + torch.log1p(torch.exp(-(a - b).abs()))
    return torch.where(a == b, a + log(2), apart)


@composed("heaviside")
def heaviside(x: Any, values: Any) -> Any:
    """0 below 0, 1 above, and a value of one's own at 0."""
    return torch.where(x == 0, values, (x > 0).to(torch.float32))


@composed("signbit")
def signbit(x: Any) -> Any:
    """Whether the sign is a minus; −0 has one."""
    return (x < 0) | ((x == 0) & (1 / x < 0))


@composed("copysign")
def copysign(x: Any, other: Any) -> Any:
    """The size of one with the sign of the other."""
    if not isinstance(other, torch.Tensor):
        other = torch.tensor(float(other))
    return torch.where(signbit(other), -x.abs(), x.abs())


@composed("sgn")
def sgn(x: Any) -> Any:
    """The sign."""
    return x.sign()


@composed("sinc", "special_sinc")
def sinc(x: Any) -> Any:
    """sin(πx) / (πx), 1 at 0."""
    far = torch.where(x == 0, 1.0, x) * pi
    return torch.where(x == 0, 1.0, torch.sin(far) / far)


@composed("xlogy", "special_xlogy")
def xlogy(x: Any, y: Any) -> Any:
    """x · log(y), 0 where x is 0 and y a number."""
    return torch.where((x == 0) & ~torch.isnan(y), 0.0, x * torch.log(y))


@composed("expm1", "special_expm1")
def expm1(x: Any) -> Any:
    """eˣ − 1 = tanh(x / 2) · (eˣ + 1), which cancels nothing near 0."""
    return torch.tanh(x / 2) * (torch.exp(x) + 1)


@composed("special_entr")
def entropy(x: Any) -> Any:
    """−x · log(x), 0 at 0 and −∞ below."""
    inside = -x * torch.log(torch.where(x > 0, x, 1.0))
    return torch.where(x < 0, -inf, inside)


for _name, _factor in {"deg2rad": pi / 180, "rad2deg": 180 / pi}.items():
    composed(_name)(lambda x, factor=_factor: x * factor)

for _name, _own in {"special_expit": "sigmoid", "special_erf": "erf", "special_log1p": "log1p"}.items():
    composed(_name)(lambda x, own=_own: getattr(torch, own)(x))


@composed("isclose")
def isclose(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Any:
    """Equal to within both limits."""
    near = ((a - b).abs() <= atol + rtol * b.abs()) & torch.isfinite(a - b)
    found = near | (a == b)
    return found | (torch.isnan(a) & torch.isnan(b)) if equal_nan else found


@composed("clip", "clamp")
def clamp(x: Any, min: Any = None, max: Any = None) -> Any:
    """Within bounds that may be computed."""
    for bound, limit in ((min, torch.maximum), (max, torch.minimum)):
        if bound is not None:
            x = limit(x, bound if isinstance(bound, torch.Tensor) else torch.tensor(float(bound)))
    return x


@composed("round")
def rounded(x: Any, *, decimals: int = 0) -> Any:
    """To so many places behind the point."""
    scale = 10.0 ** abs(decimals)
    return (x * scale).round() / scale if decimals > 0 else (x / scale).round() * scale


@composed("div")
def divided(a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    """A quotient towards 0."""
    return torch.trunc(a / b) if rounding_mode == "trunc" else NotImplemented


@composed("softplus")
def softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """log(1 + e^βx) / β; x itself where βx is above a threshold."""
    return torch.where(x * beta > threshold, x, functional.softplus(x * beta) / beta)


@composed("softmin")
def softmin(x: Any, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
    """The softmax of −x."""
    return NotImplemented if dim is None else functional.softmax(-x, dim, dtype=dtype)


def _bits(kind: str, name: str) -> None:
    """And, or, xor of whole numbers, bit by bit, in the type that PyTorch takes for both; truth values are 0 and 1."""

    def handler(t: Tracer, a: Any, b: Any) -> Any:
        dtype = reduce(torch.promote_types, [v.dtype for v in (a, b) if isinstance(v, torch.Tensor)])
        if dtype.is_floating_point:
            return NotImplemented
        if dtype == torch.bool:  # beside a number that is none
            dtype = torch.int64
        one, two = (
            t.cast(t.value(v), dtype) if isinstance(v, torch.Tensor) else t.cast(t.number(float(v), a, b), dtype)
            for v in (a, b)
        )
        return t.standard(kind, alike(t, one, two), wide(one.sizes, two.sizes), dtype)

    for called in (f"bitwise_{name}", name, f"r{name}", f"i{name}"):
        first = HANDLERS[called]

        def both(t: Tracer, a: Any, b: Any, first: Any = first) -> Any:
            found = first(t, a, b)
            return handler(t, a, b) if found is NotImplemented else found

        picks(called)(both)


for _kind in ("And", "Or", "Xor"):
    _bits(f"Bitwise{_kind}", _kind.lower())


@composed("bitwise_not", "invert")
def inverted(x: Any) -> Any:
    """The bits of a whole number turned over: −1 − x."""
    return NotImplemented if x.dtype == torch.bool or x.dtype.is_floating_point else (-1 - x).to(x.dtype)


@composed("lshift", "bitwise_left_shift")
def shifted_left(x: Any, count: Any) -> Any:
    """Times 2ⁿ."""
    return (x * 2**count).to(x.dtype) if isinstance(count, int) else NotImplemented


@composed("rshift", "bitwise_right_shift")
def shifted_right(x: Any, count: Any) -> Any:
    """Over 2ⁿ, rounded down."""
    return torch.floor(x.float() / 2**count).to(x.dtype) if isinstance(count, int) else NotImplemented


# -- products and sizes --------------------------------------------------------------------------------------------


def _added(x: Any, product: Any, beta: float, alpha: float) -> Any:
    scaled = product if alpha == 1 else product * alpha
    return scaled if beta == 0 else scaled + (x if beta == 1 else x * beta)


@composed("addmm", "baddbmm", "addmv")
def addmm(x: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """β·x + α·a·b, for matrices, stacks of them, and a vector."""
    return _added(x, torch.matmul(a, b), beta, alpha)


@composed("tensordot")
def tensordot(a: Any, b: Any, dims: Any = 2, out: Any = None) -> Any:
    """Summed over pairs of axes; the other axes of both follow each other."""
    pairs = (range(a.dim() - dims, a.dim()), range(dims)) if isinstance(dims, int) else dims
    left, right = ([d % v.dim() for d in axes] for v, axes in zip((a, b), pairs, strict=True))
    kept = [d for d in range(a.dim()) if d not in left]
    rest = [d for d in range(b.dim()) if d not in right]
    if (isinstance(a, Traced) and 0 in left) or isinstance(b, Traced):
        return NotImplemented
    rows = a.permute(*kept, *left).flatten(len(kept)) if len(left) > 1 else a.permute(*kept, *left)
    columns = b.permute(*right, *rest).reshape(rows.shape[-1], -1)
    return torch.matmul(rows, columns).reshape([*(a.shape[d] for d in kept), *(b.shape[d] for d in rest)])


@composed("inner")
def inner(a: Any, b: Any) -> Any:
    """Summed over the last axis of both."""
    return tensordot(a, b, ([-1], [-1]))


@composed("cross")
def cross(a: Any, b: Any, dim: int | None = None) -> Any:
    """The vector at right angles to both, along an axis of three: the first one that has three places."""
    return linalg_cross(a, b, next(d for d, s in enumerate(a.shape) if s == 3) if dim is None else dim)


@composed("linalg_cross")
def linalg_cross(a: Any, b: Any, dim: int = -1) -> Any:
    """The same along the last axis, where no other one is named."""
    return a.roll(-1, dim) * b.roll(-2, dim) - a.roll(-2, dim) * b.roll(-1, dim)


@composed("bilinear")
def bilinear(a: Any, b: Any, weight: Any, bias: Any = None) -> Any:
    """Σ aᵢ · wₒᵢⱼ · bⱼ for each output."""
    out, rows, columns = weight.shape
    half = torch.matmul(a, weight.permute(1, 0, 2).reshape(rows, out * columns))
    found = (half.reshape(*a.shape[:-1], out, columns) * b.unsqueeze(-2)).sum(-1)
    return found if bias is None else found + bias


@composed("norm", "linalg_vector_norm")
def vector_norm(
    x: Any, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, p: Any = 2
) -> Any:
    """The size of vectors along axes, by any order."""
    order = 2 if ord in (None, "fro") and p in (2, "fro", None) else p if ord is None else ord
    if dim is None or isinstance(order, str):
        return NotImplemented
    x = x if dtype is None else x.to(dtype)
    if order in (inf, -inf):
        return (x.abs().amax if order > 0 else x.abs().amin)(dim, keepdim=keepdim)
    if order == 0:
        return (x != 0).float().sum(dim, keepdim=keepdim)
    if order == 1:
        return x.abs().sum(dim, keepdim=keepdim)
    if order == 2:
        return (x * x).sum(dim, keepdim=keepdim).sqrt()
    return x.abs().pow(order).sum(dim, keepdim=keepdim).pow(1 / order)


@composed("linalg_matrix_norm")
def matrix_norm(
    x: Any, ord: Any = "fro", dim: Sequence[int] = (-2, -1), keepdim: bool = False, *, dtype: Any = None
) -> Any:
    """The size of matrices: by all elements, or by their rows or columns."""
    if ord == "fro":
        return vector_norm(x, 2, tuple(dim), keepdim, dtype=dtype)
    if ord not in (1, -1, inf, -inf):
        return NotImplemented
    rows, columns = dim
    x = x if dtype is None else x.to(dtype)
    sums = x.abs().sum(rows if abs(ord) == 1 else columns, keepdim=True)
    return (sums.amax if ord > 0 else sums.amin)((rows, columns), keepdim=keepdim)


@composed("linalg_norm")
def linalg_norm(x: Any, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """The size of vectors along one axis; by an order along two axes, that of matrices."""
    of_matrices = ord is not None and isinstance(dim, Sequence) and len(dim) == 2
    return (matrix_norm if of_matrices else vector_norm)(x, ord, dim, keepdim, dtype=dtype)


@composed("normalize")
def normalize(x: Any, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None) -> Any:
    """Over the size along an axis."""
    return x / vector_norm(x, p, dim, True).clamp_min(eps)


@composed("renorm")
def renorm(x: Any, p: float, dim: int, maxnorm: float) -> Any:
    """Images that are larger than a limit made as large as it."""
    if not batched(x, dim):
        return NotImplemented
    size = vector_norm(x.flatten(1), p, 1, True).reshape([-1, *[1] * (x.dim() - 1)])
    return x * torch.where(size > maxnorm, maxnorm / (size + 1e-7), 1.0)


# -- layers --------------------------------------------------------------------------------------------------------


@composed("lp_pool1d", "lp_pool2d", "lp_pool3d")
def lp_pool(x: Any, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> Any:
    """(Σ xᵖ)^(1/p) over windows."""
    rank = x.dim() - 2
    pool = getattr(functional, f"avg_pool{rank}d")
    mean, count = pool(x.pow(norm_type), kernel_size, stride, 0, ceil_mode), 1
    for size in per_axis(kernel_size, rank):
        count *= size
    return (torch.sign(mean) * torch.relu(torch.abs(mean)) * count).pow(1 / norm_type)


@composed("embedding_bag")
def embedding_bag(
    x: Any, weight: Any, offsets: Any = None, max_norm: Any = None, norm_type: float = 2,
    scale_grad_by_freq: bool = False, mode: str = "mean", sparse: bool = False, per_sample_weights: Any = None,
    include_last_offset: bool = False, padding_idx: Any = None,
) -> Any:  # fmt: skip
    """The sum, mean or largest of the rows that a bag of places names; bags of one size."""
    if x.dim() != 2 or offsets is not None or max_norm is not None or padding_idx is not None:
        return NotImplemented
    rows = functional.embedding(x, weight)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(-1)
    return {"mean": rows.mean, "sum": rows.sum, "max": rows.amax}[mode](1)


def _gates(x: Any, h: Any, given: Sequence[Any]) -> tuple[Any, Any]:
    weight, hidden, *biases = given
    bias, other = biases or (None, None)
    return functional.linear(x, weight, bias), functional.linear(h, hidden, other)


@composed("lstm_cell")
def lstm_cell(x: Any, state: Any, *weights: Any) -> Any:
    """One step of an LSTM: the new output and memory."""
    h, c = state
    i, f, g, o = sum(_gates(x, h, weights)).chunk(4, 1)  # pyright: ignore[reportAttributeAccessIssue]
    memory = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(memory), memory


@composed("gru_cell")
def gru_cell(x: Any, h: Any, *weights: Any) -> Any:
    """One step of a GRU."""
    one, two = _gates(x, h, weights)
    (r, z, n), (hr, hz, hn) = one.chunk(3, 1), two.chunk(3, 1)
    update, new = torch.sigmoid(z + hz), torch.tanh(n + torch.sigmoid(r + hr) * hn)
    return new + update * (h - new)


for _name, _function in {"rnn_tanh_cell": torch.tanh, "rnn_relu_cell": torch.relu}.items():
    composed(_name)(lambda x, h, *weights, function=_function: function(sum(_gates(x, h, weights))))
