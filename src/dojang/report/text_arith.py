"""The results of solve, check, compare, list and --explain as text, at most 80 columns wide."""

from __future__ import annotations

from itertools import groupby

from dojang.arith.check import Check
from dojang.arith.compare import Comparison, Pair
from dojang.arith.explain import Explanation
from dojang.arith.layer import Layer
from dojang.arith.solve import Solution, Solutions
from dojang.report.results import Listing
from dojang.report.table import PLAIN, WIDTH, Column, Style, number, paragraph, short, sizes, table
from dojang.report.text import list_text
from dojang.report.text_count import paths_text

MARKS = {"same": " ", "renamed": "~", "narrowed": "<", "widened": ">", "changed": "!", "removed": "-", "inserted": "+"}
"""How `compare` marks a row."""


def solve_text(found: Solutions, width: int = WIDTH, style: Style = PLAIN) -> str:
    """One row per layer that fits, the simplest first, or the reason why none does."""
    if not found.solutions:
        return paragraph(f"no layer fits: {found.reason}", width)
    first = found.solutions[0].conv
    kind = "transposed, " if first.transposed else ""
    columns = [Column("input", right=False), Column("kernel"), Column("stride"), Column("padding"), Column("dilation")]
    columns += [Column("groups"), Column("filters"), Column("output"), Column("params"), Column("MACs")]
    rows = [_solution(s) for s in found.solutions]
    keep = [i for i, c in enumerate(columns) if c.title not in ("dilation", "groups") or len({r[i] for r in rows}) > 1
            or rows[0][i] != "1"]  # fmt: skip
    count = "1 layer fits" if len(rows) == 1 else f"{len(rows)} layers fit, simplest first"
    note = f"{count}; {kind}shapes are height x width x channels, params {'with' if first.bias else 'without'} biases"
    if not first.transposed and any(o > i for i, o in zip(first.in_shape[2:], first.out_shape[2:], strict=True)):
        note += "; the output is larger only because of padding; --transposed lists layers that enlarge by their stride"
    shown = table([columns[i] for i in keep], [[r[i] for i in keep] for r in rows], width=width, style=style)
    return f"{shown}\n\n{style.dim(paragraph(note, width))}"


def _solution(solution: Solution) -> list[str]:
    c = solution.conv
    pads = "x".join(str(a) if a == b else f"{a}:{b}" for a, b in c.padding)
    extra = f"+{sizes(c.output_padding)}" if any(c.output_padding) else ""
    return [
        sizes((*c.size, c.ic)),
        sizes(c.kernel),
        sizes(c.stride),
        pads + extra,
        sizes(c.dilation) if len(set(c.dilation)) > 1 else str(c.dilation[0]),
        str(c.groups),
        str(c.oc),
        sizes((*c.out_size, c.oc)),
        number(c.params),
        number(c.macs),
    ]


def check_text(check: Check, width: int = WIDTH, style: Style = PLAIN) -> str:
    """Every cell with its verdict, the explanations of mismatches, and the conventions found."""
    columns = [Column("row", right=False, shrink=True), Column("column", right=False), Column("printed")]
    columns += [Column("computed"), Column("verdict", right=False)]
    rows = []
    for label, cells in groupby(check.cells, key=lambda c: c.row):
        seen: set[str] = set()
        for cell in cells:
            if cell.column in seen:  # the next row has the same label
                seen = set()
            value = number(cell.computed) if isinstance(cell.computed, int) else cell.computed
            rows.append(["" if seen else label, cell.column, cell.printed, value, cell.verdict])
            seen.add(cell.column)
    wrong = len(check.mismatches)
    lines = [
        style.bold(f"{check.table.title}: {len(check.cells)} cell{'s' * (len(check.cells) != 1)}, {wrong} wrong"),
        "",
    ]
    lines += [table(columns, rows, width=width, style=style), ""]
    sections = {
        "Close, but not a rounding of the value": check.close,
        "Right under another convention": tuple(c for c in check.cells if c.verdict == "convention"),
        "Wrong": check.mismatches,
    }
    for heading, chosen in sections.items():
        if chosen:
            lines.append(style.bold(heading))
            for cell in chosen:
                text = f"{cell.row}, {cell.column} {cell.printed}: {cell.explanation}"
                lines.append(paragraph(f"  {text}", width, "    "))
            lines.append("")
    if check.ways > 1:
        note = (
            f"Values decide which of {check.ways} paths the network takes; "
            "the table was compared with the path with the most MACs."
        )
        lines += [paragraph(note, width), ""]
    conventions = "; ".join(f"{column}: {words}" for column, words in check.conventions.items())
    lines += [style.dim(paragraph(f"Conventions found: {conventions}.", width))] if conventions else []
    if check.table.source:
        lines.append(style.dim(paragraph(f"Source: {check.table.source}", width)))
    return "\n".join(lines)


