"""What the routes ask before they do anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, TypeAlias

from starlette.requests import HTTPConnection

from runstream_gateway.auth.caller import NO_LIMITS, Caller, Filter, Limits

Resource: TypeAlias = Literal["threads", "assistants", "crons", "store"]
Action: TypeAlias = Literal[
    "create", "read", "update", "delete", "search", "create_run", "put", "get", "list_namespaces"
]

UNRESTRICTED = Filter()


class Guard(Protocol):
    """Says who calls and what they may do.

    Resources and actions are those of LangGraph's server. There, what is done with a run is done with its thread: a run
    is created with (`threads`, `create_run`), read with `read`, cancelled with `update`, and so on.
    """

    async def authenticate(self, connection: HTTPConnection) -> Caller:
        """Who calls.

        Args:
            connection: the request or the WebSocket. Given a `Request`, handlers may also ask for its body.

        Raises:
            ApiError: 401: not known; 403: known, and unwanted.
        """
        ...

    async def authorize(self, caller: Caller, resource: Resource, action: Action, value: dict[str, Any]) -> Filter:
        """Whether the caller may do this, and with which things.

        Args:
            caller: as `authenticate` returned it.
            resource: of what kind the thing is.
            action: what is to be done.
            value: what with, as LangGraph's server tells its handlers: the fields of `langgraph_sdk.auth.types`, such
                as `ThreadsCreate` for (`threads`, `create`). It is changed in place: with create, update and
                create_run, the object `value["metadata"]` is what there was with what the guard has added; of the
                store, `value["namespace"]` is where to go.

        Returns:
            What the metadata of a thing that is there already must match. Where it does not, there is no such thing
            for this caller: 404, the same answer as where there is none.

        Raises:
            ApiError: 403, or what a handler has raised.
        """
        ...


class OpenGuard:
    """Nobody is asked for anything, and everything is open.

    Args:
        limits: that all callers have, each counted by nothing but being anonymous: so all together.
    """

    def __init__(self, limits: Limits = NO_LIMITS) -> None:
        user: Mapping[str, Any] = {"identity": "", "display_name": "", "is_authenticated": False}
        self._caller = Caller("", user=user, limits=limits)

    async def authenticate(self, connection: HTTPConnection) -> Caller:  # noqa: ARG002 - the same for all
        """Nobody."""
        return self._caller

    async def authorize(
        self,
        caller: Caller,  # noqa: ARG002 - the same for all
        resource: Resource,  # noqa: ARG002
        action: Action,  # noqa: ARG002
        value: dict[str, Any],  # noqa: ARG002
    ) -> Filter:
        """No restriction."""
        return UNRESTRICTED
