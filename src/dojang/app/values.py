"""From what a person types after a flag to the value that a verb takes. Standard library only."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any


def sizes(text: str) -> Any:
    """C,H,W as numbers; x may stand for the comma. Several inputs are separated by semicolons, in order or by name.

    >>> sizes("3,224,224"), sizes("3x48x48;10"), sizes("image=3,48,48;tokens=10")
    ((3, 224, 224), ((3, 48, 48), (10,)), {'image': (3, 48, 48), 'tokens': (10,)})
    """
    return _inputs(text, _numbers)


def sizes_or_names(text: str) -> Any:
    """C,H,W as numbers, or names for sizes that stay symbols. Several inputs as in `sizes`.

    >>> sizes_or_names("3,H,W"), sizes_or_names("3x224x224;10")
    ((3, 'H', 'W'), ((3, 224, 224), (10,)))
    """
    return _inputs(text, lambda part: tuple(number_or_name(n) for n in re.split("[,xX]", part)))


def _numbers(part: str) -> tuple[int, ...]:
    try:
        return tuple(int(n) for n in part.lower().replace("x", ",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{part!r} is no size; write C,H,W such as 3,224,224, for several inputs '3,48,48;10'"
        ) from None


def _inputs(text: str, size: Callable[[str], tuple[Any, ...]]) -> Any:
    """One size, one per input in order, or one per input by name; a name may hold any character but ";"."""
    parts = text.split(";")
    pairs = [part.rpartition("=") for part in parts]
    named = [bool(sign) for _, sign, _ in pairs]
    if not any(named):
        every = tuple(size(part) for part in parts)
        return every if len(every) > 1 else next(iter(every))
    names = [name.strip() for name, _, _ in pairs]
    if not all(named) or not all(names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r}: give every input once, by name, as in 'image=3,48,48;tokens=10'")
    return {name: size(part) for name, (_, _, part) in zip(names, pairs, strict=True)}


def words(text: str) -> tuple[str, ...]:
    """Words with commas between them.

    >>> words("layer, macs")
    ('layer', 'macs')
    """
    return tuple(part.strip() for part in text.split(",") if part.strip())


def number_or_name(text: str) -> int | str:
    """A whole number, or a name that stays a symbol, perhaps times a number: H, 32H."""
    if re.fullmatch(r"[0-9]{0,6}[A-Za-wyz][A-Za-wyz0-9_]*", text.strip(), re.ASCII):
        return text.strip()
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size; write C,H,W such as 3,224,224, or 3,H,W or 3,32H,32W for formulas"
        ) from None


def batch_or_name(text: str) -> int | str:
    """A batch size of at least 1, or a name that stays a symbol."""
    return text if text.isidentifier() and text.isascii() else positive(text)


def seed(text: str) -> int:
    """A whole number from 0 to below 2^63, as PyTorch's generators take them."""
    number = whole(text)
    if not 0 <= number < 1 << 63:
        raise argparse.ArgumentTypeError(f"{text[:40]} is no seed; give a whole number from 0 to below 2^63")
    return number


def whole(text: str) -> int:
    """A whole number; K, M and G stand for powers of 1000."""
    scale = {"k": 10**3, "m": 10**6, "g": 10**9}.get(text[-1:].lower(), 1)
    digits = text[:-1] if scale > 1 else text
    try:
        value = float(digits.replace("_", "").replace(",", "")) * scale
        exact = int(digits) * scale if digits.isdecimal() else int(value)
        if exact != value and not digits.isdecimal():
            raise ValueError
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    return exact


def either_order(text: str) -> tuple[int, ...]:
    """A shape as (c, h, w), from HxWxC (channels last, as papers write it) or C,H,W (channels first, as code has it).

    >>> either_order("224x112x3"), either_order("3,224,112")
    ((3, 224, 112), (3, 224, 112))
    """
    try:
        if "," in text:
            if "x" in text.lower():
                raise ValueError
            return tuple(int(n) for n in text.split(","))
        *spatial, channels = (int(n) for n in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no shape; write HxWxC such as 224x224x3, or C,H,W such as 3,224,224"
        ) from None
    return (channels, *spatial)


def pads_or_each(text: str) -> int | tuple[Any, ...]:
    """Padding: one number for all axes or one for each; each may be before:after.

    >>> pads_or_each("1"), pads_or_each("0:1"), pads_or_each("1,0:1")
    (1, ((0, 1),), (1, (0, 1)))
    """
    try:
        every = [tuple(int(n) for n in part.split(":")) for part in text.split(",")]
        if any(len(pair) > 2 for pair in every):
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: give one whole number, or one for each axis with commas between them; before:after where the "
            "two sides differ, such as 0:1"
        ) from None
    each = tuple(pair if len(pair) == 2 else pair[0] for pair in every)
    return each[0] if len(each) == 1 and isinstance(each[0], int) else each


def one_or_each(text: str) -> int | tuple[int, ...]:
    """One number for all axes, or one for each.

    >>> one_or_each("3"), one_or_each("3,5")
    (3, (3, 5))
    """
    every = _per_axis(text)
    return every[0] if len(every) == 1 else every


def per_channel(text: str) -> float | tuple[float, ...]:
    """One number, or one for each channel with commas.

    >>> per_channel("0.5"), per_channel("0.485,0.456,0.406")
    (0.5, (0.485, 0.456, 0.406))
    """
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number, nor numbers with commas, such as 0.5,0.5,0.5"
        ) from None
    return numbers[0] if len(numbers) == 1 else numbers


def axes(text: str) -> int | tuple[int, int]:
    """One number for both axes, or two: rows,columns."""
    match _per_axis(text):
        case (both,):
            return both
        case (rows, columns):
            return rows, columns
        case _:
            raise argparse.ArgumentTypeError(f"{text!r}: give one number or two, as rows,columns")


def place(text: str) -> tuple[int, int]:
    """A row and a column, counted from 0.

    >>> place("0,2")
    (0, 2)
    """
    match _per_axis(text):
        case (row, column) if min(row, column) >= 0:
            return row, column
        case _:
            raise argparse.ArgumentTypeError(f"{text!r}: give a row and a column, counted from 0, as 0,2")


def _per_axis(text: str) -> tuple[int, ...]:
    """Whole numbers, one for each axis; x may stand for the comma."""
    try:
        return tuple(int(n) for n in text.lower().replace("x", ",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: give one whole number, or one for each axis with commas between them, such as 3,5"
        ) from None


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return value
