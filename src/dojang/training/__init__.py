"""Data sets, the training loop, the record of a run.

`data`, `config` and `record` need NumPy only; `loop`, `score` and what they use need PyTorch.
The names below load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from dojang.base.errors import MissingPart

_HOME = {
    "Augment": "data",
    "Data": "data",
    "Normalisation": "data",
    "Split": "data",
    "from_arrays": "data",
    "Epoch": "record",
    "History": "record",
    "Progress": "record",
    "Scores": "record",
    "evaluate": "score",
    "fit": "loop",
    "TrainConfig": "config",
}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """A public name, its module loaded now. Raises MissingPart where that needs PyTorch and there is none."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingPart("training needs PyTorch: pip install 'dojang[torch]'") from None
