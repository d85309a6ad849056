"""Connections to Redis: to one address, or to whatever server Sentinels say is the master."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection
from redis.asyncio.connection import UnixDomainSocketConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from runstream.errors import InvalidRequest
from runstream.faults import code_of
from runstream.redaction import check_url, redact_url
from runstream.sentinel import SENTINEL_OPTIONS, SENTINEL_SCHEMES, Sentinels, read_sentinel_url

_URL_OPTIONS = frozenset({
    "db", "username", "password", "ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile",
    "ssl_check_hostname",
})  # fmt: skip
_ANSWER_WITHIN = 15.0
_CONNECT_WITHIN = 5.0


def connect(url: str, *, connections: int, answer_within: float = _ANSWER_WITHIN) -> Redis:
    """A redis client as runstream needs one: bytes in and out, RESP2, a bounded pool, time limits.

    It tries nothing again by itself: who calls knows what may be tried again, and for how long. A server that says that
    it is a read-only replica is left, as one that is away: the next connection is made to the address anew.

    Args:
        url: `redis://`, `rediss://` or `unix://`; or `sentinel://HOST:PORT,HOST:PORT/SERVICE` (`sentinels://` with
            TLS), for the master of that service. Of its options those about the database, the user and TLS.
        connections: how many there are at most; who wants one more waits.
        answer_within: seconds after which a connection that says nothing is given up; longer than any blocking read.

    Raises:
        InvalidRequest: the URL is none of Redis, or its password is not percent-encoded.
    """
    _check(url)
    limits = {
        "socket_connect_timeout": min(answer_within, _CONNECT_WITHIN),
        "socket_timeout": answer_within,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    try:
        options = _options(url, limits)
    except ValueError as error:
        raise InvalidRequest("url", f"{shown(url)!r} is no URL of Redis: {error}") from None
    pool = BlockingConnectionPool(
        max_connections=connections, timeout=None, decode_responses=False, **{**limits, **options}
    )
    return Redis.from_pool(pool)


def _options(url: str, limits: dict[str, Any]) -> dict[str, Any]:
    """What a connection is made with, its class included."""
    if urlsplit(url).scheme in SENTINEL_SCHEMES:
        place = read_sentinel_url(url)
        options: dict[str, Any] = dict(parse_url(place.server_url))
        sentinels = Sentinels(place, {**limits, **{name: options[name] for name in options if name.startswith("ssl_")}})
        kind = SSLConnection if place.with_tls else Connection
        return {**options, "connection_class": _MASTERS[kind], "sentinels": sentinels}
    options = dict(parse_url(url))
    return {**options, "connection_class": _FAITHLESS[options.get("connection_class", Connection)]}


if TYPE_CHECKING:
    _Base = Connection
else:
    _Base = object


class _LeavesReplicas(_Base):
    """A connection that is closed when its server turns out not to be the master, or not any more.

    After a failover the old master may live on as a replica, and a connection with it; the address leads elsewhere.
    """

    _left_for = frozenset(("READONLY",))

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """A reply.

        Raises:
            redis.exceptions.ConnectionError: as for a server that is away, also where it is not the master.
        """
        try:
            return await super().read_response(*args, **kwargs)
        except ResponseError as error:
            if code_of(error) not in self._left_for:
                raise
            await self.disconnect(nowait=True)
            raise RedisConnectionError(f"this Redis is no master to write to: {error}") from error


class _TcpConnection(_LeavesReplicas, Connection):
    pass


class _TlsConnection(_LeavesReplicas, SSLConnection):
    pass


class _UnixConnection(_LeavesReplicas, UnixDomainSocketConnection):
    pass


class _ToMaster(_LeavesReplicas):
    """A connection to the server that Sentinels call the master when the connection is made.

    It is also left where it has lost its replicas (`min-replicas-to-write`): they may have another master by now.
    """

    _left_for = frozenset(("READONLY", "NOREPLICAS"))

    def __init__(self, *, sentinels: Sentinels, **kwargs: Any) -> None:
        self._sentinels = sentinels
        super().__init__(**kwargs)

    async def connect(self) -> None:
        """Ask who is the master, connect, and make sure that it knows that it is.

        Raises:
            redis.exceptions.ConnectionError: none is found, or it has not been promoted yet.
        """
        if self.is_connected:
            return
        self.host, self.port = await self._sentinels.master()
        await super().connect()  # type: ignore[no-untyped-call]
        if not await self._is_master():
            await self.disconnect(nowait=True)
            raise RedisConnectionError(f"{self.host}:{self.port} is not the master of {self._sentinels.service!r} yet")

    async def _is_master(self) -> bool:
        # Not by ROLE, which ACLs count among the dangerous commands. Who may not ask finds out with the first write.
        try:
            await self.send_command("INFO", "replication")
            return b"role:slave" not in await self.read_response(disable_decoding=True)
        except ResponseError:
            return True


class _TcpToMaster(_ToMaster, Connection):
    pass


class _TlsToMaster(_ToMaster, SSLConnection):
    pass


_FAITHLESS: dict[type, type] = {
    Connection: _TcpConnection,
    SSLConnection: _TlsConnection,
    UnixDomainSocketConnection: _UnixConnection,
}
_MASTERS: dict[type, type] = {Connection: _TcpToMaster, SSLConnection: _TlsToMaster}


def _check(url: str) -> None:
    """Refuse what redis-py would pass over, or let override what is relied on here."""
    check_url("url", url)
    parts = urlsplit(url)
    if not parts.scheme or "://" not in url:
        raise InvalidRequest("url", f"{shown(url)!r} is no URL of Redis: it must begin with redis:// or the like")
    if parts.scheme in ("redis", "rediss") and not re.fullmatch(r"/?\d*", parts.path):
        raise InvalidRequest("url", f"{shown(url)!r} is no URL of Redis: the database {parts.path[1:]!r} is no number")
    options = _URL_OPTIONS | (SENTINEL_OPTIONS if parts.scheme in SENTINEL_SCHEMES else frozenset())
    unknown = sorted(parse_qs(parts.query, keep_blank_values=True).keys() - options)
    if unknown:
        known = ", ".join(sorted(options))
        raise InvalidRequest(
            "url", f"{shown(url)!r}: the option {unknown[0]!r} cannot be set; those that can are {known}"
        )


def shown(url: str) -> str:
    """A URL as it may be shown: without user, password and options."""
    return redact_url(url, with_user=False)
