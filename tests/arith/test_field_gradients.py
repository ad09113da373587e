"""Receptive fields against PyTorch's gradients: with positive weights, a pixel has a gradient where it is seen."""

from __future__ import annotations

import random
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from dojang.arith.field import Tracked, track  # noqa: E402
from dojang.formats.torch import from_module  # noqa: E402

Hull = tuple[int, int] | None


class Sum(nn.Module):
    """Branches, cropped at their far ends to the smallest, added or joined."""

    def __init__(self, *branches: nn.Module, join: bool = False) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        every = [branch(x) for branch in self.branches]
        least = [min(b.shape[a] for b in every) for a in range(2, x.dim())]
        for axis, size in enumerate(least, start=2):
            every = [b.narrow(axis, 0, size) for b in every]
        return torch.cat(every, 1).mean(1, keepdim=True) if self.join else sum(every[1:], every[0])


def ones(module: nn.Module) -> nn.Module:
    """All weights positive, so that no path to a pixel cancels another."""
    with torch.no_grad():
        for p in module.parameters():
            p.fill_(1)
    return module.double().eval()


def gradient(module: nn.Module, size: tuple[int, ...], place: tuple[int, ...]) -> Tensor:
    """The gradient of one place of the output, over the pixels of an image of ones."""
    image = torch.ones(1, 1, *size, dtype=torch.float64, requires_grad=True)
    module(image)[(slice(None), slice(None), *place)].sum().backward()
    assert image.grad is not None
    return image.grad[0, 0]


def hull(seen: Tensor, axis: int) -> Hull:
    """First and last pixel of an axis that have a gradient anywhere."""
    places = seen.nonzero()[:, axis]
    return (int(places.min()), int(places.max())) if len(places) else None


def held_against_gradients(module: nn.Module, size: tuple[int, ...]) -> int:
    """Places in the middle see exactly what has a gradient, those near the border no more. Gives the places held."""
    graph = from_module(ones(module), (1, *size), weights=False)
    state = track(graph)[graph.outputs[0]]
    assert isinstance(state, Tracked)
    out = graph.unit_shapes[graph.outputs[0]]
    assert out is not None
    assert state.carriers == tuple(range(2, len(out)))
    middle, exact = [o // 2 for o in out[2:]], 0
    # the places around the middle: every phase of what enlarges; and the corners, where padding is
    places = {tuple(min(o - 1, m + step) for m, o in zip(middle, out[2:], strict=True)) for step in range(5)}
    places |= {tuple(0 for _ in middle), tuple(o - 1 for o in out[2:])}
    for place in sorted(places):
        seen = gradient(module, size, place)
        for axis, (span, pixels, o) in enumerate(zip(state.spans, size, place, strict=True)):
            found, said = hull(seen, axis), span.at(o)
            if found is None:  # between the steps of what enlarges an axis (perhaps the other one) nothing is seen
                assert None in [s.at(p) for s, p in zip(state.spans, place, strict=True)] or o in (0, out[axis + 2] - 1)
                continue
            assert said is not None, (place, axis)
            assert said[0] <= found[0] <= found[1] <= said[1], (place, axis, said, found)
            if span.size <= said[0] and said[1] < pixels - span.size:  # nothing on the way was padding
                assert said == found, (place, axis)
                exact += 1
    return exact


KINDS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "stack": (nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(3))), (36, 40)),
    "dilation": (nn.Sequential(nn.Conv2d(1, 1, 3, dilation=3, padding=3), nn.Conv2d(1, 1, 3, dilation=2)), (40, 44)),
    "even kernels": (nn.Sequential(nn.Conv2d(1, 1, 2), nn.Conv2d(1, 1, 4, padding="same"), nn.Conv2d(1, 1, 6, 2)),
                     (48, 48)),
    "per axis": (nn.Sequential(nn.Conv2d(1, 1, (5, 1), (2, 1)), nn.Conv2d(1, 1, (1, 3), (1, 2), dilation=(1, 4))),
                 (36, 60)),
    "branches": (Sum(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, (3, 7), padding=(1, 3)), nn.Conv2d(1, 1, 5, padding=2)),
                 (30, 36)),
    "branches joined": (Sum(nn.Conv2d(1, 2, 3, 2, 1), nn.AvgPool2d(2), join=True), (32, 32)),
    "transposed": (nn.Sequential(nn.Conv2d(1, 1, 3, 2, 1), nn.ConvTranspose2d(1, 1, 4, 2, 1)), (48, 50)),
    "transposed, dilated": (nn.Sequential(nn.Conv2d(1, 1, 3), nn.ConvTranspose2d(1, 1, 3, 3, 1, 1, dilation=2)),
                            (30, 30)),
    "average pools": (nn.Sequential(nn.AvgPool2d(3, 2, 1), nn.Conv2d(1, 1, 3), nn.AvgPool2d((1, 4), (1, 3))),
                      (40, 70)),
    "nearest by two": (nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(1, 1, 3, padding=1), nn.Upsample(scale_factor=2),
                                     nn.Conv2d(1, 1, 2)), (44, 40)),
    "a U": (Sum(nn.Conv2d(1, 1, 3, padding=1), nn.Sequential(
        nn.Conv2d(1, 1, 4, 2, 1), nn.Conv2d(1, 1, 3, padding=1), nn.ConvTranspose2d(1, 1, 2, 2))), (48, 48)),
    "one axis": (nn.Sequential(nn.Conv1d(1, 1, 5, 2, dilation=3), nn.ConvTranspose1d(1, 1, 3, 2)), (90,)),
    "three axes": (nn.Sequential(nn.Conv3d(1, 1, (2, 3, 1), (1, 2, 1)), nn.AvgPool3d(2)), (20, 40, 20)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_seen_has_a_gradient(kind: str) -> None:
    module, size = KINDS[kind]
    assert held_against_gradients(module, size) >= 3 * len(size)


def layer(rng: random.Random) -> nn.Module:
    """Any layer that widens or moves the field, each axis for itself."""

    def pair(*options: int) -> tuple[int, int]:
        return rng.choice(options), rng.choice(options)

    kernel = pair(1, 2, 3, 3, 4, 5)
    match rng.randrange(5):
        case 0:
            return nn.AvgPool2d(kernel, pair(1, 1, 2), tuple(k // 2 for k in kernel), ceil_mode=rng.random() < 0.3)
        case 1:
            more: dict[str, Any] = {"dilation": pair(1, 1, 2), "padding": pair(0, 1)}
            return nn.ConvTranspose2d(1, 1, kernel, pair(1, 2, 3), **more)
        case 2:
            return nn.Upsample(scale_factor=2)
        case _:
            return nn.Conv2d(1, 1, kernel, pair(1, 1, 2, 3), pair(0, 1, 2), pair(1, 1, 2, 3))


def test_random_networks() -> None:
    rng, exact = random.Random(3), 0
    for _ in range(40):
        module: nn.Module = nn.Sequential(*(layer(rng) for _ in range(rng.randint(1, 3))))
        if rng.random() < 0.4:  # two ways of the same stride from one image
            kernel, dilation = rng.choice((1, 3, 5)), rng.choice((1, 2))
            beside = nn.Conv2d(1, 1, kernel, padding=dilation * (kernel // 2), dilation=dilation)
            module = nn.Sequential(module, Sum(beside, nn.Conv2d(1, 1, (2, 4))))
        with torch.device("meta"):
            shape = module.to("meta")(torch.empty(1, 1, 64, 72)).shape
        if shape.numel() < 20_000:
            exact += held_against_gradients(module.to_empty(device="cpu"), (64, 72))
    assert exact > 100
