"""A contract type of import-linter: what one room of the package may import, packages from outside included.

Its own types forbid what they name, so a package that nobody thought of passes. This one allows what it names and
forbids the rest; only the standard library is open to every room.
"""

from __future__ import annotations

import sys
from typing import cast

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output
from importlinter.domain.imports import Module

STANDARD = sys.stdlib_module_names | {"__future__"}


class RoomContract(Contract):
    """Every import of the modules in `room` leads into the room itself, the standard library or `may_import`.

    - room: a package, with all that lies in it, or a module.
    - may_import: packages of the house ("dojang.base") and from outside ("numpy"), each with all that lies in it.
    - but: packages in the room that have a contract of their own.

    Imports inside functions and for types only count like all others.
    """

    type_name = "room"

    room = fields.ModuleField()
    may_import = fields.ListField(subfield=fields.ModuleField(), required=False, default=[])
    but = fields.ListField(subfield=fields.ModuleField(), required=False, default=[])

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Looks at each import of each module of the room."""
        del verbose
        room = cast(Module, self.room).name
        allowed = (room, *(m.name for m in cast(list[Module], self.may_import)))
        apart = tuple(m.name for m in cast(list[Module], self.but))
        for name in (room, *apart):
            if name not in graph.modules:
                raise ValueError(f"{name} is no module; rename it in the contract too")
        found: list[tuple[str, str, int]] = []
        for module in sorted({room, *graph.find_descendants(room)}):
            if _within(module, apart):
                continue
            for imported in sorted(graph.find_modules_directly_imported_by(module)):
                if not _within(imported, allowed) and imported.split(".")[0] not in STANDARD:
                    lines = graph.get_import_details(importer=module, imported=imported)
                    found += [(module, imported, detail["line_number"]) for detail in lines]
        return ContractCheck(kept=not found, metadata={"found": found})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """One line for each import that is not allowed."""
        for module, imported, line in check.metadata["found"]:
            output.print_error(f"{module} (line {line}) imports {imported}, which its room may not", bold=False)


def _within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)
