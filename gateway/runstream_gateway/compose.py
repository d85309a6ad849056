"""The gateway's application with what a project adds: routes of its own, and a path under which everything is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, SimpleUser
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Match, Mount
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from runstream_gateway.app import create_app, with_cors
from runstream_gateway.auth.caller import Caller
from runstream_gateway.core import Gateway
from runstream_gateway.errors import ApiError
from runstream_gateway.jsonbytes import dumps
from runstream_gateway.openapi import describe_together
from runstream_gateway.project import Project

# FastAPI gives every application these; a project's are not meant to hide the gateway's.
_COMMON_PATHS = frozenset(("/docs", "/docs/oauth2-redirect", "/openapi.json", "/redoc"))


def compose(gateway: Gateway, project: Project, state: Mapping[str, Any] | None = None) -> ASGIApp:
    """The application of a gateway in front of a project, as `routes_of` gives it, under the project's path."""
    return mounted(routes_of(gateway, project, state), project.mount_prefix)


def mounted(app: ASGIApp, prefix: str) -> ASGIApp:
    """Put an application under a path; it is at the root where there is none."""
    return Starlette(routes=[Mount(prefix, app=app)], exception_handlers={HTTPException: _not_here}) if prefix else app


def routes_of(gateway: Gateway, project: Project, state: Mapping[str, Any] | None = None) -> ASGIApp:
    """The routes of a gateway and of the project that it is in front of.

    Args:
        gateway: it.
        project: what it adds.
        state: what the lifespan of the project's own application has given, for `request.state` of its routes.
    """
    api = create_app(gateway, disabled=project.disabled)
    app: ASGIApp = api
    if project.app is not None:
        describe_together(api, project.app)
        app = ProjectFirst(project.app, app, gateway, guarded=project.guards_app, state=state or {})
    return app


class ProjectFirst:
    """Gives a request to the project's own routes where one of them is for it, else to the gateway's.

    Args:
        own: the project's application.
        gateway_app: the gateway's.
        gateway: whose guard is asked.
        guarded: whether the project's routes are only for callers that the guard knows.
        state: for `request.state` of the project's routes.
    """

    def __init__(
        self, own: Starlette, gateway_app: ASGIApp, gateway: Gateway, *, guarded: bool, state: Mapping[str, Any]
    ) -> None:
        self._routes = own.routes
        self._own = with_cors(own, gateway.settings.cors)
        self._gateway_app = gateway_app
        self._gateway = gateway
        self._guarded = guarded
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] not in ("http", "websocket") or not self._is_own(scope):
            await self._gateway_app(scope, receive, send)
            return
        scope = {**scope, "state": dict(self._state)}
        if self._guarded:
            try:
                scope |= _user(await self._caller(scope))
            except ApiError as error:
                await _refusal(scope, error)(scope, receive, send)
                return
        await self._own(scope, receive, send)

    async def _caller(self, scope: Scope) -> Caller:
        caller = await self._gateway.guard.authenticate(HTTPConnection(scope))
        if caller.scope is not None:
            raise ApiError(403, "a read token is for reading one run or thread, and for nothing else")
        return caller

    def _is_own(self, scope: Scope) -> bool:
        # A mounted application finds the whole path, and in `root_path` where it is mounted.
        if scope["path"].removeprefix(scope.get("root_path", "")) in _COMMON_PATHS:
            return False
        return any(route.matches(scope)[0] == Match.FULL for route in self._routes)


def _user(caller: Caller) -> dict[str, Any]:
    """Who calls, where Starlette's `request.user` and `request.auth` look for it."""
    return {"user": caller.principal or SimpleUser(caller.identity), "auth": AuthCredentials(caller.permissions)}


def _refusal(scope: Scope, error: ApiError) -> ASGIApp:
    if scope["type"] == "websocket":
        return WebSocketClose(4000 + error.status, error.detail)
    return Response(dumps({"detail": error.detail}), error.status, error.headers, "application/json")


async def _not_here(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - as it was registered
    return Response(dumps({"detail": error.detail}), error.status_code, media_type="application/json")
