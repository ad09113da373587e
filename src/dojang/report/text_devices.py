"""A network over devices as text: what each device holds and computes, and before which layers they exchange."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dojang.arith.devices import Placement
from dojang.report.svg_devices import placed_layers
from dojang.report.table import PLAIN, WIDTH, Column, Style, names, number, paragraph, short, size, sizes, table

MOST_ROWS = 16
"""The most devices that have a row of their own."""

LAYER_HEADS = ("layer", "op", "output", "params", "MACs", "received", "from")


def devices_text(found: Placement, width: int = WIDTH, style: Style = PLAIN) -> str:
    """The devices one by one, then the layers that compute or exchange; figures of a layer are per device."""
    bound = bool(found.whole.total.unknown)
    heads = [Column("device"), *(Column(title) for title in DEVICE_HEADS[1:])]
    lines = [style.bold(headline(found)), "", table(heads, device_rows(found), width=width, style=style), ""]
    columns = [Column(title, right=title in ("params", "MACs", "received"), shrink=title in ("layer", "from"))
               for title in LAYER_HEADS]  # fmt: skip
    lines += [table(columns, layer_rows(found), width=width, style=style), ""]
    lines += [paragraph(note, width) for note in notes(found)] + [""]
    if bound:
        text = f"Not counted, so the figures are lower bounds: {names(found.whole.total.unknown, 6)}."
        lines += [style.bad(paragraph(text, width)), ""]
    lines.append(style.dim(paragraph(f"Convention: {found.convention}.", width)))
    return "\n".join(lines)


def headline(found: Placement) -> str:
    """What the cut comes to, in one line."""
    each = "each" if len({*found.params}) == len({*found.macs}) == 1 else "at most"
    bound = bool(found.whole.total.unknown)
    return (
        f"{found.network} over {found.devices} device{'s' * (found.devices != 1)}: {each} "
        f"{number(max(found.params), bound)} parameters and {number(max(found.macs), bound)} MACs; "
        f"{size(sum(found.received_bytes))} exchanged"
    )


DEVICE_HEADS = ("device", "params", "MACs", "activations", "peak", "received")


def device_rows(found: Placement) -> list[list[str]]:
    """One row per device and one for the whole network on one; of many devices the least and the most."""
    figures = [
        [number(p), number(m), size(a), size(k), size(r)]
        for p, m, a, k, r in zip(
            found.params, found.macs, found.activation_bytes, found.peak_bytes, found.received_bytes, strict=True
        )
    ]
    rows = [[str(place), *row] for place, row in enumerate(figures)]
    if len(rows) > MOST_ROWS:
        every = (found.params, found.macs, found.activation_bytes, found.peak_bytes, found.received_bytes)
        shows: Sequence[Callable[[int], str]] = (number, number, size, size, size)
        rows = [
            [word, *(show(pick(values)) for show, values in zip(shows, every, strict=True))]
            for word, pick in (("least", min), ("most", max))
        ]
    whole = found.whole
    total = [number(whole.params), number(whole.macs), size(whole.activation_bytes), size(whole.peak_bytes), "-"]
    return [*rows, ["whole", *total]]


def layer_rows(found: Placement) -> list[list[str]]:
    """The layers that have MACs or parameters, or before which activations are exchanged."""
    return [
        [
            layer.name,
            layer.op,
            "?" if layer.shape is None else _reach([layer.out_shape(d) or () for d in range(found.devices)], _shape),
            _reach(layer.params, short) if any(layer.params) else "-",
            _reach(layer.macs, short) if any(layer.macs) else "-",
            _reach(layer.received_bytes, size) if any(layer.received_bytes) else "-",
            ", ".join(layer.received),
        ]
        for layer in placed_layers(found)
    ]


def notes(found: Placement) -> list[str]:
    """Where activations are exchanged, and what every device repeats, in sentences."""
    found_at = [f"{layer.name} ({size(sum(layer.received_bytes))})" for layer in found.exchanges]
    where = f"Exchanged before {names(found_at, 8)}." if found_at else "Nothing is exchanged."
    said = [f"Figures of a layer are those of one device, after ≤ of the one with most. {where}"]
    borders = [layer.name for layer in found.exchanges if layer.op == "lrn"]
    if borders:
        said.append(
            f"{names(borders)} read{'s' * (len(borders) == 1)} channels across the border between devices. Krizhevsky "
            "et al. normalised within each device, which exchanges nothing there and is another function."
        )
    macs, params = sum(found.macs) - found.whole.macs, sum(found.params) - found.whole.params
    if macs or params:
        own = {layer.name: layer.cost for layer in found.whole.layers}
        twice = [
            layer.name
            for layer in found.layers
            if sum(layer.macs) > own[layer.name].macs or sum(layer.params) > own[layer.name].params
        ]
        said.append(
            f"Computed or held by every device: {names(twice, 4)}; beyond the whole network that is {number(params)} "
            f"parameters and {number(macs)} MACs."
        )
    return said


def _shape(shape: tuple[int, ...]) -> str:
    return sizes(shape) if shape else "scalar"


def _reach(values: Sequence[Any], show: Callable[[Any], str]) -> str:
    """One value if all devices have it, else the largest as a bound."""
    low, high = show(min(values)), show(max(values))
    return low if low == high else f"≤ {high}"
