"""Architectures of the literature that no package of the sweep has, written as people write them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F


def lenet() -> nn.Module:
    """LeNet-5 with padding 2 (LeCun et al. 1998)."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10),
    )  # fmt: skip


def zfnet() -> nn.Module:
    """Zeiler and Fergus 2014, with response normalisation."""
    return nn.Sequential(
        nn.Conv2d(3, 96, 7, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.LocalResponseNorm(5), nn.Conv2d(96, 256, 5, 2),
        nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.LocalResponseNorm(5), nn.Conv2d(256, 384, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2), nn.AdaptiveAvgPool2d(6), nn.Flatten(),
        nn.Dropout(), nn.Linear(9216, 1024), nn.ReLU(), nn.Linear(1024, 10),
    )  # fmt: skip


def nin() -> nn.Module:
    """Network in network (Lin et al. 2013)."""

    def block(ic: int, oc: int, kernel: int, pad: int) -> list[nn.Module]:
        return [nn.Conv2d(ic, oc, kernel, padding=pad), nn.ReLU(True), nn.Conv2d(oc, oc, 1), nn.ReLU(True)]

    return nn.Sequential(
        *block(3, 192, 5, 2), nn.MaxPool2d(3, 2, 1), nn.Dropout(), *block(192, 192, 5, 2), nn.AvgPool2d(3, 2, 1),
        nn.Dropout(), *block(192, 10, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Softmax(dim=1),
    )  # fmt: skip


class SRCNN(nn.Module):
    """Super-resolution of an enlarged picture (Dong et al. 2014)."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 64, 9, padding=4)
        self.map = nn.Conv2d(64, 32, 1)
        self.out = nn.Conv2d(32, 3, 5, padding=2)

    def forward(self, x):
        x = F.interpolate(x, scale_factor=3, mode="bicubic", align_corners=False)
        return self.out(F.relu(self.map(F.relu(self.patch(x))))).clamp(0, 1)


def espcn() -> nn.Module:
    """Sub-pixel super-resolution (Shi et al. 2016)."""
    return nn.Sequential(
        nn.Conv2d(1, 64, 5, padding=2), nn.Tanh(), nn.Conv2d(64, 32, 3, padding=1), nn.Tanh(),
        nn.Conv2d(32, 9, 3, padding=1), nn.PixelShuffle(3), nn.Sigmoid(),
    )  # fmt: skip


class FSRCNN(nn.Module):
    """Super-resolution with PReLU and a transposed convolution (Dong et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        mid = [m for _ in range(4) for m in (nn.Conv2d(12, 12, 3, padding=1), nn.PReLU(12))]
        self.body = nn.Sequential(
            nn.Conv2d(1, 56, 5, padding=2), nn.PReLU(56), nn.Conv2d(56, 12, 1), nn.PReLU(12), *mid,
            nn.Conv2d(12, 56, 1), nn.PReLU(56),
        )  # fmt: skip
        self.up = nn.ConvTranspose2d(56, 1, 9, stride=2, padding=4, output_padding=1)

    def forward(self, x):
        return self.up(self.body(x))


class DnCNN(nn.Module):
    """Denoising by the residual (Zhang et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        mid = [
            m for _ in range(6) for m in (nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        ]
        self.layers = nn.Sequential(nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), *mid, nn.Conv2d(64, 1, 3, padding=1))

    def forward(self, x):
        return x - self.layers(x)


class EDSR(nn.Module):
    """Residual blocks without normalisation, pixel shuffle, a fixed mean (Lim et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.45, 0.44, 0.4]).view(1, 3, 1, 1))
        self.head = nn.Conv2d(3, 64, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(True), nn.Conv2d(64, 64, 3, padding=1))
            for _ in range(4)
        )
        self.tail = nn.Sequential(nn.Conv2d(64, 256, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(64, 3, 3, padding=1))

    def forward(self, x):
        x = first = self.head(x - self.mean)
        for block in self.blocks:
            x = x + block(x).mul(0.1)
        return self.tail(x + first) + self.mean


class RRDB(nn.Module):
    """Dense blocks inside residual blocks (ESRGAN, Wang et al. 2018)."""

    def __init__(self, width: int = 32, grow: int = 16) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, 1, 1)
        self.dense = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(width + i * grow, width if i == 4 else grow, 3, 1, 1) for i in range(5))
            for _ in range(3)
        )
        self.tail = nn.Conv2d(width, 3, 3, 1, 1)

    def forward(self, x):
        x = self.head(x)
        for block in self.dense:
            seen = [x]
            for conv in block[:-1]:
                seen.append(F.leaky_relu(conv(torch.cat(seen, 1)), 0.2, inplace=True))
            x = x + 0.2 * block[-1](torch.cat(seen, 1))
        return self.tail(F.interpolate(x, scale_factor=2, mode="nearest"))


