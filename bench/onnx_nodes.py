"""How many of the ONNX standard's node tests dojang reads, and what becomes of the others.

    python bench/onnx_nodes.py > bench/results/onnx_nodes.txt

The verdicts are those of tests/formats/onnx/test_nodes.py: a case agrees if the NumPy reference and the compiled
engine both give the standard's numbers. "Operators read": dojang has a rule for every operator of the case.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "formats" / "onnx"))
from test_nodes import reason, verdict

from record import head

KINDS = ("agrees", "unknown", "refused", "wrong", "crash")


def main() -> None:
    """Runs all cases and prints the two counts, and the reasons of what is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases are made by NumPy expressions that overflow on purpose
        from onnx.backend.test.loader import load_model_tests

        found = {case.name: verdict(case) for case in load_model_tests(kind="node")}
    measures = ("src/dojang/arith", "src/dojang/engine", "src/dojang/formats/onnx", "src/dojang/native")
    print(head(*measures, peaks=False, extra=("onnx",)))
    print(f"{'cases':<30}{'all':>7}" + "".join(f"{kind:>9}" for kind in KINDS))
    for title, chosen in (
        ("all node tests", list(found.values())),
        ("those whose operators are read", [v for v in found.values() if v[0]]),
    ):
        counts = Counter(kind for _, kind, _ in chosen)
        print(f"{title:<30}{len(chosen):7,}" + "".join(f"{counts[kind]:9,}" for kind in KINDS))
    print("\nunknown: an operator, or a form of one, that dojang does not know; counted as unknown, never as zero")
    print("refused: an error that names the operator and the reason")
    print("\nwhy cases do not agree whose operators are read:")
    reasons = Counter(reason(name) or "-" for name, (read, kind, _) in found.items() if read and kind != "agrees")
    for why, count in reasons.most_common():
        print(f"{count:6}  {why}")


if __name__ == "__main__":
    main()
