"""What routes share: the gateway, who calls, and how answers are written."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Annotated, Any, Final, TypeVar

from fastapi import Depends, Path, Request, WebSocket
from pydantic_core import from_json
from starlette.requests import HTTPConnection
from starlette.responses import Response

from runstream.usage import Kind
from runstream_gateway.auth.caller import Caller, Filter
from runstream_gateway.auth.calling import set_caller
from runstream_gateway.auth.guard import Action, Resource
from runstream_gateway.auth.limits import subject_of
from runstream_gateway.core import Gateway
from runstream_gateway.errors import ApiError
from runstream_gateway.incoming import IncomingBody
from runstream_gateway.jsonbytes import dumps
from runstream_gateway.streaming import TimedStreams

_T = TypeVar("_T")
_ACCESS: Final = "runstream.access"
_LONGEST_SHOWN = 60


class Access:
    """What one request may do.

    Attributes:
        gateway: that it came to.
        caller: who makes it.
        base_url: by which the gateway was reached.
        is_heavy: whether the request's body is large, or has many values.
    """

    def __init__(self, gateway: Gateway, caller: Caller, base_url: str) -> None:
        self.gateway = gateway
        self.caller = caller
        self.base_url = base_url
        self.is_heavy = False
        self._slot: AsyncExitStack | None = None

    async def to(self, resource: Resource, action: Action, value: dict[str, Any]) -> Filter:
        """Ask whether the caller may do something, and with which things of the kind.

        Args:
            resource: the kind.
            action: what is to be done, by the names of `langgraph_sdk.Auth`.
            value: what the request says; the guard may add to its `metadata`.

        Raises:
            ApiError: 403, the caller may not.
        """
        return await self.gateway.guard.authorize(self.caller, resource, action, value)

    async def to_found(self, resource: Resource, action: Action, value: dict[str, Any], *, missing: ApiError) -> Filter:
        """Ask for a thing that is there, of which nobody is to learn that by being refused.

        Args:
            resource: as above.
            action: as above.
            value: as above.
            missing: what is answered where there is no such thing.

        Raises:
            ApiError: `missing`, the caller may not.
        """
        try:
            return await self.to(resource, action, value)
        except ApiError as refused:
            raise missing if 400 <= refused.status < 500 else refused from None

    async def compute(self, work: Callable[[], _T]) -> _T:
        """Return what the work returns, which takes as long as the request's body is large.

        It must not touch what the event loop's tasks share: the work of a heavy request runs in another thread.

        Raises:
            ApiError: 503, too many large requests wait.
        """
        return await self.gateway.lane.run(work) if self.is_heavy else work()

    async def stream_slot(self) -> AsyncExitStack:
        """Count one more stream of the caller's, until what is returned is closed.

        Raises:
            ApiError: 429, too many are open.
        """
        if self._slot is not None:
            slot, self._slot = self._slot, None
            return slot
        stack = AsyncExitStack()
        await stack.enter_async_context(self.gateway.limiter.stream(self.caller))
        return stack

    @asynccontextmanager
    async def stream_to_come(self) -> AsyncIterator[None]:
        """Count a stream already while that is being made which it will show: too late, and the run is there.

        Raises:
            ApiError: 429, too many are open.
        """
        slot = self._slot = await self.stream_slot()
        try:
            yield
        except BaseException:
            await slot.aclose()
            raise

    def storing(self, kind: Kind, item_id: str, *values: Any) -> AbstractAsyncContextManager[None]:
        """Count that a thing is to be written, or to become larger by these values, in the block.

        Raises:
            ApiError: 403, the caller keeps too much.
        """
        return self.gateway.storage.adding(self.caller, (kind, item_id, sum(len(dumps(value)) for value in values)))

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Wait for a turn to read much, and hold it as long as the block lasts.

        Raises:
            ApiError: 429, too many of the caller's requests wait for one.
        """
        return self.gateway.turns.turn(subject_of(self.caller))

    @property
    def streams(self) -> TimedStreams:
        """The caller's streams: those that were opened with a read token end with it."""
        scope = self.caller.scope
        return TimedStreams(self.gateway.streams, math.inf if scope is None else scope.expires_at)

    @property
    def configurable(self) -> dict[str, Any]:
        """What graphs are told of who calls, by the names of LangGraph's own server."""
        # A project's handlers may let anonymous callers in: they are still nobody else.
        if not self.caller.identity and self.caller.principal is None:
            return {}
        return {
            "user_id": self.caller.identity,
            "langgraph_auth_user": dict(self.caller.user),
            "langgraph_auth_user_id": self.caller.identity,
            "langgraph_auth_permissions": list(self.caller.permissions),
        }


def gateway_of(connection: HTTPConnection) -> Gateway:
    """The gateway of the app that serves a connection."""
    gateway: Gateway = connection.app.state.gateway
    return gateway


async def access_of(request: Request) -> Access:
    """What a request may do; found out once, by the request's head.

    Raises:
        ApiError: 401 and 403, the caller is not known or not wanted; 413 and 429, it wants too much.
    """
    if (known := known_access(request)) is not None:
        return known
    gateway = gateway_of(request)
    caller = await gateway.guard.authenticate(request)
    await gateway.limiter.admit(caller)
    if (body := IncomingBody.of(request)) is not None:
        # Callers that nobody is asked for share no more than their address.
        body.admit(subject_of(caller) if caller.identity or caller.key_id else None, caller.limits.request_bytes)
    access = request.scope[_ACCESS] = _access(gateway, caller, request)
    return access


async def access_of_websocket(websocket: WebSocket) -> Access:
    """What whoever opened a WebSocket may do.

    Raises:
        ApiError: 401 and 403, the caller is not known or not wanted; 429, it wants too much.
    """
    gateway = gateway_of(websocket)
    caller = await gateway.guard.authenticate(websocket)
    await gateway.limiter.admit(caller)
    return _access(gateway, caller, websocket)


def _access(gateway: Gateway, caller: Caller, connection: HTTPConnection) -> Access:
    access = Access(gateway, caller, str(connection.base_url))
    set_caller(access.configurable)
    return access


def known_access(request: Request) -> Access | None:
    """What `access_of` has found for a request; None where it has not been asked."""
    found: Access | None = request.scope.get(_ACCESS)
    return found


Accessing = Annotated[Access, Depends(access_of)]
ThreadId = Annotated[str, Path(description="The thread's UUID.", json_schema_extra={"format": "uuid"})]
RunId = Annotated[str, Path(description="The run's UUID.", json_schema_extra={"format": "uuid"})]


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
    """A list in a query in any form that clients send: repeated, with commas, as JSON; None if empty.

    Raises:
        ApiError: 422, it begins as a list in JSON and is none of texts.
    """
    found: list[str] = []
    for value in values or ():
        if value.startswith("["):
            found += _json_list(value)
        else:
            found += [one.strip() for one in value.split(",") if one.strip()]
    return found or None


def _json_list(text: str) -> list[str]:
    try:
        found = from_json(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        shown = text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
        raise ApiError(422, f"query: {shown!r} must be names with commas between them, or a list of texts in JSON")
    return found