class UNet(nn.Module):
    """U-Net with transposed convolutions and cropped skips (Ronneberger et al. 2015)."""

    def __init__(self, widths=(16, 32, 64, 128)) -> None:
        super().__init__()
        self.down = nn.ModuleList(self.pair(a, b) for a, b in zip((1, *widths), widths, strict=False))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in zip(widths[-2::-1], widths[:0:-1], strict=True)
        )
        self.join = nn.ModuleList(self.pair(2 * a, a) for a in widths[-2::-1])
        self.head = nn.Conv2d(widths[0], 2, 1)

    @staticmethod
    def pair(ic: int, oc: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(ic, oc, 3), nn.ReLU(True), nn.Conv2d(oc, oc, 3), nn.ReLU(True))

    def forward(self, x):
        skips = []
        for i, block in enumerate(self.down):
            x = block(x)
            if i < len(self.down) - 1:
                skips.append(x)
                x = F.max_pool2d(x, 2)
        for up, join in zip(self.up, self.join, strict=True):
            x, skip = up(x), skips.pop()
            dy, dx = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
            skip = skip[:, :, dy // 2 : dy // 2 + x.shape[2], dx // 2 : dx // 2 + x.shape[3]]
            x = join(torch.cat([skip, x], 1))
        return self.head(x)


class SegNet(nn.Module):
    """Pooling with indices, and their way back (Badrinarayanan et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.c, self.d = nn.Conv2d(32, 16, 3, padding=1), nn.Conv2d(16, 5, 3, padding=1)

    def forward(self, x):
        x, first = F.max_pool2d(F.relu(self.a(x)), 2, return_indices=True)
        x, second = F.max_pool2d(F.relu(self.b(x)), 2, return_indices=True)
        x = F.relu(self.c(F.max_unpool2d(x, second, 2)))
        return self.d(F.max_unpool2d(x, first, 2))


class Generator(nn.Module):
    """CycleGAN's generator: reflection, instance norm, transposed convolutions (Zhu et al. 2017)."""

    def __init__(self, width: int = 16, blocks: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7), nn.InstanceNorm2d(width), nn.ReLU()]
        for i in (1, 2):
            layers += [nn.Conv2d(width * i, width * 2 * i, 3, 2, 1), nn.InstanceNorm2d(width * 2 * i), nn.ReLU(True)]
        self.front = nn.Sequential(*layers)
        one = lambda: [nn.ReflectionPad2d(1), nn.Conv2d(4 * width, 4 * width, 3), nn.InstanceNorm2d(4 * width)]  # noqa: E731
        self.blocks = nn.ModuleList(nn.Sequential(*one(), nn.ReLU(True), *one()) for _ in range(blocks))
        self.back = nn.Sequential(
            nn.ConvTranspose2d(4 * width, 2 * width, 3, 2, 1, 1), nn.InstanceNorm2d(2 * width), nn.ReLU(True),
            nn.ConvTranspose2d(2 * width, width, 3, 2, 1, 1), nn.InstanceNorm2d(width), nn.ReLU(True),
            nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh(),
        )  # fmt: skip

    def forward(self, x):
        x = self.front(x)
        for block in self.blocks:
            x = x + block(x)
        return self.back(x)


def patchgan() -> nn.Module:
    """pix2pix's discriminator (Isola et al. 2017), with spectral norm."""
    norm = nn.utils.parametrizations.spectral_norm
    return nn.Sequential(
        norm(nn.Conv2d(3, 32, 4, 2, 1)), nn.LeakyReLU(0.2, True), norm(nn.Conv2d(32, 64, 4, 2, 1)),
        nn.LeakyReLU(0.2, True), norm(nn.Conv2d(64, 128, 4, 1, 1)), nn.LeakyReLU(0.2, True), nn.Conv2d(128, 1, 4, 1, 1),
    )  # fmt: skip


