"""A contract for import-linter that names what a package may import, where its own kinds name what it may not."""

from __future__ import annotations

import sys
from typing import Any, cast

import grimp
from importlinter import Contract, ContractCheck, fields, output


class AllowListContract(Contract):
    """The importers import nothing of some packages but the allowed modules and what these contain.

    Options:
        importers: modules, each with what it contains.
        of: the packages to which the list applies; without it everything but the importers and the standard library.
        allowed: modules that may be imported. They need not exist yet.
    """

    type_name = "allow_list"

    importers = fields.SetField(subfield=fields.StringField())
    of = fields.SetField(subfield=fields.StringField(), required=False)
    allowed = fields.SetField(subfield=fields.StringField(), required=False)

    def check(self, graph: grimp.ImportGraph, verbose: bool) -> ContractCheck:
        """The imports that break the contract, one line each, under `metadata["imports"]`."""
        importers = cast("set[str]", self.importers)
        of, allowed = cast("set[str]", self.of or set()), cast("set[str]", self.allowed or set())
        broken = [
            f"{importer} imports {imported}"
            for importer in sorted(graph.modules)
            if _within(importer, importers)
            for imported in sorted(graph.find_modules_directly_imported_by(importer))
            if not _within(imported, importers | allowed)
            and (_within(imported, of) if of else imported.partition(".")[0] not in sys.stdlib_module_names)
        ]
        return ContractCheck(kept=not broken, metadata={"imports": broken})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print what `check` found."""
        for line in cast("dict[str, Any]", check.metadata)["imports"]:
            output.print_error(line)


def _within(module: str, packages: set[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)
