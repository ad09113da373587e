"""How many of the ONNX standard's node tests agree as they are, by operator, and what becomes of the others.

    python bench/onnx_nodes.py > bench/results/onnx_nodes.txt

The verdicts are those of tests/formats/onnx/test_nodes.py: a case agrees if the NumPy reference and the compiled engine
both give the standard's numbers, shapes and types. Nothing is rewritten: weights that are inputs stay inputs.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "formats" / "onnx"))
from test_nodes import all_verdicts, reason

from record import head

KINDS = ("agrees", "unknown", "refused", "wrong", "crash")


def main() -> None:
    """Runs all cases and prints the counts, the reasons of what does not agree, and the cases by operator."""
    found = all_verdicts()
    measures = ("src/dojang/arith", "src/dojang/engine", "src/dojang/formats/onnx", "src/dojang/native")
    print(head(*measures, peaks=False, extra=("onnx",)))
    print(f"{'cases':<30}{'all':>7}" + "".join(f"{kind:>9}" for kind in KINDS))
    counts = Counter(kind for kind, *_ in found.values())
    print(f"{'all node tests, as they are':<30}{len(found):7,}" + "".join(f"{counts[kind]:9,}" for kind in KINDS))
    print("\nunknown: an operator, or a form of one, that dojang does not know; counted as unknown, never as zero")
    print("refused: an error that names the operator and the reason")
    print("\nwhy cases do not agree:")
    reasons = Counter(reason(name) or "-" for name, (kind, *_) in found.items() if kind != "agrees")
    for why, count in reasons.most_common():
        print(f"{count:6}  {why}")
    print("\ncases that agree, of those with one operator, by operator:")
    single: dict[str, list[str]] = defaultdict(list)
    for kind, _, operators in found.values():
        if len(operators) == 1:
            single[operators[0]].append(kind)
    rows = [f"{op} {kinds.count('agrees')}/{len(kinds)}" for op, kinds in sorted(single.items())]
    whole = sum(all(kind == "agrees" for kind in kinds) for kinds in single.values())
    print(f"  {whole} of {len(single)} operators with all cases\n")
    line = " "
    for row in rows:
        if len(line) + len(row) > 118:
            print(line)
            line = " "
        line += f" {row},"
    print(line.rstrip(","))


if __name__ == "__main__":
    main()
