"""`dojang.compile`: arrays and tensors in, the same kind out; numbers at the edge of float32."""

import threading

import numpy as np
import pytest

import dojang
from dojang.base.errors import DataError, ShapeError, UsageError

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def run():
    return dojang.compile("digits-cnn", threads=1)


@pytest.fixture(scope="module")
def x(run):
    return np.random.default_rng(0).random((3, *run.graph.inputs[0].attrs["shape"]), np.float32)


def test_the_same_kind_comes_out(run, x):
    right, name = run(x), run.graph.inputs[0].name
    assert type(right) is np.ndarray
    for given in (torch.from_numpy(x), torch.from_numpy(x).requires_grad_(), {name: torch.from_numpy(x)}):
        found = run(given)
        assert isinstance(found, torch.Tensor)
        assert not found.requires_grad
        assert np.array_equal(found.numpy(), right)
    assert np.array_equal(run({name: x}), right)
    for dtype in (torch.float64, torch.bfloat16):
        assert run(torch.from_numpy(x).to(dtype)).dtype == dtype
    with pytest.raises(ShapeError):
        run(torch.zeros(1, 2, 3, 4))


def test_weights_are_held_once_unless_they_are_to_be_kept(run, x):
    kept = dojang.compile("digits-cnn", threads=1, release=False)
    assert np.array_equal(kept(x), run(x))
    missing = set(kept.graph.weights) - set(run.graph.weights)
    assert missing == {name for name, array in kept.graph.weights.items() if np.ndim(array) > 1}
    first = next(n.name for n in kept.graph.nodes if n.op == "conv")
    assert kept.engine.run(x, (first,)).taps[first].shape[0] == 3
    with pytest.raises(UsageError, match=r"were released.*release=False"):
        run.engine.run(x, (first,))


def test_any_memory_order_and_batch(run, x):
    right = run(x)
    flipped = np.ascontiguousarray(x[..., ::-1])[..., ::-1]
    assert flipped.strides[-1] < 0
    assert np.array_equal(run(flipped), right)
    assert np.array_equal(run(np.repeat(x, 2, 0)[::2]), right)
    assert run(x[:0]).shape == (0, right.shape[1])
    assert np.allclose(run(x[1:2]), right[1:2], atol=1e-5)


def test_many_threads(run, x):
    right, wrong = run(x), []

    def work():
        wrong.extend(1 for _ in range(30) if not np.array_equal(run(torch.from_numpy(x)).numpy(), right))

    workers = [threading.Thread(target=work) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_denormal_numbers_are_kept():
    x, w = np.full((1, 4, 6, 6), 1e-40, "f4"), np.ones((5, 4, 3, 3), "f4")
    right = torch.nn.functional.conv2d(torch.from_numpy(x), torch.from_numpy(w), padding=1).numpy()
    assert 0 < right.max() < np.finfo("f4").tiny
    assert np.array_equal(dojang.conv(x, w, padding=1), right)


def test_several_inputs_come_in_their_order_or_by_name():
    module = torch.nn.Module()
    module.forward = lambda x, y: torch.cat([x, 2 * y], 1)
    run = dojang.compile(dojang.load(module, input_size=((3, 4, 4), (1, 4, 4))))
    x, y = torch.randn(2, 3, 4, 4), torch.randn(2, 1, 4, 4)
    assert torch.equal(run(x, y), torch.cat([x, 2 * y], 1))
    assert torch.equal(run({"y": y, "x": x}), torch.cat([x, 2 * y], 1))
    assert np.array_equal(run(x.numpy(), y.numpy()), torch.cat([x, 2 * y], 1).numpy())
    with pytest.raises(UsageError, match=r"has 2 inputs \(x, y\), but 3 arrays were given"):
        run(x, y, y)
    with pytest.raises(ShapeError, match="x: the input is 2x1x4x4"):
        run(y, x)


@pytest.mark.filterwarnings("ignore:You are using the legacy:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning")
def test_an_onnx_file_with_open_sizes_is_compiled_for_any(tmp_path):
    """As a path, as bytes, and as a ModelProto; what its layers need is told."""
    import onnx
    from torch import nn

    class Halved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Conv2d(3, 8, 3, 2, 1)
            self.up = nn.ConvTranspose2d(8, 3, 2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.up(torch.relu(self.down(x)))

    module, path = Halved().eval(), tmp_path / "halved.onnx"
    axes = {"x": {0: "n", 2: "h", 3: "w"}}
    torch.onnx.export(module, (torch.zeros(1, 3, 8, 8),), path, input_names=["x"], dynamic_axes=axes, dynamo=False)
    networks = [path, path.read_bytes(), onnx.load(path)]
    assert str(dojang.load(path).inputs[0].attrs["shape"]) == "(3, 2·H, 2·W)"
    runs = [dojang.compile(net) for net in networks]
    named = dojang.compile(module, input_size=(3, "2H", "2W"))
    for h, w in ((16, 24), (64, 40)):
        x = torch.randn(2, 3, h, w)
        with torch.inference_mode():
            right = module(x).numpy()
        for run in (*runs, named):
            assert np.allclose(run(x.numpy()), right, atol=1e-5)
    with pytest.raises(ShapeError, match="which is no multiple of 2"):
        runs[0](np.zeros((1, 3, 11, 16), "f4"))


class Answering(torch.nn.Module):
    """A convolution whose outputs are compared or counted."""

    def __init__(self, answer):
        super().__init__()
        self.conv, self.answer = torch.nn.Conv2d(3, 5, 3), answer

    def forward(self, x):
        return self.answer(self.conv(x))


@pytest.mark.parametrize("answer", [lambda y: y.argmax(1), lambda y: y > 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_classes_and_truth_values_keep_their_type(answer, dtype):
    net, x = Answering(answer).eval(), torch.randn(2, 3, 6, 6).bfloat16().float()
    right, run = net(x), dojang.compile(net, input_size=(3, 6, 6), threads=1)
    for given in (x.to(dtype), {run.graph.inputs[0].name: x.to(dtype)}):
        found = run(given)
        assert found.dtype == right.dtype
        assert torch.equal(found, right)


class Tokens(torch.nn.Module):
    """An embedding and a dense layer."""

    def __init__(self):
        super().__init__()
        self.table, self.dense = torch.nn.Embedding(11, 6), torch.nn.Linear(6, 3)

    def forward(self, tokens):
        return self.dense(self.table(tokens).mean(1))


def test_tokens_go_in_as_whole_numbers():
    net, tokens = Tokens().eval(), torch.randint(0, 11, (4, 7))
    right, run = net(tokens).detach(), dojang.compile(net, input_size=(7,), threads=1)
    for given in (tokens, tokens.int(), tokens.to(torch.uint8), tokens.float()):
        found = run(given)
        assert found.dtype == torch.float32
        assert torch.allclose(found, right, atol=1e-6)
    assert np.allclose(run(tokens.numpy()), right.numpy(), atol=1e-6)
    assert dojang.load(net, input_size=(7,)).inputs[0].attrs["dtype"] == "int64"
    with pytest.raises(DataError, match="an index is 16777217, the axis has 11 places"):
        run(torch.full((1, 7), 2**24 + 1))
    with pytest.raises(UsageError, match="the input is float32; the network takes int64"):
        run(tokens + 0.5)


def test_whole_numbers_are_no_pictures(run, x):
    with pytest.raises(UsageError, match="give float32"):
        run(torch.zeros(x.shape, dtype=torch.int64))
