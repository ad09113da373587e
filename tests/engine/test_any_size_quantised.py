"""Networks that are quantised while they run, at any size: in kernels, with one code for all sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dojang
from dojang.engine.reference.operators import run_reference
from dojang.formats.onnx import to_bytes
from dojang.native import jit

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: E402
from torch import nn  # noqa: E402


class Reader(nn.Module):
    """A line of text to scores of letters: convolutions, a dense layer over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, (2, 1), 1, groups=2), nn.Hardswish(),
            nn.Conv2d(16, 24, (4, 1)), nn.SiLU(),
        )  # fmt: skip
        self.letters = nn.Linear(24, 11)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.letters(self.body(x).squeeze(2).transpose(1, 2))


def file_of(kind: QuantType, per_channel: bool, reduced: bool, folder: Path) -> bytes:
    torch.manual_seed(0)
    (folder / "float.onnx").write_bytes(to_bytes(dojang.load(Reader().eval(), input_size=(1, 16, "W"))))
    quantize_dynamic(
        folder / "float.onnx", folder / "q.onnx", weight_type=kind, per_channel=per_channel, reduce_range=reduced,
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
    )  # fmt: skip
    return (folder / "q.onnx").read_bytes()


@pytest.mark.parametrize(
    ("kind", "per_channel", "reduced"),
    [(QuantType.QUInt8, False, False), (QuantType.QInt8, False, False), (QuantType.QUInt8, True, True)],
)
def test_in_kernels_at_any_size(kind, per_channel, reduced, tmp_path, monkeypatch) -> None:
    data = file_of(kind, per_channel, reduced, tmp_path)
    monkeypatch.setenv("DOJANG_CACHE_DIR", str(tmp_path / "cache"))
    graph = dojang.load(data)
    net = dojang.compile(graph, threads=1)
    loaded: list[str] = []
    load = jit.load_recipes
    monkeypatch.setattr(jit, "load_recipes", lambda rows, m: loaded.extend(r.text for r in rows) or load(rows, m))
    peer = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    first: set[str] = set()
    for images, width in ((1, 40), (1, 64), (1, 33), (2, 40)):
        x = np.random.default_rng(width).standard_normal((images, 1, 16, width)).astype(np.float32)
        found = net(x)
        first = first or set(loaded)
        (right,) = run_reference(dojang.load(data, input_size=(1, 16, width)), x).outputs
        # A value on the border between two whole numbers may fall to either, where float32 sums in another order.
        step = np.abs(right).max() / 100
        assert np.abs(found - right).max() <= step
        assert np.median(np.abs(found - right)) <= 1e-5 * np.abs(right).max()
        (other,) = peer.run(None, {"x": x})
        assert np.abs(found - other).max() <= 2 * step
    # narrow rows of convolutions may have code of their own; nothing else has
    assert {text.split()[0] for text in set(loaded) - first} <= {"direct", "pointwise"}
    assert net.engine.plan().in_python == ()
