"""What one place of a layer sees along one axis of the image, exactly, through any chain of strides and factors.

On an axis without ends every layer repeats itself: the place that lies a period further sees what this one sees,
moved on by a whole number of pixels. So a span needs only one hull of pixels for each place of one period. Where hulls
only move on from place to place, as they do but for flips and rolls, a window sees what its two ends see, however long
it is. What is left is to list the places of one period: `bounded` limits how many all layers of a network may list.
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
"""Phases that are told in words, at most."""

Hull = tuple[int, int] | None
"""First and last pixel seen; None where nothing is seen."""

MOST_PLACES = 1 << 16
"""Places that all layers of one network may list: 32 axes of 2048 places that an odd factor enlarged."""

MOST_WALKED = 1 << 18
"""Places of resized axes that are looked at one by one, in one network: what each reads is a matter of rounding."""

_left: ContextVar[list[int] | None] = ContextVar("places left to list and to walk", default=None)


class TooManyPlaces(Exception):
    """The places of the network's layers are more than `MOST_PLACES`, or more than `MOST_WALKED` of resized axes; its
    receptive field is then not known."""


@contextmanager
def bounded(places: int = MOST_PLACES) -> Generator[None]:
    """Within it so many places may be listed; the layer that would list or walk more raises `TooManyPlaces`."""
    token = _left.set([places, MOST_WALKED])
    try:
        yield
    finally:
        _left.reset(token)


def _list(places: int) -> None:
    _take(places, 0)


def walk(places: int) -> None:
    """Told that so many places of an axis will be looked at one by one. Raises `TooManyPlaces`."""
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

    Pixels count from 0; negative ones and those beyond the image are padding. With advance 0 every place sees the
    same. With `ends`, `hulls` holds every place of the axis and there is none outside: padding there sees nothing.
    """

    advance: int
    hulls: tuple[Hull, ...]
    ends: bool = False
    moves_on: bool = field(init=False, compare=False, repr=False)
    """Every place sees something, and neither its first nor its last pixel lies before that of the place before it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "moves_on", _moves_on(self))

    @property
    def period(self) -> int:
        """Places until the span repeats itself: 1 unless something enlarged the axis."""
        return len(self.hulls)

    @property
    def jump(self) -> Fraction:
        """Pixels from one place to the next, on average; 0 where every place sees the same."""
        return Fraction(self.advance, self.period)

    @property
    def size(self) -> int:
        """Pixels from the first to the last that one place sees, padding included: the most over all places."""
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
        """Whether one line holds for all places: o sees exactly from o·jump + first to o·jump + last.

        It does not where phases differ (transposed layers, resizing), where places see nothing, and where the axis is
        put together from parts (rolled, joined, mirrored): there only `at` says what a place sees.
        """
        jump, first, last = self.jump, self.first, self.last
        return all(h is not None and (h[0], h[1]) == (r * jump + first, r * jump + last)
                   for r, h in enumerate(self.hulls))  # fmt: skip

    def __str__(self) -> str:
        """What places see, in words: the line, or phase by phase.

        >>> print(Span(2, ((-3, 3),)))
        place o sees pixels 2·o - 3 to 2·o + 3
        >>> print(Span(1, ((-1, 0), (0, 0))))
        places 2·q see pixels q - 1 to q; places 2·q + 1 see pixels q to q
        """
        if not self.advance:
            (hull,) = self.hulls
            return f"every place sees pixels {hull[0]} to {hull[1]}" if hull else "no place sees a pixel"
        if self.line:
            return f"place o sees pixels {_linear(self.jump, 'o', self.first)} to {_linear(self.jump, 'o', self.last)}"
        parts: list[str] = []
        for r, hull in enumerate(self.hulls[:SAID]):
            who = f"place {r} sees" if self.ends else f"places {_linear(Fraction(self.period), 'q', Fraction(r))} see"
            on = Fraction(0 if self.ends else self.advance)
            ends = " to ".join(_linear(on, "q", Fraction(p)) for p in hull or ())
            parts.append(f"{who} {'pixels ' + ends if hull else 'none'}")
        more = [f"and so on for {self.period - SAID} more, told in --json"] if self.period > SAID else []
        return "; ".join(parts + more)

    def to_dict(self) -> dict[str, Any]:
        """Everything `at` knows: place o sees `seen[o % period]` moved on by `(o // period) · advance` pixels.

        `seen` holds [first, last], or None where nothing is seen. With `ends` it lists every place there is.
        """
        seen = [list(hull) if hull else None for hull in self.hulls]
        return {"period": self.period, "advance": self.advance, "ends": self.ends, "seen": seen}

    def at(self, place: int) -> Hull:
        """What one place sees."""
        if self.ends and not 0 <= place < self.period:
            return None
        turns, phase = divmod(place, self.period)
        hull = self.hulls[phase]
        return (hull[0] + turns * self.advance, hull[1] + turns * self.advance) if hull else None

    def over(self, places: Sequence[int]) -> Hull:
        """What several places, in ascending or descending order, see together."""
        if self.ends and isinstance(places, range):
            places = _clipped(places, self.period)
        if len(places) > 2 and self.moves_on and (isinstance(places, range) or not self.ends):
            places = (places[0], places[-1])
        elif isinstance(places, range):
            # the same place of a later period sees later pixels: the first and the last period decide
            turn = self.period // gcd(self.period, places.step)
            if places[-1:] and not self.ends and _long(places, 2 * turn):
                places = (*places[:turn], *places[-turn:])
            _list(len(places))
        return hull_of(self.at(place) for place in places)

    def whole(self, size: int) -> Span:
        """What all `size` places of the axis see together, for every place."""
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
    """The places of a range that lie in 0 … size − 1."""
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
    """Which places of its input a layer reads along an axis: output o + period reads what o reads, `advance` further.

    `places(o)` for o from 0 to before `period`, in ascending or descending order. With `ends` these are all outputs
    there are: an axis that is put together from parts does not go on outside, and padding there sees nothing.
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
    """The span after a layer with `out` places.

    Where the exact period would be longer than the axis, the span holds every place of the axis.
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
    """What two branches see together on an axis of `out` places: everything, for all, where one of them sees it all."""
    if not a.advance or not b.advance:
        return Span(0, (hull_of((a.whole(out).at(0), b.whole(out).at(0))),))
    period = lcm(a.period, b.period)
    ends = a.ends or b.ends or a.jump != b.jump  # branches that drift apart: every place on its own
    return tabled(lambda place: hull_of((a.at(place), b.at(place))), period, int(a.jump * period), out, ends)


def tabled(at: Callable[[int], Hull], period: int, advance: int, out: int, ends: bool) -> Span:
    """The span of a function of the place; with `ends`, or where its period is longer than the axis, place by place."""
    if out < 1:
        return Span(0, (None,))  # an axis without places
    _list(period if not ends and period <= out else out)
    if not ends and period <= out:
        return Span(advance, tuple(at(place) for place in range(period)))
    # The advance keeps the slope; it is never 0, which would say that every place sees the same.
    slope = Fraction(advance, period) * out
    return Span(round(slope) or (1 if slope > 0 else -1), tuple(at(place) for place in range(out)), True)
