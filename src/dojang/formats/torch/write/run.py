"""A Graph run by PyTorch on NumPy arrays, for timing and for comparing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from dojang.arith.graph import Graph
from dojang.formats.torch.write.module import to_module


def runner(
    graph: Graph, channels_last: bool = False, threads: int | None = None
) -> Callable[[np.ndarray | Mapping[str, np.ndarray]], np.ndarray]:
    """A function from a float32 batch (or one per input, by name) to the network's first output, without gradients,
    weights as they are now. `threads` becomes PyTorch's number for the whole process.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    module = to_module(graph).eval()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    module = module.to(memory_format=layout) if channels_last else module  # pyright: ignore[reportCallIssue]

    names = [node.name for node in graph.inputs]

    def tensor(x: np.ndarray) -> torch.Tensor:
        made = torch.from_numpy(np.ascontiguousarray(x))
        return made.contiguous(memory_format=layout) if made.ndim == 4 else made

    def run(x: np.ndarray | Mapping[str, np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            out = module(*([tensor(x[name]) for name in names] if isinstance(x, Mapping) else [tensor(x)]))
            return (out if isinstance(out, torch.Tensor) else out[0]).numpy()

    return run
