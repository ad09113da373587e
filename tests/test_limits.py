"""No test can hang: what is stuck is broken off, and the place where it is stuck is named."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import psutil
import pytest

from children import STACKS, finished

TESTS = Path(__file__).parent
SETTINGS = tomllib.loads((TESTS.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
pytestmark = pytest.mark.slow


def ran(pytester: pytest.Pytester, test: str, **limits: float) -> pytest.RunResult:
    """A run with our settings, but for limits of a second or two in place of minutes."""
    ours = {name: value for name, value in SETTINGS.items() if "timeout" in name}
    assert 0 < ours["timeout"] < ours["faulthandler_timeout"]
    lines = [f"{name} = {value}" for name, value in {**ours, **limits}.items()]
    pytester.makefile(".ini", pytest="\n".join(["[pytest]", *lines]))
    conftest = (TESTS / "conftest.py").read_text(encoding="utf-8")
    pytester.makeconftest(conftest.replace("END_SECONDS = 120.0", "END_SECONDS = 1.0"))
    pytester.makepyfile(test_stuck=test)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", timeout=100)


def test_a_child_a_lock_and_native_code(pytester: pytest.Pytester) -> None:
    """The first two fail and the run goes on; nothing in the process can break off the third, so the process ends."""
    test = """
import collections, itertools, pathlib, subprocess, sys, threading
import psutil

def test_child():
    subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE).wait()

def test_lock():
    _, left = psutil.wait_procs(psutil.Process().children(), timeout=0.5)  # a killed process takes a moment to end
    pathlib.Path("left").write_text(" ".join(one.status() for one in left))
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()

def test_native():
    collections.deque(itertools.repeat(0), maxlen=0)  # takes no signal
"""
    result = ran(pytester, test, timeout=1, faulthandler_timeout=4)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*test_stuck.py F*F*"])
    assert not (pytester.path / "left").read_text()  # all dead
    result.stderr.fnmatch_lines(["*Timeout*", "*test_stuck.py*in test_native*"])


def test_a_thread_that_keeps_the_process_from_ending(pytester: pytest.Pytester) -> None:
    test = """
import threading

def waits_for_ever():
    threading.Event().wait()

def test_begins_one():
    threading.Thread(target=waits_for_ever).start()
"""
    result = ran(pytester, test)
    result.stdout.fnmatch_lines(["*1 passed*"])
    assert result.ret == 1
    result.stderr.fnmatch_lines(["*Timeout*", "*in waits_for_ever*"])


def test_a_process_that_does_not_end_says_where_it_stands() -> None:
    """Its own process too, which holds its pipe open."""
    code = """
import subprocess, sys

def in_the_child():
    subprocess.run([sys.executable, "-c", "import threading; threading.Event().wait()"])

in_the_child()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, stderr=-1, text=True, env=STACKS)
    with pytest.raises(AssertionError, match=r"(?s)has not ended after 2 s.*in in_the_child"):
        finished(process, 2)
    assert process.returncode != 0
    assert not psutil.pid_exists(process.pid)
