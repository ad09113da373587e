"""Figures in docs/ and the READMEs stand in the result files that they are said to come from (docs/results.md)."""

from __future__ import annotations

import ast
import operator
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))
from record import KEYS, RESULTS, ROOT, digest_of, read, records

PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("README*.md"))]
FILES = {path.name: path.read_text(encoding="utf-8") for path in sorted(RESULTS.glob("*.txt"))}

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
MADE = re.compile(r"<!-- made: \w+ -->.*?<!-- end -->", re.DOTALL)
MARK = re.compile(r"<!-- figures: (.*?) -->\n+((?:(?!\n\n).)+)", re.DOTALL)
NUMBER = re.compile(r"(?<![\w.,])(?<![A-Za-z]-)(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(e-?\d+)?(?![\w.]*\d)(?=(\s?%)?)")
IN_FILE = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")


@dataclass(frozen=True)
class Block:
    """A paragraph, list or table whose figures come from result files."""

    page: str
    files: tuple[str, ...]
    computed: tuple[str, ...]
    elsewhere: tuple[Decimal, ...]
    text: str


def blocks(path: Path) -> Iterator[Block]:
    """Every block of a page that a comment precedes."""
    for found in MARK.finditer(bare(path)):
        files, *rest = (part.strip() for part in found[1].split(";"))
        elsewhere = [part.removeprefix("elsewhere:") for part in rest if part.startswith("elsewhere:")]
        computed = tuple(part for part in rest if not part.startswith("elsewhere:"))
        known = tuple(Decimal(n.replace(",", "")) for part in elsewhere for n in part.split())
        yield Block(path.name, tuple(files.split()), computed, known, found[2])


def bare(path: Path) -> str:
    """A page without code blocks and generated parts."""
    return MADE.sub("", FENCE.sub("", path.read_text(encoding="utf-8")))


def figures(text: str) -> list[Decimal]:
    """The numbers of a text that count as figures; names, sizes such as 3x3, years and what is in code do not."""
    text = re.sub(r"`[^`]*`|\]\([^)]*\)|<[^>]*>", " ", text)
    text = re.sub(r"\d+(?:[x×]\d+)+", " ", text)
    found = []
    for match in NUMBER.finditer(text):
        whole, fraction, exponent, percent = match.groups()
        year = fraction is None and re.fullmatch(r"(19|20)\d\d", whole)
        if (fraction or exponent or percent or len(whole) > 2) and not year:
            found.append(Decimal(whole.replace(",", "") + (fraction or "") + (exponent or "")))
    return found


def stands(figure: Decimal, text: str) -> bool:
    """Whether a number of the text rounds to the figure, at the digits that the figure shows."""
    exponent = figure.as_tuple().exponent
    assert isinstance(exponent, int)
    half = Decimal(5).scaleb(exponent - 1)
    numbers = (Decimal(n.replace(",", "").rstrip(".")) for n in IN_FILE.findall(text))
    return any(abs(n - figure) <= half for n in numbers)


def value(expression: str) -> float:
    """A calculation with + - * / and brackets."""
    act = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}

    def of(node: ast.AST) -> float:
        if isinstance(node, ast.BinOp):
            return act[type(node.op)](of(node.left), of(node.right))
        assert isinstance(node, ast.Constant), f"{expression}: numbers, + - * / and brackets only"
        return float(node.value)

    return of(ast.parse(expression.replace(",", ""), mode="eval").body)


def rows(block: Block) -> list[tuple[list[Decimal], str]]:
    """The figures of each row or paragraph, with the text in which they have to stand.

    A row of a table whose first cell begins lines of the files is held to these lines.
    """
    whole = "\n".join(FILES[name] for name in block.files)
    if not block.text.startswith("|"):
        return [(figures(block.text), whole)]
    found = []
    for row in block.text.splitlines():
        name = row.split("|")[1].strip(" `*").replace("×", "x")
        own = [line for line in whole.splitlines() if name and re.match(r"(# )?" + re.escape(name) + r"[\s:]", line)]
        found.append((figures(row), "\n".join(own) or whole))
    return found


