"""Count, run and slim convolutional networks.

    import dojang
    net = dojang.load("model.onnx")     # or a zoo name, a text file, a torch module
    dojang.count(net)                   # what it costs
    dojang.diagnose(net, data)          # what is wasted
    dojang.slim(net, data)              # a cheaper network, every cut measured
    run = dojang.compile(net)           # fast on this machine
    dojang.filter(image, "emboss")      # convolution on pictures

Importing this loads neither NumPy nor PyTorch: every public name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dojang.base.version import __version__ as __version__

if TYPE_CHECKING:
    from dojang.app.diagnosing import diagnose as diagnose
    from dojang.app.exporting import export as export
    from dojang.app.running import compile as compile
    from dojang.app.running import run as run
    from dojang.app.slimming import slim as slim
    from dojang.app.training import train as train
    from dojang.app.verbs import check as check
    from dojang.app.verbs import compare as compare
    from dojang.app.verbs import count as count
    from dojang.app.verbs import load as load
    from dojang.arith.conv import Conv as Conv
    from dojang.arith.graph import Graph as Graph
    from dojang.arith.solve import solve as solve
    from dojang.base.errors import DojangError as DojangError
    from dojang.engine.functional import conv as conv
    from dojang.engine.functional import conv_transpose as conv_transpose
    from dojang.engine.functional import convolve as convolve
    from dojang.filters.filter import filter as filter

_HOME = {
    "Conv": "dojang.arith.conv",
    "DojangError": "dojang.base.errors",
    "Graph": "dojang.arith.graph",
    "check": "dojang.app.verbs",
    "compare": "dojang.app.verbs",
    "compile": "dojang.app.running",
    "conv": "dojang.engine.functional",
    "conv_transpose": "dojang.engine.functional",
    "convolve": "dojang.engine.functional",
    "count": "dojang.app.verbs",
    "diagnose": "dojang.app.diagnosing",
    "export": "dojang.app.exporting",
    "filter": "dojang.filters.filter",
    "load": "dojang.app.verbs",
    "run": "dojang.app.running",
    "slim": "dojang.app.slimming",
    "solve": "dojang.arith.solve",
    "train": "dojang.app.training",
}
"""Where each public name lives."""

__all__ = ["__version__", *sorted(_HOME)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dojang' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
