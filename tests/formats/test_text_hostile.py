"""Texts and tables that are damaged or written to harm: a network or one error of dojang's, in bounded time."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from dojang.arith.check import check
from dojang.arith.cost import count
from dojang.base.errors import DojangError, ParseError, UsageError
from dojang.formats import tables, text, zoo

CORPUS = Path(__file__).parent / "corpus"
ZOO = Path(zoo.__file__).parent.parent / "zoo"
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in sorted([*CORPUS.glob("*.net"), *ZOO.glob("*.net")])}
TABLES = {path.name: path.read_text(encoding="utf-8") for path in sorted(ZOO.glob("*.csv"))}
WORDS = (
    *"conv input block end param output <- _ in $classes {1..3} {1..999999999} share= : 3x3 3x3/2 -1 0".split(),
    *"1e400 nan 99999999999999999999 # , x pad=same groups=0 é 𝟛 stride=-3 dense network \x00".split(),
    *('"', "\n", "\t", "reshape shape=-1,-1", "slice axis=9", "conv_transpose 3 3x3/2"),
)


def mutate(rng: random.Random, content: str) -> str:
    """A few letters, words or lines changed, cut, doubled or exchanged."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        lines = content.split("\n")
        at, row = rng.randrange(len(content) + 1), rng.randrange(len(lines))
        match rng.randrange(7):
            case 0:
                content = content[:at] + rng.choice(WORDS) + content[at:]
            case 1:
                content = content[:at] + content[at + rng.randrange(1, 12) :]
            case 2:
                lines.insert(rng.randrange(len(lines)), lines[row])
                content = "\n".join(lines)
            case 3:
                del lines[row]
                content = "\n".join(lines)
            case 4:
                tokens = lines[row].split(" ")
                tokens[rng.randrange(len(tokens))] = rng.choice(WORDS)
                lines[row] = " ".join(tokens)
                content = "\n".join(lines)
            case 5:
                other = rng.choice(list(TEXTS.values())).split("\n")
                lines.insert(row, rng.choice(other))
                content = "\n".join(lines)
            case _:
                content = content[:at] + chr(rng.choice((0, 9, 34, 58, 123, 125, 0x2028, 0xFFFF))) + content[at:]
    return content


SMALL = [name for name, content in TEXTS.items() if len(content) < 2600]


@pytest.mark.parametrize("name", SMALL)
def test_mutated_texts_give_a_network_or_one_error(name: str) -> None:
    rng = random.Random(name)
    kinds: set[str] = set()
    for _ in range(150):
        try:
            count(text.parse(mutate(rng, TEXTS[name]), file=name))
            kinds.add("fine")
        except DojangError as error:
            assert "\n" not in str(error)
            kinds.add(type(error).__name__)
    assert "ParseError" in kinds


@pytest.mark.parametrize("name", TABLES)
def test_mutated_tables_are_judged_or_give_one_error(name: str) -> None:
    rng, graph = random.Random(name), zoo.load(tables.load(name.removesuffix(".csv")).network, weights=False)
    kinds: set[str] = set()
    for turn in range(250):
        try:
            table = tables.parse(mutate(rng, TABLES[name]), name, name)
            if turn % 10 == 0:  # judging searches nearby networks, which takes a while
                check(table, graph)
            kinds.add("fine")
        except DojangError as error:
            assert "\n" not in str(error)
            kinds.add(type(error).__name__)
    assert {"fine", "DataError"} <= kinds


@pytest.mark.parametrize(
    "body", ['"' * 2_000_000, "conv " + '"" ' * 700_000, '""\n' * 700_000, 'meta "a" ""\n' * 300_000]
)
def test_more_words_than_a_network_has_are_refused_while_they_are_read(body):
    with pytest.raises(ParseError, match=r"^<text>:\d+:\d+: the text has more than 400,000 words"):
        text.parse("input 3x8x8\n" + body)


def test_a_table_does_not_follow_a_link_out_of_its_folder(tmp_path):
    folder = tmp_path / "tables"
    folder.mkdir()
    (tmp_path / "outside.net").write_text("input 3x8x8\nrelu\n", encoding="utf-8")
    (folder / "inside.net").write_text("input 3x8x8\nrelu\n", encoding="utf-8")
    (folder / "out.net").symlink_to(tmp_path / "outside.net")
    (folder / "in.net").symlink_to(folder / "inside.net")
    table = replace(tables.load("alexnet-lecture"), network="in.net")
    assert Path(tables.network_of(table, folder / "t.csv")).name == "in.net"
    with pytest.raises(UsageError, match="out.net"):
        tables.network_of(replace(table, network="out.net"), folder / "t.csv")
