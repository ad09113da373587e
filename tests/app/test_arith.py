from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Command, check_golden


def test_solve(dojang: Command) -> None:
    ran = dojang("solve", "--in", "32x32x3", "--out", "32x32x8", "--kernel", "5", "--stride", "1")
    assert ran.code == 0
    check_golden("solve.txt", ran.out)
    data = json.loads(dojang("solve", "--in", "7x7x1", "--out", "5x5x1", "--no-bias", "--json").out)
    best = data["solutions"][0]
    assert (best["kernel"], best["padding"], best["params"]) == ([3, 3], [0, 0], 9)
    assert data["schema"] == "dojang.solve/1"


def test_solve_takes_both_orders_of_sizes(dojang: Command) -> None:
    last = dojang("solve", "--in", "224x200x3", "--out", "14x25x8").out
    assert dojang("solve", "--in", "3,224,200", "--out", "8,14,25").out == last
    said = json.loads(dojang("solve", "--in", "3,9,9", "--kernel", "2", "--padding", "0:1", "--json").out)
    assert said["solutions"][0]["padding"] == [[0, 1], [0, 1]]
    assert said["solutions"][0]["out_shape"] == [3, 9, 9]
    assert (said["searched"], said["found"]) == (None, 1)


def test_solve_says_what_it_searched(dojang: Command) -> None:
    ran = dojang("solve", "--in", "224x224x3", "--out", "14x14x768")
    assert ran.out.splitlines()[1].split()[1:4] == ["16x16", "16x16", "0x0"]  # as a vision transformer cuts patches
    assert "the simplest 50 of" in ran.out
    assert "Searched: kernels of 1 to 11, of the stride" in ran.out
    none = dojang("solve", "--in", "32x32x3", "--out", "31x64x8", "--stride", "3")
    assert none.code == 1
    assert "Searched: kernels" in none.out


def test_solve_of_one_shape(dojang: Command) -> None:
    flags = ("--kernel", "3", "--padding", "1", "--filters", "64", "--no-bias")
    data = json.loads(dojang("solve", "--in", "40x50x128", *flags, "--json").out)
    assert data["solutions"][0]["params"] == 73_728
    assert data["solutions"][0]["out_shape"] == [64, 40, 50]


def test_nothing_fits(dojang: Command) -> None:
    ran = dojang("solve", "--in", "32x32x3", "--out", "31x64x8", "--stride", "3")
    assert ran.code == 1
    assert ran.out.startswith("no layer fits: ")


def test_check(dojang: Command) -> None:
    ran = dojang("check", "alexnet-lecture")
    assert ran.code == 1
    check_golden("check-alexnet.txt", ran.out)
    data = json.loads(dojang("check", "googlenet-table1", "--json").out)
    stem = next(c for c in data["cells"] if c["row"].startswith("convolution 7x7") and c["column"] == "params")
    assert stem["verdict"] == "mismatch"
    assert "2,712" in stem["explanation"]


def test_check_of_ones_own_table(dojang: Command, small: Path, tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("# title: Mine\n# source: me\n# network: x\nrow,layers,weights,macs\nfirst,conv1,300,235200\n")
    ran = dojang("check", table, small)
    assert (ran.code, ran.err) == (0, "")
    assert "2 cells, 0 wrong" in ran.out


def test_compare(dojang: Command) -> None:
    ran = dojang("compare", "alexnet", "alexnet-one-tower")
    assert ran.code == 0
    check_golden("compare.txt", ran.out)
    data = json.loads(dojang("compare", "alexnet", "alexnet", "--json").out)
    assert {row["change"] for row in data["layers"]} == {"same"}


def test_explain(dojang: Command) -> None:
    ran = dojang("count", "alexnet", "--explain", "conv2")
    assert ran.code == 0
    check_golden("explain.txt", ran.out)
    assert json.loads(dojang("count", "alexnet", "--explain", "fc6", "--json").out)["layer"] == "fc6"
    assert dojang("count", "alexnet", "--explain", "conv9").code == 2


def test_tables_are_listed(dojang: Command) -> None:
    tables = {row["name"] for row in json.loads(dojang("list", "tables", "--json").out)["tables"]}
    assert tables >= {"alexnet-lecture", "googlenet-table1"}


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("solve",), 2, "give an input shape"),
        (("solve", "--in", "32x32"), 2, "kernel"),
        (("solve", "--in", "abc", "--out", "1"), 2, "'abc' is no shape; write HxWxC such as 224x224x3"),
        (("solve", "--in", "3,224x224", "--kernel", "3"), 2, "or C,H,W such as 3,224,224"),
        (("solve", "--in", "9x9x1", "--out", "7x7x1", "--padding", "1:2:3"), 2, "before:after"),
        (("solve", "--in", "9x9x1", "--kernel", "x"), 2, "one for each axis with commas between them"),
        (("check", "alexnet-lectur"), 2, "did you mean alexnet-lecture"),
        (("check", "no.csv"), 4, "no.csv"),
        (("check", "alexnet-lecture", "vgg16"), 2, "no layer of vgg16 is called conv1"),
        (("compare", "alexnet", "nothing"), 2, "nothing"),
    ],
)
def test_bad_usage(dojang: Command, args: tuple[str, ...], code: int, says: str) -> None:
    ran = dojang(*args)
    assert (ran.code, ran.out) == (code, "")
    assert says in ran.err
    assert len(ran.err.splitlines()) == 1
