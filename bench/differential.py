"""The long run of the differential test: random layers against loops, PyTorch and four other counters.

    python bench/differential.py [LAYERS [SEED]] > bench/results/differential.txt

Prints how often each peer differs and why; exit 1 when something is not explained.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from differential import PEERS, compare
from record import head


def main(layers: int = 20_000, seed: int = 1) -> int:
    """Runs and prints."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    outcome = compare(layers, seed, layers)
    took = time.perf_counter() - start
    print(head("src/dojang/arith", peaks=False, extra=("torchinfo", "fvcore", "ptflops")))
    print(f"{layers:,} random layers, seed {seed}, {took:.0f} s; every peer on every layer")
    print("dojang, the loop nest and PyTorch's shapes agree on all" if not outcome.failures else "UNEXPLAINED:")
    for line in outcome.failures[:20]:
        print(f"  {line}")
    for name in PEERS:
        known = [(what, count) for (peer, what), count in outcome.seen.items() if peer == name]
        print(f"{name}: {'equal on all layers' if not known else f'differs on {sum(c for _, c in known):,}'}")
        for what, count in sorted(known, key=lambda pair: -pair[1]):
            print(f"  {count:6,}  {what}")
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