class DCGAN(nn.Module):
    """The generator (Radford et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.ConvTranspose2d(100, 128, 4, 1, 0, bias=False), nn.BatchNorm2d(128), nn.ReLU(True),
            nn.ConvTranspose2d(128, 64, 4, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(True),
            nn.ConvTranspose2d(64, 3, 4, 2, 1, bias=False), nn.Tanh(),
        )  # fmt: skip

    def forward(self, z):
        return self.net(z[:, :, None, None])


class Style(nn.Module):
    """Modulated and demodulated convolutions (StyleGAN2, Karras et al. 2020), one weight per picture."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 16, 8, 3, 3))
        self.style = nn.Linear(32, 8)

    def forward(self, x, w):
        n, c, h, width = x.shape
        weight = self.weight * self.style(w).view(n, 1, c, 1, 1)
        weight = weight * torch.rsqrt(weight.pow(2).sum([2, 3, 4]) + 1e-8).view(n, 16, 1, 1, 1)
        out = F.conv2d(x.reshape(1, n * c, h, width), weight.view(n * 16, c, 3, 3), padding=1, groups=n)
        return out.view(n, 16, h, width)


@dataclass
class Reconstruction:
    """What a variational autoencoder gives."""

    picture: torch.Tensor
    mean: torch.Tensor
    log_variance: torch.Tensor


class VAE(nn.Module):
    """At inference the mean is decoded (Kingma and Welling 2013); gives a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
        self.mean, self.variance = nn.Linear(32 * 49, 8), nn.Linear(32 * 49, 8)
        self.back = nn.Linear(8, 32 * 49)
        self.decode = nn.Sequential(
            nn.ConvTranspose2d(32, 16, 3, 2, 1, 1), nn.ReLU(), nn.ConvTranspose2d(16, 1, 3, 2, 1, 1), nn.Sigmoid()
        )

    def forward(self, x):
        h = self.encode(x).flatten(1)
        mean, log_variance = self.mean(h), self.variance(h)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp() if self.training else mean
        return Reconstruction(self.decode(F.relu(self.back(z)).view(-1, 32, 7, 7)), mean, log_variance)


class CRNN(nn.Module):
    """Text recognition: convolutions, then a bidirectional LSTM (Shi et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 32, 3, 1, 1), nn.ReLU(True), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, 1, 1), nn.BatchNorm2d(64),
            nn.ReLU(True), nn.MaxPool2d((2, 2), (2, 1), (0, 1)), nn.Conv2d(64, 64, (8, 1)), nn.ReLU(True),
        )  # fmt: skip
        self.rnn = nn.LSTM(64, 32, bidirectional=True)
        self.out = nn.Linear(64, 37)

    def forward(self, x):
        x = self.cnn(x).squeeze(2).permute(2, 0, 1)
        return F.log_softmax(self.out(self.rnn(x)[0]), dim=2)


