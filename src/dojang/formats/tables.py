"""Published tables as CSV: comment lines `# key: value` (title, source, network), then a header, then rows.

    # title: GoogLeNet, Table 1
    # source: Szegedy et al., CVPR 2015
    # network: googlenet
    row,layers,out_shape,params,macs
    inception (3a),3a.*,28x28x256,159K,128M

`layers` are names of the network's layers, or patterns such as `3a.*`, separated by spaces; the other columns are those
of `arith.check.COLUMNS`. Empty cells are not judged.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path

from dojang.arith.check import COLUMNS, PublishedTable, Row
from dojang.arith.printed import Printed
from dojang.base.errors import DataError, DojangError, UsageError
from dojang.base.reading import read_text
from dojang.base.wording import did_you_mean
from dojang.formats import zoo
from dojang.formats.zoo import FOLDER

FILES = (".net", ".onnx", ".safetensors")
"""Suffixes of network files that a table may name."""
MOST_LETTERS = 60
"""The most letters of one printed figure or shape."""
MOST_ROWS, MOST_NAMES = 2_000, 20_000
"""The most rows of a table, and names of layers in all of them."""


def names() -> tuple[str, ...]:
    """Every table that ships with dojang, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.csv")))


def load(name: str | Path) -> PublishedTable:
    """A table by name or from a file. Raises `UsageError`, `FileError`, `DataError` with file and line."""
    path = Path(name)
    if str(name) in names():
        path = FOLDER / f"{name}.csv"
    elif path.suffix != ".csv":
        hint = did_you_mean(str(name), names(), f"there are {', '.join(names())}, or give a .csv file")
        raise UsageError(f"{str(name)!r} is not a table; {hint}")
    text = read_text(path, wanted="a .csv table")
    return parse(text, path.stem, str(path))


def network_of(table: PublishedTable, name: str | Path) -> str | Path:
    """The network that a table names: one of the zoo, or the path of a network file in its folder.

    `name` is the name or path of the table. A name of code such as `package.module:callable` is refused, because tables
    must not run code. Raises `UsageError`.
    """
    if table.network in zoo.names():
        return table.network
    if not table.network:
        raise UsageError(f"{name}: names no network; give one after the table, as `dojang check {name} NET`")
    folder = Path(name).parent
    file = Path(os.path.normpath(folder / table.network))
    # links in the table's folder are followed before the check
    inside = Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder))
    if file.suffix.lower() not in FILES or not inside:
        raise UsageError(
            f"{name}: its network {table.network!r} is neither of the zoo nor a {', '.join(FILES)} file in the table's "
            "folder, and a table never runs code; name the network after the table, as `dojang check TABLE NET`"
        )
    return file


def parse(text: str, name: str = "table", file: str = "<text>") -> PublishedTable:
    """The table in a CSV text; errors name file and line."""
    facts: dict[str, str] = {}
    rows: list[tuple[int, list[str]]] = []
    number, between = 0, True

    def lines() -> Iterator[str]:
        """Lines of rows: comments and empty lines between them are taken out. Cells in quotes may have line ends."""
        nonlocal number, between
        for count, line in enumerate(io.StringIO(text, newline=""), 1):
            if between and line.startswith("#"):
                key, _, value = line[1:].partition(":")
                facts[key.strip()] = value.strip()
            elif not between or line.strip():
                number = count if between else number
                between = False
                yield line

    try:
        for cells in csv.reader(lines()):
            rows.append((number, cells))
            between = True
    except csv.Error as error:  # a cell of more than 131,072 letters, a NUL
        raise DataError(f"{file}: is not a table of comma-separated cells ({error})") from None
    if not rows:
        raise DataError(
            f"{file}: no table in it; its first line must be `row,layers,` and columns of {', '.join(COLUMNS)}"
        )
    first, header = rows[0][0], [h.strip() for h in rows[0][1]]
    if header[:2] != ["row", "layers"] or len(header) < 3 or len(set(header)) < len(header):
        raise DataError(f"{file}:{first}: the header must be `row,layers,` and other columns, each once")
    unknown = [c for c in header[2:] if c not in COLUMNS]
    if unknown:
        raise DataError(f"{file}:{first}: column {unknown[0]!r} is not known; use {', '.join(COLUMNS)}")
    found = [_row(f"{file}:{number}", header, cells) for number, cells in rows[1:]]
    if len(found) > MOST_ROWS or sum(len(row.layers) for row in found) > MOST_NAMES:
        raise DataError(f"{file}: more than {MOST_ROWS:,} rows, or {MOST_NAMES:,} names of layers; check it in parts")
    title, source = facts.get("title", name), facts.get("source", "")
    return PublishedTable(name, title, source, facts.get("network", ""), tuple(header[2:]), tuple(found))


def _row(place: str, header: list[str], cells: list[str]) -> Row:
    if len(cells) != len(header):
        raise DataError(f"{place}: {len(cells)} cells under {len(header)} columns")
    values = {c: v.strip() for c, v in zip(header[2:], cells[2:], strict=True) if v.strip() not in ("", "-")}
    for column, value in values.items():
        if len(value) > MOST_LETTERS:
            raise DataError(f"{place}: {column}: {value[:20]}… has {len(value)} letters, more than {MOST_LETTERS}")
        if column != "out_shape":
            try:
                Printed.read(value)
            except DojangError as error:
                raise error.within(f"{place}: {column}") from None
    if not cells[1].split():
        raise DataError(f"{place}: names no layers")
    return Row(cells[0].strip(), tuple(cells[1].split()), values)
