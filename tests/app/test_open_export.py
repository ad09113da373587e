"""The ONNX file of a slimmed module takes pictures of any size where the module does, by ONNX Runtime.

And heads that only training uses: they are followed or named, and the result trains.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import dojang as package
from dojang.app.open_export import module_answers, write_open

slim: Any = package.slim


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 24, 3, 2, 1), nn.Conv2d(24, 24, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(24), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.two(self.one(x).relu())).relu().mean((2, 3)))


class UNet(nn.Module):
    """Takes even sizes only."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1)
        self.up, self.out = nn.Conv2d(40, 16, 3, padding=1), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(x).relu()
        z = nn.functional.interpolate(self.deep(nn.functional.max_pool2d(y, 2)).relu(), scale_factor=2)
        return self.out(self.up(torch.cat([y, z], 1)).relu())


class Sound(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv1d(1, 16, 9, padding=4), nn.Conv1d(16, 2, 9, padding=4)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).relu())


class Fixed(nn.Module):
    """Its dense layer is made for one size."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 2, 1), nn.Linear(256, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(x).relu()).relu().flatten(1))


def dims(value: Any) -> list[Any]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize(
    ("module", "shape", "other", "open_dims"),
    [
        (Pooled, (3, 16, 16), (3, 21, 35), ["N", 3, "H", "W"]),
        (UNet, (3, 16, 16), (3, 24, 40), ["N", 3, "8*H", "8*W"]),
        (Sound, (1, 64), (1, 101), ["N", 1, "L"]),
        (Fixed, (3, 16, 16), None, ["N", 3, 16, 16]),
    ],
)
def test_the_file_takes_what_the_module_takes(
    module: Any, shape: tuple[int, ...], other: tuple[int, ...] | None, open_dims: list[Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    done = slim(module().eval(), torch.randn(24, *shape), target_macs=0.6, output=tmp_path / "out")
    path = str(tmp_path / "out" / "model.onnx")
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert dims(model.graph.input[0]) == open_dims
    told = {info.name for info in model.graph.value_info} | {o.name for o in model.graph.output}
    assert {node.name for node in done.graph.nodes if node.op not in ("input", "constant")} <= told
    assert ("any size" in done.same_answers) == (other is not None)
    session = onnxruntime.InferenceSession(path)
    for size in (shape, other or shape):
        x = np.random.default_rng(0).standard_normal((3, *size), np.float32)
        (found,) = session.run(None, {session.get_inputs()[0].name: x})
        np.testing.assert_allclose(found, done.module(torch.from_numpy(x)).detach().numpy(), atol=1e-5)


class Helped(nn.Module):
    """A head that only training uses reads `two`."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 2, 1)
        self.three, self.head = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 3)
        self.aux = nn.Sequential(nn.Conv2d(16, 8, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Any:
        y = self.two(self.one(x).relu()).relu()
        aux = self.aux(y) if self.training else None
        found = self.head(self.three(y).relu().mean((2, 3)))
        return found if aux is None else (found, aux)


def test_a_head_that_only_training_uses_is_named_and_the_result_trains() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(24, 3, 16, 16), torch.arange(24) % 3
    done = slim(Helped().eval(), x, target_macs=0.6)
    assert type(done.module) is Helped
    assert done.module.two.out_channels == 16
    assert done.module.one.out_channels < 16 or done.module.three.out_channels < 16
    (why,) = [one for one in done.result.refused if "two" in one.layers]
    assert "layers that only training uses: aux" in why.reason
    done.module.train()
    optimiser = torch.optim.SGD(done.module.parameters(), 0.1)
    losses: list[float] = []
    for _ in range(5):
        found, aux = done.module(x)
        loss = nn.functional.cross_entropy(found, y) + 0.4 * nn.functional.cross_entropy(aux, y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("lossless", [True, False])
def test_an_open_file_stays_open(lossless: bool, tmp_path: Path) -> None:
    """Slimmed at one size, and with channels cut, it takes what it took before; ONNX Runtime answers both files."""
    torch.manual_seed(0)
    module = Pooled().eval()
    with torch.no_grad():
        for layer in (module.one, module.two):
            layer.weight[12:] = 0
            layer.bias[12:] = 0
    source, out = tmp_path / "source.onnx", tmp_path / "out"
    assert write_open(module_answers(module), package.load(module, input_size=(3, 16, 16)), source)
    x = np.random.default_rng(0).standard_normal((24, 3, 16, 16), np.float32)
    how = {"lossless": True} if lossless else {"target_macs": 0.7}
    done = slim(str(source), x, input_size=(3, 16, 16), output=out, **how)
    assert done.after.macs < done.before.macs
    assert dims(onnx.load(str(out / "model.onnx")).graph.input[0])[2:] == ["H", "W"]
    both = [onnxruntime.InferenceSession(str(path)) for path in (source, out / "model.onnx")]
    wide = np.random.default_rng(1).standard_normal((3, 3, 21, 35), np.float32)
    was, now = (one.run(None, {one.get_inputs()[0].name: wide})[0] for one in both)
    if lossless:
        np.testing.assert_allclose(now, was, atol=1e-5)
    assert now.shape == was.shape
