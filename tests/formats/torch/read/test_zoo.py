"""Modules as people write them: reading one and making it again gives the same numbers and the same parameters."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from dojang.arith.cost import count  # noqa: E402
from dojang.engine.reference.operators import run_reference  # noqa: E402
from dojang.formats.torch import from_module, to_module  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def _seeded():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def conv_bn(i, o, k=3, s=1, groups=1, act=nn.ReLU):
    return nn.Sequential(nn.Conv2d(i, o, k, s, k // 2, groups=groups, bias=False), nn.BatchNorm2d(o), act())


class OptionA(nn.Module):
    """CIFAR ResNet with strided slices and zero-padded channels; in-place sums."""

    class Block(nn.Module):
        def __init__(self, i, o, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(i, o, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(o)
            self.conv2 = nn.Conv2d(o, o, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(o)
            self.shortcut = (lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, o // 4, o // 4))) if stride > 1 else None

        def forward(self, x):
            out = F.relu(self.bn1(self.conv1(x)))
            out = self.bn2(self.conv2(out))
            out += x if self.shortcut is None else self.shortcut(x)
            return F.relu(out)

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(self.Block(8, 8, 1), self.Block(8, 16, 2))
        self.linear = nn.Linear(16, 10)

    def forward(self, x):
        out = self.layer1(F.relu(self.bn1(self.conv1(x))))
        out = F.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))


class Dense(nn.Module):
    """DenseNet: lists of features, joined in the layers."""

    class Layer(nn.Module):
        def __init__(self, i):
            super().__init__()
            self.norm = nn.BatchNorm2d(i)
            self.conv = nn.Conv2d(i, 4, 3, padding=1, bias=False)

        def forward(self, features):
            x = [features] if isinstance(features, torch.Tensor) else features
            return self.conv(F.relu(self.norm(torch.cat(x, 1)), inplace=True))

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.layers = nn.ModuleList(self.Layer(8 + 4 * i) for i in range(3))
        self.head = nn.Linear(20, 5)

    def forward(self, x):
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(features))
        x = F.adaptive_avg_pool2d(torch.cat(features, 1), (1, 1))
        return self.head(torch.flatten(x, 1))


class SqueezeExcite(nn.Module):
    """SE: global mean, two dense layers, a product by broadcasting; x * sigmoid(x)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.down, self.up = nn.Linear(16, 4), nn.Linear(4, 16)

    def forward(self, x):
        x = self.conv(x)
        x = x * torch.sigmoid(x)
        b, c, _, _ = x.shape
        s = x.mean((2, 3)).view(b, c)
        s = torch.sigmoid(self.up(F.relu(self.down(s)))).view(b, c, 1, 1)
        return x * s.expand_as(x)


class Inverted(nn.Module):
    """MobileNetV2 and V3 blocks: depthwise layers, ReLU6, hard swish."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(
            conv_bn(3, 12, 1, act=nn.ReLU6),
            conv_bn(12, 12, 3, 1, 12, nn.Hardswish),
            nn.Conv2d(12, 3, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x):
        return x + self.block(x)


class Shuffle(nn.Module):
    """ShuffleNet: chunk, channel shuffle by view and transpose."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.branch = nn.Sequential(conv_bn(8, 8, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2d(8))

    def forward(self, x):
        x = self.stem(x)
        a, b = x.chunk(2, dim=1)
        out = torch.cat((a, self.branch(b)), dim=1)
        n, c, h, w = out.size()
        out = out.view(n, 2, c // 2, h, w)
        out = torch.transpose(out, 1, 2).contiguous()
        return out.view(n, -1, h, w)


class UNet(nn.Module):
    """Skip connections with crops and paddings of computed size; transposed convolutions."""

    def __init__(self):
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.out = nn.Conv2d(16, 2, 1)

    def forward(self, x):
        a = F.relu(self.down1(x))
        b = F.relu(self.down2(F.max_pool2d(a, 2)))
        u = self.up(b)
        dy, dx = a.size(2) - u.size(2), a.size(3) - u.size(3)
        padded = F.pad(u, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        cropped = a[:, :, 1:-1, 1:-1]
        joined = torch.cat([padded, a], dim=1)
        mask = self.out(joined)
        return mask, F.interpolate(cropped, scale_factor=2, mode="bilinear", align_corners=False)


class ViT(nn.Module):
    """Patches, class token, positions, nn.MultiheadAttention, LayerNorm, GELU."""

    class Block(nn.Module):
        def __init__(self, d):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d, bias=False)
            self.attn = nn.MultiheadAttention(d, 4, batch_first=True)
            self.mlp = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * d, d))

        def forward(self, x):
            y = self.norm1(x)
            x = x + self.attn(y, y, y, need_weights=False)[0]
            return x + self.mlp(self.norm2(x))

    def __init__(self, d=16):
        super().__init__()
        self.patch = nn.Conv2d(3, d, 8, 8)
        self.cls = nn.Parameter(torch.randn(1, 1, d))
        self.pos = nn.Parameter(torch.randn(1, 17, d))
        self.blocks = nn.ModuleList(self.Block(d) for _ in range(2))
        self.head = nn.Linear(d, 10)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls.expand(x.shape[0], -1, -1), x), dim=1)
        x = x + self.pos[:, : x.size(1)]
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0])


