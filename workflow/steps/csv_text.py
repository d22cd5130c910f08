"""CSV as Go's `encoding/csv` reads and writes it, with its error texts.

The standard library's `csv` is no help here: it repairs what Go refuses (bare quotes, rows of another length), and the
original's answers and error positions depend on the refusals.
"""

from __future__ import annotations

from collections.abc import Sequence

from .casing import SPACE


class CsvError(ValueError):
    """The text is no CSV by Go's rules; the message is Go's."""


def read_csv(text: str, delimiter: str) -> list[list[str]]:
    """Rows of `text`: RFC 4180 quotes, leading space of a field dropped, blank lines skipped, rows of equal length."""
    records: list[list[str]] = []
    lines = _lines(text)
    number = 0
    while number < len(lines):
        if lines[number] in ("\n", ""):
            number += 1
            continue
        start = number
        record, number = _record(lines, number, delimiter)
        if records and len(record) != len(records[0]):
            raise CsvError(f"record on line {start + 1}: wrong number of fields")
        records.append(record)
    return records


def is_delimiter(char: str) -> bool:
    """Whether Go's reader and writer take `char` between fields."""
    return char not in ('"', "\r", "\n", "\0", "\ufffd")


def write_row(row: Sequence[str], delimiter: str) -> str:
    """One line, with its line end. A field is quoted if it holds a delimiter, quote or line end, starts with white
    space, or is `\\.` (which ends the data of a PostgreSQL COPY)."""
    return delimiter.join(_quoted(field, delimiter) for field in row) + "\n"


def _quoted(field: str, delimiter: str) -> str:
    if not field:
        return field
    plain = not (delimiter in field or '"' in field or "\n" in field or "\r" in field)
    if plain and field != "\\." and field[0] not in SPACE:
        return field
    return '"' + field.replace('"', '""') + '"'


def _lines(text: str) -> list[str]:
    lines = [line + "\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    if not lines[-1]:
        lines.pop()
    elif lines[-1].endswith("\r"):  # Go drops a carriage return that ends the input
        lines[-1] = lines[-1][:-1]
    return [line[:-2] + "\n" if line.endswith("\r\n") else line for line in lines]


def _record(lines: list[str], number: int, delimiter: str) -> tuple[list[str], int]:
    """Parses the record that starts at lines[number]; returns it and the number of the line after it."""
    record: list[str] = []
    start, line, position = number, lines[number], 0
    while True:
        position += len(line) - position - len(line[position:].lstrip(SPACE))
        if line[position : position + 1] != '"':
            end = line.find(delimiter, position)
            field = line[position:end] if end >= 0 else line[position:].removesuffix("\n")
            if '"' in field:
                raise _error(start, number, line, position + field.index('"'), 'bare " in non-quoted-field')
            record.append(field)
            if end < 0:
                return record, number + 1
            position = end + 1
            continue
        position += 1
        pieces: list[str] = []
        while True:
            quote = line.find('"', position)
            if quote >= 0:
                pieces.append(line[position:quote])
                position = quote + 1
                following = line[position : position + 1]
                if following == '"':
                    pieces.append('"')
                    position += 1
                elif following == delimiter:
                    record.append("".join(pieces))
                    position += 1
                    break
                elif following in ("\n", ""):
                    record.append("".join(pieces))
                    return record, number + 1
                else:
                    raise _error(start, number, line, quote, 'extraneous or missing " in quoted-field')
            elif number + 1 < len(lines):
                pieces.append(line[position:])
                number += 1
                line = lines[number]
                position = 0
            else:
                raise _error(start, number, line, len(line), 'extraneous or missing " in quoted-field')


def _error(start: int, number: int, line: str, position: int, text: str) -> CsvError:
    column = len(line[:position].encode("utf-8", "replace")) + 1
    record = f"record on line {start + 1}; " if start != number else ""
    return CsvError(f"{record}parse error on line {number + 1}, column {column}: {text}")
