"""ONNX files and PyTorch weights that state more than they hold."""

import io
import warnings
import zipfile

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from dojang.base.errors import FileError, GraphError  # noqa: E402
from dojang.formats import onnx as ours  # noqa: E402
from dojang.formats.torch import load_state  # noqa: E402


def model(nodes, inits, shape=(1, 4, 8, 8)):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], inits)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()


def test_one_tensor_under_a_thousand_names():
    """1 MB of weights, 400 Identity nodes: one array."""
    weight = numpy_helper.from_array(np.random.default_rng(0).random((1, 4, 256, 256), "f4"), "w")
    nodes = [helper.make_node("Identity", ["w"], [f"w{i}"]) for i in range(400)]
    nodes += [helper.make_node("Add", [f"a{i}" if i else "x", f"w{i}"], [f"a{i + 1}"]) for i in range(400)]
    nodes += [helper.make_node("Relu", ["a400"], ["y"])]
    assert len(ours.from_bytes(model(nodes, [weight], (1, 4, 256, 256))).weights) == 1


def test_external_weights_that_lie_over_each_other(tmp_path):
    """400 tensors of 1 MB, all in the same megabyte of a file: 400 MB of arrays, were they made."""
    (tmp_path / "w.bin").write_bytes(bytes(1 << 20))
    weights = []
    for i in range(400):
        tensor = TensorProto(name=f"w{i}", dims=[1, 4, 256, 256], data_type=TensorProto.FLOAT)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="w.bin")
        weights.append(tensor)
    nodes = [helper.make_node("Add", [f"a{i}" if i else "x", f"w{i}"], [f"a{i + 1}"]) for i in range(400)]
    nodes += [helper.make_node("Relu", ["a400"], ["y"])]
    (tmp_path / "m.onnx").write_bytes(model(nodes, weights, (1, 4, 256, 256)))
    with pytest.raises(FileError, match="the weights: unpacks to more than 268,435,456 bytes"):
        ours.load(tmp_path / "m.onnx")
    assert len(ours.load(tmp_path / "m.onnx", weights=False).nodes) == 802  # counting makes none


def test_weights_that_are_one_number_described():
    shape = numpy_helper.from_array(np.array([1 << 20, 4, 16, 16], "i8"), "s")
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["w"]),
        helper.make_node("Conv", ["x", "w"], ["y"], pads=[8] * 4),
    ]
    with pytest.raises(FileError, match="bytes"):
        ours.from_bytes(model(nodes, [shape]))


def test_prelu_with_one_input():
    with pytest.raises(GraphError, match="PRelu lacks its input 2"):
        ours.from_bytes(model([helper.make_node("PRelu", ["x"], ["y"])], []))


@pytest.mark.parametrize("entry", [("offset", "9" * 5000), ("offset", "1_0"), ("length", "٣"), ("offset", "-1")])
def test_places_of_external_data(tmp_path, entry):
    tensor = TensorProto(name="w", data_type=1, dims=[2], data_location=1)
    for key, value in (("location", "w.bin"), entry):
        tensor.external_data.add(key=key, value=value)
    (tmp_path / "w.bin").write_bytes(b"\0" * 100)
    (tmp_path / "m.onnx").write_bytes(model([helper.make_node("Add", ["x", "w"], ["y"])], [tensor]))
    with pytest.raises(FileError, match="are not numbers"):
        ours.load(tmp_path / "m.onnx")


def test_external_data_read_many_times(tmp_path):
    tensors = []
    for place in range(300):
        tensor = TensorProto(name=f"w{place}", data_type=1, dims=[256, 1024], data_location=1)
        tensor.external_data.add(key="location", value="w.bin")
        tensors.append(tensor)
    (tmp_path / "w.bin").write_bytes(b"\0" * (1 << 20))
    nodes = [helper.make_node("Add", [f"a{i}" if i else "x", f"w{i}"], [f"a{i + 1}"]) for i in range(300)]
    (tmp_path / "m.onnx").write_bytes(
        model([*nodes, helper.make_node("Relu", ["a300"], ["y"])], tensors, (1, 256, 1024))
    )
    with pytest.raises(FileError, match="unpacks to more than 268,435,456 bytes"):
        ours.load(tmp_path / "m.onnx")


def test_packed_numbers_are_counted_before_they_are_read():
    data = model([helper.make_node("Constant", [], ["c"], value_ints=[0]), helper.make_node("Relu", ["x"], ["y"])], [])
    many = helper.make_attribute("value_ints", [1] * 1_200_000).SerializeToString()
    few = helper.make_attribute("value_ints", [0]).SerializeToString()
    assert data.count(few) == 1
    node = helper.make_node("Constant", [], ["c"])
    node.attribute.add().ParseFromString(many)
    with pytest.raises(FileError, match="fields: too large"):
        ours.from_bytes(model([node, helper.make_node("Relu", ["x"], ["y"])], []))


def test_tensors_whose_strides_repeat_them(tmp_path):
    """1.6 KB that are 17 GB: a stride of 0."""
    path = tmp_path / "w.pt"
    torch.save({"w": torch.zeros(1).expand(1 << 16, 1 << 16)}, path)
    assert path.stat().st_size < 2000
    with pytest.raises(FileError, match="unpacks to more than 268,435,456 bytes"):
        load_state(path)


def test_sparse_tensors_that_are_large_when_dense(tmp_path):
    path = tmp_path / "w.pt"
    tensor = torch.sparse_coo_tensor([[0], [0]], [1.0], (1 << 16, 1 << 16), check_invariants=True)
    torch.save({"w": tensor}, path)
    with pytest.raises(FileError, match="unpacks to more than 268,435,456 bytes"):
        load_state(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outside = torch.sparse_coo_tensor([[0], [9_000_000]], [1.0], (2, 2), check_invariants=False)
    torch.save({"w": outside}, path)
    with pytest.raises(FileError, match="damaged"):
        load_state(path)


def test_members_of_a_pt_that_unpack_to_gigabytes(tmp_path):
    out = io.BytesIO()
    torch.save({"w": torch.zeros(4)}, out)
    with zipfile.ZipFile(io.BytesIO(out.getvalue())) as old, zipfile.ZipFile(tmp_path / "w.pt", "w", 8) as new:
        for name in old.namelist():
            new.writestr(name, bytes(300 << 20) if name.endswith("/data/0") else old.read(name))
    assert (tmp_path / "w.pt").stat().st_size < 500_000
    with pytest.raises(FileError, match="unpacks to more than 268,435,456 bytes"):
        load_state(tmp_path / "w.pt")


def test_weights_that_repeat_a_little_are_read(tmp_path):
    torch.save({"w": torch.arange(3.0).expand(5, 3)}, tmp_path / "w.pt")
    np.testing.assert_array_equal(load_state(tmp_path / "w.pt")["w"], np.tile(np.arange(3.0), (5, 1)))
