"""The errors that a user can do something about, with the exit code of the command line for each.

    DojangError              2  any of these
    ├── UsageError           2  an argument, flag or name that cannot be used as given
    ├── ShapeError           2  sizes that do not fit together
    ├── GraphError           2  layers or weights of a network that do not fit together
    ├── ParseError           2  a text that does not follow the notation
    ├── UnsupportedError     2  an operator or feature that dojang does not have
    ├── DataError            2  data or weights whose content cannot be used
    ├── CheckFailed          1  a check, budget or diagnosis that did not pass
    ├── MissingPart          3  an optional package that is not installed
    └── FileError            4  a file that cannot be read, is damaged, or is not trusted

All are names of `dojang`, as in `except dojang.FileError`. A message is one line: place, values, rule, remedy.
"""

from __future__ import annotations

from typing import ClassVar, Self


class DojangError(Exception):
    """A failure that the user can do something about. One line: place, values, rule, remedy.

    Callers add context: `raise error.within("conv2")` turns "96 input channels ..." into
    "conv2: 96 input channels ...".
    """

    exit_code: ClassVar[int] = 2

    def within(self, place: str) -> Self:
        """The same error, with a place before its message."""
        self.args = (f"{place}: {self}", *self.args[1:])
        return self


class UsageError(DojangError):
    """An argument, flag or name that cannot be used as given."""


class ShapeError(DojangError):
    """Sizes that do not fit together."""


class GraphError(DojangError):
    """A network whose layers or weights do not fit together: unknown inputs, duplicate names, a cycle, weights that do
    not fit.
    """


class ParseError(DojangError):
    """Text that does not follow the notation; the message starts with file, line and column."""


class UnsupportedError(DojangError):
    """An operator or feature that this part of dojang does not support, by name."""


class DataError(DojangError):
    """Data or weights whose content cannot be used: NaN, empty classes, labels out of range."""


class CheckFailed(DojangError):
    """A check, budget or diagnosis that did not pass."""

    exit_code = 1


class MissingPart(DojangError):
    """An optional dependency is not installed; the message has the command that installs it."""

    exit_code = 3


class FileError(DojangError):
    """A file that cannot be read, is damaged, or is not trusted."""

    exit_code = 4
