"""The `dojang` command: parse, call a verb, print. Imports nothing heavy; every room is loaded when it is needed."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dojang.app.interrupts import Interrupts, ended_by_signals
from dojang.app.together import is_main_process
from dojang.base.errors import DojangError, FileError, MissingPart
from dojang.base.showing import one_line, shown

COMPLETING = "_ARGCOMPLETE"
"""Environment variable that argcomplete's script in the shell sets to ask for completions."""

TRACEBACK = "DOJANG_TRACEBACK"
"""Environment variable that makes errors show where in the code they arose."""

INSTALL = {
    "torch": "PyTorch is not installed; pip install 'dojang[torch]'",
    "sklearn": "scikit-learn is not installed; pip install 'dojang[data]'",
    "onnxruntime": "ONNX Runtime is not installed; pip install 'dojang[onnxruntime]'",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 fine, 1 a check failed, 2 bad input, 3 a part is missing,
    4 an unreadable file, 130 interrupted (Ctrl-C, SIGTERM, SIGHUP). Errors are one line on stderr.
    """  # fmt: skip
    arguments = list(sys.argv[1:] if argv is None else argv)
    _prepare_streams()
    interrupts = Interrupts()
    try:
        with ended_by_signals() as interrupts:
            return _command(arguments)
    except KeyboardInterrupt as stop:
        eval("0")  # else `python -m dojang` dies of SIGINT if it came during an exec (CPython keeps it)
        return _complain(one_line(str(stop)) or "interrupted", 130)
    except BrokenPipeError:
        _silence_stdout()
        return 0
    except SystemExit as stop:  # --help and --version end this way
        return stop.code if isinstance(stop.code, int) else 0
    except Exception as error:
        if interrupts.came:  # C code that was being loaded makes an ImportError of it
            return _complain("interrupted", 130)
        if os.environ.get(TRACEBACK):
            import traceback

            traceback.print_exception(error)
        return _complain(*_explain(error))


def _command(arguments: list[str]) -> int:
    from dojang.app.parser import build_parser, overview

    if COMPLETING in os.environ:
        _complete(build_parser())
    if not arguments:
        sys.stdout.write(f"{overview()}\n")
        return 0
    args = build_parser().parse_args(arguments)
    try:
        return _done(args)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_resumable(args)) from None


def _complete(parser: Any) -> None:
    """Ends the program with the words that may come next, as argcomplete's script in the shell asks for them."""
    from dojang.app.completion import complete

    complete(parser)


def _resumable(args: Any) -> str:
    """What is said of a command that was interrupted, if its folder keeps a state: how it goes on."""
    if not hasattr(args, "resume"):
        return ""
    name = Path(args.net.rpartition(":")[2]).stem
    folder = Path(args.output or Path("out") / f"{name}-{'trained' if args.command == 'train' else 'slim'}")
    kept = any((folder / part).exists() for part in ("training.safetensors", "unfinished"))
    return f"interrupted; the same command with --resume goes on from what {folder} keeps" if kept else ""


def _done(args: Any) -> int:
    """Runs a command that was understood, and prints what it gives."""
    from dojang.app import commands
    from dojang.native.threads import limited
    from dojang.report.table import printed

    with limited(getattr(args, "threads", None)):
        answer = getattr(commands, args.command)(args)
    try:
        if answer.text and is_main_process():
            text = answer.text if answer.data and not sys.stdout.isatty() else printed(answer.text)
            sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _silence_stdout()
        raise FileError(f"the result could not be printed: {error.strerror}") from error
    if answer.complaint:
        _complain(shown(answer.complaint, keep="\n"), answer.code)
    return answer.code


def _explain(error: Exception) -> tuple[str, int]:
    """One line and an exit code for anything that can go wrong."""
    if isinstance(error, DojangError):
        return one_line(str(error)), error.exit_code
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in INSTALL:
        return INSTALL[(error.name or "").partition(".")[0]], MissingPart.exit_code
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return one_line(f"{place}{error.strerror or error}"), FileError.exit_code
    if isinstance(error, MemoryError):
        return "not enough memory; use fewer samples, a smaller batch or a smaller input", 2
    return (
        f"unexpected {type(error).__name__}: {one_line(str(error)) or 'no message'} "
        f"(a fault in dojang; set {TRACEBACK}=1 to see where)",
        2,
    )


def _complain(message: str, code: int) -> int:
    with contextlib.suppress(OSError):  # when nobody listens, the exit code still tells
        sys.stderr.write(f"dojang: {message}\n")
        sys.stderr.flush()
    return code


def _prepare_streams() -> None:
    """Characters that the terminal cannot show become "?" rather than an error; warnings are one line."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed before the start: nobody listens, the exit code still tells
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for the whole process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")

    def show(message: Warning | str, *_: object, **__: object) -> None:
        sys.stderr.write(f"dojang: warning: {one_line(str(message))}\n")

    warnings.showwarning = show


def _silence_stdout() -> None:
    """Keeps the interpreter from complaining about a closed or full stdout when it exits."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
