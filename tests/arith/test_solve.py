"""`solve` inverts `Conv`: everything it returns fits, everything that fits simply is found, and failures say why."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dojang.arith.conv import Conv
from dojang.arith.solve import solve
from dojang.base.errors import ShapeError, UsageError


@settings(max_examples=300)
@given(
    kernel=st.integers(1, 7),
    stride=st.integers(1, 4),
    pad=st.integers(0, 6),
    dilation=st.integers(1, 3),
    size=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    transposed=st.booleans(),
)
def test_a_drawn_layer_is_found_again(kernel, stride, pad, dilation, size, transposed):
    pad = min(pad, (kernel - 1) * dilation)
    try:
        conv = Conv.of(4, 6, size, kernel, stride, pad, dilation, transposed=transposed)
    except ShapeError:
        return
    found = solve((4, *size), conv.out_shape[1:], dilation=dilation, transposed=transposed, kernel=kernel)
    assert all(s.conv.out_shape == conv.out_shape for s in found.solutions)
    assert found.solutions
    exact = solve((4, *size), conv.out_shape[1:], kernel, stride, pad, dilation, transposed=transposed)
    assert conv in [s.conv for s in exact.solutions]


@settings(max_examples=200)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.booleans())
def test_whatever_is_returned_fits(ih, iw, oh, ow, transposed):
    found = solve((3, ih, iw), (5, oh, ow), transposed=transposed)
    assert all(s.conv.out_shape == (1, 5, oh, ow) for s in found.solutions)
    assert bool(found.solutions) != bool(found.reason)
    keys = [s.departures for s in found.solutions]
    assert keys == sorted(keys)


@pytest.mark.parametrize(("kernel", "pad"), [(3, 1), (5, 2), (7, 3)])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_padding_that_keeps_the_size(kernel, pad, dilation):
    best = solve((3, 32, 32), (8, 32, 32), kernel=kernel, stride=1, dilation=dilation).solutions[0].conv
    assert best.padding == ((pad * dilation, pad * dilation),) * 2


@pytest.mark.parametrize("seed", range(40))
def test_what_is_said_to_be_searched_is_found(seed: int) -> None:
    """Brute force with PyTorch's own sizes: every kernel, stride and padding in the searched range that fits."""
    torch = pytest.importorskip("torch")
    draw = random.Random(seed)
    transposed = draw.random() < 0.4
    small, ratio = draw.randint(2, 9), draw.choice([1, 2, 3, 4, 7, 16])
    i, o = (small, small * ratio) if transposed else (small * ratio, small)
    function = torch.nn.functional.conv_transpose1d if transposed else torch.nn.functional.conv1d
    kernels = {*range(1, 12), ratio, 2 * ratio - 1, 2 * ratio}
    fits: set[tuple[int, int]] = set()
    for k in sorted(k for k in kernels if k <= max(i, o)):
        for s in range(1, 2 * ratio + 2):
            for p in range(k):
                x = torch.empty(1, 1, i, device="meta")
                try:
                    out = function(x, torch.empty(1, 1, k, device="meta"), stride=s, padding=p)
                except RuntimeError:
                    continue
                if out.shape[2] == o:
                    fits.add((k, s))
    found = solve((1, i), (1, o), transposed=transposed)
    here = {(s.conv.kernel[0], s.conv.stride[0]) for s in found.solutions}
    assert fits <= here or found.found > len(found.solutions)
    assert (ratio, ratio) in here


def test_patches_and_uneven_paddings() -> None:
    first = solve((3, 224, 224), (768, 14, 14)).solutions[0].conv
    assert (first.kernel, first.stride, first.padding) == ((16, 16), (16, 16), ((0, 0), (0, 0)))
    up = [s.conv for s in solve((64, 16), (32, 32), 3, 2, transposed=True).solutions]
    assert [(c.padding, c.output_padding) for c in up] == [
        (((1, 1),), (1,)), (((0, 1),), (0,)), (((1, 0),), (0,)),
    ]  # fmt: skip
    same = {s.conv.padding for s in solve((3, 224), (64, 112), 3, 2).solutions}
    assert same == {((1, 1),), ((0, 1),), ((1, 0),)}
    assert solve((3, 9), (3, 9), 2, padding=[(0, 1)]).solutions[0].conv.padding == ((0, 1),)
    with pytest.raises(ShapeError, match="padding has 3 values"):
        solve((3, 9), (3, 9), 2, padding=[1, 1, 1])


def test_the_simplest_comes_first():
    kernels = [s.conv.kernel[0] for s in solve((3, 32, 32), (8, 32, 32)).solutions]
    assert kernels[:4] == [1, 3, 5, 7]


def test_transposed():
    best = solve((64, 16, 16), (32, 32, 32), transposed=True).solutions[0].conv
    assert (best.kernel, best.stride, best.macs) == ((2, 2), (2, 2), 2_097_152)
    doubled = [s.conv for s in solve((3, 10), (3, 20), transposed=True).solutions]
    assert [(c.kernel, c.stride, c.padding) for c in doubled[:3]] == [
        ((2,), (2,), ((0, 0),)), ((4,), (2,), ((1, 1),)), ((6,), (2,), ((2, 2),))
    ]  # fmt: skip
    assert "--transposed" in solve((3, 10), (3, 3000)).reason
    assert "--transposed" not in solve((3, 10), (3, 3000), transposed=True).reason


def test_one_shape_and_a_layer_are_enough():
    assert solve((3, 32, 32), kernel=5, filters=4, bias=False).solutions[0].to_dict() | {"groups": 1} == {
        "kernel": [5, 5],
        "stride": [1, 1],
        "padding": [0, 0],
        "dilation": [1, 1],
        "groups": 1,
        "filters": 4,
        "transposed": False,
        "in_shape": [3, 32, 32],
        "out_shape": [4, 28, 28],
        "params": 300,
        "weights": 300,
        "biases": 0,
        "macs": 235_200,
    }
    sizes = {s.conv.size for s in solve(out_shape=(64, 112, 112), kernel=7, stride=2, padding=3, filters=3).solutions}
    assert sizes == {(h, w) for h in (223, 224) for w in (223, 224)}


def test_per_axis_values():
    best = solve((3, 40, 50), (8, 40, 25), kernel=(3, 5), stride=(1, 2)).solutions[0].conv
    assert best.padding == ((1, 1), (2, 2))


def test_reasons():
    reason = solve((3, 32, 32), (8, 32, 32), kernel=3, stride=2).reason
    assert "32 to 32 with kernel 3, stride 2" in reason
    assert "needs a total padding of 33 to 34" in reason
    assert "5 groups" in solve((3, 32, 32), (8, 32, 32), groups=5).reason
    assert "shrinks below 1" in solve((3, 3, 3), kernel=5).reason


def test_bad_input():
    with pytest.raises(UsageError, match="an input shape"):
        solve()
    with pytest.raises(UsageError, match="give the kernel"):
        solve((3, 32, 32))
    with pytest.raises(ShapeError, match="at least 1"):
        solve((3, 32, 32), (8, 32, 32), kernel=0)
    with pytest.raises(ShapeError, match="at least 1"):
        solve((3, -32, 32), (8, 32, 32))


def test_huge_sizes_answer_at_once():
    far = solve((1, 10**12, 10**12), (1, 2, 2))
    assert all(s.conv.out_size == (2, 2) for s in far.solutions)
    assert far.solutions
    best = solve((1, 10**12, 10**12), (1, 10**12, 10**12)).solutions[0].conv
    assert best.macs == 10**24
