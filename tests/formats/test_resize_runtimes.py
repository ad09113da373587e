"""Which pixel is the nearest: exactly that of PyTorch and of ONNX Runtime, wherever the network came from."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn
from torch.nn import functional as F

import dojang
from dojang.arith.graph import Graph, Node
from dojang.arith.resizing import COORDS, mixes, resized
from dojang.arith.shapes import resize as resized_shape
from dojang.arith.sight import Sight
from dojang.base.errors import UnsupportedError
from dojang.engine.compiled import compile
from dojang.engine.reference.operators import run_reference
from dojang.formats import onnx as onnx_format

SCALES = [k / 10 for k in range(1, 31)]
SIZES = (1, 2, 3, 7, 10, 13, 20, 31, 32, 40, 64, 97)
ROUNDINGS = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
BASE: dict[str, Any] = {"mode": "nearest", "coords": "asymmetric", "rounding": "floor", "cubic_a": -0.75, "scale": None,
                        "size": None, "arithmetic": "torch"}  # fmt: skip
MODES = {"nearest": ("asymmetric", "floor"), "nearest-exact": ("half_pixel", "round_prefer_ceil")}


def indices(attrs: dict[str, Any], sizes: tuple[int, ...], outs: tuple[int, ...]) -> list[list[int]]:
    """The pixel of each output, for each axis."""
    return [[mix[0][0] for mix in axis] for axis in mixes(attrs, sizes, outs)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("how", ["scale", "recompute", "size"])
def test_every_factor_as_pytorch(mode: str, how: str) -> None:
    coords, rounding = MODES[mode]
    for size, scale in product((*SIZES, 224), (*SCALES, 1 / 3, 1.37)):
        if size * scale < 1:
            continue
        x = torch.arange(float(size)).view(1, 1, size)
        more = {"scale": {}, "recompute": {"recompute_scale_factor": True}, "size": {}}[how]
        out = resized(size, scale, "torch")
        given: dict[str, Any] = {"size": out} if how == "size" else {"scale_factor": scale}
        right = F.interpolate(x, mode=mode, **given, **more).view(-1).int().tolist()
        attrs = {**BASE, "coords": coords, "rounding": rounding, "scale": (scale,) if how == "scale" else None}
        assert len(right) == out
        assert indices(attrs, (size,), (out,)) == [right], (size, scale)


def model(x: tuple[int, ...], opset: int = 19, op: str = "Resize", **given: Any) -> bytes:
    """An ONNX file of one Resize; `scales` or `sizes`, and attributes."""
    rank = len(x)
    arrays, names = [], ["x"]
    for name, kind in (("scales", TensorProto.FLOAT), ("sizes", TensorProto.INT64)):
        values = given.pop(name, None)
        if values is not None:
            names += ["", name] if opset > 10 and name == "scales" else [name] if opset < 11 else ["", "", name]
            arrays.append(helper.make_tensor(name, kind, [rank], values))
    node = helper.make_node(op, names, ["y"], **given)
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", list(x)), ("y", [None] * rank))]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], arrays)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 6 if opset < 11 else 9
    return made.SerializeToString()


def runtime(data: bytes, x: np.ndarray) -> np.ndarray:
    """ONNX Runtime's answer."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


@pytest.mark.parametrize("coords", COORDS)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_every_factor_as_onnx_runtime(coords: str, rounding: str) -> None:
    """By factors and by sizes; two axes of their own factors in each file."""
    for at, scale in enumerate(SCALES):
        size = SIZES[at % len(SIZES)], SIZES[(5 * at + 3) % len(SIZES)]
        scales = (scale, SCALES[(7 * at + 1) % len(SCALES)])
        if any(s * f < 1 for s, f in zip(size, scales, strict=True)):
            continue
        x = np.arange(size[0] * size[1], dtype="f4").reshape(1, 1, *size)
        attrs = {**BASE, "coords": coords, "rounding": rounding, "arithmetic": "onnx"}
        words = {"mode": "nearest", "coordinate_transformation_mode": coords, "nearest_mode": rounding}
        factors = tuple(float(np.float32(f)) for f in scales)
        out = resized_shape({**attrs, "scale": factors}, [(1, 1, *size)])[2:]
        for given, mine in (
            ({"scales": [1, 1, *scales]}, {"scale": factors}),
            ({"sizes": [1, 1, *out]}, {"size": out}),
        ):
            right = runtime(model(x.shape, **given, **words), x)[0, 0]
            rows, columns = indices({**attrs, **mine}, size, out)
            assert right.shape == out
            assert np.array_equal(x[0, 0][np.ix_(rows, columns)], right), (size, scales, given)


