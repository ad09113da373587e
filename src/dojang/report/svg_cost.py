"""A chart of what a network costs by type of layer."""

from __future__ import annotations

from collections.abc import Sequence

from dojang.arith.cost import Count
from dojang.arith.formulas import symbols_of
from dojang.arith.layer import Layer
from dojang.report.markup import escape
from dojang.report.svg import LETTER, chart_head, letters_wide
from dojang.report.table import percent

KINDS = (
    ("convolutions", ("conv", "conv_transpose", "deform_conv", "dynamic_conv"), "conv"),
    ("dense layers", ("dense",), "dense"),
    ("matrix products", ("matmul", "einsum"), "good"),
    ("recurrent layers", ("recurrent",), "bad"),
)
"""Types of layers with their own colour; all others together are grey."""


def colour_of(layers: Sequence[Layer]) -> str:
    """The colour of what costs most among some layers: the same for a type of layer in every chart."""
    sums: dict[str, int] = {}
    for layer in layers:
        colour = next((colour for _, ops, colour in KINDS if layer.op in ops), "faint")
        sums[colour] = sums.get(colour, 0) + layer.cost.macs + layer.cost.params
    return max(sums, key=lambda colour: sums[colour], default="faint")


def share_chart(count: Count, width: int = 720) -> str:
    """Two bars, parameters and MACs, each divided by type of layer."""
    if symbols_of(count):
        return ""
    groups = _groups(count)
    totals = [sum(p for _, _, p, _ in groups), sum(m for _, _, _, m in groups)]
    if not any(totals):
        return ""
    left, top, row, gap = 92.0, 26.0, 34.0, 26.0
    wide = width - left
    said: list[str] = []
    parts: list[str] = []
    for number, (name, total) in enumerate(zip(("parameters", "MACs"), totals, strict=True)):
        y, x = top + number * (row + gap), left
        small: list[tuple[str, str]] = []
        parts.append(f'<text class="label" x="{left - 10}" y="{y + row / 2 + 5}" text-anchor="end">{name}</text>')
        for kind, colour, params, macs in groups:
            value = (params, macs)[number]
            long = wide * value / total if total else 0.0
            if not long:
                continue
            share = value / total
            text = "<0.1 %" if share < 0.0005 else f"{percent(share, 1 if share < 0.995 else 0)}"
            said.append(f"{name} in {kind}: {text}")
            parts.append(
                f'<rect class="{colour}" x="{x:.1f}" y="{y}" width="{max(long - 1, 0.5):.1f}" height="{row}"/>'
            )
            if long <= LETTER * len(text) + 12:
                small.append((colour, f"{kind} {text}"))
            else:
                parts.append(
                    f'<text class="inside" x="{x + long / 2:.1f}" y="{y + row / 2 + 5}" '
                    f'text-anchor="middle">{escape(text)}</text>'
                )
            x += long
        end = float(width)
        for colour, text in reversed(small):  # shares too small for a text inside stand below the bar, at its end
            end -= letters_wide(text)
            parts.append(f'<text class="label" x="{end:.1f}" y="{y + row + 14}">{escape(text)}</text>')
            parts.append(f'<rect class="{colour}" x="{end - 15:.1f}" y="{y + row + 4}" width="11" height="11" rx="2"/>')
            end -= 30
    x = left
    for kind, colour, _, _ in groups:
        parts.append(f'<rect class="{colour}" x="{x:.1f}" y="4" width="11" height="11" rx="2"/>')
        parts.append(f'<text class="label" x="{x + 17:.1f}" y="14">{escape(kind)}</text>')
        x += 34 + LETTER * len(kind)
    height = top + 2 * row + 2 * gap
    title = f"Shares of parameters and MACs of {count.network} by type of layer"
    return "".join([chart_head(title, "; ".join(said), width, height), *parts, "</svg>"])


def _groups(count: Count) -> list[tuple[str, str, int, int]]:
    """(type, colour, parameters, MACs) of the types that have any."""
    found = [
        (kind, colour, sum(x.cost.params for x in count.layers if x.op in ops),
         sum(x.cost.macs for x in count.layers if x.op in ops))
        for kind, ops, colour in KINDS
    ]  # fmt: skip
    named = {op for _, ops, _ in KINDS for op in ops}
    rest = [layer for layer in count.layers if layer.op not in named]
    found.append(("others", "faint", sum(x.cost.params for x in rest), sum(x.cost.macs for x in rest)))
    return [group for group in found if group[2] or group[3]]
