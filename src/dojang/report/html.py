"""The HTML pages: what a network costs, a training, findings. The page of a slimming is in `html_slim.py`."""

from __future__ import annotations

from collections.abc import Sequence

from dojang.arith.cost import Count
from dojang.arith.formulas import symbols_of
from dojang.report.confusion import confusion_html
from dojang.report.markup import escape
from dojang.report.page import cards, figure, html_table, page, paragraph
from dojang.report.results import Trained
from dojang.report.svg import ChartBar, Series, bar_chart, field_chart, line_chart
from dojang.report.svg_cost import share_chart
from dojang.report.table import number, percent, short, size, sizes
from dojang.report.text import VARIES, field_said, formulas_text, own_params, parameters_said, paths_text


def count_html(count: Count) -> str:
    """The cost table, which can be sorted, and charts of parameters and MACs."""
    return page(f"{count.network}: what it costs", f"Convention: {count.convention}.", count_sections(count), True)


def count_sections(count: Count) -> list[tuple[str, str]]:
    """Totals, charts and table of a count; of one with symbols its formulas."""
    if symbols_of(count):
        return [("Formulas", f'<div class="scroll"><pre>{escape(formulas_text(count, 110))}</pre></div>')]
    total = count.total
    bound = total.status == "lower-bound"
    work, per_mac = ("FLOPs", 2) if count.convention.unit == "flop" else ("MACs", 1)
    unknown = f"Not counted, so the totals are lower bounds: {', '.join(total.unknown)}." if bound else ""
    summary = cards(
        [
            (short(total.params, bound), "parameters"),
            (short(per_mac * total.macs, bound), work),
            (size(count.peak_bytes, bound), "most activation memory at once"),
        ]
    )
    several = f"{paths_text(count)} The page shows the path with the most MACs."
    unknown_said = (paragraph(unknown, "bad") if unknown else "") + (paragraph(several) if count.ways else "")
    differ = parameters_said(count)
    unknown_said += paragraph(differ) if differ else ""
    return [
        ("In total", summary + unknown_said),
        ("By type of layer", figure(share_chart(count))),
        ("By layer", figure(layer_chart(count), "Each column of bars has its own scale.")),
        ("What one output sees", figure(fields_drawn(count), "Receptive field of the middle output, over the input.")),
        ("Layer by layer", _count_table(count, work, per_mac, bound)),
    ]


def layer_chart(count: Count) -> str:
    """Parameters and MACs of the layers that have any, in order."""
    work, per_mac = ("FLOPs", 2) if count.convention.unit == "flop" else ("MACs", 1)
    layers = [layer for layer in count.layers if layer.cost.macs or (layer.cost.params and layer.op != "batchnorm")]
    rows = [
        (
            layer.name,
            [
                ChartBar(layer.cost.params, short(layer.cost.params), "a"),
                ChartBar(per_mac * layer.cost.macs, short(per_mac * layer.cost.macs), "b"),
            ],
        )
        for layer in layers
    ]
    return bar_chart(f"Parameters and {work} of {count.network} by layer", ["parameters", work], rows) if rows else ""


MOST_FIELDS = 14
"""The most receptive fields that are drawn over the input; if there are more, every n-th."""


def fields_drawn(count: Count) -> str:
    """The receptive fields of layers that enlarge it, drawn over the input; "" if the input is not a picture."""
    first = next((layer for layer in count.layers if layer.op == "input" and layer.shape is not None), None)
    if (
        first is None
        or first.shape is None
        or len(first.shape) != 4
        or not all(isinstance(s, int) for s in first.shape)
    ):
        return ""
    found: dict[tuple[int, int], str] = {}
    for layer in count.layers:
        if layer.field is not None and len(layer.field) == 2 and layer.op != "input":
            found.setdefault((layer.field[0].size, layer.field[1].size), layer.name)
    every = [(name, size) for size, name in found.items() if max(size) > 1]
    step = -(-len(every) // MOST_FIELDS) or 1
    chosen = every[::step] + (every[-1:] if every and (len(every) - 1) % step else [])
    title = f"Receptive fields of {count.network} over its input"
    return field_chart(title, (first.shape[2], first.shape[3]), chosen) if chosen else ""


def _count_table(count: Count, work: str, per_mac: int, bound: bool) -> str:
    rows = []
    for layer in count.layers:
        strange = bool(layer.cost.unknown)
        span = layer.field or ()
        rows.append(
            [
                layer.name,
                layer.op,
                sizes(layer.shape[1:]) if layer.shape else "?",
                (own_params(layer), layer.cost.params if layer.cost.params or not strange else None),
                ("?", None) if strange else (number(per_mac * layer.cost.macs), layer.cost.macs),
                (size(layer.cost.out_bytes), layer.cost.out_bytes) if layer.shape else ("?", None),
                (field_said(span), span[0].size) if span else ("", None),
            ]
        )
    total = count.total
    foot = ["total", "", "", number(total.params, bound), number(per_mac * total.macs, bound), "", ""]
    heads = ["layer", "op", "output", "parameters", work, "memory", "field"]
    return html_table(heads, rows, numeric=(3, 4, 5, 6), footer=foot, sortable=True) + _varying(count)


def _varying(count: Count) -> str:
    """What the positions see, for layers whose field depends on the position; "" if there are none."""
    items: list[str] = []
    for layer in count.layers:
        for axis, span in enumerate(layer.field or ()):
            if not span.line:
                items.append(f"<li>{escape(layer.name)}, axis {axis}: {escape(str(span))}</li>")
    said = f"<summary>{VARIES} Fields that depend on the position</summary><ul>{''.join(items)}</ul>"
    return f"<details>{said}</details>" if items else ""


def trained_html(trained: Trained) -> str:
    """The figures and the curve of a training, and how well each class is answered."""
    record = trained.history
    name = "R²" if record["metric"] == "r2" else record["metric"]
    show = (lambda v: f"{v:.4f}") if record["metric"] == "r2" else percent
    summary = cards(
        [
            (show(record["test_accuracy"]), f"test {name}"),
            (show(record["train_accuracy"]), f"train {name}"),
            (show(record["gap"]), "gap between the two"),
            (f"{record['seconds']:.1f} s", f"{record['epochs']} epochs on {record['device']}"),
        ]
    )
    curve = figure(curve_chart(record["curve"], name), "Train figures are measured during training.")
    lead = f"Data {record['data']['name']}, seed {record['config']['seed']}, peak learning rate {record['lr']:g}."
    warning = paragraph(f"Warning: {trained.warning}", "bad") if trained.warning else ""
    sections = [("Figures", warning + summary), ("Curve", curve)]
    if trained.understood:
        sections.append(("How data and settings were understood", paragraph(trained.understood)))
    if record.get("confusion"):
        sections.append(("By class", confusion_html(record["confusion"])))
    return page(f"{trained.network}: training", lead, sections, sortable=True, pictures=True)


def curve_chart(curve: Sequence[dict[str, float | None]], name: str) -> str:
    """Train and test accuracy by epoch."""

    def points(key: str) -> tuple[tuple[float, float], ...]:
        pairs = [(point["epoch"], point[key]) for point in curve]
        return tuple((float(x), float(y)) for x, y in pairs if x is not None and y is not None)

    lines = [Series("train", points("train_accuracy"), "a"), Series("test", points("test_accuracy"), "b")]
    return line_chart(f"Train and test {name} by epoch", "epoch", name, [line for line in lines if line.points])
