"""Telling a Redis that is away, or not ready, from one that refuses for good."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.exceptions import AuthenticationError, AuthorizationError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

AWAY = (RedisConnectionError, RedisTimeoutError, OSError)
"""What redis-py raises while Redis cannot be reached. (It raises its own error for LOADING as a ConnectionError.)"""

_REFUSALS = (AuthenticationError, AuthorizationError)
"""ConnectionErrors to redis-py, but trying again does not help."""

_RETRY_DELAY = 0.02
_RETRY_DELAY_MAX = 1.0
_T = TypeVar("_T")

_PASSING = ("OOM ", "LOADING ", "READONLY ", "MASTERDOWN ", "CLUSTERDOWN ", "TRYAGAIN ", "BUSY ", "MISCONF ",
            "NOREPLICAS ", "UNBLOCKED ")  # fmt: skip


def is_passing(error: BaseException) -> bool:
    """Whether the same call may succeed later: Redis is away, is starting, is full, is being failed over."""
    if isinstance(error, AWAY):
        return not isinstance(error, _REFUSALS)
    # redis-py cuts the code off some errors that it has a class for; the class's name says the same.
    name = type(error).__name__
    return str(error).startswith(_PASSING) or name in (
        "OutOfMemoryError",
        "ReadOnlyError",
        "MasterDownError",
        "TryAgainError",
    )


async def patiently(call: Callable[[], Awaitable[_T]], timeout: float) -> _T:
    """Make a call, and while Redis is away make it again, for `timeout` seconds.

    redis-py's own retries leave out the making of a connection, which is where a Redis that is away is met first.

    Args:
        call: may be made several times; all of runstream's scripts and reads may.
        timeout: in seconds, for all tries together.

    Raises:
        redis.exceptions.RedisError: what the last try raised, or a `TimeoutError` of redis' where none was answered.
    """
    delay = _RETRY_DELAY
    last: Exception = RedisTimeoutError(f"Redis has not answered within {timeout:g} s")
    try:
        async with asyncio.timeout(timeout):
            while True:
                try:
                    return await call()
                except AWAY as error:
                    if isinstance(error, _REFUSALS):
                        raise
                    last = error
                await asyncio.sleep(delay)
                delay = min(delay * 2, _RETRY_DELAY_MAX)
    except TimeoutError:
        raise last from None
