"""The runtimes that a network may be slimmed for, and timing networks on one of them in interleaved rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dojang.arith.graph import Graph
from dojang.base.errors import MissingPart, UsageError
from dojang.native.threads import asked_threads
from dojang.slimming.estimate import shape_key
from dojang.slimming.timing import interleave

Array = np.ndarray
Feed = Array | Mapping[str, Array]
"""A batch of the only input, or one of each input by name."""

Run = Callable[[Feed], Array]

RUNTIMES = ("dojang", "torch", "onnxruntime")

ROUNDS = 15
"""Interleaved rounds per measurement: the sign test then has its bounds at the 4th smallest and largest difference."""


KEPT = 4
"""Networks that are kept ready to run, by shape: the one that others are compared with comes up again and again."""


def runner(graph: Graph, runtime: str, batch_size: int = 1) -> Run:
    """A function from a float32 batch to the first output, ready to run, best for batches of `batch_size`. Where a
    number of threads was asked for, all runtimes use it. Raises `MissingPart`, `UsageError`.
    """
    if runtime == "dojang":
        from dojang.engine.compiled import Compiled

        return Compiled(graph, release=True, batch_size=batch_size)
    if runtime in ("torch", "torch channels-last"):
        from dojang.app.networks import torch_format

        torch_format()
        from dojang.formats.torch.write.run import runner as torch_runner

        return torch_runner(graph, channels_last=runtime != "torch", threads=asked_threads())
    if runtime == "onnxruntime":
        return _onnxruntime(graph)
    raise UsageError(f"runtime {runtime!r} is not known; use {', '.join(RUNTIMES)}")


def has_onnxruntime() -> bool:
    """Whether ONNX Runtime is installed, found out without loading it."""
    from importlib.util import find_spec

    return find_spec("onnxruntime") is not None


def _onnxruntime(graph: Graph) -> Run:
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise MissingPart("ONNX Runtime is not installed; pip install 'dojang[onnxruntime]'") from None
    from dojang.formats import onnx

    return onnx_runner(onnxruntime, onnx.to_bytes(graph))


def onnx_runner(onnxruntime: Any, model: bytes | str) -> Run:
    """A runner of an ONNX model: its bytes, or the path of its file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = asked_threads() or 0  # 0: its own choice
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = session.get_inputs()[0].name
    return lambda x: session.run(None, dict(x) if isinstance(x, Mapping) else {feed: x})[0]


def measurer(
    runtime: str, x: Feed, rounds: int = ROUNDS, told: Callable[[], object] | None = None
) -> Callable[[Sequence[Graph]], list[list[float]]]:
    """A function that times networks on `x`: milliseconds of each in each of `rounds` interleaved rounds."""

    def bound(run: Run) -> Callable[[], object]:
        return lambda: run(x)

    kept: dict[str, Run] = {}
    batch = len(next(iter(x.values())) if isinstance(x, Mapping) else x)

    def ready(graph: Graph) -> Run:
        key = shape_key(graph)
        run = kept.pop(key) if key in kept else runner(graph, runtime, batch)
        kept[key] = run  # the latest last
        while len(kept) > KEPT:
            del kept[next(iter(kept))]
        return run

    def measure(graphs: Sequence[Graph]) -> list[list[float]]:
        if told is not None:
            told()
        return interleave([bound(ready(graph)) for graph in graphs], rounds)

    return measure


def predictor(runtime: str, batch_size: int) -> Callable[[Graph], float] | None:
    """Milliseconds of a network as the runtime's own plan predicts them; None for runtimes that do not."""
    if runtime != "dojang":
        return None
    from dojang.engine.plan.context import Request
    from dojang.engine.plan.network import plan_of
    from dojang.native.costs import COSTS
    from dojang.native.machine import Machine

    host = Machine.host()

    def predict(graph: Graph) -> float:
        plan = plan_of(graph, Request(batch_size, host, host.cores)).public
        return 1e3 * (plan.predicted_s + COSTS.step_s * len(plan.choices))

    return predict


def whole_vectors() -> int:
    """Channels that fill a vector here: layers cut to multiples of it waste nothing, on dojang as on the others.

    oneDNN and ONNX Runtime keep float32 channels in blocks of one vector too (nChw8c, nChw16c; NCHWc).
    """
    from dojang.native.machine import Machine

    return Machine.host().lanes(4)


def version_of(runtime: str) -> str | None:
    """The installed version of a runtime."""
    from dojang.app.record import versions

    return versions().get(runtime)