class QKV(nn.Module):
    """Attention by hand, by einsum, and by F.scaled_dot_product_attention with a causal mask."""

    def __init__(self, d=16, heads=4):
        super().__init__()
        self.heads, self.scale = heads, (d // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d)
        self.register_buffer("bias", torch.ones(12, 12).tril().view(1, 1, 12, 12))
        self.temperature = nn.Parameter(torch.tensor(0.7))

    def forward(self, x):
        B, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        attn = ((q * self.scale) @ k.transpose(-2, -1) + (1 - self.bias) * -1e4).softmax(dim=-1)
        x = (attn @ v).transpose(1, 2).reshape(B, N, C)
        y = torch.einsum("bhqd,bhkd->bhqk", q, k) / self.temperature
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(x), y, z.mean(1)


class Inception(nn.Module):
    """Branches, ceil pooling, local response normalisation, average pooling without counted padding."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 7, 2, 3), nn.ReLU(True), nn.MaxPool2d(3, 2, ceil_mode=True))
        self.norm = nn.LocalResponseNorm(5, 1e-3)
        self.b1, self.b2 = conv_bn(8, 4, 1), nn.Sequential(conv_bn(8, 4, 1), conv_bn(4, 6, (3)))
        self.b3 = nn.Sequential(nn.Conv2d(8, 4, (1, 5), padding=(0, 2)), nn.Conv2d(4, 4, (5, 1), padding="same"))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), nn.Conv2d(8, 4, 1))

    def forward(self, x):
        x = self.norm(self.stem(x))
        out = [self.b1(x), self.b2(x), self.b3(x), self.pool(x)]
        out = torch.cat(out, dim=1)
        return F.avg_pool2d(out, 3, 2, 1, ceil_mode=True, count_include_pad=False)


class Shared(nn.Module):
    """One layer used three times, one module under two names, a tied weight."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 6, 1)
        self.body = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.PReLU(6))
        self.again = self.body
        self.tied = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.tied.weight = self.body[0].weight

    def forward(self, x):
        x = self.head(x)
        for _ in range(2):
            x = x + self.body(x)
        return self.tied(self.again(x))


class Functional(nn.Module):
    """Weights of one's own, functional calls, loops and choices by shape, constants."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 3, 3, 3))
        self.gain = nn.Parameter(torch.ones(6, 1, 1))
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))

    def forward(self, x):
        x = (x - self.mean) / torch.tensor([0.2, 0.3, 0.4]).view(1, 3, 1, 1)
        x = F.conv2d(x, self.weight, stride=2, padding=1)
        while x.shape[-1] > 8:
            x = F.max_pool2d(x, 2)
        assert x.shape[1] == 6
        if x.ndim == 4 and len(x) > 0:
            x = x * self.gain + 1
        x = F.leaky_relu(2 - x / 3, 0.2).clamp(min=-1, max=2) ** 2
        x = torch.stack([x[:, 0], x[..., 1, :, :], x[:, -1]], dim=1)
        return F.normalize(x.reshape(len(x), -1), dim=1), x.std(dim=(1, 2)), x.amax((2, 3))


class TwoInputs(nn.Module):
    """Several inputs, a dictionary of outputs."""

    def __init__(self):
        super().__init__()
        self.conv, self.film, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(5, 8), nn.Linear(4, 2)

    def forward(self, image, condition, scale=1.0):
        scale_, shift = self.film(condition).split(4, dim=1)
        x = self.conv(image) * scale_[:, :, None, None] + shift.unsqueeze(-1).unsqueeze(-1)
        return {"features": x, "logits": self.fc(x.mean(dim=[-1, -2])) * scale}


class ConvNeXt(nn.Module):
    """permute + LayerNorm + Linear in the last axis, layer scale, stochastic depth that is off."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.dw = nn.Conv2d(8, 8, 7, padding=3, groups=8)
        self.norm, self.pw1, self.pw2 = nn.LayerNorm(8, eps=1e-6), nn.Linear(8, 32), nn.Linear(32, 8)
        self.gamma = nn.Parameter(torch.full((8,), 0.1))

    def forward(self, x):
        skip = x = self.stem(x)
        x = self.dw(x).permute(0, 2, 3, 1)
        x = self.gamma * self.pw2(F.gelu(self.pw1(self.norm(x)), approximate="tanh"))
        if self.training:
            x = x * torch.bernoulli(torch.full((x.shape[0], 1, 1, 1), 0.9))
        return skip + x.permute(0, 3, 1, 2)


