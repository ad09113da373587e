"""The HTML pages: what a network costs, a training, findings. The page of a slimming is in `html_slim.py`."""

from __future__ import annotations

from collections.abc import Sequence

from dojang.arith.cost import Count
from dojang.arith.devices import Placement
from dojang.arith.formulas import symbols_of
from dojang.arith.modules import ONE_SCREEN, FoldedRow
from dojang.report.confusion import by_label_html, confusion_html
from dojang.report.count_rows import COLUMNS, VARIES, CountColumn, flat, footer, titled, work_of
from dojang.report.markup import escape
from dojang.report.page import cards, figure, html_table, page, paragraph
from dojang.report.results import Trained
from dojang.report.svg import ChartBar, Series, bar_chart, field_chart, line_chart
from dojang.report.svg_cost import colour_of, share_chart
from dojang.report.svg_devices import paths_chart
from dojang.report.table import number, percent, short, size
from dojang.report.text_count import folded_said, formulas_text, parameters_said, paths_text, uncounted_said
from dojang.report.text_devices import DEVICE_HEADS, LAYER_HEADS, device_rows, layer_rows
from dojang.report.text_devices import headline as placement_headline
from dojang.report.text_devices import notes as placement_notes


def count_html(count: Count, placed: Placement | None = None) -> str:
    """The cost table, which can be sorted, and charts of parameters and MACs; before them the network over devices."""
    sections = count_sections(count)
    if placed is not None:
        sections.insert(1, (f"Over {placed.devices} devices", devices_section(placed)))
    return page(f"{count.network}: what it costs", f"Convention: {count.convention}.", sections, True)


def devices_section(placed: Placement) -> str:
    """What each device holds and computes, and what is exchanged."""
    said = "".join(paragraph(text) for text in (f"{placement_headline(placed)}.", *placement_notes(placed)))
    each = html_table(DEVICE_HEADS, device_rows(placed), numeric=range(1, len(DEVICE_HEADS)))
    layers = html_table(LAYER_HEADS, layer_rows(placed), numeric=(3, 4, 5))
    drawn = figure(paths_chart(placed), "Shape and parameters of what each device computes; where activations cross.")
    return said + drawn + each + layers + paragraph(f"Convention: {placed.convention}.", "muted")


def count_sections(count: Count) -> list[tuple[str, str]]:
    """Totals, charts and table of a count; of one with symbols its formulas."""
    if symbols_of(count):
        return [("Formulas", f'<div class="scroll"><pre>{escape(formulas_text(count, 110))}</pre></div>')]
    total = count.total
    bound = total.status == "lower-bound"
    work, per_mac = work_of(count)
    unknown = uncounted_said(count) if bound else ""
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
    folded = count.tree.rows(count.depth)
    modules = [row for row in folded if row.module is not None]
    table = _count_table(count)
    if len(count.layers) > ONE_SCREEN:
        table = f"<details><summary>All {len(count.layers)} layers</summary>{table}</details>"
    return [
        ("In total", summary + unknown_said),
        ("By type of layer", figure(share_chart(count))),
        ("By module", _module_table(count, folded) if modules else ""),
        (
            "By layer",
            figure(layer_chart(count), f"{OWN_SCALES} Colours are the types of layers above."),
        ),
        ("What one output sees", figure(fields_drawn(count), "Receptive field of the middle output, over the input.")),
        ("Layer by layer", table),
    ]


def _module_table(count: Count, rows: Sequence[FoldedRow]) -> str:
    """The table as the terminal has it: folded by modules, with subtotals."""
    columns = [column for column in COLUMNS if column.name != "memory"]
    cells = [[column.cell(count, row, number) for column in columns] for row in rows]
    for row, line in zip(rows, cells, strict=True):
        line[0] = "\u2003" * row.level + line[0]
    numeric = [place for place, column in enumerate(columns) if column.right]
    heads = [titled(count, column) for column in columns]
    strong = [place for place, row in enumerate(rows) if row.module is not None]
    said = paragraph(folded_said(count, rows), "muted")
    return said + html_table(heads, cells, numeric, footer(count, columns, number), strong=strong)


def layer_chart(count: Count) -> str:
    """Parameters and MACs of the layers that have any, in order; of a large network, of its modules as folded."""
    work, per_mac = work_of(count)
    rows = count.tree.rows(count.depth) if len(count.layers) > ONE_SCREEN else flat(count)
    prefix: dict[int, str] = {}
    bars: list[tuple[str, list[ChartBar]]] = []
    for row in rows:
        outer = prefix.get(row.level - 1, "")
        name = f"{outer}.{row.label}" if outer and row.level else row.label
        if row.open:
            prefix[row.level] = name
            continue
        cost = row.cost
        norm = row.layer is not None and row.layer.op == "batchnorm"
        if cost.macs or (cost.params and not norm):
            colour = colour_of(row.layers)
            params = ChartBar(cost.params, short(cost.params), colour)
            bars.append((name, [params, ChartBar(per_mac * cost.macs, short(per_mac * cost.macs), colour)]))
    return bar_chart(f"Parameters and {work} of {count.network} by layer", ["parameters", work], bars) if bars else ""


OWN_SCALES = "Each column of bars has its own scale."

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


def _count_table(count: Count) -> str:
    """Every layer with every column, which can be sorted."""
    cells = [[_sortable(count, row, column) for column in COLUMNS] for row in flat(count)]
    numeric = [place for place, column in enumerate(COLUMNS) if column.right]
    heads = [titled(count, column) for column in COLUMNS]
    return html_table(heads, cells, numeric, footer(count, COLUMNS, number), sortable=True) + _varying(count)


def _sortable(count: Count, row: FoldedRow, column: CountColumn) -> str | tuple[str, float | int | None]:
    """A cell, and the number that it is sorted by if it has one."""
    text = column.cell(count, row, number)
    return text if column.value is None else (text, column.value(count, row))


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
    if record.get("by_label"):
        sections.append(("By class", by_label_html(record["by_label"])))
    return page(f"{trained.network}: training", lead, sections, sortable=True, pictures=True)


def curve_chart(curve: Sequence[dict[str, float | None]], name: str) -> str:
    """Train and test accuracy by epoch."""

    def points(key: str) -> tuple[tuple[float, float], ...]:
        pairs = [(point["epoch"], point[key]) for point in curve]
        return tuple((float(x), float(y)) for x, y in pairs if x is not None and y is not None)

    lines = [Series("train", points("train_accuracy"), "a"), Series("test", points("test_accuracy"), "b")]
    return line_chart(f"Train and test {name} by epoch", "epoch", name, [line for line in lines if line.points])
