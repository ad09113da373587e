"""Random networks over all operators: as ONNX against ONNX Runtime, as modules against PyTorch in float64.

A failing case is repeated, and shrunk to a file, by the line that is printed. 10,000 cases: `bench/random_graphs.py`.
"""

from __future__ import annotations

import numpy as np
import pytest

import random_modules
import random_onnx
from dojang.base.errors import DojangError

pytestmark = pytest.mark.slow

CHUNK, CHUNKS = 15, 10
LINE = "python bench/random_graphs.py {kind} --seed {seed}"


def refused_at_most(refusals: list[str], most: int) -> None:
    assert len(refusals) <= most, "\n".join(refusals)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_onnx(chunk: int) -> None:
    refusals: list[str] = []
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        try:
            said = random_onnx.disagreement(random_onnx.network(seed))
        except DojangError as error:
            refusals.append(str(error))
            continue
        assert not said, f"{said}; {LINE.format(kind='onnx', seed=seed)}"
    refused_at_most(refusals, 4)


@pytest.mark.parametrize("seed", [2080, 4236])
def test_an_instance_norm_over_equal_numbers_is_judged_in_float64(seed: int) -> None:
    """ONNX Runtime's rounding of the mean, multiplied by one over the root of epsilon, is not taken for the answer."""
    model = random_onnx.network(seed)
    x = random_onnx.sample(model)
    right = random_onnx.by_the_standard(model, x)
    assert right is not None
    assert random_onnx.disagreement(model) == ""
    theirs = random_onnx.session(model).run([model.graph.output[0].name], {"x": x})[0]
    assert np.abs(theirs - right).max() > 1e-5  # else the second oracle is not needed here any more


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_modules(chunk: int) -> None:
    refusals: list[str] = []
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        try:
            said = random_modules.disagreement(random_modules.network(seed))
        except DojangError as error:
            refusals.append(str(error))
            continue
        assert not said, f"{said}; {LINE.format(kind='modules', seed=seed)}"
    refused_at_most(refusals, 4)
