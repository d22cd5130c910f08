"""Reading request bodies: JSON into frozen structs, and errors that name the place.

Unknown fields are refused with a suggestion, wrong types with their path. The workflow itself stays raw bytes:
the engine caches it by its hash, so the API never decodes it on the way in.
"""

from __future__ import annotations

import asyncio
import difflib
import re
from itertools import accumulate
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from msgspec import json as msgspec_json

from node.api.problems import ApiError
from node.errors import Problem

# Waiting holds a connection; beyond this a client should watch /events or ask again.
wait_s_max: Final = 300.0
# A batch is one proposal to the log; more in one request brings no more speed and makes one answer very long.
batch_executions_max: Final = 1000
tags_max: Final = 32

ShortText = Annotated[str, Meta(min_length=1, max_length=200)]
# The last group, because `$` is true before a line break at the end too; ids go into headers and paths.
WorkflowId = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9._~:-]+$(?!\n)")]
Tags = Annotated[
    dict[Annotated[str, Meta(max_length=100)], Annotated[str, Meta(max_length=500)]],
    Meta(max_length=tags_max),
]
WaitS = Annotated[float, Meta(ge=0, le=wait_s_max)]


class StartBody(Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/executions`: exactly one of `workflow` (a payload) and `workflow_id` (a registered one)."""

    workflow: Raw | UnsetType = UNSET
    workflow_id: WorkflowId | None = None
    version: Annotated[int, Meta(ge=1)] | None = None
    inputs: Raw | UnsetType = UNSET
    priority: Annotated[int, Meta(ge=0, le=9)] = 5
    tags: Tags = {}
    idempotency_key: ShortText | None = None
    wait_s: WaitS = 0.0


class BatchItem(Struct, frozen=True, forbid_unknown_fields=True):
    """One start of a batch: as StartBody without `wait_s`, which belongs to the whole batch."""

    workflow: Raw | UnsetType = UNSET
    workflow_id: WorkflowId | None = None
    version: Annotated[int, Meta(ge=1)] | None = None
    inputs: Raw | UnsetType = UNSET
    priority: Annotated[int, Meta(ge=0, le=9)] = 5
    tags: Tags = {}
    idempotency_key: ShortText | None = None


class BatchBody(Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/executions:batch`."""

    executions: Annotated[list[BatchItem], Meta(min_length=1, max_length=batch_executions_max)]
    wait_s: WaitS = 0.0


class CancelBody(Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/executions/{id}/cancel`."""

    reason: Annotated[str, Meta(max_length=1000)] = ""


class RegisterBody(Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/workflows`: `id` names the workflow; without it the id is made from `name`."""

    workflow: Raw
    id: WorkflowId | None = None
    name: Annotated[str, Meta(max_length=200)] = ""
    description: Annotated[str, Meta(max_length=10_000)] = ""


class ValidateBody(Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/workflows:validate`."""

    workflow: Raw


Body = TypeVar("Body", bound=Struct)


class BodyReader:
    """Decodes bodies of one struct type; keeps the decoder."""

    def __init__(self, kind: type[Body]) -> None:
        self.kind = kind
        self.decode_fast = msgspec_json.Decoder(kind).decode

    def decode(self, body: bytes) -> Any:
        """The body as a struct. Raises ApiError 400 that names the place."""
        try:
            return self.decode_fast(body)
        except msgspec.ValidationError as error:
            raise _validation_problem(error, body, self.kind) from None
        except msgspec.DecodeError as error:
            repaired = _without_lone_surrogates(body)
            if repaired != body:
                return self.decode(repaired)
            raise ApiError("not_json", _why_not_json(error, body)) from None
        except UnicodeDecodeError as error:
            raise ApiError(
                "not_json", f"the body is not UTF-8: {error.reason} at byte {error.start}"
            ) from None
        except RecursionError:
            raise ApiError("too_deep", "the body is nested too deeply to be read") from None


_SURROGATES = re.compile(
    rb"\\(?:\\|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[dD][89a-fA-F][0-9a-fA-F]{2})"
)


def _without_lone_surrogates(body: bytes) -> bytes:
    """Half of a surrogate pair becomes U+FFFD, as in the original's decoder; msgspec would refuse the whole text."""
    return _SURROGATES.sub(lambda found: found[0] if len(found[0]) != 6 else rb"\ufffd", body)


async def check_depth(body: bytes, depth_max: int) -> None:
    """Refuse JSON nested more than `depth_max` levels; small bodies cost two counts.

    Without its strings, a text of JSON is brackets and scalars. Works in pieces and lets others run between them:
    a body of nothing but brackets takes most of a second.
    """
    if body.count(b"[") + body.count(b"{") <= depth_max:
        return
    outside_strings = body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2]
    brackets = b"".join(outside_strings).translate(None, _NOT_BRACKETS)
    depth = 0
    for start in range(0, len(brackets), _PIECE):
        piece = brackets[start : start + _PIECE]
        if max(accumulate(map(_STEP.__getitem__, piece), initial=depth)) > depth_max:
            raise ApiError(
                "too_deep",
                f"the body is nested more than {depth_max} levels deep (limit: json_depth_max={depth_max})",
            )
        depth += 2 * (piece.count(b"[") + piece.count(b"{")) - len(piece)
        await asyncio.sleep(0)


_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_STEP: Final = tuple(1 if byte in b"[{" else -1 for byte in range(256))
_PIECE: Final = 65_536


def read_json_object(raw: bytes, place: str) -> dict[str, Any]:
    """Raw JSON that must be an object."""
    try:
        data = msgspec_json.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ApiError("not_json", f"{place}: {error}") from None
    if not isinstance(data, dict):
        message = f"expected an object, got {json_kind(raw)}"
        raise ApiError(
            "wrong_type",
            f"{place}: {message}",
            problems=[Problem(path=place, message=message, code="wrong_type")],
        )
    return data


def json_kind(raw: bytes) -> str:
    """What a JSON text is, in a person's words, from its first byte."""
    first = raw.lstrip()[:1]
    return {
        b"{": "an object",
        b"[": "an array",
        b'"': "a string",
        b"t": "a boolean",
        b"f": "a boolean",
        b"n": "null",
    }.get(first, "a number" if first else "nothing")


# --- texts of what is wrong --------------------------------------------------------------------------------

_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_EXPECTED = re.compile(r"Expected `(.*?)`, got `(.*?)`", re.DOTALL)
_POSITION = re.compile(r"\(byte (\d+)\)")
_TYPE_WORDS = {
    "str": "a string", "int": "an integer", "float": "a number", "bool": "a boolean", "object": "an object",
    "array": "an array", "null": "null",
}  # fmt: skip


def _validation_problem(error: msgspec.ValidationError, body: bytes, kind: type[Struct]) -> ApiError:
    text, _, where = str(error).partition(" - at `")
    place = _place(where)
    if found := _UNKNOWN.match(text):
        return _unknown_field(found[1][:100], place, kind)
    if found := _MISSING.match(text):
        path = f"{place}.{found[1]}" if place else found[1]
        return _one_problem("missing_field", path, "is required", "missing_field")
    if found := _EXPECTED.match(text):
        wanted = " or ".join(_TYPE_WORDS.get(word.strip(), word.strip()) for word in found[1].split("|"))
        got = _TYPE_WORDS.get(found[2], found[2])
        return _one_problem("wrong_type", place, f"expected {wanted}, got {got}", "wrong_type")
    return _one_problem("invalid_value", place, text[:1].lower() + text[1:], "invalid_value")


def _place(where: str) -> str:
    """msgspec's `$.executions[3].priority` as `executions[3].priority`."""
    return where.rstrip("`").removeprefix("key ").removeprefix("$").removeprefix(".")


def _unknown_field(name: str, place: str, kind: type[Struct]) -> ApiError:
    struct = BatchItem if kind is BatchBody and place.startswith("executions[") else kind
    known = struct.__struct_fields__
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    advice = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(known)}"
    if "nodes" not in known and name.lower() in ("nodes", "edges") and "workflow" in known:
        advice = 'a payload goes into the field `workflow`: {"workflow": {"nodes": …}}'
    path = f"{place}.{name}" if place else name
    return _one_problem("unknown_field", path, f"is not a field here; {advice}", "unknown_field")


def _one_problem(code: str, path: str, message: str, problem_code: str) -> ApiError:
    detail = f"{path}: {message}" if path else f"the body: {message}"
    return ApiError(code, detail, problems=[Problem(path=path, message=message, code=problem_code)])


def _why_not_json(error: msgspec.DecodeError, body: bytes) -> str:
    if not body.strip():
        return "the body is empty; a JSON object is expected"
    text = str(error)
    if found := _POSITION.search(text):
        offset = min(int(found[1]), len(body))
        line = body.count(b"\n", 0, offset) + 1
        column = offset - (body.rfind(b"\n", 0, offset) + 1) + 1
        return f"the body is not JSON: line {line}, column {column}: {text}"
    return f"the body is not JSON: {text}"
