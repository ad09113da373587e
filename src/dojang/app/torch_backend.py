"""The backend of `torch.compile(module, backend="dojang")`: what PyTorch captures, run by the compiled engine.

PyTorch finds it by the entry point `torch_dynamo_backends`, so nothing needs to be imported for it. Inference only,
float32, on the CPU; what cannot be taken runs as PyTorch runs it, with one warning that says what and why, and
`reports()` keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import count
from typing import Any

import numpy as np

from dojang.app.any_size import MULTIPLES, with_symbols
from dojang.app.networks import torch_format
from dojang.arith.graph import Graph
from dojang.arith.symbol import symbol
from dojang.base.errors import DojangError, UsageError
from dojang.engine.compiled import Compiled
from dojang.native.digest import Digest

_numbers = count(1)
OPTIONS = ("threads", "precision", "frozen")


def backend(module: Any, example_inputs: Sequence[Any], *, options: Mapping[str, Any] | None = None, **_: Any) -> Any:
    """A function that computes what the captured FX graph `module` computes.

    `options`: `threads` (default: PyTorch's own number) and `precision` ("fast" or "strict"), as in `dojang.compile`,
    and `frozen` (default False). Every call looks at all bytes of the weights (`native.digest`) and packs them anew
    when they are no longer what they were, whoever changed them and how. `frozen=True` leaves that look out: the caller
    promises that nobody changes weights or buffers after the first call, and a change may then go unnoticed. Raises
    `UsageError` for other options and other values of `frozen`.
    """
    torch_format()
    import dojang.formats.torch.backend.dynamo as dynamo

    given = dict(options or {})
    unknown = [name for name in given if name not in OPTIONS]
    if unknown:
        raise UsageError(f"option {unknown[0]!r} is not known; use {' or '.join(OPTIONS)}")
    if not isinstance(frozen := given.get("frozen", False), bool):
        raise UsageError(f"frozen={frozen!r} is not known; use True or False")
    threads = given.get("threads") or dynamo.threads()

    def compile(graph: Graph) -> Any:
        compiled = Compiled(graph, threads, given.get("precision", "fast"))

        def run(arrays: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
            return compiled.run(arrays).outputs

        return run

    def watch(ranges: Sequence[tuple[int, int]]) -> Digest:
        return Digest(ranges, threads)

    return dynamo.SplitGraph(module, compile, watch, f"graph {next(_numbers)}", frozen, any_size)


def any_size(make: Callable[[tuple[int, ...]], Graph], size: Sequence[int | str]) -> tuple[Graph, int] | None:
    """The captured graph for any sizes in place of the names in `size`, and what they must be multiples of; None where
    its numbers depend on them.
    """
    made = cache(make)
    for times in MULTIPLES:
        symbols = tuple(times * symbol(s) if isinstance(s, str) else s for s in size)
        with suppress(DojangError, RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError):
            return with_symbols(lambda sized, _: made(sized), symbols, "the captured graph"), times
    return None


def reports(clear: bool = False) -> tuple[Any, ...]:
    """What became of each captured graph: how much of it runs here, what PyTorch kept, and why."""
    torch_format()
    import dojang.formats.torch.backend.dynamo as dynamo

    return dynamo.reports(clear)
