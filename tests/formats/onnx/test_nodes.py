"""The node tests of the ONNX standard (onnx.backend.test) as they are: weights that are inputs stay inputs, types stay.

Each case goes through `onnx.from_bytes`, the NumPy reference, and the compiled engine, and must give the standard's
numbers, shapes and types (of ONNX Runtime for `BY_RUNTIME`), unless `EXCLUDED` says why not; then it must say so
itself: an unknown operator, or an error of dojang's. So no case may give wrong numbers or fail in another way.
"""

from __future__ import annotations

import warnings
from collections import Counter
from fnmatch import fnmatch
from typing import Any

import numpy as np
import pytest

from dojang.base.errors import DojangError
from dojang.engine.compiled import compile
from dojang.engine.reference.operators import HELD, run_reference
from dojang.formats import onnx as onnx_format

onnx = pytest.importorskip("onnx")

EXCLUDED = {
    "numbers of 8 or 4 bits with an exponent (float8, float4) are not computed with": (
        "*FLOAT8* *FLOAT4* test_*quantizelinear_e4m3fn* test_*quantizelinear_e5m2* test_*quantizelinear_float4*"
    ),
    "an axis is empty, which exporters write for one that may vary": (
        "*_empty_set* test_regex_full_match_empty test_tril_zero"
    ),
    "sequences, maps and optional values are not tensors": (
        "test_sequence_* test_optional_* test_identity_opt test_identity_sequence test_loop16_seq_none test_loop13_seq "
        "test_split_to_sequence_* test_if_opt test_if_seq"
    ),
    "values decide which branch of an If runs, or how often a Loop does": (
        "test_if test_loop11 test_range_*_expanded test_affine_grid_*_expanded"
    ),
    "a Scan of operator set 8, which takes a batch": "test_scan_sum",
    "text": (
        "test_string* test_strnormalizer* test_tfidf* test_regex* test_cast_*STRING test_castlike_*STRING* "
        "test_cast_STRING* test_castlike_STRING* test_equal_string* test_ai_onnx_ml_label_encoder_*"
    ),
    "a picture file is decoded": "test_image_decoder_*",
    "trees and features of classical models": "test_ai_onnx_ml_*",
    "random numbers, of which each run has its own": "test_bernoulli* test_training_dropout* test_random*",
    "a step of training": "test_adam* test_adagrad* test_momentum* test_nesterov_momentum",
    "attention of language models": "test_linear_attention_* test_flexattention*",
}

BY_RUNTIME = "test_resize_downsample_scales_*_align_corners"
"""Cases in which ONNX Runtime, which users hold answers against, differs from the standard's figures: it aligns the
corners of the pixels that there are (3), the standard those of the size before it is rounded down (3.2)."""


def reason(name: str) -> str | None:
    """Why a case is excluded, or None."""
    return next((why for why, names in EXCLUDED.items() if any(fnmatch(name, n) for n in names.split())), None)


def answers(model: onnx.ModelProto, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """What ONNX Runtime computes."""
    ort = pytest.importorskip("onnxruntime")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = min(copy.ir_version, 10)
    session = ort.InferenceSession(copy.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {value.name: x for value, x in zip(session.get_inputs(), inputs, strict=True)})


def agrees(found: Any, wanted: Any, rtol: float) -> None:
    """Raises AssertionError unless numbers, shape and type are the wanted ones; NumPy has no bfloat16 and no int4."""
    wanted = np.asarray(wanted)
    short = wanted.dtype.name == "bfloat16"
    held = "float32" if short else HELD.get(wanted.dtype.name, wanted.dtype.name)
    assert found.shape == wanted.shape, f"{found.shape}, not {wanted.shape}"
    assert found.dtype.name == held, f"{found.dtype}, not {held}"
    if wanted.dtype.kind in "OSU":
        assert (found == wanted).all()
        return
    least = 2**-7 if short else 1e-3
    wide = np.complex128 if wanted.dtype.kind == "c" else np.float64
    np.testing.assert_allclose(
        found.astype(wide), wanted.astype(wide), rtol=max(rtol, least), atol=2**-8 if short else 1e-5
    )


def verdict(case: Any) -> tuple[str, str]:
    """agrees, wrong, unknown, refused or crash, and the error."""
    inputs, wanted = (
        [onnx.numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else x for x in xs]
        for xs in case.data_sets[0]
    )
    if fnmatch(case.name, BY_RUNTIME):
        wanted = answers(case.model, inputs)
    try:
        graph = onnx_format.from_bytes(case.model.SerializeToString())
        unknown = [node.attrs["kind"] for node in graph.nodes if node.op == "unknown"]
        if unknown:
            return "unknown", unknown[0]
        given = {node.name: x for node, x in zip(graph.inputs, inputs, strict=False)}
        for run in (run_reference, lambda g, x: compile(g, threads=1).run(x)):
            for found, right in zip(run(graph, given).outputs, wanted, strict=True):
                agrees(found, right, case.rtol)
    except DojangError as error:
        return "refused", str(error)
    except AssertionError as error:
        return "wrong", str(error)
    except Exception as error:
        return "crash", repr(error)
    return "agrees", ""


def all_verdicts() -> dict[str, tuple[str, str, tuple[str, ...]]]:
    """For each case the verdict, the error, and its operators."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases are made by NumPy expressions that overflow on purpose
        from onnx.backend.test.loader import load_model_tests

        return {
            case.name: (*verdict(case), tuple(dict.fromkeys(node.op_type for node in case.model.graph.node)))
            for case in load_model_tests(kind="node")
        }


@pytest.fixture(scope="module")
def verdicts() -> dict[str, tuple[str, str, tuple[str, ...]]]:
    return all_verdicts()


def test_every_case_agrees_or_is_excluded_with_a_reason(verdicts) -> None:
    failing = {name: rest for name, (*rest, _) in verdicts.items() if rest[0] != "agrees" and not reason(name)}
    assert failing == {}


def test_no_case_gives_wrong_numbers_or_another_error(verdicts) -> None:
    wrong = {name: rest for name, (*rest, _) in verdicts.items() if rest[0] in ("wrong", "crash")}
    assert wrong == {}


def test_every_exclusion_is_needed(verdicts) -> None:
    used = Counter(reason(name) for name, (kind, *_) in verdicts.items() if kind != "agrees")
    idle = [why for why in EXCLUDED if not used[why]]
    assert idle == []


def test_most_of_the_cases_run(verdicts) -> None:
    assert sum(kind == "agrees" for kind, *_ in verdicts.values()) >= 1600
