"""Connections to Redis."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from runstream.errors import InvalidRequest


def connect(url: str, *, connections: int) -> Redis:
    """A redis client as runstream needs one: bytes in and out, RESP2, a bounded pool, time limits.

    It tries nothing again by itself: who calls knows what may be tried again, and for how long.

    Raises:
        InvalidRequest: the URL is none of Redis.
    """
    parts = urlsplit(url)
    if parts.scheme in ("redis", "rediss") and not re.fullmatch(r"/?\d*", parts.path):
        # redis-py would take database 0 instead.
        raise InvalidRequest("url", f"{shown(url)!r} is no URL of Redis: the database {parts.path[1:]!r} is no number")
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=connections,
            timeout=None,
            protocol=2,
            decode_responses=False,
            socket_connect_timeout=5,
            # Longer than the longest blocking read.
            socket_timeout=15,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        raise InvalidRequest("url", f"{shown(url)!r} is no URL of Redis: {error}") from None
    return Redis.from_pool(pool)


def shown(url: str) -> str:
    """A URL as it may be shown: without user and password."""
    before, at, place = url.rpartition("@")
    return f"{before.partition('://')[0]}://{place}" if at else url
