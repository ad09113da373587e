"""Published tables judged: every verdict that is known of the GoogLeNet and AlexNet tables comes out."""

from __future__ import annotations

import pytest

from dojang.arith.check import check
from dojang.base.errors import DataError, FileError, UsageError
from dojang.formats import tables, zoo


def judged(name):
    table = tables.load(name)
    result = check(table, zoo.load(table.network, weights=False))
    return result, {(cell.row, cell.column): cell for cell in result.cells}


def test_alexnet_lecture_finds_the_pool_that_was_left_out():
    result, cells = judged("alexnet-lecture")
    assert [cell.row[:3] for cell in result.mismatches] == ["fc6"]
    cell = result.mismatches[0]
    assert cell.computed == 37_748_736
    assert "13·13·256·4096 = 177,209,344: pool5 was left out" in cell.explanation
    assert "4.7 times" in cell.explanation
    cut = {cell.row[:5] for cell in cells.values() if "cut off" in cell.explanation}
    assert cut == {"conv3", "conv4", "fc7: "}


def test_googlenet_table_1():
    result, cells = judged("googlenet-table1")
    wrong = {(cell.row, cell.column) for cell in result.mismatches}
    assert wrong == {
        ("convolution 7x7/2", "params"),
        ("convolution 7x7/2", "macs"),
        ("inception (4c)", "params"),
        ("inception (4d)", "params"),
        ("inception (5a)", "params"),
        ("inception (5a)", "macs"),
        ("inception (5b)", "params"),
    }
    assert result.conventions == {"params": "K = 1024, without biases", "macs": "as named"}
    stem = "7·7·3·8 + 24·64 = 2,712"
    assert stem in cells["convolution 7x7/2", "params"].explanation
    assert stem in cells["convolution 7x7/2", "macs"].explanation
    assert "no nearby configuration" in cells["inception (5a)", "macs"].explanation
    assert cells["convolution 3x3/1", "params"].verdict == "convention"
    assert cells["linear", "params"].computed == 1_024_000
    # weights and MACs of every row, without biases
    true = {
        "convolution 7x7/2": (9_408, 118_013_952),
        "convolution 3x3/1": (114_688, 359_661_568),
        "inception (3a)": (163_328, 128_049_152),
        "inception (3b)": (388_096, 304_267_264),
        "inception (4a)": (375_552, 73_608_192),
        "inception (4b)": (448_512, 87_908_352),
        "inception (4c)": (509_440, 99_850_240),
        "inception (4d)": (604_672, 118_515_712),
        "inception (4e)": (867_328, 169_996_288),
        "inception (5a)": (1_042_432, 51_079_168),
        "inception (5b)": (1_442_816, 70_697_984),
    }
    assert {row: (cells[row, "params"].computed, cells[row, "macs"].computed) for row in true} == true
    assert all(cell.verdict == "exact" for (_, column), cell in cells.items() if column == "out_shape")


MINE = """# title: mine
row,layers,params,macs,out_shape
a,c,{params},{macs},{shape}
"""


@pytest.mark.parametrize(
    ("params", "macs", "shape", "verdicts"),
    [
        ("73792", "147,456,000", "40x50x64", ("exact", "exact", "exact")),
        ("73.8k", "147M", "64x40x50", ("rounded", "rounded", "convention")),
        ("73728", "294,912,000", "50x40x64", ("convention", "convention", "mismatch")),
        ("76,728", "148M", "40x50", ("mismatch", "rounded", "mismatch")),
    ],
)
def test_own_tables(params, macs, shape, verdicts):
    from dojang.formats.text import parse

    table = tables.parse(MINE.format(params=params, macs=f'"{macs}"', shape=shape).replace(",76,728", ',"76,728"'))
    result = check(table, parse("input 128x40x50\nc: conv 64 3x3 pad=1"))
    assert tuple(cell.verdict for cell in result.cells) == verdicts


def test_a_kernel_slip_is_explained():
    from dojang.formats.text import parse

    net = parse("input 16x20x20\nc: conv 32 3x3 pad=1")
    table = tables.parse("row,layers,weights,macs\na,c,12800,5120000")
    assert all("5x5 in place of 3x3" in cell.explanation for cell in check(table, net).mismatches)
    table = tables.parse("row,layers,weights,macs\na,c,12800,1843200")  # MACs are right, so it cannot be a 5x5
    assert "no nearby" in check(table, net).mismatches[0].explanation


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no table"),
        ("row,layers\na,b", "header"),
        ("row,layers,speed\na,b,1", "column 'speed'"),
        ("row,layers,macs\na,b", "2 cells under 3 columns"),
        ("row,layers,macs\na,b,fast", "'fast' is not a number"),
        ("row,layers,macs\na,,1", "names no layers"),
        ("row,layers,macs\na,c,1\na,c,1", "same label"),
    ],
)
def test_bad_tables(text, words):
    with pytest.raises(DataError, match=words):
        tables.parse(text)


def test_bad_names_and_rows(tmp_path):
    with pytest.raises(UsageError, match="googlenet-table1"):
        tables.load("googlenet")
    with pytest.raises(FileError, match="no such file"):
        tables.load(tmp_path / "none.csv")
    with pytest.raises(DataError, match="no layer of lenet5 is called xx"):
        check(tables.parse("row,layers,macs\na,xx,1"), zoo.load("lenet5"))
