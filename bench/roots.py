"""Filter groups in Network in Network on CIFAR-10: five networks, one recipe, counts, accuracy and time side by side.

    python bench/roots.py --train cifar10-train.zip --test cifar10-test.zip --epochs 5 --train-samples 10000 \\
        --threads 1 --out out/roots

Ioannou et al., "Deep Roots" (CVPR 2017), Table 2: the same network with 2 to 16 filter groups in 2a and half as many in
3a. Training can be stopped at any moment and given again: each network keeps its state in its folder under --out, and
what is finished is not done again. `summary.txt` there has the figures, `correlation.html` the correlation of filters
of adjacent layers before and after grouping, for every network; `correlation.png` shows those of the two layers that
are grouped, 2a (above) and 3a (below), side by side for all networks, filters in their own order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dojang.app.diagnosing import some_inputs
from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.diagnosis import Correlation, Evidence, correlations
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


def pictures(networks: dict[str, Graph], found_in: dict[str, tuple[Correlation, ...]]) -> tuple[str, list[str]]:
    """The page of correlation matrices, and per network and layer how well it would split against chance."""
    sections, text = [], ["part of the squared correlation inside equal groups (in brackets: shuffled, by chance)"]
    for name in networks:
        found = found_in[name]
        sections.append((name, maps([correlation_figure(c) for c in found])))
        for c in found:
            splits = "  ".join(f"{s.groups:>2}: {s.kept:.2f} ({s.chance:.2f})" for s in c.splits)
            text.append(f"{name:20}{c.before + ' / ' + c.after:22}{splits}")
    lead = (
        f"{SAMPLES} training pictures. Each square is the correlation of a filter of one layer (row) with one of the "
        "next (column), its size by brightness; rows and columns are ordered so that structure shows."
    )
    return page("Correlation of filters before and after grouping", lead, sections, pictures=True), text


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
    drawn, scores = pictures(networks, related)
    (args.out / "correlation.html").write_text(drawn, encoding="utf-8")
    (args.out / "correlation.png").write_bytes(side_by_side(related))
    said = [*in_groups(networks, related), "", *scores]
    lines = [heading(args, data), *table(networks, found, timed(networks, args)), "", *said]
    finish(args, "\n".join(lines))


if __name__ == "__main__":
    main()
