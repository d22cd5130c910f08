"""The file of named http clients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from node.worker.named_clients import ClientsInvalid, read_named_clients
from workflow.steps.base import NamedClient

SECRET = "s3cret"


def read(folder: Path, content: Any) -> dict[str, NamedClient]:
    path = folder / "clients.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_named_clients(path, {"TOKEN": SECRET, "BAD": "two\nlines"})


def test_headers_are_texts_or_come_from_the_environment(tmp_path: Path) -> None:
    headers = {"Authorization": {"env": "TOKEN", "prefix": "Bearer "}, "X-Team": "shop"}
    clients = read(tmp_path, {"shop": {"base_url": "https://shop.example.com/v1", "headers": headers}})
    assert clients["shop"].base_url == "https://shop.example.com/v1"
    assert clients["shop"].headers == {"Authorization": "Bearer s3cret", "X-Team": "shop"}
    assert SECRET not in repr(clients["shop"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("not json", "malformed"),
        ({"a": {}}, "base_url"),
        ({"a": {"base_url": "ftp://x"}}, "a.base_url must be an http or https address"),
        ({"a": {"base_url": "https://x/?k=1"}}, "a.base_url must be"),
        ({"a": {"base_url": "https://x", "header": {}}}, "header"),
        ({"a": {"base_url": "https://x", "headers": {"K": {"env": "NONE"}}}}, "the environment has no NONE"),
        ({"a": {"base_url": "https://x", "headers": {"K": {"env": "BAD"}}}}, "a.headers.K is not a header"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(tmp_path: Path, content: Any, says: str) -> None:
    with pytest.raises(ClientsInvalid) as refused:
        read(tmp_path, content)
    assert says in str(refused.value)
    assert SECRET not in str(refused.value)
