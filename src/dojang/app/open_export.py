"""ONNX files that take pictures of any size, where the module that they are made from does.

A module, or an open file, is read at one size; whether it takes others is tried: the network with symbols for height
and width has to answer as the module or the file does at two other sizes, and so has what is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dojang.app.any_size import AXES
from dojang.app.networks import with_size
from dojang.app.runtimes import has_onnxruntime, onnx_runner
from dojang.arith.graph import Graph
from dojang.arith.open_sizes import at_size, is_open, reference_values
from dojang.arith.symbol import symbol
from dojang.base.errors import DojangError
from dojang.base.writing import replace_bytes
from dojang.engine.session import Session

Array = np.ndarray

MULTIPLES = (1, 8, 32)
"""What sizes may have to be multiples of, as networks halve their maps and add them to larger ones."""

TRIED = (64, 96)
"""Sizes at which answers are compared, about."""

SAME = 1e-4
"""Answers may differ by this part of the largest."""


Answers = Callable[[Array], Sequence[Array]]
"""What a network answers to pictures of any size."""


def module_answers(module: Any) -> Answers:
    """The answers of a PyTorch module, in evaluation mode."""
    from dojang.training.modes import evaluating
    from dojang.training.observed import answers_to

    def answers(x: Array) -> Sequence[Array]:
        with evaluating(module):
            return answers_to(module, x)

    return answers


def file_answers(read: Callable[[tuple[int, ...]], Graph]) -> Answers:
    """The answers of a network that is read from its file at the size of the pictures."""
    return lambda x: _floats(Session(read(x.shape[1:])).run(x).outputs)


def write_open(answers: Answers, graph: Graph, path: Path, cut: Graph | None = None) -> str | None:
    """Writes a network for pictures of any size to `path`, and says how it was checked; None where it is not one.

    `answers`: of what `graph` was read from. `cut`: what is written in its place, the same layers with fewer channels.
    """
    for times in MULTIPLES:
        found = opened(graph, times)
        if found is None or not _answers_as(answers, found):
            continue
        found = found if cut is None else opened(cut, times)
        said = None if found is None else _written(found, path, "the module" if cut is None else "the result")
        if said is not None:
            return said
    return None


def opened(graph: Graph, times: int) -> Graph | None:
    """The network with symbols behind the channels of its one input; None where its layers are made for numbers."""
    shape: tuple[Any, ...] = tuple(graph.inputs[0].attrs["shape"])
    one = len(graph.inputs) == 1 and len(shape) - 1 in AXES and graph.inputs[0].attrs["dtype"] == "float32"
    if not one or is_open(graph):
        return None
    size: Any = (shape[0], *(times * symbol(name) for name in AXES[len(shape) - 1]))
    try:
        found = with_size(graph, size)
        for goal in TRIED:
            at_size(found, reference_values(found, goal)).check_weights()
    except (DojangError, ArithmeticError, TypeError, ValueError):
        return None
    return found


def _sized(graph: Graph) -> list[tuple[Graph, Array]]:
    """The network at each of the sizes, with pictures to try."""
    rng = np.random.default_rng(0)
    some = [at_size(graph, reference_values(graph, goal)) for goal in TRIED]
    return [(g, rng.standard_normal((2, *g.inputs[0].attrs["shape"]), np.float32)) for g in some]


def _answers_as(answers: Answers, graph: Graph) -> bool:
    """Whether the network gives these answers at other sizes."""
    for sized, x in _sized(graph):
        try:
            theirs = answers(x)
            ours = Session(sized).run(x).outputs
        except (DojangError, ArithmeticError, ValueError):
            return False
        floats = _floats(ours)
        if len(floats) != len(theirs) or not all(map(_alike, floats, theirs)):
            return False
    return True


def _floats(outputs: Sequence[Any]) -> list[Array]:
    return [y for one in outputs if (y := np.asarray(one)).dtype.kind == "f"]


def _alike(ours: Array, theirs: Array) -> bool:
    scale = float(np.abs(theirs).max(initial=0.0)) or 1.0
    return ours.shape == theirs.shape and float(np.abs(ours - theirs).max(initial=0.0)) <= SAME * scale


def _written(graph: Graph, path: Path, whose: str) -> str | None:
    from dojang.formats import onnx

    try:
        data = onnx.to_bytes(graph)
    except (DojangError, ArithmeticError, TypeError, ValueError):
        return None  # an operator that is written with numbers of this size
    replace_bytes(path, data, force=True)
    runner = None
    if has_onnxruntime():
        import onnxruntime

        runner = onnx_runner(onnxruntime, str(path))
    for sized, x in _sized(graph):
        wanted = Session(sized).run(x).outputs[0]
        again = onnx.load(path, input_size=sized.inputs[0].attrs["shape"])
        if not _alike(np.asarray(Session(again).run(x).outputs[0]), wanted):
            return None
        if runner is not None and not _alike(np.asarray(runner(x)), wanted):
            return None
    sizes = " and ".join("x".join(map(str, g.inputs[0].attrs["shape"][1:])) for g, _ in _sized(graph))
    who = "ONNX Runtime and dojang give" if runner is not None else "dojang gives"
    return f"it takes pictures of any size: {who} {whose}'s answers at {sizes}"
