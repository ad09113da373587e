"""The node tests of the ONNX standard (onnx.backend.test), through `onnx.from_bytes`, the NumPy reference, and the
compiled engine.

Every case of an operator that dojang reads must give the numbers of the standard (of ONNX Runtime for `BY_RUNTIME`),
unless `EXCLUDED` says why not; then it must say so itself: an unknown operator, or an error of dojang's. Cases of all
other operators must do the same.
So no case may give wrong numbers or fail in another way.
"""

from __future__ import annotations

import warnings
from collections import Counter
from fnmatch import fnmatch

import numpy as np
import pytest

from dojang.arith.graph import Graph
from dojang.base.errors import DojangError
from dojang.engine.compiled import compile
from dojang.engine.reference.operators import run_reference
from dojang.formats import onnx as onnx_format
from dojang.formats.onnx import fold as onnx_fold
from dojang.formats.onnx import layers as onnx_layers
from dojang.formats.onnx import layout as onnx_layout

onnx = pytest.importorskip("onnx")

READ = {*onnx_layers.RULES, *onnx_layout.RULES}
"""Operators that have a rule; those that are only folded (Range, Shape, ...) come with constant inputs in practice."""

EXCLUDED = {
    "works along axis 0, which is the batch": (
        "test_gather_0 test_gather_negative_indices test_slice test_slice_neg_steps test_split_*_1d_* test_tile "
        "test_split_1d_* test_split_*_default_axis_* test_split_zero_size_* test_squeeze test_tile_precomputed "
        "test_gemm_default_matrix_bias test_gemm_transposeA test_gemm_all_attributes test_matmul_1d_3d "
        "test_layer_normalization_*axis0* test_layer_normalization_2d_axis_negative_2 "
        "test_layer_normalization_3d_axis_negative_3_epsilon test_layer_normalization_4d_axis_negative_4 "
        "test_prelu_example test_causal_conv_with_state_* test_rotary_embedding_with_*rotary_dim_expanded"
    ),
    "has no batch: a single number or an empty axis goes in": (
        "test_einsum_scalar *_empty_set* *_allowzero_reordered test_*window*_expanded"
    ),
    "gives an empty result, which no network has": "test_slice_start_out_of_bounds test_rotary_embedding_*",
    "reads a sequence or an optional": "test_identity_sequence test_identity_opt",
    "whole numbers, whose division rounds": "test_div_*int*",
    "compares two values": (
        "test_equal test_equal_* test_greater_equal_* test_less_equal_* test_swiglu_alpha_expanded "
        "test_flexattention_causal_mask_*"
    ),
    "casts to or from types other than float32, float16 and float64": "test_cast_* test_castlike_*",
    "puts out what only training needs": "test_batchnorm_*_training_mode test_training_dropout* test_dropout_*_mask*",
    "dilated average pooling": "test_averagepool_*dilations*",
    "resizes in ways that dojang's resize has not": (
        "test_resize_*_antialias test_resize_*_exclude_outside test_resize_tf_crop_and_resize* "
        "test_resize_*_half_pixel_symmetric"
    ),
    "is of an operator set before 7": "test_not_?d",
    "cuts at places that it computes with whole numbers": "test_center_crop_pad_*",
}


BY_RUNTIME = "test_resize_downsample_scales_*_align_corners"
"""Cases in which ONNX Runtime, which users hold answers against, differs from the standard's figures: it aligns the
corners of the pixels that there are (3), the standard those of the size before it is rounded down (3.2)."""


def reason(name: str) -> str | None:
    """Why a case is excluded, or None."""
    return next((why for why, names in EXCLUDED.items() if any(fnmatch(name, n) for n in names.split())), None)


def variant(model: onnx.ModelProto, inputs: list[np.ndarray], free: int, outputs: int) -> bytes:
    """The model with all inputs after the first `free` as initialisers, and its first outputs only."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value, array in zip(list(copy.graph.input)[free:], inputs[free:], strict=True):
        copy.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), value.name))
        copy.graph.input.remove(value)
    del copy.graph.output[outputs:]
    return copy.SerializeToString()


def answers(model: onnx.ModelProto, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """What ONNX Runtime computes."""
    ort = pytest.importorskip("onnxruntime")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = min(copy.ir_version, 10)
    session = ort.InferenceSession(copy.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {value.name: x for value, x in zip(session.get_inputs(), inputs, strict=True)})


def agrees(graph: Graph, inputs: list[np.ndarray], wanted: list[np.ndarray], rtol: float) -> None:
    """Raises AssertionError unless reference and compiled engine give the wanted outputs."""
    given = {node.name: np.asarray(x).astype(np.float32) for node, x in zip(graph.inputs, inputs, strict=False)}
    for run in (run_reference, lambda g, x: compile(g, threads=1).run(x)):
        for y, right in zip(run(graph, given).outputs, wanted, strict=False):
            assert y.shape == right.shape, f"{y.shape}, not {right.shape}"
            np.testing.assert_allclose(y, right.astype(np.float64), rtol=max(rtol, 1e-3), atol=1e-5)


@pytest.fixture(scope="module")
def verdicts() -> dict[str, tuple[bool, str, str]]:
    """For each case: whether its operators are read, a verdict (agrees, wrong, unknown, refused, crash), the error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases are made by NumPy expressions that overflow on purpose
        from onnx.backend.test.loader import load_model_tests

        cases = load_model_tests(kind="node")
        return {case.name: verdict(case) for case in cases}


def verdict(case) -> tuple[bool, str, str]:
    inputs, wanted = (
        [onnx.numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else x for x in xs]
        for xs in case.data_sets[0]
    )
    if fnmatch(case.name, BY_RUNTIME):
        wanted = answers(case.model, inputs)
    operators = {node.op_type for node in case.model.graph.node if node.domain in ("", "ai.onnx")}
    read = operators <= READ | set(onnx_fold.FOLDS) | {"Constant"} and bool(operators & READ)
    best = ("crash", "no variant ran")
    tries = [(free, outputs) for outputs in (len(wanted), 1) for free in (len(inputs), 1)]
    for free, outputs in dict.fromkeys(tries):
        try:
            data = variant(case.model, inputs, free, outputs)
        except (TypeError, ValueError, NotImplementedError):
            continue  # an input that is no tensor cannot be an initialiser
        try:
            graph = onnx_format.from_bytes(data)
            if any(node.op == "unknown" for node in graph.nodes):
                best = ("unknown", "")
                continue
            agrees(graph, inputs, wanted, 2**-7 if wanted[0].dtype.name == "bfloat16" else case.rtol)
            return read, "agrees", ""
        except DojangError as error:
            best = ("refused", str(error))
        except AssertionError as error:
            return read, "wrong", str(error)
        except Exception as error:
            return read, "crash", repr(error)
    return read, *best


def test_every_case_agrees_or_is_excluded_with_a_reason(verdicts) -> None:
    failing = {
        name: rest for name, (read, *rest) in verdicts.items() if read and rest[0] != "agrees" and not reason(name)
    }
    assert failing == {}


def test_no_case_gives_wrong_numbers_or_another_error(verdicts) -> None:
    wrong = {name: rest for name, (_, *rest) in verdicts.items() if rest[0] in ("wrong", "crash")}
    assert wrong == {}


def test_every_exclusion_is_needed(verdicts) -> None:
    used = Counter(reason(name) for name, (_, kind, _) in verdicts.items() if kind != "agrees")
    idle = [why for why in EXCLUDED if not used[why]]
    assert idle == []


def test_most_of_the_cases_run(verdicts) -> None:
    assert sum(kind == "agrees" for _, kind, _ in verdicts.values()) >= 620
