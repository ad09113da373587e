"""The long run of the forced algorithms: random layers by every algorithm that takes them, between unmapped pages.

    python bench/forced.py [CASES] [--seed S] [--part 1/4] [--every-pass] [--state FILE]

`tests/forced.py` says what a case is. Prints how often each algorithm ran on each instruction set, and each failure as
the command that repeats it; exit 1 if there is one. With `--state` the run goes on where it was interrupted: the file
is written after every 50 cases. Kernels are compiled as they are written, without passes, which takes an eighth of the
time; `--every-pass` compiles them as users get them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from forced import HOST, Tally, name_of, supervise

ROOT = Path(__file__).parent.parent
EACH = 1_000_000  # numbers of a seed's cases
SAVED = 50  # cases between two writings of the state


def main(words: list[str]) -> int:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=int, nargs="?", default=20_000)
    parser.add_argument("--seed", type=int, default=1, help="cases are numbered from SEED · 1,000,000 on")
    parser.add_argument("--part", default="1/1", help="every N-th case, from the K-th on: K/N")
    parser.add_argument("--every-pass", action="store_true", help="compile by all passes")
    parser.add_argument("--state", type=Path, help="a file that keeps what was done")
    args = parser.parse_args(words)
    part, parts = (int(v) for v in args.part.split("/"))
    first = args.seed * EACH
    todo = range(first + part - 1, first + args.cases, parts)
    head = {"cases": args.cases, "seed": args.seed, "part": args.part, "every_pass": args.every_pass}
    tally, took, start = Tally(), 0.0, time.perf_counter()
    if args.state is not None and args.state.exists():
        old = json.loads(args.state.read_text())
        if old["run"] != head:
            parser.error(f"{args.state} is of another run: {old['run']}")
        tally, took = Tally(old["done"], Counter(old["runs"]), old["wrong"]), old["seconds"]
        todo = range(old["next"], todo.stop, parts)

    def keep(following: int) -> None:
        if args.state is None or (tally.cases % SAVED and following < todo.stop):
            return
        state = {"run": head, "next": following, "done": tally.cases, "runs": tally.runs, "wrong": tally.wrong,
                 "seconds": took + time.perf_counter() - start}  # fmt: skip
        beside = args.state.with_suffix(".part")
        beside.write_text(json.dumps(state))
        os.replace(beside, args.state)

    supervise(todo, tally, not args.every_pass, keep)
    keep(todo.stop)
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    print(f"python bench/forced.py {' '.join(words)}".rstrip())
    print(f"commit {commit.stdout.strip() or 'unknown'}; {HOST.cpu} ({name_of(HOST)}), {HOST.triple}")
    print(f"{tally.cases:,} random layers, {sum(tally.runs.values()):,} runs of an algorithm, each with all arrays at "
          f"the end and at the beginning of memory; {took + time.perf_counter() - start:,.0f} s")  # fmt: skip
    sets = sorted({key.split()[1] for key in tally.runs})
    print(f"{'':12}{''.join(f'{isa:>10}' for isa in sets)}")
    for name in sorted({key.split()[0] for key in tally.runs}):
        counts = [tally.runs[f"{name} {isa}"] for isa in sets]
        print(f"{name:12}{''.join(f'{count:10,}' for count in counts)}")
    print(f"{len(tally.wrong)} wrong")
    for line in tally.wrong:
        print(line)
    return int(bool(tally.wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