class Norms(nn.Module):
    """Group, instance and RMS norm, batch norm without scale, a weight standardised in forward."""

    class StdConv(nn.Conv2d):
        def forward(self, x):
            w = self.weight
            w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
            return F.conv2d(x, w, self.bias, self.stride, self.padding)

    def __init__(self):
        super().__init__()
        self.conv = self.StdConv(3, 8, 3, padding=1)
        self.group, self.instance = nn.GroupNorm(4, 8), nn.InstanceNorm2d(8, affine=True)
        self.batch = nn.BatchNorm2d(8, affine=False)
        self.tracked = nn.InstanceNorm2d(8, track_running_stats=True)
        self.rms = nn.RMSNorm(32)

    def forward(self, x):
        x = self.tracked(self.batch(self.instance(self.group(self.conv(x)))))
        return self.rms(F.silu(x))


class Pixel(nn.Module):
    """Super-resolution: pixel shuffle, resizing in every mode, reflection padding, upsampling."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1, padding_mode="reflect")
        self.shuffle, self.up = nn.PixelShuffle(2), nn.Upsample(scale_factor=2, mode="nearest")
        self.pad = nn.ReflectionPad2d((1, 2, 0, 1))

    def forward(self, x):
        y = self.shuffle(self.conv(x))
        z = F.interpolate(x, size=y.shape[2:], mode="bicubic", align_corners=True)
        return self.pad(y + self.up(x)), z, F.pixel_unshuffle(y, 2), F.interpolate(x, (5, 7), mode="nearest-exact")


class Volume(nn.Module):
    """Three dimensions, dilation, groups, output padding."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(2, 4, 3, padding=2, dilation=2)
        self.pool, self.up = nn.AvgPool3d(2), nn.ConvTranspose3d(4, 4, 3, 2, 1, output_padding=1, groups=2)

    def forward(self, x):
        return self.up(self.pool(self.conv(x)))


class Audio(nn.Module):
    """One dimension: gated causal convolutions, GLU, softplus and friends."""

    def __init__(self):
        super().__init__()
        self.conv, self.mix = nn.Conv1d(2, 8, 3, dilation=2), nn.Conv1d(4, 8, 1)
        self.acts = nn.ModuleList([nn.ELU(0.5), nn.Softplus(2), nn.Mish(), nn.SELU(), nn.CELU(2.0), nn.Tanhshrink(),
                                   nn.Softsign(), nn.LogSigmoid(), nn.Hardtanh(-2, 1), nn.GLU(1)])  # fmt: skip

    def forward(self, x):
        x = self.mix(F.glu(self.conv(F.pad(x, (4, 0))), dim=1))
        for act in self.acts:
            x = act(x)
        return F.log_softmax(x, dim=1), nn.functional.adaptive_max_pool1d(x, 3), x.flip(-1)


class Cross(nn.Module):
    """Attention over another sequence, sequence first; a transformer encoder layer."""

    def __init__(self):
        super().__init__()
        self.cross = nn.MultiheadAttention(8, 2)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)

    def forward(self, query, memory):
        q, m = query.transpose(0, 1), memory.transpose(0, 1)
        mask = torch.triu(torch.full((q.size(0), m.size(0)), float("-inf")), 1)
        out, weights = self.cross(q, m, m, attn_mask=mask)
        return self.layer(out.transpose(0, 1)), weights


