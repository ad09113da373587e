"""How many invented tables get an explanation from `dojang check`, and whether known figures get theirs.

    python bench/check_stories.py [TABLES] > bench/results/check_stories.txt

Invented: totals, or tables with several wrong rows, 1.5 to 12 % off, over ten networks, printed with two digits to all
of them. Exit 1 when more than 2 % get a story, or a known figure gets another one.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from dojang.arith.graph import Graph
from invented import PUBLISHED, published, told
from record import head

MOST = 0.02


def main(number: int = 200) -> int:
    """Runs and prints."""
    graphs: dict[str, Graph] = {}
    wrong = 0
    print(head("src/dojang/arith", "src/dojang/zoo", peaks=False))
    print(f"{'network':<18} {'column':<8} {'printed':<16} {'verdict':<12} explanation")
    for network, column, layers, printed, verdict, words in PUBLISHED:
        cell = published(network, column, layers, printed, graphs)
        fine = cell.verdict == verdict and words in cell.explanation
        wrong += not fine
        shown = printed.strip('"')
        print(
            f"{network:<18} {column:<8} {shown:<16} {cell.verdict:<12} {cell.explanation}{'' if fine else '   WRONG'}"
        )
    print(f"\n{len(PUBLISHED)} published figures, {wrong} with another explanation than the known one\n")
    stories = 0
    for seed, name, _, cells in told(range(number)):
        stories += bool(cells)
        for cell in cells:
            print(f"seed {seed}, {name}, {cell.row}, {cell.column} {cell.printed}: {cell.explanation}")
    print(f"\n{stories} of {number} invented tables got a story ({stories / number:.1%}; at most {MOST:.0%})")
    return 1 if wrong or stories > MOST * number else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
