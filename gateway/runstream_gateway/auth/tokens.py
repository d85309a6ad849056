"""Read tokens: whoever has one may read one run, or one thread, for a while, and nothing else.

They are for browsers, which should not hold an API key. A token is signed (HMAC-SHA256), not looked up: any gateway
that knows the secret verifies it. What stands in it can be read by whoever has it: what it is for, until when, for whom
it was made, and the filter of what that one may see.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple, TypeAlias
from urllib.parse import parse_qs

from starlette.requests import HTTPConnection

from runstream import Client
from runstream.settings import check_number
from runstream_gateway.auth.caller import NO_LIMITS, Caller, Filter, Limits, Scope
from runstream_gateway.auth.credentials import bearer
from runstream_gateway.auth.guard import Action, Guard, Resource
from runstream_gateway.errors import ApiError, not_found

TOKEN_PREFIX = "rst_"  # noqa: S105 - what tokens begin with
LONGEST = 24 * 3600.0

GuardKind: TypeAlias = Literal["open", "keys", "handlers"]

_KIND = "secret"
_DOCUMENT = "read_tokens"
_SECRET_TTL = 30 * 24 * 3600.0
_SECRET_FRESH = 60.0
_LEAST_SECRET = 16


class IssuedToken(NamedTuple):
    """A token, and when it ends, in seconds since 1970."""

    token: str
    expires_at: int


class ReadTokens:
    """Makes and reads tokens.

    Args:
        client: of the Redis in which the gateways share a secret that none of them was given.
        secret: that they were given: text of at least 16 characters, the same for all.
        guard: the kind of guard that says what may be read. Tokens are valid beside guards of that kind only: what an
            open gateway gave to anybody must not open one that has asked for keys since.

    Raises:
        InvalidRequest: the secret is too short.
    """

    def __init__(self, client: Client, secret: str | None = None, *, guard: GuardKind = "open") -> None:
        if secret is not None:
            check_number("the length of the token secret", len(secret), least=_LEAST_SECRET, whole=True)
        self._guard = guard
        self._given = None if secret is None else secret.encode()
        self._documents = client.documents(_KIND, ttl=_SECRET_TTL)
        self._kept: tuple[float, bytes] | None = None

    async def issue(self, caller: Caller, scope: Scope, *, seconds: float = 900.0) -> IssuedToken:
        """Make a token.

        Args:
            caller: for whom. That the caller may read the thing has been asked of the guard already, and `scope.filter`
                has the conditions of the filter that it answered.
            scope: what may be read.
            seconds: for how long; a day at most.

        Raises:
            ApiError: 403: the caller came with a token; 422: the time is none.
        """
        if caller.scope is not None:
            raise ApiError(403, "a read token cannot make another")
        if not 1 <= seconds <= LONGEST:
            raise ApiError(422, f"a read token lives from 1 to {LONGEST:g} seconds")
        expires = math.ceil(time.time() + seconds)
        said = {"e": expires, "u": caller.identity, "t": scope.thread_id, "r": scope.run_id, "k": caller.key_id}
        said["f"] = dict(scope.filter)
        text = json.dumps({name: value for name, value in said.items() if value}, separators=(",", ":")).encode()
        signed = _encode(text)
        return IssuedToken(f"{TOKEN_PREFIX}{signed}.{_encode(await self._signature_of(signed))}", expires)

    async def read(self, token: str) -> Caller:
        """Whoever has this token.

        Raises:
            ApiError: (401) it is none, was not made here, or is over.
        """
        signed, _, signature = token.removeprefix(TOKEN_PREFIX).partition(".")
        if not hmac.compare_digest(_decode(signature), await self._signature_of(signed)):
            raise _refused("is not valid")
        said: Mapping[str, Any] = json.loads(_decode(signed))
        if said["e"] <= time.time():
            raise _refused("has expired")
        identity = str(said.get("u", ""))
        user = {"identity": identity, "display_name": identity, "is_authenticated": True, "permissions": []}
        scope = Scope(said["t"], said.get("r"), said.get("f", {}), expires_at=said["e"])
        return Caller(identity, identity, user=user, scope=scope, key_id=said.get("k"))

    async def signature(self, text: str) -> str:
        """What proves that a text comes from a gateway of this deployment. No read token's is the same."""
        # What is signed of a token has no zero byte; `text` begins with what it is for.
        return _encode(self._sign(f"\x00{text}", await self._secret()))

    async def _signature_of(self, signed: str) -> bytes:
        """The signature of a token's signed part, in which the kind of guard stands, too; base64 has no colon."""
        return self._sign(f"{self._guard}:{signed}", await self._secret())

    def _sign(self, signed: str, secret: bytes) -> bytes:
        return hmac.digest(secret, signed.encode("utf-8", "replace"), hashlib.sha256)

    async def _secret(self) -> bytes:
        """The secret; that in Redis is looked at every minute, which is also what keeps it there."""
        if self._given is not None:
            return self._given
        if self._kept is None or time.monotonic() - self._kept[0] > _SECRET_FRESH:
            self._kept = time.monotonic(), await self._shared_secret()
        return self._kept[1]

    async def _shared_secret(self) -> bytes:
        found = await self._documents.get(_DOCUMENT)
        while found is None:
            # Of those that find none at once, one writes.
            await self._documents.create(_DOCUMENT, {"secret": secrets.token_hex(32)})
            found = await self._documents.get(_DOCUMENT)
        await self._documents.touch(_DOCUMENT)
        return bytes.fromhex(found.data["secret"])