ALL = [block for page in PAGES for block in blocks(page)]


@pytest.mark.parametrize("block", ALL, ids=[f"{b.page}: {b.text[:40]!r}" for b in ALL])
def test_the_figures_stand_in_their_files(block: Block) -> None:
    assert set(block.files) <= set(FILES), f"no such result file: {set(block.files) - set(FILES)}"
    allowed = list(block.elsewhere)
    for calculation in block.computed:
        left, _, right = calculation.rpartition("=")
        operands = [Decimal(n.replace(",", "")) for n in IN_FILE.findall(left) if n not in ("100", "1000")]  # units
        whole = "\n".join(FILES[name] for name in block.files)
        assert [n for n in operands if not stands(n, whole)] == [], f"operands of {calculation} stand in no file"
        result = Decimal(right.strip().replace(",", ""))
        assert stands(result, f"{abs(value(left)):.12f}"), f"{calculation}: it is {value(left):g}"
        allowed.append(result)
    missing = [str(n) for own, text in rows(block) for n in own if n not in allowed and not stands(n, text)]
    assert missing == [], f"{block.page} says {', '.join(missing)}, which {', '.join(block.files)} do not"


def test_there_are_such_figures() -> None:
    assert sum(len(own) for block in ALL for own, _ in rows(block)) > 200


@pytest.mark.parametrize("path", PAGES, ids=[p.name for p in PAGES])
def test_a_page_that_names_a_result_file_is_held_to_it_and_says_its_age(path: Path) -> None:
    named = set(re.findall(r"([\w-]+\.txt)\b", bare(path))) & set(FILES)
    held = {name for block in blocks(path) for name in block.files}
    assert named == held, "a page names the files of its figures, and has a `figures:` comment for each file it names"
    assert not named or "<!-- made: age -->" in path.read_text(encoding="utf-8"), "scripts/docs.py says their age there"


def test_every_result_file_is_used() -> None:
    used = {name for block in ALL for name in block.files}
    assert set(FILES) - used == set()


def test_every_head_is_complete() -> None:
    for record in records():
        assert re.fullmatch(r"[0-9a-f]{7,}( with changes)?", record.commit), record.name
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", record.date), record.name
        assert re.fullmatch(r"[0-9a-f]{12}", record.code), record.name
        for path in record.measures:
            assert (ROOT / path).exists(), f"{record.name} measures {path}, which is gone"


def test_a_head_that_lacks_a_line_is_refused(tmp_path: Path) -> None:
    whole = FILES["memory.txt"].splitlines()
    for number, key in enumerate(KEYS):
        (tmp_path / "memory.txt").write_text("\n".join(whole[:number] + whole[number + 1 :]))
        with pytest.raises(ValueError, match=f"line {number + 1} is not `# {key}:"):
            read(tmp_path / "memory.txt")


F = 'def f(x):\n    """Doubles."""\n    return 2 * x  # twice\n'
G = "def g(x):\n    return x\n"
SOURCE = f'"""About."""\nimport os\n\n\n{F}\n\n{G}'


@pytest.mark.parametrize(
    "other",
    [
        SOURCE.replace("import os", "import sys, re"),
        SOURCE.replace("Doubles", "Twice the number"),
        SOURCE.replace("  # twice", ""),
        SOURCE.replace('"""About."""\n', ""),
    ],
)
def test_the_digest_leaves_out_words_and_imports(other: str) -> None:
    assert digest_of([SOURCE]) == digest_of([other])


def test_the_digest_does_not_depend_on_where_code_lies() -> None:
    head, f, g = (
        SOURCE.partition("def f")[0],
        SOURCE[SOURCE.index("def f") : SOURCE.index("def g")],
        "def g(x):\n    return x\n",
    )
    assert digest_of([SOURCE]) == digest_of([head + g, f]) == digest_of([f, g])


@pytest.mark.parametrize("changed", ["return 3 * x", "return 2 + x", "return 2 * y", "return 2 * x + 0"])
def test_the_digest_tells_a_change(changed: str) -> None:
    assert digest_of([SOURCE]) != digest_of([SOURCE.replace("return 2 * x", changed)])
