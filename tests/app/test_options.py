"""The table of commands against the Python verbs: names, defaults and choices are the same."""

from __future__ import annotations

import inspect
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

import dojang
from dojang.app.options import COMMANDS, Command, Option
from dojang.app.parser import build_parser

ONLY_IN_PYTHON = {
    "diagnose": {"progress"},
    "filter_files": {"progress"},
    "memory": {"batch_size"},
    "slim": {"control", "evaluate", "progress", "tune"},
    "train": {"progress", "told"},
}
"""Keywords that a command line cannot give."""

VERBS = sorted(
    {(command.name, command.verb) for command in COMMANDS.values()}
    | {
        (command.name, verb)
        for command in COMMANDS.values()
        for o in command.options
        for verb in o.verbs
        if "'" not in verb
    }
)


def taken(command: Command, verb: str) -> dict[str, Option]:
    return {option.keyword or option.name: option for option in command.options_of(verb)}


@pytest.mark.parametrize(("name", "verb"), VERBS)
def test_a_verb_takes_what_its_command_takes(name: str, verb: str) -> None:
    options = taken(COMMANDS[name], verb)
    parameters = inspect.signature(getattr(dojang, verb)).parameters
    assert set(parameters) - ONLY_IN_PYTHON.get(verb, set()) <= set(options) <= set(parameters)
    kinds = {p.kind for p in parameters.values()}
    assert not kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


@pytest.mark.parametrize(("name", "verb"), VERBS)
def test_defaults_are_the_same(name: str, verb: str) -> None:
    parameters = inspect.signature(getattr(dojang, verb)).parameters
    for keyword, option in taken(COMMANDS[name], verb).items():
        default = parameters[keyword].default
        if keyword == "optimiser" and verb == "memory":  # the command tells a missing flag from a given one
            assert (default, option.default) == ("momentum", None)
            assert "(default momentum)" in option.help
        elif default is inspect.Parameter.empty:
            assert option.default is None
        else:
            assert default == option.default, keyword
            assert type(default) is type(option.default), keyword


@pytest.mark.parametrize(("name", "verb"), VERBS)
def test_choices_are_the_same(name: str, verb: str) -> None:
    hints = get_type_hints(getattr(dojang, verb), localns=types_of(verb))
    for keyword, option in taken(COMMANDS[name], verb).items():
        assert choices_of(hints[keyword]) == option.choices, keyword


def types_of(verb: str) -> dict[str, Any]:
    """Names that a signature uses and its module imports for type checkers only."""
    from dojang.filters.files import FilterPlans, FilterReport
    from dojang.training.record import Progress

    return {"FilterPlans": FilterPlans, "FilterReport": FilterReport, "Progress": Progress} | {
        name: getattr(dojang, name) for name in dojang.__all__ if name[0].isupper() and name != "Precision"
    }


def choices_of(hint: Any) -> tuple[str, ...] | None:
    if get_origin(hint) is Literal:
        return get_args(hint)
    found = [choices_of(part) for part in get_args(hint)]
    return next((choices for choices in found if choices), None)


def test_the_parser_gives_each_verb_its_defaults() -> None:
    """A command with nothing but what it must have calls its verb with the defaults of Python."""
    needed = {
        "check": ["t"], "compare": ["a", "b"], "list": ["kernels"], "filter": ["a.png", "--kernel", "blur"],
        "run": ["n", "i"], "train": ["n", "--data", "d"], "solve": [], "env": [],
    }  # fmt: skip
    for name, command in COMMANDS.items():
        parsed = vars(build_parser().parse_args([name, *needed.get(name, ["n"])]))
        parameters = inspect.signature(getattr(dojang, command.verb)).parameters
        for keyword, value in command.keywords(parsed).items():
            default = parameters[keyword].default
            assert default is inspect.Parameter.empty or value == default, (name, keyword)


def test_every_default_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "10000")  # one line an option, or two
    for command in COMMANDS.values():
        lines = help_of(command.name).splitlines()
        for option in command.options:
            if option.default is not None and not isinstance(option.default, bool):
                (place,) = (i for i, line in enumerate(lines) if line.split()[:1] == [option.flags[-1]])
                said = lines[place] + lines[place + 1] if place + 1 < len(lines) else lines[place]
                assert "(default" in said, (command.name, option.name)


def help_of(name: str) -> str:
    choices = next(a.choices for a in build_parser()._actions if isinstance(a.choices, dict))
    return choices[name].format_help()
