"""A number with its noun, and hints at misspelt names."""

from __future__ import annotations

import pytest

from dojang.base.wording import LONGEST, MOST, counted, did_you_mean


@pytest.mark.parametrize(
    ("count", "noun", "plural", "said"),
    [
        (0, "channel", None, "0 channels"),
        (1, "batch norm", None, "1 batch norm"),
        (2, "batch norm", None, "2 batch norms"),
        (1234567, "pass", None, "1,234,567 passes"),
        (2, "axis", "axes", "2 axes"),
        (2, "entry", None, "2 entries"),
        (2, "array", None, "2 arrays"),
    ],
)
def test_counted(count: int, noun: str, plural: str | None, said: str) -> None:
    assert counted(count, noun, plural) == said


def test_nearest_names() -> None:
    assert did_you_mean("cuont", ["solve", "count"], "use solve or count") == "did you mean count?"
    assert did_you_mean("zzz", ["solve", "count"], "use solve or count") == "use solve or count"
    assert did_you_mean("ab1", ["ab2", "ab3", "ab4"], "", most=2).count(" or ") == 1


def test_names_of_any_length_and_number_are_not_all_compared() -> None:
    assert did_you_mean("a" * 10**6, ["a" * 10**6], "none") == "none"
    assert did_you_mean("a", ["b"] * MOST + ["a"], "none") == "none"
    assert did_you_mean("a" * 10**6, ["a" * LONGEST], "none") == f"did you mean {'a' * LONGEST}?"
