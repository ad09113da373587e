"""The backend of `torch.compile(module, backend="dojang")`: what PyTorch captures, run by the compiled engine.

PyTorch finds it by the entry point `torch_dynamo_backends`, so nothing needs to be imported for it. Inference only,
float32, on the CPU; what cannot be taken runs as PyTorch runs it, with one warning that says what and why, and
`reports()` keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np

from dojang.app.networks import torch_format
from dojang.arith.graph import Graph
from dojang.base.errors import UsageError
from dojang.engine.compiled import Compiled

_numbers = count(1)
OPTIONS = ("threads", "precision")


def backend(module: Any, example_inputs: Sequence[Any], *, options: Mapping[str, Any] | None = None, **_: Any) -> Any:
    """A function that computes what the captured FX graph `module` computes.

    `options`: `threads` (default: PyTorch's own number) and `precision` ("fast" or "strict"), as in `dojang.compile`.
    Weights are read when the graph is first run and again when PyTorch counts a change of them; writes through
    `.data` are not counted and need `torch.compiler.reset()`. Raises `UsageError` for other options.
    """
    torch_format()
    import dojang.formats.torch_dynamo as dynamo

    given = dict(options or {})
    unknown = [name for name in given if name not in OPTIONS]
    if unknown:
        raise UsageError(f"option {unknown[0]!r} is not known; use {' or '.join(OPTIONS)}")
    threads = given.get("threads") or dynamo.threads()

    def compile(graph: Graph) -> Any:
        compiled = Compiled(graph, threads, given.get("precision", "fast"))

        def run(arrays: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
            return compiled.run(arrays).outputs

        return run

    return dynamo.Split(module, compile, f"graph {next(_numbers)}")


def reports(clear: bool = False) -> tuple[Any, ...]:
    """What became of each captured graph: how much of it runs here, what PyTorch kept, and why."""
    torch_format()
    import dojang.formats.torch_dynamo as dynamo

    return dynamo.reports(clear)
