"""Filter groups in Network in Network on CIFAR-10: five networks, one recipe, counts, accuracy and time side by side.

    python bench/roots.py --train cifar10-train.zip --test cifar10-test.zip --epochs 5 --train-samples 10000 \\
        --threads 1 --out out/roots

Ioannou et al., "Deep Roots" (CVPR 2017), Table 2: the same network with 2 to 16 filter groups in 2a and half as many in
3a. Training can be stopped at any moment and given again: each network keeps its state in its folder under --out, and
what is finished is not done again. `summary.txt` there has the figures, `correlation.html` the correlation of filters
of adjacent layers before and after grouping, for every network; `correlation.png` shows those of the two layers that
are grouped, 2a (above) and 3a (below), side by side for all networks, filters in their own order. `before-after.svg`
fades between the network without groups and the one with most.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import numpy as np

from dojang.app.diagnosing import some_inputs
from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.diagnosis import Correlation, Evidence, correlations
from dojang.diagnosis.grouping import groupings, low_correlation
from dojang.formats import zoo
from dojang.report.heat import heat_map, maps
from dojang.report.html_slim import correlation_figure
from dojang.report.page import page
from experiment import begin, finish, flags, heading, timed, trained

PRINTED = {
    "nin-cifar10": (222.5, 967.0, 92.11),
    "nin-cifar10-root2": (163.5, 736.6, 92.09),
    "nin-cifar10-root4": (123.4, 455.5, 92.02),
    "nin-cifar10-root8": (103.3, 315.0, 92.15),
    "nin-cifar10-root16": (93.3, 244.7, 91.67),
}
"""Millions of MACs, thousands of parameters (convolutions with biases), accuracy in percent, as the paper has them."""

SAMPLES = 256

GROUPED = ("2a.conv", "3a.conv")
"""The layers that the paper gives groups."""

TOP, LEVELS, GAP = 0.5, 31, 6
"""Of the picture: the correlation that is drawn lightest, steps of lightness, pixels between matrices."""


def counted(graph: Graph) -> tuple[int, int]:
    """(MACs, parameters) without batch norms, which the paper leaves out."""
    rows = [row for row in count(graph).layers if row.op == "conv"]
    return sum(row.cost.macs for row in rows), sum(row.cost.params for row in rows)


def table(networks: dict[str, Graph], found: dict[str, dict[str, Any]], times: dict[str, Any]) -> list[str]:
    """One line per network: counted and printed, accuracies, time."""
    head = f"{'network':20}{'MACs (M)':>10}{'printed':>9}{'params (k)':>12}{'printed':>9}"
    head += f"{'train %':>9}{'test %':>8}{'gap':>7}{'paper %':>9}{'least':>8}{'median':>9}{'iqr':>8}"
    text = [head + f"{'time':>7}{'MACs':>7}"]
    first = next(iter(networks))
    whole = counted(networks[first])[0]
    for name, graph in networks.items():
        macs, params = counted(graph)
        printed = PRINTED[name]
        run, (least, middle, iqr) = found[name], times[name]
        text.append(
            f"{name:20}{macs / 1e6:>10.1f}{printed[0]:>9.1f}{params / 1e3:>12.1f}{printed[1]:>9.1f}"
            f"{100 * run['train_accuracy']:>9.2f}{100 * run['test_accuracy']:>8.2f}{100 * run['gap']:>7.2f}"
            f"{printed[2]:>9.2f}{least:>8.3f}{middle:>9.3f}{iqr:>8.3f}"
            f"{least / times[first][0]:>7.2f}{macs / whole:>7.2f}"
        )
    text += [
        "",
        "time, MACs: relative to the network without groups (time: least). Printed, paper: Ioannou et al., Table 2,",
    ]
    text.append("trained there for 200,000 iterations on the lossless pictures.")
    slips = [name for name in networks if not agrees(networks[name], name)]
    text.append(f"Counts agree with the paper's: {'all' if not slips else 'not ' + ', '.join(slips)}.")
    return text


def agrees(graph: Graph, name: str) -> bool:
    """Whether MACs and parameters, rounded as printed, are the paper's."""
    macs, params = counted(graph)
    return (round(macs / 1e6, 1), round(params / 1e3, 1)) == PRINTED[name][:2]


