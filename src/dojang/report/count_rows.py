"""What stands in each column of a cost table: one list of columns for the terminal, the page and `--columns`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from dojang.arith.cost import Count
from dojang.arith.field import Field
from dojang.arith.layer import Cost, Layer
from dojang.arith.modules import FoldedRow
from dojang.arith.ops import UNKNOWN
from dojang.arith.shapes import Shape
from dojang.report.table import number, size, sizes

VARIES = "*"
"""Marks a receptive field whose size depends on the position."""

Show = Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class CountColumn:
    """A column: its name for `--columns`, its heading, whether it holds numbers, and what it shows of a row.

    `value` is the number that a column of a page is sorted by, None for one of words.
    """

    name: str
    title: str
    right: bool
    cell: Callable[[Count, FoldedRow, Show], str]
    value: Callable[[Count, FoldedRow], float | int | None] | None = None


def work_of(count: Count) -> tuple[str, int]:
    """What operations are called, and how many a MAC is."""
    return ("FLOPs", 2) if count.convention.unit == "flop" else ("MACs", 1)


def own_params(layer: Layer, show: Show = number) -> str:
    """A row's parameters; "shared" if an earlier row has counted them, "buffer" if its numbers are not trained, "?" if
    they are not known.
    """
    if layer.cost.params:
        return show(layer.cost.params)
    if layer.shared:
        return "shared"
    return "?" if layer.cost.unknown else "buffer" if layer.buffers else "-"


def field_said(field: Field | None) -> str:
    """The sizes of a receptive field, with `VARIES` where its positions do not all see the same."""
    if field is None:
        return "-"
    return sizes([span.size for span in field]) + ("" if all(span.line for span in field) else VARIES)


def shape_said(shape: Shape | None) -> str:
    """A shape without its batch; "scalar" for one value per sample."""
    return "?" if shape is None else sizes(shape) if shape else "scalar"


def op_said(row: FoldedRow) -> str:
    """The operator; of a module its class, or the number of its layers if the source does not say the class."""
    if row.module is None:
        layer = row.layers[0]
        return layer.kind if layer.kind and layer.op != UNKNOWN else layer.op
    kind = row.module.kind or f"{len(row.module.layers)} layers"
    return f"{row.times} x {kind}" if row.times > 1 else kind


def _params(count: Count, row: FoldedRow, show: Show) -> str:
    if row.layer is not None:
        return own_params(row.layer, show)
    return _bound(row.cost.params, row.cost, show)


def _macs(count: Count, row: FoldedRow, show: Show) -> str:
    cost = row.cost
    if row.layer is not None and cost.unknown:
        return "?"
    return _bound(work_of(count)[1] * cost.macs, cost, show)


def _bound(value: int, cost: Cost, show: Show) -> str:
    """A figure of a row; of a module with something uncounted a lower bound."""
    return f"{'≥ ' if cost.unknown else ''}{show(value)}" if value or cost.unknown else "-"


def _share(figure: Callable[[Cost], int]) -> tuple[Callable[[Count, FoldedRow], float | None], Any]:
    """How much of the total a row has, in percent: as a number and as text."""

    def value(count: Count, row: FoldedRow) -> float | None:
        total = figure(count.total)
        return 100 * figure(row.cost) / total if total else None

    def cell(count: Count, row: FoldedRow, show: Show) -> str:
        part = value(count, row)
        if row.layer is not None and row.cost.unknown and not figure(row.cost):
            return "?"
        return "-" if not part else f"{part:.1f}" if part >= 0.05 else "<0.1"

    return value, cell


def trained_said(row: FoldedRow) -> str:
    """Whether the parameters of a row are trained: "yes", "frozen", or how many of them are."""
    own = row.cost.params
    if not own:
        return "-"
    if row.trainable is None:
        return "?"
    return "frozen" if row.trainable == 0 else "yes" if row.trainable >= own else f"{100 * row.trainable / own:.0f} %"


def _weights(count: Count, row: FoldedRow, show: Show) -> str:
    """The shape of the main array; others are biases and statistics, whose shapes follow from it."""
    if row.layer is None or not row.layer.arrays:
        return ""
    arrays = row.layer.arrays
    return sizes(arrays.get("weight", next(iter(arrays.values()))))


def _memory(count: Count, row: FoldedRow, show: Show) -> str:
    if row.layer is not None:
        return "?" if row.layer.shape is None else size(row.layer.cost.out_bytes)
    return size(row.cost.out_bytes, any(layer.shape is None for layer in row.layers))


def _field(row: FoldedRow) -> Field | None:
    """The receptive field of a layer, or of the last layer of a module."""
    return row.layers[-1].field


def _values_of(shape: Shape | None) -> int | None:
    """How many values a shape has, by which a column of shapes is sorted."""
    return None if shape is None else prod(shape)


_PARAMS_SHARE, _MACS_SHARE = _share(lambda c: c.params), _share(lambda c: c.macs)

COLUMNS = (
    CountColumn("layer", "layer", False, lambda c, r, s: r.label),
    CountColumn("op", "op", False, lambda c, r, s: op_said(r)),
    CountColumn("kernel", "kernel", False, lambda c, r, s: "" if r.layer is None else str(r.layer.geometry or "")),
    CountColumn("input", "input", False, lambda c, r, s: ", ".join(shape_said(x) for x in r.in_shapes),
                lambda c, r: _values_of(r.in_shapes[0] if r.in_shapes else None)),
    CountColumn("output", "output", False, lambda c, r, s: shape_said(r.out_shape),
                lambda c, r: _values_of(r.out_shape)),
    CountColumn("weights", "weights", False, _weights),
    CountColumn("dtype", "dtype", False, lambda c, r, s: ", ".join(r.dtypes)),
    CountColumn("params", "params", True, _params, lambda c, r: r.cost.params),
    CountColumn("params-share", "% params", True, _PARAMS_SHARE[1], _PARAMS_SHARE[0]),
    CountColumn("trained", "trained", False, lambda c, r, s: trained_said(r)),
    CountColumn("macs", "MACs", True, _macs, lambda c, r: None if r.layer and r.cost.unknown else r.cost.macs),
    CountColumn("macs-share", "% MACs", True, _MACS_SHARE[1], _MACS_SHARE[0]),
    CountColumn("memory", "memory", True, _memory, lambda c, r: r.cost.out_bytes),
    CountColumn("field", "field", True, lambda c, r, s: field_said(_field(r)),
                lambda c, r: max((span.size for span in _field(r) or ()), default=None)),
)  # fmt: skip
"""Every column, in the order in which they stand."""

ORDER = (
    "layer", "op", "output", "params", "macs", "trained", "kernel", "macs-share", "field", "memory", "input", "weights",
    "params-share", "dtype",
)  # fmt: skip
"""Which columns are kept if not all fit: the first ones. `trained` counts only where something is frozen."""

NAMED = {column.name: column for column in COLUMNS}


def titled(count: Count, column: CountColumn) -> str:
    """The heading of a column, which names operations as the table counts them."""
    return column.title.replace("MACs", work_of(count)[0])


def some_frozen(count: Count) -> bool:
    """Whether the source freezes some of the parameters that are counted."""
    return any(layer.trainable is not None and layer.trainable < layer.cost.params for layer in count.layers)


def flat(count: Count) -> tuple[FoldedRow, ...]:
    """Every layer as a row of its own, under its full name."""
    return tuple(FoldedRow(layer.name, 0, (layer,)) for layer in count.layers)


def footer(count: Count, columns: Sequence[CountColumn], show: Show) -> list[str]:
    """The line of totals."""
    total, per_mac = count.total, work_of(count)[1]
    bound = total.status == "lower-bound"
    mark = "≥ " if bound else ""
    cells = {
        "layer": "total",
        "params": f"{mark}{show(total.params)}",
        "params-share": "100" if total.params else "-",
        "macs": f"{mark}{show(per_mac * total.macs)}",
        "macs-share": "100" if total.macs else "-",
        "memory": size(total.out_bytes, bound),
    }
    return [cells.get(column.name, "") for column in columns]
