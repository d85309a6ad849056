"""Connections to Redis."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from runstream.errors import InvalidRequest

_URL_OPTIONS = frozenset({
    "db", "username", "password", "ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile",
    "ssl_check_hostname",
})  # fmt: skip
_ANSWER_WITHIN = 15.0
_CONNECT_WITHIN = 5.0


def connect(url: str, *, connections: int, answer_within: float = _ANSWER_WITHIN) -> Redis:
    """A redis client as runstream needs one: bytes in and out, RESP2, a bounded pool, time limits.

    It tries nothing again by itself: who calls knows what may be tried again, and for how long.

    Args:
        url: `redis://`, `rediss://` or `unix://`; of its options those about the database, the user and TLS.
        connections: how many there are at most; who wants one more waits.
        answer_within: seconds after which a connection that says nothing is given up; longer than any blocking read.

    Raises:
        InvalidRequest: the URL is none of Redis.
    """
    _check(url)
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=connections,
            timeout=None,
            protocol=2,
            decode_responses=False,
            socket_connect_timeout=min(answer_within, _CONNECT_WITHIN),
            socket_timeout=answer_within,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        raise InvalidRequest("url", f"{shown(url)!r} is no URL of Redis: {error}") from None
    return Redis.from_pool(pool)


def _check(url: str) -> None:
    """Refuse what redis-py would pass over, or let override what is relied on here."""
    parts = urlsplit(url)
    if parts.scheme in ("redis", "rediss") and not re.fullmatch(r"/?\d*", parts.path):
        raise InvalidRequest("url", f"{shown(url)!r} is no URL of Redis: the database {parts.path[1:]!r} is no number")
    unknown = sorted(parse_qs(parts.query, keep_blank_values=True).keys() - _URL_OPTIONS)
    if unknown:
        known = ", ".join(sorted(_URL_OPTIONS))
        raise InvalidRequest(
            "url", f"{shown(url)!r}: the option {unknown[0]!r} cannot be set; those that can are {known}"
        )


def shown(url: str) -> str:
    """A URL as it may be shown: without user, password and options."""
    before, at, place = url.partition("?")[0].rpartition("@")
    return f"{before.partition('://')[0]}://{place}" if at else place
