"""Networks with several inputs: loaded, counted, compiled, run; and sizes that are no sizes."""

import numpy as np
import pytest

import dojang
from dojang.base.errors import UsageError

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

SIZES = [
    ((3, 12, 12), (3, 12, 12)),
    [[3, 12, 12], [3, 12, 12]],
    {"x": (3, 12, 12), "y": (3, 12, 12)},
    {"y": [3, 12, 12], "x": [3, 12, 12]},
    (torch.Size((3, 12, 12)), (np.int64(3), 12, 12)),
]


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, x, y, scale=2.0):
        return self.a(x) - self.b(y) * scale


class Mixed(nn.Module):
    """A picture and a vector."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Linear(10, 4)

    def forward(self, image, facts):
        return self.a(image) + self.b(facts)[:, :, None, None]


@pytest.mark.parametrize("size", SIZES)
def test_two_inputs(size):
    m = Two().eval()
    x, y = torch.randn(2, 3, 12, 12), torch.randn(2, 3, 12, 12)
    graph = dojang.load(m, input_size=size)
    assert [n.name for n in graph.inputs] == ["x", "y"]
    with torch.no_grad():
        right = m(x, y).numpy()
    for run in (dojang.compile(graph), dojang.compile(m, input_size=size)):
        np.testing.assert_allclose(run({"x": x.numpy(), "y": y.numpy()}), right, rtol=1e-4, atol=1e-5)
    total = dojang.count(m, input_size=size).total
    assert total.params == sum(p.numel() for p in m.parameters())
    assert total.macs == 2 * 10 * 10 * 4 * 27


def test_inputs_of_different_ranks():
    m = Mixed().eval()
    x, v = torch.randn(3, 3, 8, 9), torch.randn(3, 10)
    for size in (((3, 8, 9), (10,)), {"facts": (10,), "image": (3, 8, 9)}):
        run = dojang.compile(m, input_size=size)
        with torch.no_grad():
            np.testing.assert_allclose(run({"image": x.numpy(), "facts": v.numpy()}), m(x, v).numpy(), 1e-4, 1e-5)


def test_other_sizes_for_a_graph_and_a_file(tmp_path):
    graph = dojang.load(Two().eval(), input_size=SIZES[0])
    larger = dojang.load(graph, input_size=((3, 20, 16), (3, 20, 16)))
    assert larger.unit_shapes[larger.outputs[0]] == (1, 4, 18, 14)
    assert dojang.load(graph, input_size={"x": (3, 12, 12)}).inputs == graph.inputs
    file = tmp_path / "two.onnx"
    dojang.export(graph, format="onnx", output=file)
    for size in (((3, 20, 16), (3, 20, 16)), {"x": (3, 20, 16), "y": (3, 20, 16)}):
        read = dojang.load(file, input_size=size)
        assert read.unit_shapes[read.outputs[0]] == (1, 4, 18, 14)


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (224, "input size 224"),
        (3.5, "input size 3.5"),
        ("3,224,224", "input size '3,224,224'"),
        ((3, 12.5, 12), "12.5 is no whole number"),
        ((3, None, 12), "None is no whole number"),
        ((3, (12, 12)), "no whole number"),
        ((3, 0, 12), "at least 1"),
        ((True, 12, 12), "at least 1"),
        ((), "at least 1"),
        (((3, 12, 12), ()), "at least 1"),
        ({}, "name at least one input"),
        ({"x": 3, "y": 4}, "input size 3"),
        ({"x": (3, 12, 12), "z": (3, 12, 12)}, "no input 'z'"),
        (((3, 12, 12),) * 4, "4 input sizes"),
        ((3, 12, 12), "takes x, y"),
        (((3, 12, "H"), (3, 12, 12)), "only counting works with symbols"),
    ],
)
def test_what_is_no_size_is_said_in_one_line(size, said):
    with pytest.raises(UsageError, match=said) as caught:
        dojang.load(Two().eval(), input_size=size)
    assert "\n" not in str(caught.value)


def test_sizes_that_do_not_fit_a_graph():
    graph = dojang.load(Two().eval(), input_size=SIZES[0])
    for size, said in (
        ((3, 12, 12), "2 inputs"), (((3, 12, 12),) * 3, "3 sizes were given"), ({"q": (3, 12, 12)}, "no input 'q'"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            dojang.load(graph, input_size=size)
    with pytest.raises(UsageError, match="one input"):
        dojang.count(Two().eval(), input_size=((3, "H", 12), (3, "H", 12)))


def test_from_the_shell(tmp_path, capsys):
    import json

    from dojang.app.cli import main

    file = tmp_path / "two.py"
    file.write_text(
        "import torch\nclass Two(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.a = torch.nn.Conv2d(3, 4, 3)\n    def forward(self, x, v):\n"
        "        return self.a(x) + v[:, :, None, None]\n"
    )
    assert main(["count", f"{file}:Two", "--input-size", "3,12,12;4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["totals"]["macs"] == 100 * 4 * 27
    assert main(["count", f"{file}:Two", "--input-size", "3,12,12;4;"]) == 2
    assert "write C,H,W" in capsys.readouterr().err


@pytest.mark.parametrize("as_file", [False, True])
def test_sizes_in_order_for_a_file_that_leaves_them_open(as_file, tmp_path):
    """Its inputs are named without reading the network, which the sizes are needed for."""
    onnx = pytest.importorskip("onnx")
    info, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    shapes = {"b": ["n", "c", "h", "w"], "a": ["n", "c", "h", "w"]}
    node = onnx.helper.make_node("Add", ["b", "a"], ["y"])
    values = [info(name, kind, shape) for name, shape in shapes.items()]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", values, [info("y", kind, None)]))
    source = model
    if as_file:
        source = str(tmp_path / "n.onnx")
        onnx.save(model, source)
    net = dojang.load(source, input_size=((3, 4, 5), (3, 1, 5)))
    assert [(n.name, n.attrs["shape"]) for n in net.inputs] == [("b", (3, 4, 5)), ("a", (3, 1, 5))]
    with pytest.raises(UsageError, match=r"has 2 inputs \(b, a\), 3 sizes were given"):
        dojang.load(source, input_size=((3, 4, 5),) * 3)
