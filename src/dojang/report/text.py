"""What a command prints for a person, at 80 columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from dojang.arith.cost import Count, Layer
from dojang.report.table import PLAIN, WIDTH, Column, Style, fits, number, paragraph, short, size, sizes, table


def count_text(count: Count, width: int = WIDTH, style: Style = PLAIN) -> str:
    """The cost table: a headline, one row per layer, totals, the convention."""
    total = count.total
    bound = total.status == "lower-bound"
    work, per_mac = ("FLOPs", 2) if count.convention.unit == "flop" else ("MACs", 1)
    columns = [
        Column("layer", right=False, shrink=True),
        Column("op", right=False, shrink=True),
        Column("output", right=False),
        Column("params"),
        Column(work),
        Column("memory"),
        Column("field"),
    ]

    def row(layer: Layer, figure: object) -> list[str]:
        unknown = bool(layer.cost.unknown)
        show = short if figure is short else number
        params = "?" if unknown else show(layer.cost.params) if layer.cost.params else "-"
        macs = "?" if unknown else show(per_mac * layer.cost.macs) if layer.cost.macs else "-"
        shape = layer.shape
        memory = "?" if shape is None else size(layer.cost.out_bytes)
        field = "-" if layer.field is None else sizes([span.size for span in layer.field])
        return [layer.name, layer.op, sizes(shape[1:]) if shape else "?", params, macs, memory, field]

    def foot(figure: object) -> list[str]:
        show = short if figure is short else number
        figures = show(total.params, bound), show(per_mac * total.macs, bound), size(total.out_bytes, bound)
        return ["total", "", "", *figures, ""]

    figure: object = number
    if not fits(columns, [*(row(layer, figure) for layer in count.layers), foot(figure)], width):
        figure = short
    lines = [
        style.bold(headline(count)),
        "",
        table(columns, [row(layer, figure) for layer in count.layers], [foot(figure)], width, style),
        "",
    ]
    if bound:
        text = f"Not counted, so the totals are lower bounds: {', '.join(total.unknown)}."
        lines += [style.bad(paragraph(text, width)), ""]
    lines.append(style.dim(paragraph(f"Convention: {count.convention}.", width)))
    return "\n".join(lines)


def headline(count: Count) -> str:
    """The totals in one line."""
    total, bound = count.total, count.total.status == "lower-bound"
    work, per_mac = ("FLOPs", 2) if count.convention.unit == "flop" else ("MACs", 1)
    return (
        f"{count.network}: {number(total.params, bound)} parameters, {number(per_mac * total.macs, bound)} {work}, "
        f"{size(count.peak_bytes, bound)} peak activations"
    )


def count_csv(count: Count) -> str:
    """One line per layer with the keys of the JSON; no line of totals, so that columns can be summed."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    figures = ("params", "weights", "biases", "macs")
    writer.writerow(
        [
            "name",
            "op",
            "inputs",
            "out_shape",
            *figures,
            "out_bytes",
            "field_size",
            "field_jump",
            "field_start",
            "status",
        ]
    )
    for layer in count.layers:
        row = layer.to_dict()
        field = row["receptive_field"] or {"size": (), "jump": (), "start": ()}
        writer.writerow(
            [
                *(row["name"], row["op"], " ".join(row["inputs"]), _join(row["out_shape"])),
                *(row[k] for k in figures),
                "" if row["out_bytes"] is None else row["out_bytes"],
                *(_join(field[k]) for k in ("size", "jump", "start")),
                row["status"],
            ]
        )
    return out.getvalue()


def _join(values: Sequence[float] | None) -> str:
    return "" if values is None else "x".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)


def env_text(facts: Mapping[str, Any]) -> str:
    """Versions, machine and settings, one per line."""
    machine = facts["machine"]
    lines = [f"{name:<14} {version or 'not installed'}" for name, version in facts["versions"].items()]
    caches = ", ".join(f"L{n} {machine[f'l{n}_bytes'] >> 10:,} KiB" for n in (1, 2, 3))
    lines += [
        f"{'system':<14} {machine['system']}",
        f"{'processor':<14} {machine['processor']}",
        f"{'':<14} {machine['isa']}, {machine['cores']} cores, {caches}",
        f"{'memory':<14} {size(machine['memory_bytes'])}",
        f"{'executable':<14} {facts['executable']}",
    ]
    lines += [f"{name:<14} {value}" for name, value in facts["settings"].items()]
    return "\n".join(lines)