def compare_text(found: Comparison, width: int = WIDTH, style: Style = PLAIN) -> str:
    """The aligned layers, with marks where they differ; totals and their ratio."""
    a, b = found.a, found.b
    columns = [Column(""), Column(a.network, right=False, shrink=True), Column("params"), Column("MACs")]
    columns += [Column(b.network, right=False, shrink=True), Column("params"), Column("MACs")]
    rows = [[MARKS[pair.change], *_side(pair.a), *_side(pair.b, pair)] for pair in found.pairs]
    old, new = a.total, b.total
    bounds = old.status == "lower-bound", new.status == "lower-bound"
    foot = ["", "total", short(old.params, bounds[0]), short(old.macs, bounds[0])]
    foot += ["", short(new.params, bounds[1]), short(new.macs, bounds[1])]
    ratios = found.to_dict()["ratio"]
    said = ", ".join(f"{ratios[k]:.3f} x the {w}" for k, w in (("params", "parameters"), ("macs", "MACs")) if ratios[k])
    legend = ", ".join(f"{mark} {change}" for change, mark in MARKS.items() if mark != " ")
    return "\n".join(
        [
            style.bold(f"{b.network} against {a.network}: {said or 'nothing to compare'}"),
            "",
            table(columns, rows, [foot], width, style),
            "",
            *(
                paragraph(f"{paths_text(side)} The path with the most MACs is compared.", width)
                for side in (a, b)
                if side.ways
            ),
            *(
                style.bad(paragraph(f"{side.network}: {', '.join(side.total.unknown)} could not be counted.", width))
                for side in (a, b)
                if side.total.unknown
            ),
            style.dim(paragraph(f"Marks: {legend}.", width)),
            style.dim(paragraph(f"Convention: {a.convention}.", width)),
        ]
    )


def _side(layer: Layer | None, pair: Pair | None = None) -> list[str]:
    if layer is None:
        return ["", "", ""]
    same = pair is not None and pair.a is not None and pair.a.name == layer.name
    name = '"' if same else layer.name
    if layer.cost.unknown:
        return [name, "?", "?"]
    return [
        name,
        short(layer.cost.params) if layer.cost.params else "-",
        short(layer.cost.macs) if layer.cost.macs else "-",
    ]


def explain_text(found: Explanation, width: int = WIDTH, style: Style = PLAIN) -> str:
    """For each figure its formula, the formula with numbers, and the result."""
    lines = [style.bold(found.layer)]
    lines += [paragraph(f"  {step}", width, "      ") for step in found.steps]
    return "\n".join(lines)


def listing_text(listing: Listing, width: int = WIDTH, style: Style = PLAIN) -> str:
    """The rows, with their keys as headings; types of convolution also with their formulas."""
    return kinds_text(listing, width, style) if listing.what == "kinds" else list_text(listing, width, style)


def kinds_text(listing: Listing, width: int = WIDTH, style: Style = PLAIN) -> str:
    """Every type of convolution with its formulas and figures, then layers that see a larger window."""
    first = listing.rows[0]
    columns = [Column("kind", right=False), Column("weights"), Column("MACs"), Column("× plain"), Column("× plain")]
    rows = [[r["kind"], number(r["weights"]), number(r["macs"]), f"{r['weights_ratio']:.3f}", f"{r['macs_ratio']:.3f}"]
            for r in listing.rows]  # fmt: skip
    shape = f"{sizes(first['in_shape'])} to {sizes(first['out_shape'])}, {first['layers'][0]}, without biases"
    lines = [style.bold(f"Types of convolution: {shape}"), "", table(columns, rows, width=width, style=style), ""]
    formulas = [Column("kind", right=False), Column("weights", right=False), Column("MACs", right=False)]
    rows = [[r["kind"], r["weights_formula"], r["macs_formula"]] for r in listing.rows]
    lines += [table(formulas, rows, width=width, style=style), ""]
    said = (
        "K = kernel taps (k on one axis), C = input channels, N = filters, A = output pixels at stride 1, "
        "A_in = input pixels, g = groups. The ratios compare weights and MACs with the plain type. --json has "
        "layers and sources."
    )
    lines += [style.dim(paragraph(said, width)), ""]
    trade = listing.more["field_trade"]
    field = trade[0]["field"]
    columns = [
        Column("kernel"),
        Column("dilation"),
        Column("layers"),
        Column("weights"),
        Column(f"of one {field}x{field}"),
    ]
    rows = [[sizes([r["kernel"]] * 2), str(r["dilation"]), str(r["layers"]), number(r["weights"]),
             f"{r['weights'] / trade[0]['weights']:.2f}"] for r in trade]  # fmt: skip
    lines += [style.bold(f"A large kernel or several layers that see {field}x{field} pixels, 64 channels"), ""]
    gaps = "Dilated layers skip pixels inside the field, unless layers with other dilations read them."
    return "\n".join([*lines, table(columns, rows, width=width, style=style), "", style.dim(paragraph(gaps, width))])
