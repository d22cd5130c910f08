"""RE2 syntax, in linear time."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflow.steps.regexp import PatternInvalid, Regexp


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("^a$", "a\n", False),  # Python's $ would match before the line feed
        ("(?m)^b$", "a\nb\nc", True),
        (r"\d", "٣", False),
        (r"\pN", "٣", True),
        (r"\p{Lu}\P{Lu}", "Éx", True),
        (r"^\p{Greek}+$", "αβγ", True),
        (r"\p{^L}", "abc", False),
        ("(?i)straSSe", "STRASSE", True),
        ("(?i)k", "\u212a", True),
        ("a.c", "a\nc", False),
        ("(?s)a.c", "a\nc", True),
        ("(?i:a)b", "Ab", True),
        ("(?i:a)b", "AB", False),
        ("a(?i)b|c", "C", True),
        (r"\Q.*\E$", "x.*", True),
        (r"^[\]a-c\-]+$", "]b-", True),
        ("^[]a]+$", "]a", True),
        ("[^[:alpha:][:^ascii:]]", "aé", False),
        (r"\x41\x{1F680}\101\t", "A🚀A\t", True),
        (r"\bfoo\b", "a foo.", True),
        (r"\Bo\B", "foot", True),
        (r"\Aab\z", "ab", True),
        ("^a{2,3}$", "aaaa", False),
        ("a{,3}", "a{,3}", True),  # no repetition in RE2
        ("{", "{", True),
        ("(?P<name>x)(?<other>y)", "xy", True),
        ("", "", True),
        ("(|a)*b", "aab", True),
        ("(a*)*$", "aab", True),
    ],
)
def test_patterns_mean_what_they_mean_to_go(pattern: str, text: str, found: bool) -> None:
    assert Regexp(pattern).search(text) is found


@pytest.mark.parametrize(
    "pattern",
    [
        "(", ")", "[a", "[b-a]", "*a", "a**", "a|*", "a{1001}", "(?=a)", "(?!a)", "(?<=a)b", "(?>a)", r"\1", r"(a)\1",
        r"\pX", r"\p{Klingon}", r"\z\q", "\\", "[[:nope:]]", r"\x{110000}", "(?z)", "(?P<>a)", "(?-)",
        "((a{1000}){1000})",
        "(" * 200 + ")" * 200, "a" * 2001,
    ],
)  # fmt: skip
def test_what_re2_refuses_or_is_too_large_is_refused(pattern: str) -> None:
    with pytest.raises(PatternInvalid):
        Regexp(pattern)


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|a)*$", "(a*)*b", "^a{0,200}a{0,200}a{0,200}$"])
def test_no_pattern_takes_more_than_linear_time(pattern: str) -> None:
    regexp = Regexp(pattern)
    started = time.process_time()
    assert regexp.search("a" * 2000 + "!") is False
    assert time.process_time() - started < 5  # backtracking would not end


_ATOMS = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", r"\d", r"\w", r"\s", "1", " "])
_PATTERNS = st.recursive(
    _ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{2,}"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
        inner.map(lambda part: "^" + part),
        inner.map(lambda part: part + r"\b"),
    ),
    max_leaves=8,
)


@given(_PATTERNS, st.text(alphabet="ab1 x\n", max_size=10))
def test_it_finds_what_a_backtracking_matcher_finds(pattern: str, text: str) -> None:
    assert Regexp(pattern).search(text) is bool(re.compile(pattern, re.ASCII).search(text))
