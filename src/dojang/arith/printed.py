"""Numbers as papers print them: 2.7K, ≈ 35k, 60,965,224, 3.8×10^9, 3.8e9, 15.3 billion, 4.1 GMACs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from dojang.base.errors import DataError

_WORDS = {"thousand": 3, "million": 6, "mn": 6, "billion": 9, "bn": 9, "trillion": 12}
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "b": 3, "t": 4}
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_THINGS = r"(?:mult(?:iply)?-?adds?|madds?|macs?|flops?|ops|operations|params?|parameters|weights)"
_NUMBER = re.compile(
    rf"""^[~≈]?\s*(?P<digits>\d{{1,3}}(?:[,_]\d\d\d)+|\d+)(?:\.(?P<decimals>\d+))?\s*
    (?: e\+?(?P<e>\d+)
      | [×x*·]\s*10\s*(?:\^|\*\*)?\s*\{{?(?P<ten>\d+|[⁰¹²³⁴⁵⁶⁷⁸⁹]+)\}}?
      | (?P<word>{"|".join(_WORDS)})
      | (?P<unit>[kmgbt]?)
    )\s*{_THINGS}?$""",
    re.VERBOSE | re.IGNORECASE,
)
LONGEST = 30
"""The most digits of a number, and the largest power of ten."""


@dataclass(frozen=True, slots=True)
class Printed:
    """A printed number: its digits as a number, the number of decimals, and its factor.

    `power`: the power of K (1000 or 1024): 0 for none, 1 for K, 2 for M, 3 for G or B, 4 for T. `ten`: the power of ten
    of a factor such as ×10^9 or billion. `significant`: the number of significant digits. `unit`: the factor as
    written.
    """

    value: float
    decimals: int
    power: int
    ten: int = 0
    significant: int = 0
    unit: str = ""

    @classmethod
    @lru_cache(maxsize=4096)  # a check reads the same cells thousands of times
    def read(cls, text: str) -> Printed:
        """Reads a number from text; raises `DataError`.

        >>> [Printed.read(t).value for t in ("2.7K", "≈ 35k", "60,965,224", "3.8×10^9", "3.8e9", "15.3 billion")]
        [2.7, 35.0, 60965224.0, 3.8, 3.8, 15.3]
        >>> Printed.read("3.8×10⁹").ten, Printed.read("4.1 GMACs").power
        (9, 3)
        """
        match = _NUMBER.match(text.strip())
        if match is None:
            raise DataError(f"{text!r} is not a number such as 34M, 2.7K, 60,965,224, 3.8e9, 3.8×10^9 or 15.3 billion")
        digits, decimals = re.sub("[,_]", "", match["digits"]), match["decimals"] or ""
        raised = match["e"] or (match["ten"] or "").translate(_RAISED)
        ten = int(raised[:4]) if raised else _WORDS.get((match["word"] or "").lower(), 0)
        if len(digits + decimals) > LONGEST or ten > LONGEST:
            raise DataError(f"{text[:40]!r} has more than {LONGEST} digits or a power of ten above {LONGEST}")
        unit = f"×10^{ten}" if raised else f" {match['word']}" if match["word"] else ""
        power = _POWER[(match["unit"] or "").lower()]
        significant = len((digits + decimals).lstrip("0"))
        return cls(float(f"{digits}.{decimals or 0}"), len(decimals), power, ten, significant,
                   unit or ("", "K", "M", "G", "T")[power])  # fmt: skip

    @property
    def step(self) -> float:
        """One unit of the last digit, relative to the number."""
        return 10.0**-self.decimals / self.value if self.value else 1.0

    def scaled(self, value: int, thousand: int) -> float:
        """A value in the unit of this number."""
        return value / (thousand**self.power * 10**self.ten)
