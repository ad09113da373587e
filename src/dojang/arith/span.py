"""The pixels that one position of a layer sees along one axis of the image: exact for any strides and factors.

On an infinite axis every layer is periodic: a position one period further sees the same pixels, shifted by a whole
number. So a span needs one range of pixels (a hull) for each position of one period. If the hulls never move back from
one position to the next, which only flips and rolls make them do, a window of any length sees from the first pixel of
its first position to the last pixel of its last one. The positions of one period must be listed; `bounded` limits how
many the layers of a network may list in total.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from fractions import Fraction
from math import gcd, lcm
from typing import Any

SAID = 8
"""The most phases that are described in words."""

Hull = tuple[int, int] | None
"""First and last pixel seen; None where nothing is seen."""

MOST_PLACES = 1 << 16
"""The most positions that all layers of one network may list: 32 axes of 2048 positions enlarged by an odd factor."""

MOST_WALKED = 1 << 18
"""The most positions of resized axes, in one network, that are computed one by one because rounding decides them."""

_left: ContextVar[list[int] | None] = ContextVar("positions left to list and to walk", default=None)


class TooManyPlaces(Exception):
    """A layer needs more positions than `MOST_PLACES` (of resized axes, `MOST_WALKED`) leave; its receptive field is
    then not known."""


@contextmanager
def bounded(places: int = MOST_PLACES) -> Generator[None]:
    """A context in which so many positions may be listed; a layer that needs more raises `TooManyPlaces`."""
    token = _left.set([places, MOST_WALKED])
    try:
        yield
    finally:
        _left.reset(token)


def _list(places: int) -> None:
    _take(places, 0)


def walk(places: int) -> None:
    """Announces that so many positions of an axis will be computed one by one. Raises `TooManyPlaces`."""
    _take(places, 1)


def _take(places: int, which: int) -> None:
    left = _left.get()
    if left is not None:
        if places > left[which]:
            raise TooManyPlaces
        left[which] -= places


@dataclass(frozen=True, slots=True)
class Span:
    """Place q·period + r sees the pixels from q·advance + hulls[r][0] to q·advance + hulls[r][1].

    Pixels count from 0; negative ones and those beyond the image are padding. With advance 0 all positions see the
    same. With `ends`, `hulls` lists every position of the axis, and positions outside see nothing.
    """

    advance: int
    hulls: tuple[Hull, ...]
    ends: bool = False
    moves_on: bool = field(init=False, compare=False, repr=False)
    """Whether every position sees something, and first and last pixel never move back from one position to the next."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "moves_on", _moves_on(self))

    @property
    def period(self) -> int:
        """After how many positions the span repeats: 1 unless a layer enlarged the axis."""
        return len(self.hulls)

    @property
    def jump(self) -> Fraction:
        """Pixels from one position to the next, on average; 0 where every position sees the same."""
        return Fraction(self.advance, self.period)

    @property
    def size(self) -> int:
        """The most pixels, padding included, from the first to the last that one position sees."""
        return max((hull[1] - hull[0] + 1 for hull in self.hulls if hull), default=0)

    @property
    def first(self) -> Fraction:
        """Place o sees no pixel before o·jump + first."""
        jump = self.jump
        return min((hull[0] - r * jump for r, hull in enumerate(self.hulls) if hull), default=Fraction(0))

    @property
    def last(self) -> Fraction:
        """Place o sees no pixel behind o·jump + last."""
        jump = self.jump
        return max((hull[1] - r * jump for r, hull in enumerate(self.hulls) if hull), default=Fraction(0))

    @property
    def line(self) -> bool:
        """Whether every position o sees exactly the pixels from o·jump + first to o·jump + last.

        It is False if phases differ (transposed layers, resizing), if some positions see nothing, and if the axis is
        joined from parts (rolled, concatenated, mirrored); then `at` says what a position sees.
        """
        jump, first, last = self.jump, self.first, self.last
        return all(h is not None and (h[0], h[1]) == (r * jump + first, r * jump + last)
                   for r, h in enumerate(self.hulls))  # fmt: skip

    def __str__(self) -> str:
        """What positions see, in words: one formula, or phase by phase.

        >>> print(Span(2, ((-3, 3),)))
        position o sees pixels 2·o - 3 to 2·o + 3
        >>> print(Span(1, ((-1, 0), (0, 0))))
        positions 2·q see pixels q - 1 to q; positions 2·q + 1 see pixels q to q
        """
        if not self.advance:
            (hull,) = self.hulls
            return f"every position sees pixels {hull[0]} to {hull[1]}" if hull else "no position sees a pixel"
        if self.line:
            return (
                f"position o sees pixels {_linear(self.jump, 'o', self.first)} to {_linear(self.jump, 'o', self.last)}"
            )
        parts: list[str] = []
        for r, hull in enumerate(self.hulls[:SAID]):
            who = (
                f"position {r} sees"
                if self.ends
                else f"positions {_linear(Fraction(self.period), 'q', Fraction(r))} see"
            )
            on = Fraction(0 if self.ends else self.advance)
            ends = " to ".join(_linear(on, "q", Fraction(p)) for p in hull or ())
            parts.append(f"{who} {'pixels ' + ends if hull else 'none'}")
        more = [f"and so on for {self.period - SAID} more, which --json lists"] if self.period > SAID else []
        return "; ".join(parts + more)

    def to_dict(self) -> dict[str, Any]:
        """Everything `at` knows: position o sees `seen[o % period]` shifted by `(o // period) · advance` pixels.

        `seen` holds [first, last], or None if nothing is seen. With `ends` it lists every position.
        """
        seen = [list(hull) if hull else None for hull in self.hulls]
        return {"period": self.period, "advance": self.advance, "ends": self.ends, "seen": seen}

    def at(self, place: int) -> Hull:
        """What one position sees."""
        if self.ends and not 0 <= place < self.period:
            return None
        turns, phase = divmod(place, self.period)
        hull = self.hulls[phase]
        return (hull[0] + turns * self.advance, hull[1] + turns * self.advance) if hull else None

    def over(self, places: Sequence[int]) -> Hull:
        """What several positions, in ascending or descending order, see together."""
        if self.ends and isinstance(places, range):
            places = _clipped(places, self.period)
        if len(places) > 2 and self.moves_on and (isinstance(places, range) or not self.ends):
            places = (places[0], places[-1])
        elif isinstance(places, range):
            # in a later period, a position sees later pixels: the first and the last period decide
            turn = self.period // gcd(self.period, places.step)
            if places[-1:] and not self.ends and _long(places, 2 * turn):
                places = (*places[:turn], *places[-turn:])
            _list(len(places))
        return hull_of(self.at(place) for place in places)

    def whole(self, size: int) -> Span:
        """The span in which every position sees what all `size` positions of the axis see together."""
        return Span(0, (self.over(range(size)),))


