"""Every network of the zoo end to end: errors against PyTorch in float64.

    python bench/zoo_errors.py [NETWORK...] > bench/results/zoo_errors.txt

Exit 1 when one is beyond the rule: 10 times the error of PyTorch's float32 plus 2⁻²⁰ of the largest score.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from dojang.formats import zoo
from record import head
from zoo_errors import errors


def main(*names: str) -> int:
    """Runs and prints."""
    wrong = 0
    print(head("src/dojang/engine", "src/dojang/native", "src/dojang/zoo", peaks=False))
    print(
        f"{'network':<24} {'dojang':>9} {'PyTorch':>9} {'largest':>9}   "
        f"float32 against PyTorch {torch.__version__} float64"
    )
    for name in names or zoo.names():
        found = errors(name)
        wrong += not found.fine
        verdict = "" if found.fine else "   TOO LARGE"
        print(f"{name:<24} {found.ours:9.2e} {found.plain:9.2e} {found.scale:14.2e}{verdict}", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
