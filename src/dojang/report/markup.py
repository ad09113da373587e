"""Text for pages: markup characters become entities, and invisible characters become escapes."""

from __future__ import annotations

import html

from dojang.base.showing import shown


def escape(text: str) -> str:
    r"""`text` for HTML and SVG, element content or attribute value.

    >>> escape("a<b \u202e")
    'a&lt;b \\u202e'
    """
    return html.escape(shown(text, keep="\n\t"))
