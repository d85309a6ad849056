"""The gateway as an ASGI application."""

from __future__ import annotations

import logging
from collections.abc import Container

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp

from runstream import (
    InvalidRequest,
    RunExists,
    RunNotFound,
    RunstreamError,
    ThreadBusy,
    __version__,
)
from runstream.faults import reason_of
from runstream_gateway.core import Gateway
from runstream_gateway.errors import ApiError, one_line
from runstream_gateway.incoming import BodyBudget
from runstream_gateway.middleware import Bodies, Failures
from runstream_gateway.origins import Origins
from runstream_gateway.refusals import told
from runstream_gateway.routes import (
    assistants,
    console,
    feedback,
    meta,
    runs,
    state,
    stateless,
    threads,
    tokens,
    websocket,
)
from runstream_gateway.routes.common import Json
from runstream_gateway.settings import Cors
from runstream_worker.infrastructure import Unavailable

_logger = logging.getLogger("runstream.gateway")
_EXPOSED = ("location", "content-location", "x-pagination-total", "x-pagination-next", "retry-after")
_ABOUT = """\
LangGraph's own clients work against this unchanged. Agents run on runstream's workers; what is read here can be read
from any gateway, from any event on, while a run goes on and after its end.
"""


def create_app(gateway: Gateway, *, disabled: Container[str] = ()) -> FastAPI:
    """The application that serves a gateway, which stays its owner's to close.

    Args:
        gateway: it.
        disabled: of `assistants`, `threads`, `runs`, `meta` those whose routes are not to be there.
    """
    app = FastAPI(title="runstream", version=__version__, description=_ABOUT, redoc_url=None)
    app.state.gateway = gateway
    routers = {
        "runs": (runs.many, stateless.router, runs.router, websocket.router, feedback.router),
        "threads": (threads.router, state.router, tokens.router),
        "assistants": (assistants.router,),
        "meta": (meta.router,),
    }
    for resource, ours in routers.items():
        for router in ours if resource not in disabled else ():
            app.include_router(router)
    # The console shows runs and threads: where one of them is turned off, it is no way around that.
    if not any(resource in disabled for resource in ("runs", "threads", "meta")):
        app.include_router(console.router)
    _answer_errors(app)
    settings = gateway.settings
    app.add_middleware(Failures)
    app.add_middleware(Bodies, budget=BodyBudget(settings.max_body_bytes), timeout=settings.body_timeout)
    app.add_middleware(Origins, cors=settings.cors)
    app.add_middleware(with_cors, settings.cors)
    return app


def with_cors(app: ASGIApp, cors: Cors) -> CORSMiddleware:
    """An application that pages of other origins may call, as the settings say.

    Scripts of other origins see no header that is not named, and without `Location` a client cannot come back.
    """
    return CORSMiddleware(
        app,
        allow_origins=cors.allow_origins,
        allow_methods=cors.allow_methods,
        allow_headers=cors.allow_headers,
        allow_credentials=cors.allow_credentials,
        allow_origin_regex=cors.allow_origin_regex,
        expose_headers=[*_EXPOSED, *cors.expose_headers],
        max_age=cors.max_age,
        allow_private_network=True,
    )


def _answer_errors(app: FastAPI) -> None:
    """Every refusal is `{"detail": text}`."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(RunstreamError, _runstream_error)
    app.add_exception_handler(RedisError, _redis_unavailable)
    app.add_exception_handler(Unavailable, _unavailable)


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - as it was registered
    return Json({"detail": error.detail}, status_code=error.status, headers=error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - as it was registered
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    detail = str(error.detail)
    if error.status_code == 405:
        # Starlette names only the methods of the first route that is at this path.
        headers["allow"] = ", ".join(_methods_at(request))
        detail = f"{request.method} is not allowed here: {headers['allow']}"
    return Json({"detail": one_line(detail)}, status_code=error.status_code, headers=headers)


def _methods_at(request: Request) -> list[str]:
    routes = request.app.router.routes
    return [
        method
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
        if any(route.matches({**request.scope, "method": method})[0] == Match.FULL for route in routes)
    ]


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - as it was registered
    return Json({"detail": one_line(told(error.errors(), error.body))}, status_code=422)


async def _runstream_error(_: Request, error: Exception) -> Response:
    match error:
        case InvalidRequest():
            status = 422
        case RunNotFound():
            status = 404
        case ThreadBusy() | RunExists():
            status = 409
        case _:
            status = 500
            _logger.error("a request failed", exc_info=error)
    return Json({"detail": one_line(str(error))}, status_code=status)


async def _unavailable(_: Request, error: Exception) -> Response:
    assert isinstance(error, Unavailable)  # noqa: S101 - as it was registered
    _logger.warning("a request needs what is away: %s", error)
    return Json({"detail": error.public}, status_code=503, headers={"retry-after": "1"})


async def _redis_unavailable(_: Request, error: Exception) -> Response:
    _logger.warning("Redis refuses or is away: %s", error)
    return Json({"detail": reason_of(error)}, status_code=503, headers={"retry-after": "1"})
