"""The bench of whole networks: the limit beside each, the processes that take turns, the table that grows."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))
import limits
import networks
import problems
from dojang.arith.conv import Conv
from dojang.formats import onnx as onnx_format
from dojang.formats import zoo
from dojang.native.families import Peaks

PEAKS = Peaks(200.0, 30.0, 90.0)


@pytest.mark.parametrize(
    "text", ["3x9x8 conv 4 3x3 pad=1", "4x7x6 conv 6 3x2 stride=2 pad=1:0", "6x5x5 conv 6 5x5 pad=2 groups=3"]
)
def test_products_of_the_definition_are_those_that_meet_the_image(text: str) -> None:
    """Counted by a convolution of ones with ones: every output is then the number of its products."""
    torch = pytest.importorskip("torch")
    c = problems.parse(text)
    pads = [p for pair in reversed(c.padding) for p in pair]
    x = torch.nn.functional.pad(torch.ones(c.in_shape), pads)
    counted = torch.nn.functional.conv2d(x, torch.ones(c.weight_shape), None, c.stride, 0, c.dilation, c.groups)
    assert limits.met(c) == int(counted.sum())


def test_tiles_take_the_fewest_multiplications() -> None:
    """By hand: 12×12 outputs in tiles of 4 are 9 · 36 products of a pair of channels, in tiles of 6 they are 4 · 64."""
    c = Conv.of(32, 16, (12, 12), 3, padding=1)
    assert limits.multiplications(c, 4) == 9 * 36 * 32 * 16
    assert limits.multiplications(c, 6) == 4 * 64 * 32 * 16
    strided, narrow = Conv.of(32, 16, (12, 12), 3, 2, 1), Conv.of(64, 64, (12, 12), 3, padding=1, groups=16)
    for other in (strided, narrow):
        assert limits.multiplications(other, 6) == limits.met(other)


def test_the_limit_of_a_layer_is_the_longer_of_both() -> None:
    """AlexNet's first dense layer waits for 151 MB of weights, VGG-16's second convolution for its products."""
    by_name = {la.name: la for n in ("alexnet", "vgg16") for la in limits.layers(zoo.load(n), 1, PEAKS, 32 << 20, 4)}
    dense = max(by_name.values(), key=lambda la: la.fetching)
    assert dense.seconds == pytest.approx(4 * 25088 * 4096 / 30e9, rel=0.01)
    second = by_name["features.2"]
    assert second.seconds == second.multiplying == pytest.approx(2 * 56**2 * 36 * 64**2 / 200e9)


def test_a_process_is_stopped_between_its_turns(tmp_path: Path) -> None:
    """It answers as the network does, takes turns, and its state is "stopped" before, between and after them."""
    graph = networks.filled(zoo.load("digits-cnn"))
    (tmp_path / "model.onnx").write_bytes(onnx_format.to_bytes(graph))
    x = np.random.default_rng(0).standard_normal((1, *graph.inputs[0].attrs["shape"]), np.float32)
    np.save(tmp_path / "x.npy", x)

    def state(process: int) -> str:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]

    with networks.Runtime("dojang", tmp_path, 1, None) as runtime:
        assert runtime.error is None
        assert state(runtime.process.pid) == "T"
        for _ in range(2):
            before = len(runtime.times)
            runtime.turn()
            assert len(runtime.times) >= before + 2
            assert state(runtime.process.pid) == "T"
    session = pytest.importorskip("onnxruntime").InferenceSession(tmp_path / "model.onnx")
    (right,) = session.run(None, {session.get_inputs()[0].name: x})
    np.testing.assert_allclose(np.load(tmp_path / "dojang.npy"), right, rtol=1e-4, atol=1e-4 * np.abs(right).max())


def test_a_runtime_that_cannot_run_says_why(tmp_path: Path) -> None:
    """A damaged file, and a name that is no runtime."""
    (tmp_path / "model.onnx").write_bytes(b"no model")
    np.save(tmp_path / "x.npy", np.zeros((1, 1), "f4"))
    for name in ("dojang", "nothing"):
        with networks.Runtime(name, tmp_path, 1, None) as runtime:
            assert runtime.error


def test_lines_of_other_networks_stay(tmp_path: Path) -> None:
    """A table that is read again gives the same rows, notes included; other conditions are refused."""
    names = ["dojang", "ort", "mnn"]
    rows = [
        networks.Row("resnet18", {"dojang": (10.0, 11.5), "ort": (15.0, 17.25)}, 0.5, 1e-6, ("# resnet18: mnn fails",)),
        networks.Row("vgg16", {"dojang": (60.0, 61.0), "ort": (90.0, 99.0), "mnn": (70.0, 80.0)}, 0.7, 2e-6),
    ]
    lines = [text for r in rows for text in (r.line(names, 1, PEAKS), *r.notes)]
    together = "# 2 threads together: 200.0 GFLOP/s FMA, 30.0 GB/s memory, 90.0 GB/s cache, the best of these runs"
    path = tmp_path / "table.txt"
    end = networks.summary(rows, names, 1, PEAKS)
    path.write_text("\n".join(["# conditions", together, networks.columns(names), *lines, *end]) + "\n")
    found, peaks = networks.earlier(path, "# conditions", names)
    assert list(found.values()) == rows
    assert peaks == PEAKS
    assert rows[0].ratios(names) == pytest.approx((1.5, 1.5))
    assert rows[1].ratios(names) == pytest.approx((70 / 60, 80 / 61))
    with pytest.raises(SystemExit, match="other measurements"):
        networks.earlier(path, "# other conditions", names)
