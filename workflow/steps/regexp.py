"""Regular expressions as Go reads them (RE2 syntax), matched in time linear in the text.

Python's `re` backtracks: a short pattern in a workflow could occupy a runner for hours. It also reads some
patterns differently (`$` before a last line feed, `\\d` beyond ASCII). Here a pattern becomes a set of states
that is walked once per character, with the sets seen so far cached. Only whether a text contains a match is
answered; there are no groups to extract.

Not understood, as in RE2: back references and assertions about what is around (`(?=…)`). Of the scripts of
`\\p{…}` those in _SCRIPTS are known, and all general categories.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Final, NamedTuple

pattern_length_max: Final = 2000  # characters
repeat_max: Final = 1000  # as in RE2
program_max: Final = 10_000  # instructions, after counted repetitions are written out
cached_sets_max: Final = 1000  # sets of states kept per pattern; beyond it the cache starts anew
depth_max: Final = 100  # groups within groups

_MAX_CODE = 0x10FFFF
Test = Callable[[str], bool]


class PatternInvalid(ValueError):
    """The text is no regular expression in RE2's syntax, or too large."""


class _Op(NamedTuple):
    """An instruction: consume a character that passes `test`, branch, check a position, or match."""

    kind: str  # char | split | assert | match
    test: Test | None = None
    targets: tuple[int, ...] = ()
    name: str = ""  # of an assertion


class Regexp:
    """A compiled pattern. Safe to share between threads: at worst a cache is filled twice."""

    __slots__ = ("_after", "_closures", "_program", "_start")

    def __init__(self, pattern: str) -> None:
        """Raises PatternInvalid."""
        if len(pattern) > pattern_length_max:
            raise PatternInvalid(f"pattern too long: {len(pattern)} characters (limit: {pattern_length_max})")
        parser = _Parser(pattern)
        self._program = _Assembler().program(parser.parse())
        self._start = frozenset((0,))
        self._closures: dict[tuple[frozenset[int], int], tuple[tuple[int, ...], bool]] = {}
        self._after: dict[tuple[tuple[int, ...], str], frozenset[int]] = {}

    def search(self, text: str) -> bool:
        """Whether the text contains a match."""
        states = self._start
        last = len(text)
        for position in range(last + 1):
            flags = _flags(text, position)
            waiting, matched = self._closure(states, flags)
            if matched:
                return True
            if position < last:
                states = self._step(waiting, text[position])
        return False

    def _closure(self, states: frozenset[int], flags: int) -> tuple[tuple[int, ...], bool]:
        """The states that wait for a character here, and whether the match is reached."""
        key = (states, flags)
        known = self._closures.get(key)
        if known is None:
            known = self._compute_closure(states, flags)
            if len(self._closures) >= cached_sets_max:
                self._closures.clear()
            self._closures[key] = known
        return known

    def _compute_closure(self, states: frozenset[int], flags: int) -> tuple[tuple[int, ...], bool]:
        waiting: list[int] = []
        seen = set(states)
        pending = list(states)
        while pending:
            state = pending.pop()
            op = self._program[state]
            if op.kind == "match":
                return (), True
            if op.kind == "char":
                waiting.append(state)
                continue
            if op.kind == "assert" and not _ASSERTIONS[op.name](flags):
                continue
            for target in op.targets:
                if target not in seen:
                    seen.add(target)
                    pending.append(target)
        return tuple(sorted(waiting)), False

    def _step(self, waiting: tuple[int, ...], char: str) -> frozenset[int]:
        key = (waiting, char)
        known = self._after.get(key)
        if known is None:
            reached = {self._program[state].targets[0] for state in waiting if self._passes(state, char)}
            reached.add(0)  # a match may also start after this character
            known = frozenset(reached)
            if len(self._after) >= cached_sets_max:
                self._after.clear()
            self._after[key] = known
        return known

    def _passes(self, state: int, char: str) -> bool:
        test = self._program[state].test
        return test is not None and test(char)


# --- positions --------------------------------------------------------------------------------------------

_BEGIN, _END, _AFTER_LINE, _BEFORE_LINE, _AFTER_WORD, _BEFORE_WORD = (1 << bit for bit in range(6))
_WORD = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz")


