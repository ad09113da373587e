"""Random convolutions against an instrumented loop nest, PyTorch's shapes and four other counters.

`compare` draws layers and returns what disagrees; where a peer is wrong, `DEFECTS` says why and predicts
the number that it prints. Run by `tests/arith/test_differential.py` (some thousand layers) and `bench/differential.py`.
"""

from __future__ import annotations

import io
import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import product
from math import prod

import torch
from torch import nn

from dojang.arith.conv import Conv, Sizes
from dojang.arith.window import extent
from dojang.base.errors import ShapeError

MOST_STEPS = 4000
"""Steps of the loop nest per layer: what keeps thousands of layers within seconds."""


def draw(rng: random.Random) -> Conv:
    """A random layer that fits: any rank, groups, dilation, stride per axis, padding per side; transposed as well."""
    while True:
        rank, transposed = rng.choice((1, 2, 2, 2, 3)), rng.random() < 0.4
        groups = rng.choice((1, 1, 1, 2, 3, 4))
        ic, oc = groups * rng.randint(1, 3), groups * rng.randint(1, 3)
        if rng.random() < 0.2:
            ic = oc = groups = rng.randint(2, 6)

        def per_axis(*options: int, rank: int = rank) -> Sizes:
            return tuple(rng.choice(options) for _ in range(rank))

        size, kernel = per_axis(*range(1, 9)), per_axis(1, 1, 2, 3, 3, 4, 5)
        stride, dilation = per_axis(1, 1, 2, 3), per_axis(1, 1, 2, 3)
        low = per_axis(0, 0, 1, 2, 3)
        high = low if transposed or rng.random() < 0.7 else per_axis(0, 1, 2, 3)
        extra = (0,) * rank
        if transposed:  # output padding must be below the stride or the dilation
            extra = tuple(rng.randrange(max(s, d)) for s, d in zip(stride, dilation, strict=True))
        try:
            conv = Conv(
                rng.choice((1, 1, 2, 3)), ic, oc, size, kernel, stride, tuple(zip(low, high, strict=True)), dilation,
                groups, rng.random() < 0.5, transposed, extra,
            )  # fmt: skip
        except ShapeError:
            continue
        if conv.macs <= MOST_STEPS:
            return conv


