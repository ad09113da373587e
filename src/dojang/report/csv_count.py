"""The result of `count` as CSV: one line per layer, or per module at a depth."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

from dojang.arith.cost import Count
from dojang.arith.devices import Placement
from dojang.arith.layer import Layer
from dojang.arith.modules import ModuleCost
from dojang.arith.symbol import symbolic
from dojang.base.showing import encodable


def guarded(cell: str) -> str:
    """A cell of CSV that no spreadsheet takes for a formula: text that begins like a formula gets a leading apostrophe.

    So does text that begins with an apostrophe, so that removing one apostrophe restores the text. Unpaired surrogates
    become escapes.

    >>> guarded("conv1"), guarded("=cmd|x"), guarded("'a")
    ('conv1', "'=cmd|x", "''a")
    """
    return f"'{encodable(cell)}" if cell[:1] in tuple("=+-@\t\r'") else encodable(cell)


FIGURES = ("params", "weights", "biases", "macs")
FIELDS = ("size", "jump", "start")
WINDOW = ("kernel", "stride", "padding", "dilation", "groups")
HEADS = (
    "name", "op", "inputs", "out_shape", *FIGURES, "out_bytes", *(f"field_{k}" for k in FIELDS), "status",
    "field_last", "field_phases", "shared", "buffers", "module", "in_shapes", *WINDOW, "weight_shape", "dtypes",
    "trainable", "params_share", "macs_share",
)  # fmt: skip
"""The names of the columns; new ones are added at the end."""


def count_csv(count: Count) -> str:
    """One line per layer with the keys of the JSON; no line of totals, so that columns can be summed. With a depth
    (`Count.depth`) the modules at that depth have one line each, in place of the lines of their layers.

    Names are `guarded`. If the field of a layer depends on the position, start and last are "varies", and
    `field_phases` has the field of each position, as in the JSON. `shared` names arrays that an earlier line has
    counted; `buffers` is how many numbers are stored that are not parameters. Shares are fractions of the total.
    """
    rows = count.layers if count.depth is None else count.tree.apart(count.depth)
    total = count.total
    lines = [_csv_line(HEADS)]
    for row in rows:
        cells = _module(row) if isinstance(row, ModuleCost) else _layer(row)
        cost = row.cost
        cells["params_share"], cells["macs_share"] = _part(cost.params, total.params), _part(cost.macs, total.macs)
        lines.append(_csv_line(["" if cells.get(key) is None else cells[key] for key in HEADS]))
    return "".join(lines)


def devices_csv(placed: Placement) -> str:
    """One line per layer and device, with the keys of the JSON."""
    lines = [
        _csv_line(("name", "op", "device", "out_shape", "params", "macs", "out_bytes", "received_bytes", "sources"))
    ]
    for row in placed.layers:
        for device in range(placed.devices):
            shape = row.out_shape(device)
            figures = [each[device] for each in (row.params, row.macs, row.out_bytes, row.received_bytes)]
            sources = [name for name, parts in row.received.items() if parts[device]]
            head = [guarded(row.name), guarded(row.op), device, "" if shape is None else _join(shape)]
            lines.append(_csv_line([*head, *figures, guarded(" ".join(sources))]))
    return "".join(lines)


def _layer(layer: Layer) -> dict[str, object]:
    row = layer.to_dict()
    field = row["receptive_field"] or dict.fromkeys((*FIELDS, "last", "phases"), ())
    varies = any(not span.line for span in layer.field or ())
    window = layer.geometry
    return {
        **{key: row[key] for key in (*FIGURES, "out_bytes", "status", "trainable")},
        **{key: guarded(row[key]) for key in ("name", "op", "module")},
        "inputs": guarded(" ".join(row["inputs"])),
        "out_shape": guarded(_join(row["out_shape"])),
        **{f"field_{key}": _join(field[key]) for key in FIELDS},
        "field_last": _join(field["last"]),
        "field_phases": json.dumps(field["phases"], separators=(",", ":")) if varies else "",
        "shared": guarded(" ".join(layer.shared)),
        "buffers": layer.buffers,
        "in_shapes": " ".join("?" if shape is None else _join(shape) or "scalar" for shape in row["in_shapes"]),
        **({} if window is None else {
            "kernel": _join(window.kernel),
            "stride": _join(window.stride),
            "padding": "" if window.padding is None else "x".join(
                str(a) if a == b else f"{a}:{b}" for a, b in window.padding
            ),
            "dilation": _join(window.dilation),
            "groups": window.groups,
        }),
        "weight_shape": _join(row["arrays"].get("weight")),
        "dtypes": " ".join(layer.dtypes),
    }  # fmt: skip


def _module(module: ModuleCost) -> dict[str, object]:
    row = module.to_dict()
    return {
        **{key: row[key] for key in (*FIGURES, "out_bytes", "status", "trainable")},
        "name": guarded(module.name),
        "op": guarded(module.kind or "module"),
        "out_shape": guarded(_join(row["out_shape"])),
        "buffers": sum(layer.buffers for layer in module.layers),
        "module": guarded(module.name),
        "in_shapes": "?" if module.in_shape is None else _join(row["in_shape"]),
        "dtypes": " ".join(dict.fromkeys(dtype for layer in module.layers for dtype in layer.dtypes)),
    }


def _part(value: int, total: int) -> str:
    """A share of a total; empty where there is none, or a size is a formula."""
    return "" if symbolic(value) or symbolic(total) or not total else f"{value / total:.6g}"


def _csv_line(cells: Sequence[object]) -> str:
    """One line of CSV; a cell that holds "\\r" is quoted too, as the writer does for the characters of its line end."""
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\r\n").writerow(cells)
    return out.getvalue().removesuffix("\r\n") + "\n"


def _join(values: Sequence[float | None] | None) -> str:
    return "" if values is None else "x".join(_cell(v) for v in values)


def _cell(value: float | None) -> str:
    return "varies" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