@pytest.mark.parametrize("space", [(13,), (10, 7), (5, 13, 4)])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_files_are_run_as_onnx_runtime_runs_them(space: tuple[int, ...], mode: str, tmp_path: Path) -> None:
    """Reading, the reference, the engine, writing and reading again; a factor of its own for each axis."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 3, *space)).astype("f4")
    for coords, rounding in product(COORDS, ROUNDINGS if mode == "nearest" else ("floor",)):
        if mode == "linear" and coords == "tf_half_pixel_for_nn":
            continue  # for nearest only, says its name
        scales = [float(f) for f in rng.choice(SCALES, len(space))]
        scales = [f if f * s >= 1 else 1.3 for f, s in zip(scales, space, strict=True)]
        data = model(x.shape, scales=[1, 1, *scales], mode=mode, coordinate_transformation_mode=coords,
                     nearest_mode=rounding)  # fmt: skip
        right = runtime(data, x)
        path = tmp_path / "one.onnx"
        path.write_bytes(data)
        graph = dojang.load(str(path))
        onnx_format.save(graph, path)
        again = runtime(path.read_bytes(), x)
        answers = [run_reference(graph, x).outputs[0], compile(graph, threads=1)(x), again]
        for answer in answers:
            if mode == "nearest":
                assert np.array_equal(answer, right), (coords, rounding, scales)
            else:
                assert np.abs(answer - right).max() < 1e-5, (coords, scales)


@pytest.mark.parametrize("opset", [9, 10])
def test_old_versions(opset: int, tmp_path: Path) -> None:
    """Upsample, and Resize of opset 10, which takes the pixel behind where it shrinks."""
    x = np.arange(200, dtype="f4").reshape(1, 1, 20, 10)
    for scale in SCALES if opset == 10 else SCALES[9:]:
        other = 1.7 if scale >= 0.2 else 1.0
        data = model(
            x.shape, opset, "Resize" if opset == 10 else "Upsample", scales=[1, 1, scale, other], mode="nearest"
        )
        path = tmp_path / "old.onnx"
        path.write_bytes(data)
        assert np.array_equal(compile(dojang.load(str(path)), threads=1)(x), runtime(data, x)), scale


class Resized(nn.Module):
    """One call of `interpolate`."""

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self.given = given

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, **self.given)


def test_modules_are_run_as_pytorch_runs_them(tmp_path: Path) -> None:
    """The reference, the engine, and the ONNX file, in which PyTorch's pixels stay: by indices if need be."""
    gathers = 0
    for size, scale in product((31, 32, 49), SCALES[1:]):
        x = np.random.default_rng(0).standard_normal((1, 2, 4, size)).astype("f4")
        for mode in MODES:
            module = Resized(scale_factor=(1.5, scale), mode=mode)
            right = module(torch.from_numpy(x)).numpy()
            graph = dojang.load(module, input_size=x.shape[1:])
            assert np.array_equal(run_reference(graph, x).outputs[0], right)
            path = tmp_path / "one.onnx"
            onnx_format.save(graph, path)
            gathers += any(n.op_type == "Gather" for n in onnx.load(path).graph.node)
            assert np.array_equal(runtime(path.read_bytes(), x), right), (size, scale, mode)
            if scale in (0.2, 0.9, 2.3):
                assert np.array_equal(compile(graph, threads=1)(x), right)
                assert np.array_equal(compile(dojang.load(str(path)), threads=1)(x), right)
    assert gathers > 0  # 31 pixels by 2.3 are one such case


