"""A search on the digits with a clock that counts, journalled into a folder; run by the test that kills it.

`python killed.py FOLDER` writes the network found to FOLDER/result.npz.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from digits import TRAIN, accuracy, digits, fitted, random_features
from dojang.arith.cost import count
from dojang.arith.graph import Graph
from dojang.evidence.evidence import Evidence
from dojang.slimming import slim
from dojang.slimming.journal import Journal


def by_macs(graphs: list[Graph]) -> list[list[float]]:
    return [[count(g).total.macs * 1e-6 + len(g.nodes) * 1e-3] for g in graphs]


def tune(graph: Graph, teacher: Graph) -> Graph:
    print("tuning", flush=True)
    return fitted(graph)


def main(folder: Path) -> None:
    journal = Journal(folder / "journal", {"seed": 0}, resume=True)
    found = slim(
        Evidence(random_features(width=8), digits()[0][TRAIN]),
        measure=by_macs,
        tune=tune,
        evaluate=accuracy,
        max_drop=1.0,
        target_macs=0.4,
        journal=journal,
    )
    np.savez(folder / "result.npz", edits=str(found.to_dict()), nodes=str(found.graph.nodes), **found.graph.weights)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
