"""What the inputs of a network have on the page: given, dojang's own picture, or drawn; the values by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dojang
from dojang.app.looking import PictureInside
from dojang.app.shown_inputs import drawn, rows_of
from dojang.arith.graph import Graph, Node
from dojang.base.errors import ShapeError, UsageError

FLOAT, INT64 = 1, 7


def both(path: Path) -> Path:
    """Two pictures, tokens that are looked up in two tables, and a mask, as one ONNX file without a batch axis."""
    from onnx import helper, numpy_helper, save

    rng = np.random.default_rng(3)
    arrays = {
        "w": rng.normal(0, 0.3, (4, 3, 3, 3)),
        "wide": rng.normal(0, 1, (50, 4)),
        "narrow": rng.normal(0, 1, (9, 4)),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["left", "w"], ["l"], "l", strides=[2, 2]),
        node("Conv", ["right", "w"], ["r"], "r", strides=[2, 2]),
        node("Sub", ["l", "r"], ["difference"], "difference"),
        node("GlobalAveragePool", ["difference"], ["mean"], "mean"),
        node("Flatten", ["mean"], ["seen"], "seen"),
        node("Gather", ["wide", "tokens"], ["a"], "a"), node("Cast", ["tokens"], ["cast"], "cast", to=INT64),
        node("Gather", ["narrow", "cast"], ["b"], "b"), node("Add", ["a", "b"], ["words"], "words"),
        node("Cast", ["mask"], ["open"], "open", to=FLOAT), node("Unsqueeze", ["open", "last"], ["each"], "each"),
        node("Mul", ["words", "each"], ["masked"], "masked"),
        node("ReduceSum", ["masked", "one"], ["read"], "read", keepdims=0),
        node("Add", ["seen", "read"], ["y"], "y"),
    ]  # fmt: skip
    held = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    held += [numpy_helper.from_array(np.array([v], np.int64), name) for name, v in (("last", 2), ("one", 1))]
    info = helper.make_tensor_value_info
    inputs = [info("left", FLOAT, [1, 3, 20, 24]), info("right", FLOAT, [1, 3, 20, 24]),
              info("tokens", INT64, [1, 6]), info("mask", INT64, [1, 6])]  # fmt: skip
    made = helper.make_graph(nodes, "both", inputs, [info("y", FLOAT, [1, 4])], held)
    save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return both(tmp_path / "both.onnx")


def by_onnxruntime(network: Path, inside: PictureInside) -> np.ndarray:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(network), providers=["CPUExecutionProvider"])
    names = [node.name for node in inside.graph.inputs]
    return session.run(None, {name: one.x for name, one in zip(names, inside.inputs, strict=True)})[0]


def answer(inside: PictureInside) -> np.ndarray:
    return inside.values(inside.graph.outputs[0]).reshape(-1)


def picture(folder: Path) -> Path:
    pixels = np.random.default_rng(1).integers(0, 256, (31, 40, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    return folder / "photo.png"


def test_every_input_has_something_and_the_network_is_run_on_it(network: Path) -> None:
    inside = PictureInside(dojang.load(network), None)
    assert inside.why_not is None
    assert [one.prepared.made for one in inside.inputs] == ["scaled", "scaled", "drawn-whole", "ones"]
    left, right, tokens, mask = (one.x for one in inside.inputs)
    assert np.abs(left - right).max() > 0.1
    assert (tokens.dtype, mask.tolist()) == (np.int64, [[1] * 6])
    assert inside.inputs[2].prepared.most == 8  # the smaller of both tables has 9 rows
    assert inside.inputs[2].pixels.shape == (1, 6, 3)
    np.testing.assert_allclose(answer(inside), by_onnxruntime(network, inside)[0], rtol=1e-5, atol=1e-5)
    assert inside.milliseconds() is not None


def test_a_picture_goes_into_the_input_that_was_chosen(network: Path, tmp_path: Path) -> None:
    inside = PictureInside(dojang.load(network), None)
    before = [one.x for one in inside.inputs], answer(inside)
    inside.look_at_bytes(picture(tmp_path).read_bytes(), "photo.png", 1)
    assert [one.x is old for one, old in zip(inside.inputs, before[0], strict=True)] == [True, False, True, True]
    assert np.abs(answer(inside) - before[1]).max() > 1e-3
    np.testing.assert_allclose(answer(inside), by_onnxruntime(network, inside)[0], rtol=1e-5, atol=1e-5)
    for place in (2, 4):
        with pytest.raises(UsageError, match="takes no picture"):
            inside.look_at_bytes(picture(tmp_path).read_bytes(), "photo.png", place)


def test_each_input_has_its_own_measured_field(network: Path) -> None:
    """The layer that reads the right picture is not moved by the left one."""
    inside = PictureInside(dojang.load(network), None)
    name = next(node.name for node in inside.graph.nodes if node.op == "conv" and node.inputs == ("right",))
    assert not inside.effect(name, 0).any()
    found = inside.effect(name, 1)
    assert (found.max(axis=(0, 1)) == 255).all()


def test_what_is_given_goes_where_it_fits(network: Path, tmp_path: Path) -> None:
    graph = dojang.load(network)
    tokens = np.array([[1, 2, 3, 4, 5, 6]])
    assert PictureInside(graph, tokens).inputs[2].x.tolist() == tokens.tolist()
    assert [one.name for one in PictureInside(graph, picture(tmp_path)).inputs] == ["photo.png", "", "", ""]
    named: dict[str, Any] = {"right": picture(tmp_path), "mask": np.array([[1, 1, 0, 0, 0, 0]])}
    inside = PictureInside(graph, named)
    assert [one.name for one in inside.inputs] == ["", "photo.png", "", "array"]
    np.testing.assert_allclose(answer(inside), by_onnxruntime(network, inside)[0], rtol=1e-5, atol=1e-5)
    np.savez(tmp_path / "in.npz", tokens=tokens, left=np.zeros((1, 3, 20, 24), np.float32))
    inside = PictureInside(graph, tmp_path / "in.npz")
    assert (inside.inputs[2].x.tolist(), np.abs(inside.inputs[0].x).max()) == (tokens.tolist(), 0)


def test_what_fits_nowhere_is_refused(network: Path, tmp_path: Path) -> None:
    graph = dojang.load(network)
    with pytest.raises(UsageError, match=r"no input 'word'; its inputs are left, right, tokens, mask$"):
        PictureInside(graph, {"word": np.zeros((1, 6))})
    with pytest.raises(
        ShapeError, match=r"an array of 7x7 fits none of the inputs left \(1x3x20x24\), .* give an .npz"
    ):
        PictureInside(graph, np.zeros((7, 7), np.float32))
    with pytest.raises(ShapeError, match="mask: the input is 2x9; the network takes 1x6"):
        PictureInside(graph, {"mask": np.ones((2, 9), np.int64)}).values("y")


def test_a_network_exported_for_one_picture_takes_pictures(tmp_path: Path) -> None:
    """Without a batch axis the input is 1x3xHxW, which is a picture all the same."""
    nodes = (Node.of("x", "input", shape=(1, 3, 9, 9), batch_axis=-1), Node.of("y", "relu", "x"))
    graph = Graph(nodes, ("y",), "one")
    inside = PictureInside(graph, picture(tmp_path))
    assert (inside.inputs[0].prepared.made, inside.x.shape, inside.one.shape) == ("scaled", (1, 3, 9, 9), (3, 9, 9))
    assert inside.values("y").shape == (3, 9, 9)


def test_samples_are_the_same_each_time(network: Path) -> None:
    graph = dojang.load(network)
    tokens = graph.inputs[2]
    assert rows_of(graph, tokens.name) == 9
    first, again = (drawn(graph, tokens)[0] for _ in range(2))
    assert first.tolist() == again.tolist()
    assert set(drawn(graph, tokens, 5)[0].ravel()) <= set(range(9))


def test_a_sequence_has_a_measured_field(tmp_path: Path) -> None:
    """A convolution of 3 values moves by no part that its window does not touch."""
    nodes = (
        Node.of("wave", "input", shape=(1, 40)),
        Node.of("conv", "conv", "wave", out=2, kernel=(3,), stride=2),
    )
    graph = Graph(nodes, ("conv",), "line")
    weights = {name: np.ones(size, np.float32) for name, size in graph.param_shapes.items()}
    inside = PictureInside(graph.replace(weights=weights), None)
    assert inside.inputs[0].prepared.made == "drawn"
    found = inside.effect("conv")
    assert found.shape == (1, 16, 1, 19)
    ends = np.unique(np.linspace(0, 40, 17).astype(int))
    for place, part in np.ndindex(19, 16):
        touched = ends[part] < 2 * place + 3 and ends[part + 1] > 2 * place
        assert (found[0, part, 0, place] > 0) == touched
