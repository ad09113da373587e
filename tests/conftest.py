"""What holds for every test: how Hypothesis draws, the line that repeats a failed test, and that signals arrive."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import shlex
import signal
import sys
from collections.abc import Generator

import psutil
import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ("pytester",)

SHOWN = ("DOJANG_MACHINE", "DOJANG_THREADS", "OMP_NUM_THREADS")
"""Settings on which the outcome of a test may depend; the line that repeats it names those that are set."""


def pytest_configure(config: pytest.Config) -> None:
    """One profile. Examples are the same in every run, and others with `--hypothesis-seed=NUMBER`.

    No deadline and no checks of speed: a first example compiles kernels, and machines are busy. Processes that tests
    start get the signals that they are sent, also where a shell's background job or `nohup` would have them ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    settings.register_profile(
        "dojang",
        deadline=None,
        derandomize=config.getoption("--hypothesis-seed", None) is None,
        print_blob=True,
        suppress_health_check=tuple(HealthCheck),
    )
    settings.load_profile("dojang")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules all of whose tests take long go first, so that at the end no worker is alone with one of them."""

    def rank(item: pytest.Item) -> bool:
        module = item.getparent(pytest.Module)
        return module is None or not any(module.iter_markers("slow"))

    items.sort(key=rank)


END_SECONDS = 120.0
"""How long a process may take from its last test to its end: threads are joined, folders removed."""


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """An end that never comes (a thread that waits is joined) becomes the stacks of all threads, and exit code 1.

    Workers of pytest-xdist rightly wait here for the last test of the others, and are ended by the process that began
    them.
    """
    if not hasattr(session.config, "workerinput") and sys.__stderr__ is not None:
        faulthandler.dump_traceback_later(END_SECONDS, exit=True, file=sys.__stderr__.fileno())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds the command that runs a failed test again, as it was run. A test that was broken off leaves no process."""
    report = yield
    if report.failed and call.excinfo is not None and "pytest-timeout" in str(call.excinfo.value):
        for left in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
    if report.failed:
        set_here = [f"{name}={shlex.quote(os.environ[name])}" for name in SHOWN if name in os.environ]
        seed = item.config.getoption("--hypothesis-seed", None)
        options = [] if seed is None else [f"--hypothesis-seed={seed}"]
        line = [*set_here, "python -m pytest -n0", *options, shlex.quote(item.nodeid)]
        report.sections.append(("run it again", " ".join(line)))
    return report
