"""Operators of ONNX in written modules, against the node tests of the standard (onnx.backend.test)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from dojang.arith.graph import Graph, Node  # noqa: E402
from dojang.base.errors import UnsupportedError  # noqa: E402
from dojang.engine.reference.operators import run_reference  # noqa: E402
from dojang.formats import onnx as onnx_format  # noqa: E402
from dojang.formats.torch import from_module, to_module  # noqa: E402
from dojang.formats.torch.write.standard import FUNCTIONS, TYPES  # noqa: E402


def cases() -> list[Any]:
    """The cases of one operator each that this writer has a function for, in types that PyTorch and NumPy share."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        every = load_model_tests(kind="node")
    return [
        c for c in every if len(c.model.graph.node) == 1 and c.model.graph.node[0].op_type in FUNCTIONS and typed(c)
    ]


def typed(case: Any) -> bool:
    """Whether all values are tensors of such types, none of them empty."""
    values = [*case.model.graph.input, *case.model.graph.output]
    kinds = {v.type.tensor_type.elem_type for v in values}
    return kinds <= set(TYPES) - {BFLOAT16} and "empty" not in case.name and not case.name.endswith("_zero")


BFLOAT16 = 16
REFUSED = {
    "test_gathernd_example_int32_batch_dim1", "test_maxpool_with_argmax_2d_precomputed_strides",
    "test_scatternd_max", "test_scatternd_max_with_element_indices", "test_scatternd_min",
    "test_scatternd_min_with_element_indices", "test_scatternd_multiply",
}  # fmt: skip


def agree(case: Any) -> str:
    """ "" where the module agrees, else what it says or how far it is off."""
    inputs, wanted = (
        [onnx.numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else x for x in xs]
        for xs in case.data_sets[0]
    )
    graph = onnx_format.from_bytes(case.model.SerializeToString())
    try:
        module = to_module(graph).eval()
        given = dict(zip([v.name for v in case.model.graph.input], inputs, strict=True))
        found = module(*[torch.from_numpy(np.array(given[n.name])) for n in graph.inputs])
    except UnsupportedError as error:
        return f"refused: {error}"
    for y, right in zip(found if isinstance(found, tuple) else (found,), wanted, strict=True):
        if tuple(y.shape) != right.shape:
            return f"{tuple(y.shape)}, not {right.shape}"
        if not np.allclose(y.numpy().astype("f8"), right.astype("f8"), case.rtol, 1e-5, equal_nan=True):
            return f"off by {np.abs(y.numpy().astype('f8') - right).max()}"
    return ""


def test_as_the_standard_says() -> None:
    """Every case is right, but a few that are refused by name, and of nearly every operator there is one."""
    said = {case.name: agree(case) for case in cases()}
    assert {name: text for name, text in said.items() if text and not text.startswith("refused")} == {}
    resized = "test_resize_"  # but the one form that PyTorch has, other forms are operators of dojang
    assert {name for name, text in said.items() if text and not name.startswith(resized)} == REFUSED
    kinds = {case.model.graph.node[0].op_type for case in cases() if not said[case.name]}
    assert kinds >= set(FUNCTIONS) - {"CumProd", "Scatter", "DFT", "Resize"}


class Choosing(nn.Module):
    """A forward that compares, sorts and looks up."""

    def __init__(self, choice: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv, self.choice, self.dense = nn.Conv2d(3, 8, 3), choice, nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense(self.choice(self.conv(x)).mean((2, 3)))


CHOICES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "where": lambda y: torch.where(y > 0.2, y, y * 0.1),
    "sorted": lambda y: torch.sort(y, dim=1)[0] + y.topk(8, 1)[0],
    "looked up": lambda y: y.gather(1, y.argmax(1, keepdim=True).expand_as(y)),
    "rest": lambda y: torch.remainder(y, 0.3) + torch.fmod(y, -0.2),
    "running": lambda y: y.cumsum(2) + y.cumprod(1) * 0.1,
    "spectrum": lambda y: torch.fft.rfft2(y).abs(),
    "sampled": lambda y: functional.grid_sample(y, torch.tanh(y[:, :2].permute(0, 2, 3, 1)), align_corners=False),
    "covered": lambda y: functional.interpolate(y, size=(5, 3), mode="bicubic", antialias=True),
    "covered, by factors": lambda y: functional.interpolate(y, scale_factor=0.7, mode="bilinear", antialias=True),
    "unpooled": lambda y: functional.max_unpool2d(*functional.max_pool2d(y, 2, return_indices=True), 2),
}


@pytest.mark.parametrize("name", CHOICES)
def test_read_and_written_again(name: str) -> None:
    """The module written from the Graph of such a forward answers and trains as the module itself."""
    torch.manual_seed(0)
    module, x = Choosing(CHOICES[name]).eval(), torch.randn(3, 3, 10, 10)
    graph = from_module(module, (3, 10, 10))
    written = to_module(graph).eval()
    assert torch.allclose(written(x), module(x), atol=1e-6)
    assert np.allclose(run_reference(graph, x.numpy()).outputs[0], module(x).detach().numpy(), atol=1e-5)
    for net in (module, written):
        net.zero_grad()
        net(x).square().sum().backward()
    right, found = module.conv.weight.grad, written.get_parameter("conv.weight").grad
    assert right is not None
    assert found is not None
    assert torch.allclose(found, right, rtol=1e-4, atol=1e-6)


def test_an_operator_without_a_function_is_named() -> None:
    net = Graph(
        (Node.of("x", "input", shape=(4,)), Node.of("y", "standard", "x", kind="Hardmax", settings="{}", shape=(4,))),
        ("y",),
    )
    with pytest.raises(UnsupportedError, match="y: operator Hardmax of ONNX cannot be run by PyTorch"):
        to_module(net)
