"""The page of filtered pictures: each before and after, the kernel's taps, and one window in numbers."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from dojang.base.wording import counted
from dojang.report.html_filter import taps_svg
from dojang.report.markup import escape
from dojang.report.page import page, paragraph
from dojang.report.text_filter import about

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dojang.filters.closeup import CloseUp, Matrix, WindowPart

LOOKS = (
    "<style>main{max-width:66rem}.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(17rem,1fr));gap:1rem}"
    ".pair figure{margin:.3rem 0}.pair img{max-width:100%;height:auto;display:block;border-radius:.3rem;"
    "background:repeating-conic-gradient(var(--panel) 0 25%,var(--bg) 0 50%) 0/1.2rem 1.2rem}"
    ".window{display:flex;flex-wrap:wrap;gap:1rem 1.6rem;align-items:flex-end;margin:.6rem 0}"
    ".window figure{margin:0}.window svg{width:8rem}.window svg text{font-size:12px;text-anchor:middle;"
    "dominant-baseline:central}.window table{min-width:0;font-size:.85rem}"
    ".window td{text-align:right;padding:.15rem .5rem;border:1px solid var(--rule)}</style>"
)
MOST_TERMS = 25


def filter_html(seen: Sequence[CloseUp], left_out: int = 0) -> str:
    """One section per picture and kernel. `left_out` results have no section, and the page says so."""
    sections = [(f"{one.done.source}, {one.done.kernel}", LOOKS + _section(one)) for one in seen]
    more = f" {counted(left_out, 'more result')} of the same call not shown." if left_out else ""
    lead = f"The kernel is pressed on the picture as it stands (correlation), not flipped. Pictures are reduced.{more}"
    return page("Filtered pictures", lead, sections, pictures=True)


def _section(one: CloseUp) -> str:
    before = _picture(one.before, f"before: {one.done.source}")
    after = _picture(one.after, f"after: {one.done.target}")
    rows, columns = one.size
    size = f"<figcaption>{rows}x{columns} taps</figcaption>"
    taps = "".join(f"<figure>{taps_svg(matrix)}{size}</figure>" for matrix in one.matrices)
    lost = paragraph(f"Not kept: {', '.join(one.done.lost)}.", "muted") if one.done.lost else ""
    warned = paragraph(one.done.warning, "bad") if one.done.warning else ""
    place = (
        f"One window: result row {one.row}, column {one.column} (from 0), {one.channel}. Each pixel is multiplied by "
        f"the tap that lies on it{', and by its alpha' if one.parts[0].alpha else ''}, and the products are added."
    )
    return (
        f'<div class="pair">{before}{after}</div>{paragraph(about(one.done), "muted")}{warned}{lost}'
        f'<div class="window">{taps}</div>{paragraph(place)}'
        f"{''.join(_window(part, one.size) for part in one.parts)}{paragraph(_result(one))}"
    )


def _picture(png: bytes, what: str) -> str:
    data = base64.b64encode(png).decode()
    shown = f'<img alt="{escape(what)}" src="data:image/png;base64,{data}">'
    return f"<figure>{shown}<figcaption>{escape(what)}</figcaption></figure>"


def _window(part: WindowPart, size: tuple[int, int]) -> str:
    rows, columns = len(part.taps), len(part.taps[0])
    middle = f", the middle {rows}x{columns} of {size[0]}x{size[1]}" if (rows, columns) != size else ""
    tables = [_table(part.values, f"pixels{middle}"), _table(part.taps, f"taps{middle}")]
    if part.alpha:
        tables.append(_table(part.alpha, "alpha, 1 is opaque"))
    terms = [
        "·".join(_number(v) if v >= 0 else f"({_number(v)})" for v in factors)
        for factors in zip(*(sum(m, ()) for m in (part.taps, part.values, part.alpha) if m), strict=True)
        if factors[0]
    ]
    total = f"{_number(part.total, 6)}"
    if len(terms) <= MOST_TERMS and (rows, columns) == size:
        said = f"{' + '.join(terms) or '0'} = {total}"
    else:
        rest = f", the others {_number(part.rest, 6)}" if (rows, columns) != size else ""
        said = f"The products shown add up to {_number(part.total - part.rest, 6)}{rest}: {total}"
    return f'<div class="window">{"".join(tables)}</div>{paragraph(said)}'


def _table(matrix: Matrix, what: str) -> str:
    rows = "".join(f"<tr>{''.join(f'<td>{_number(v)}</td>' for v in row)}</tr>" for row in matrix)
    return f"<figure><table><tbody>{rows}</tbody></table><figcaption>{escape(what)}</figcaption></figure>"


def _number(value: float, digits: int = 4) -> str:
    """Whole numbers in full, others with a few digits."""
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e9 else f"{value:.{digits}g}"


def _result(one: CloseUp) -> str:
    """From the sums to the level that is stored."""
    said = []
    if len(one.parts) == 2:
        inner = " + ".join(f"({_number(part.total, 6)})²" for part in one.parts)
        said.append(f"√({inner}) = {_number(one.response - one.done.offset, 6)}.")
    if one.parts[0].alpha:
        inner = _number(one.response - one.done.offset, 6)
        said.append(f"Divided by the sum of tap times alpha, and multiplied by the sum of the taps: {inner}.")
    if one.done.offset:
        said.append(f"With the offset {_number(one.done.offset)}: {_number(one.response, 6)}.")
    saturated = one.done.dtype.startswith("uint") and abs(one.response - one.level) > 0.5
    said.append(f"In {one.done.dtype}{', saturated' if saturated else ''}: {_number(one.level, 6)}.")
    return " ".join(said)
