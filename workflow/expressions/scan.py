"""Splitting of expression texts: the original has no tokenizer, it cuts strings, and these are its knives.

All functions look at ASCII characters only, so it makes no difference that the original scans bytes.
"""

from __future__ import annotations

import re

from workflow.values import parse_float


def find_operator(text: str, operator: str) -> int:
    """Index of the first `operator` outside parentheses, or -1. Quotes and brackets are not respected."""
    start = text.find(operator)
    if start < 0:
        return -1
    depth = 0
    position = 0
    while start >= 0:
        depth += text.count("(", position, start) - text.count(")", position, start)
        if depth == 0:
            return start
        position = start
        start = text.find(operator, start + 1)
    return -1


def unwrap(text: str, strip: str) -> str:
    """The text without the pairs of parentheses, and white space, that enclose all of it."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    closes: dict[int, int] = {}
    open_at: list[int] = []
    for index, char in enumerate(text):
        if char == "(":
            open_at.append(index)
        elif char == ")" and open_at:
            closes[open_at.pop()] = index
    start, end = 0, len(text) - 1
    while start < end and text[start] == "(" and closes.get(start) == end:
        start, end = start + 1, end - 1
        while start <= end and text[start] in strip:
            start += 1
        while end >= start and text[end] in strip:
            end -= 1
    return text[start : end + 1]


def split_arguments(text: str, strip: str, *, nested: bool) -> list[str]:
    """Arguments between commas outside quotes and, when `nested`, outside parentheses. No text, no
    argument.
    """
    arguments: list[str] = []
    quote = ""
    depth = 0
    start = 0
    for index, char in enumerate(text):
        if char in "\"'":
            if not quote:
                quote = char
            elif char == quote:
                quote = ""
        elif quote:
            continue
        elif char == "," and depth == 0:
            arguments.append(text[start:index].strip(strip))
            start = index + 1
        elif nested and char == "(":
            depth += 1
        elif nested and char == ")" and depth > 0:
            depth -= 1
    if start < len(text):
        arguments.append(text[start:].strip(strip))
    return arguments


def split_path(path: str) -> list[str]:
    """Parts of a path: cut at dots outside parentheses and brackets, empty parts dropped."""
    if "(" not in path and "[" not in path and ")" not in path and "]" not in path:
        return [part for part in path.split(".") if part]
    parts: list[str] = []
    parens = brackets = start = 0
    for index, char in enumerate(path):
        if char == "(":
            parens += 1
        elif char == ")":
            parens -= 1
        elif char == "[":
            brackets += 1
        elif char == "]":
            brackets -= 1
        elif char == "." and parens == 0 and brackets == 0:
            if index > start:
                parts.append(path[start:index])
            start = index + 1
    if start < len(path):
        parts.append(path[start:])
    return parts


def call_end(text: str, start: int) -> int:
    """Index after the parenthesis that closes the one at `start`, quotes respected; -1 when nothing closes
    it.
    """
    depth = 0
    quote = ""
    for index in range(start, len(text)):
        char = text[index]
        if quote:
            if char == quote:
                quote = ""
        elif char in "\"'":
            quote = char
        elif char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
            if depth == 0:
                return index + 1
    return -1


# --- the number that a simple condition starts with (Go's Sscanf with %f) ---------------------------------

_SCAN = re.compile(
    r"(?:[nN][aA][nN]|[+-]?[iI][nN][fF]"
    r"|(?P<hex>[+-]?0[xX][0-9a-fA-F_]*(?:\.[0-9a-fA-F_]*)?(?:[pP][+-]?[0-9_]*)?)"
    r"|(?P<decimal>[+-]?[0-9_]*(?:\.[0-9_]*)?(?:[eEpP][+-]?[0-9_]*)?))",
    re.ASCII,
)
_BLANK_LINE_BREAK = re.compile(r"[^\S\n]*\n")


def scan_number(text: str) -> float:
    """The number at the start of `text` after white space; 0 when there is none that can be read."""
    if _BLANK_LINE_BREAK.match(text):
        return 0.0
    token_match = _SCAN.match(text.lstrip())
    token = token_match.group() if token_match else ""
    if token_match is not None and token_match["decimal"] is not None and "p" in token.lower():
        mantissa, _, power = token.lower().partition("p")
        number = parse_float(mantissa)
        if number is None or not re.fullmatch(r"[+-]?\d{1,5}", power, re.ASCII):
            return 0.0
        try:
            return number * 2.0 ** int(power)
        except OverflowError:
            return 0.0
    return parse_float(token) or 0.0
