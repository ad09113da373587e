"""The receptive field as scripts read it, held against PyTorch's gradients at every place of random networks."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from dojang.arith.cost import count  # noqa: E402
from dojang.formats.torch import from_module  # noqa: E402
from dojang.report.csv_count import count_csv  # noqa: E402
from dojang.report.html import count_html  # noqa: E402
from dojang.report.text_count import count_text  # noqa: E402


class Step(nn.Module):
    """A step without weights."""

    def __init__(self, said: str, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.said, self.step = said, step

    def forward(self, x: Tensor) -> Tensor:
        return self.step(x)

    def extra_repr(self) -> str:
        return self.said


class Both(nn.Module):
    """Two branches, cropped to the same size and added, or one behind the other along the image."""

    def __init__(self, one: nn.Module, other: nn.Module, joined: bool) -> None:
        super().__init__()
        self.one, self.other, self.joined = one, other, joined

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.one(x), self.other(x)
        if self.joined:
            return torch.cat((a, b), -1)
        least = min(a.shape[-1], b.shape[-1])
        return a.narrow(-1, 0, least) + b.narrow(-1, 0, least)


def layer(rng: random.Random) -> tuple[nn.Module, bool]:
    """One layer over one axis, and whether it has places outside the image that see nothing, or the edge again."""
    k, s, d, p = rng.choice((1, 2, 3, 4)), rng.choice((1, 1, 2, 3)), rng.choice((1, 1, 2, 3)), rng.choice((0, 0, 1, 2))
    match rng.randrange(12):
        case 0 | 1:
            return nn.Conv1d(1, 1, k, s, p, d), p > 0
        case 2:
            return nn.MaxPool1d(k, s, min(p, k // 2), d, ceil_mode=rng.random() < 0.3), True
        case 3:
            return nn.AvgPool1d(k, s), False
        case 4:
            return nn.ConvTranspose1d(1, 1, k, s, dilation=d), True
        case 5:
            return nn.Upsample(scale_factor=rng.choice((2, 3))), False
        case 6:
            return nn.Upsample(scale_factor=2, mode="linear", align_corners=rng.random() < 0.3), True
        case 7:
            return Step("flip", lambda x: torch.flip(x, (-1,))), False
        case 8:
            by = rng.choice((1, 3, -2))
            return Step(f"roll {by}", lambda x: torch.roll(x, by, -1)), False
        case 9:
            start = rng.choice((0, 1, 2))
            return Step(f"slice {start}::{s}", lambda x: x[..., start::s]), False
        case 10:
            mode, before, after = rng.choice(("reflect", "replicate", "circular")), rng.choice((0, 1, 3)), p
            return Step(f"pad {mode} {before} {after}", lambda x: F.pad(x, (before, after), mode)), False
        case _:
            return Both(nn.Conv1d(1, 1, 3), nn.Conv1d(1, 1, k, s, dilation=d), rng.random() < 0.5), False


def network(seed: int) -> tuple[nn.Module, bool]:
    rng = random.Random(seed)
    layers = [layer(rng) for _ in range(rng.randint(1, 4))]
    module = nn.Sequential(*(m for m, _ in layers))
    with torch.no_grad():
        for p in module.parameters():
            p.fill_(1)
    return module.double().eval(), any(outside for _, outside in layers)


def seen_by_gradients(module: nn.Module, size: int) -> list[tuple[int, int] | None]:
    """For every place of the output the first and last pixel with a gradient, on any of 96 random images (a maximum
    looks at one of its taps only)."""
    image = torch.rand(96, 1, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5
    image.requires_grad_()
    found: list[tuple[int, int] | None] = []
    for place in module(image).sum((0, 1)):
        (slope,) = torch.autograd.grad(place, image, retain_graph=True)
        pixels = slope.abs().sum((0, 1)).nonzero()[:, 0]
        found.append((int(pixels.min()), int(pixels.max())) if len(pixels) else None)
    return found


def exported(row: dict[str, Any], axis: int, place: int) -> tuple[int, int] | None:
    """What the JSON says that a place sees, and that its parts agree."""
    field = row["receptive_field"]
    phases, jump, start, last = field["phases"][axis], field["jump"][axis], field["start"][axis], field["last"][axis]
    turns, phase = divmod(place, phases["period"])
    assert not phases["ends"] or turns == 0
    hull = phases["seen"][phase]
    said = (hull[0] + turns * phases["advance"], hull[1] + turns * phases["advance"]) if hull else None
    if start is not None:
        assert said == (place * jump + start, place * jump + start + field["size"][axis] - 1)
        assert last == start + field["size"][axis] - 1
    if said is not None:
        low, high = field["bounds"][axis]
        assert said[1] - said[0] + 1 <= field["size"][axis]
        assert place * jump + low <= said[0] + 1e-9
        assert said[1] <= place * jump + high + 1e-9
    return said


def clipped(hull: tuple[int, int] | None, size: int) -> tuple[int, int] | None:
    if hull is None or hull[1] < 0 or hull[0] >= size:
        return None
    return max(0, hull[0]), min(size - 1, hull[1])


def held(seed: int, size: int = 26) -> tuple[int, int]:
    """Places held against gradients, and how many of them had to be equal."""
    module, outside = network(seed)
    try:
        with torch.no_grad():
            places = module(torch.ones(1, 1, size, dtype=torch.float64)).shape[-1]
    except RuntimeError:  # the network shrinks below one place
        return 0, 0
    if not 0 < places <= 120:
        return 0, 0
    print(f"network({seed}) = {module}")
    row = count(from_module(module, (1, size), weights=False)).to_dict()["layers"][-1]
    found = seen_by_gradients(module, size)
    assert row["out_shape"] == [1, len(found)]
    equal = 0
    for place, real in enumerate(found):
        said = clipped(exported(row, 0, place), size)
        if real is not None:
            assert said is not None, place
            assert said[0] <= real[0] <= real[1] <= said[1], (place, said, real)
        if not outside:
            assert said == real, (place, said, real)
            equal += 1
    return len(found), equal


def test_every_place_of_random_networks() -> None:
    totals = [held(seed) for seed in range(220)]
    assert sum(places for places, _ in totals) > 2500
    assert sum(equal for _, equal in totals) > 700


def bilinear() -> nn.Module:
    module = nn.Sequential(nn.Conv2d(1, 1, 3, 2, 1), nn.Upsample(scale_factor=2, mode="bilinear"),
                           nn.Conv2d(1, 1, 3, padding=1))  # fmt: skip
    with torch.no_grad():
        for p in module.parameters():
            p.fill_(1)
    return module.double().eval()


def test_bilinear_resizing_has_phases_in_every_form_of_the_table() -> None:
    """Place 0 has a gradient at pixel 3: no line with the jump 1 through all places says so."""
    result = count(from_module(bilinear(), (1, 20, 20), weights=False))
    row = result.to_dict()["layers"][-1]
    image = torch.ones(1, 1, 20, 20, dtype=torch.float64, requires_grad=True)
    bilinear()(image)[0, 0, 0, 0].backward()
    assert image.grad is not None
    assert int(image.grad[0, 0].nonzero()[:, 0].max()) == 3
    said = exported(row, 0, 0)
    assert said is not None
    assert said[1] >= 3
    assert row["receptive_field"]["start"] == [None, None]
    line = list(csv.DictReader(io.StringIO(count_csv(result))))[-1]
    assert line["field_start"] == line["field_last"] == "variesxvaries"
    assert json.loads(line["field_phases"]) == row["receptive_field"]["phases"]
    assert "7x7*" in count_text(result)
    assert "* Depends on the position" in count_text(result)
    assert f"axis 0: positions 2·q see pixels 2·q - 3 to 2·q + {said[1]}" in count_html(result)


def test_one_line_stays_one_line() -> None:
    """Flipping moves the line, which still holds for all places; nothing is marked."""
    flipped = nn.Sequential(nn.Conv1d(1, 1, 3, 2), Step("flip", lambda x: torch.flip(x, (-1,))))
    result = count(from_module(flipped, (1, 21), weights=False))
    field = result.to_dict()["layers"][-1]["receptive_field"]
    assert (field["jump"], field["start"], field["last"], field["size"]) == ([-2], [18], [20], [3])
    assert "*" not in count_text(result)
    line = list(csv.DictReader(io.StringIO(count_csv(result))))[-1]
    assert (line["field_jump"], line["field_start"], line["field_last"], line["field_phases"]) == ("-2", "18", "20", "")


@pytest.mark.parametrize(
    "step",
    [
        Step("roll 5", lambda x: torch.roll(x, 5, -1)),
        Step("roll -3", lambda x: torch.roll(x, -3, -1)),
        Step("joined", lambda x: torch.cat((x, x.flip(-1)), -1)),
        Step("circular", lambda x: F.pad(x, (3, 2), "circular")),
        Step("chosen", lambda x: x[..., [7, 2, 2, 9, 4]]),
    ],
    ids=lambda step: step.said,
)
def test_padding_around_an_axis_of_parts_sees_nothing(step: Step) -> None:
    """A convolution pads what was rolled or joined with zeros: its outermost places see no pixel of a next turn."""
    module = nn.Sequential(nn.Conv1d(1, 1, 3, padding=1), step, nn.Conv1d(1, 1, 3, padding=1)).double().eval()
    for p in module.parameters():
        p.requires_grad_(False).fill_(1)
    row = count(from_module(module, input_size=(1, 26))).layers[-1].to_dict()
    seen = seen_by_gradients(module, 26)
    for place, hull in enumerate(seen):
        assert clipped(exported(row, 0, place), 26) == hull, place