def _flags(text: str, position: int) -> int:
    flags = 0
    if position == 0:
        flags |= _BEGIN | _AFTER_LINE
    else:
        before = text[position - 1]
        flags |= (_AFTER_LINE if before == "\n" else 0) | (_AFTER_WORD if before in _WORD else 0)
    if position == len(text):
        flags |= _END | _BEFORE_LINE
    else:
        after = text[position]
        flags |= (_BEFORE_LINE if after == "\n" else 0) | (_BEFORE_WORD if after in _WORD else 0)
    return flags


def _at_boundary(flags: int) -> bool:
    return bool(flags & _AFTER_WORD) != bool(flags & _BEFORE_WORD)


_ASSERTIONS: Final[dict[str, Callable[[int], bool]]] = {
    "begin": lambda flags: bool(flags & _BEGIN),
    "end": lambda flags: bool(flags & _END),
    "line begin": lambda flags: bool(flags & _AFTER_LINE),
    "line end": lambda flags: bool(flags & _BEFORE_LINE),
    "boundary": _at_boundary,
    "no boundary": lambda flags: not _at_boundary(flags),
}

# --- the tree and its translation --------------------------------------------------------------------------


class _Node(NamedTuple):
    """A piece of a pattern: char, assert, concat, either or repeat."""

    kind: str
    test: Test | None = None
    name: str = ""
    parts: tuple[_Node, ...] = ()
    low: int = 0
    high: int | None = None


class _Assembler:
    """Writes a tree as instructions. Every piece is laid out so that it goes on at the instruction after it."""

    def __init__(self) -> None:
        self._ops: list[_Op] = []

    def program(self, tree: _Node) -> list[_Op]:
        self._write(tree)
        self._add(_Op("match"))
        return self._ops

    def _add(self, op: _Op) -> int:
        if len(self._ops) >= program_max:
            raise PatternInvalid("pattern too large")
        self._ops.append(op)
        return len(self._ops) - 1

    def _here(self) -> int:
        return len(self._ops)

    def _write(self, node: _Node) -> None:
        match node.kind:
            case "char":
                self._add(_Op("char", node.test, (self._here() + 1,)))
            case "assert":
                self._add(_Op("assert", targets=(self._here() + 1,), name=node.name))
            case "concat":
                for part in node.parts:
                    self._write(part)
            case "either":
                self._write_either(node.parts)
            case "repeat":
                self._write_repeat(node)

    def _write_either(self, parts: tuple[_Node, ...]) -> None:
        fork = self._add(_Op("split"))
        starts: list[int] = []
        ends: list[int] = []
        for part in parts:
            starts.append(self._here())
            self._write(part)
            ends.append(self._add(_Op("split")))
        self._ops[fork] = _Op("split", targets=tuple(starts))
        for end in ends:
            self._ops[end] = _Op("split", targets=(self._here(),))

    def _write_repeat(self, node: _Node) -> None:
        body = node.parts[0]
        for _ in range(node.low):
            self._write(body)
        if node.high is None:
            fork = self._add(_Op("split"))
            self._write(body)
            back = self._add(_Op("split"))
            self._ops[fork] = _Op("split", targets=(fork + 1, self._here()))
            self._ops[back] = _Op("split", targets=(fork,))
            return
        forks: list[int] = []
        for _ in range(node.high - node.low):
            forks.append(self._add(_Op("split")))
            self._write(body)
        for fork in forks:
            self._ops[fork] = _Op("split", targets=(fork + 1, self._here()))


# --- parsing ----------------------------------------------------------------------------------------------


class _CharSet:
    """Ranges of code points and other tests; a character passes if any does (or, negated, if none does)."""

    __slots__ = ("_fold", "_negated", "_ranges", "_tests")

    def __init__(
        self, ranges: list[tuple[int, int]], tests: list[Test], *, negated: bool = False, fold: bool = False
    ) -> None:
        self._ranges, self._tests, self._negated, self._fold = ranges, tests, negated, fold

    def __call__(self, char: str) -> bool:
        forms = {char, *_folds(char)} if self._fold else (char,)
        return any(map(self._has, forms)) != self._negated

    def _has(self, char: str) -> bool:
        code = ord(char)
        return any(low <= code <= high for low, high in self._ranges) or any(
            test(char) for test in self._tests
        )


