"""CSV by Go's rules."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflow.steps.csv_text import CsvError, is_delimiter, read_csv, write_row


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("", []),
        ("\n\r\n\n", []),
        ("a,b\r\n1,2\r", [["a", "b"], ["1", "2"]]),
        ('a\n"x""y"\n', [["a"], ['x"y']]),
        ('a,b\n"l1\r\nl2",\n', [["a", "b"], ["l1\nl2", ""]]),
        ("a, b\n 1,  2 \n", [["a", "b"], ["1", "2 "]]),
        ('a\n  "x"', [["a"], ["x"]]),
        ("é;x\n", [["é;x"]]),
    ],
)
def test_rows_are_read(text: str, rows: list[list[str]]) -> None:
    assert read_csv(text, ",") == rows


def test_a_tab_is_leading_space_so_an_empty_tsv_field_is_lost() -> None:
    with pytest.raises(CsvError, match="record on line 2: wrong number of fields"):
        read_csv("a\tb\tc\n1\t\t3", "\t")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1", "record on line 2: wrong number of fields"),
        ("a\n\nb,c", "record on line 3: wrong number of fields"),
        ('é"', 'parse error on line 1, column 3: bare " in non-quoted-field'),
        ('a\n"x"y', 'parse error on line 2, column 3: extraneous or missing " in quoted-field'),
        (
            'a\n"x\ny',
            'record on line 2; parse error on line 3, column 2: extraneous or missing " in quoted-field',
        ),
    ],
)
def test_errors_have_gos_words_and_positions(text: str, message: str) -> None:
    with pytest.raises(CsvError) as caught:
        read_csv(text, ",")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("field", "written"),
    [
        ("a;b", "a;b"),
        ("a,b", '"a,b"'),
        ('"', '""""'),
        ("\\.", '"\\."'),
        ("\u3000x", '"\u3000x"'),
        ("x ", "x "),
    ],
)
def test_fields_are_quoted_only_where_they_must_be(field: str, written: str) -> None:
    assert write_row([field], ",") == written + "\n"


def test_line_ends_and_quotes_are_no_delimiters() -> None:
    assert [char for char in ',;\t"\r\n\0\ufffd' if is_delimiter(char)] == [",", ";", "\t"]


@given(st.lists(st.text(st.characters(exclude_characters="\r\0", exclude_categories=["Cs"]))))
def test_what_is_written_is_read_again_by_this_and_by_another_reader(row: list[str]) -> None:
    row = ["x", *row]  # a line that is not blank
    text = write_row(row, ",")
    assert read_csv(text, ",") == [row]
    assert next(csv.reader(io.StringIO(text, newline=""))) == row
