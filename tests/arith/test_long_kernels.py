"""Kernels and axes of millions of places: closed forms against counting place by place."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from dojang.arith import field
from dojang.arith.cost import count
from dojang.arith.span import Span
from dojang.arith.window import floor_sum, taps_inside
from dojang.formats.text import parse

small = st.integers(1, 12)


@given(small, small, small, small, st.integers(-4, 16), small)
@settings(max_examples=400)
def test_taps_on_the_input_are_those_that_a_walk_finds(size, out, kernel, stride, before, dilation):
    walked = sum(
        0 <= o * stride - before + k * dilation < size for o, k in itertools.product(range(out), range(kernel))
    )
    assert taps_inside(size, out, kernel, stride, before, dilation) == walked


@given(st.integers(0, 40), st.integers(1, 30), st.integers(0, 90), st.integers(0, 90))
@settings(max_examples=200)
def test_sums_of_floors(n, m, a, b):
    assert floor_sum(n, m, a, b) == sum((a * i + b) // m for i in range(n))


@given(small, st.integers(1, 40), st.integers(-5, 20), small, st.integers(-30, 30))
@settings(max_examples=400)
def test_places_that_a_transposed_kernel_reads(stride, kernel, before, dilation, o):
    reads = field.spread(kernel, stride, before, dilation).places(o)
    walked = [(o + before - k * dilation) for k in range(kernel)]
    assert list(reads) == [total // stride for total in walked if total % stride == 0]


@st.composite
def spans(draw):
    hulls = [
        draw(st.none() | st.tuples(st.integers(-20, 20), st.integers(0, 9)).map(lambda p: (p[0], p[0] + p[1])))
        for _ in range(draw(st.integers(1, 7)))
    ]
    return Span(draw(st.integers(1, 9)), tuple(hulls), draw(st.booleans()))


@given(spans(), st.integers(-40, 40), st.integers(1, 200), st.sampled_from([-3, -2, -1, 1, 2, 5]))
@settings(max_examples=600)
def test_what_a_long_window_sees_is_what_its_places_see(span, start, count_, step):
    places = range(start, start + count_ * step, step)
    seen = [hull for hull in map(span.at, places) if hull]
    hull = (min(low for low, _ in seen), max(high for _, high in seen)) if seen else None
    assert span.over(places) == hull
    assert span.over(list(places)) == hull


def test_a_kernel_of_a_million_million_taps():
    """Every output sees all 8 pixels of each axis, whose taps are the only ones inside."""
    graph = parse("input 3x8x8\nconv 8 1000000000x1000000000 pad=500000000\n")
    (out, _) = graph.unit_shapes["conv1"][2:]
    assert count(graph, exact_padding=True).total.macs == 8 * 3 * (8 * out) ** 2  # every (pixel, place) pair meets
    assert [span.size for span in field.fields(graph)["conv1"]] == [10**9, 10**9]


def test_an_axis_too_long_to_list_has_no_field_but_is_counted():
    graph = parse("input 3x1000000x8\nresize size=999983x7\nconv 3 3x3\n")
    assert field.fields(graph)["conv1"] is None
    assert count(graph).total.macs == 3 * 3 * 9 * 999981 * 5