def _folds(char: str) -> list[str]:
    """The other letters that are this one when case does not matter."""
    forms = {char.lower(), char.upper(), char.upper().lower(), char.lower().upper()}
    if char in "kK\u212a":
        forms |= set("kK\u212a")
    if char in "sS\u017f":
        forms |= set("sS\u017f")
    return [form for form in forms if len(form) == 1]


_DIGITS = [(0x30, 0x39)]
_SPACES = [(9, 10), (12, 13), (32, 32)]
_WORDS = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
_PERL: Final = {"d": _DIGITS, "s": _SPACES, "w": _WORDS}
_POSIX: Final = {
    "alnum": [(0x30, 0x39), (0x41, 0x5A), (0x61, 0x7A)],
    "alpha": [(0x41, 0x5A), (0x61, 0x7A)],
    "ascii": [(0, 0x7F)],
    "blank": [(9, 9), (32, 32)],
    "cntrl": [(0, 31), (127, 127)],
    "digit": _DIGITS,
    "graph": [(33, 126)],
    "lower": [(0x61, 0x7A)],
    "print": [(32, 126)],
    "punct": [(33, 47), (58, 64), (91, 96), (123, 126)],
    "space": [(9, 13), (32, 32)],
    "upper": [(0x41, 0x5A)],
    "word": _WORDS,
    "xdigit": [(0x30, 0x39), (0x41, 0x46), (0x61, 0x66)],
}
_MINOR: Final = {"L": "ultmo", "M": "nce", "N": "dlo", "P": "cdseifo", "S": "mcko", "Z": "slp", "C": "cfos"}
_CATEGORIES: Final = frozenset(major + minor for major, minors in _MINOR.items() for minor in ("", *minors))
_SCRIPTS: Final = {
    "Latin": ("LATIN ", "FULLWIDTH LATIN "),
    "Greek": ("GREEK ",),
    "Cyrillic": ("CYRILLIC ",),
    "Arabic": ("ARABIC ",),
    "Hebrew": ("HEBREW ",),
    "Devanagari": ("DEVANAGARI ",),
    "Tamil": ("TAMIL ",),
    "Thai": ("THAI ",),
    "Han": ("CJK UNIFIED IDEOGRAPH", "CJK COMPATIBILITY IDEOGRAPH"),
    "Hiragana": ("HIRAGANA ",),
    "Katakana": ("KATAKANA ", "HALFWIDTH KATAKANA "),
    "Hangul": ("HANGUL ",),
    "Armenian": ("ARMENIAN ",),
    "Georgian": ("GEORGIAN ",),
}
_CONTROL: Final = {"a": 7, "f": 12, "t": 9, "n": 10, "r": 13, "v": 11}
_FLAG_LETTERS: Final = frozenset("imsU")


