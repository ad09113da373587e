"""Symbolic sizes: the normal form keeps the value, whatever numbers are put in."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dojang.arith.symbol import Expr, symbol

H, W = symbol("H"), symbol("W")
STEPS = st.lists(
    st.tuples(st.sampled_from(["+", "-", "*", "//", "+W", "*W", "neg", "%"]), st.integers(1, 12)), max_size=8
)


def apply(value, w, steps):
    for op, n in steps:
        value = {
            "+": lambda v, n: v + n,
            "-": lambda v, n: n - v,
            "*": lambda v, n: n * v,
            "//": lambda v, n: v // n,
            "+W": lambda v, n: v + n * w,
            "*W": lambda v, n: v * w,
            "neg": lambda v, n: -v,
            "%": lambda v, n: v % n,
        }[op](value, n)
    return value


@settings(max_examples=300)
@given(STEPS, st.integers(1, 1000), st.integers(1, 1000))
def test_substitution_gives_what_numbers_give(steps, h, w):
    formula = apply(H, W, steps)
    expected = apply(h, w, steps)
    value = formula.at({"H": h, "W": w}) if isinstance(formula, Expr) else formula
    assert value == expected


def test_normal_form():
    assert str((H + 6 - 7) // 2 + 1) == "⌊(H + 1)/2⌋"
    halved = H
    for _ in range(5):
        halved = (halved - 1) // 2 + 1
    assert str(halved) == "⌊(H + 31)/32⌋"
    assert (2 * H + 4) // 2 == H + 2
    assert str((4 * H + 6) // 8) == "⌊(H + 1)/2⌋"
    assert (H + W) * (H - W) == H * H - W * W
    assert str(3 * H * W + 1000 * H - 5) == "3·H·W + 1,000·H - 5"
    assert H - H == 0
    assert hash(H - H + 5) == hash(5)


def test_comparison_takes_symbols_as_large():
    assert H > 1000
    assert max(H, 0) == H
    assert min(H - 3, 5) == 5
    assert not H < 1
    assert 2 * H > H + W - 5
    with pytest.raises(TypeError):
        _ = H < "a"


def test_exact_quotient():
    assert (6 * H * W) // (2 * W) == 3 * H
    with pytest.raises(ArithmeticError):
        _ = (H + 1) // W
    assert (H * Fraction(1, 2)).at({"H": 8}) == 4
