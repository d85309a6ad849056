"""The caller of the request that is being served, for the factories of graphs that the gateway calls."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final, cast

from langchain_core.runnables import RunnableConfig

from runstream_worker.auth_user import with_auth_user

# A graph is opened deep below the routes, from a dozen places, and its factory may ask for the user.
_of_caller: Final[ContextVar[Mapping[str, Any] | None]] = ContextVar("runstream_gateway_caller", default=None)


def set_caller(configurable: Mapping[str, Any]) -> None:
    """Take the entries of `configurable` that say who calls, for the rest of the request."""
    _of_caller.set(configurable)


def config_for_caller(config: Mapping[str, Any]) -> RunnableConfig:
    """Return the config with the caller of the request in it, as graphs find them."""
    configurable = {**(config.get("configurable") or {}), **(_of_caller.get() or {})}
    return cast("RunnableConfig", {**config, "configurable": with_auth_user(configurable)})
