"""API keys, the built-in choice: who calls is who has the key, and sees what its owner has."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from dataclasses import replace
from typing import Any

from starlette.requests import HTTPConnection

from runstream.apikeys import KEY_PREFIX, ApiKey, ApiKeys
from runstream_gateway.auth.caller import Caller, Filter, Limits
from runstream_gateway.auth.credentials import bearer
from runstream_gateway.auth.guard import UNRESTRICTED, Action, Resource
from runstream_gateway.errors import ApiError

KEY_LIMITS = Limits(streams=500, runs=1000, rate=200.0, burst=400)
"""What a key may do by default."""

_WRITES = frozenset(("create", "update", "create_run"))
_MOST_KNOWN = 10_000
_LOOKUPS_AT_ONCE = 4
_MOST_LOOKUPS_WAITING = 512
_MOST_SAID = 1000
_SAID_AGAIN = 60.0

_logger = logging.getLogger("runstream.gateway")


class KeysGuard:
    """Wants an API key, as `x-api-key` or `Authorization: Bearer`.

    What a key's holder makes gets `{"owner": the key's owner}` into its metadata, and nothing else can be found. The
    assistants that come with the graphs are everybody's to use, and nobody's to change.

    Args:
        keys: that there are.
        limits: what a key may do unless it says otherwise.
        remembered: for how many seconds a key that was looked up is believed: as long as it may take until a revoked
            one is refused everywhere.
    """

    def __init__(self, keys: ApiKeys, *, limits: Limits = KEY_LIMITS, remembered: float = 3.0) -> None:
        self._keys = keys
        self._limits = limits
        self._remembered = remembered
        self._known: OrderedDict[str, tuple[float, ApiKey]] = OrderedDict()
        self._lookups = asyncio.Semaphore(_LOOKUPS_AT_ONCE)
        self._waiting = 0
        self._said: dict[str, float] = {}

    async def authenticate(self, connection: HTTPConnection) -> Caller:
        """The holder of the key that was sent.

        Raises:
            ApiError: (401) none was sent, or it is none.
        """
        shown = _shown(connection)
        if shown is None:
            raise _unknown("there is no API key: send it as x-api-key, or as Authorization: Bearer")
        # Nothing that is kept longer than the request lets a key be told.
        name = hashlib.sha256(shown.encode("utf-8", "replace")).hexdigest()
        key = self._recall(name) or self._remember(name, await self._find(shown))
        if key is None:
            raise _unknown("the API key is not valid")
        user = {
            "identity": key.owner,
            "display_name": key.name,
            "is_authenticated": True,
            "permissions": [],
            "key_id": key.id,
        }
        return Caller(key.owner, key.name, user=user, key_id=key.id, limits=self._limits_of(key))

    async def _find(self, shown: str) -> ApiKey | None:
        """Look a key up. Wrong ones, however many, must not take the connections that everybody's calls share.

        Raises:
            ApiError: (503) too many keys are being looked up.
        """
        if self._waiting >= _MOST_LOOKUPS_WAITING:
            raise ApiError(503, "too many API keys are being looked up", {"Retry-After": "1"})
        self._waiting += 1
        try:
            async with self._lookups:
                found = await self._keys.find(shown)
                if found is None:
                    await self._look_for_missing(shown)
                return found
        finally:
            self._waiting -= 1

    async def vouch(self, key_id: str) -> Limits:
        """What the holder of the key of this id may do.

        Raises:
            ApiError: (401) there is no such key any more.
        """
        key = self._recall(key_id) or self._remember(key_id, await self._keys.get(key_id))
        if key is None:
            raise _unknown("the API key that this was made for is not valid any more")
        return self._limits_of(key)

    async def authorize(self, caller: Caller, resource: Resource, action: Action, value: dict[str, Any]) -> Filter:
        """What is the owner's.

        Raises:
            ApiError: (403) an assistant is to pass for one that comes with a graph.
        """
        if resource == "store":
            namespace = tuple(value.get("namespace") or ())
            value["namespace"] = namespace if namespace[:1] == (caller.identity,) else (caller.identity, *namespace)
            return UNRESTRICTED
        if action in _WRITES:
            _sign(value, caller.identity, resource)
        owned: dict[str, Any] = {"owner": caller.identity}
        if resource == "assistants" and action in ("read", "search"):
            return Filter({"$or": [owned, {"created_by": "system"}]})
        return Filter(owned)

    async def _look_for_missing(self, shown: str) -> None:
        """Have an operator see that a key is refused which should be there; its caller sees no difference."""
        key_id = await self._keys.is_missing(shown)
        if key_id is None or time.monotonic() < self._said.get(key_id, 0.0):
            return
        if len(self._said) >= _MOST_SAID:
            self._said.clear()
        self._said[key_id] = time.monotonic() + _SAID_AGAIN
        _logger.warning(
            "the API key %s is refused, though it was made and not revoked: its record is gone. It has lapsed, or "
            "Redis has evicted or lost it (`runstream info` shows the maxmemory-policy)",
            key_id,
        )

    def _limits_of(self, key: ApiKey) -> Limits:
        # Whoever may make few requests a second may not make more than that at once, unless told so.
        said = dict(key.limits)
        if "rate" in said:
            said.setdefault("burst", None)
        numbers: dict[str, Any] = said
        return replace(self._limits, **numbers)

    def _recall(self, name: str) -> ApiKey | None:
        until, key = self._known.get(name, (0.0, None))
        return key if time.monotonic() < until else None

    def _remember(self, name: str, key: ApiKey | None) -> ApiKey | None:
        self._known.pop(name, None)
        if key is not None:
            self._known[name] = time.monotonic() + self._remembered, key
            if len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
        return key


def _shown(connection: HTTPConnection) -> str | None:
    """What was sent as a key. Clients may send another service's beside it, from their environment."""
    sent = [key for key in (connection.headers.get("x-api-key"), bearer(connection)) if key]
    return next((key for key in sent if key.startswith(KEY_PREFIX)), sent[0] if sent else None)


def _sign(value: dict[str, Any], owner: str, resource: Resource) -> None:
    """Put the owner into the metadata, whatever the caller has put there."""
    metadata = value.get("metadata")
    if not isinstance(metadata, dict):
        metadata = value["metadata"] = {}
    if resource == "assistants" and metadata.get("created_by") == "system":
        raise ApiError(403, "created_by 'system' is for the assistants that come with the graphs")
    metadata["owner"] = owner


def _unknown(problem: str) -> ApiError:
    return ApiError(401, problem, {"WWW-Authenticate": "Bearer"})
