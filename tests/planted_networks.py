"""Random small networks of many architectures as PyTorch modules, into which waste is planted (`planted_kinds.py`).

`network(name, seed, width)` draws one: its shape and every weight; its batch norms are calibrated on its own samples,
so that channels are as alive as in a trained network.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

SAMPLES = 256


class Unit(nn.Module):
    """A layer with what follows it, in the order of `order`: l(ayer), n(orm), a(ctivation), p(ool)."""

    def __init__(
        self,
        layer: nn.Module,
        norm: nn.Module | None,
        act: nn.Module | None,
        pool: nn.Module | None = None,
        order="lnap",
    ) -> None:
        super().__init__()
        self.layer, self.norm, self.act, self.pool, self.order = layer, norm, act, pool, order

    def parts(self) -> list[str]:
        """The names of its modules, in the order in which they run."""
        names = {"l": "layer", "n": "norm", "a": "act", "p": "pool"}
        return [names[k] for k in self.order if getattr(self, names[k]) is not None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts():
            x = getattr(self, part)(x)
        return x


class Call(nn.Module):
    """A function as a step. `keeps`: channel i of its value is made of the channels i of what it reads."""

    def __init__(self, call: Callable[..., torch.Tensor], keeps: bool = False) -> None:
        super().__init__()
        self.call, self.keeps = call, keeps

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.call(*inputs)


class Gate(nn.Module):
    """Squeeze and excite: every channel is multiplied by a number between 0 and 1 made of all channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.act = nn.Linear(channels, channels // 4), nn.ReLU()
        self.up, self.squash = nn.Linear(channels // 4, channels), nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.squash(self.up(self.act(self.down(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


class Attention(nn.Module):
    """One head of attention over tokens (n, tokens, channels)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(channels, channels) for _ in range(3))
        self.scale = channels**-0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = torch.softmax(self.q(x) @ self.k(x).transpose(1, 2) * self.scale, dim=-1)
        return weight @ self.v(x)


class Net(nn.Module):
    """Steps by name, each with the names of the values that it reads ("x" is the input)."""

    def __init__(self, kind: str, size: tuple[int, ...]) -> None:
        super().__init__()
        self.kind, self.size = kind, size
        self.reads: dict[str, tuple[str, ...]] = {}
        self.uses: dict[str, str] = {}
        self.outputs: tuple[str, ...] = ()
        self.channel_axis: dict[str, int] = {}

    def step(self, name: str, module: nn.Module, *reads: str, use: str = "") -> str:
        """Adds a step; with `use` the step is that module once more."""
        if not use:
            self.add_module(name, module)
        self.reads[name], self.uses[name], self.outputs = reads, use or name, (name,)
        return name

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        values = {"x": x}
        for name, reads in self.reads.items():
            values[name] = getattr(self, self.uses[name])(*(values[r] for r in reads))
        found = tuple(values[name] for name in self.outputs)
        return found if len(found) > 1 else found[0]

    def units(self) -> dict[str, Unit]:
        """The units, without those that are used more than once."""
        once = [u for u in self.uses.values() if list(self.uses.values()).count(u) == 1]
        return {u: m for u in once if isinstance(m := getattr(self, u), Unit)}

    def readers(self, name: str) -> list[str]:
        return [step for step, reads in self.reads.items() if name in reads]

    def taps(self, layer: str) -> list[str]:
        """The modules on the way of a layer's channels, itself first, as long as channel i stays channel i.

        Its own norm, activation and pool, and then sums, gates and activations; of several readers all are followed.
        """
        step, _, part = layer.rpartition(".")
        if part == "down":
            return [layer, f"{step}.act"]
        if part == "up":
            return [layer, f"{step}.squash", *self._behind(step)]
        if not isinstance(getattr(self, step, None), Unit):
            return [layer]
        parts = getattr(self, step).parts()
        return list(dict.fromkeys([*(f"{step}.{p}" for p in parts[parts.index(part) :]), *self._behind(step)]))

    def _behind(self, step: str) -> list[str]:
        """The steps behind one in which channel i stays channel i; a gate itself, in which its dense layers end."""
        found = [step] if isinstance(getattr(self, step), Gate) else []
        open_steps = [step]
        while open_steps:
            for reader in self.readers(open_steps.pop()):
                module = getattr(self, self.uses[reader])
                if (isinstance(module, Call) and module.keeps) or isinstance(module, Gate):
                    found.append(reader)
                    open_steps.append(reader)
        return found


ACTS: dict[str, Callable[[], nn.Module | None]] = {
    "relu": nn.ReLU, "relu6": nn.ReLU6, "leaky": lambda: nn.LeakyReLU(0.1), "gelu": nn.GELU, "silu": nn.SiLU,
    "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "none": lambda: None,
}  # fmt: skip


class Draw:
    """Draws the parts of a network of `rank` spatial axes."""

    def __init__(self, kind: str, seed: int, width: int, rank: int = 2, act: str = "relu", norm: str = "batch") -> None:
        self.r = random.Random(f"{kind}-{seed}")
        side = {1: self.r.choice([32, 40]), 2: self.r.choice([8, 10]), 3: 5}[rank]
        self.channels = self.r.choice([3, 4])
        self.net = Net(kind, (self.channels, *[side] * rank))
        self.width, self.rank, self.act, self.norm = width, rank, act, norm

    def made(self, kind: str) -> type[nn.Module]:
        return getattr(nn, f"{kind}{self.rank}d")

    def unit(
        self, name: str, source: str, i: int, o: int, k: int = 3, *, act: str = "", norm: str = "", groups: int = 1,
        order: str = "lnap", pool: bool = False,
    ) -> str:  # fmt: skip
        norm, act = norm or self.norm, act or self.act
        layer = self.made("Conv")(i, o, k, padding=k // 2, groups=groups, bias=norm == "none" or self.r.random() < 0.5)
        norms: dict[str, Callable[[], nn.Module | None]] = {
            "batch": lambda: self.made("BatchNorm")(o), "group": lambda: nn.GroupNorm(4, o), "none": lambda: None,
        }  # fmt: skip
        return self.net.step(
            name, Unit(layer, norms[norm](), ACTS[act](), self.made("MaxPool")(2) if pool else None, order), source
        )

    def add(self, name: str, *sources: str, act: str = "") -> str:
        total = self.net.step(name, Call(_sum, keeps=True), *sources)
        made = ACTS[act or self.act]()
        return self.net.step(f"{name}_act", _Kept(made), total) if made is not None else total

    def head(self, source: str, i: int, hidden: int = 0) -> Net:
        """Mean over space (or tokens), a hidden dense layer perhaps, and the classes."""
        axes = tuple(range(2, 2 + self.rank))
        last = self.net.step("mean", Call(_mean(axes)), source)
        if hidden:
            last = self.net.step("hidden", Unit(nn.Linear(i, hidden), None, ACTS[self.act]()), last)
        self.net.step("head", Unit(nn.Linear(hidden or i, 5), None, None), last)
        return self.net


class _Kept(Call):
    """An activation as a step of its own."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__(act, keeps=True)


def _sum(*values: torch.Tensor) -> torch.Tensor:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def _mean(axes: tuple[int, ...]) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: x.mean(axes)


def _straight(d: Draw, order: str = "lnap", first_pool: bool = True) -> Net:
    last, i = "x", d.channels
    depth = d.r.randint(3, 5)
    pools = d.r.randrange(1, depth) if first_pool else -1
    for k in range(depth):
        last = d.unit(f"u{k}", last, i, d.width, d.r.choice([1, 3, 3]) if k else 3, order=order, pool=k == pools)
        i = d.width
    return d.head(last, i, d.r.choice([0, d.width]))


def plain(seed: int, width: int) -> Net:
    return _straight(Draw("plain", seed, width, norm="batch" if seed % 2 else "none"))


def pool_before_relu(seed: int, width: int) -> Net:
    return _straight(Draw("pool_before_relu", seed, width), order="lnpa")


def norm_after_relu(seed: int, width: int) -> Net:
    return _straight(Draw("norm_after_relu", seed, width), order="lan", first_pool=False)


def group_norm(seed: int, width: int) -> Net:
    return _straight(Draw("group_norm", seed, width, norm="group"))


def leaky(seed: int, width: int) -> Net:
    return _straight(Draw("leaky", seed, width, act="leaky"))


def smooth(seed: int, width: int) -> Net:
    return _straight(Draw("smooth", seed, width, act=random.Random(seed).choice(["gelu", "silu"])))


def saturating(seed: int, width: int) -> Net:
    return _straight(Draw("saturating", seed, width, act=random.Random(seed).choice(["tanh", "sigmoid"])))


def line(seed: int, width: int) -> Net:
    return _straight(Draw("line", seed, width, rank=1))


def volume(seed: int, width: int) -> Net:
    return _straight(Draw("volume", seed, width, rank=3))


def _residual(d: Draw, gates: bool = False) -> Net:
    w, last = d.width, d.unit("stem", "x", d.channels, d.width)
    for k in range(d.r.randint(2, 3)):
        a = d.unit(f"b{k}a", last, w, w)
        b = d.unit(f"b{k}b", a, w, w, act="none")
        if gates:
            b = d.net.step(f"b{k}gate", Gate(w), b)
        short = d.unit(f"b{k}s", last, w, w, 1, act="none") if d.r.random() < 0.6 or not k else last
        last = d.add(f"b{k}sum", b, short)
    return d.head(last, w)


def residual(seed: int, width: int) -> Net:
    return _residual(Draw("residual", seed, width))


def residual_group_norm(seed: int, width: int) -> Net:
    return _residual(Draw("residual_group_norm", seed, width, norm="group"))


def squeeze_excite(seed: int, width: int) -> Net:
    return _residual(Draw("squeeze_excite", seed, width), gates=True)


def grouped(seed: int, width: int) -> Net:
    """ResNeXt: 1×1, a grouped 3×3, 1×1, and a sum."""
    d = Draw("grouped", seed, width)
    w, last = width, d.unit("stem", "x", d.channels, width)
    for k in range(2):
        a = d.unit(f"b{k}a", last, w, w, 1)
        b = d.unit(f"b{k}b", a, w, w, 3, groups=d.r.choice([2, 4, 8]))
        last = d.add(f"b{k}sum", d.unit(f"b{k}c", b, w, w, 1, act="none"), last)
    return d.head(last, w)


def depthwise(seed: int, width: int) -> Net:
    """Inverted residuals of MobileNet."""
    d = Draw("depthwise", seed, width, act="relu6")
    last = d.unit("stem", "x", d.channels, width)
    for k in range(2):
        a = d.unit(f"b{k}a", last, width, 2 * width, 1)
        b = d.unit(f"b{k}b", a, 2 * width, 2 * width, 3, groups=2 * width)
        last = d.add(f"b{k}sum", d.unit(f"b{k}c", b, 2 * width, width, 1, act="none"), last, act="none")
    return d.head(d.unit("top", last, width, width, 1), width)


def branches(seed: int, width: int) -> Net:
    """Parallel layers whose channels are joined, one after the other or as a sum."""
    d = Draw("branches", seed, width)
    last = d.unit("stem", "x", d.channels, width)
    for k in range(2):
        a, b = d.unit(f"b{k}a", last, width, width), d.unit(f"b{k}b", last, width, width)
        if d.r.random() < 0.5:
            joined = d.net.step(f"b{k}cat", Call(lambda *v: torch.cat(v, 1)), a, b)
            last = d.unit(f"b{k}c", joined, 2 * width, width, 1)
        else:
            last = d.unit(f"b{k}c", d.add(f"b{k}sum", a, b, act="none"), width, width, 1)
    return d.head(last, width)


def two_readers(seed: int, width: int) -> Net:
    """A layer whose channels go through two activations, and one that is read by two layers."""
    d = Draw("two_readers", seed, width)
    stem = d.unit("stem", "x", d.channels, width, act="none")
    acts = [d.net.step(f"act{k}", _Kept(nn.ReLU()), stem) for k in range(2)]
    pair = [d.unit(f"r{k}", a, width, width, 1 + 2 * k) for k, a in enumerate(acts)]
    mixed = d.unit("mixed", d.add("sum", *pair), width, width)
    left, right = d.unit("left", mixed, width, width), d.unit("right", mixed, width, width, 1)
    return d.head(d.add("join", left, right, act="none"), width)


def shared(seed: int, width: int) -> Net:
    """One layer that is run twice, between others."""
    d = Draw("shared", seed, width, norm="none")
    first = d.unit("first", "x", d.channels, width)
    twice = d.unit("twice", first, width, width)
    again = d.net.step("again", d.net.twice, twice, use="twice")
    return d.head(d.unit("last", again, width, width), width)


def two_outputs(seed: int, width: int) -> Net:
    """A map in the middle is an output too."""
    d = Draw("two_outputs", seed, width)
    a = d.unit("a", "x", d.channels, width)
    b = d.unit("b", a, width, width)
    d.head(d.unit("c", b, width, width), width)
    d.net.outputs = (b, "head")
    return d.net


def tokens(seed: int, width: int) -> Net:
    """Patches as tokens through attention and dense layers with layer norms, as in a vision transformer."""
    d = Draw("tokens", seed, width, act=random.Random(seed).choice(["gelu", "relu"]))
    d.net.step("stem", Unit(nn.Conv2d(d.channels, width, 2, stride=2), None, None), "x")
    last = d.net.step("tokens", Call(lambda v: v.flatten(2).transpose(1, 2)), "stem")
    for k in range(2):
        calm = d.net.step(f"b{k}norm1", nn.LayerNorm(width), last)
        seen = d.net.step(f"b{k}attention", Attention(width), calm)
        out = d.net.step(f"b{k}out", Unit(nn.Linear(width, width), None, None), seen)
        last = d.add(f"b{k}sum1", out, last, act="none")
        calm = d.net.step(f"b{k}norm2", nn.LayerNorm(width), last)
        wide = d.net.step(f"b{k}wide", Unit(nn.Linear(width, 2 * width), None, ACTS[d.act]()), calm)
        thin = d.net.step(f"b{k}thin", Unit(nn.Linear(2 * width, width), None, None), wide)
        last = d.add(f"b{k}sum2", thin, last, act="none")
    d.net.step("calm", nn.LayerNorm(width), last)
    mean = d.net.step("mean", Call(_mean((1,))), "calm")
    d.net.step("head", Unit(nn.Linear(width, 5), None, None), mean)
    return d.net


def dense(seed: int, width: int) -> Net:
    """Dense layers after a convolution that is flattened, as in LeNet."""
    d = Draw("dense", seed, width, norm="none")
    last = d.unit("u0", "x", d.channels, 8, pool=True)
    last = d.net.step("flat", Call(lambda v: v.flatten(1)), last)
    i = 8 * (d.net.size[1] // 2) ** 2
    for k in range(2):
        last = d.net.step(f"d{k}", Unit(nn.Linear(i, 4 * width), None, nn.ReLU()), last)
        i = 4 * width
    d.net.step("head", Unit(nn.Linear(i, 5), None, None), last)
    return d.net


ARCHITECTURES: dict[str, Callable[[int, int], Net]] = {
    f.__name__: f
    for f in (plain, residual, grouped, squeeze_excite, group_norm, leaky, tokens, line, volume, depthwise,
              pool_before_relu, norm_after_relu, branches, two_readers, shared, two_outputs, residual_group_norm,
              smooth, saturating, dense)
}  # fmt: skip


def samples(size: tuple[int, ...], seed: int, count: int = SAMPLES) -> np.ndarray:
    """Smooth noise with some white noise, about 0 ± 1, float32: neighbouring pixels and channels go together."""
    rng = np.random.default_rng([seed, 7])
    coarse = rng.normal(size=(count, size[0], *(-(-n // 4) for n in size[1:])))
    for axis, n in enumerate(size[1:], 2):
        coarse = np.repeat(coarse, 4, axis=axis).take(range(n), axis=axis)
    mixed = coarse + 0.5 * coarse.mean(axis=1, keepdims=True) + 0.5 * rng.normal(size=(count, *size))
    return mixed.astype(np.float32)


def network(name: str, seed: int, width: int) -> tuple[Net, np.ndarray]:
    """The network with all weights drawn and its batch norms calibrated, in float64 and evaluation; and its samples."""
    torch.manual_seed(seed)
    net = ARCHITECTURES[name](seed, width).double()
    for module in _modules(net):
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.normal_(module.bias, 0, 0.2)
        elif getattr(module, "weight", None) is not None:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    x = samples(net.size, seed)
    calibrate(net, x)
    rounded(net)
    return net, x


def calibrate(net: Net, x: np.ndarray) -> None:
    """Batch norms take mean and variance of these samples."""
    for module in _modules(net):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over all that it sees
    with torch.no_grad():
        net.train()
        net(torch.from_numpy(x).double())
        net.eval()


def rounded(net: nn.Module) -> None:
    """Every number becomes one that float32 holds, so that float32 and float64 are the same network."""
    with torch.no_grad():
        for array in (*net.parameters(), *net.buffers()):
            if array.is_floating_point():
                array.copy_(array.float().double())


def _modules(net: nn.Module) -> Iterator[Any]:
    return (module for module in net.modules() if not list(module.children()))
