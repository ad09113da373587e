"""Attention of ONNX and of ONNX Runtime, read as products and a softmax: against ONNX Runtime, as one step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from dojang import count, load
from dojang.engine.compiled import compile as compiled

ort = pytest.importorskip("onnxruntime")
rng = np.random.default_rng(0)


def checked(node: Any, inputs: dict[str, np.ndarray], arrays: dict[str, np.ndarray], macs: int | None) -> None:
    """The answer of ONNX Runtime, by a step `attention` where it is read so (`macs` are then its products')."""
    entries = [helper.make_tensor_value_info(k, TensorProto.FLOAT, ["n", *v.shape[1:]]) for k, v in inputs.items()]
    out = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    held = [numpy_helper.from_array(v, k) for k, v in arrays.items()]
    sets = [helper.make_opsetid("", 23 if not node.domain else 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph([node], "g", entries, out, held), opset_imports=sets)
    model.ir_version = 11 if not node.domain else 9
    data = model.SerializeToString()
    wanted = ort.InferenceSession(data).run(None, inputs)[0]
    net = load(data)
    run = compiled(net)
    got = run.run(inputs if len(inputs) > 1 else next(iter(inputs.values()))).outputs[0]
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    steps = [c.algorithm for c in run.plan(len(wanted)).choices]
    assert ("attention" in steps) == (macs is not None)
    if macs is not None:
        assert count(net).total.macs == macs


def numbers(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


TOKENS = {name: numbers(2, 40 if name == "q" else 50, 48) for name in "qkv"}
PRODUCTS = 40 * 50 * 48 * 2


@pytest.mark.parametrize("masked", [False, True])
def test_the_standards(masked: bool) -> None:
    arrays = {"m": numbers(3, 40, 50)} if masked else {}
    node = helper.make_node("Attention", [*"qkv", *arrays], ["y"], q_num_heads=3, kv_num_heads=3)
    checked(node, TOKENS, arrays, PRODUCTS)


def test_the_standards_with_heads_apart() -> None:
    apart = {k: v.reshape(2, -1, 3, 16).transpose(0, 2, 1, 3).copy() for k, v in TOKENS.items()}
    checked(helper.make_node("Attention", [*"qkv"], ["y"], scale=0.3), apart, {}, PRODUCTS)


def test_causal_stays_as_the_standard_defines_it() -> None:
    node = helper.make_node("Attention", [*"qkv"], ["y"], q_num_heads=3, kv_num_heads=3, is_causal=1)
    checked(node, TOKENS, {}, None)


@pytest.mark.parametrize("more", [[], ["b"], ["b", "", "m"], ["", "", "m"]])
def test_of_onnx_runtime(more: list[str]) -> None:
    arrays = {k: v for k, v in {"b": numbers(144), "m": numbers(1, 3, 40, 50)}.items() if k in more}
    node = helper.make_node("MultiHeadAttention", [*"qkv", *more], ["y"], domain="com.microsoft", num_heads=3)
    checked(node, TOKENS, arrays, PRODUCTS)


def test_of_onnx_runtime_with_its_layer() -> None:
    arrays = {"w": numbers(48, 144) / 7, "b": numbers(144)}
    node = helper.make_node("Attention", ["q", "w", "b"], ["y"], domain="com.microsoft", num_heads=3)
    checked(node, {"q": TOKENS["q"]}, arrays, 40 * 48 * 144 + 40 * 40 * 48 * 2)
