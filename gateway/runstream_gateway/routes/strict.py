"""Requests whose head is judged first: who calls, whether that may be, how large; then the body is read and parsed."""

from __future__ import annotations

from typing import Any, cast

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.responses import Response

from runstream_gateway.errors import ApiError
from runstream_gateway.request_json import parse, weigh
from runstream_gateway.routes.common import access_of, gateway_of, known_access

_LARGE = 256 * 1024
_MANY = 2_000
_MOST_ERRORS = 1_000


class StrictRequest(Request):
    """A request whose body is weighed before it is parsed; what is large is parsed beside the event loop.

    Attributes:
        is_heavy: whether the body is large, or has many values: what computes with it belongs into the gateway's lane.
    """

    is_heavy = False

    async def json(self) -> Any:
        """Return the body.

        Raises:
            ApiError: 413, it has too many values; 503, too many large requests wait.
            HTTPException: 422, it is no JSON. FastAPI lets no other exception pass here.
        """
        if not hasattr(self, "_json"):
            body, gateway = await self.body(), gateway_of(self)
            most = gateway.settings.max_body_values
            self.is_heavy = len(body) > _LARGE or weigh(body, most) > _MANY
            if self.is_heavy:
                self._json = await gateway.lane.run(lambda: _weighed(body, most))
            else:
                self._json = parse(body)
        return self._json

    def drop_bytes(self) -> None:
        """Keep what was parsed only. That there is a body is all that FastAPI asks once there is that."""
        self._body = self._body[:1]


class StrictRoute(APIRoute):
    """A route whose requests are `StrictRequest`, and are admitted before their body is read."""

    def get_route_handler(self) -> Any:
        """Return the handler, as FastAPI documents it for requests of one's own."""
        handle = super().get_route_handler()
        info = None if self.body_field is None else self.body_field.field_info
        adapter: TypeAdapter[Any] | None = None if info is None else TypeAdapter(cast("Any", info.annotation))

        async def strictly(request: Request) -> Response:
            strict = StrictRequest(request.scope, request.receive)
            await self.admit(strict)
            if strict.method not in ("GET", "HEAD") and await strict.body() and adapter is not None:
                await _load(strict, adapter)
            return await handle(strict)

        return strictly

    async def admit(self, request: Request) -> None:
        """Judge a request by its head.

        Raises:
            ApiError: 401, 403, 413, 429.
        """
        if any(dependency.call is access_of for dependency in self.dependant.dependencies):
            await access_of(request)


async def _load(request: StrictRequest, adapter: TypeAdapter[Any]) -> None:
    """Parse the body; refuse one that is wrong in so many places that to list them would take long.

    Raises:
        ApiError: 413, 422, 503.
    """
    value = await request.json()
    request.drop_bytes()
    if request.is_heavy:
        await gateway_of(request).lane.run(lambda: _check_errors(adapter, value))
        if (access := known_access(request)) is not None:
            access.is_heavy = True


def _weighed(body: bytes, most: int) -> Any:
    weigh(body, most)
    return parse(body)


def _check_errors(adapter: TypeAdapter[Any], value: Any) -> None:
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        if error.error_count() > _MOST_ERRORS:
            raise ApiError(422, f"body: {error.error_count():,} of its fields are wrong") from None
