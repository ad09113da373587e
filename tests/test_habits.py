"""Habits of the tests: settings of Hypothesis stand in one place, and nothing waits for a time."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def lines(pattern: str, *but: str) -> list[str]:
    """Places in the tests where a pattern stands."""
    found = re.compile(pattern)
    return [
        f"{path.relative_to(TESTS)}:{number}"
        for path in sorted(TESTS.rglob("*.py"))
        if path.name not in {"test_habits.py", *but}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if found.search(line)
    ]


def test_settings_of_hypothesis_stand_once() -> None:
    assert lines(r"\b(deadline|derandomize|suppress_health_check|print_blob)=", "conftest.py") == []


def test_nothing_sleeps_but_the_helper_that_waits_for_a_condition() -> None:
    assert lines(r"\bsleep\(", "waiting.py") == []
    assert lines(r"\bsleep\(") != []


def test_no_process_is_waited_for_without_a_limit() -> None:
    """Its own, so that it is ended too; what `subprocess.run` has begun ends with a test that is broken off."""
    assert lines(r"\.communicate\(\)|(process|run|child|running|half)\.wait\(\)", "children.py") == []


def test_a_failed_test_prints_the_line_that_repeats_it(pytester: pytest.Pytester) -> None:
    pytester.makeconftest((TESTS / "conftest.py").read_text(encoding="utf-8"))
    pytester.makepyfile(
        test_random="""
from hypothesis import given, strategies as st

@given(st.integers())
def test_small(n):
    assert n < 100
"""
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "--hypothesis-seed=5")
    assert result.ret == 1
    result.stdout.re_match_lines([r".*python -m pytest -n0 --hypothesis-seed=5 test_random.py::test_small"])


def test_the_fast_check_looks_at_every_room() -> None:
    """`scripts/check --fast` names tests that exist, of every package that has tests."""
    read = 'eval "$(sed -n "/^quick=(/,/^)/p" scripts/check)"; printf "%s\\n" "${quick[@]}"'
    done = subprocess.run(["bash", "-c", read], cwd=TESTS.parent, capture_output=True, text=True, check=True)
    named = done.stdout.split()
    assert [path for path in named if not (TESTS.parent / path).exists()] == []
    packages = [path.parent.name for path in (TESTS.parent / "src" / "dojang").glob("*/__init__.py")]
    rooms = {name for name in packages if (TESTS / name).is_dir()}
    assert len(rooms) > 10
    assert rooms == {path.split("/")[1] for path in named if not path.endswith(".py") or path.count("/") > 1}
