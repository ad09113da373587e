"""What decodes TIFF: the optional package tifffile, and what it cannot decode without imagecodecs."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
from typing import Any


def tifffile_package() -> Any:
    """The optional package; its messages about a damaged file become part of dojang's error, and are not printed."""
    module = importlib.import_module("tifffile")
    logger = logging.getLogger("tifffile")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return module


def missing_codec(tifffile: Any, compression: int, predictor: int) -> str:
    """What tifffile cannot decode here without imagecodecs, by name; "" if it can decode strips of such a file."""
    with_imagecodecs = importlib.util.find_spec("imagecodecs") is not None
    if predictor not in (1, 2) and not with_imagecodecs:
        return f"predictor {predictor}"
    if compression == 1:
        return ""
    try:
        there = tifffile.TIFF.DECOMPRESSORS[compression] is not None
    except (KeyError, ImportError):
        there = False
    if compression == 50000 and not with_imagecodecs:  # tifffile would use a module of Python 3.14
        there = there and importlib.util.find_spec("compression") is not None
    if there:
        return ""
    with contextlib.suppress(ValueError):
        return f"{tifffile.COMPRESSION(compression).name} compression"
    return f"compression {compression}"