class Swin(nn.Module):
    """Windows by view and permute, roll, a table of relative positions picked by a buffer of indices."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.table = nn.Parameter(torch.randn(49, 2))
        axis = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")).flatten(1)
        apart = (axis[:, :, None] - axis[:, None, :]).permute(1, 2, 0) + 3
        self.register_buffer("index", apart[..., 0] * 7 + apart[..., 1])

    def forward(self, x):
        B, H, W, C = x.shape
        x = torch.roll(x, shifts=(-2, -2), dims=(1, 2))
        x = x.view(B, H // 4, 4, W // 4, 4, C).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, C)
        n = x.shape[0]
        q, k, v = self.qkv(x).reshape(n, 16, 3, 2, C // 2).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.view(-1)].view(16, 16, -1).permute(2, 0, 1).contiguous()
        attn = F.softmax(q @ k.transpose(-2, -1) * (C // 2) ** -0.5 + bias.unsqueeze(0), dim=-1)
        x = (attn @ v).transpose(1, 2).reshape(n, 16, C)
        return x.view(B, H // 4, W // 4, 4, 4, C).permute(0, 1, 3, 2, 4, 5).reshape(B, H, W, C)


class InPlace(nn.Module):
    """Assignment into a slice: only a functional form of this can be read."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        y = self.conv(x)
        y[:, 1:3] = y[:, 1:3] * 2
        y[:, 0].add_(1)
        return y.relu_()


class Normed(nn.Module):
    """weight_norm as a parametrisation."""

    def __init__(self):
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
        self.fc = nn.utils.parametrizations.spectral_norm(nn.Linear(5, 6))

    def forward(self, x):
        return self.fc(self.conv(x).mean(2)[..., :5])


class Zeros(nn.Module):
    """Constants of the batch's size made in forward, repeated tokens, joined twice."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(4, 6))
        self.fc = nn.Linear(6, 6)

    def forward(self, x):
        zeros = torch.zeros(x.size(0), 2, 6, device=x.device, dtype=x.dtype)
        tokens = self.tokens.unsqueeze(0).repeat(x.size(0), 1, 1)
        x = torch.cat([x, x, zeros, tokens, x.new_ones(x.size(0), 1, 6)], dim=1)
        return self.fc(x) - torch.zeros_like(x[:, :1]) + torch.arange(6).float()


IMAGE = (3, 32, 32)
ZOO = [
    (OptionA, [IMAGE]),
    (Dense, [IMAGE]),
    (SqueezeExcite, [IMAGE]),
    (Inverted, [IMAGE]),
    (Shuffle, [IMAGE]),
    (UNet, [(3, 30, 34)]),
    (ViT, [IMAGE]),
    (QKV, [(12, 16)]),
    (Inception, [(3, 33, 33)]),
    (Shared, [IMAGE]),
    (Functional, [IMAGE]),
    (TwoInputs, [IMAGE, (5,)]),
    (ConvNeXt, [IMAGE]),
    (Norms, [IMAGE]),
    (Pixel, [(3, 9, 10)]),
    (Volume, [(2, 8, 8, 8)]),
    (Audio, [(2, 20)]),
    (Cross, [(5, 8), (7, 8)]),
    (Swin, [(8, 8, 8)]),
    (InPlace, [IMAGE]),
    (Normed, [(3, 9, 9)]),
    (Zeros, [(3, 6)]),
]
REPARAMETRISED = {"Normed"}
"""The layer's own weight stands for the numbers it is made of."""


def flat(result):
    if isinstance(result, torch.Tensor):
        return [result]
    return [t for r in (result.values() if isinstance(result, dict) else result) for t in flat(r)]


def lively(module):
    """Batch norms with statistics and scales that show when they are mixed up."""
    for m in module.modules():
        for name in ("running_mean", "running_var", "weight", "bias"):
            value = getattr(m, name, None)
            if "Norm" in type(m).__name__ and isinstance(value, torch.Tensor):
                with torch.no_grad():
                    value.uniform_(0.5, 1.5)
    return module


@pytest.mark.parametrize(("kind", "sizes"), ZOO, ids=[k.__name__ for k, _ in ZOO])
def test_read_and_made_again_computes_the_same(kind, sizes):
    module = lively(kind())
    graph = from_module(module, sizes)
    assert all(node.op != "unknown" for node in graph.nodes)
    total = count(graph).total
    assert total.status == "exact"
    if kind.__name__ not in REPARAMETRISED:
        assert total.params == sum(p.numel() for p in module.parameters())
        assert set(graph.param_shapes) <= set(module.state_dict()) | {
            k for k in graph.param_shapes if k.endswith(".value") or (kind is Norms and k == "conv.weight")
        }
    module.eval()
    made = to_module(graph).eval()
    assert set(made.state_dict()) == set(graph.param_shapes)
    for batch in (1, 3):
        inputs = [torch.randn(batch, *s) for s in sizes]
        with torch.no_grad():
            wanted, got = flat(module(*inputs)), flat(made(*inputs))
        assert len(wanted) == len(got) == len(graph.outputs)
        for w, g in zip(wanted, got, strict=True):
            assert w.shape == g.shape
            torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-5)


