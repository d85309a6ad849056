"""A project's own authentication and authorization: a `langgraph_sdk.Auth`, as it is written for LangGraph's server."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from langgraph_sdk import Auth
from starlette.authentication import AuthenticationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request

from runstream.errors import GraphLoadError
from runstream_gateway.auth.caller import NO_LIMITS, Caller, Filter, Limits
from runstream_gateway.auth.guard import UNRESTRICTED, Action, Resource
from runstream_gateway.auth.users import as_json, user_of
from runstream_gateway.errors import ApiError
from runstream_worker.importing import import_file, import_module
from runstream_worker.langgraph_json import located

_log = logging.getLogger(__name__)
_PARAMETERS = (
    "request", "body", "user", "path", "method", "scopes", "path_params", "query_params", "headers", "authorization",
    "scope",
)  # fmt: skip
_WRITES = frozenset(("create", "update", "create_run"))
_ACTIONS = {
    "threads": ("create", "read", "update", "delete", "search", "create_run"),
    "assistants": ("create", "read", "update", "delete", "search"),
}


def load_auth(location: str, folder: Path) -> Auth:
    """The `Auth` object that `auth.path` of a langgraph.json names.

    Args:
        location: `./file.py:name` or `module:name`.
        folder: what a file is relative to, unless it is only below the current one.

    Raises:
        GraphLoadError: there is none.
    """
    place, colon, name = location.rpartition(":")
    if not colon or not place or not name:
        raise GraphLoadError(f"auth.path: {location!r} must be path/file.py:name or module:name")
    if Path(place).suffix in (".js", ".ts", ".mjs", ".cjs", ".mts", ".cts"):
        raise GraphLoadError(
            f"auth.path: {location!r} is JavaScript or TypeScript; the gateway calls Python handlers only"
        )
    is_file = "/" in place or place.endswith(".py")
    module = import_file(located(place, folder)) if is_file else import_module(place)
    auth = getattr(module, name, None)
    if not isinstance(auth, Auth):
        found = "there is none" if auth is None else f"{name!r} is {type(auth).__name__}"
        raise GraphLoadError(f"auth.path: {location!r} must name a langgraph_sdk.Auth, and {found}")
    return auth


class HandlersGuard:
    """Asks the handlers of an `Auth` object, as LangGraph's server does.

    Of the authorization handlers the most specific one is asked, alone: for the resource and the action, for the
    resource, for the action, for everything. Where there is none, everything is allowed: so it is there, and a warning
    tells it.

    Args:
        auth: the object.
        limits: that each user has.

    Raises:
        GraphLoadError: it has no authentication handler, or one that wants what nobody has.
    """

    def __init__(self, auth: Auth, *, limits: Limits = NO_LIMITS) -> None:
        handler = auth._authenticate_handler  # noqa: SLF001 - told to be what servers use
        if handler is None:
            raise GraphLoadError("auth: there is no function under @auth.authenticate")
        self._authenticate: Callable[..., Any] = handler
        self._wanted = _wanted_by(handler)
        self._auth = auth
        self._limits = limits
        if uncovered := _uncovered(auth):
            _log.warning(
                "no authorization handler for %s: every user may do that with everything there is; "
                "an `@auth.on` handler that returns False would refuse what no other one is for",
                ", ".join(uncovered),
            )

    async def authenticate(self, connection: HTTPConnection) -> Caller:
        """Whoever the authentication handler says it is.

        Raises:
            ApiError: as the handler has raised; 500: it has failed.
        """
        arguments = await _arguments(connection, self._wanted)
        with _refusals("authentication"):
            user, permissions = user_of(await _call(self._authenticate, arguments))
            told = as_json(user, permissions)
        return Caller(
            identity=told["identity"],
            display_name=str(told["display_name"]),
            permissions=tuple(permissions),
            user=told,
            limits=self._limits,
            principal=user,
        )

    async def authorize(self, caller: Caller, resource: Resource, action: Action, value: dict[str, Any]) -> Filter:
        """What the handler for this says.

        Raises:
            ApiError: 403: it refused; as it has raised; 500: it has failed, or returned what is no filter.
        """
        handler = _handler_for(self._auth, resource, action)
        if handler is None:
            return UNRESTRICTED
        context = Auth.types.AuthContext(
            resource=resource, action=action, user=caller.principal, permissions=list(caller.permissions)
        )
        metadata = value.get("metadata")
        if metadata is None and ("metadata" in value or action in _WRITES):
            # Handlers count on `value.setdefault("metadata", {})`.
            metadata = value["metadata"] = {}
        with _refusals("authorization"):
            result = await handler(ctx=context, value=value)
            if metadata is not None:
                # The object is the route's own, whatever the handler has put in its place.
                told = json.loads(json.dumps(dict(value["metadata"]), default=str))
                metadata.clear()
                metadata.update(told)
                value["metadata"] = metadata
        if result is None or result is True:
            return UNRESTRICTED
        if result is False:
            raise ApiError(403, "Forbidden")
        if not isinstance(result, dict):
            raise ApiError(
                500,
                f"the authorization handler returned {type(result).__name__}; it returns a filter, None or a boolean",
            )
        return Filter(result)


def _handler_for(auth: Auth, resource: str, action: str) -> Callable[..., Any] | None:
    for key in ((resource, action), (resource, "*"), ("*", action), ("*", "*")):
        if handlers := auth._handlers.get(key):  # noqa: SLF001 - told to be what servers use
            return handlers[-1]
    return auth._global_handlers[-1] if auth._global_handlers else None  # noqa: SLF001 - the same


def _uncovered(auth: Auth) -> list[str]:
    """What no handler is for; nothing where there is none at all, for that was hardly forgotten."""
    if not auth._handlers:  # noqa: SLF001 - told to be what servers use
        return []
    return [
        f"{resource}.{action}"
        for resource, actions in _ACTIONS.items()
        for action in actions
        if _handler_for(auth, resource, action) is None
    ]


def _wanted_by(handler: Callable[..., Any]) -> frozenset[str]:
    """The names of the parameters that are to be passed."""
    parameters = inspect.signature(handler).parameters.values()
    named = [one for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]
    unknown = [one.name for one in named if one.default is one.empty and one.name not in _PARAMETERS]
    if unknown:
        raise GraphLoadError(
            f"auth: the authentication handler wants {unknown[0]!r}; there are {', '.join(_PARAMETERS)}, "
            "and dependencies of FastAPI are not supported here"
        )
    return frozenset(one.name for one in named if one.name in _PARAMETERS)


async def _arguments(connection: HTTPConnection, wanted: frozenset[str]) -> dict[str, Any]:
    scope = connection.scope
    if "request" in wanted and scope["type"] != "http":
        raise ApiError(403, "the authentication handler wants the request, which a WebSocket has not")
    makers: dict[str, Callable[[], Any]] = {
        "request": lambda: connection if isinstance(connection, Request) else Request(scope),
        "user": lambda: scope.get("user"),
        "path": lambda: scope["path"],
        "method": lambda: scope.get("method", "GET"),
        "scopes": list,
        "path_params": lambda: scope.get("path_params", {}),
        "query_params": lambda: QueryParams(scope.get("query_string", b"")),
        "headers": lambda: dict(scope.get("headers", [])),
        "authorization": lambda: connection.headers.get("authorization"),
        "scope": lambda: scope,
    }
    arguments = {name: make() for name, make in makers.items() if name in wanted}
    if "body" in wanted:
        arguments["body"] = await _body(connection)
    return arguments


async def _body(connection: HTTPConnection) -> dict[str, Any]:
    """The body as an object; an empty one where it is nothing of the kind, which is for the route to say."""
    try:
        body = await connection.json() if isinstance(connection, Request) else {}
    except ValueError:
        body = {}
    return body if isinstance(body, dict) else {}


async def _call(handler: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """What a handler returns; one that is not asynchronous must not hold the others up."""
    if inspect.iscoroutinefunction(handler):
        return await handler(**arguments)
    result = await run_in_threadpool(handler, **arguments)
    return await result if inspect.isawaitable(result) else result


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """What handlers raise, as an answer; who fails has not let anybody in."""
    try:
        yield
    except ApiError:
        raise
    except (Auth.exceptions.HTTPException, HTTPException) as refused:
        raise ApiError(refused.status_code, str(refused.detail), refused.headers) from refused
    except AuthenticationError as refused:
        raise ApiError(403, str(refused)) from refused
    except AssertionError as refused:
        if what == "authentication":
            _log.exception("the authentication handler has failed")
            raise ApiError(500, "the authentication handler has failed") from refused
        raise ApiError(403, str(refused) or "Forbidden") from refused
    except Exception as error:
        _log.exception("the %s handler has failed", what)
        raise ApiError(500, f"the {what} handler has failed") from error
