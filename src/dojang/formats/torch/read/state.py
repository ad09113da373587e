"""Weight files: the arrays of a `.safetensors`, `.pt` or `.pth` file, read without running what is in them."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dojang.base.budget import Budget
from dojang.base.errors import DojangError, FileError
from dojang.base.reading import cause, damaged_as, opened, zipped
from dojang.formats.checkpoint import read_arrays, without_prefix


def load_state(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a `.safetensors`, `.pt` or `.pth` file, float32 where they are floating point.

    `.pt` and `.pth` are read with `weights_only=True`: a file that holds code raises `FileError`. `{"state_dict": ...}`
    (also `model`, `model_state_dict`, `net`, `params_ema`, ...) is unwrapped and a `module.` before every name removed.
    """
    file = Path(path)
    if file.suffix == ".safetensors":
        return without_prefix(read_arrays(file))
    budget = Budget(str(file), file_bytes=checked_bytes(file))
    try:
        with (
            opened(file, "a .pt, .pth or .safetensors file") as stream,
            warnings.catch_warnings(),
            torch.sparse.check_sparse_tensor_invariants(),  # else indices outside a tensor are written to
        ):
            warnings.simplefilter("ignore")  # about unusual pickle protocols
            found = torch.load(stream, map_location="cpu", weights_only=True)
    except (DojangError, MemoryError):
        raise
    except Exception as error:  # unpickling raises whatever the calls in a file meet
        said = str(error)
        code = isinstance(error, pickle.UnpicklingError)
        if code and any(word in said for word in ("weights_only", "Unsupported", "GLOBAL")):
            raise FileError(
                f"{file}: holds Python code besides weights, which is not run; "
                "save only `model.state_dict()`, or a .safetensors file"
            ) from None
        raise FileError(f"{file}: is damaged or no PyTorch file ({cause(error)})") from None
    with damaged_as(str(file), "its tensors cannot be read"):
        return without_prefix(_state(found, file, budget))


def checked_bytes(file: Path) -> int:
    """The size of a file, whose members (where it is a .zip, as PyTorch writes them) unpack to what a file may."""
    with opened(file, "a .pt, .pth or .safetensors file") as stream:
        size, packed = os.fstat(stream.fileno()).st_size, stream.read(4) == b"PK\x03\x04"
    if packed:
        with zipped(file) as archive:
            Budget(str(file), file_bytes=size).unpack(sum(info.file_size for info in archive.infolist()))
    return size


WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "params_ema", "params", "state_dict_ema", "module")
"""Keys under which training scripts put the state dict."""


def _state(found: Any, file: Path, budget: Budget) -> dict[str, np.ndarray]:
    """The innermost dictionary of tensors."""
    for _ in range(4):
        inner = next(
            (found[k] for k in WRAPPERS if isinstance(found, Mapping) and isinstance(found.get(k), Mapping)), None
        )
        if inner is None:
            break
        found = inner
    tensors = {str(k): v for k, v in found.items() if isinstance(v, torch.Tensor)} if isinstance(found, Mapping) else {}
    if not tensors:
        raise FileError(f"{file}: holds no dictionary of tensors; save `model.state_dict()`")
    for value in tensors.values():
        # strides of 0 and sparse tensors state more values than the file holds
        budget.unpack(value.numel() * max(4, value.element_size()))
    return {k: _numpy(v) for k, v in tensors.items()}


def _numpy(value: torch.Tensor) -> np.ndarray:
    value = value.detach().to("cpu")
    if value.is_sparse or value.is_quantized:
        value = value.dequantize() if value.is_quantized else value.to_dense()
    return (value.float() if value.is_floating_point() else value).contiguous().numpy()
