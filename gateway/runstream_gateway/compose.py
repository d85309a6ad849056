"""The gateway's application with what a project adds: routes of its own, and a path under which everything is."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.routing import Match, Mount
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from runstream_gateway.app import create_app
from runstream_gateway.core import Gateway
from runstream_gateway.errors import ApiError
from runstream_gateway.jsonbytes import dumps
from runstream_gateway.project import Project

# FastAPI gives every application these; a project's are not meant to hide the gateway's.
_COMMON_PATHS = frozenset(("/docs", "/docs/oauth2-redirect", "/openapi.json", "/redoc"))


def compose(gateway: Gateway, project: Project) -> ASGIApp:
    """The application of a gateway in front of a project."""
    app: ASGIApp = create_app(gateway, disabled=project.disabled)
    if project.app is not None:
        app = ProjectFirst(project.app, app, gateway, guarded=project.guards_app)
    if project.mount_prefix:
        app = Starlette(routes=[Mount(project.mount_prefix, app=app)])
    return app


class ProjectFirst:
    """Gives a request to the project's own routes where one of them is for it, else to the gateway's.

    Args:
        own: the project's application.
        gateway_app: the gateway's.
        gateway: whose guard is asked.
        guarded: whether the project's routes are only for callers that the guard knows.
    """

    def __init__(self, own: Starlette, gateway_app: ASGIApp, gateway: Gateway, *, guarded: bool) -> None:
        self._own = own
        self._gateway_app = gateway_app
        self._gateway = gateway
        self._guarded = guarded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] not in ("http", "websocket") or not self._is_own(scope):
            await self._gateway_app(scope, receive, send)
            return
        if self._guarded:
            try:
                await self._gateway.guard.authenticate(HTTPConnection(scope))
            except ApiError as error:
                await _refusal(scope, error)(scope, receive, send)
                return
        await self._own(scope, receive, send)

    def _is_own(self, scope: Scope) -> bool:
        if scope["path"] in _COMMON_PATHS:
            return False
        return any(route.matches(scope)[0] == Match.FULL for route in self._own.routes)


def _refusal(scope: Scope, error: ApiError) -> ASGIApp:
    if scope["type"] == "websocket":
        return WebSocketClose(4000 + error.status, error.detail)
    return Response(dumps({"detail": error.detail}), error.status, error.headers, "application/json")
