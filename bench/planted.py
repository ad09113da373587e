"""Waste planted into random networks, and what `dojang diagnose` tells of it: found, missed, false alarms, by kind.

    python bench/planted.py --processes 2 > bench/results/planted.txt
    python bench/planted.py --only duplicate --count 5 --show       # one kind, with what was missed and what was told

Each kind is planted in 50 random networks (`tests/planted_kinds.py`), over all architectures that have a place for it
(`tests/planted_networks.py`). Every plant is verified in PyTorch in float64 before dojang sees it, and every finding is
judged by the same means (`tests/planted_judge.py`), so that natural waste is no false alarm.
"""

from __future__ import annotations

import argparse
import collections
import copy
import multiprocessing
import os
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import dojang
import planted_rare
from dojang import diagnosis
from dojang.base.errors import DojangError
from planted_draws import TOGETHER, Job, drawn
from planted_judge import ACCEPTED, NOT_LOOKED_FOR, found, true
from planted_kinds import ALONE, CHANNELS, PLANTERS, TRAPS
from planted_networks import ARCHITECTURES, samples
from planted_truth import Plant
from record import head

MEASURES = (
    "src/dojang/evidence", "src/dojang/diagnosis", "bench/planted.py",
    *(f"tests/planted{part}.py" for part in ("_draws", "_judge", "_kinds", "_networks", "_rare", "_truth")),
)  # fmt: skip

FINDINGS_ONLY = "PLANTED_FINDINGS_ONLY"
"""Set for the processes where the layers are not to be timed."""


@dataclass
class Seen:
    """What came of one network: plants that were found or missed, findings that were true, false or not judged."""

    job: Job
    found: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    told: collections.Counter[str] = field(default_factory=collections.Counter)
    false: collections.Counter[str] = field(default_factory=collections.Counter)
    unjudged: collections.Counter[str] = field(default_factory=collections.Counter)
    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Refused:
    """An error in place of findings, as a finding."""

    evidence: str
    layer: str
    kind: str = "not-finite"
    channels: tuple[int, ...] = ()
    proved: bool = False
    value: float = 0.0


def jobs(count: int, only: str | None = None) -> list[Job]:
    """`count` tries for each kind; plants in channels are drawn together, a few at a time."""
    made: list[Job] = []
    for number in range(count):
        kinds = [k for k in CHANNELS if only in (None, k)]
        np.random.default_rng([number, 3]).shuffle(kinds)
        made += [Job(tuple(kinds[i : i + TOGETHER]), number) for i in range(0, len(kinds), TOGETHER)]
        made += [Job((k,), number) for k in PLANTERS if k not in CHANNELS and only in (None, k)]
    return made


def diagnosed(net: Any, x: np.ndarray, whole: bool) -> list[Any]:
    """What dojang tells, an error as a finding at the layer that it names."""
    module = copy.deepcopy(net).float()
    try:
        if not whole:
            graph = dojang.load(module, input_size=net.size)
            return list(diagnosis.diagnose(diagnosis.Evidence(graph, x)))
        return list(dojang.diagnose(module, x, input_size=net.size).findings)
    except DojangError as error:
        layer = next((n for n, _ in net.named_modules() if n and f"{n}" in str(error)), "")
        named = [n for n, _ in net.named_modules() if n and n in str(error)]
        return [Refused(str(error), max(named, key=len, default=layer))]


def look(job: Job) -> list[Seen]:
    """The networks of one job."""
    torch.set_num_threads(1)
    return [judged(*one) for one in drawn(job)]


def judged(job: Job, net: Any, x: np.ndarray, plants: list[Plant]) -> Seen:
    """What dojang tells of one network, held against the truth."""
    seen = Seen(job)
    try:
        findings = diagnosed(net, x, FINDINGS_ONLY not in os.environ or any(k in ALONE for k in job.kinds))
        for p in plants:
            if p.kind in TRAPS:
                continue
            hit = found(findings, p)
            (seen.found if hit else seen.missed).append(p.kind)
            if not hit:
                told = [(f.layer, f.kind, f.channels) for f in findings if f.layer in p.names]
                seen.lines.append(f"missed: {_where(job)} {p.kind} at {p.layer} {p.channels}; told there: {told}")
        fresh = samples(net.size, job.seed + 1_000_000)
        for f in findings:
            if isinstance(f, Refused):
                right: bool | None = any(p.kind.endswith("not finite") for p in plants)
            else:
                right = true(net, x, fresh, f, plants)
            if right is None:
                seen.unjudged[f.kind] += 1
                continue
            seen.told[f.kind] += 1
            if not right:
                seen.false[f.kind] += 1
                seen.lines.append(
                    f"false: {_where(job)} {job.kinds}: {f.kind} at {f.layer} {f.channels[:8]}: {f.evidence}"
                )
    except Exception:
        seen.missed += [k for k in job.kinds if k not in TRAPS and k not in seen.found + seen.missed]
        seen.lines.append(f"error: {_where(job)} {job.kinds}: {traceback.format_exc()[-600:]}")
    return seen


def _where(job: Job) -> str:
    return f"{job.architecture}/{job.seed}/{job.width}"


