"""/v1/executions/{id}/signals/{name}: a value from outside for a step that waits for it."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec import json as msgspec_json

from node.api.bodies import BodyReader, ShortText, check_depth
from node.api.problems import ApiError
from node.api.render import execution_json
from node.api.replies import AnyReply, Reply
from node.api.server import ApiSettings, Call
from node.engine import TERMINAL, Engine
from node.errors import NotFound, Problem
from workflow.codec import CodecError, encode
from workflow.values import from_json

signal_name_chars_max: Final = 200
_NIL: Final = b"\xc0"


class SignalBody(Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/executions/{id}/signals/{name}`. Under a `key` the signal counts once, however often it is sent."""

    payload: Raw | UnsetType = UNSET
    key: ShortText | None = None


_SIGNAL: Final = BodyReader(SignalBody)


class SignalRoutes:
    """The handler; it holds no state of its own."""

    def __init__(self, engine: Engine, settings: ApiSettings) -> None:
        self._engine = engine
        self._settings = settings

    async def send(self, call: Call) -> AnyReply:
        """202 when the signal is durable: handed to the step that waits for it, or kept until one does.

        404 for an unknown execution, 409 when it has ended, 429 when it has too many unread signals.
        """
        execution_id, name = call.parameters["id"], call.parameters["name"]
        if not 0 < len(execution_id) <= 100 or not execution_id.isascii():
            raise NotFound(f"no execution has the id {execution_id[:100]!r}")
        if not 0 < len(name) <= signal_name_chars_max:
            text = f"a signal's name has 1 to {signal_name_chars_max} characters"
            raise ApiError("invalid_value", text, problems=[Problem(path="name", message=text)])
        fields = SignalBody()
        if call.request.body_exists:
            body = await call.body()
            await check_depth(body, self._settings.json_depth_max)
            if body.strip():
                fields = _SIGNAL.decode(body)
        payload = _NIL if fields.payload is UNSET else _encoded(bytes(fields.payload))
        view = await self._engine.signal(execution_id, name, payload, key=fields.key)
        return Reply(execution_json(view), status=200 if view.status in TERMINAL else 202)


def _encoded(raw: bytes) -> bytes:
    try:
        return encode(from_json(msgspec_json.decode(raw)))
    except (CodecError, OverflowError, RecursionError, msgspec.DecodeError) as error:
        raise ApiError(
            "invalid_value", f"payload: {error}", problems=[Problem(path="payload", message=str(error))]
        ) from None
