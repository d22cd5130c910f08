"""Small pieces of Go that results and error texts depend on: 64-bit integers, quoted strings, the stable
sort.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

INT_MIN: Final = -(2**63)

_T = TypeVar("_T")


def go_int(number: float) -> int:
    """`int(number)` of a float64 on amd64: truncated; what does not fit, NaN included, becomes the smallest
    int.
    """
    return int(number) if -(2.0**63) <= number < 2.0**63 else INT_MIN


def wrapped(number: int) -> int:
    """The int64 that Go's arithmetic leaves of a result that may not fit."""
    return (number + 2**63) % 2**64 - 2**63


_ESCAPES = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
}


def quoted(text: str) -> str:
    """`%q`: the text as a Go string literal."""
    return '"' + "".join(map(_quoted_char, text)) + '"'


def _quoted_char(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char == " " or char.isprintable():
        return char
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


_BLOCK = 20  # Go's sort.SliceStable: insertion sort of blocks of 20, then merges


def stable_sort(items: list[_T], less: Callable[[_T, _T], bool]) -> None:
    """Go's `sort.SliceStable`, step by step.

    For a `less` that is a strict weak order any stable sort gives this result. For one that is not (values of
    mixed types, NaN) only the same comparisons in the same order do.
    """
    count = len(items)
    block = _BLOCK
    for start in range(0, count, block):
        _insertion_sort(items, start, min(start + block, count), less)
    while block < count:
        for start in range(0, count - block, 2 * block):
            _merge(items, start, start + block, min(start + 2 * block, count), less)
        block *= 2


def _insertion_sort(items: list[_T], start: int, end: int, less: Callable[[_T, _T], bool]) -> None:
    for i in range(start + 1, end):
        j = i
        while j > start and less(items[j], items[j - 1]):
            items[j], items[j - 1] = items[j - 1], items[j]
            j -= 1


def _merge(items: list[_T], low: int, middle: int, high: int, less: Callable[[_T, _T], bool]) -> None:
    """Merges items[low:middle] and items[middle:high] in place (Kim and Kutzner's SymMerge, as Go has it)."""
    if middle - low == 1:
        left, right = middle, high
        while left < right:
            half = (left + right) // 2
            if less(items[half], items[low]):
                left = half + 1
            else:
                right = half
        items[low:left] = [*items[low + 1 : left], items[low]]
        return
    if high - middle == 1:
        left, right = low, middle
        while left < right:
            half = (left + right) // 2
            if not less(items[middle], items[half]):
                left = half + 1
            else:
                right = half
        items[left : middle + 1] = [items[middle], *items[left:middle]]
        return
    centre = (low + high) // 2
    total = centre + middle
    if middle > centre:
        start, right = total - high, centre
    else:
        start, right = low, middle
    last = total - 1
    while start < right:
        half = (start + right) // 2
        if not less(items[last - half], items[half]):
            start = half + 1
        else:
            right = half
    end = total - start
    if start < middle < end:
        items[start:end] = items[middle:end] + items[start:middle]
    if low < start < centre:
        _merge(items, low, start, centre, less)
    if centre < end < high:
        _merge(items, centre, end, high, less)
