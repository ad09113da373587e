"""What `item()` gives while a forward is followed: a number that nobody knows; only comparisons are decided."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn


class UnknownNumber:
    """A number taken out of a tensor. Each comparison is a decision, which can be followed both ways; any other use
    raises what `refuse` raises.
    """

    def __init__(self, decide: Callable[[], bool], refuse: Callable[[], NoReturn]) -> None:
        self._decide, self._refuse = decide, refuse

    def _compare(self, other: object) -> bool:
        del other
        return self._decide()

    __lt__ = __le__ = __gt__ = __ge__ = _compare

    def __eq__(self, other: object) -> bool:
        return self._compare(other)

    def __ne__(self, other: object) -> bool:
        return self._compare(other)

    def __bool__(self) -> bool:
        return self._decide()

    def __hash__(self) -> int:
        return self._refuse()

    def _use(self, *_: Any) -> NoReturn:
        self._refuse()

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __floordiv__ = _use
    __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __neg__ = __abs__ = __round__ = _use
    __int__ = __float__ = __index__ = __str__ = __format__ = _use  # pyright: ignore[reportAssignmentType]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Handed to a PyTorch function: so that the call arrives at the tracer, which refuses it."""
        number = next(a for a in args if isinstance(a, UnknownNumber))
        return number._refuse()
