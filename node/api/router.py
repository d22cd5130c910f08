"""(method, path) -> route. Exact paths by one dict lookup; paths with an id by comparing their parts."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from node.api.problems import ApiError
from node.api.replies import AnyReply

if TYPE_CHECKING:
    from node.api.server import Call

Handler = Callable[["Call"], Awaitable[AnyReply]]


@dataclass(frozen=True, slots=True)
class Route:
    """One operation. `path` has its variable parts in braces: `/v1/executions/{id}/events`.

    `operation` is the route's part of the OpenAPI document; None keeps a route out of it (a plain alias).
    """

    method: str
    path: str
    handler: Handler
    operation: dict[str, Any] | None = field(default=None, compare=False)


class Router:
    """An immutable table. HEAD goes where GET goes; a trailing slash is another path, as everywhere."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self._exact: dict[str, dict[str, Route]] = {}
        self._patterns: dict[int, list[tuple[tuple[str, ...], dict[str, Route]]]] = {}
        for route in routes:
            methods = self._methods_at(route.path)
            if route.method in methods:
                raise ValueError(f"{route.method} {route.path} is in the table twice")
            methods[route.method] = route
            if route.method == "GET":
                methods.setdefault("HEAD", route)

    def _methods_at(self, path: str) -> dict[str, Route]:
        if "{" not in path:
            return self._exact.setdefault(path, {})
        parts = tuple(path.split("/"))
        same_length = self._patterns.setdefault(len(parts), [])
        for known, methods in same_length:
            if known == parts:
                return methods
        fresh: dict[str, Route] = {}
        same_length.append((parts, fresh))
        return fresh

    def match(self, method: str, raw_path: str) -> tuple[Route, dict[str, str]]:
        """The route and the values of its variable parts. Raises ApiError no_such_route or method_not_allowed."""
        methods = self._exact.get(raw_path)
        parameters: dict[str, str] = {}
        if methods is None:
            methods, parameters = self._match_pattern(raw_path)
        if methods is None:
            raise self._no_such_route(raw_path)
        route = methods.get(method)
        if route is None:
            allowed = ", ".join(sorted(methods))
            raise ApiError(
                "method_not_allowed",
                f"{method} is not a method of {raw_path[:200]}; it takes {allowed}",
                headers={"Allow": allowed},
            )
        return route, parameters

    def _match_pattern(self, raw_path: str) -> tuple[dict[str, Route] | None, dict[str, str]]:
        parts = raw_path.split("/")
        for pattern, methods in self._patterns.get(len(parts), ()):
            values: dict[str, str] = {}
            for want, got in zip(pattern, parts, strict=True):
                if want[:1] == "{":
                    values[want[1:-1]] = unquote(got)
                elif want != got:
                    break
            else:
                return methods, values
        return None, {}

    def _no_such_route(self, raw_path: str) -> ApiError:
        shown = raw_path[:200]
        near = difflib.get_close_matches(shown, [route.path for route in self.routes], n=1, cutoff=0.7)
        hint = f"; did you mean {near[0]}?" if near else ""
        return ApiError("no_such_route", f"there is nothing at {shown}{hint}")
