"""PyTorch code that a person names: the module that `package.module:callable` or `file.py:callable` gives."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from dojang.base.errors import FileError, UsageError
from dojang.base.showing import first_line


def load_callable(spec: str) -> nn.Module:
    """The module that `package.module:callable` or `path/file.py:callable` returns (or is, when it is a module).

    Runs the user's code. Raises `UsageError` when there is no such name or it returns something else, or where a file
    has the whole of `spec` as its name; `FileError` when the file is missing or cannot be imported.
    """
    where, colon, name = spec.rpartition(":")
    if not colon or not where or not name:
        raise UsageError(f"{spec}: write package.module:callable or path/file.py:callable")
    if Path(spec).is_file():
        raise UsageError(f"{spec}: is a file, and none that a network is read from; files are never run as code")
    found: Any = _import(where)
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise UsageError(f"{spec}: {where} has no {part!r}") from None
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise UsageError(f"{spec}: is a {type(found).__name__}; name a function or class that gives a torch.nn.Module")
    return _called(spec, found)


def _called(spec: str, make: Callable[[], Any]) -> nn.Module:
    try:
        module = make()
    except Exception as error:
        raise UsageError(
            f"{spec}: calling it without arguments failed: {type(error).__name__}: {first_line(error)}"
        ) from error
    if not isinstance(module, nn.Module):
        raise UsageError(f"{spec}: returned {type(module).__name__}, not a torch.nn.Module")
    return module


def _import(where: str) -> Any:
    """A module by its dotted name, or from a file, whose folder is then on the path as when Python runs it."""
    if not where.endswith(".py"):
        with _on_path(Path.cwd()):
            try:
                return importlib.import_module(where)
            except ModuleNotFoundError as error:
                if error.name and where.split(".")[0] == error.name.split(".")[0]:
                    raise UsageError(f"{where}: no such Python module; is it installed?") from None
                raise UsageError(f"{where}: needs {error.name}, which is not installed") from None
            except Exception as error:
                raise FileError(f"{where}: importing it failed: {type(error).__name__}: {first_line(error)}") from error
    file = Path(where)
    if not file.is_file():
        raise FileError(f"{file}: no such file")
    title = f"dojang_user_{file.stem}"
    description = importlib.util.spec_from_file_location(title, file)
    if description is None or description.loader is None:
        raise FileError(f"{file}: is no Python file")
    made = importlib.util.module_from_spec(description)
    sys.modules[title] = made
    with _on_path(file.resolve().parent):
        try:
            description.loader.exec_module(made)
        except Exception as error:
            del sys.modules[title]
            raise FileError(f"{file}: importing it failed: {type(error).__name__}: {first_line(error)}") from error
    return made


@contextlib.contextmanager
def _on_path(folder: Path) -> Any:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))
