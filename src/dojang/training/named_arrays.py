"""Which array of an .npz or of a Zarr group is which: samples and labels of each part, and names of the classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from dojang.base.errors import DataError
from dojang.training.parts import SYNONYMS, as_two, part_of

_ROLES = {
    "x": ("x", "data", "images", "image", "samples", "signals", "inputs", "features"),
    "y": ("y", "labels", "label", "targets", "target"),
    "classes": ("classes", "class_names", "classnames", "label_names"),
}
_ROLE = {name: role for role, names in _ROLES.items() for name in names}


def array_names(names: Iterable[str], where: str) -> dict[str, str]:
    """What each known array is, by its name: {"X_Train": "x_train", "labels": "y", …}; others are left out.

    Raises DataError for two names of one thing, and for samples or labels of a part that is not known.

    >>> array_names(["train_images", "Y_train", "index"], "a.npz")
    {'train_images': 'x_train', 'Y_train': 'y_train'}
    """
    found: dict[str, str] = {}
    for name in names:
        meaning = _meaning(name, where)
        if meaning is None:
            continue
        if meaning in found.values():
            other = next(k for k, v in found.items() if v == meaning)
            raise DataError(f"{where}: {other} and {name} mean the same; take one away")
        found[name] = meaning
    return found


def _meaning(name: str, where: str) -> str | None:
    whole = name.casefold()
    if whole in _ROLE:
        return _ROLE[whole]
    words = [w for w in re.split(r"[_\-. /]", whole) if w]
    if len(words) != 2:
        return None
    for role, part in (words, words[::-1]):
        if _ROLE.get(role) in ("x", "y") and (known := part_of(part)):
            return f"{_ROLE[role]}_{known}"
    if words[0] in ("x", "y"):
        raise DataError(
            f"{where}: {name} is of no part known here; name the parts {', '.join(n[0] for n in SYNONYMS.values())}"
        )
    return None


def pairs_of(arrays: Mapping[str, Any], where: str) -> dict[str, tuple[Any, Any]]:
    """(samples, labels) of each part; where there is no test part, the validation part is it.

    Raises DataError where samples or labels of a part are missing.
    """
    if "x" in arrays and "x_train" in arrays:
        raise DataError(f"{where}: x and x_train both name the samples to train on; take one away")
    pairs: dict[str, tuple[Any, Any]] = {}
    for part in SYNONYMS:
        x, y = (arrays.get(f"{role}_{part}", arrays.get(role) if part == "train" else None) for role in ("x", "y"))
        if part == "train" and (x is None or y is None):
            found = ", ".join(sorted(arrays)) or "none of the known names"
            raise DataError(f"{where}: needs arrays x and y; found {found}")
        if (x is None) != (y is None):
            raise DataError(f"{where}: x_{part} and y_{part} go together; one of them is missing")
        if x is not None:
            pairs[part] = (x, y)
    return {part: pairs[name] for part, name in as_two({part: part for part in pairs}).items()}


def class_names(names: Any) -> tuple[str, ...]:
    """The names in an array of text, bytes or numbers."""
    return tuple(n.decode() if isinstance(n, bytes) else str(n) for n in np.asarray(names).ravel().tolist())