@pytest.fixture
def unfused():
    """PyTorch computes attention by its single products."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with sdpa_kernel(SDPBackend.MATH):
        yield
    torch.backends.mha.set_fastpath_enabled(before)


def flops(kind, sizes):
    """What PyTorch's own counter says of one sample; 2 FLOPs are a MAC."""
    module = kind().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*(torch.randn(1, *s) for s in sizes))
    return counter.get_total_flops()


@pytest.mark.parametrize(("kind", "sizes"), ZOO, ids=[k.__name__ for k, _ in ZOO])
def test_macs_are_those_of_pytorchs_counter(kind, sizes, unfused):
    assert 2 * count(from_module(kind(), sizes, weights=False)).total.macs == flops(kind, sizes)


@pytest.mark.parametrize(("kind", "sizes"), [(k, s) for k, s in ZOO if k in (ViT, QKV, Cross)])
def test_pytorchs_counter_misses_fused_attention(kind, sizes):
    """The known defect behind other numbers: products within a fused kernel of the CPU are not counted."""
    assert flops(kind, sizes) < 2 * count(from_module(kind(), sizes, weights=False)).total.macs


@pytest.mark.parametrize(("kind", "sizes"), ZOO, ids=[k.__name__ for k, _ in ZOO])
def test_reference_agrees(kind, sizes):
    """The Graph means the same without PyTorch."""
    module = lively(kind()).eval()
    graph = from_module(module, sizes)
    inputs = [torch.randn(2, *s) for s in sizes]
    with torch.no_grad():
        wanted = flat(module(*inputs))
    fed = {node.name: x.double().numpy() for node, x in zip(graph.inputs, inputs, strict=True)}
    got = run_reference(graph, fed).outputs
    for w, g in zip(wanted, got, strict=True):
        torch.testing.assert_close(torch.from_numpy(g).float(), w, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(("kind", "sizes"), ZOO, ids=[k.__name__ for k, _ in ZOO])
def test_graph_module_graph_is_the_same_graph(kind, sizes):
    graph = from_module(lively(kind()), sizes)
    again = from_module(to_module(graph), sizes)
    assert again.nodes == graph.nodes
    assert again.outputs == graph.outputs
    assert again.meta == graph.meta
    assert {k: v.tolist() for k, v in again.weights.items()} == {k: v.tolist() for k, v in graph.weights.items()}


@pytest.mark.parametrize(("kind", "sizes"), ZOO, ids=[k.__name__ for k, _ in ZOO])
def test_the_module_is_left_as_it_was_and_meta_counts_the_same(kind, sizes):
    module = lively(kind()).train()
    frozen = next((m for m in module.modules() if isinstance(m, nn.BatchNorm2d)), None)
    if frozen is not None:
        frozen.eval()
    flags = [m.training for m in module.modules()]
    before = {k: v.clone() for k, v in module.state_dict().items()}
    graph = from_module(module, sizes)
    assert flags == [m.training for m in module.modules()]
    after = module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert nn.Module.__call__.__name__ == "_wrapped_call_impl"
    if kind not in (Shared, Swin, Normed):  # moving unties a weight; the others pick or compute by values they hold
        hollow = from_module(kind().to("meta"), sizes)
        assert count(hollow).total == count(graph).total
        assert not hollow.weights


def test_names_are_those_of_the_modules():
    graph = from_module(OptionA(), IMAGE)
    assert [n.name for n in graph.nodes][:6] == ["x", "conv1", "bn1", "relu", "layer1.0.conv1", "layer1.0.bn1"]
    assert graph["layer1.1.conv2"].array("weight") == "layer1.1.conv2.weight"
    assert graph["linear"].op == "dense"
    assert math.prod(graph.unit_shapes["layer1.1.pad"]) == 16 * 16 * 16


def test_shared_layers_have_their_parameters_once_and_their_macs_each_time():
    graph = from_module(Shared(), IMAGE)
    users = [n.name for n in graph.nodes if n.op == "conv" and n.array("weight") == "body.0.weight"]
    assert users == ["body.0", "body.0_1", "body.0_2", "tied"]
    total = count(graph).total
    assert total.macs == 32 * 32 * (3 * 6 + 4 * 9 * 36)
    assert total.params == sum(p.numel() for p in Shared().parameters())
