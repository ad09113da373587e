"""What padding clips of a field, held against looking at every place."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from dojang.arith.border import Border, border
from dojang.arith.cost import count
from dojang.arith.field import track
from dojang.arith.span import Span
from dojang.formats import zoo
from dojang.formats.text import parse

HULLS = st.lists(
    st.one_of(st.none(), st.tuples(st.integers(-9, 9), st.integers(0, 9)).map(lambda p: (p[0], p[0] + p[1]))),
    min_size=1,
    max_size=4,
)


@given(st.integers(0, 5), HULLS, st.integers(1, 40), st.integers(1, 60), st.booleans())
@settings(max_examples=400)
def test_every_place_looked_at(advance: int, hulls: list, places: int, size: int, ends: bool) -> None:
    span = Span(advance, tuple(hulls) if advance else (hulls[0],), ends)
    found = border(span, places, size)
    seen = [span.at(place) if advance else span.at(0) for place in range(places)]
    assert found.whole == sum(h is None or (h[0] >= 0 and h[1] < size) for h in seen)
    assert found.before == (max(0, -seen[0][0]) if seen[0] else 0)
    last = span.at(places - 1)
    assert found.after == (max(0, last[1] - size + 1) if last else 0)


def test_every_layer_of_a_network() -> None:
    graph = zoo.load("googlenet", weights=False)
    states = track(graph)
    for layer in count(graph).layers:
        state = states[layer.name]
        for axis, (b, span, carrier) in enumerate(zip(layer.border, state.spans, state.carriers, strict=True)):
            places = 1 if carrier is None else layer.shape[carrier]
            hulls = [span.at(o) for o in range(places)]
            size = graph.inputs[0].attrs["shape"][1 + axis]
            assert b.whole == sum(low >= 0 and high < size for low, high in hulls)
            assert (b.before, b.after) == (max(0, -hulls[0][0]), max(0, hulls[-1][1] - size + 1))


def test_shown_in_json() -> None:
    row = count(parse("input 3x224x200\nconv 8 7x7/2 pad=3")).to_dict()["layers"][1]["receptive_field"]
    assert (row["clipped"], row["unclipped_places"]) == ([[3, 2], [3, 2]], [109, 97])


def test_inputs_of_different_sizes() -> None:
    layers = count(parse("a: input 1x8x8\nb: input 1x9x9\nconv 2 3x3 pad=1 <- a\noutput conv1, b")).layers
    assert all(layer.border is None for layer in layers)
    assert Border(0, 0, 1, 1) == border(Span(0, ((0, 7),)), 1, 8)
