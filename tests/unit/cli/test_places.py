"""JSON path -> line and column."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cli.places import Place, parse_path, place_at, place_of

TEXT = """{
  "nodes": [
    {"id": "a", "type": "number"},
    {"id": "b \\" ]}", "data": {"op": "add",
      "value": [1, [2, 3]]}}
  ],
  "edges": []
}
"""


def test_a_path_is_split_into_names_and_indexes() -> None:
    assert parse_path("nodes[3].data.op") == ["nodes", 3, "data", "op"]
    assert parse_path("") == []
    assert parse_path("edges[0]") == ["edges", 0]


def test_a_value_is_found_behind_strings_with_brackets() -> None:
    assert place_of(TEXT, "nodes[0]") == Place(3, 5)
    assert place_of(TEXT, "nodes[1].data.op") == Place(4, 38)
    assert place_of(TEXT, "nodes[1].data.value[1][1]") == Place(5, 24)
    assert place_of(TEXT, "edges") == Place(7, 12)


def test_a_path_that_leads_nowhere_gives_the_deepest_place_on_its_way() -> None:
    assert place_of(TEXT, "nodes[0].data.value") == Place(3, 5)
    assert place_of(TEXT, "nodes[7]") == place_of(TEXT, "nodes")
    assert place_of(TEXT, "nothing") is None
    assert place_of(TEXT, "") is None


def test_the_last_of_two_equal_keys_is_the_one_that_counts() -> None:
    assert place_of('{"a": 1, "a": 2}', "a") == Place(1, 15)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


def paths_of(value: Any, path: str = "") -> list[tuple[str, Any]]:
    found = [(path, value)] if path else []
    if isinstance(value, list):
        for index, item in enumerate(value):
            found += paths_of(item, f"{path}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            if key and not set(key) & set(".[]"):
                found += paths_of(item, f"{path}.{key}" if path else key)
    return found


@given(JSON, st.sampled_from([None, 0, 2]))
def test_every_value_of_any_document_is_found_where_it_stands(document: Any, indent: int | None) -> None:
    text = json.dumps({"top": document}, indent=indent, ensure_ascii=False)
    for path, value in paths_of({"top": document}):
        place = place_of(text, path)
        assert place is not None
        lines = text.split("\n")
        offset = sum(len(line) + 1 for line in lines[: place.line - 1]) + place.column - 1
        assert place_at(text, offset) == place
        assert json.JSONDecoder().raw_decode(text, offset)[0] == value
