"""The table of kinds: layers follow each other, and the printed formulas give the counted figures."""

from __future__ import annotations

from math import prod

import pytest

from dojang.arith.kinds import field_trade, kinds


@pytest.mark.parametrize(("channels", "filters", "size", "kernel"), [(64, 64, 32, 3), (12, 20, 17, 5), (8, 8, 9, 3)])
def test_formulas_give_the_counts(channels, filters, size, kernel):
    for kind in kinds(channels, filters, size, kernel):
        for before, after in zip(kind.layers, kind.layers[1:], strict=False):
            if kind.name == "deformable":  # offsets and result both come from the input
                assert before.in_shape == after.in_shape
                assert before.oc == 2 * kernel**2
                continue
            assert before.out_shape == after.in_shape
        first = kind.layers[0]
        groups = first.groups
        values = {"K": kernel**2, "k": kernel, "C": channels, "N": filters, "g": groups}
        values |= {"A": prod(kind.layers[-1].out_size), "A_in": prod(first.size)}
        if filters % 4 == 0:
            assert evaluate(kind.weights_formula, values) == kind.weights, kind.name
        if kind.name not in ("strided", "strided per axis"):  # their A is the plain layer's
            assert evaluate(kind.macs_formula, values) == kind.macs, kind.name
        else:
            assert kind.macs == prod(kind.layers[0].out_size) * kind.weights


def evaluate(formula: str, values: dict[str, int]) -> float:
    text = formula.replace("·", "*").replace("²", "**2").replace("³", "**3")
    return eval(text, dict(values))  # the text is this project's own table


def test_three_small_kernels_see_what_a_large_one_sees():
    rows = {(r["kernel"], r["layers"]): r["weights"] for r in field_trade(7, 64) if r["dilation"] == 1}
    assert rows[7, 1] == 49 * 64**2
    assert rows[3, 3] == 27 * 64**2
    for row in field_trade(9, 8):
        assert row["layers"] * (row["kernel"] - 1) * row["dilation"] + 1 == 9
