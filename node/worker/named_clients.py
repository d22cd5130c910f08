"""Named clients of `http` steps: the file behind `start --http-clients`.

    {"billing": {"base_url": "https://billing.example.com/v1",
                 "headers": {"Authorization": {"env": "BILLING_TOKEN", "prefix": "Bearer "}, "X-Team": "shop"}}}

A header is a text, or taken from the node's environment when it starts; runners get the values, and no step sees them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from workflow.steps.base import NamedClient

CLIENTS_MAX: Final = 1000
FILE_BYTES_MAX: Final = 1024 * 1024


class ClientsInvalid(Exception):
    """The file cannot be used; the text says where and why, and shows no value."""


class _FromEnvironment(Struct, forbid_unknown_fields=True):
    env: str
    prefix: str = ""


class _Client(Struct, forbid_unknown_fields=True):
    base_url: str
    headers: dict[str, str | _FromEnvironment] = {}


def read_named_clients(path: Path, environment: Mapping[str, str]) -> dict[str, NamedClient]:
    """The clients of a file, secrets filled in. Raises ClientsInvalid."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ClientsInvalid(f"cannot be read: {error.strerror}") from error
    if len(text) > FILE_BYTES_MAX:
        raise ClientsInvalid(f"has {len(text)} bytes (limit {FILE_BYTES_MAX})")
    try:
        found = msgspec.json.decode(text, type=dict[str, _Client])
    except msgspec.DecodeError as error:
        raise ClientsInvalid(str(error)) from None
    if len(found) > CLIENTS_MAX:
        raise ClientsInvalid(f"has {len(found)} clients (limit {CLIENTS_MAX})")
    return {name: _client(name, client, environment) for name, client in found.items()}


def _client(name: str, client: _Client, environment: Mapping[str, str]) -> NamedClient:
    parts = urlsplit(client.base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ClientsInvalid(f"{name}.base_url must be an http or https address without ? and #")
    headers: dict[str, str] = {}
    for header, value in client.headers.items():
        if isinstance(value, _FromEnvironment):
            if value.env not in environment:
                raise ClientsInvalid(f"{name}.headers.{header}: the environment has no {value.env}")
            headers[header] = value.prefix + environment[value.env]
        else:
            headers[header] = value
        if not header.isascii() or not headers[header].isprintable():
            raise ClientsInvalid(f"{name}.headers.{header} is not a header: a text of one line")
    return NamedClient(client.base_url, headers)
