"""PyTorch's own sample inputs for convolutions (its OpInfo tables): the numbers and the refusals are the same."""

import warnings

import numpy as np
import pytest

import dojang
from dojang.base.errors import DojangError

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest")  # PyTorch's test tables import it


@pytest.fixture(scope="module")
def tables():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
    return {op.name.removeprefix("nn.functional."): op for op in op_db}


CONVS = {f"conv{rank}d": dojang.conv for rank in (1, 2, 3)}
TRANSPOSED = {f"conv_transpose{rank}d": dojang.conv_transpose for rank in (1, 2, 3)}
OPTIONS = {
    dojang.conv: ("stride", "padding", "dilation", "groups"),
    dojang.conv_transpose: ("stride", "padding", "output_padding", "groups", "dilation"),
}


def call(function, sample, dtype):
    """Our function on the arguments of a PyTorch sample."""
    weight, *rest = sample.args
    bias = sample.kwargs.get("bias", rest[0] if rest else None)
    given = {**dict(zip(OPTIONS[function], rest[1:], strict=False)), **sample.kwargs}
    given.pop("bias", None)
    arrays = [None if a is None else a.detach().numpy().astype(dtype) for a in (sample.input, weight, bias)]
    return function(*arrays, **{k: tuple(v) if isinstance(v, list | tuple) else v for k, v in given.items()})


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", [*CONVS, *TRANSPOSED])
def test_samples(tables, name, dtype):
    op, function = tables[name], {**CONVS, **TRANSPOSED}[name]
    count = 0
    for sample in op.reference_inputs("cpu", torch.float64):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # even kernels with padding="same" cost PyTorch a copy
            right = op.op(sample.input, *sample.args, **sample.kwargs).detach().numpy()
        found = call(function, sample, dtype)
        assert found.shape == right.shape
        assert found.dtype == dtype
        bound = (1e-5 if dtype == "f4" else 1e-12) * max(1.0, np.abs(right).max(initial=0))
        assert np.abs(found - right).max(initial=0) <= bound, str(sample)[:300]
        count += 1
    assert count >= 4


TAKEN = (
    "should be the same",  # types that differ: brought to one
    "padding='same' is not supported for strided",  # ceil(size / stride) places, as in ONNX
)
"""What PyTorch refuses and dojang gives a meaning."""


@pytest.mark.parametrize("name", CONVS)  # there are no such samples for transposed ones
def test_what_pytorch_refuses_is_refused(tables, name):
    op, function = tables[name], CONVS[name]
    refused = 0
    for bad in op.error_inputs("cpu"):
        if any(word in bad.error_regex for word in TAKEN):
            continue
        refused += 1
        with pytest.raises(DojangError):
            call(function, bad.sample_input, "f4")
    assert refused >= 5
