"""The long run of the random convolutions: `dojang.conv` and compiled layers against PyTorch in float64.

    python bench/random_convs.py [PROBLEMS [SEED]]

Prints every problem that is off; exit 1 if there is one. The machine code goes to a folder that is removed.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from random_convs import check, problems


def main(count: int = 2000, seed: int = 1) -> int:
    """Runs and prints."""
    torch.set_num_threads(1)
    start, wrong = time.perf_counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DOJANG_CACHE_DIR"] = folder
        for number, conv in enumerate(problems(count, seed)):
            for line in check(conv, number):
                wrong += 1
                print(line, flush=True)
            if number % 100 == 99:
                print(f"{number + 1} of {count}, {wrong} off", file=sys.stderr, flush=True)
    took = time.perf_counter() - start
    print(f"{count:,} random convolutions, seed {seed}, {took:.0f} s: {wrong} off")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(*(int(a) for a in sys.argv[1:])))
