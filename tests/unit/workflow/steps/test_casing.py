"""Letter case and white space as the original sees them."""

from __future__ import annotations

import pytest

from workflow.steps import casing


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello wORLD", "Hello World"),
        ("3rd place", "3Rd Place"),
        ("o'neil's", "O'neil's"),
        ("a.b c:d", "A.b C:d"),
        ("a..b", "A..B"),  # two of them in a row end the word
        ("hello_world e-mail a/b a,b", "Hello_world E-Mail A/B A,B"),
        ("ß ŉ ﬁne", "Ss ʼN Fine"),
        ("ǆ ǉungla", "ǅ ǈungla"),
        ("日本abc日本def", "日本Abc日本Def"),
        ("e\u0301te\u0301", "E\u0301te\u0301"),  # combining marks belong to the word
        ("", ""),
    ],
)
def test_title_case_raises_the_first_cased_letter_of_each_word(text: str, expected: str) -> None:
    assert casing.title(text) == expected


@pytest.mark.parametrize(
    ("text", "raised", "lowered"),
    [
        ("straße ﬁ ŉ", "STRAßE ﬁ ŉ", "straße ﬁ ŉ"),
        ("ΣΑΣ", "ΣΑΣ", "σασ"),
        ("İı", "İI", "iı"),
        ("ᾳ ᾷ", "ᾼ ᾷ", "ᾳ ᾷ"),
    ],
)
def test_case_changes_code_point_by_code_point(text: str, raised: str, lowered: str) -> None:
    assert casing.upper(text) == raised
    assert casing.lower(text) == lowered


def test_inverse_leaves_title_case_letters() -> None:
    assert casing.inverse("aBǅß1") == "AbǅSS1".replace("SS", "ß")


def test_camel_case_breaks_a_first_letter_of_several_bytes_as_the_original_does() -> None:
    assert casing.camel(" hello wORLD élan ") == "helloWorldÃ\ufffdlan"
    assert casing.camel("  ") == "  "


def test_space_is_gos_and_not_pythons() -> None:
    assert casing.trim_space("\u3000\x85 a \x1c") == "a \x1c"
    assert casing.fields("a\x1cb\u2028c") == ["a\x1cb", "c"]