class TokenGuard:
    """Takes read tokens, and leaves everybody else to another guard.

    A token comes as `Authorization: Bearer rst_...`, or as `?token=rst_...` where a browser cannot set headers
    (`EventSource`, `WebSocket`).

    Args:
        tokens: reads them.
        other: for whoever comes without one.
        limits: of those who come with one; they are counted with whom the token was made for.
        vouch: is asked for the limits that an API key's holder has, by the key's id; raises `ApiError` where the key
            has been revoked, so that its tokens end with it.
    """

    def __init__(
        self,
        tokens: ReadTokens,
        other: Guard,
        *,
        limits: Limits = NO_LIMITS,
        vouch: Callable[[str], Awaitable[Limits]] | None = None,
    ) -> None:
        self._tokens = tokens
        self._other = other
        self._limits = limits
        self._vouch = vouch

    async def authenticate(self, connection: HTTPConnection) -> Caller:
        """Who calls: whoever has the token, or whom the other guard knows."""
        token = _token_of(connection)
        if token is None:
            return await self._other.authenticate(connection)
        caller = await self._tokens.read(token)
        limits = self._limits
        if caller.key_id is not None:
            if self._vouch is None:
                raise _refused("was made for an API key, and there are none here")
            limits = await self._vouch(caller.key_id)
        return replace(caller, limits=limits)

    async def authorize(self, caller: Caller, resource: Resource, action: Action, value: dict[str, Any]) -> Filter:
        """What a token is for may be read; the rest is the other guard's."""
        if caller.scope is None:
            return await self._other.authorize(caller, resource, action, value)
        return _within(caller.scope, resource, action, value)


def _within(scope: Scope, resource: Resource, action: Action, value: Mapping[str, Any]) -> Filter:
    """Of a run: to read it. Of a thread: to read it and its runs."""
    if resource != "threads" or action != "read":
        raise ApiError(403, "a read token is for reading one run or thread, and for nothing else")
    thread_id, run_id = value.get("thread_id"), value.get("run_id")
    is_there = str(thread_id) == scope.thread_id and (scope.run_id is None or str(run_id) == scope.run_id)
    if not is_there:
        # The same words as where there is no such thing.
        raise not_found("run", str(run_id)) if run_id is not None else not_found("thread", str(thread_id))
    return Filter(scope.filter)


def _token_of(connection: HTTPConnection) -> str | None:
    shown = [
        bearer(connection),
        *parse_qs(connection.scope.get("query_string", b"").decode("latin-1")).get("token", []),
    ]
    return next((token for token in shown if token is not None and token.startswith(TOKEN_PREFIX)), None)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return b""


def _refused(problem: str) -> ApiError:
    return ApiError(401, f"the read token {problem}", {"WWW-Authenticate": "Bearer"})
