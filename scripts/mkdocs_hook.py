"""What MkDocs is told beside mkdocs.yml: the order of pages, the README as first page, files outside docs/, and the
reference, which is made from the docstrings of the public names.

The build stops on a page without a place in the order, on a broken link, and on a public name without a docstring.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

import dojang

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "dojang"
ORDER = {
    "Begin": ["index.md", "index.ko.md", "glossary.md"],
    "Count": ["arithmetic.md", "notation.md", "notes.md"],
    "Run": ["show.md", "browser.md", "engine.md", "conv-to-machine-code.md", "costs.md", "filters.md"],
    "Find and cut": ["diagnose.md", "slim.md", "finding-to-cut.md", "train.md"],
    "Look up": [
        *("commands.md", "python.md", "json.md", "exit-codes.md", "formats.md", "environment.md", "limits.md"),
        *("reference/names.md", "reference/rooms.md"),
    ],
    "The project": ["results.md", "house.md", "contributing.md", "changes.md"],
}
"""Sections and their pages; a page that does not exist yet is left out."""

BROUGHT = {
    "README.md": "index.md",
    "README.ko.md": "index.ko.md",
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
}
"""Pages that lie outside docs/, and their names on the site."""

ROOMS = "base arith native formats engine evidence filters training diagnosis slimming report app".split()
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")


def undocumented(name: str, value: object) -> list[str]:
    """The public name itself, and the public methods and properties of a class, that have no docstring."""
    if name.startswith("__"):
        return []
    found = [name] if not inspect.getdoc(value) else []
    if inspect.isclass(value):
        for part, member in vars(value).items():
            asked = inspect.isfunction(member) or isinstance(member, property | classmethod | staticmethod)
            if asked and not part.startswith("_") and not inspect.getdoc(getattr(value, part)):
                found.append(f"{name}.{part}")
    return found


def reference() -> str:
    """A page of all public names, in the order of the alphabet."""
    parts = ["# Public names", "All that `dojang.__all__` holds: these names stay (see the rule for deprecations)."]
    missing = []
    for name in dojang.__all__:
        if name == "__version__":
            continue
        value: Any = getattr(dojang, name)
        missing += undocumented(name, value)
        parts.append(f"::: {value.__module__}.{value.__qualname__}")
    if missing:
        raise PluginError(f"public names without a docstring: {', '.join(missing)}")
    return "\n\n".join(parts) + "\n"


def rooms() -> str:
    """A page of all modules by room, each with the first paragraph of its docstring."""
    parts = ["# Rooms and modules", "What each file is about. Names in here may change between versions."]
    for room in ROOMS:
        parts += [f"## {room}", first(docstring_of(SOURCE / room / "__init__.py"), room)]
        files = sorted(file for file in (SOURCE / room).rglob("*.py") if file != SOURCE / room / "__init__.py")
        rows = [
            f"| `{name}` | {first(docstring_of(file), name).replace('|', chr(92) + '|')} |"
            for file in files
            for name in [file.relative_to(SOURCE).as_posix()]
        ]
        parts.append("\n".join(["| module | about |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def docstring_of(file: Path) -> str | None:
    """The docstring of a module, which is not run."""
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))


def first(docstring: str | None, name: str) -> str:
    """The first paragraph on one line, with square brackets that make no link."""
    if not docstring:
        raise PluginError(f"{name} has no docstring")
    text = " ".join(docstring.strip().split("\n\n")[0].split())
    return re.sub(r"(`[^`]*`)|([\[\]])", lambda found: found[1] or "\\" + found[2], text)


def on_config(config: Any) -> Any:
    """The pages in their order."""
    here = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    here |= {name for source, name in BROUGHT.items() if (ROOT / source).exists()}
    here |= {"reference/names.md", "reference/rooms.md"}
    config.nav = [{title: [p for p in pages if p in here]} for title, pages in ORDER.items()]
    if placeless := here - {p for pages in ORDER.values() for p in pages}:
        raise PluginError(f"no place in ORDER of scripts/mkdocs_hook.py for {', '.join(sorted(placeless))}")
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages and files from outside docs/, and the reference."""
    for source, name in BROUGHT.items():
        if (ROOT / source).exists():
            text = (ROOT / source).read_text(encoding="utf-8")
            files.append(File.generated(config, name, content=moved(text, Path(source).parent)))
    for path in sorted((ROOT / "bench" / "results").iterdir()):
        files.append(File.generated(config, f"bench/results/{path.name}", abs_src_path=str(path)))
    files.append(File.generated(config, "LICENSE", abs_src_path=str(ROOT / "LICENSE")))
    files.append(File.generated(config, "reference/names.md", content=reference()))
    files.append(File.generated(config, "reference/rooms.md", content=rooms()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links that leave docs/ lead to where the site has these files."""
    return moved(markdown, Path("docs")) if page.file.generated_by is None else markdown


def moved(text: str, folder: Path) -> str:
    """Links written for a page in this folder of the repository, as links of the site's top folder."""

    def link(found: re.Match[str]) -> str:
        target, anchor = found[1], found[2] or ""
        if ":" in target:
            return found[0]
        path = (ROOT / folder / target).resolve()
        if not path.is_relative_to(ROOT) or not path.exists():
            return found[0]  # MkDocs says that it leads nowhere
        name = path.relative_to(ROOT).as_posix()
        return f"]({BROUGHT.get(name, name.removeprefix('docs/'))}{anchor})"

    text = LINK.sub(link, text)
    return re.sub(r'((?:src|srcset)=")docs/', r"\1", text)
