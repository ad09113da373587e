"""A Graph run by PyTorch on NumPy arrays, for timing and for comparing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from dojang.arith.graph import Graph
from dojang.formats.torch_module import to_module


def runner(graph: Graph, channels_last: bool = False) -> Callable[[np.ndarray], np.ndarray]:
    """A function from a float32 batch to the network's first output, without gradients, weights as they are now."""
    module = to_module(graph).eval()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    module = module.to(memory_format=layout) if channels_last else module  # pyright: ignore[reportCallIssue]

    def run(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            tensor = torch.from_numpy(np.ascontiguousarray(x))
            out = module(tensor.contiguous(memory_format=layout) if tensor.ndim == 4 else tensor)
            return (out if isinstance(out, torch.Tensor) else out[0]).numpy()

    return run
