"""`Conv` and the window arithmetic against loops that do the convolution place by place, and against PyTorch."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dojang.arith.conv import Conv, resolve_padding
from dojang.arith.resizing import source_place, taps
from dojang.arith.window import extent, out_size, same_padding, taps_inside
from dojang.base.errors import ShapeError

many = settings(max_examples=200)


@st.composite
def axes(draw: st.DrawFn, transposed: bool, rank: int) -> list[dict[str, int]]:
    found: list[dict[str, int]] = []
    for _ in range(rank):
        k, s, d = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
        p, q = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        least = 1 if transposed else max(1, extent(k, d) - p - q)
        i = draw(st.integers(least, least + 7))
        extra = draw(st.integers(0, max(s, d) - 1)) if transposed else 0
        found.append({"k": k, "s": s, "d": d, "p": p, "q": q, "i": i, "e": extra})
    return found


@st.composite
def problems(draw: st.DrawFn, transposed: bool | None = None) -> Conv:
    kind = draw(st.booleans()) if transposed is None else transposed
    each = draw(axes(kind, draw(st.integers(1, 3))).filter(lambda a: not kind or all(roomy(x) for x in a)))
    groups = draw(st.integers(1, 3))

    def of(name: str) -> tuple[int, ...]:
        return tuple(axis[name] for axis in each)

    return Conv.of(
        groups * draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 3)),
        of("i"),
        of("k"),
        of("s"),
        [(axis["p"], axis["q"]) for axis in each],
        of("d"),
        groups,
        draw(st.booleans()),
        kind,
        of("e") if kind else 0,
        draw(st.integers(0, 2)),
    )


def roomy(a: dict[str, int]) -> bool:
    """A transposed axis whose output does not vanish."""
    return (a["i"] - 1) * a["s"] - a["p"] - a["q"] + extent(a["k"], a["d"]) + a["e"] >= 1


def places_by_sliding(size: int, kernel: int, stride: int, before: int, after: int, dilation: int) -> int:
    """Slides the window over the padded axis as long as it fits."""
    places, start = 0, -before
    while start + (kernel - 1) * dilation < size + after:
        places, start = places + 1, start + stride
    return places


def nest(problem: Conv) -> tuple[int, int]:
    """Multiplications counted one by one in the loop nest: all of them, and those that touch a real pixel.

    Transposed: input pixel, tap → output pixel, which may be cropped.
    """
    every = inside = 0
    sweep = problem.size if problem.transposed else problem.out_size
    bound = problem.out_size if problem.transposed else problem.size
    pairs = problem.groups * (problem.ic // problem.groups) * (problem.oc // problem.groups)
    for place in product(*(range(o) for o in sweep)):
        for tap in product(*(range(k) for k in problem.kernel)):
            every += 1
            target = [
                o * s - p + t * d
                for o, s, (p, _), t, d in zip(
                    place, problem.stride, problem.padding, tap, problem.dilation, strict=True
                )
            ]
            inside += all(0 <= x < limit for x, limit in zip(target, bound, strict=True))
    return problem.n * pairs * every, problem.n * pairs * inside


@many
@given(problems())
def test_macs_are_what_the_loop_nest_does(problem: Conv) -> None:
    every, inside = nest(problem)
    assert problem.macs == every
    assert problem.macs_inside == inside


@many
@given(problems())
def test_parameters_bytes_and_shapes_hang_together(problem: Conv) -> None:
    c = problem
    filters = [(o, i) for o in range(c.oc) for i in range(c.ic) if o // (c.oc // c.groups) == i // (c.ic // c.groups)]
    assert c.weights == len(filters) * prod(c.kernel) == prod(c.weight_shape)
    assert c.params == c.weights + c.biases
    assert c.biases == (c.oc if c.bias else 0)
    assert c.weight_bytes == 4 * c.params
    assert c.in_bytes == 4 * c.n * c.ic * prod(c.size)
    assert c.out_bytes == 4 * c.n * c.oc * prod(c.out_size)
    assert c.in_shape == (c.n, c.ic, *c.size)


@many
@given(problems(transposed=False))
def test_output_size_by_sliding(problem: Conv) -> None:
    c = problem
    each = zip(c.size, c.kernel, c.stride, c.padding, c.dilation, strict=True)
    assert c.out_size == tuple(places_by_sliding(i, k, s, p, q, d) for i, k, s, (p, q), d in each)


@many
@given(problems())
def test_shapes_are_those_of_pytorch(problem: Conv) -> None:
    torch = pytest.importorskip("torch")
    c = problem
    kinds = (
        ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d") if c.transposed else ("Conv1d", "Conv2d", "Conv3d")
    )
    extra: dict[str, Any] = {"output_padding": c.output_padding} if c.transposed else {}
    pads = tuple(p for p, _ in c.padding)
    even = Conv.of(c.ic, c.oc, c.size, c.kernel, c.stride, pads, c.dilation, c.groups, c.bias, c.transposed,
                   c.output_padding, 2) if all(fits(c, p) for p in [pads]) else None  # fmt: skip
    if even is None:
        return
    layer = getattr(torch.nn, kinds[c.rank - 1])(
        c.ic, c.oc, c.kernel, c.stride, pads, dilation=c.dilation, groups=c.groups, bias=c.bias, device="meta", **extra
    )
    assert tuple(layer(torch.empty(even.in_shape, device="meta")).shape) == even.out_shape
    assert tuple(layer.weight.shape) == even.weight_shape
    assert sum(p.numel() for p in layer.parameters()) == even.params


def fits(c: Conv, pads: tuple[int, ...]) -> bool:
    """The same padding on both sides leaves an output."""
    each = zip(c.size, c.kernel, c.stride, pads, c.dilation, c.output_padding, strict=True)
    if c.transposed:
        return all((i - 1) * s - 2 * p + extent(k, d) + e >= 1 for i, k, s, p, d, e in each)
    return all(i + 2 * p >= extent(k, d) for i, k, s, p, d, e in each)


@many
@given(st.integers(1, 30), st.integers(1, 6), st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_same_padding(size: int, kernel: int, stride: int, dilation: int, lower: bool) -> None:
    before, after = same_padding(size, kernel, stride, dilation, lower)
    assert places_by_sliding(size, kernel, stride, before, after, dilation) == -(-size // stride)
    assert 0 <= (before - after if lower else after - before) <= 1
    if before + after > 0:  # one pixel less and a place is lost
        assert places_by_sliding(size, kernel, stride, before + after - 1, 0, dilation) < -(-size // stride)


@many
@given(axes(False, 1))
def test_ceil_keeps_a_last_window_that_starts_on_the_image(each: list[dict[str, int]]) -> None:
    (a,) = each
    floor_ = out_size(a["i"], a["k"], a["s"], a["p"], a["q"], a["d"])
    ceil_ = out_size(a["i"], a["k"], a["s"], a["p"], a["q"], a["d"], ceil=True)
    starts = [o * a["s"] - a["p"] for o in range(ceil_ + 2)]
    room = a["i"] + a["q"] - extent(a["k"], a["d"])
    assume(a["q"] < extent(a["k"], a["d"]))  # else a window could lie behind the image altogether
    assert ceil_ == floor_ + (starts[floor_ - 1] < room and starts[floor_] < a["i"])


@many
@given(axes(False, 1))
def test_taps_inside_by_counting(each: list[dict[str, int]]) -> None:
    (a,) = each
    out = out_size(a["i"], a["k"], a["s"], a["p"], a["q"], a["d"])
    counted = sum(0 <= o * a["s"] - a["p"] + k * a["d"] < a["i"] for o in range(out) for k in range(a["k"]))
    assert taps_inside(a["i"], out, a["k"], a["s"], a["p"], a["d"]) == counted


def test_taps_inside_takes_no_longer_for_longer_axes() -> None:
    assert taps_inside(10**15, 10**15, 3, 1, 1, 1) == 3 * 10**15 - 2


def test_predicates() -> None:
    assert Conv.of(8, 8, (5, 5), 3, groups=8).depthwise
    assert Conv.of(8, 16, (5, 5), 3, groups=8).depthwise
    assert not Conv.of(8, 8, (5, 5), 3, groups=4).depthwise
    assert not Conv.of(1, 8, (5, 5), 3).depthwise
    assert Conv.of(8, 8, (5, 5), 1).pointwise
    assert not Conv.of(8, 8, (5, 5), (1, 3)).pointwise


def test_padding_words_and_forms() -> None:
    shape = ((7, 8), (3, 4), (1, 2), (1, 1))
    assert resolve_padding("valid", *shape) == ((0, 0), (0, 0))
    assert resolve_padding("same", *shape) == ((1, 1), (1, 1))
    assert resolve_padding(2, *shape) == ((2, 2), (2, 2))
    assert resolve_padding([1, 2], *shape) == ((1, 1), (2, 2))
    assert resolve_padding([(1, 0), (2, 3)], *shape) == ((1, 0), (2, 3))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"groups": 5}, "96 input channels do not divide into 5 groups; use 1, 2, 3, 4, 6, 8, ... or change"),
        ({"groups": 3, "oc": 64}, "64 output channels do not divide into 3 groups; use 1, 2, 4, 8, 16, 32, ..."),
        ({"kernel": 9}, "shrinks below 1: kernel 9x9 spans 9 pixels on axis 0, the padded input has 8"),
        ({"kernel": 3, "dilation": 4}, "kernel 3x3 spans 9 pixels on axis 0, the padded input has 8"),
        ({"kernel": 0}, "kernel 0x0 must be at least 1 on every axis"),
        ({"stride": 0}, "stride 0x0 must be at least 1"),
        ({"stride": (1, 1, 1)}, "stride 1x1x1 has 3 values for 2 spatial axes"),
        ({"padding": -1}, "must not be negative; crop with `slice`"),
        ({"padding": (1, 2, 3)}, "padding has 3 values for 2 spatial axes"),
        ({"padding": "most"}, 'padding "most" is not known; use a number, one per axis, "same" or "valid"'),
        ({"output_padding": 1}, "output padding belongs to transposed convolutions only"),
        ({"transposed": True, "output_padding": 2, "stride": 2}, "output padding 2 must be below the stride 2"),
        ({"transposed": True, "padding": 8, "kernel": 1}, "the output shrinks below 1"),
        ({"ic": 0}, "channels and groups must be at least 1, got 0 in"),
        ({"n": -1}, "at least"),
    ],
)
def test_errors_name_the_values_and_the_rule(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError) as caught:
        Conv.of(**{"ic": 96, "oc": 96, "size": (8, 8), "kernel": 3, **wrong})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_resize_coordinates_at_the_ends() -> None:
    """align_corners maps the first and the last pixel onto each other, half pixels keep the centre."""
    for size, out in ((4, 7), (9, 3), (5, 5)):
        assert source_place(0, size, out, None, "align_corners") == 0
        assert source_place(out - 1, size, out, None, "align_corners") == size - 1
        centre = sum(source_place(o, size, out, None, "half_pixel") for o in range(out)) / out
        assert centre * 2 == size - 1
    assert source_place(0, 5, 1, None, "align_corners") == source_place(0, 5, 1, None, "pytorch_half_pixel") == 0


def test_rounding_of_halves() -> None:
    attrs = {"mode": "nearest", "coords": "asymmetric", "arithmetic": "onnx", "cubic_a": -0.75}
    words = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
    assert [taps({**attrs, "rounding": word}, 1, 2, 4, None) for word in words] == [
        ((0, 1.0),),
        ((1, 1.0),),
        ((0, 1.0),),
        ((1, 1.0),),
    ]
