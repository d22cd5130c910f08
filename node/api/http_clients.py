"""Named HTTP clients of the original server's routes: kept in one small file, used by no workflow (as there).

The file is replaced as a whole and synced, so it holds the old list or the new one. It belongs to this node alone.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec import json as msgspec_json

from node.errors import StorageFull, TooLarge

# The routes cannot delete; the bound keeps a loop of registrations from filling the disk.
clients_max: Final = 1000


class ClientExists(Exception):
    """The uid is taken; the text is the original's."""


class ClientConfigInvalid(Exception):
    """The body is not a config; the text is the original's, as far as it is known."""


class _BasicAuth(Struct):
    username: str = ""
    password: str = ""


class _Token(Struct):
    token: str = ""


class _ApiKey(Struct):
    key: str = ""
    value: str = ""
    location: Literal["header", "query", ""] = ""


class _Auth(Struct):
    type: Literal["none", "basic", "bearer", "apikey", ""] = ""
    basic_auth: _BasicAuth | None = None
    token: _Token | None = None
    api_key: _ApiKey | None = None


class _Network(Struct):
    """Durations are integer nanoseconds."""

    timeout: int = 0
    max_idle_conns: int = 0
    max_idle_conns_per_host: int = 0
    max_conns_per_host: int = 0
    idle_conn_timeout: int = 0
    tls_handshake_timeout: int = 0
    disable_keep_alives: bool = False


class _Security(Struct):
    max_redirects: int = 0
    max_response_size: int = 0
    follow_redirects: bool = False
    allow_private_ips: bool = False
    allow_localhost: bool = False
    allow_link_local: bool = False
    allow_cloud_metadata: bool = False
    allowed_domains: list[str] | None = None


class _Pair(Struct):
    key: str = ""
    value: str = ""


class _Config(Struct):
    uid: Annotated[str, Meta(max_length=1000)] = ""
    description: str = ""
    base_url: str = ""
    auth: _Auth | None = None
    network: _Network | None = None
    security: _Security | None = None
    headers: list[_Pair] | None = None
    query_params: list[_Pair] | None = None


class _RegisterClient(Struct):
    config: _Config | None = None


class HttpClientStore:
    """Owns the file. Secrets in it are readable by the node's user only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = asyncio.Lock()
        self._clients: dict[str, Any] = msgspec_json.decode(path.read_bytes()) if path.exists() else {}

    def uids(self) -> list[str]:
        """Sorted."""
        return sorted(self._clients)

    async def register(self, body: bytes) -> str:
        """Durable when it returns the uid. Raises ClientExists, ClientConfigInvalid, StorageFull, TooLarge."""
        config = _config_of(body)
        async with self._lock:
            if config.uid in self._clients:
                raise ClientExists(f'client with UID "{config.uid}" already exists')
            if len(self._clients) >= clients_max:
                raise TooLarge(f"{clients_max} HTTP clients are registered (limit: clients_max)")
            clients = {**self._clients, config.uid: msgspec.to_builtins(config)}
            try:
                await asyncio.to_thread(self._write, msgspec_json.encode(clients))
            except OSError as error:
                raise StorageFull(f"the HTTP client was not stored: {error.strerror or error}") from error
            self._clients = clients
        return config.uid

    def _write(self, content: bytes) -> None:
        beside = self._path.with_suffix(".new")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, self._path)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _config_of(body: bytes) -> _Config:
    try:
        request = msgspec_json.decode(body, type=_RegisterClient)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ClientConfigInvalid(f"Failed to parse request: {error}") from None
    if request.config is None:
        raise ClientConfigInvalid("config is required")
    if not request.config.uid:
        raise ClientConfigInvalid("Failed to create HTTP client: invalid config: uid is required")
    return request.config