class TextCNN(nn.Module):
    """Convolutions over embedded words (Kim 2014); words come as numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(50, 20, k) for k in (3, 4, 5))
        self.out = nn.Linear(60, 2)

    def forward(self, x):
        return self.out(torch.cat([F.relu(c(x)).max(dim=2).values for c in self.convs], 1))


class TCN(nn.Module):
    """Dilated causal convolutions with weight norm (Bai et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.convs = nn.ModuleList(norm(nn.Conv1d(16, 16, 3, dilation=2**i, padding=2 * 2**i)) for i in range(4))

    def forward(self, x):
        for i, conv in enumerate(self.convs):
            x = F.relu(conv(x)[..., : -2 * 2**i] + x)
        return x[:, :, -1]


class WaveNet(nn.Module):
    """Gated dilated convolutions with skips (van den Oord et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Conv1d(1, 16, 1)
        self.gates = nn.ModuleList(nn.Conv1d(16, 32, 2, dilation=2**i) for i in range(5))
        self.skips = nn.ModuleList(nn.Conv1d(16, 16, 1) for _ in range(5))
        self.out = nn.Conv1d(16, 256, 1)

    def forward(self, x):
        x, total = self.front(x), None
        for i, (gate, skip) in enumerate(zip(self.gates, self.skips, strict=True)):
            a, b = gate(F.pad(x, (2**i, 0))).chunk(2, dim=1)
            z = torch.tanh(a) * torch.sigmoid(b)
            x = x + z
            total = skip(z) if total is None else total + skip(z)
        return self.out(F.relu(total))


class C3D(nn.Module):
    """3-d convolutions over video (Tran et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv3d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool3d((1, 2, 2)), nn.Conv3d(16, 32, 3, padding=1),
            nn.ReLU(), nn.MaxPool3d(2), nn.Flatten(), nn.LazyLinear(64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip
        self.net(torch.zeros(1, 3, 8, 32, 32))

    def forward(self, x):
        return self.net(x)


class PointNet(nn.Module):
    """Points through 1×1 convolutions, with a learned transform (Qi et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.stn = nn.Sequential(nn.Conv1d(3, 32, 1), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 64, 1))
        self.fc = nn.Linear(64, 9)
        self.feature = nn.Sequential(nn.Conv1d(3, 64, 1), nn.BatchNorm1d(64), nn.ReLU(), nn.Conv1d(64, 128, 1))
        self.out = nn.Linear(128, 10)

    def forward(self, x):
        n = x.size(0)
        t = self.fc(torch.max(self.stn(x), 2, keepdim=True)[0].view(-1, 64))
        t = t + torch.eye(3).flatten().view(1, 9).repeat(n, 1).to(x)
        x = torch.bmm(x.transpose(2, 1), t.view(-1, 3, 3)).transpose(2, 1)
        return self.out(torch.max(self.feature(x), 2)[0])


class CapsNet(nn.Module):
    """Capsules with routing by agreement (Sabour et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 32, 9)
        self.primary = nn.Conv2d(32, 32, 9, 2)
        self.weight = nn.Parameter(torch.randn(1, 144, 10, 16, 8) * 0.1)

    @staticmethod
    def squash(x, dim=-1):
        size = (x**2).sum(dim, keepdim=True)
        return size / (1 + size) * x / (size.sqrt() + 1e-8)

    def forward(self, x):
        u = self.primary(F.relu(self.conv(x)))
        u = self.squash(u.view(x.size(0), 4, 8, -1).transpose(2, 3).reshape(x.size(0), -1, 8))
        hat = (self.weight @ u[:, :, None, :, None]).squeeze(-1)
        b = torch.zeros(x.size(0), hat.size(1), 10, 1, device=x.device)
        for _ in range(3):
            v = self.squash((F.softmax(b, dim=2) * hat).sum(1))
            b = b + (hat * v.unsqueeze(1)).sum(-1, keepdim=True)
        return v.norm(dim=-1)


class SSD(nn.Module):
    """A small single-shot detector (Liu et al. 2016): heads of several sizes, permuted, flattened and joined."""

    def __init__(self) -> None:
        super().__init__()
        steps = ((3, 16), (16, 32), (32, 64), (64, 64))
        self.stages = nn.ModuleList(nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.ReLU()) for a, b in steps)
        self.boxes = nn.ModuleList(nn.Conv2d(b, 4 * 6, 3, padding=1) for _, b in steps[1:])
        self.classes = nn.ModuleList(nn.Conv2d(b, 21 * 6, 3, padding=1) for _, b in steps[1:])

    def forward(self, x):
        boxes, classes = [], []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i:
                boxes.append(self.boxes[i - 1](x).permute(0, 2, 3, 1).reshape(x.size(0), -1, 4))
                classes.append(self.classes[i - 1](x).permute(0, 2, 3, 1).reshape(x.size(0), -1, 21))
        return {"boxes": torch.cat(boxes, 1), "scores": F.softmax(torch.cat(classes, 1), -1)}


class YOLOv1(nn.Module):
    """A grid of boxes, decoded with an offset that depends on shapes only (Redmon et al. 2016, v2's decoding)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.LeakyReLU(0.1), nn.Conv2d(16, 32, 3, 2, 1),
            nn.BatchNorm2d(32), nn.LeakyReLU(0.1), nn.Conv2d(32, 5 * 25, 1),
        )  # fmt: skip
        self.register_buffer("anchors", torch.rand(5, 2) + 0.5)

    def forward(self, x):
        y = self.body(x)
        n, _, h, w = y.shape
        y = y.view(n, 5, 25, h, w).permute(0, 1, 3, 4, 2)
        gy, gx = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        grid = torch.stack((gx, gy), -1).type_as(y)
        centre = (y[..., :2].sigmoid() + grid) * (x.shape[2] / h)
        size = y[..., 2:4].exp() * self.anchors.view(1, 5, 1, 1, 2)
        return torch.cat((centre, size, y[..., 4:].sigmoid()), -1).view(n, -1, 25)


class CenterNet(nn.Module):
    """Heat maps, their peaks by pooling, and a top-k (Zhou et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU())
        self.heat, self.size = nn.Conv2d(32, 4, 1), nn.Conv2d(32, 2, 1)

    def forward(self, x):
        x = self.body(x)
        heat = self.heat(x).sigmoid()
        peaks = heat * (F.max_pool2d(heat, 3, 1, 1) == heat).float()
        scores, places = peaks.flatten(1).topk(10)
        return scores, places, self.size(x)


class STN(nn.Module):
    """A spatial transformer in front of a classifier (Jaderberg et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.where = nn.Sequential(nn.Conv2d(1, 8, 7), nn.MaxPool2d(2, 2), nn.ReLU(True), nn.Flatten())
        self.theta = nn.Linear(8 * 11 * 11, 6)
        self.body = nn.Sequential(nn.Conv2d(1, 10, 5), nn.ReLU(), nn.AdaptiveMaxPool2d(4), nn.Flatten(),
                                  nn.Linear(160, 10))  # fmt: skip

    def forward(self, x):
        theta = self.theta(self.where(x)).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(x.size()), align_corners=False)
        return self.body(F.grid_sample(x, grid, align_corners=False))


class SelfAttention(nn.Module):
    """Attention over pixels (SAGAN, Zhang et al. 2018), and a non-local block."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Conv2d(3, 32, 3, 2, 1)
        self.q, self.k, self.v = nn.Conv2d(32, 4, 1), nn.Conv2d(32, 4, 1), nn.Conv2d(32, 32, 1)
        self.gamma = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, x):
        x = self.front(x)
        n, c, h, w = x.size()
        energy = torch.bmm(self.q(x).view(n, -1, h * w).permute(0, 2, 1), self.k(x).view(n, -1, h * w))
        out = torch.bmm(self.v(x).view(n, -1, h * w), energy.softmax(-1).permute(0, 2, 1)).view(n, c, h, w)
        return self.gamma * out + x


class DETR(nn.Module):
    """A small detector with PyTorch's own transformer and learned queries (Carion et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 32, 7, 4, 3), nn.ReLU(), nn.Conv2d(32, 32, 3, 4, 1))
        self.transformer = nn.Transformer(32, 4, 1, 1, 64)
        self.row, self.column = nn.Parameter(torch.rand(50, 16)), nn.Parameter(torch.rand(50, 16))
        self.queries = nn.Parameter(torch.rand(10, 32))
        self.classes, self.boxes = nn.Linear(32, 5), nn.Linear(32, 4)

    def forward(self, x):
        h = self.body(x)
        height, width = h.shape[-2:]
        columns = self.column[:width].unsqueeze(0).repeat(height, 1, 1)
        rows = self.row[:height].unsqueeze(1).repeat(1, width, 1)
        place = torch.cat([columns, rows], -1).flatten(0, 1).unsqueeze(1)
        h = self.transformer(place + 0.1 * h.flatten(2).permute(2, 0, 1),
                             self.queries.unsqueeze(1).repeat(1, x.shape[0], 1)).transpose(0, 1)  # fmt: skip
        return {"logits": self.classes(h), "boxes": self.boxes(h).sigmoid()}


class Diffusion(nn.Module):
    """A denoising U-Net's block with sinusoidal time embedding (Ho et al. 2020); two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 32))
        self.front, self.norm = nn.Conv2d(3, 32, 3, padding=1), nn.GroupNorm(8, 32)
        self.conv, self.out = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 3, 3, padding=1)

    def forward(self, x, t):
        half = 16
        rate = torch.exp(-torch.arange(half, dtype=torch.float32) * (9.21 / half))
        angle = t[:, :1] * rate[None]
        emb = self.time(torch.cat([angle.sin(), angle.cos()], dim=-1))
        h = self.front(x)
        return self.out(self.conv(F.silu(self.norm(h))) + emb[:, :, None, None] + h)


