"""Telling a run that does not exist from a server that does not know it at the moment.

A master that has been demoted answers reads while it takes over the data of the new one, and has no runs meanwhile. So
that a run is missing is believed only from a server that takes writes. Asking costs a round trip, which only those pay
who have not found their run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from redis.exceptions import NoPermissionError

from runstream.errors import RunNotFound

Call: TypeAlias = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""Makes a call to Redis, with such patience as its owner has."""


async def read_run(
    redis: Any,
    call: Call,
    run_id: str,
    run_key: str,
    *,
    read: Callable[[], Awaitable[Any]],
    found: Callable[[Any], bool],
) -> Any:
    """Read something of a run's record; again, where a server that is not the master has said that there is none.

    Args:
        redis: what is read from. Any: the types of redis-py 5 say that its asynchronous commands may be synchronous.
        call: makes the calls; it has to outlast a server that refuses writes.
        run_id: the run.
        run_key: the key of its record.
        read: reads it, its status included.
        found: whether what was read has a status.

    Raises:
        RunNotFound: there is no such run.
    """
    while not found(values := await call(read)):
        await call(lambda: confirm_missing(redis, run_id, run_key))
    return values


async def confirm_missing(redis: Any, run_id: str, run_key: str) -> None:
    """Raise `RunNotFound` where a server says so that takes writes; return where the run is there, after all.

    A user of Redis that may only read cannot ask, and believes what it has read.

    Raises:
        RunNotFound: there is no such run.
        redis.exceptions.RedisError: the server does not take writes, or is away.
    """
    pipe = redis.pipeline(transaction=False)
    pipe.hdel(run_key, "")  # changes nothing, and a replica refuses it
    pipe.hexists(run_key, "status")
    try:
        is_there = (await pipe.execute())[1]
    except NoPermissionError:
        is_there = await redis.hexists(run_key, "status")
    if not is_there:
        raise RunNotFound(run_id)
