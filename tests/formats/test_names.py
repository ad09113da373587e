"""Any name is written and read back equal in text, checkpoint, ONNX, CSV and JSON, and shown without being obeyed."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from dojang.arith import classes
from dojang.arith.cost import count
from dojang.arith.graph import Graph, Node
from dojang.base.errors import DataError
from dojang.base.showing import shown
from dojang.formats import checkpoint, tables
from dojang.formats import onnx as onnx_format
from dojang.formats.text import parse, to_text
from dojang.report.csv_count import count_csv
from dojang.report.html import count_html
from dojang.report.json import dumps
from dojang.report.text_count import count_text

SPLIT = ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
"""Everything at which `str.splitlines` ends a line."""
ODD = [
    *("a" + end + "b" for end in SPLIT),
    "\x00", "\x1b[31m", "\x1b]0;title\x07", "\x7f", "\x9b2J", "\u202e", "\u2066", "\ufeff", "\ufffe", "\ud800",
    "\udcff", "a\ud83d", "\U0001f600",
    "도장", "", " ", " a ", "\ta", "a b", "a,b", 'a"b', "'a'", "a\\b", "a\\nb", "\\x41", "#a",
    "_", "in", "input", "end", "output", "conv", "a:b", "a: b", "{1..3}", "$x", "<-", "a=b", "=cmd|' /C calc'!A0", "+1",
    "-1", "@a", "</script>", "&amp;", "x" * 10_000, "%s", "[", '["a"]', "__metadata__", "share=a",
]  # fmt: skip
names = st.one_of(
    st.sampled_from(ODD),
    st.lists(st.one_of(st.sampled_from(ODD[:-4]), st.characters()), max_size=6).map("".join),
)
few = settings(max_examples=60)


def network(name: str) -> Graph:
    """Two layers and an input of odd names, the second sharing the first one's arrays, odd facts about it."""
    first, second, third = (f"{name}{i}" for i in ("i", "", "2"))
    nodes = (
        Node.of(first, "input", shape=(3, 4, 4)),
        Node.of(second, "conv", first, out=3, kernel=(1, 1)),
        Node.of(
            third, "conv", second, out=3, kernel=(1, 1), arrays={"weight": f"{second}.weight", "bias": f"{name},b"}
        ),
        Node.of(f"{name}3", "add", second, third),
    )
    graph = Graph(nodes, (f"{name}3",), name, {}, {"source": name, "classes": name, f"k{name}": name})
    rng = np.random.default_rng(0)
    return graph.with_weights({key: rng.normal(size=s).astype("f") for key, s in graph.param_shapes.items()})


def same(again: Graph, graph: Graph) -> None:
    assert again.nodes == graph.nodes
    assert again.outputs == graph.outputs
    assert dict(again.meta) == dict(graph.meta)
    assert again.name == graph.name


@given(names)
@few
@example("a\u2028b")
def test_text(name: str) -> None:
    graph = network(name)
    text = to_text(graph)
    text.encode("utf-8")
    assert len(text.splitlines()) == text.count("\n")
    assert shown(text, keep="\n") == text, "a .net file can be shown in a terminal as it is"
    same(parse(text), graph.without_weights())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("names")


@given(names)
@few
@example("\udcff")
def test_checkpoint(folder: Path, name: str) -> None:
    graph = network(name)
    path = checkpoint.save(graph, folder / "n.safetensors", force=True)
    again = checkpoint.load(path)
    same(again, graph)
    assert set(again.weights) == set(graph.weights)
    theirs = load_file(path)  # the format's own reader
    assert len(theirs) == len(graph.weights)
    for key, array in graph.weights.items():
        assert np.array_equal(again.weights[key], array)


@given(names)
@few
@example("\ud800")
@example("")
def test_onnx(name: str) -> None:
    graph = network(name)
    data = onnx_format.to_bytes(graph)
    onnx.checker.check_model(onnx.load_from_string(data))
    again = onnx_format.from_bytes(data)
    same(again, graph)
    for key, array in graph.weights.items():
        assert np.array_equal(again.weights[key], array)


@few
@given(names)
@example("a\n# network: b\n\nc")
def test_rows_of_tables(name: str) -> None:
    """The names of rows, title and source; a figure that is none is refused with its place."""
    kept, held = name.strip(), io.StringIO(newline="")
    held.write("".join(f"# {key}: a{mark}b\n" for key, mark in (("title", "\u2028"), ("source", "\x85"))))
    writer = csv.writer(held, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([["row", "layers", "macs"], [name, "c", "1K"]])
    held.write("\n# comment\n")
    writer.writerow(["x", "c", "2K"])
    table = tables.parse(held.getvalue())
    assert (table.title, table.source) == ("a\u2028b", "a\x85b")
    assert [row.label for row in table.rows] == [kept, "x"]
    writer.writerow(["y", "c", "2z"])
    line = len(list(io.StringIO(held.getvalue(), newline="")))
    with pytest.raises(DataError, match=rf"^t\.csv:{line}: macs: '2z'"):
        tables.parse(held.getvalue(), file="t.csv")


@given(names)
@few
def test_csv_and_json(name: str) -> None:
    found = count(network(name))
    text = count_csv(found)
    text.encode("utf-8")
    rows = list(csv.reader(io.StringIO(text, newline="")))[1:]
    for row, layer in zip(rows, found.layers, strict=True):
        assert row[0][:1] not in tuple("=+-@\t\r")
        plain = row[0].removeprefix("'")
        assert plain == layer.name.encode("utf-8", "backslashreplace").decode()
    said = dumps({"names": [layer.name for layer in found.layers]})
    said.encode("utf-8")
    assert shown(said, keep="\n") == said
    assert json.loads(said)["names"] == [layer.name for layer in found.layers]


@given(names)
@few
def test_what_is_shown_is_not_obeyed(name: str) -> None:
    found = count(network(name))
    for text in (count_text(found), count_html(found)):
        assert shown(text, keep="\n\t") == text
    rows = count_text(found).split("\n\n")[1].splitlines()
    assert len(rows) == 1 + len(found.tree.rows()) + 2, "a name begins no line"


@given(st.lists(names, max_size=5))
@few
@example(["a,b", "c"])
@example(["["])
@example([""])
def test_classes_are_a_list(found: list[str]) -> None:
    assert classes.from_text(classes.as_text(found)) == tuple(found)


def test_classes_of_older_files() -> None:
    assert classes.from_text("cat, dog") == ("cat", "dog")


def test_a_folder_name_that_is_no_utf8(tmp_path: Path) -> None:
    os.mkdir(os.fsencode(tmp_path) + b"/caf\xe9")
    (name,) = os.listdir(tmp_path)
    assert classes.from_text(classes.as_text([name, "b"])) == (name, "b")
