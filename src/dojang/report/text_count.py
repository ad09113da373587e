"""The result of `count` as text: the table folded by modules, at most 80 columns wide, and what is said below it."""

from __future__ import annotations

from collections.abc import Sequence

from dojang.arith.cost import Count
from dojang.arith.formulas import Names, layer_product, symbols_of, written
from dojang.arith.formulas import total as total_formula
from dojang.arith.modules import FoldedRow
from dojang.arith.symbol import Expr
from dojang.report.count_rows import (
    COLUMNS,
    NAMED,
    ORDER,
    VARIES,
    CountColumn,
    Show,
    field_said,
    footer,
    own_params,
    some_frozen,
    titled,
    work_of,
)
from dojang.report.table import (
    PLAIN,
    WIDTH,
    Column,
    Style,
    fits,
    names,
    number,
    paragraph,
    short,
    size,
    span,
    table,
)

INDENT = "  "
LEAST_NAME, LEAST_OP = 20, 12
"""Columns of text that names and operators keep before another column is left out."""


def count_text(count: Count, width: int = WIDTH, style: Style = PLAIN, columns: Sequence[str] = ()) -> str:
    """The cost table: a headline, the layers folded by modules, totals, the convention. `columns` names those that are
    shown, whatever the width; without it there are as many as fit.
    """
    if symbols_of(count):
        return formulas_text(count, width, style)
    rows = count.tree.rows(count.depth)
    wanted = [column for column in COLUMNS if column.name in columns] if columns else _fitting(count, rows, width)
    heads = [Column(titled(count, c), c.right, shrink=not columns and c.name in ("layer", "op")) for c in wanted]
    cells, foot = _cells(count, rows, wanted, number), footer(count, wanted, number)
    if not columns and not fits(heads, [*cells, foot], width):
        cells, foot = _cells(count, rows, wanted, short), footer(count, wanted, short)
    modules = [place for place, row in enumerate(rows) if row.module is not None]
    lines = [style.bold(headline(count)), "", table(heads, cells, [foot], width, style, modules), ""]
    if folded := folded_said(count, rows):
        lines += [style.dim(paragraph(folded, width)), ""]
    if count.total.unknown:
        lines += [style.bad(paragraph(uncounted_said(count), width)), ""]
    if said := precisions_said(count):
        lines += [paragraph(said, width), ""]
    if said := parameters_said(count):
        lines += [paragraph(said, width), ""]
    if count.ways:
        lines += [paragraph(f"{paths_text(count)} The table shows the path with the most MACs.", width), ""]
    if varying_said(count):
        lines.append(style.dim(paragraph(varying_said(count), width)))
    if missing := _left_out(count, rows, wanted) if not columns else "":
        lines.append(style.dim(paragraph(missing, width)))
    lines.append(style.dim(paragraph(f"Convention: {count.convention}.", width)))
    return "\n".join(lines)


def _cells(count: Count, rows: Sequence[FoldedRow], columns: Sequence[CountColumn], show: Show) -> list[list[str]]:
    """The cells of the table; names are indented by their level."""
    cells = [[column.cell(count, row, show) for column in columns] for row in rows]
    for row, line in zip(rows, cells, strict=True):
        if columns and columns[0].name == "layer":
            line[0] = INDENT * row.level + line[0]
    return cells


def _fitting(count: Count, rows: Sequence[FoldedRow], width: int) -> list[CountColumn]:
    """As many columns as fit with short figures, the most important first; names may be clipped."""
    order = [name for name in ORDER if name != "trained" or some_frozen(count)]
    chosen: list[CountColumn] = []
    left = width + 2
    for name in order:
        column = NAMED[name]
        cells = [*(line[0] for line in _cells(count, rows, (column,), short)), footer(count, (column,), short)[0]]
        if not any(cell.strip("-?") for cell in cells):
            continue
        wide = max([len(titled(count, column)), *map(len, cells)])
        wide = min(wide, {"layer": LEAST_NAME, "op": LEAST_OP}.get(name, wide))
        if wide + 2 > left:
            continue
        left -= wide + 2
        chosen.append(column)
    return [column for column in COLUMNS if column in chosen]


