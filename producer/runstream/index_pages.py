"""Reading a sorted set page by page while others write to it."""

from __future__ import annotations

from typing import Any

from runstream.missing import Call


class NewestFirst:
    """The members of a sorted set, the highest score first, each of them once.

    A page begins where the last one ended: by score, not by rank. What comes or goes meanwhile moves the ranks of all
    the others, so that some would be read twice and some not at all.

    Args:
        redis: a client with `decode_responses=False`.
        call: makes a call to Redis, with such patience as its owner has.
        index: the sorted set's key.
        size: how many members a page has, at most.
    """

    def __init__(self, redis: Any, call: Call, index: str, *, size: int) -> None:
        # Any: the types of redis-py 5 say that its asynchronous commands may be synchronous.
        self._redis = redis
        self._call = call
        self._index = index
        self._size = size
        self._last = float("inf")
        self._seen: set[bytes] = set()
        """Those of the last score that have been read: the next page begins with them, again."""

    async def page(self) -> list[str]:
        """The next members; none at the end."""
        count = self._size + len(self._seen)
        found: list[tuple[bytes, float]] = await self._call(
            lambda: self._redis.zrevrangebyscore(self._index, self._last, "-inf", start=0, num=count, withscores=True)
        )
        # Where some of those have gone meanwhile, there are more than a page's.
        fresh = [(member, score) for member, score in found if member not in self._seen][: self._size]
        if fresh:
            last = fresh[-1][1]
            if last != self._last:
                self._seen.clear()
            self._last = last
            self._seen.update(member for member, score in fresh if score == last)
        return [member.decode() for member, _ in fresh]
