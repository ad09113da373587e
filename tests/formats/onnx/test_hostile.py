"""ONNX files that are damaged or written to harm: one error of dojang's, in bounded time and memory."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dojang.arith.cost import count
from dojang.arith.graph import Graph, Node
from dojang.base.errors import DojangError, FileError, GraphError, UnsupportedError
from dojang.formats import onnx as onnx_format
from dojang.formats.onnx.protobuf import encode, number
from dojang.formats.onnx.schema import GRAPH, MODEL, NODE

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402 - after the skip

CORPUS = Path(__file__).parents[1] / "corpus"
FILES = {path.name: path.read_bytes() for path in sorted(CORPUS.glob("*.onnx"))}


def model(nodes, shape=("N", 4, 6, 8), tensors=(), opset=17) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", shape), ("y", None)))
    graph = helper.make_graph(nodes, "test", [x], [y], list(tensors))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def floats(name: str, dims, raw: bytes = b"") -> onnx.TensorProto:
    return TensorProto(name=name, dims=dims, data_type=TensorProto.FLOAT, raw_data=raw)


def mutate(rng: random.Random, data: bytes) -> bytes:
    """A few bytes changed, cut, doubled or taken from another file of the corpus."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(out) or 1)
        match rng.randrange(6):
            case 0:
                out[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                out[at : at + 1] = bytes([rng.choice((0, 1, 2, 127, 128, 255))])
            case 2:
                del out[at : at + rng.randrange(1, 9)]
            case 3:
                out[at:at] = rng.randbytes(rng.randrange(1, 5))
            case 4:
                other = rng.choice(list(FILES.values()))
                start, length = rng.randrange(len(other)), rng.randrange(1, 40)
                out[at : at + length] = other[start : start + length]
            case _:
                out[at : at + 1] = b"\xff" * 8 + b"\x7f"
    return bytes(out)


@pytest.mark.parametrize("name", FILES)
def test_mutated_files_give_a_network_or_one_error(name: str) -> None:
    rng = random.Random(name)
    kinds: set[str] = set()
    for _ in range(1500):
        data = mutate(rng, FILES[name])
        try:
            count(onnx_format.from_bytes(data, weights=rng.random() < 0.3))
            kinds.add("fine")
        except DojangError as error:
            assert "\n" not in str(error)
            kinds.add(type(error).__name__)
    assert {"fine", "FileError", "GraphError"} <= kinds


@pytest.mark.parametrize("name", FILES)
def test_the_corpus_itself_is_read(name: str) -> None:
    assert len(onnx_format.from_bytes(FILES[name]).nodes) > 5


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_refused(name: str) -> None:
    data = FILES[name]
    for end in range(0, len(data), 7):
        try:
            onnx_format.from_bytes(data[:end])
        except DojangError:
            continue
        assert end > len(data) - 200  # only metadata and versions stand after the graph


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(DojangError):
        onnx_format.from_bytes(data)


OPS = st.sampled_from(["Add", "Reshape", "Concat", "Conv", "Slice", "Gather", "Split", "Pad", "Resize", "Einsum", "If"])
NAMES = st.sampled_from(["x", "k", "v0", "v1", "v2", "v3", ""])
VALUES = st.one_of(
    st.integers(-(2**63), 2**63 - 1).map(lambda v: {"i": v, "type": 2}),
    st.floats(width=32).map(lambda v: {"f": v, "type": 1}),
    st.binary(max_size=4).map(lambda v: {"s": v, "type": 3}),
    st.lists(st.integers(-9, 9), max_size=8).map(lambda v: {"ints": v, "type": 7}),
    st.lists(st.floats(width=32), max_size=4).map(lambda v: {"floats": v, "type": 6}),
)
KEYS = st.sampled_from(
    ["axis", "pads", "kernel_shape", "group", "strides", "split", "mode", "starts", "equation", "perm"]
)
ATTRIBUTES = st.lists(st.tuples(KEYS, VALUES).map(lambda kv: {"name": kv[0], **kv[1]}), max_size=3)
NODES = st.lists(st.tuples(OPS, st.lists(NAMES, max_size=4), ATTRIBUTES), min_size=1, max_size=4)


@given(NODES, st.lists(st.integers(-3, 2**40), max_size=5), st.lists(st.integers(-3, 9), max_size=4))
@settings(max_examples=400)
def test_any_structure(nodes, dims, numbers) -> None:
    made = [
        {"op_type": op, "input": inputs, "output": [f"v{i}"], "attribute": attrs}
        for i, (op, inputs, attrs) in enumerate(nodes)
    ]
    tensor = {"name": "k", "dims": [len(numbers)], "data_type": 7, "raw_data": np.array(numbers, "<i8").tobytes()}
    shape = {"dim": [{"dim_value": d} for d in dims]}
    value = {"name": "x", "type": {"tensor_type": {"elem_type": 1, "shape": shape}}}
    graph = {"node": made, "initializer": [tensor], "input": [value], "output": [{"name": f"v{len(made) - 1}"}]}
    data = encode(MODEL, {"opset_import": [{"version": 17}], "graph": graph})
    try:
        count(onnx_format.from_bytes(data, weights=False))
    except DojangError as error:
        assert str(error)


BAD = {
    "absurd sizes": (model([], tensors=[floats("w", [2**40, 2**40])]), FileError, "the file has 0|needs"),
    "negative sizes": (model([], tensors=[floats("w", [-1, 4])]), FileError, "sizes below 0"),
    "short data": (model([], tensors=[floats("w", [2], b"1234567")]), FileError, "takes 8 bytes, the file has 7"),
    "a string tensor that is short": (
        model([], tensors=[TensorProto(name="w", dims=[2], data_type=8, string_data=[b"a"])]),
        FileError,
        "2 of text needs 2 pieces, the file has 1",
    ),
    "a cycle": (
        model([helper.make_node("Relu", ["b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]),
        GraphError,
        "no earlier node makes; the file is not in order or has a cycle",
    ),
    "no such output": (model([]), GraphError, "the output 'y' is made by no node"),
    "made twice": (model([helper.make_node("Relu", ["x"], ["x"])]), GraphError, "'x' is made twice"),
    "a later operator set": (model([], opset=99), UnsupportedError, "operator set 99 is not read"),
    "a missing attribute": (
        model([helper.make_node("MaxPool", ["x"], ["y"])]),
        GraphError,
        "MaxPool lacks its attribute 'kernel_shape'",
    ),
    "too many axes": (model([helper.make_node("Relu", ["x"], ["y"])], shape=[1] * 99), GraphError, "99 axes"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_is_said(what: str) -> None:
    made, kind, says = BAD[what]
    with pytest.raises(kind, match=says):
        onnx_format.from_bytes(made.SerializeToString())


def test_files_that_are_no_model(tmp_path) -> None:
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "text.onnx").write_text("input 3x32x32\nconv 8 3x3\n")
    (tmp_path / "folder.onnx").mkdir()
    for name, says in [("empty", "is empty"), ("text", "not a"), ("folder", "is a folder"), ("none", "no such file")]:
        with pytest.raises(FileError, match=rf"{name}\.onnx: .*{says}"):
            onnx_format.load(tmp_path / f"{name}.onnx")


def external(location: str, **entries: str) -> onnx.ModelProto:
    tensor = TensorProto(name="c.weight", dims=[2, 4, 1, 1], data_type=1, data_location=1)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return model([helper.make_node("Conv", ["x", "c.weight"], ["y"])], tensors=[tensor])


def test_external_data_beside_the_file_is_read(tmp_path) -> None:
    values = np.arange(8, dtype="<f4")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(b"skip" + values.tobytes())
    made = external("data/w.bin", offset="4", length="32")
    (tmp_path / "net.onnx").write_bytes(made.SerializeToString())
    graph = onnx_format.load(tmp_path / "net.onnx")
    np.testing.assert_array_equal(graph.weights["c.weight"].ravel(), values)
    assert graph.weights["c.weight"].flags.owndata
    with pytest.raises(FileError, match="is in another file"):
        onnx_format.from_bytes(made.SerializeToString())


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("../secret.bin", "not a plain path"),
        ("a/../../secret.bin", "not a plain path"),
        ("/etc/passwd", "not a plain path"),
        ("C:\\secret.bin", "not a plain path"),
        ("..\\secret.bin", "not a plain path"),
        ("", "not a plain path"),
        ("link.bin", "leads outside"),
        ("inner/secret.bin", "leads outside"),
        ("short.bin", "needs 32 bytes at 0"),
        ("pipe", "not in the model's folder"),
    ],
)
def test_external_data_elsewhere_is_refused_even_for_counting(tmp_path, location: str, says: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"\0" * 32)
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "inner").symlink_to(tmp_path)
    (folder / "short.bin").write_bytes(b"\0" * 31)
    os.mkfifo(folder / "pipe")
    (folder / "net.onnx").write_bytes(external(location).SerializeToString())
    with pytest.raises(FileError, match=says):
        onnx_format.load(folder / "net.onnx", weights=False)


@pytest.mark.parametrize("entries", [{"offset": "-1"}, {"offset": "8"}, {"length": "31"}, {"offset": "x"}])
def test_external_lengths_must_fit(tmp_path, entries: dict[str, str]) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0" * 32)
    (tmp_path / "net.onnx").write_bytes(external("w.bin", **entries).SerializeToString())
    with pytest.raises(FileError, match=r"c\.weight"):
        onnx_format.load(tmp_path / "net.onnx")


def bomb(nodes, tensors=()) -> bytes:
    """A model whose bytes are made at once: `nodes` is already on the wire."""
    graph = encode(GRAPH, {"output": [{"name": "y"}], "initializer": list(tensors)}) + nodes
    return encode(MODEL, {"opset_import": [{"version": 17}]}) + b"\x3a" + number(len(graph)) + graph


def doubling() -> bytes:
    """y = x + x, forty times, in constants: numbers that would have 2^40 digits; and concats that double."""
    nodes = b""
    for op, count_ in (("Mul", 60), ("Concat", 60)):
        last = "k"
        for i in range(count_):
            made = {"op_type": op, "input": [last, last], "output": [f"{op}{i}"]}
            made["attribute"] = [{"name": "axis", "i": 0, "type": 2}]
            body = encode(NODE, made)
            nodes += b"\x0a" + number(len(body)) + body
            last = f"{op}{i}"
    tensor = {"name": "k", "dims": [2], "data_type": 7, "raw_data": np.array([3, 2**40], "<i8").tobytes()}
    return bomb(nodes, [tensor])


def endless_sizes() -> bytes:
    """An initialiser of sixteen million axes."""
    tensor = b"\x0a" + number(1 << 24) + b"\x01" * (1 << 24)
    return bomb(b"\x2a" + number(len(tensor)) + tensor)


HARM = {
    "four million empty nodes": lambda: bomb(b"\x0a\x00" * 4_000_000),
    "a tensor of sixteen million axes": endless_sizes,
    "constants that double": doubling,
}


@pytest.mark.parametrize("what", HARM)
def test_files_made_to_harm_end_soon_within_a_gigabyte(tmp_path, what: str) -> None:
    path = tmp_path / "harm.onnx"
    path.write_bytes(HARM[what]())
    code = (
        "from dojang.formats import onnx\nfrom dojang.base.errors import DojangError\n"
        f"try:\n    onnx.load({str(path)!r}, weights=False)\nexcept DojangError as error:\n    print(error)"
    )

    def bounds() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=bounds)
    assert (done.returncode, done.stderr) == (0, "")
    assert "harm.onnx" in done.stdout


def test_many_layers_read_in_a_time_that_grows_with_their_number() -> None:
    # Counted in calls of the interpreter, not by the clock.
    def calls(layers: int) -> int:
        nodes = [Node.of("x", "input", shape=(2, 4, 4))]
        for i in range(layers):
            nodes.append(Node.of(f"n{i}", "relu", nodes[-1].name))
        data = onnx_format.to_bytes(Graph(tuple(nodes), (nodes[-1].name,)))
        total = 0

        def tick(*_: object) -> None:
            nonlocal total
            total += 1

        sys.setprofile(tick)
        try:
            onnx_format.from_bytes(data)
        finally:
            sys.setprofile(None)
        return total

    small, large = calls(100), calls(400)
    assert large < 4.4 * small