def _left_out(count: Count, rows: Sequence[FoldedRow], wanted: Sequence[CountColumn]) -> str:
    """Which columns that hold anything did not fit."""
    others = [c for c in COLUMNS if c not in wanted and (c.name != "trained" or some_frozen(count))]
    said = [c.name for c in others if any(c.cell(count, row, short).strip("-?") for row in rows)]
    return f"More columns: {', '.join(said)} (a wider terminal, --columns, --html)." if said else ""


def folded_said(count: Count, rows: Sequence[FoldedRow]) -> str:
    """How the table is folded; "" if every layer has a row and there are no modules."""
    modules = [row for row in rows if row.module is not None]
    if not modules:
        return ""
    text = "Rows of modules hold the sum over their layers; indented below them are their parts. "
    if any(not row.open for row in modules):
        depth = 1 + max(row.level for row in rows)
        text += f"{len(count.layers)} layers, folded to depth {depth}; --depth {count.tree.depth} shows each."
    return text.strip()


def uncounted_said(count: Count) -> str:
    """What a lower bound leaves out: which layers, and how much of the network they are."""
    found = count.uncounted
    text = f"Not counted, so the totals are lower bounds: {names(count.total.unknown, MOST_UNKNOWN)}."
    if found is None:
        return text
    kinds = [f"{kind} ({times})" if times > 1 else kind for kind, times in found.operators.items()]
    parts = [f"operators: {names(kinds, MOST_UNKNOWN)}"] if kinds else []
    parts += [f"{found.hidden} whose input size is not known"] if found.hidden else []
    used = count.parameters.used
    share = f", {100 * found.params / used:.1f} % of those used" if used else ""
    missing = sum(found.operators.values()) + found.hidden
    return (
        f"{text} These are {missing} of {found.rows} layers ({'; '.join(parts)}); they read {number(found.params)} "
        f"parameters{share}."
    )


MOST_UNKNOWN = 6
"""The most names of layers and operators that could not be counted that are printed; --json has all."""

MOST_UNUSED = 4
"""The most names of unused parameters that are printed; --json has all."""


def parameters_said(count: Count) -> str:
    """How many parameters are stored, used, trainable and left after folding; "" if these numbers are equal."""
    p = count.parameters
    fixed = p.buffers - p.running
    if (p.stored, p.folded) == (p.used, p.used) and p.trainable in (None, p.stored) and not fixed:
        return ""
    parts = [f"{number(p.stored)} stored", f"{number(p.used)} used"]
    parts += [f"{number(p.trainable)} trainable"] if p.trainable is not None else []
    parts += [f"{number(p.folded)} once computed weights are folded"] if p.folded != p.used else []
    text = f"Parameters: {', '.join(parts)}."
    if p.unused:
        rest = f" and {len(p.unused) - MOST_UNUSED} more arrays" if len(p.unused) > MOST_UNUSED else ""
        text += f" No path uses {', '.join(p.unused[:MOST_UNUSED])}{rest}."
    if fixed:
        text += f" Not parameters: {number(fixed)} numbers in buffers that layers read"
        text += f", and {number(p.running)} in running statistics." if p.running else "."
    return text


def precisions_said(count: Count) -> str:
    """What is kept and multiplied in which precision; "" where all is float32."""
    parts: list[str] = []
    work, per_mac = work_of(count)
    for share in count.precisions:
        read = f" of {' and '.join(share.values)} values" if share.values else ""
        macs = f", {number(per_mac * share.macs)} {work}{read}" if share.macs or read else ""
        parts.append(f"{share.kind}: {number(share.weights)} parameters in {size(share.weight_bytes)}{macs}")
    return f"Precisions: {'; '.join(parts)}. All other bytes are those of float32." if parts else ""


