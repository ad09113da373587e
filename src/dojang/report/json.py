"""Results as JSON documents: one object with its schema, the version, the inputs and the convention."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from pathlib import PurePath
from typing import Any

from dojang.base.showing import is_plain
from dojang.base.version import __version__


def document(
    command: str, inputs: Mapping[str, Any], result: Mapping[str, Any], convention: Any = None
) -> dict[str, Any]:
    """The object that `--json` prints: `schema`, `version`, `inputs`, `convention`, then the result's own keys.

    `convention` is used if the result has none of its own.
    """
    head = {"schema": f"dojang.{command}/1", "version": __version__, "inputs": dict(inputs), "convention": convention}
    return plain({**head, **result})


def dumps(value: Any) -> str:
    """JSON text with two-space indents; numbers raw; what is not finite becomes null.

    Letters are written as they are. Control characters, invisible characters and unpaired surrogates are written as
    JSON escapes, so that the text is valid UTF-8 and means the same.
    """
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    return text if is_plain(text.replace("\n", "")) else _escaped(text)


def _escaped(text: str) -> str:
    return "".join(c if c == "\n" or is_plain(c) else json.dumps(c)[1:-1] for c in text)


def plain(value: Any) -> Any:
    """The value in JSON's own types: tuples and sets become lists, paths text, array scalars numbers, NaN null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return [plain(v) for v in sorted(value)]
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "tolist"):  # NumPy scalars and arrays, without importing NumPy
        return plain(value.tolist())
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    return str(value)
