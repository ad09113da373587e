"""The page of kernels for pictures: each on one picture, with its taps, its options and its source."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from dojang.report.markup import escape
from dojang.report.page import page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dojang.filters.gallery import Shown

Matrix = tuple[tuple[float, ...], ...]

GRID = (
    "<style>main{max-width:76rem}"
    ".kernels{display:grid;grid-template-columns:repeat(auto-fill,minmax(17rem,1fr));gap:1.6rem 1.4rem}"
    ".kernels figure{margin:0}.kernels img{width:100%;height:auto;display:block;border-radius:.3rem}"
    ".kernels h3{font-size:1.05rem;margin:.5rem 0 .1rem}.kernels p{margin:.15rem 0;font-size:.92rem}"
    ".taps{display:flex;gap:.6rem;margin:.5rem 0}.taps svg{width:6.2rem;flex:none;background:var(--panel)}"
    ".taps svg text{font-size:12px;font-weight:600;"
    "paint-order:stroke;stroke:var(--bg);stroke-width:3.5px;stroke-linejoin:round;"
    "text-anchor:middle;dominant-baseline:central}</style>"
)
LEGEND = (
    "Taps: green is positive, purple is negative, stronger colour is a larger magnitude; the frame is the whole "
    "kernel. "
    "Results of both signs are shown with grey as 0. Kernels are applied without flipping."
)


def gallery_html(shown: Sequence[Shown]) -> str:
    """One figure per kernel. Nothing is loaded from elsewhere: the pictures are in the page."""
    figures = "".join(_figure(one) for one in shown)
    lead = "Each kernel that dojang filter --kernel NAME knows, on one picture."
    content = f'{GRID}<p class="muted">{escape(LEGEND)}</p><div class="kernels">{figures}</div>'
    return page("Kernels for pictures", lead, [(f"{len(shown)} kernels", content)], pictures=True)


def _figure(one: Shown) -> str:
    picture = base64.b64encode(one.png).decode()
    options = ", ".join(f"{name}={value:g}" for name, value in one.options.items())
    asked = f"<code>--kernel {escape(one.spec)}</code>"
    return (
        f'<figure id="{escape(one.name)}">'
        f'<img alt="{escape(f"the picture after {one.spec}: {one.does}")}" src="data:image/png;base64,{picture}">'
        f"<h3>{escape(one.name)}</h3><p>{escape(one.does)}</p>"
        f'<div class="taps">{"".join(taps_svg(m) for m in one.matrices)}</div>'
        f"<p>{asked}</p>"
        f"{f'<p class=muted>options: {escape(options)}</p>' if options else ''}"
        f'<p class="muted">{escape(one.source)}</p></figure>'
    )


def taps_svg(matrix: Matrix, side: float = 120.0) -> str:
    """The taps as squares, coloured by sign and strength; with their numbers where they are few and whole."""
    rows, columns = len(matrix), len(matrix[0])
    cell = side / max(rows, columns)
    most = max(abs(tap) for row in matrix for tap in row) or 1.0
    numbered = max(rows, columns) <= 5 and all(tap == round(tap) for row in matrix for tap in row)
    said = []
    for i, row in enumerate(matrix):
        for j, tap in enumerate(row):
            if tap:
                said.append(
                    f'<rect class="{"plus" if tap > 0 else "minus"}" x="{j * cell:.2f}" y="{i * cell:.2f}" '
                    f'width="{cell:.2f}" height="{cell:.2f}" opacity="{0.08 + 0.82 * abs(tap) / most:.2f}"/>'
                )
            if numbered:
                said.append(f'<text x="{(j + 0.5) * cell:.1f}" y="{(i + 0.5) * cell:.1f}">{tap:g}</text>')
    wide, high = columns * cell, rows * cell
    label = f"{rows} by {columns} taps, from {min(map(min, matrix)):.3g} to {max(map(max, matrix)):.3g}"
    return (
        f'<svg role="img" viewBox="-1 -1 {wide + 2:.1f} {high + 2:.1f}"><title>{label}</title>{"".join(said)}'
        f'<rect class="field" x="0" y="0" width="{wide:.1f}" height="{high:.1f}"/></svg>'
    )