def headline(count: Count) -> str:
    """The totals in one line."""
    work, per_mac = work_of(count)
    paths = [(path, bool(path.total.unknown)) for path in count.ways or (count,)]
    params = span([(path.total.params, bound) for path, bound in paths])
    macs = span([(per_mac * path.total.macs, bound) for path, bound in paths])
    peak = span([(path.peak_bytes, bound) for path, bound in paths], size)
    return f"{count.network}: {params} parameters, {macs} {work}, {peak} peak activations"


def paths_text(count: Count) -> str:
    """How many paths through the network there are, and the range of their MACs; "" if there is one path."""
    if not count.ways:
        return ""
    work, per_mac = work_of(count)
    reach = span([(per_mac * path.total.macs, bool(path.total.unknown)) for path in count.ways])
    followed = " were followed" if count.status == "lower-bound" else ""
    paths = f"{len(count.ways)} paths{followed}"
    return f"Values decide which path {count.network} takes: {paths}, {reach} {work}."


def formulas_text(count: Count, width: int = WIDTH, style: Style = PLAIN) -> str:
    """A count with symbols. Sizes that occur again have names, explained below; the total MACs are a formula."""
    total, letters = count.total, Names(symbols_of(count))
    work, per_mac = work_of(count)
    layers = {layer.name: layer for layer in count.layers}
    columns = [Column("layer", right=False, shrink=True), Column("op", right=False, shrink=True)]
    columns += [Column("output", right=False), Column("params"), Column(work), Column("field")]
    rows: list[list[str]] = []
    for layer in count.layers:
        strange = bool(layer.cost.unknown)
        params = own_params(layer)
        macs = layer.cost.macs * per_mac
        parts = layer_product(layer, macs, layers)
        work_text = "?" if strange else "-" if macs == 0 else written(*parts, letters) if parts else str(macs)
        shape = "?" if layer.shape is None else letters.shape(layer.out_shape or ()) if layer.shape else "scalar"
        field = field_said(layer.field)
        rows.append([layer.name, layer.op, shape, params, work_text, field])
    everything = total_formula(count, letters, per_mac)
    params = f"{total.params:,}" if isinstance(total.params, int) else str(total.params)
    lines = [style.bold(f"{count.network}: {'≥ ' if total.unknown else ''}{params} parameters"), ""]
    lines += [table(columns, rows, width=width, style=style), ""]
    lines += [paragraph(f"{work} in total = {'at least ' if total.unknown else ''}{everything}", width, "    "), ""]
    peak = count.peak_bytes
    if isinstance(peak, Expr):
        largest = peak.largest_option
        note = "" if largest is peak else " for large sizes; the exact maximum is in --json"
        lines += [paragraph(f"Peak activations in bytes = {largest}{note}", width, "    "), ""]
    if total.unknown:
        lines += [paragraph(uncounted_said(count), width), ""]
    if said := precisions_said(count):
        lines += [paragraph(said, width), ""]
    if differ := parameters_said(count):
        lines += [paragraph(differ, width), ""]
    if letters.named:
        said = ", ".join(f"{name} = {formula}" for name, formula in letters.named.items())
        lines += [paragraph(f"Where {said}.", width, "    "), ""]
    if varying_said(count):
        lines.append(style.dim(paragraph(varying_said(count), width)))
    lines.append(style.dim(paragraph(f"Convention: {count.convention}. Formulas hold for sizes that are large enough "
                                     "for every layer.", width)))  # fmt: skip
    return "\n".join(lines)


def varying_said(count: Count) -> str:
    """The note that explains `VARIES`; "" where no layer has it."""
    some = any(not span.line for layer in count.layers for span in layer.field or ())
    note = f"{VARIES} Depends on the position; this is the largest. --json and --explain list each position's field."
    return note if some else ""
