"""Random PyTorch modules over the layers and functions that dojang reads, each held against PyTorch in float64.

`network(seed)` draws a module of 3 to 12 steps with every parameter drawn; `disagreement(module, size)` says how
dojang's reading differs; `shrunk(module)` is the shortest beginning that still does.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from dojang.engine.compiled import compile
from dojang.engine.reference.operators import run_reference
from dojang.formats.torch import from_module

Shape = tuple[int, ...]
Step = nn.Module
BATCH = 2
MOST = 20_000
"""Elements of one sample of a value, so that a network stays quick."""


class Call(nn.Module):
    """A function as a step, with the words that say which."""

    def __init__(self, said: str, call: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.said, self.call = said, call

    def extra_repr(self) -> str:
        return self.said

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.call(*inputs)


class Network(nn.Module):
    """Steps, each with the numbers of the values that it reads (0 is the input); the last value is the answer."""

    def __init__(self, size: Shape, steps: list[Step], reads: list[tuple[int, ...]]) -> None:
        super().__init__()
        self.size, self.steps, self.reads = size, nn.ModuleList(steps), reads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = [x]
        for step, reads in zip(self.steps, self.reads, strict=True):
            values.append(step(*(values[i] for i in reads)))
        return values[-1]

    def first(self, count: int) -> Network:
        """Its beginning."""
        return Network(self.size, list(self.steps)[:count], self.reads[:count])


Maker = Callable[[random.Random, Shape], Step]


def _by(rank: int, kind: str) -> type[nn.Module]:
    return getattr(nn, f"{kind}{rank}d")


def _some(r: random.Random, rank: int, low: int, high: int) -> tuple[int, ...]:
    return tuple(r.randint(low, high) for _ in range(rank))


def conv(r: random.Random, shape: Shape) -> Step:
    rank, channels = len(shape) - 2, shape[1]
    groups = r.choice([g for g in (1, 1, 2, 3, channels) if channels % g == 0])
    dilation, kernel = _some(r, rank, 1, 2), _some(r, rank, 1, 4)
    stride: Any = _some(r, rank, 1, 3)
    mode = r.choice(["zeros", "zeros", "zeros", "reflect", "replicate", "circular"])
    padding: Any = tuple(min(r.randint(0, 3), n - 1) for n in shape[2:])
    if r.random() < 0.2:
        padding, stride = "same", 1
    return _by(rank, "Conv")(
        channels, groups * r.randint(1, 4), kernel, stride, padding, dilation, groups, r.random() < 0.7, mode
    )


def conv_transpose(r: random.Random, shape: Shape) -> Step:
    rank, channels = len(shape) - 2, shape[1]
    groups = r.choice([g for g in (1, 1, 2, channels) if channels % g == 0])
    stride, dilation = _some(r, rank, 1, 3), _some(r, rank, 1, 2)
    output = tuple(r.randint(0, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True))
    layer = _by(rank, "ConvTranspose")
    return layer(
        channels, groups * r.randint(1, 3), _some(r, rank, 1, 4), stride, _some(r, rank, 0, 2), output, groups,
        r.random() < 0.7, dilation,
    )  # fmt: skip


def pool(r: random.Random, shape: Shape) -> Step:
    rank = len(shape) - 2
    kernel = _some(r, rank, 1, 4)
    padding = tuple(r.randint(0, k // 2) for k in kernel)
    stride = r.choice([None, _some(r, rank, 1, 3)])
    if r.random() < 0.5:
        return _by(rank, "MaxPool")(kernel, stride, padding, _some(r, rank, 1, 2), False, r.random() < 0.4)
    if rank == 1:
        kernel, stride, padding = kernel[0], stride and stride[0], padding[0]
        return nn.AvgPool1d(kernel, stride, padding, r.random() < 0.4, r.random() < 0.5)
    divisor = r.choice([None, None, 3])
    return _by(rank, "AvgPool")(kernel, stride, padding, r.random() < 0.4, r.random() < 0.5, divisor)


def adaptive(r: random.Random, shape: Shape) -> Step:
    rank = len(shape) - 2
    kind = r.choice(["AdaptiveAvgPool", "AdaptiveMaxPool"])
    return _by(rank, kind)(tuple(r.randint(1, max(1, n)) for n in shape[2:]))


def norm(r: random.Random, shape: Shape) -> Step:
    rank, channels, eps = len(shape) - 2, shape[1], r.choice([1e-5, 1e-3, 0.1])
    kind = r.choice(["batch", "group", "instance", "layer", "response"])
    if kind == "batch":
        layer = _by(rank, "BatchNorm")(channels, eps, affine=r.random() < 0.7)
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
        return _drawn(layer)
    if kind == "group":
        groups = r.choice([g for g in range(1, channels + 1) if channels % g == 0])
        return _drawn(nn.GroupNorm(groups, channels, eps, r.random() < 0.7))
    if kind == "instance":
        return _drawn(_by(rank, "InstanceNorm")(channels, eps, affine=r.random() < 0.7))
    if kind == "layer":
        return _drawn(nn.LayerNorm(shape[r.randint(1, len(shape) - 1) :], eps, r.random() < 0.7))
    return nn.LocalResponseNorm(r.choice([1, 2, 3, 5]), r.uniform(1e-4, 1), 0.75, r.uniform(1, 2))


def _drawn(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


ACTIVATIONS: tuple[Callable[[random.Random], nn.Module], ...] = (
    *(lambda r, k=k: getattr(nn, k)() for k in ("ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Tanh", "Softsign",
                                                "Hardswish", "Hardsigmoid", "Mish", "LogSigmoid", "Tanhshrink",
                                                "Identity", "Dropout")),
    lambda r: nn.GELU(r.choice(["none", "tanh"])),
    lambda r: nn.LeakyReLU(r.uniform(-0.5, 0.9)),
    lambda r: nn.ELU(r.uniform(0.1, 2)),
    lambda r: nn.CELU(r.uniform(0.5, 2)),
    lambda r: nn.Hardtanh(r.uniform(-2, 0), r.uniform(0.1, 2)),
    lambda r: nn.Softplus(r.choice([1.0, 2.0]), 20.0),
)  # fmt: skip


def activation(r: random.Random, shape: Shape) -> Step:
    return r.choice(ACTIVATIONS)(r)


def prelu(r: random.Random, shape: Shape) -> Step:
    return _drawn(nn.PReLU(r.choice([1, shape[1]])))


def linear(r: random.Random, shape: Shape) -> Step:
    return nn.Linear(shape[-1], r.randint(1, 6), r.random() < 0.7)


def upsample(r: random.Random, shape: Shape) -> Step:
    rank = len(shape) - 2
    two = ["nearest", "nearest-exact", "bilinear", "bicubic"]
    modes = {1: ["nearest", "linear"], 2: two, 3: ["nearest", "trilinear"]}
    mode = r.choice(modes[rank])
    corners = r.choice([True, False]) if "nearest" not in mode else None
    if r.random() < 0.5:
        return nn.Upsample(tuple(r.randint(1, 2 * n) for n in shape[2:]), mode=mode, align_corners=corners)
    scale = tuple(r.choice([0.4, 0.5, 0.7, 1.3, 1.5, 2.0, 2.6]) for _ in shape[2:])
    return nn.Upsample(scale_factor=scale, mode=mode, align_corners=corners)


def shuffle(r: random.Random, shape: Shape) -> Step:
    kinds: list[Step] = []
    if len(shape) == 4 and shape[1] % 4 == 0:
        kinds.append(nn.PixelShuffle(2))
    if len(shape) == 4 and shape[2] % 2 == 0 and shape[3] % 2 == 0:
        kinds.append(nn.PixelUnshuffle(2))
    kinds += [nn.ChannelShuffle(g) for g in (2, 3) if shape[1] % g == 0 and len(shape) == 4]
    return r.choice(kinds)


def pad(r: random.Random, shape: Shape) -> Step:
    mode = r.choice(["constant", "reflect", "replicate", "circular"])
    low = -1 if mode == "constant" else 0
    pads = [r.randint(low if n > 2 else 0, min(3, n - 1)) for n in reversed(shape[2:]) for _ in (0, 1)]
    fill = r.uniform(-1, 1) if mode == "constant" else 0.0
    return Call(f"pad {pads} {mode}", lambda x: F.pad(x, pads, mode, fill))


def soft(r: random.Random, shape: Shape) -> Step:
    axis = r.randint(1, len(shape) - 1)
    return r.choice([nn.Softmax, nn.LogSoftmax])(axis if r.random() < 0.5 else axis - len(shape))


def function(r: random.Random, shape: Shape) -> Step:
    """Elementwise functions and arithmetic with numbers."""
    a = round(r.uniform(0.2, 2), 2)
    return r.choice([
        Call("exp tanh", lambda x: torch.exp(torch.tanh(x))),
        Call("log abs", lambda x: torch.log(x.abs() + 0.5)),
        Call("sqrt abs", lambda x: torch.sqrt(x.abs() + a)),
        Call("rsqrt", lambda x: torch.rsqrt(x * x + a)),
        Call("pow", lambda x: (x.abs() + 0.1) ** a),
        Call("square", lambda x: x.pow(2) / 4),
        Call("clamp", lambda x: x.clamp(-a, a)),
        Call("clamp min", lambda x: torch.clamp(x, min=-a)),
        Call("arithmetic", lambda x: 1 - x * a + x / 3),
        Call("rsub", lambda x: torch.rsub(x, a, alpha=0.5)),
        Call("sin cos", lambda x: torch.sin(x) + torch.cos(x)),
        Call("erf", torch.erf),
        Call("reciprocal", lambda x: 1 / (x.abs() + a)),
        Call("glu", lambda x: F.glu(torch.cat([x, x * a], 1), 1)),
        Call("normalize", lambda x: F.normalize(x + a, dim=1)),
        Call("silu", lambda x: x * torch.sigmoid(x)),
    ])  # fmt: skip


def reduce(r: random.Random, shape: Shape) -> Step:
    axes = tuple(r.sample(range(1, len(shape)), r.randint(1, len(shape) - 1)))
    keep, kind = r.random() < 0.5, r.choice(["mean", "sum", "amax", "amin"])
    return Call(f"{kind} {axes} keepdim={keep}", lambda x: getattr(torch, kind)(x, axes, keepdim=keep))


def permute(r: random.Random, shape: Shape) -> Step:
    order = list(range(1, len(shape)))
    r.shuffle(order)
    a, b = r.choice(order), r.choice(order)
    if r.random() < 0.5:
        return Call(f"transpose {a} {b}", lambda x: x.transpose(a, b))
    return Call(f"permute {order}", lambda x: x.permute(0, *order))


def reshape(r: random.Random, shape: Shape) -> Step:
    count = prod(shape[1:])
    if r.random() < 0.3:
        return nn.Flatten()
    first = r.choice([n for n in range(1, count + 1) if count % n == 0][:8])
    second = r.choice([n for n in range(1, count // first + 1) if count // first % n == 0][:8])
    third = count // first // second
    return r.choice([
        Call(f"reshape -1 {first} {second} {third}", lambda x: x.reshape(-1, first, second, third)),
        Call(f"reshape n {first} -1", lambda x: x.reshape(x.shape[0], first, -1)),
        Call(f"flatten 1 2, {first}", lambda x: x.flatten(1).unflatten(1, (first, -1))),
        Call(f"size(0) {first} {second}", lambda x: x.contiguous().view(x.size(0), first, second, third)),
    ])  # fmt: skip


def cut(r: random.Random, shape: Shape) -> Step:
    axis = r.randint(1, len(shape) - 1)
    n = shape[axis]
    a, b = sorted((r.randint(0, n - 1), r.randint(1, n)))
    b, step = max(b, a + 1), r.choice([1, 1, 2])
    index = (slice(None),) * axis + (slice(a, b, step),)
    picked = [r.randint(0, n - 1) for _ in range(r.randint(1, 4))]
    parts = r.randint(1, max(1, min(3, n)))
    return r.choice([
        Call(f"[{a}:{b}:{step}] on axis {axis}", lambda x: x[index]),
        Call(f"narrow {axis} {a} {b - a}", lambda x: x.narrow(axis, a, b - a)),
        Call(f"chunk {parts} {axis}", lambda x: x.chunk(parts, axis)[-1]),
        Call(f"index_select {picked} {axis}", lambda x: torch.index_select(x, axis, torch.tensor(picked))),
        Call(f"split {parts} {axis}", lambda x: torch.split(x, parts, axis)[0]),
        Call(f"flip {axis}", lambda x: x.flip(axis)),
        Call(f"roll {a} {axis}", lambda x: torch.roll(x, a, axis)),
    ])  # fmt: skip


def axes(r: random.Random, shape: Shape) -> Step:
    axis = r.randint(1, len(shape))
    wide = [-1, *(n if n > 1 else r.randint(1, 3) for n in shape[1:])]
    times = [1, *(r.randint(1, 2) for _ in shape[1:])]
    return r.choice([
        Call(f"unsqueeze {axis}", lambda x: x.unsqueeze(axis)),
        Call("squeeze ones", lambda x: x.squeeze(-1) if x.ndim > 2 and x.shape[-1] == 1 else x),
        Call(f"expand {wide}", lambda x: x.expand(wide)),
        Call(f"repeat {times}", lambda x: x.repeat(times)),
    ])  # fmt: skip


def attention(r: random.Random, shape: Shape) -> Step:
    causal = r.random() < 0.3
    said = f"attention causal={causal}"
    return Call(said, lambda x: F.scaled_dot_product_attention(x, x * 0.5, x + 1, is_causal=causal))


def product(r: random.Random, shape: Shape) -> Step:
    return r.choice([
        Call("matmul own transpose", lambda x: x @ x.transpose(-1, -2) / x.shape[-1]),
        Call("einsum", lambda x: torch.einsum("n...ij,n...kj->n...ik", x, x) / x.shape[-1]),
    ])  # fmt: skip


def unfold(r: random.Random, shape: Shape) -> Step:
    return nn.Unfold(_some(r, 2, 1, 3), _some(r, 2, 1, 2), _some(r, 2, 0, 1), _some(r, 2, 1, 2))


LOWEST_RANK: dict[Maker, tuple[int, int]] = {
    conv: (3, 5), conv_transpose: (3, 5), pool: (3, 5), adaptive: (3, 5), norm: (3, 5), activation: (2, 5),
    prelu: (3, 5), linear: (2, 5), upsample: (3, 5), shuffle: (4, 4), pad: (3, 5), soft: (2, 5), function: (2, 5),
    reduce: (2, 5), permute: (3, 5), reshape: (2, 5), cut: (2, 5), axes: (2, 4), attention: (3, 4), product: (3, 4),
    unfold: (4, 4),
}  # fmt: skip
"""Every maker with the ranks that it takes, the batch counted."""
OFTEN = (conv, conv, conv, pool, norm, activation)


def same_but(a: Shape, b: Shape, axis: int) -> bool:
    """Whether two shapes are equal but for one axis."""
    return len(a) == len(b) and a[:axis] + a[axis + 1 :] == b[:axis] + b[axis + 1 :]


def gated(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """As squeeze-and-excite does."""
    return a * torch.sigmoid(b.mean(tuple(range(2, b.ndim)), keepdim=True) if b.ndim > 2 else b)


def joined(r: random.Random, shape: Shape, shapes: list[Shape]) -> tuple[Step, tuple[int, ...]] | None:
    """A step that reads the newest value (of this shape) and another one."""
    last = len(shapes) - 1
    same = [i for i, s in enumerate(shapes) if s == shape]
    axis = r.randint(1, len(shape) - 1)
    fits = [i for i, s in enumerate(shapes) if same_but(s, shape, axis)]
    other = r.choice(same)
    return r.choice([
        (Call("add", lambda a, b: a + b), (last, other)),
        (Call("sub alpha", lambda a, b: torch.sub(a, b, alpha=0.5)), (last, other)),
        (Call("mul", lambda a, b: a * torch.tanh(b)), (last, other)),
        (Call("maximum", torch.maximum), (last, other)),
        (Call("minimum", lambda a, b: torch.minimum(a, 0.5 * b)), (last, other)),
        (Call("div", lambda a, b: a / (b.abs() + 1)), (last, other)),
        (Call(f"cat {axis}", lambda a, b: torch.cat([b, a], axis)), (last, r.choice(fits))),
        (Call("stack", lambda a, b: torch.stack([a, b], 1).flatten(1, 2)), (last, other)),
        (Call("gate", gated), (last, other)),
    ])  # fmt: skip


def network(seed: int) -> Network:
    """The network of a seed, in float64 with weights that float32 holds, in evaluation mode."""
    r = random.Random(seed)
    torch.manual_seed(seed)
    rank = r.choice([3, 4, 4, 4, 4, 5])
    size = (r.randint(1, 9), *(r.randint(1, {3: 40, 4: 14, 5: 6}[rank]) for _ in range(rank - 2)))
    x = sample(size)
    values, steps, reads = [x], [], []
    wanted = r.randint(3, 12)
    for _ in range(20 * wanted):
        if len(steps) == wanted:
            break
        last = values[-1]
        shape = tuple(last.shape)
        try:
            if r.random() < 0.25:
                step, read = joined(r, shape, [tuple(v.shape) for v in values])
            else:
                maker = r.choice([*LOWEST_RANK, *OFTEN])
                low, high = LOWEST_RANK[maker]
                if not low <= len(shape) <= high:
                    continue
                step, read = maker(r, shape), (len(values) - 1,)
            made = step.double().eval()(*(values[i] for i in read))
        except (RuntimeError, ValueError, IndexError, TypeError):  # PyTorch refuses these numbers together
            continue
        fine = made.ndim >= 2 and made.shape[0] == BATCH and 0 < made[0].numel() <= MOST and made.ndim <= 5
        if fine and bool(made.isfinite().all()) and float(made.abs().max()) < 1e4:
            values.append(made.detach())
            steps.append(step)
            reads.append(read)
    return Network(size, steps, reads).double().eval()


def sample(size: Shape) -> torch.Tensor:
    """Numbers with few digits, in float64."""
    numbers = np.random.default_rng(5).integers(-24, 25, (BATCH, *size)) / 8 + 0.03125
    return torch.from_numpy(numbers)


def disagreement(module: Network, native: bool = True) -> str:
    """What dojang answers otherwise than PyTorch in float64, "" for nothing. Raises `DojangError` where it refuses.

    The reference in float64 may differ by rounding; compiled float32 by that of float32 sums plus what a change of the
    input in its last float32 digit does, up for some elements and down for others: a norm hides a common factor.
    """
    x = sample(module.size)
    with torch.no_grad():
        right = module(x).numpy()
        digits = torch.where(torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.5, -3e-7, 3e-7)
        moved = module(x * (1 + digits)).numpy()
    scale = max(0.1, float(np.abs(right).max()))
    sensitive = float(np.abs(moved - right).max())
    graph = from_module(module.float(), module.size)
    module.double()
    answers = [("the reference in float64", run_reference(graph, x.numpy(), np.float64).outputs[0], 1e-6 * scale)]
    if native:
        for precision in ("fast", "strict"):
            mine = compile(graph, threads=1, precision=precision)(x.numpy().astype(np.float32))
            answers.append((f"compiled ({precision})", mine, 1e-4 * scale))
    for who, mine, tolerance in answers:
        if mine.shape != right.shape:
            return f"{who} gives {mine.shape}, PyTorch {right.shape}"
        off = float(np.abs(mine - right).max())
        if not off <= tolerance + 10 * sensitive:
            return f"{who} differs by {off:.3g} where {tolerance + 10 * sensitive:.3g} is allowed"
    return ""


def shrunk(module: Network) -> Network:
    """The beginning of a failing network that ends at the first value that differs."""
    from dojang.base.errors import DojangError

    for count in range(1, len(module.reads) + 1):
        part = module.first(count).double().eval()
        try:
            if disagreement(part):
                return part
        except DojangError:
            continue
    return module
