"""A search on the digits with a clock that counts, journalled into a folder; run by the test that kills it.

`python killed.py FOLDER` writes the network found to FOLDER/result.npz.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from digits import random_features, slimmed, tune
from dojang.arith.graph import Graph
from dojang.slimming.journal import Journal


def heard(graph: Graph, teacher: Graph) -> Graph:
    """The tuning of the digits; the test that kills this process waits for the line."""
    print("tuning", flush=True)
    return tune(graph, teacher)


def main(folder: Path) -> None:
    journal = Journal(folder / "journal", {"seed": 0}, resume=True)
    found = slimmed(random_features(width=8), tune=heard, max_drop=1.0, target_macs=0.4, journal=journal)
    np.savez(folder / "result.npz", edits=str(found.to_dict()), nodes=str(found.graph.nodes), **found.graph.weights)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
