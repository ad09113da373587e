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


def test_wide_letters_take_two_columns() -> None:
    """All cells of a column begin in the same column of a terminal, whatever letters stand before them."""
    import unicodedata

    from dojang.report.table import Column, table

    def columns(text: str) -> int:
        return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)

    rows = [["합성곱층", "1"], ["conv", "20,000"], ["밀집 dense", "3"], ["ｆｕｌｌ", "4"], ["가나다" * 20, "5"]]
    text = table([Column("layer", False, shrink=True), Column("params")], rows, width=40)
    lines = text.splitlines()
    ends = {columns(line) for line in lines}
    assert ends == {40}
    assert "…" in lines[-1]
