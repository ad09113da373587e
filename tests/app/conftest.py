from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from dojang.app.cli import main


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


Command = Callable[..., Ran]


@pytest.fixture
def dojang(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command line in this process."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("DOJANG_TRACEBACK", raising=False)

    def run(*args: str | Path) -> Ran:
        capsys.readouterr()
        code = main([str(a) for a in args])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.net"
    path.write_text(
        "network small\ninput 3x32x32\nconv1: conv 4 5x5\nrelu1: relu\nconv2: conv 10 5x5 bias=no\nflatten\n"
        "fc: dense 7\n"
    )
    return path


def check_golden(name: str, text: str) -> None:
    """Compares with tests/app/golden/NAME; to renew it, delete the file and run the test twice."""
    path = Path(__file__).parent / "golden" / name
    if not path.exists():
        path.write_text(text, encoding="utf-8")
        pytest.fail(f"{path} was not there and has been written; look at it and run again")
    assert text == path.read_text(encoding="utf-8")
