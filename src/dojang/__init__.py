"""Count, run and slim convolutional networks.

    import dojang
    net = dojang.load("model.onnx")     # or a zoo name, a text file, a torch module
    print(dojang.count(net))            # what it costs
    print(dojang.diagnose(net, data))   # what is wasted
    cheaper = dojang.slim(net, data)    # a cheaper network, every cut measured
    run = dojang.compile(net)           # fast on this machine
    dojang.filter(image, "emboss")      # convolution on pictures

Every result is a frozen object: `print` shows the table that the command line prints, a notebook shows the same table,
`to_dict()` gives what `--json` prints. Every error that a user can do something about is a `DojangError`.

Importing this package loads neither NumPy nor PyTorch: every public name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dojang.base import foreign, moved, result
from dojang.base.version import __version__ as __version__

if TYPE_CHECKING:
    from dojang.app.any_size import load as load
    from dojang.app.benching import bench as bench
    from dojang.app.diagnosing import diagnose as diagnose
    from dojang.app.exporting import export as export
    from dojang.app.filtering import filter_files as filter_files
    from dojang.app.filtering import filter_plans as filter_plans
    from dojang.app.own_files import load_slim as load_slim
    from dojang.app.quantising import quantize as quantize
    from dojang.app.record import environment as environment
    from dojang.app.running import Runnable as Runnable
    from dojang.app.running import compile as compile
    from dojang.app.running import run as run
    from dojang.app.showing import show as show
    from dojang.app.slimming import slim as slim
    from dojang.app.training import train as train
    from dojang.app.verbs import available as available
    from dojang.app.verbs import check as check
    from dojang.app.verbs import compare as compare
    from dojang.app.verbs import count as count
    from dojang.app.verbs import explain as explain
    from dojang.app.verbs import memory as memory
    from dojang.app.verbs import over_devices as over_devices
    from dojang.arith.check import Cell as Cell
    from dojang.arith.check import Check as Check
    from dojang.arith.compare import Comparison as Comparison
    from dojang.arith.compare import Pair as Pair
    from dojang.arith.conv import Conv as Conv
    from dojang.arith.cost import Convention as Convention
    from dojang.arith.cost import Count as Count
    from dojang.arith.devices import PlacedLayer as PlacedLayer
    from dojang.arith.devices import Placement as Placement
    from dojang.arith.explain import Explanation as Explanation
    from dojang.arith.explain import Figure as Figure
    from dojang.arith.geometry import Geometry as Geometry
    from dojang.arith.graph import Graph as Graph
    from dojang.arith.graph import Node as Node
    from dojang.arith.layer import Cost as Cost
    from dojang.arith.layer import Layer as Layer
    from dojang.arith.layer import Uncounted as Uncounted
    from dojang.arith.memory import Memory as Memory
    from dojang.arith.memory import MemoryUse as MemoryUse
    from dojang.arith.memory import Traffic as Traffic
    from dojang.arith.modules import FoldedRow as FoldedRow
    from dojang.arith.modules import ModuleCost as ModuleCost
    from dojang.arith.modules import ModuleTree as ModuleTree
    from dojang.arith.parameters import Parameters as Parameters
    from dojang.arith.solve import Solution as Solution
    from dojang.arith.solve import Solutions as Solutions
    from dojang.arith.solve import solve as solve
    from dojang.base.errors import CheckFailed as CheckFailed
    from dojang.base.errors import DataError as DataError
    from dojang.base.errors import DojangError as DojangError
    from dojang.base.errors import FileError as FileError
    from dojang.base.errors import GraphError as GraphError
    from dojang.base.errors import MissingPart as MissingPart
    from dojang.base.errors import ParseError as ParseError
    from dojang.base.errors import ShapeError as ShapeError
    from dojang.base.errors import UnsupportedError as UnsupportedError
    from dojang.base.errors import UsageError as UsageError
    from dojang.base.result import Result as Result
    from dojang.engine.functional import conv as conv
    from dojang.engine.functional import conv_transpose as conv_transpose
    from dojang.engine.functional import convolve as convolve
    from dojang.engine.plan.choose import Choice as Choice
    from dojang.engine.plan.choose import Plan as Plan
    from dojang.evidence.finding import Finding as Finding
    from dojang.filters.files import Failed as Failed
    from dojang.filters.files import Filtered as Filtered
    from dojang.filters.files import FilterPlans as FilterPlans
    from dojang.filters.files import FilterReport as FilterReport
    from dojang.filters.files import PlannedFile as PlannedFile
    from dojang.filters.filter import filter as filter
    from dojang.filters.separable import sep_filter as sep_filter
    from dojang.report.results import Bench as Bench
    from dojang.report.results import Diagnosis as Diagnosis
    from dojang.report.results import Environment as Environment
    from dojang.report.results import Exported as Exported
    from dojang.report.results import Guess as Guess
    from dojang.report.results import Listing as Listing
    from dojang.report.results import Run as Run
    from dojang.report.results import ShownPage as ShownPage
    from dojang.report.results import Slimming as Slimming
    from dojang.report.results import Timing as Timing
    from dojang.report.results import Trained as Trained
    from dojang.slimming.result import Edit as Edit
    from dojang.slimming.result import NetworkFigures as NetworkFigures
    from dojang.slimming.result import Outcome as Outcome
    from dojang.slimming.result import Refused as Refused


_NAMES = {
    "app.benching": "bench",
    "app.diagnosing": "diagnose",
    "app.exporting": "export",
    "app.filtering": "filter_files filter_plans",
    "app.any_size": "load",
    "app.quantising": "quantize",
    "app.record": "environment",
    "app.running": "Runnable compile run",
    "app.own_files": "load_slim",
    "app.showing": "show",
    "app.slimming": "slim",
    "app.training": "train",
    "app.verbs": "available check compare count explain memory over_devices",
    "arith.check": "Cell Check",
    "arith.compare": "Comparison Pair",
    "arith.conv": "Conv",
    "arith.cost": "Convention Count",
    "arith.devices": "PlacedLayer Placement",
    "arith.explain": "Explanation Figure",
    "arith.graph": "Graph Node",
    "arith.layer": "Cost Layer Uncounted",
    "arith.geometry": "Geometry",
    "arith.modules": "FoldedRow ModuleCost ModuleTree",
    "arith.memory": "Memory MemoryUse Traffic",
    "arith.solve": "Solution Solutions solve",
    "arith.parameters": "Parameters",
    "base.errors": "CheckFailed DataError DojangError FileError GraphError MissingPart ParseError ShapeError "
    "UnsupportedError UsageError",
    "base.result": "Result",
    "engine.functional": "conv conv_transpose convolve",
    "engine.plan.choose": "Choice Plan",
    "evidence.finding": "Finding",
    "filters.files": "Failed FilterPlans FilterReport Filtered PlannedFile",
    "filters.filter": "filter",
    "filters.separable": "sep_filter",
    "report.results": "Bench Diagnosis Environment Exported Guess Listing Run ShownPage Slimming Timing Trained",
    "slimming.result": "Edit NetworkFigures Outcome Refused",
}
"""The public names of each module."""

_HOME = {name: f"dojang.{module}" for module, names in _NAMES.items() for name in names.split()}
"""Where each public name lives."""

__all__ = ["__version__", *sorted(_HOME)]  # pyright: ignore[reportUnsupportedDunderAll]


if not TYPE_CHECKING:  # else type checkers would take every name for one of the package

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            near = import_module("dojang.base.wording").did_you_mean(name, __all__, "")
            raise AttributeError(f"module 'dojang' has no attribute {name!r}{near and f'; {near}'}")
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _show(shown: result.Result, form: result.Form) -> str:
    """How results look is in `dojang.report`, which is loaded when the first result is shown."""
    return import_module("dojang.report.views").show(shown, form)


def _filter_tensor(*given: Any) -> Any:
    """PyTorch is loaded when the first tensor is filtered."""
    return import_module("dojang.app.tensors").filter_tensor(*given)


result.show_with(_show)
foreign.FOREIGN["torch"] = _filter_tensor
moved.give_hints()
