"""Tables of text: what is clipped to keep within the width."""

from __future__ import annotations

from dojang.report.table import Column, table


def test_clipped_names_can_still_be_told_apart() -> None:
    names = [f"layer{i}.{j}.conv{k}" for i in (1, 2, 3) for j in (0, 1, 2) for k in (1, 2)]
    columns = [Column("layer", right=False, shrink=True), Column("value")]
    shown = table(columns, [[name, "1" * 30] for name in names], width=42).splitlines()[1:]
    assert len({line.split()[0] for line in shown}) == len(names)


def test_names_that_stay_different_are_clipped_to_the_width() -> None:
    names = [f"{letter}.a.very.long.name.of.a.layer.conv{i}" for i, letter in enumerate("abc")]
    shown = table([Column("layer", right=False, shrink=True), Column("value")], [[n, "1"] for n in names], width=30)
    assert max(map(len, shown.splitlines())) == 30
    assert all("…" in line for line in shown.splitlines()[1:])
