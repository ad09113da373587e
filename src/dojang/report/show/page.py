"""The page as one text: the modules of `report/web` joined, the data, and a content policy that allows just these.

The modules are plain ES modules, which type checkers and tests import as they stand. On the page they are one script:
the `import` lines go, and `export` before a declaration; so a name at the top of a module stands once over all of them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from dojang.report.markup import escape

MODULES = (
    *("words", "elements", "painting", "stamping", "source", "scaling", "compute", "computing", "network", "maps"),
    *("cases", "stamp", "sight", "waste", "sides", "main"),
)
"""The modules in an order in which each stands behind those that it imports."""

_IMPORT = re.compile(r"^import [^;]*;\n", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=const|let|function|async|class)", re.MULTILINE)


@cache
def script() -> str:
    """All modules as one script."""
    web = files("dojang.report") / "web"
    parts = [(web / f"{name}.mjs").read_text(encoding="utf-8") for name in MODULES]
    return "".join(_EXPORT.sub("", _IMPORT.sub("", part)) for part in parts)


@cache
def styles() -> str:
    """The style sheet."""
    return (files("dojang.report") / "web" / "page.css").read_text(encoding="utf-8")


def policy(served: bool) -> str:
    """The content policy: this script, this style sheet, pictures of its own; requests to its own server at most."""
    allowed = f"script-src '{_digest(script())}' 'wasm-unsafe-eval'; style-src '{_digest(styles())}'"
    asks = "'self'" if served else "'none'"
    return (
        f"default-src 'none'; {allowed}; img-src data: blob:; connect-src {asks}; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def shown_page(data: Mapping[str, Any], content: bytes = b"", title: str = "dojang", served: bool = False) -> str:
    """The page with its data, and with `content`, bytes that the data refer to."""
    # "<" as an escape, so that no name in the data can end the element.
    told = json.dumps(data, allow_nan=False, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy(served)}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{styles()}</style></head>\n'
        f'<body><div id="page"></div><script type="application/json" id="data">{told}</script>'
        f'<script type="text/plain" id="bytes">{base64.b64encode(content).decode()}</script>'
        f'<script type="module">{script()}</script></body></html>\n'
    )
