"""What a filter method is, and names that all of them use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dojang.filters.code.box import Box
from dojang.filters.code.columns import Columns
from dojang.filters.code.doubling import Doubling
from dojang.filters.code.fourier import Fourier
from dojang.filters.code.loops import Loops
from dojang.filters.code.pairs import Pairs
from dojang.filters.code.program import RowProgram
from dojang.filters.code.straight import Straight


@dataclass(frozen=True, slots=True)
class Method:
    """A method for a job: its program (or box, or Fourier tile) and its predicted cycles per element."""

    name: str
    cycles: float
    program: RowProgram | Box | Columns | Doubling | Straight | Fourier | Pairs | Loops | None = None
    taps: NDArray | Callable[[], NDArray] | None = None  # or what makes them, once the method is chosen
    detail: str = ""


def kind_of(dtype: np.dtype) -> str:
    """The code generator's name of a dtype."""
    return _KINDS[dtype]


_KINDS = {np.dtype(name): kind for name, kind in (("u1", "u8"), ("u2", "u16"), ("f4", "f32"), ("f8", "f64"))}
