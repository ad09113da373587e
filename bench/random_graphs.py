"""Random networks over all operators against ONNX Runtime and PyTorch, in thousands; failures are shrunk to files.

    python bench/random_graphs.py onnx --count 10000 --out bench/results/random-graphs.txt
    python bench/random_graphs.py modules --seed 1600       # one case again, shrunk to a file in --failures

The networks are those of `tests/random_onnx.py` and `tests/random_modules.py`; the test run has the first 150 of each.
"""

from __future__ import annotations

import argparse
import collections
import sys
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import random_modules
import random_onnx
from dojang.base.errors import DojangError
from dojang.base.writing import replace_text
from record import head

KINDS: dict[str, Any] = {"onnx": random_onnx, "modules": random_modules}


def keep(kind: str, seed: int, said: str, folder: Path) -> Path:
    """The failing network, shrunk, as a file: the model itself, or the steps of the module."""
    folder.mkdir(parents=True, exist_ok=True)
    part = KINDS[kind].shrunk(KINDS[kind].network(seed))
    path = folder / f"{kind}-{seed}.{'onnx' if kind == 'onnx' else 'txt'}"
    if kind == "onnx":
        path.write_bytes(part.SerializeToString())
    else:
        steps = "\n".join(f"{reads} -> {step}" for step, reads in zip(part.steps, part.reads, strict=True))
        replace_text(path, f"input {part.size}\n{steps}\n{said}\n")
    return path


def run(kind: str, seeds: range, folder: Path) -> tuple[collections.Counter[str], list[str]]:
    """How many agree, differ and are refused (by reason), and a line per failure."""
    found: collections.Counter[str] = collections.Counter()
    lines: list[str] = []
    started = time.monotonic()
    for seed in seeds:
        try:
            said = KINDS[kind].disagreement(KINDS[kind].network(seed))
        except DojangError as error:
            found["refused: " + str(error).split(": ", 1)[-1][:90]] += 1
            continue
        found["differ" if said else "agree"] += 1
        if said:
            lines.append(f"{kind} --seed {seed}: {said}; {keep(kind, seed, said, folder)}")
            print(lines[-1], flush=True)
        if seed % 500 == 499:
            print(f"{kind}: {seed + 1 - seeds.start} of {len(seeds)}, {time.monotonic() - started:.0f} s", flush=True)
    return found, lines


def main() -> int:
    """Runs what was asked for; exit code 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=[*KINDS, "both"])
    parser.add_argument("--count", type=int, default=10_000, help="networks of each kind (default 10000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--failures", type=Path, default=Path("out/random-graphs"), help="where failures are put")
    parser.add_argument("--out", type=Path, help="write the result there")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    seeds = range(args.seed, args.seed + 1) if args.seed is not None else range(args.first, args.first + args.count)
    report = [head("src/dojang/engine", "src/dojang/formats", "src/dojang/native", threads=1, peaks=False)]
    wrong = 0
    for kind in KINDS if args.kind == "both" else [args.kind]:
        found, lines = run(kind, seeds, args.failures)
        wrong += len(lines)
        report += [
            f"{kind}, seeds {seeds.start} to {seeds.stop - 1}",
            *(f"{n:8,}  {k}" for k, n in found.most_common()),
        ]
        report += [*lines, ""]
    print("\n".join(report))
    if args.out:
        replace_text(args.out, "\n".join(report))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
