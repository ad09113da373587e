"""What `import dojang` gives: names, signatures, results that show themselves, errors, hints for names that moved."""

from __future__ import annotations

import ast
import copy
import html
import importlib
import inspect
import pickle
from collections.abc import Callable
from dataclasses import is_dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dojang
from dojang.base import errors, moved
from dojang.base.result import Result
from dojang.report.views import VIEWS

SOURCE = Path(dojang.__file__).parent


def imported_for_types() -> dict[str, str]:
    """The names that `dojang/__init__.py` imports for type checkers, with their modules."""
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    found = {}
    for line in block.body:
        assert isinstance(line, ast.ImportFrom)
        assert [alias.name for alias in line.names] == [alias.asname for alias in line.names]
        found |= {alias.name: str(line.module) for alias in line.names}
    return found


def test_all_is_what_type_checkers_see() -> None:
    assert imported_for_types() == dojang._HOME
    assert sorted(dojang.__all__) == sorted(["__version__", *dojang._HOME])
    assert set(dojang.__all__) <= set(dir(dojang))


def test_every_name_is_at_home() -> None:
    """A name of `__all__` is defined in the module that it is said to live in, and is documented there."""
    for name, module in dojang._HOME.items():
        value = getattr(dojang, name)
        assert value.__module__ == module, name
        assert inspect.getdoc(value), name
        if inspect.isclass(value):
            public = {k: v for k, v in vars(value).items() if k[0] != "_" and (callable(v) or isinstance(v, property))}
            assert all(inspect.getdoc(member) for member in public.values()), (name, public)


def test_every_verb_result_and_error_is_public() -> None:
    """Walks the modules: each command's verb, each subclass of `Result`, and the whole tree of errors."""
    from dojang.app.options import COMMANDS

    for path in SOURCE.rglob("*.py"):
        if "Result)" in path.read_text(encoding="utf-8"):
            importlib.import_module(".".join(("dojang", *path.relative_to(SOURCE).with_suffix("").parts)))
    results = {cls.__name__ for cls in Result.__subclasses__()}
    assert results == set(VIEWS)
    tree = {n for n, v in vars(errors).items() if inspect.isclass(v) and issubclass(v, errors.DojangError)}
    wanted = results | tree | {command.verb for command in COMMANDS.values()}
    assert wanted <= set(dojang.__all__)


def test_the_tree_of_errors_is_drawn() -> None:
    drawn = {}
    for line in (errors.__doc__ or "").splitlines():
        words = line.replace("├──", " ").replace("└──", " ").split()
        if len(words) > 1 and words[1].isdigit():
            drawn[words[0]] = int(words[1])
    real = {n: v.exit_code for n, v in vars(errors).items() if inspect.isclass(v) and issubclass(v, errors.DojangError)}
    assert drawn == real


def test_verbs_are_plain_functions_with_signatures() -> None:
    for name in ("slim", "train", "diagnose", "count", "load", "run", "compile"):
        verb = getattr(dojang, name)
        assert inspect.isfunction(verb)
        signature = inspect.signature(verb)
        assert {"net"} <= set(signature.parameters)
        assert signature.return_annotation is not inspect.Signature.empty
        assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'cuont'"):
        getattr(dojang, "cuont")  # noqa: B009


def test_count_takes_names_and_graphs() -> None:
    net = dojang.load("alexnet")
    assert dojang.count(net).total.params == dojang.count("alexnet").params == 60_965_224
    assert dojang.count("alexnet").macs == 724_406_816


