"""What every layer uses, as rows of a table: channel directions, part of the input, response to a shift."""

from __future__ import annotations

from dojang.report.results import Diagnosis
from dojang.report.table import number

HEADS = (
    *("layer", "channels", "90 % in", "99 % in", "99.9 % in", "half loses"),
    *("region", "of", "shift error", "effect", "params", "uses"),
)
"""Headings of `layer_rows`; all but the first are numbers."""

LEGEND = (
    "{parts} in: so many directions (principal components) hold this part of the output's variance; a 1×1 bottleneck "
    "of as many channels keeps it. Half loses: the part of the variance lost with half as many channels. Region: size "
    "of the input region with most of the influence on the layer's middle position, measured (of: its whole receptive "
    "field). The input is shifted by {shift} pixels. Shift error: how far the response is from the old one shifted as "
    "well, borders included (0 %: it moves with the input). Effect: how far it is from the old response (0 %: the "
    "layer ignores the shift). Uses: at how many positions a parameter is used, 1 in a dense layer on vectors."
)


def legend(diagnosis: Diagnosis, parts: str = "90 … 99.9 %") -> str:
    """What the columns mean; `parts` names the columns of directions."""
    return LEGEND.format(parts=parts, shift=diagnosis.equivariance[0].shift if diagnosis.equivariance else 0)


def layer_rows(diagnosis: Diagnosis) -> list[list[str]]:
    """One row per layer with any figures, in the order of the network."""
    spectra = {s.layer: s for s in diagnosis.spectra}
    fields = {f.layer: f for f in diagnosis.effective}
    shifted = {e.layer: e for e in diagnosis.equivariance}
    rows: list[list[str]] = []
    for name in dict.fromkeys((*shifted, *spectra, *fields)):
        row = [name, *[""] * (len(HEADS) - 1)]
        if (s := spectra.get(name)) is not None and s.outputs:
            half = s.outputs[len(s.outputs) // 2 - 1] if len(s.outputs) > 1 else 0.0
            row[1:6] = [str(len(s.outputs)), *(str(s.rank(p)) for p in (0.9, 0.99, 0.999)), f"{1 - half:.1%}"]
        if (f := fields.get(name)) is not None:
            row[6:8] = ["×".join(f"{v:.0f}" for v in f.size), "×".join(map(str, f.field))]
        if (e := shifted.get(name)) is not None:
            row[8:] = [
                "" if e.along is None else f"{e.along:.0%}",
                f"{e.still:.0%}",
                number(e.params),
                number(e.places),
            ]
        rows.append(row)
    return rows
