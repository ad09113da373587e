"""Hints for the modules of version 0.1 that have moved: importing one raises an error with its new name.

The hints stay for one version; then this module and its call in `dojang/__init__.py` are deleted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

PACKAGES = {
    "dojang.diagnose": "dojang.diagnosis",
    "dojang.slim": "dojang.slimming",
    "dojang.train": "dojang.training",
    "dojang.engine.algorithms": "dojang.engine.kernels.conv",
}
"""Packages that have a new name; their modules have kept theirs, unless `MODULES` lists them."""

MODULES = {
    "dojang.diagnose.activations": "dojang.evidence.activations",
    "dojang.diagnose.finding": "dojang.evidence.finding",
    "dojang.engine.algorithms.elementwise": "dojang.engine.kernels.other.elementwise",
    "dojang.engine.algorithms.functions": "dojang.engine.kernels.activations",
    "dojang.engine.algorithms.layout": "dojang.engine.kernels.other.layout",
    "dojang.engine.algorithms.matmul": "dojang.engine.kernels.other.matmul",
    "dojang.engine.algorithms.norm": "dojang.engine.kernels.other.norm",
    "dojang.engine.algorithms.pool": "dojang.engine.kernels.other.pool",
    "dojang.engine.algorithms.resample": "dojang.engine.kernels.other.resample",
    "dojang.engine.algorithms.softmax": "dojang.engine.kernels.other.softmax",
    "dojang.engine.algorithms.task": "dojang.engine.kernels.task",
    "dojang.engine.cache": "dojang.native.cache",
    "dojang.engine.descriptions": "dojang.native.descriptions",
    "dojang.engine.digest": "dojang.native.digest",
    "dojang.engine.emit": "dojang.native.emit",
    "dojang.engine.equals": "dojang.evidence.equal_channels",
    "dojang.engine.families": "dojang.native.families",
    "dojang.engine.forks": "dojang.native.forks",
    "dojang.engine.intervals": "dojang.evidence.intervals",
    "dojang.engine.jit": "dojang.native.jit",
    "dojang.engine.machine": "dojang.native.machine",
    "dojang.engine.moments": "dojang.evidence.moments",
    "dojang.engine.peaks": "dojang.native.peaks",
    "dojang.engine.runtime": "dojang.native.runtime",
    "dojang.engine.threads": "dojang.native.threads",
    "dojang.filters.images": "dojang.filters.pictures.images",
    "dojang.filters.named": "dojang.filters.kernels.named",
    "dojang.filters.tiff": "dojang.filters.pictures.tiff",
    "dojang.formats.protobuf": "dojang.formats.onnx.protobuf",
    "dojang.formats.torch_dynamo": "dojang.formats.torch.backend.dynamo",
    "dojang.formats.torch_module": "dojang.formats.torch.write.module",
    "dojang.formats.torch_narrow": "dojang.formats.torch.write.narrow",
}
"""Single modules of version 0.1 and where they are now."""


def new_name(old: str) -> str | None:
    """Where a module of version 0.1 is now; None for a name that has not moved.

    >>> new_name("dojang.train.loop"), new_name("dojang.engine.jit"), new_name("dojang.count")
    ('dojang.training.loop', 'dojang.native.jit', None)
    """
    if old in MODULES:
        return MODULES[old]
    package = next((p for p in PACKAGES if old == p or old.startswith(f"{p}.")), None)
    return None if package is None else PACKAGES[package] + old.removeprefix(package)


@final
class MovedFinder:  # not derived from importlib.abc.MetaPathFinder: importing that takes longer than importing dojang
    """A finder for modules that no other finder has found: it finds none, but raises an error with the new name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Raises `ModuleNotFoundError` with the new name for a module that has moved."""
        del path, target
        new = new_name(fullname) if fullname.startswith("dojang.") else None
        if new is None:
            return None
        raise ModuleNotFoundError(f"{fullname} is called {new} since version 0.2; import that", name=fullname)


def give_hints() -> None:
    """Adds the hints as the last finder of Python's import system."""
    if not any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(MovedFinder())