class Pieces(HTMLParser):
    """Counts elements, and refuses what could reach out of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if (
            tag == "iframe"
        ):  # a whole page, which is held to its own rules in `tests/page`; it reaches nothing around it
            told = dict(attrs)
            assert set(told) == {"title", "sandbox", "style", "srcdoc"}
            assert told["sandbox"] == "allow-scripts"
            assert "default-src 'none'" in (told.pop("srcdoc") or "")
            self.text.append(told["title"] or "")
            self.open.append(tag)
            return
        assert tag in ("div", "pre", "span")
        assert {name for name, _ in attrs} <= {"style"}
        assert "url" not in str(attrs)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


RESULTS: dict[str, Callable[[], Any]] = {
    "Count": lambda: dojang.count("lenet5"),
    "MemoryUse": lambda: dojang.memory("lenet5", machine="150,12"),
    "Explanation": lambda: dojang.explain("lenet5", "c1"),
    "Placement": lambda: dojang.over_devices("alexnet", 2),
    "Solutions": lambda: dojang.solve((3, 32, 32), (8, 32, 32)),
    "Check": lambda: dojang.check("alexnet-lecture"),
    "Comparison": lambda: dojang.compare("resnet18", "resnet50"),
    "Listing": lambda: dojang.available("networks"),
    "Environment": dojang.environment,
    "Bench": lambda: dojang.bench("digits-cnn", rounds=2),
    "Diagnosis": lambda: dojang.diagnose("digits-cnn"),
    "Slimming": lambda: dojang.slim("digits-cnn", lossless=True),
    "Plan": lambda: dojang.compile("digits-cnn").engine.plan(1),
    "Run": lambda: dojang.run("digits-cnn", np.zeros((1, 8, 8), np.float32)),
}
"""The others write files; `test_results_of_files` has them."""


def check_shown(result: Any) -> None:
    """It is frozen, prints within 80 columns, and its HTML is whole, harmless and has the same words."""
    assert is_dataclass(result)
    assert result.__dataclass_params__.frozen
    text = str(result)
    assert "\x1b" not in text
    if type(result).__name__ not in ("Environment", "Exported", "FilterReport", "Trained"):  # these hold paths
        assert max(map(len, text.splitlines()[1:] or [""])) <= 80
    pieces = Pieces()
    pieces.feed(result._repr_html_())
    pieces.close()
    assert pieces.open == []
    said = result.network if isinstance(result, dojang.ShownPage) else text.split()[0]
    assert said in "".join(pieces.text)
    assert isinstance(result.to_dict(), dict)


@pytest.mark.parametrize("name", RESULTS)
def test_results_show_themselves(name: str) -> None:
    result = RESULTS[name]()
    assert type(result).__name__ == name
    check_shown(result)


def test_results_of_files(tmp_path: Path) -> None:
    Image.new("RGB", (9, 8), (1, 2, 3)).save(tmp_path / "a.png")
    made = [
        dojang.export("digits-cnn", output=tmp_path / "d.onnx"),
        dojang.train("digits-cnn", "digits", epochs=1, output=tmp_path / "t"),
        dojang.filter_files([tmp_path / "a.png"], "blur"),
        dojang.filter_plans([tmp_path / "a.png"], "blur"),
        dojang.show("digits-cnn", output=tmp_path / "d.html"),
    ]
    for result in made:
        check_shown(result)
    assert {type(result).__name__ for result in made} | set(RESULTS) == set(VIEWS)


def test_print_shows_the_table_of_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    from dojang.app.cli import main

    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["count", "alexnet"]) == 0
    command = capsys.readouterr().out
    print(dojang.count("alexnet"))
    assert capsys.readouterr().out == command


def test_names_are_escaped_in_notebooks_and_terminals(tmp_path: Path) -> None:
    text = "input 1x8x8\nconv1: conv 2 3x3\n"
    graph = dojang.load(write(tmp_path / "a.net", text))
    node = graph["conv1"]
    evil = "<script>alert(1)</script>\x1b[31m"
    nodes = tuple(type(n)(evil, n.op, n.inputs, n.attrs) if n is node else n for n in graph.nodes)
    count = dojang.count(graph.replace(nodes=nodes, outputs=(evil,)))
    page = count._repr_html_()
    assert "<script>" not in page
    assert html.escape("<script>") in page
    assert "\x1b" not in page + str(count)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_results_can_be_copied_and_sent() -> None:
    result = dojang.count("lenet5")
    assert str(copy.deepcopy(result)) == str(pickle.loads(pickle.dumps(result))) == str(result)


def test_slimming_has_what_one_looks_for() -> None:
    done = dojang.slim("digits-cnn", lossless=True)
    assert done.edits == done.result.edits
    assert done.refused == done.result.refused
    assert (done.before, done.after) == (done.result.before, done.result.after)
    assert done.findings == done.diagnosis.findings
    assert done.graph.name == "digits-cnn"


@pytest.mark.parametrize(
    ("code", "new"),
    [
        ("from dojang.train import load", "dojang.training"),
        ("import dojang.train.loop", "dojang.training"),
        ("import dojang.engine.jit", "dojang.native.jit"),
        ("from dojang.slim.search import slim", "dojang.slimming"),
        ("from dojang.diagnose import correlations", "dojang.diagnosis"),
        ("import dojang.engine.algorithms.task", "dojang.engine.kernels"),
    ],
)
def test_modules_that_moved_say_where(code: str, new: str) -> None:
    with pytest.raises(ModuleNotFoundError, match=f"is called {new}") as caught:
        exec(code)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModuleNotFoundError, match="No module named 'dojang.nothing'"):
        exec("import dojang.nothing")


def test_hints_lead_somewhere() -> None:
    for old, new in {**moved.PACKAGES, **moved.MODULES}.items():
        importlib.import_module(new)
        path = SOURCE.parent.joinpath(*old.split("."))
        assert not path.with_suffix(".py").exists(), f"{old} is there: take its hint away"
