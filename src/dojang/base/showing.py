r"""Text from files and networks, made safe for a terminal: characters that could move the cursor or change the reading
order are written as escapes.

>>> shown("conv\x1b[31m1"), shown("a\u202eb"), shown("a\nb"), shown("도장 conv1")
('conv\\x1b[31m1', 'a\\u202eb', 'a\\nb', '도장 conv1')

Standard library only.
"""

from __future__ import annotations

import unicodedata

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
# Control characters, formatting (bidirectional overrides and zero-width characters included), surrogates, line and
# paragraph separators; private and unassigned characters have no standard glyph.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def shown(text: str, keep: str = "") -> str:
    r"""`text` with every control character and every invisible character as an escape such as ``\x1b``.

    Characters in `keep` stay as they are (a message of several lines keeps its "\n").
    """
    if is_plain(text):
        return text
    return "".join(_one(letter, keep) for letter in text)


def is_plain(text: str) -> bool:
    """Whether a terminal shows every character of `text` as a letter, a symbol or a space."""
    return text.isprintable() or not any(unicodedata.category(letter) in _HIDDEN for letter in text)


def encodable(name: str) -> str:
    r"""`name` as valid UTF-8: an unpaired surrogate (from a file name in an unknown encoding) becomes an escape.

    >>> encodable("\udcff")
    '\\udcff'
    """
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def columns_of(text: str) -> int:
    """The columns that a terminal gives to `text`: two for wide letters (Hangul, Chinese, kana, full width), none for
    marks that stand on the letter before them.

    Unicode Standard Annex 11, East Asian Width.

    >>> columns_of("conv1"), columns_of("도장 conv1"), columns_of("e\u0301")
    (5, 10, 1)
    """
    if text.isascii():
        return len(text)
    return sum(_columns(letter) for letter in text)


def _columns(letter: str) -> int:
    if unicodedata.combining(letter) or unicodedata.category(letter) in ("Mn", "Me"):
        return 0
    if "\u1160" <= letter <= "\u11ff":  # vowels and finals of Hangul join the initial before them
        return 0
    return 2 if unicodedata.east_asian_width(letter) in ("W", "F") else 1


def first_columns(text: str, most: int) -> str:
    """The beginning of `text` that fits into so many columns.

    >>> first_columns("도장 conv1", 6), first_columns("도장", 3)
    ('도장 c', '도')
    """
    if text.isascii():
        return text[:most]
    used = 0
    for place, letter in enumerate(text):
        used += _columns(letter)
        if used > most:
            return text[:place]
    return text


def last_columns(text: str, most: int) -> str:
    """The end of `text` that fits into so many columns.

    >>> last_columns("conv1 도장", 5)
    ' 도장'
    """
    if text.isascii():
        return text[-most:] if most > 0 else ""
    used = 0
    for place in range(len(text) - 1, -1, -1):
        used += _columns(text[place])
        if used > most:
            return text[place + 1 :]
    return text


def one_line(text: str, most: int = 1500) -> str:
    """`shown` text in one line with single spaces, without its middle if it is longer than `most` letters."""
    line = shown(" ".join(text.split()))
    if len(line) <= most:
        return line
    end = min(300, max(0, most - 3) // 2)
    return f"{line[: most - 3 - end]} … {line[-end:]}" if end else line[: max(0, most)]


def _one(letter: str, keep: str) -> str:
    if letter in keep or unicodedata.category(letter) not in _HIDDEN:
        return letter
    code = ord(letter)
    return _SHORT.get(letter) or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    )


def first_line(error: Exception) -> str:
    """The first line of an error's message, or the name of its class."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
