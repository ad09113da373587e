"""Measured costs of the filter methods on a processor, in cycles per vector register of the result."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dojang.native.machine import Machine


@dataclass(frozen=True, slots=True)
class FilterCosts:
    """Cycles per vector. The defaults were measured with single loops on a Zen 5 core (512 bits, November 2026)."""

    tap: float = 0.55  # a tap as a constant
    looped_tap: float = 0.62  # a tap from memory
    loop_row: float = 4.0  # of loops over taps: each kernel row, each pass, everything else
    loop_tap: float = 0.9
    loops: float = 12.0
    straight_tap: float = 0.55  # the same without a tile, and everything else; not measured on Zen
    straight: float = 4.0
    load: float = 2.0
    store: float = 4.0
    pass_tap: float = 0.95  # of a tile's passes: each tap, each pair of passes, all of them
    pass_pair: float = 2.0
    passes: float = 3.0
    equal_tap: float = 0.95  # instead of pass_tap, if all taps of a pass are equal
    large_tile: float = 1.0  # a factor, if a tile fills the L2 cache
    column_tap: float = 0.85  # of passes without a tile: each product, and everything else; not measured on Zen
    columns: float = 4.0
    fixed_product: float = 2.0  # of 16 bits, the upper half kept
    box: float = 6.0  # running sums; each step of the prefix sum
    box_step: float = 2.0
    uneven_box: float = 1.0  # a factor, if a register does not contain whole pixels
    doubling: float = 1.0  # sums by doubling: each vector that a step reads, and everything else
    doublings: float = 6.0
    butterfly2: float = 6.0
    butterfly4: float = 14.0
    short: float = 1.0  # factors for transforms of up to 64 rows, and for longer ones
    long: float = 1.0
    longest: float = 1.6  # a factor for butterflies of signals longer than `near_rows`
    near_rows: int = 256  # the longest signals that level 1 cache holds, a vector of them
    both_axes: float = 1.6  # a factor for transforms of both axes, whose tiles are large (Zen 4)
    turn: float = 8.0  # of those: each vector transposed twice
    far_tile: float = 30.0  # each vector of a tile that level 2 cache does not hold
    guard: float = 10.0  # of transforms of floats, whose picture is examined first: cycles per element
    pair_tap: float = 0.73  # products of pairs, measured on a Zen 3 core
    pair: float = 3.0
    pair_pass_tap: float = 0.95
    pair_passes: float = 3.6

    @property
    def butterflies(self) -> dict[int, float]:
        """Cycles of a butterfly by its radix; those of 3, 5 and 8 from their operations."""
        each = self.butterfly4 / 28
        return {2: self.butterfly2, 3: 24 * each, 4: self.butterfly4, 5: 56 * each, 8: 88 * each}


_ZEN5 = FilterCosts()
# A Zen 4 core (November 2026), which computes and loads 512 bits in two steps.
_ZEN4 = replace(
    _ZEN5, tap=1.05, straight_tap=1.29, looped_tap=1.08, loop_tap=1.5, pass_tap=1.5, equal_tap=1.5, column_tap=1.5,
    pair_pass_tap=1.5, pair_tap=0.95, short=1.1, long=1.1,
    guard=21.0,  # with 10, 11x11 on float64 was transformed, in 1.7 times the time of its sums
)  # fmt: skip
# 16 registers and 256 bits, on a Zen 3 core (November 2026).
_SIXTEEN = replace(
    _ZEN5, tap=0.66, straight_tap=0.66, equal_tap=0.62, large_tile=1.6, uneven_box=1.5, short=1.9, long=1.4
)
# An Intel server core with AVX-512 and AMX (2 MiB of level 2 cache, November 2026): its caches feed 512-bit
# registers at half the rate.
_INTEL = FilterCosts(
    tap=0.88, straight_tap=0.75, straight=5.0, looped_tap=0.75, load=3.0, store=5.5, pass_tap=1.2, passes=6.0,
    equal_tap=1.2, column_tap=1.1, columns=4.0, fixed_product=2.35, box=8.0, box_step=2.2, butterfly2=16.0,
    butterfly4=38.0, long=1.12, loop_tap=1.2, pair_tap=1.0, pair=2.0, pair_pass_tap=1.35, pair_passes=8.0,
)  # fmt: skip


def costs_of(machine: Machine) -> FilterCosts:
    """The measured costs of the most similar processor. They do not depend on the picture, and neither do plans."""
    if machine.registers < 32:
        return _SIXTEEN
    if machine.family == "amd-zen4":
        return _ZEN4
    return _INTEL if machine.isa == "avx512" and not machine.family.startswith("amd") else _ZEN5
