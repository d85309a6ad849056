"""Telling a Redis that is away, or not ready, from one that refuses for good."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.exceptions import AuthenticationError, AuthorizationError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

AWAY = (RedisConnectionError, RedisTimeoutError, OSError)
"""What redis-py raises while Redis cannot be reached. (It raises its own error for LOADING as a ConnectionError.)"""

_REFUSALS = (AuthenticationError, AuthorizationError)
"""ConnectionErrors to redis-py, but trying again does not help."""

_RETRY_DELAY = 0.02
_RETRY_DELAY_MAX = 1.0
_T = TypeVar("_T")

_NOT_READY = frozenset((
    "LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS", "BUSY", "UNBLOCKED",
))  # fmt: skip
"""Codes of a Redis that starts, is being failed over, or waits for its replicas: it gets over it by itself."""
_FULL = frozenset(("OOM", "MISCONF"))
"""Codes of a Redis that has no memory, or no disk, left: somebody has to do something."""

_REASONS = {
    "MISCONF": "Redis cannot write to its disk, and refuses writes until it can",
    "OOM": "Redis has no memory left, and refuses writes until it has",
    "READONLY": "this Redis is a read-only replica",
    "LOADING": "Redis is loading its data",
    "MASTERDOWN": "Redis is a replica that has lost its master",
    "CLUSTERDOWN": "the Redis Cluster is down",
    "TRYAGAIN": "the Redis Cluster is moving its slots",
    "NOREPLICAS": "Redis has too few replicas, and refuses writes until it has more",
    "BUSY": "Redis is busy with a script",
    "NOAUTH": "Redis wants a user and password, and its URL has none",
    "WRONGPASS": "Redis does not accept the user and password of its URL",
    "NOPERM": "the user of Redis lacks a permission",
}
"""What an operator has to know, without a host, a user or a key."""

_CODES_BY_CLASS = {
    "BusyLoadingError": "LOADING",
    "NoPermissionError": "NOPERM",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "MasterDownError": "MASTERDOWN",
    "TryAgainError": "TRYAGAIN",
    "ClusterDownError": "CLUSTERDOWN",
}
"""redis-py cuts the code off those errors that it has a class for."""
# Redis 6.2 tells an error in a script so: `ERR Error running script (...): @user_script: 7: -OOM command not allowed`.
_IN_SCRIPT = re.compile(r"@user_script: ?\d+: -([A-Z]+) ")


def code_of(error: BaseException) -> str:
    """Redis' code for an error, such as `READONLY`; the first word of what is told where it is no error of Redis."""
    code = _CODES_BY_CLASS.get(type(error).__name__)
    if code is not None:
        return code
    told = str(error)
    inside = _IN_SCRIPT.search(told)
    return inside.group(1) if inside else told.partition(" ")[0]


def reason_of(error: BaseException) -> str:
    """Return why Redis does not serve, in a sentence that anybody may see."""
    for one in (error, error.__cause__):
        code = None if one is None else code_of(one)
        if isinstance(one, AuthenticationError) and code not in _REASONS:
            code = "NOAUTH" if "required" in str(one).lower() else "WRONGPASS"
        if one is not None and "unauthenticated" in str(one):  # What a call with many arguments gets.
            code = "NOAUTH"
        if one is not None and "user executing the script can't" in str(one):
            code = "NOPERM"
        if code in _REASONS:
            return f"{_REASONS[code]} ({code})"
    return "Redis cannot be reached" if is_away(error) else "Redis refuses the call"


def is_away(error: BaseException) -> bool:
    """Whether Redis cannot be reached, or is not ready; by itself it will be."""
    if isinstance(error, AWAY):
        return not isinstance(error, _REFUSALS)
    return code_of(error) in _NOT_READY


def is_passing(error: BaseException) -> bool:
    """Whether the same call may succeed later: Redis is away, is starting, is full, is being failed over."""
    return is_away(error) or code_of(error) in _FULL


async def patiently(
    call: Callable[[], Awaitable[_T]],
    timeout: float | None,
    *,
    outlasts: Callable[[BaseException], bool] = is_away,
) -> _T:
    """Make a call, and while Redis is away make it again, for `timeout` seconds.

    redis-py's own retries leave out the making of a connection, which is where a Redis that is away is met first.

    Args:
        call: may be made several times; all of runstream's scripts and reads may.
        timeout: in seconds, for all tries together; None is for ever.
        outlasts: after which errors the call is made again.

    Raises:
        redis.exceptions.RedisError: what the last try raised, or a `TimeoutError` of redis' where none was answered.
    """
    delay = _RETRY_DELAY
    last: Exception = RedisTimeoutError(f"Redis has not answered within {timeout} s")
    try:
        async with asyncio.timeout(timeout):
            while True:
                try:
                    return await call()
                except Exception as error:
                    if not outlasts(error):
                        raise
                    last = error
                await asyncio.sleep(delay)
                delay = min(delay * 2, _RETRY_DELAY_MAX)
    except TimeoutError:
        if isinstance(last, RedisError):
            raise last from None
        # redis-py lets some of the system's errors through as they are; callers are promised one of Redis'.
        raise RedisConnectionError(f"{type(last).__name__}: {last}") from last
