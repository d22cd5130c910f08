"""The first JSON value of a text, and Go's words for texts without one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflow.steps.json_text import JsonError, decode_floats, decode_numbers, error_text, is_json
from workflow.values import JsonNumber


def test_what_follows_the_first_value_is_not_looked_at() -> None:
    assert decode_floats(' {"a":1} trailing') == {"a": 1.0}
    assert decode_floats("[1][2") == [1.0]
    assert not is_json("[1][2")


def test_numbers_are_floats_or_keep_their_text() -> None:
    assert [type(number) for number in decode_floats("[1, 2.5, 1e3]")] == [float] * 3
    assert decode_floats("[1e400]") == ["1e400"]
    assert decode_numbers("[1.50]") == [JsonNumber("1.50")]


def test_lone_surrogates_become_replacement_characters() -> None:
    assert decode_floats(r'{"a\ud800": ["\udc00x", "\ud83d\ude80"]}') == {"a\ufffd": ["\ufffdx", "🚀"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "EOF"),
        ("  \n", "EOF"),
        ("[", "unexpected EOF"),
        ('{"a":1', "unexpected EOF"),
        ("hello", "invalid character 'h' looking for beginning of value"),
        ("é", "invalid character 'Ã' looking for beginning of value"),
        ("\ufeff1", "invalid character 'ï' looking for beginning of value"),
        ("{'a':1}", "invalid character '\\'' looking for beginning of object key string"),
        ('{"a" 1}', "invalid character '1' after object key"),
        ('{"a":1 "b"}', "invalid character '\"' after object key:value pair"),
        ("[1 2]", "invalid character '2' after array element"),
        ("[01]", "invalid character '1' after array element"),
        ("[1,]", "invalid character ']' looking for beginning of value"),
        ("nul1", "invalid character '1' in literal null (expecting 'l')"),
        ("-x", "invalid character 'x' in numeric literal"),
        ("1.x", "invalid character 'x' after decimal point in numeric literal"),
        ("1e", "unexpected EOF"),
        ("[1.]", "invalid character ']' after decimal point in numeric literal"),
        ("[1e]", "invalid character ']' in exponent of numeric literal"),
        ('"\t"', "invalid character '\\t' in string literal"),
        ('"\x01"', "invalid character '\\x01' in string literal"),
        ('"\\q"', "invalid character 'q' in string escape code"),
        ('"\\u12g4"', "invalid character 'g' in \\u hexadecimal character escape"),
        ("NaN", "invalid character 'N' looking for beginning of value"),
    ],
)
def test_errors_have_gos_words(text: str, message: str) -> None:
    with pytest.raises(JsonError) as caught:
        decode_floats(text)
    assert str(caught.value) == message


def test_nesting_beyond_the_decoder_is_an_error() -> None:
    with pytest.raises(JsonError, match="exceeded max depth"):
        decode_floats("[" * 100_000)


@given(st.text(alphabet='{}[]",:\\ tfn012.eE-u"a\n', max_size=12))
def test_the_scanner_refuses_what_the_decoder_refuses_and_nothing_else(text: str) -> None:
    try:
        decode_floats(text)
    except JsonError:
        assert error_text(text) != "invalid value"
    else:
        assert error_text(text) == "invalid value"
