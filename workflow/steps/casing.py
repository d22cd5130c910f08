"""Letter case and white space as the original engine sees them (Go's `unicode`, `strings` and x/text `cases`).

Python's own `str.upper` and friends use the full Unicode mappings (`ß` -> `SS`, final sigma); the original maps code
point by code point with the simple ones. Nothing here knows of steps.
"""

from __future__ import annotations

import re
import unicodedata

# What Go's unicode.IsSpace accepts. Python's str.isspace also takes U+001C..U+001F, Go does not.
SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
)

_FIELDS = re.compile(f"[^{SPACE}]+")
_MID_WORD = frozenset(
    "':.\u00b7\u0387\u055f\u05f4\u2018\u2019\u2024\u2027\ufe13\ufe52\ufe55\uff07\uff0e\uff1a"
)
# Letters without word break property of a letter: each stands alone, as white space would.
_NO_WORD_LETTER = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff\u2e80-\u2fff\u3005-\u3007\u3021-\u3029\u3038-\u303c"
    "\u3041-\u309f\u3400-\u4dbf\u4e00-\u9fff\ua9e0-\ua9ff\uaa60-\uaadf\uf900-\ufaff\U0001b000-\U0003ffff]"
)


def trim_space(text: str) -> str:
    """`strings.TrimSpace`."""
    return text.strip(SPACE)


def fields(text: str) -> list[str]:
    """`strings.Fields`: the runs of characters that are not white space."""
    return _FIELDS.findall(text)


def upper(text: str) -> str:
    """`strings.ToUpper`: the simple mapping of each code point (`ß` and `ﬁ` stay)."""
    return text.upper() if text.isascii() else "".join(map(_upper_char, text))


def lower(text: str) -> str:
    """`strings.ToLower`: the simple mapping of each code point (no final sigma, `İ` becomes `i`)."""
    return text.lower() if text.isascii() else "".join(map(_lower_char, text))


def inverse(text: str) -> str:
    """Upper-case letters lowered and lower-case ones raised; title-case ones (`ǅ`) stay."""
    return text.swapcase() if text.isascii() else "".join(map(_inverse_char, text))


def title(text: str) -> str:
    """Lowers everything, then gives the first cased letter of each word its (full) title form.

    Words end as in UAX #29 as far as x/text's title caser looks: letters, digits and connectors belong to a word, one
    of `' . :` and their kin does not end it, two in a row do, anything else does. So `3rd` becomes `3Rd`.
    """
    pieces: list[str] = []
    in_word = was_mid = False
    for char in lower(text):
        is_mid = char in _MID_WORD
        if was_mid and is_mid:
            in_word = False
        was_mid = is_mid
        if _is_cased(char):
            pieces.append(char if in_word else char.title())
            in_word = True
            continue
        pieces.append(char)
        if not is_mid and _ends_word(char):
            in_word = False
    return "".join(pieces)


def camel(text: str) -> str:
    """First word lower, the others with a raised first *byte*, white space dropped; blank text as it is.

    The original raises the first byte, so a non-ASCII initial comes out broken: `élan` -> `Ã\\ufffdlan`.
    """
    words = fields(text)
    if not words:
        return text
    return lower(words[0]) + "".join(map(_capital_byte, words[1:]))


def _capital_byte(word: str) -> str:
    if word[0] < "\x80":
        return word[0].upper() + lower(word[1:])
    encoded = word.encode("utf-8", "replace")
    return _upper_char(chr(encoded[0])) + lower(encoded[1:].decode("utf-8", "replace"))


def _upper_char(char: str) -> str:
    raised = char.upper()
    if len(raised) == 1:
        return raised
    titled = (
        char.title()
    )  # of the letters with a longer upper form, only those with iota subscript have a simple one
    return titled if len(titled) == 1 else char


def _lower_char(char: str) -> str:
    return char.lower()[0]


def _inverse_char(char: str) -> str:
    match unicodedata.category(char):
        case "Lu":
            return _lower_char(char)
        case "Ll":
            return _upper_char(char)
    return char


def _is_cased(char: str) -> bool:
    return char.islower() or char.isupper() or unicodedata.category(char) == "Lt"


def _ends_word(char: str) -> bool:
    category = unicodedata.category(char)
    if category[0] == "L" or category == "Nl":
        return _NO_WORD_LETTER.match(char) is not None
    return category not in ("Nd", "Pc", "Mn", "Me", "Mc", "Cf")