def inside(matrix: np.ndarray, groups: int) -> float:
    """Part of the squared correlation that is inside `groups` equal groups of rows and columns as they stand."""
    rows, columns = (np.arange(size) * groups // size for size in matrix.shape)
    energy = matrix**2
    return float(energy[rows[:, None] == columns].sum() / energy.sum())


def in_groups(networks: dict[str, Graph], found: dict[str, tuple[Correlation, ...]]) -> list[str]:
    """For each grouped layer the correlation inside its groups, and what the network without groups has there."""
    text = ["part of the squared correlation of a grouped layer with the one before that is inside its groups"]
    text.append(f"{'network':20}{'layer':>8}{'groups':>8}{'inside':>8}{'without groups':>16}{'even':>7}")
    first = next(iter(networks))
    plain = {c.after: c.matrix for c in found[first]}
    for name, graph in networks.items():
        for c in found[name]:
            groups = graph[c.after].attrs["groups"]
            if groups > 1 and first == "nin-cifar10":
                before = inside(plain[c.after], groups)
                text.append(
                    f"{name:20}{c.after.split('.')[0]:>8}{groups:>8}{inside(c.matrix, groups):>8.2f}"
                    f"{before:>16.2f}{1 / groups:>7.2f}"
                )
    return text


def side_by_side(found: dict[str, tuple[Correlation, ...]]) -> bytes:
    """A PNG: the matrices of 2a above those of 3a, one column per network, |r| from dark (0) to light (TOP or more)."""
    rows = []
    for layer in GROUPED:
        matrices = [next(c.matrix for c in own if c.after == layer) for own in found.values()]
        gap = np.full((matrices[0].shape[0], GAP), TOP)
        rows.append(np.hstack([part for matrix in matrices for part in (matrix, gap)][:-1]))
    whole = np.vstack([rows[0], np.full((GAP, rows[0].shape[1]), TOP), rows[1]])
    return heat_map(np.round(np.abs(whole) * LEVELS / TOP).clip(0, LEVELS) * TOP / LEVELS, TOP)


def pictures(found_in: dict[str, tuple[Correlation, ...]]) -> str:
    """The page of correlation matrices."""
    sections = [(name, maps([correlation_figure(c) for c in found])) for name, found in found_in.items()]
    lead = (
        f"{SAMPLES} training pictures. Each square is the correlation of a filter of one layer (row) with one of the "
        "next (column), its size by brightness; rows and columns are ordered so that structure shows."
    )
    return page("Correlation of filters before and after grouping", lead, sections, pictures=True)


def measured_groups(networks: dict[str, Graph], x: np.ndarray) -> list[str]:
    """What every convolution without groups loses if it is split, by the finding `low-correlation`."""
    text = [f"low correlation, measured on {len(x)} training pictures, half to fit and half to judge:"]
    for name, graph in networks.items():
        found = groupings(Evidence(graph, x))
        told = [f"{f.layer}: {f.evidence}" for f in low_correlation(found)]
        text.append(f"{name:20}{len(found.judged)} convolutions judged, {len(told)} found to split into groups")
        text += [f"    {line}" for line in told]
        text += [f"    {one.layer} is not judged: {one.reason}" for one in found.not_judged()]
    return text


def before_after(found: dict[str, tuple[Correlation, ...]], epochs: int) -> str:
    """An SVG that fades from the first network (no groups) to the last (most groups) and back, 2a beside 3a."""
    names = list(found)
    steps = [(names[0], "before"), (names[-1], "after")]
    side, gap, top = 300, 40, 56
    width, height = 2 * side + 3 * gap, side + top + 50
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" font-family="sans-serif" font-size="15">',
        "<title>Correlation of filters before and after grouping</title>",
        f"<desc>{names[0]}, then {names[-1]}, both after {epochs} epochs</desc>",
        "<style>.after{animation:fade 6s infinite alternate}"
        "@keyframes fade{0%,30%{opacity:0}70%,100%{opacity:1}}"
        "@media (prefers-reduced-motion:reduce){.after{animation:none}}</style>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for name, state in steps:
        parts.append(f'<g class="{state}"><rect width="{width}" height="{height}" fill="white"/>')
        parts.append(f'<text x="{gap}" y="26">{state} grouping: {name}, {epochs} epochs</text>')
        for i, layer in enumerate(GROUPED):
            c = next(c for c in found[name] if c.after == layer)
            picture = b64encode(heat_map(np.abs(c.matrix), TOP)).decode()
            x = gap + i * (side + gap)
            parts.append(
                f'<image x="{x}" y="{top}" width="{side}" height="{side}" preserveAspectRatio="none" '
                f'style="image-rendering:pixelated" href="data:image/png;base64,{picture}"/>'
            )
            parts.append(f'<text x="{x}" y="{top + side + 24}">{c.before} with {c.after}, |r| 0 to {TOP}</text>')
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """Trains what is missing, counts, times, draws."""
    parser = flags(__doc__, None, 5, "out/roots")
    parser.add_argument("--networks", nargs="+", choices=PRINTED, default=list(PRINTED))
    args = parser.parse_args()
    plain = {name: zoo.load(name) for name in args.networks}
    data = begin(args, next(iter(plain.values())))
    found, networks = dict[str, dict[str, Any]](), dict[str, Graph]()
    for name, graph in plain.items():
        networks[name], found[name] = trained(name, graph, data, args)
    x = some_inputs(data, SAMPLES, args.seed)
    related = {name: correlations(Evidence(graph, x)) for name, graph in networks.items()}
    (args.out / "correlation.html").write_text(pictures(related), encoding="utf-8")
    (args.out / "before-after.svg").write_text(before_after(related, args.epochs), encoding="utf-8")
    (args.out / "correlation.png").write_bytes(side_by_side(related))
    said = [*in_groups(networks, related), "", *measured_groups(networks, x)]
    lines = [heading(args, data), *table(networks, found, timed(networks, args)), "", *said]
    finish(args, "\n".join(lines))


if __name__ == "__main__":
    main()
