"""Telling a Redis that is away, or not ready, from one that refuses for good."""

from __future__ import annotations

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

AWAY = (RedisConnectionError, RedisTimeoutError, OSError)
"""What redis-py raises while Redis cannot be reached. (It raises its own error for LOADING as a ConnectionError.)"""

_PASSING = ("OOM ", "LOADING ", "READONLY ", "MASTERDOWN ", "CLUSTERDOWN ", "TRYAGAIN ", "BUSY ", "MISCONF ",
            "NOREPLICAS ", "UNBLOCKED ")  # fmt: skip


def is_passing(error: BaseException) -> bool:
    """Whether the same call may succeed later: Redis is away, is starting, is full, is being failed over."""
    if isinstance(error, AWAY):
        return True
    # redis-py cuts the code off some errors that it has a class for; the class's name says the same.
    name = type(error).__name__
    return str(error).startswith(_PASSING) or name in (
        "OutOfMemoryError",
        "ReadOnlyError",
        "MasterDownError",
        "TryAgainError",
    )
