"""Whether a Redis throws keys away when its memory is full, which no part of runstream can make up for."""

from __future__ import annotations

from typing import Any, NamedTuple

from redis.exceptions import ResponseError

SAFE_POLICY = "noeviction"


class Eviction(NamedTuple):
    """What a Redis does when its memory is full.

    Attributes:
        policy: its `maxmemory-policy`.
        evicted: how many keys it has thrown away since it started.
    """

    policy: str
    evicted: int

    @property
    def warning(self) -> str | None:
        """What an operator should know; None where nothing is thrown away."""
        if self.policy == SAFE_POLICY:
            return None
        have_been = f"; {self.evicted:,} keys were evicted since it started" if self.evicted else ""
        return (
            f"Redis has the maxmemory-policy {self.policy}: when it is full, it evicts runs, streams, threads and API "
            f"keys without an error{have_been}. Set it to {SAFE_POLICY}"
        )


async def read_eviction(redis: Any) -> Eviction | None:
    """Read what a Redis does when it is full; None where it does not say.

    By INFO, which managed services and ACLs allow where they refuse CONFIG.

    Args:
        redis: whom to ask. Any: the types of redis-py 5 say that its asynchronous commands may be synchronous.
    """
    try:
        memory = await redis.info("memory")
        stats = await redis.info("stats")
    except ResponseError:
        return None
    policy = memory.get("maxmemory_policy")
    return None if policy is None else Eviction(str(policy), int(stats.get("evicted_keys", 0)))
