"""Which part of dojang knows which operator: the tables of all packages, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from dojang.app.networks import TORCH_INSTALL
from dojang.arith.ops import OPS
from dojang.arith.table import Table

TABLES = {
    "run": ("engine.reference.operators", "REFERENCE"),
    "ONNX in": ("formats.onnx.sources", "SOURCES"),
    "ONNX out": ("formats.onnx.write", "RULES"),
    "torch in": ("formats.torch.read.sources", "SOURCES"),
    "torch out": ("formats.torch.write.compute", "COMPUTE"),
    "native": ("engine.plan.rules.table", "RULES"),
    "fused": ("engine.fuse", "ACTIVATIONS"),
    "sliced": ("engine.slices", "SLICED"),
    "bounded": ("evidence.intervals", "RULES"),
    "equal channels": ("evidence.equal_channels", "HOW"),
    "activation": ("evidence.activations", "BEHIND"),
    "cut": ("arith.cut", "ATTRIBUTES"),
    "cut arrays": ("arith.ties", "ARRAYS"),
    "first weights": ("formats.torch.write.module", "INITIAL"),
}
"""Every table of operators beside `OPS` itself: module and name."""

SHOWN = ("run", "native", "ONNX in", "ONNX out", "torch in", "torch out")
"""What a person asks of a layer. Counting knows every operator."""


NOTHING = ("nothing is computed", "it is given to the module")
"""Reasons that take nothing from a person."""


def load(name: str) -> Table[Any] | None:
    """One of `TABLES`; None where it needs PyTorch and that is not installed."""
    module, attribute = TABLES[name]
    try:
        return getattr(import_module(f"dojang.{module}"), attribute)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        return None


def rows() -> tuple[Mapping[str, Any], ...]:
    """For each operator what can be done with it, and `why`: per table the reason where it is not in it."""
    tables = {name: load(name) for name in TABLES}
    found: list[Mapping[str, Any]] = []
    for op in OPS:
        why: dict[str, str] = {}
        for name, table in tables.items():
            reason = table.why_not(op) if table is not None else f"PyTorch is not installed; {TORCH_INSTALL}"
            why |= {name: reason} if reason else {}
        shown = {name: "yes" if name not in why else "-" if why[name] in NOTHING else "no" for name in SHOWN}
        found.append({"name": op, "count": "yes", **shown, "why": why})
    return tuple(found)
