"""The text notation: what it means, that it round-trips, and where its errors point."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dojang.arith.graph import Graph, Node
from dojang.base.errors import DojangError, ParseError
from dojang.formats.text import MOST_NODES, parse, to_text

SMALL = """
network small            # a comment
source LeCun et al. 1998
param classes=10
block residual(ch, stride=1)
  conv1: conv $ch 3x3 stride=$stride pad=1 bias=no
  relu
  conv2: conv $ch 3x3 pad=1
  add <- _, in
end
input 3x32x32 mean=0.5,0.5,0.5 std=0.25,0.25,0.25
stem: conv 16 3x3/2 pad=same
stage.{1..2}: residual 16
flatten
dense $classes
"""


def test_blocks_ranges_and_parameters_unfold_to_named_nodes():
    graph = parse(SMALL)
    assert [n.name for n in graph.nodes] == [
        "input", "stem",
        "stage.1.conv1", "stage.1.relu1", "stage.1.conv2", "stage.1.add1",
        "stage.2.conv1", "stage.2.relu1", "stage.2.conv2", "stage.2.add1",
        "flatten1", "dense1",
    ]  # fmt: skip
    assert graph["stage.2.add1"].inputs == ("stage.2.conv2", "stage.1.add1")
    assert graph["stem"].attrs["stride"] == (2, 2)
    assert graph["stem"].attrs["padding"] == "same"
    assert graph.meta == {"source": "LeCun et al. 1998"}
    assert graph.unit_shapes["dense1"] == (1, 10)


def test_parameters_can_be_set_from_outside():
    assert parse(SMALL, params={"classes": 7}).unit_shapes["dense1"] == (1, 7)
    with pytest.raises(ParseError, match="no `param width`"):
        parse(SMALL, params={"width": 7})


def test_names_in_a_block_are_looked_up_inside_first():
    graph = parse("block b(c)\nx: conv $c 1x1\ny: relu <- x\nend\ninput 1x4x4\nx: conv 2 1x1\nb1: b 3\nadd <- b1, b1.x")
    assert graph["b1.y"].inputs == ("b1.x",)
    assert graph["add1"].inputs == ("b1.y", "b1.x")


def test_shared_layers_use_the_arrays_of_the_first():
    graph = parse("input 4x8x8\na: conv 4 3x3 pad=1\nb: conv 4 3x3 pad=1 share=a\nbatchnorm")
    assert graph["b"].array("weight") == "a.weight"
    assert set(graph.param_shapes) == {
        "a.weight", "a.bias", "batchnorm1.weight", "batchnorm1.bias",
        "batchnorm1.running_mean", "batchnorm1.running_var",
    }  # fmt: skip
    assert parse(to_text(graph)) == graph


ERRORS = [
    ("", 1, 1, "no layers"),
    ("input 3x3x3\nconv 4 5x5", 2, 1, "shrinks below 1"),
    ("input 3x8x8\ncnov 3 3x3", 2, 1, "did you mean conv"),
    ("input 3x8x8\nconv 4 3x3 groups=2", 2, 1, "3 input channels do not divide into 2 groups"),
    ("input 3x8x8\nconv 4 a", 2, 8, "kernel=a is not sizes"),
    ("input 3x8x8\nconv 4 3x3 pat=1", 2, 12, "no attribute 'pat'"),
    ("input 3x8x8\nconv 4 3x3 pad=1 pad=2", 2, 18, "given twice"),
    ("input 3x8x8\nconv 4", 2, 1, "conv needs kernel: sizes joined by x, such as 3x3"),
    ("input 3x8x8\nconv 4 3", 2, 1, "2 axes to slide along: write a kernel such as 3x3"),
    ("input 3x8\nmaxpool 2x2", 2, 1, "one axis to slide along: write a kernel such as 2"),
    ("input 3x8x8\nconv 3x3 4", 2, 6, "out=3x3 is not a whole number (conv takes out, kernel)"),
    ("input 3x8x8\nlinear 4", 2, 1, "here it is dense"),
    (f"input 3x8x8\nconv {'9' * 1500} 3x3", 2, 6, "99999…99999999 is not a whole number"),
    (f"input 3x8x8\n{'q' * 1500} 3x3", 2, 1, "qqqqq…qqqqqqq' is not an operator"),
    ("input 3x8x8\nconv 4 3x3 2", 2, 12, "too much"),
    ("block a\nend\ninput 3x8x8\na", 1, 1, "empty"),
    ("block a\nrelu", 1, 1, "no `end`"),
    ("end", 1, 1, "without a block"),
    ("block conv(x)\nrelu\nend", 1, 1, "already an operator"),
    ("x: relu <- y", 1, 12, "'y' is not a line before this one"),
    ("a: relu <- a", 1, 12, "'a' is not a line before this one"),
    ('input "3x', 1, 7, "quote is not closed"),
    ("a: ", 1, 4, "missing here"),
    ("input 3x8x8\nadd <- ,", 2, 7, "a name is missing"),
    ("input 3x8x8\nconv $c 3x3", 2, 6, "$c is not a parameter"),
    ("input 3x8x8\nx: relu\nx: relu", 3, 1, "'x' is taken"),
    ("input 3x8x8\nx.{3..1}: relu", 2, 1, "range {3..1} is empty"),
    ("input -3x8x8", 1, 1, "must be at least 1"),
    ("input 3x8x8\nconv 0 3x3", 2, 1, "at least 1"),
    ("relu", 1, 1, "takes 1 inputs"),
]


@pytest.mark.parametrize(("text", "line", "column", "words"), ERRORS, ids=[e[3] for e in ERRORS])
def test_errors_point_at_line_and_column(text, line, column, words):
    with pytest.raises(ParseError) as caught:
        parse(text, file="n.net")
    assert str(caught.value).startswith(f"n.net:{line}:{column}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_text_that_unfolds_without_end_is_refused():
    blocks = ["block b0\nrelu\nend"]
    blocks += [f"block b{i}\nx{{1..60}}: b{i - 1}\nend" for i in range(1, 9)]
    with pytest.raises(ParseError, match=f"more than {MOST_NODES:,} nodes"):
        parse("\n".join([*blocks, "input 1x1x1", "b8"]))


def test_deep_nesting_is_refused():
    blocks = ["block b0\nrelu\nend"] + [f"block b{i}\nb{i - 1}\nend" for i in range(1, 10_000)]
    with pytest.raises(ParseError, match="nested deeper"):
        parse("\n".join([*blocks, "input 1x1x1", "b9999"]))


NAMES = st.one_of(
    st.sampled_from(["a", "layer1.0.conv1", "/model/Conv_1", "x y", 'q"uote', "back\\slash", "new\nline", "_", "12"]),
    st.text(min_size=1, max_size=8).filter(lambda s: s.isprintable()),
)
LAYERS = st.sampled_from(
    [
        ("conv", {"out": 4, "kernel": (3, 3), "padding": ((0, 1), (1, 2)), "bias": False}),
        ("conv", {"out": 2, "kernel": (1, 1), "groups": 2, "padding": "same", "stride": (1, 1)}),
        ("conv_transpose", {"out": 4, "kernel": (2, 2), "stride": 2, "output_padding": (1, 0)}),
        ("maxpool", {"kernel": (3, 3), "padding": 1}),
        ("avgpool", {"kernel": (2, 2), "stride": 1, "ceil": True, "count_padding": False, "padding": "valid"}),
        ("batchnorm", {"eps": 1e-3}),
        ("clip", {"min": 0.0, "max": 6.0}),
        ("clip", {"min": -float("inf")}),
        ("leaky_relu", {"slope": 0.1 + 0.2}),
        ("pad", {"pads": ((1, 1),)}),
        ("pad", {"pads": ((1, 1), (1, 1)), "mode": "reflect"}),
        ("slice", {"axis": 1, "step": 2}),
        ("resize", {"scale": (2.0, 2.0), "mode": "linear", "coords": "half_pixel"}),
        ("gelu", {"approximate": "tanh"}),
        ("einsum", {"equation": "nchw->nchw"}),
        ("reduce_mean", {"axes": (2, 3)}),
    ]
)


@settings(max_examples=200)
@given(st.lists(st.tuples(NAMES, LAYERS), min_size=1, max_size=6, unique_by=lambda t: t[0]), NAMES, st.data())
def test_every_graph_comes_back_from_its_text(layers, name, data):
    nodes = [Node.of("the input", "input", shape=(4, 16, 16))]
    for label, (op, attrs) in layers:
        source = data.draw(st.sampled_from([n.name for n in nodes]))
        nodes.append(Node.of(label, op, source, **attrs))
    meta = {"source": "a paper, 2012", "odd key": 'with "quotes" # and\nlines'}
    outputs = tuple(data.draw(st.lists(st.sampled_from([n.name for n in nodes]), min_size=1, max_size=3, unique=True)))
    try:
        graph = Graph(tuple(nodes), outputs, name, {}, meta)
        _ = graph.unit_shapes
    except DojangError:
        return
    again = parse(to_text(graph))
    assert again == graph
    assert again.meta == graph.meta


@settings(max_examples=300)
@given(st.data())
def test_any_mutation_parses_or_fails_with_one_line(data):
    text = list(SMALL)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(text) - 1))
        text[place : place + data.draw(st.integers(0, 5))] = data.draw(
            st.text(alphabet='0123456789.,:<-"#${}()= \nabcx/_', max_size=4)
        )
    try:
        parse("".join(text))
    except DojangError as error:
        assert "\n" not in str(error)
