"""A drawing of a network over devices: a path for each device from top to bottom, and where the paths cross."""

from __future__ import annotations

from collections.abc import Sequence

from dojang.arith.devices import PlacedLayer, Placement
from dojang.report.markup import escape
from dojang.report.svg import LETTER, chart_head
from dojang.report.svg_cost import KINDS
from dojang.report.table import clip, short, size, sizes

MOST_PATHS = 4
"""The most devices whose paths are drawn; the boxes of more have no space for their text."""

ROW, BOX = 64.0, 34.0
"""Pixels from one layer to the next, and the height of its box."""


def placed_layers(found: Placement) -> list[PlacedLayer]:
    """The layers that have MACs or parameters, or before which activations are exchanged."""
    return [x for x in found.layers if any(x.macs) or any(x.received_bytes) or (any(x.params) and x.op != "batchnorm")]


def paths_chart(found: Placement, width: int = 720) -> str:
    """Each device as a column of boxes with the shape and the parameters that it holds; where a device reads what
    another computed, the columns are joined crosswise, with the bytes. "" for one device, and for more than
    `MOST_PATHS`.
    """
    layers = placed_layers(found)
    if not 1 < found.devices <= MOST_PATHS or not layers:
        return ""
    left = min(150.0, 20 + LETTER * max(len(layer.name) for layer in layers))
    each = (width - left) / found.devices
    middles = [left + each * (device + 0.5) for device in range(found.devices)]
    wide = min(each - 24, 190.0)
    heads = [
        f'<text class="head" x="{x:.1f}" y="16" text-anchor="middle">device {device}</text>'
        for device, x in enumerate(middles)
    ]
    parts = [chart_head(f"{found.network} over {found.devices} devices", _said(layers), width, 34 + ROW * len(layers))]
    parts += heads
    for place, layer in enumerate(layers):
        top = 30 + ROW * place
        if place:
            parts += _joined(layer, middles, top - (ROW - BOX), top)
        colour = next((colour for _, ops, colour in KINDS if layer.op in ops), "")
        box, text = (colour, "inside") if colour else ("image", "value")
        name = clip(layer.name, int((left - 14) / LETTER))
        y = top + BOX / 2 + 4
        parts.append(f'<text class="label" x="{left - 10:.1f}" y="{y}" text-anchor="end">{escape(name)}</text>')
        for device, x in enumerate(middles):
            parts.append(
                f'<rect class="{box}" x="{x - wide / 2:.1f}" y="{top}" width="{wide:.1f}" height="{BOX}" rx="4"/>'
                f'<text class="{text}" x="{x:.1f}" y="{y}" text-anchor="middle">{escape(_holds(layer, device))}</text>'
            )
    return "".join([*parts, "</svg>"])


def _joined(layer: PlacedLayer, middles: Sequence[float], above: float, below: float) -> list[str]:
    """Lines from the boxes above to the boxes of a layer: straight down, and across where a device receives."""
    crossing = any(layer.received_bytes)
    lines = [(x, x) for x in middles]
    lines += [(a, b) for b, got in zip(middles, layer.received_bytes, strict=True) if got for a in middles if a != b]
    drawn = [
        f'<line class="{"path" if a == b else "path cross"}" x1="{a:.1f}" y1="{above}" x2="{b:.1f}" y2="{below}"/>'
        for a, b in lines
    ]
    if crossing:
        text, y = f"{size(sum(layer.received_bytes))} exchanged", (above + below) / 2 + 4
        drawn.append(f'<text class="value" x="{middles[-1] + 14:.1f}" y="{y}">{escape(text)}</text>')
    return drawn


def _holds(layer: PlacedLayer, device: int) -> str:
    """What a device computes of a layer, and how many parameters it holds for it."""
    shape = layer.out_shape(device)
    held = f" · {short(layer.params[device])}" if layer.params[device] else ""
    return f"{sizes(shape) if shape else '?'}{held}"


def _said(layers: Sequence[PlacedLayer]) -> str:
    """The drawing in words, for screen readers."""
    return "; ".join(
        f"{layer.name}: "
        + ", ".join(_holds(layer, device) for device in range(len(layer.params)))
        + (f", {size(sum(layer.received_bytes))} exchanged before it" if any(layer.received_bytes) else "")
        for layer in layers
    )
