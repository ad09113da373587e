"""What padding clips of a receptive field at the borders of the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dojang.arith.field import Tracked, image_size
from dojang.arith.graph import Graph
from dojang.arith.span import Hull, Span


@dataclass(frozen=True, slots=True)
class Border:
    """What padding clips of one axis of one layer. `before` pixels of the first position's field lie in front of the
    image and `after` pixels of the last position's field behind it; `whole` of the `places` positions see only the
    image.
    """

    before: int
    after: int
    whole: int
    places: int


def border(span: Span, places: int, size: int) -> Border:
    """What padding clips along an axis of `size` pixels, for a layer of `places` positions.

    >>> from dojang.arith.span import Span
    >>> border(Span(2, ((-3, 3),)), 112, 224)  # a 7x7 window with stride 2 and padding 3
    Border(before=3, after=2, whole=109, places=112)
    """
    first, last = span.at(0), span.at(places - 1)
    ends = [_outside(hull, size) for hull in (first, last)]
    return Border(ends[0][0], ends[1][1], _whole(span, places, size), places)


def _outside(hull: Hull, size: int) -> tuple[int, int]:
    return (max(0, -hull[0]), max(0, hull[1] - size + 1)) if hull else (0, 0)


def _whole(span: Span, places: int, size: int) -> int:
    """How many positions have their field inside the image. Per phase they are an interval: a formula counts."""
    if span.ends or span.advance <= 0:
        clear = [_outside(span.at(place), size) == (0, 0) for place in (range(places) if span.advance else (0,))]
        return sum(clear) if span.advance else places * clear[0]
    total = 0
    for phase, hull in enumerate(span.hulls[:places]):
        turns = (places - 1 - phase) // span.period
        if hull is None:
            total += turns + 1
            continue
        low, high = -(hull[0] // span.advance), (size - 1 - hull[1]) // span.advance
        total += max(0, min(turns, high) - max(0, low) + 1)
    return total


def borders(graph: Graph, found: Mapping[str, Tracked | None]) -> dict[str, tuple[Border, ...] | None]:
    """For every node, per axis of the image; None where the field is not known or inputs differ in size.

    `found` is what `field.track` gives.
    """
    sizes = {image_size(graph, node) for node in graph.inputs}
    if len(sizes) != 1:
        return dict.fromkeys(found)
    (image,) = sizes
    clipped: dict[str, tuple[Border, ...] | None] = {}
    for name, state in found.items():
        shape = graph.unit_shapes[name]
        if state is None or shape is None or len(state.spans) != len(image):
            clipped[name] = None
            continue
        axes = zip(state.spans, state.carriers, image, strict=True)
        clipped[name] = tuple(border(s, 1 if c is None else shape[c], size) for s, c, size in axes)
    return clipped
