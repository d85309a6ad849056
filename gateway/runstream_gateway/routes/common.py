"""What routes share: the gateway, who calls, and how answers are written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.requests import HTTPConnection
from starlette.responses import Response

from runstream_gateway.access import EVERYTHING, Allowed, Resource
from runstream_gateway.core import Gateway
from runstream_gateway.jsonbytes import dumps


class Access:
    """What one request may do."""

    def __init__(self, gateway: Gateway, connection: HTTPConnection) -> None:
        self.gateway = gateway
        self._connection = connection

    async def to(self, resource: Resource, action: str, value: dict[str, Any]) -> Allowed:  # noqa: ARG002 - wired next
        """Ask whether the caller may do something, and with which things of the kind.

        Args:
            resource: the kind.
            action: what is to be done, by the names of `langgraph_sdk.Auth`.
            value: what the request says; the guard may add to its `metadata`.

        Raises:
            ApiError: 403, the caller may not.
        """
        return EVERYTHING

    @property
    def configurable(self) -> dict[str, Any]:
        """What graphs are told of who calls."""
        return {}


def gateway_of(connection: HTTPConnection) -> Gateway:
    """The gateway of the app that serves a connection."""
    gateway: Gateway = connection.app.state.gateway
    return gateway


async def access_of(request: Request) -> Access:
    """What a request may do.

    Raises:
        ApiError: 401, nobody knows who calls.
    """
    return Access(gateway_of(request), request)


Accessing = Annotated[Access, Depends(access_of)]


class Json(Response):
    """An answer in JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Encode it."""
        return dumps(content)


def paged(items: Sequence[Any], limit: int, offset: int) -> tuple[Sequence[Any], dict[str, str]]:
    """A page of a list, and the headers that tell how much there is."""
    headers = {"x-pagination-total": str(len(items))}
    if len(items) > offset + limit:
        headers["x-pagination-next"] = str(offset + limit)
    return items[offset : offset + limit], headers


def selected(item: Mapping[str, Any], select: Sequence[str] | None) -> dict[str, Any]:
    """The fields of an item that are wanted."""
    return dict(item) if not select else {name: item[name] for name in select if name in item}


def query_list(values: Sequence[str] | None) -> list[str] | None:
    """A list in a query in any form that clients send: repeated, with commas, as JSON; None if empty."""
    found: list[str] = []
    for value in values or ():
        if value.startswith("["):
            try:
                parsed = json.loads(value)
            except ValueError:
                parsed = []
            found += [str(one) for one in parsed] if isinstance(parsed, list) else []
        else:
            found += [one.strip() for one in value.split(",") if one.strip()]
    return found or None
