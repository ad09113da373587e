"""Records whose text is a key: of packed weights, of kernels in memory and on disk."""

from __future__ import annotations

from dataclasses import fields
from typing import TypeVar

T = TypeVar("T")


def plain_repr(cls: type[T]) -> type[T]:
    """A dataclass whose `repr` depends on its fields alone.

    That of `dataclass` guards itself against cycles by a set of what is being shown. An interrupt between its lines
    leaves an entry there, and then another object at the same address shows as "...": as a key it would stand for
    any object, and one layer would get the weights or the kernel of another.
    """
    names = tuple(field.name for field in fields(cls) if field.repr)  # pyright: ignore[reportArgumentType]

    def text(self: T) -> str:
        return f"{cls.__qualname__}({', '.join([f'{name}={getattr(self, name)!r}' for name in names])})"

    cls.__repr__ = text  # pyright: ignore[reportAttributeAccessIssue]
    return cls
