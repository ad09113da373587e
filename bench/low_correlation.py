"""The finding `low-correlation` on networks whose groups of filters are known: untrained, planted, grouped already.

    python bench/low_correlation.py

An untrained network has no groups: at most 5 % of 200 may be flagged, in any of their layers. Planted groups (2, 4 and
8, in random orders, with noise) must be found with their number in at least 95 %. A layer that is grouped already must
not be called groupable. Networks and samples are drawn by the rules in tests/planted_groups.py. Ends with 1 if a target
is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from record import head

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from dojang.diagnosis.grouping import groupings, low_correlation
from dojang.evidence.evidence import Evidence
from planted_groups import Drawn, grouped_already, planted, untrained  # pyright: ignore[reportMissingImports]

MEASURES = ("src/dojang/diagnosis/grouping.py", "src/dojang/evidence", "tests/planted_groups.py")
MOST_FLAGGED, LEAST_FOUND = 0.05, 0.95


def told(drawn: Drawn) -> dict[str, int]:
    """Numbers of groups by layer, as the finding has them."""
    found = low_correlation(groupings(Evidence(drawn.graph, drawn.x)))
    print(".", end="", file=sys.stderr, flush=True)
    return {finding.layer: finding.details["groups"] for finding in found}


def main() -> int:
    """Draws, judges, prints; the number of the targets that were missed, at most 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", type=int, default=200, help="untrained networks")
    parser.add_argument("--planted", type=int, default=100, help="networks of each number of groups")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    args = parser.parse_args()
    seeds = range(args.start, args.start + args.networks)
    some = range(args.start, args.start + args.planted)
    lines, missed, began = list[str](), 0, time.perf_counter()

    wrong = [(drawn.said, found) for seed in seeds if (found := told(drawn := untrained(seed)))]
    rate = len(wrong) / len(seeds)
    missed += rate > MOST_FLAGGED
    lines.append(
        f"untrained: {len(wrong)} of {len(seeds)} networks flagged, {rate:.1%} (target: at most {MOST_FLAGGED:.0%})"
    )
    lines += [f"  {said}: {found}" for said, found in wrong]

    for groups in (2, 4, 8):
        drawn = [planted(seed, groups) for seed in some]
        answers = [told(one) for one in drawn]
        right = sum(found.get("b") == groups for found in answers)
        others = sum(any(layer != "b" for layer in found) for found in answers)
        rate = right / len(drawn)
        missed += rate < LEAST_FOUND
        counts = Counter(str(found.get("b", "none")) for found in answers)
        lines.append(
            f"planted, {groups} groups: {right} of {len(drawn)} found with their number, {rate:.1%} (target: at least "
            f"{LEAST_FOUND:.0%}); told: {dict(sorted(counts.items()))}; another layer flagged in {others}"
        )
        lines += [f"  {one.said}: {f}" for one, f in zip(drawn, answers, strict=True) if f.get("b") != groups]

    for groups in (2, 4, 8):
        answers = [told(grouped_already(seed, groups)) for seed in some[: max(1, len(some) // 4)]]
        flagged = sum("b" in found for found in answers)
        missed += flagged > 0
        lines.append(f"grouped already, {groups} groups: {flagged} of {len(answers)} told to be groupable (target: 0)")

    print(head(*MEASURES, peaks=False) + "\n" + "\n".join(lines))
    print(f"\n{time.perf_counter() - began:.0f} s")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
