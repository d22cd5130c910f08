"""The HTTP API of a node: aiohttp's low-level server, a router of our own, problem+json errors, OpenAPI 3.1.

Read first: routes.py (the table of every route), then executions.py (the hot path is `start_one` there).

    server.py      sockets, one request from bytes to reply, errors at the edge, limits of time and size
    router.py      (method, path) -> route; 404, 405 and the suggestions in them
    routes.py      the table: path, handler, and the description that the OpenAPI document is made of
    bodies.py      reading request bodies: structs, unknown fields, places of problems, depth
    replies.py     writing answers with one system call
    problems.py    errors -> application/problem+json
    render.py      views of the engine -> JSON
    executions.py  /v1/executions…       batching.py  many starts, one call of the engine
    signals.py     /v1/executions/{id}/signals/{name}
    workflows.py   /v1/workflows…        about.py     health, status, metrics, step types
    original.py    the routes of the original server (SERVER.md), under /api/v1 and /health
    openapi.py     /v1/openapi.json

Not here: anything about how an execution runs. The API knows the engine only by node.engine.Engine.
"""
