"""What filters the arrays of other libraries, such as PyTorch's tensors, by the name of their module.

`dojang.filters` must not import PyTorch or `dojang.app`, so `dojang/__init__.py` gives the functions; each imports
what it needs when it is first called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

FOREIGN: dict[str, Callable[..., Any]] = {}
"""By library: `(image, kernel, options, anchor, layout, threads)` gives the filtered array of that library."""
