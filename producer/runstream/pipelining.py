"""Many commands in one round trip, which may be made again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runstream.missing import Call


async def pipelined(redis: Any, call: Call, fill: Callable[[Any], None]) -> list[Any]:
    """The replies to commands that are sent together.

    A pipeline that has failed is empty, and executes to no replies at all; so each try has one of its own.

    Args:
        redis: who sends them. Any: the types of redis-py 5 say that its asynchronous commands may be synchronous.
        call: makes the call, with such patience as its owner has.
        fill: puts the commands, which may be sent again, into a pipeline.
    """

    async def execute() -> list[Any]:
        pipe = redis.pipeline(transaction=False)
        fill(pipe)
        replies: list[Any] = await pipe.execute()
        return replies

    replies: list[Any] = await call(execute)
    return replies