class Pair(NamedTuple):
    """What a Siamese network gives."""

    distance: torch.Tensor
    features: tuple[torch.Tensor, torch.Tensor]


class Siamese(nn.Module):
    """One body for two pictures (Bromley et al. 1993); gives a named tuple with a tuple in it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.LazyLinear(16))
        self.body(torch.zeros(1, 1, 28, 28))

    def forward(self, a, b):
        a, b = F.normalize(self.body(a)), F.normalize(self.body(b))
        return Pair((a - b).abs().sum(1), (a, b))


class Loader(nn.Module):
    """Several inputs as a dictionary, as multi-task code has them."""

    def __init__(self) -> None:
        super().__init__()
        self.picture, self.depth = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(1, 8, 3, padding=1)
        self.head = nn.ModuleDict({"a": nn.Conv2d(8, 2, 1), "b": nn.Conv2d(8, 3, 1)})

    def forward(self, picture, depth):
        x = F.relu(self.picture(picture) + self.depth(depth))
        return {name: head(x) for name, head in self.head.items()}


class GCN(nn.Module):
    """Convolution over a fixed skeleton (ST-GCN, Yan et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("A", torch.softmax(torch.randn(3, 18, 18), -1))
        self.edge = nn.Parameter(torch.ones(3, 18, 18))
        self.conv, self.time = nn.Conv2d(3, 16 * 3, 1), nn.Conv2d(16, 16, (9, 1), padding=(4, 0))

    def forward(self, x):
        y = self.conv(x)
        n, kc, t, v = y.size()
        y = torch.einsum("nkctv,kvw->nctw", y.view(n, 3, kc // 3, t, v), self.A * self.edge)
        return F.adaptive_avg_pool2d(F.relu(self.time(y.contiguous())), 1).flatten(1)


class Involution(nn.Module):
    """Kernels made from the picture (Li et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Conv2d(3, 16, 3, 2, 1)
        self.reduce, self.span = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 9 * 4, 1)
        self.unfold = nn.Unfold(3, padding=1)

    def forward(self, x):
        x = self.front(x)
        n, c, h, w = x.shape
        kernel = self.span(F.relu(self.reduce(x))).view(n, 4, 1, 9, h, w)
        return (kernel * self.unfold(x).view(n, 4, c // 4, 9, h, w)).sum(dim=3).view(n, c, h, w)


class Fourier(nn.Module):
    """Global filters by the Fourier transform (GFNet, Rao et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.front, self.out = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 10)
        self.weight = nn.Parameter(torch.randn(16, 8, 5, 2) * 0.1)

    def forward(self, x):
        x = self.front(x)
        y = torch.fft.irfft2(torch.fft.rfft2(x, norm="ortho") * torch.view_as_complex(self.weight), s=x.shape[-2:],
                             norm="ortho")  # fmt: skip
        return self.out((x + y).mean((2, 3)))


ALL: dict[str, tuple[Any, tuple[tuple[int, ...], ...]]] = {
    "lenet": (lenet, ((1, 28, 28),)),
    "zfnet": (zfnet, ((3, 128, 128),)),
    "nin": (nin, ((3, 32, 32),)),
    "srcnn": (SRCNN, ((3, 16, 16),)),
    "espcn": (espcn, ((1, 32, 32),)),
    "fsrcnn": (FSRCNN, ((1, 32, 32),)),
    "dncnn": (DnCNN, ((1, 40, 40),)),
    "edsr": (EDSR, ((3, 24, 24),)),
    "rrdb": (RRDB, ((3, 24, 24),)),
    "unet": (UNet, ((1, 124, 124),)),
    "segnet": (SegNet, ((3, 32, 32),)),
    "cyclegan": (Generator, ((3, 32, 32),)),
    "patchgan": (patchgan, ((3, 64, 64),)),
    "dcgan": (DCGAN, ((100,),)),
    "style": (Style, ((8, 16, 16), (32,))),
    "vae": (VAE, ((1, 28, 28),)),
    "crnn": (CRNN, ((1, 32, 64),)),
    "textcnn": (TextCNN, ((50, 30),)),
    "tcn": (TCN, ((16, 50),)),
    "wavenet": (WaveNet, ((1, 128),)),
    "c3d": (C3D, ((3, 8, 32, 32),)),
    "pointnet": (PointNet, ((3, 100),)),
    "capsnet": (CapsNet, ((1, 28, 28),)),
    "ssd": (SSD, ((3, 64, 64),)),
    "yolov1": (YOLOv1, ((3, 64, 64),)),
    "centernet": (CenterNet, ((3, 64, 64),)),
    "stn": (STN, ((1, 28, 28),)),
    "sagan": (SelfAttention, ((3, 32, 32),)),
    "detr": (DETR, ((3, 64, 64),)),
    "diffusion": (Diffusion, ((3, 16, 16), (1,))),
    "siamese": (Siamese, ((1, 28, 28), (1, 28, 28))),
    "multitask": (Loader, ((3, 32, 32), (1, 32, 32))),
    "stgcn": (GCN, ((3, 30, 18),)),
    "involution": (Involution, ((3, 32, 32),)),
    "gfnet-block": (Fourier, ((3, 32, 32),)),
}
"""By name: what makes it, and the size of each input."""
