"""Tables of operators: what one part of dojang does with each operator, and why it does not support the others.

Every part that treats operators one by one has a `Table`. An operator with neither an entry nor a reason is a gap:
`gaps` lists it, and a network with that operator gives an error that names it. `tests/test_operators.py` fails for
gaps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from dojang.arith.graph import Node
from dojang.arith.ops import OPS, UNKNOWN
from dojang.base.errors import UnsupportedError

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Table(Mapping[str, Entry], Generic[Entry]):
    """Entries by operator name, and the reason for each operator that has none.

    `consumer`: a short name, as `dojang list operators` shows it. `cannot`: the end of the sentence
    "operator relu cannot be ..." for an operator without an entry. `place`: the module that holds the table.
    """

    consumer: str
    cannot: str
    place: str
    entries: Mapping[str, Entry]
    absent: Mapping[str, str]

    def __getitem__(self, op: str) -> Entry:
        return self.entries[op]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def of(self, node: Node) -> Entry:
        """The entry for a node. Raises `UnsupportedError` with the names of node and operator, and the reason."""
        if node.op in self.entries:
            return self.entries[node.op]
        op = node.attrs["kind"] if node.op == UNKNOWN else node.op
        why = self.absent.get(node.op, f"{self.place} does not list it")
        raise UnsupportedError(f"{node.name}: operator {op} cannot be {self.cannot}; {why}")

    def find(self, node: Node) -> Entry | None:
        """The entry for a node, or None if the table has a reason why there is none; raises like `of` for a gap."""
        return None if node.op in self.absent else self.of(node)

    def why_not(self, op: str) -> str | None:
        """Why an operator has no entry; None if it has one."""
        return None if op in self.entries else self.absent.get(op, f"{self.place} does not list it")

    def gaps(self) -> tuple[str, ...]:
        """Each disagreement between the table and `OPS` as a sentence; empty if every operator has an entry or a
        reason.
        """
        found: list[str] = []
        for op in sorted({*OPS, *self.entries, *self.absent}):
            where = f"{self.consumer} ({self.place})"
            if op not in OPS:
                found.append(f"{where} lists {op}, which is not an operator")
            elif op in self.entries and op in self.absent:
                found.append(f"{where} has {op}, and says why it does not")
            elif op not in self.entries and not self.absent.get(op):
                found.append(f"{where} neither has {op} nor says why not")
        return tuple(found)


def because(why: str, names: str) -> dict[str, str]:
    """One reason for several operators, whose names are separated by spaces.

    >>> because("it has no attributes", "relu tanh")
    {'relu': 'it has no attributes', 'tanh': 'it has no attributes'}
    """
    return dict.fromkeys(names.split(), why)