def report(all_seen: list[Seen]) -> str:
    """The tables."""
    hits, misses = (collections.Counter(k for s in all_seen for k in getattr(s, what)) for what in ("found", "missed"))
    kinds = [k for k in PLANTERS if k not in TRAPS and hits[k] + misses[k]]
    lines = [f"{'planted':32}{'networks':>10}{'found':>8}{'missed':>8}{'found %':>9}  told as"]
    for k in kinds:
        total = hits[k] + misses[k]
        lines.append(f"{k:32}{total:10}{hits[k]:8}{misses[k]:8}{100 * hits[k] / total:9.1f}  {', '.join(ACCEPTED[k])}")
    told, false, open_ = (
        sum((getattr(s, what) for s in all_seen), collections.Counter[str]()) for what in ("told", "false", "unjudged")
    )
    lines += ["", f"{'finding':32}{'judged':>10}{'false':>8}{'false %':>9}{'not judged':>12}"]
    for k in sorted({*told, *open_}):
        share = f"{100 * false[k] / told[k]:9.1f}" if told[k] else f"{'-':>9}"
        lines.append(f"{k:32}{told[k]:10}{false[k]:8}{share}{open_[k]:12}")
    by_arch = collections.Counter(s.job.architecture for s in all_seen)
    lines += ["", "networks: " + ", ".join(f"{n} {by_arch[n]}" for n in ARCHITECTURES if by_arch[n])]
    traps = collections.Counter(k for s in all_seen for k in s.job.kinds if k in TRAPS)
    lines += [
        "without waste, or with what only looks like it: "
        + ", ".join(f"{k.removeprefix('trap: ')} {n}" for k, n in traps.items())
    ]
    lines += ["", "Not looked for, so nothing of it is planted:"]
    lines += [f"  {what}: {where}" for what, where in NOT_LOOKED_FOR]
    return "\n".join(lines)


FOUND, FALSE, LISTS = 0.95, 0.02, 0.05
"""Targets: the least share of each kind that is found, the largest of each kind of finding that is false, and that of
lists that hold a wrong statement."""


def shortfalls(all_seen: list[Seen]) -> list[str]:
    """Targets that are missed by kind, and networks on which something failed, a line each."""
    hits, misses = (collections.Counter(k for s in all_seen for k in getattr(s, what)) for what in ("found", "missed"))
    told, false = (sum((getattr(s, what) for s in all_seen), collections.Counter[str]()) for what in ("told", "false"))
    lines = [f"{k}: {hits[k]} of {hits[k] + n} found" for k, n in misses.items() if hits[k] < FOUND * (hits[k] + n)]
    lines += [f"{k}: {n} of {told[k]} findings are false" for k, n in false.items() if n > FALSE * told[k]]
    return lines + [line for s in all_seen for line in s.lines if line.startswith("error: ")]


def main() -> int:
    """Prints the head and the tables; exit code 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50, help="networks for each kind (default 50)")
    parser.add_argument("--only", choices=list(PLANTERS), help="this kind only")
    parser.add_argument("--processes", type=int, default=1, help="networks at once (default 1)")
    parser.add_argument("--show", action="store_true", help="a line on stderr for everything missed or false")
    parser.add_argument(
        "--findings-only",
        action="store_true",
        help="without timing and trying out, where that finds nothing",
    )
    parser.add_argument("--lists", type=int, default=200, help="lists of findings about rare channels (default 200)")
    args = parser.parse_args()
    if args.findings_only:
        os.environ[FINDINGS_ONLY] = "1"
    torch.set_num_threads(1)
    started = time.monotonic()
    todo = jobs(args.count, args.only)
    all_seen: list[Seen] = []
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        for number, some in enumerate(pool.imap_unordered(look, todo), 1):
            all_seen += some
            lines = [line for seen in some for line in seen.lines if args.show]
            if lines:
                print("\n".join(lines), file=sys.stderr, flush=True)
            if number % 25 == 0:
                print(f"{number} of {len(todo)}, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    print(head(*MEASURES, peaks=False))
    print(report(all_seen))
    text, share = rare_lists(args.lists)
    print("\n" + text)
    missed = shortfalls(all_seen)
    missed += [f"lists with a wrong statement: {share:.1%}"] if share > LISTS else []
    targets = f"at least {FOUND:.0%} of each kind found, at most {FALSE:.0%} of each kind of finding false"
    print(f"\nTargets: {targets}, at most {LISTS:.0%} of lists wrong")
    print("\n".join(f"  missed: {line}" for line in missed) or "  all met")
    return 1 if missed else 0


def rare_lists(count: int, sizes: tuple[int, ...] = (128, 512)) -> tuple[str, float]:
    """How many of `count` lists of findings hold a statement about the samples that is not true of all inputs, as text
    and as a share.
    """
    bad = said = entries = 0
    for seed in range(count):
        net, x, chances = planted_rare.drawn(seed, sizes[seed % len(sizes)])
        graph = dojang.load(net, input_size=x.shape[1:])
        wrong, stated = planted_rare.wrong(diagnosis.diagnose(diagnosis.Evidence(graph, x)), chances)
        bad, said, entries = bad + bool(wrong), said + stated, entries + len(wrong)
    numbers = " and ".join(str(n) for n in sizes)
    text = (
        f"Confidence over the list: {count} networks whose channels fire, move or part on 0.2/N to 30/N of the inputs, "
        f"N = {numbers} samples.\n{bad} lists ({bad / max(1, count):.1%}) hold a wrong statement; {entries} of {said} "
        "statements are wrong. At 95 % confidence over the list at most 5 % of lists may."
    )
    return text, bad / max(1, count)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
