"""How an input was made: its parts, and that the page says the same in English as the command does."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

from dojang.app.prepared import InputPreparation
from dojang.app.running import prepare
from dojang.arith.graph import Node
from under_node import NODE, needs_node

WORDS = Path(__file__).parents[2] / "src/dojang/report/web/words.mjs"
SAY = """
const { preparation, speak } = await import(process.argv[1]);
globalThis.document = { documentElement: {} };
const said = (lang) => { speak(lang); return JSON.parse(process.argv[2]).map(preparation); };
console.log(JSON.stringify([said("en"), said("ko")]));
"""


def node(**attrs: Any) -> Node:
    return Node.of("x", "input", shape=(2, 3, 4), **attrs)


MEANS: dict[str, Any] = {"mean": (0.5, 0.25), "std": (0.125, 1 / 3)}
CASES: dict[str, tuple[Any, Node, bool]] = {
    "uint8 / 255, values 0 to 1": (np.zeros((2, 3, 4), "u1"), node(), False),
    "uint8 / 255, minus 0.5, 0.25, over 0.125, 0.333333": (np.zeros((2, 3, 4), "u1"), node(**MEANS), False),
    "values, minus 0.5, 0.25, over 0.125, 0.333333": (np.zeros((2, 3, 4), "f4"), node(**MEANS), True),
    "values as they stand": (np.zeros((2, 3, 4), "f4"), node(), False),
    "values as they stand: floats count as normalised already, uint8 as pixels": (
        np.zeros((2, 3, 4), "f4"), node(**MEANS), False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("said", CASES)
def test_an_array_says_how_it_was_made(said: str) -> None:
    assert str(prepare(*CASES[said])[1]) == said


@needs_node
def test_the_page_says_the_same_in_english_and_all_of_it_in_korean() -> None:
    made = [prepare(*case)[1] for case in CASES.values()]
    made += [
        InputPreparation("scaled", (3, 8, 9)),
        InputPreparation("scaled", (3, 8, 9), (0.4851, 0.5, 1), (1, 2, 1e-7)),
        InputPreparation("drawn", (1, 40)),
        InputPreparation("drawn-whole", (12,), most=49999),
        InputPreparation("ones", (12,)),
    ]
    assert {one.made for one in made} == set(get_args(get_type_hints(InputPreparation)["made"]))
    given = json.dumps([one.to_dict() for one in made])
    done = subprocess.run(
        [str(NODE), "--input-type=module", "-e", SAY, WORDS.as_uri(), given],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    english, korean = json.loads(done.stdout)
    assert [text.replace("×", "x") for text in english] == [str(one) for one in made]
    for text in korean:
        assert re.search("[가-힣]", text), text
        assert not re.search("[a-z]{3}", text.replace("uint8", "")), text