@pytest.mark.parametrize(
    ("mode", "space", "scale"),
    [
        ("linear", (3,), 1.1),
        ("bilinear", (3, 13), (1.1, 2)),
        ("bilinear", (5, 200), (2, 1.001)),
        ("trilinear", (3, 4, 3), (1.1, 2, 1.3)),
        ("bicubic", (9, 7), (1.05, 1)),
        ("bicubic", (9, 7), 1.05),
    ],
)
def test_an_axis_that_keeps_its_size(mode: str, space: tuple[int, ...], scale: Any, tmp_path: Path) -> None:
    """A factor just above 1 leaves 3 pixels 3 pixels: PyTorch copies them where it mixes linearly, and moves them where
    it mixes by cubics."""
    module = Resized(scale_factor=scale, mode=mode)
    x = np.random.default_rng(0).standard_normal((2, 3, *space)).astype("f4")
    right = module(torch.from_numpy(x)).numpy()
    graph = dojang.load(module, input_size=x.shape[1:])
    for answer in (run_reference(graph, x).outputs[0], compile(graph, threads=1)(x)):
        np.testing.assert_allclose(answer, right, rtol=0, atol=2e-5)
    path = tmp_path / "one.onnx"
    if mode == "bicubic":  # ONNX Runtime copies where no size changes, and has another size for the place of a pixel
        with pytest.raises(UnsupportedError, match="give the size instead of the factor"):
            onnx_format.save(graph, path)
    else:
        onnx_format.save(graph, path)
        np.testing.assert_allclose(runtime(path.read_bytes(), x), right, rtol=0, atol=2e-5)


def test_a_fifth_of_the_pixels() -> None:
    module = Resized(scale_factor=0.2)
    x = np.tile(np.arange(32, dtype="f4"), (1, 1, 32, 1))
    assert dojang.compile(dojang.load(module, input_size=(1, 32, 32)))(x)[0, 0, 0].tolist() == [0, 5, 10, 15, 20, 25]


@pytest.mark.parametrize("scale", [0.2, 0.4, 0.9, 1.1, 1.3, 2.6])
def test_receptive_fields_are_those_pixels(scale: float) -> None:
    """What gradients show that an output reads."""
    x = torch.zeros(1, 1, 31, requires_grad=True)
    y = F.interpolate(x, scale_factor=scale)
    graph = dojang.load(Resized(scale_factor=scale), input_size=(1, 31))
    (span,) = Sight(graph)[graph.outputs[0]][0] or ()
    for o in range(y.shape[-1]):
        (gradient,) = torch.autograd.grad(y[0, 0, o], x, retain_graph=True)
        pixel = int(gradient.nonzero()[0, -1])
        assert span.at(o) == (pixel, pixel)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("mode", "coords"), [*product(("linear", "cubic"), ("half_pixel", "align_corners", "asymmetric"))]
)
def test_a_pixel_without_a_share_is_not_read(bad: float, mode: str, coords: str) -> None:
    """0 · ∞ is NaN, so that pixels whose share is 0 must be left out; the others go where they should."""
    space, scale = (9, 11), (2.0, 1.0)
    x = np.random.default_rng(1).standard_normal((1, 3, *space)).astype("f4")
    x[0, 1, 4, 5] = bad
    layer = Node.of("r", "resize", "x", scale=scale, mode=mode, coords=coords)
    graph = Graph((Node.of("x", "input", shape=(3, *space)), layer), ("r",), "one")
    flags = np.zeros_like(x, "f8")
    flags[0, 1, 4, 5] = 1
    touched = run_reference(graph, flags).outputs[0] != 0
    for answer in (run_reference(graph, x).outputs[0], compile(graph, threads=1)(x)):
        assert np.array_equal(~np.isfinite(answer), touched)
        if np.isinf(bad) and mode == "linear":
            assert (answer[touched] == bad).all()