def _linear(slope: Fraction, name: str, start: Fraction) -> str:
    """2·o - 3, o, 7: a line as it is written."""
    times = {"0": "", "1": name, "-1": f"-{name}"}.get(str(slope), f"{_said(slope)}·{name}")
    if not times:
        return _said(start)
    return times if not start else f"{times} {'-' if start < 0 else '+'} {_said(abs(start))}"


def _said(value: Fraction) -> str:
    return str(value) if value.denominator == 1 else f"({value})"


def _moves_on(span: Span) -> bool:
    if not span.hulls:
        return False
    before: Hull = None
    for hull in span.hulls:
        if hull is None or (before is not None and (hull[0] < before[0] or hull[1] < before[1])):
            return False
        before = hull
    first, last = span.hulls[0], span.hulls[-1]
    if span.ends or first is None or last is None:
        return span.ends
    return first[0] + span.advance >= last[0] and first[1] + span.advance >= last[1]


def _clipped(places: range, size: int) -> range:
    """The positions of a range that lie in 0 … size − 1."""
    if places.step < 0:
        places = places[::-1]
    start, step = places.start, places.step
    if start < 0:
        start += -(start // step) * step
    return range(start, min(places.stop, size), step)


def _long(places: range, most: int) -> bool:
    return abs(places.stop - places.start) > most * abs(places.step)


PIXEL = Span(1, ((0, 0),))
"""A pixel of the image sees itself."""


@dataclass(frozen=True, slots=True)
class Reads:
    """The positions of its input that a layer reads along an axis: output o + period reads those of o, plus `advance`.

    `places(o)` gives them for 0 ≤ o < `period`, in ascending or descending order. With `ends` these are all outputs: an
    axis that is joined from parts does not continue outside, and padding there sees nothing.
    """

    period: int
    advance: int
    places: Callable[[int], Sequence[int]]
    ends: bool = False


def hull_of(hulls: Iterable[Hull]) -> Hull:
    """The smallest hull around several."""
    found = [hull for hull in hulls if hull]
    return (min(low for low, _ in found), max(high for _, high in found)) if found else None


def through(before: Span, reads: Reads, out: int) -> Span:
    """The span after a layer with `out` positions.

    If the period would be longer than the axis, the span lists every position of the axis.
    """
    if not before.advance:
        return before
    turns = before.period // gcd(before.period, reads.advance)
    period = reads.period * turns
    moved = reads.advance * turns // before.period * before.advance

    def at(place: int) -> Hull:
        again, phase = divmod(place, reads.period)
        places, by = reads.places(phase), again * reads.advance
        if isinstance(places, range):
            return before.over(range(places.start + by, places.stop + by, places.step))
        return before.over([p + by for p in places])

    return tabled(at, period, moved, out, before.ends or reads.ends)


def union(a: Span, b: Span, out: int) -> Span:
    """What two branches see together on an axis of `out` positions. If one of them sees the whole axis, so do both."""
    if not a.advance or not b.advance:
        return Span(0, (hull_of((a.whole(out).at(0), b.whole(out).at(0))),))
    period = lcm(a.period, b.period)
    ends = a.ends or b.ends or a.jump != b.jump  # the branches drift apart: list every position
    return tabled(lambda place: hull_of((a.at(place), b.at(place))), period, int(a.jump * period), out, ends)


def tabled(at: Callable[[int], Hull], period: int, advance: int, out: int, ends: bool) -> Span:
    """The span of a function of the position. With `ends`, or a period above the axis, it lists every position."""
    if out < 1:
        return Span(0, (None,))  # an axis without positions
    _list(period if not ends and period <= out else out)
    if not ends and period <= out:
        return Span(advance, tuple(at(place) for place in range(period)))
    # The advance keeps the slope. It must not be 0, which would mean that all positions see the same.
    slope = Fraction(advance, period) * out
    return Span(round(slope) or (1 if slope > 0 else -1), tuple(at(place) for place in range(out)), True)
