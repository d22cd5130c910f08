"""docs/compatibility.md names a test for every difference, and the tests are there."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conformance.exceptions import TABLE

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "compatibility.md").read_text()
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ") and "---" not in line]


def test_every_exception_of_the_conformance_tests_is_listed() -> None:
    assert [entry.name for entry in TABLE if f'"{entry.name}"' not in TEXT] == []


def test_every_difference_names_a_test_that_exists() -> None:
    heads = [row for row in ROWS if row.endswith("| held by |")]
    differences = [row for row in ROWS if row not in heads]
    assert len(differences) > 20
    for row in differences:
        named = re.findall(r"`(tests/[^`]+)`", row.rpartition(" | ")[2])
        assert named, row
        for name in named:
            path, _, function = name.partition("::")
            assert (ROOT / path).exists(), name
            assert not function or f"def {function}(" in (ROOT / path).read_text(), name