class _Parser:
    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        self._flags: frozenset[str] = frozenset()
        self._depth = 0

    def parse(self) -> _Node:
        tree = self._either()
        if self._at < len(self._text):
            raise PatternInvalid("unexpected )")
        return tree

    def _peek(self, length: int = 1) -> str:
        return self._text[self._at : self._at + length]

    def _take(self, length: int = 1) -> str:
        taken = self._peek(length)
        if len(taken) < length:
            raise PatternInvalid("pattern ends too early")
        self._at += length
        return taken

    def _either(self) -> _Node:
        options = [self._concat()]
        while self._peek() == "|":
            self._at += 1
            options.append(self._concat())
        return options[0] if len(options) == 1 else _Node("either", parts=tuple(options))

    def _concat(self) -> _Node:
        parts: list[_Node] = []
        while self._peek() not in ("", "|", ")"):
            if self._text.startswith("\\Q", self._at):
                parts += self._quoted()
                continue
            atom = self._atom()
            if atom is not None:
                parts.append(self._repeated(atom))
        return _Node("concat", parts=tuple(parts))

    def _quoted(self) -> list[_Node]:
        end = self._text.find("\\E", self._at + 2)
        literal = self._text[self._at + 2 : end if end >= 0 else len(self._text)]
        self._at = end + 2 if end >= 0 else len(self._text)
        return [self._literal(char) for char in literal]

    def _repeated(self, atom: _Node) -> _Node:
        bounds = self._repetition()
        if bounds is None:
            return atom
        if self._peek() == "?":
            self._at += 1
        if self._repetition() is not None:
            raise PatternInvalid("invalid nested repetition operator")
        low, high = bounds
        if low > repeat_max or (high is not None and (high > repeat_max or high < low)):
            raise PatternInvalid("invalid repeat count")
        return _Node("repeat", parts=(atom,), low=low, high=high)

    def _repetition(self) -> tuple[int, int | None] | None:
        """The bounds of the repetition operator here, which is taken; None where there is none."""
        char = self._peek()
        simple = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(char)
        if simple is not None:
            self._at += 1
            return simple
        if char != "{":
            return None
        end = self._text.find("}", self._at)
        low, comma, high = self._text[self._at + 1 : max(end, 0)].partition(",")
        if end < 0 or not _is_count(low) or (comma and high and not _is_count(high)):
            return None
        self._at = end + 1
        if not comma:
            return int(low), int(low)
        return int(low), int(high) if high else None

    def _atom(self) -> _Node | None:
        char = self._take()
        match char:
            case "(":
                return self._group()
            case "[":
                return _Node("char", self._char_class())
            case ".":
                return _Node("char", _anything if "s" in self._flags else _not_line_feed)
            case "^":
                return _Node("assert", name="line begin" if "m" in self._flags else "begin")
            case "$":
                return _Node("assert", name="line end" if "m" in self._flags else "end")
            case "\\":
                return self._escape()
            case "*" | "+" | "?":
                raise PatternInvalid(f"missing argument to repetition operator: {char}")
            case "{":
                self._at -= 1
                if self._repetition() is not None:
                    raise PatternInvalid("missing argument to repetition operator")
                self._at += 1
        return self._literal(char)

    def _literal(self, char: str) -> _Node:
        code = ord(char)
        return _Node("char", _CharSet([(code, code)], [], fold="i" in self._flags))

    def _group(self) -> _Node | None:
        outer = self._flags
        if self._peek() == "?":
            self._at += 1
            if not self._group_head():
                return None  # flags for the rest of the enclosing group
        self._depth += 1
        if self._depth > depth_max:
            raise PatternInvalid("pattern nests too deeply")
        inner = self._either()
        if self._peek() != ")":
            raise PatternInvalid("missing closing )")
        self._at += 1
        self._depth -= 1
        self._flags = outer
        return _Node("concat", parts=(inner,))

    def _group_head(self) -> bool:
        """Reads what follows `(?`. False if that was a setting of flags without a group."""
        if self._peek(2) == "P<" or (self._peek() == "<" and self._peek(2) not in ("<=", "<!")):
            end = self._text.find(">", self._at)
            name = self._text[self._at : max(end, 0)].removeprefix("P").removeprefix("<")
            if end < 0 or (not name.isidentifier() and not name.isalnum()):
                raise PatternInvalid("invalid named capture")
            self._at = end + 1
            return True
        added: set[str] = set()
        removed: set[str] = set()
        current = added
        while True:
            char = self._take()
            if char in _FLAG_LETTERS:
                current.add(char)
            elif char == "-" and current is added:
                current = removed
            elif char in (":", ")") and not (current is removed and not removed):
                self._flags = (self._flags | added) - removed
                return char == ":"
            else:
                raise PatternInvalid("invalid or unsupported Perl syntax")

    def _escape(self) -> _Node:
        char = self._take()
        named = {"A": "begin", "z": "end", "b": "boundary", "B": "no boundary"}.get(char)
        if named is not None:
            return _Node("assert", name=named)
        self._at -= 1
        shared = self._class_escape()
        if shared is not None:
            return _Node("char", shared)
        return self._literal(chr(self._escaped_code()))

    def _class_escape(self) -> Test | None:
        """The test of `\\d`, `\\W`, `\\pL` …, which is taken; None where there is another escape."""
        char = self._peek()
        if char.lower() in _PERL and char:
            self._at += 1
            return _CharSet(_PERL[char.lower()], [], negated=char.isupper())
        if char not in ("p", "P"):
            return None
        self._at += 1
        name = self._take()
        if name == "{":
            end = self._text.find("}", self._at)
            if end < 0:
                raise PatternInvalid("invalid character class range")
            name = self._text[self._at : end]
            self._at = end + 1
        negated = (char == "P") != name.startswith("^")
        return _CharSet([], [_unicode_test(name.removeprefix("^"))], negated=negated, fold="i" in self._flags)

    def _escaped_code(self) -> int:
        char = self._take()
        if char in _CONTROL:
            return _CONTROL[char]
        if char == "x":
            return self._hex_code()
        if char in "01234567":
            following = self._peek()
            if char != "0" and not (following and following in "01234567"):
                raise PatternInvalid(f"invalid escape sequence: \\{char}")
            digits = char
            while len(digits) < 3 and self._peek() and self._peek() in "01234567":
                digits += self._take()
            return int(digits, 8)
        if char.isascii() and not char.isalnum():
            return ord(char)
        raise PatternInvalid(f"invalid escape sequence: \\{char}")

    def _hex_code(self) -> int:
        if self._peek() == "{":
            end = self._text.find("}", self._at)
            digits = self._text[self._at + 1 : max(end, 0)]
            self._at = end + 1
        else:
            digits = self._take(2)
        if not 0 < len(digits) <= 6 or not all(digit in "0123456789abcdefABCDEF" for digit in digits):
            raise PatternInvalid("invalid escape sequence: \\x")
        code = int(digits, 16)
        if code > _MAX_CODE:
            raise PatternInvalid("invalid escape sequence: \\x")
        return code

    def _char_class(self) -> Test:
        negated = self._peek() == "^"
        self._at += negated
        ranges: list[tuple[int, int]] = []
        tests: list[Test] = []
        first = True
        while first or self._peek() != "]":
            first = False
            if self._text.startswith("[:", self._at) and self._posix_class(ranges, tests):
                continue
            if self._peek() == "\\":
                self._at += 1
                shared = self._class_escape()
                if shared is not None:
                    tests.append(shared)
                    continue
                self._at -= 1
            low = high = self._class_char()
            if self._peek() == "-" and self._peek(2) != "-]" and len(self._peek(2)) == 2:
                self._at += 1
                high = self._class_char()
            if high < low:
                raise PatternInvalid("invalid character class range")
            ranges.append((low, high))
        self._at += 1
        return _CharSet(ranges, tests, negated=negated, fold="i" in self._flags)

    def _class_char(self) -> int:
        if self._peek() == "":
            raise PatternInvalid("missing closing ]")
        char = self._take()
        return self._escaped_code() if char == "\\" else ord(char)

    def _posix_class(self, ranges: list[tuple[int, int]], tests: list[Test]) -> bool:
        end = self._text.find(":]", self._at + 2)
        if end < 0:
            return False
        name = self._text[self._at + 2 : end]
        known = _POSIX.get(name.removeprefix("^"))
        if known is None:
            raise PatternInvalid(f"invalid character class range: [:{name}:]")
        if name.startswith("^"):
            tests.append(_CharSet(known, [], negated=True))
        else:
            ranges.extend(known)
        self._at = end + 2
        return True


def _is_count(text: str) -> bool:
    return 0 < len(text) <= 9 and text.isascii() and text.isdigit()


def _anything(char: str) -> bool:
    return True


def _not_line_feed(char: str) -> bool:
    return char != "\n"


def _unicode_test(name: str) -> Test:
    if name == "Any":
        return _anything
    if name in _CATEGORIES:
        return lambda char: unicodedata.category(char).startswith(name)
    prefixes = _SCRIPTS.get(name)
    if prefixes is None:
        raise PatternInvalid(f"invalid character class range: \\p{{{name}}}")
    return lambda char: unicodedata.name(char, "").startswith(prefixes)
