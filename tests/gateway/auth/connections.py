"""Requests as a server hands them to the gateway."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import HTTPConnection, Request


def request(
    path: str = "/threads",
    *,
    method: str = "POST",
    query: str = "",
    body: Any = None,
    path_params: dict[str, str] | None = None,
    **headers: str,
) -> Request:
    """A request; underscores in the headers' names stand for hyphens."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}

    return Request(_scope("http", path, query, headers) | {"method": method, "path_params": path_params or {}}, receive)


def websocket(path: str = "/threads", *, query: str = "", **headers: str) -> HTTPConnection:
    """The opening of a WebSocket."""
    return HTTPConnection(_scope("websocket", path, query, headers))


def _scope(kind: str, path: str, query: str, headers: dict[str, str]) -> dict[str, Any]:
    return {
        "type": kind,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
    }