def loop_nest(c: Conv) -> tuple[Sizes, int, int]:
    """Output size, multiplications, and those on real pixels, by walking through the loops of the layer."""
    taps = list(product(*(range(k) for k in c.kernel)))
    pairs = c.n * c.groups * (c.ic // c.groups) * (c.oc // c.groups)
    steps = inside = 0
    if c.transposed:
        ends = [(i - 1) * s + extent(k, d) for i, s, k, d in zip(c.size, c.stride, c.kernel, c.dilation, strict=True)]
        out = tuple(e - a - b + x for e, (a, b), x in zip(ends, c.padding, c.output_padding, strict=True))
        for place in product(*(range(i) for i in c.size)):
            for tap in taps:
                axes = zip(place, tap, c.stride, c.dilation, c.padding, out, strict=True)
                hit = all(0 <= i * s + k * d - p < o for i, k, s, d, (p, _), o in axes)
                for _ in range(pairs):
                    steps += 1
                    inside += hit
        return out, steps, inside
    starts = []
    for i, k, s, d, (before, after) in zip(c.size, c.kernel, c.stride, c.dilation, c.padding, strict=True):
        at, found = -before, []
        while at + extent(k, d) <= i + after:
            found.append(at)
            at += s
        starts.append(found)
    for place in product(*starts):
        for tap in taps:
            axes = zip(place, tap, c.dilation, c.size, strict=True)
            hit = all(0 <= at + k * d < i for at, k, d, i in axes)
            for _ in range(pairs):
                steps += 1
                inside += hit
    return tuple(len(found) for found in starts), steps, inside


def layer_of(c: Conv) -> tuple[nn.Module, tuple[int, ...]]:
    """PyTorch's layer, and the shape to feed: padding that differs per side is put around the input."""
    plain, transposed = (nn.Conv1d, nn.Conv2d, nn.Conv3d), (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    kinds = transposed if c.transposed else plain
    uneven = any(a != b for a, b in c.padding)
    pads = (0,) * c.rank if uneven else tuple(a for a, _ in c.padding)
    size = tuple(i + a + b for i, (a, b) in zip(c.size, c.padding, strict=True)) if uneven else c.size
    more = {"output_padding": c.output_padding} if c.transposed else {}
    layer = kinds[c.rank - 1](
        c.ic, c.oc, c.kernel, stride=c.stride, padding=pads, dilation=c.dilation, groups=c.groups, bias=c.bias, **more
    )
    return layer, (c.n, c.ic, *size)


def meta_shape(c: Conv) -> Sizes:
    """The output shape that PyTorch gives, without computing."""
    with torch.device("meta"):
        layer, shape = layer_of(c)
        return tuple(layer(torch.empty(shape)).shape)


# ---------------------------------------------------------------------------------------------- the peers


@contextmanager
def silent() -> Iterator[None]:
    """Without what the peers print and warn about: their own use of deprecated parts of PyTorch."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        for kind in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.simplefilter("ignore", kind)
        yield


def by_torchinfo(layer: nn.Module, shape: Sizes) -> int:
    """torchinfo's `total_mult_adds`."""
    from torchinfo import summary

    return int(summary(layer, input_size=shape, verbose=0, device="cpu").total_mult_adds)


def by_fvcore(layer: nn.Module, shape: Sizes) -> int:
    """fvcore's `FlopCountAnalysis`, whose flops are MACs."""
    from fvcore.nn import FlopCountAnalysis

    analysis = FlopCountAnalysis(layer, torch.zeros(shape))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return int(analysis.total())


def by_ptflops(layer: nn.Module, shape: Sizes, backend: str = "pytorch") -> int:
    """ptflops, following modules (or, by its other backend, operators)."""
    from ptflops import get_model_complexity_info

    macs, _ = get_model_complexity_info(
        layer, shape[1:], as_strings=False, print_per_layer_stat=False, backend=backend,
        input_constructor=lambda _: torch.zeros(shape),
    )  # fmt: skip
    return int(macs)


def by_ptflops_aten(layer: nn.Module, shape: Sizes) -> int:
    """ptflops by its other backend."""
    return by_ptflops(layer, shape, "aten")


def by_flop_counter(layer: nn.Module, shape: Sizes) -> int:
    """`torch.utils.flop_counter.FlopCounterMode`: FLOPs."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as mode, torch.no_grad():
        layer(torch.zeros(shape))
    return int(mode.get_total_flops())


PEERS: dict[str, Callable[[nn.Module, Sizes], int]] = {
    "torchinfo": by_torchinfo,
    "fvcore": by_fvcore,
    "ptflops": by_ptflops,
    "ptflops-aten": by_ptflops_aten,
    "FlopCounterMode": by_flop_counter,
}


@dataclass(frozen=True)
class Defect:
    """A way in which a peer differs from the MACs of the loop nest: for which layers, and what it prints then."""

    peer: str
    what: str
    applies: Callable[[Conv], bool]
    prints: Callable[[Conv], int]


def outputs(c: Conv) -> int:
    """Values that the layer puts out."""
    return prod(c.out_shape)


DEFECTS = (
    Defect(
        "torchinfo", "counts a transposed convolution by its output positions, and each bias as a MAC",
        lambda c: c.transposed, lambda c: c.n * prod(c.out_size) * c.params,
    ),
    Defect(
        "torchinfo", "counts each bias as a MAC",
        lambda c: not c.transposed and c.bias, lambda c: c.macs + outputs(c),
    ),
    Defect(
        "ptflops", "counts each bias as a MAC, and one sample whatever the batch",
        lambda c: c.bias and c.n > 1, lambda c: (c.macs + outputs(c)) // c.n,
    ),
    Defect("ptflops", "counts each bias as a MAC", lambda c: c.bias, lambda c: c.macs + outputs(c)),
    Defect("ptflops", "counts one sample whatever the batch", lambda c: c.n > 1, lambda c: c.macs // c.n),
    Defect("ptflops-aten", "counts each bias as a MAC", lambda c: c.bias, lambda c: c.macs + outputs(c)),
    Defect("FlopCounterMode", "counts FLOPs: 2 for each MAC", lambda c: True, lambda c: 2 * c.macs),
)  # fmt: skip
"""The first that applies explains the number; where none does, the peer must give the MACs of the loop nest."""


@dataclass(frozen=True)
class Outcome:
    """Layers drawn, how often each defect changed a number, and every layer that nothing explains."""

    layers: int
    seen: Counter[tuple[str, str]]
    failures: tuple[str, ...]


def compare(layers: int, seed: int, peers: int) -> Outcome:
    """Draws layers and holds each against the loops and PyTorch's shape, and the first `peers` against the peers."""
    rng = random.Random(seed)
    seen: Counter[tuple[str, str]] = Counter()
    failures: list[str] = []

    def expect(who: str, place: int, c: Conv, got: object, wanted: object) -> None:
        if got != wanted:
            again = f"python bench/differential.py {place + 1} {seed}"
            failures.append(f"{who}: {got}, not {wanted}, for {c}; again: {again}")

    for place in range(layers):
        c = draw(rng)
        expect("loops", place, c, loop_nest(c), (c.out_size, c.macs, c.macs_inside))
        expect("PyTorch's shape", place, c, meta_shape(c), c.out_shape)
        if place >= peers:
            continue
        for name, peer in PEERS.items():
            defect = next((d for d in DEFECTS if d.peer == name and d.applies(c)), None)
            with silent():
                printed = peer(*layer_of(c))
            expect(name, place, c, printed, defect.prints(c) if defect else c.macs)
            if defect and printed != c.macs:
                seen[name, defect.what] += 1
    return Outcome(layers, seen, tuple(failures))
