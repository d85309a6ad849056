"""Turns of requests that read much: searches, histories, lists."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from runstream_gateway.errors import ApiError

_AT_ONCE = 4
_OF_ONE_CALLER = 2
_MOST_WAITING = 64
_ROOM = 64 * 1024 * 1024


@dataclass
class _Caller:
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_OF_ONE_CALLER))
    requests: int = 0


class Turns:
    """Shares the event loop and the memory of a gateway between requests that read much.

    Four of them read at a time, two of one caller; the others wait. Each gives way between the parts that it reads, so
    the loop is held for the parts of four requests at most, however many there are.
    """

    def __init__(self) -> None:
        self._all = asyncio.Semaphore(_AT_ONCE)
        self._callers: dict[str, _Caller] = {}
        self._taken = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def turn(self, subject: str) -> AsyncIterator[None]:
        """Hold a turn as long as the block lasts.

        Args:
            subject: the caller.

        Raises:
            ApiError: 429, too many requests of this caller wait for a turn.
        """
        caller = self._callers.setdefault(subject, _Caller())
        if caller.requests >= _MOST_WAITING:
            raise ApiError(429, f"too much: more than {_MOST_WAITING} searches and lists at once", {"Retry-After": "1"})
        caller.requests += 1
        try:
            async with caller.turns, self._all:
                yield
        finally:
            caller.requests -= 1
            if not caller.requests:
                self._callers.pop(subject, None)

    @asynccontextmanager
    async def room(self, size: int) -> AsyncIterator[None]:
        """Hold room for what is read from Redis and shown, as long as the block lasts; first come, first served.

        Args:
            size: its bytes. What is larger than all the room there is gets that, alone.
        """
        size = min(size, _ROOM)
        if self._waiting or self._taken + size > _ROOM:
            free = asyncio.get_running_loop().create_future()
            self._waiting.append((size, free))
            try:
                await free
            except BaseException:
                if free.done() and not free.cancelled():
                    self._give_back(size)
                else:
                    with suppress(ValueError):
                        self._waiting.remove((size, free))
                    self._hand_out()
                raise
        else:
            self._taken += size
        try:
            yield
        finally:
            self._give_back(size)

    def _give_back(self, size: int) -> None:
        self._taken -= size
        self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting and self._taken + self._waiting[0][0] <= _ROOM:
            size, free = self._waiting.popleft()
            if not free.done():
                self._taken += size
                free.set_result(None)
