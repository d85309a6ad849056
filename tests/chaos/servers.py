"""The Redis that everything goes to: one server, or a master and its replica behind an address that moves."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from redis.asyncio import Redis
from tests.support.proxy import Proxy
from tests.support.redis_server import Fsync, RedisServer
from tests.support.sentinels import promote, replicate


class Servers:
    """Redis, from the beginning to the end of the block.

    Args:
        folder: where configurations and append-only files are.
        fsync: Redis' `appendfsync`.
        with_replica: whether there is a replica to fail over to.

    Attributes:
        is_up: held while the master is away.
        losses: how often what Redis had acknowledged was, or is about to be, lost; odd while that goes on.
    """

    def __init__(self, folder: Path, fsync: Fsync, *, with_replica: bool) -> None:
        self._folder = folder
        self._fsync = fsync
        self._with_replica = with_replica
        self._stack = AsyncExitStack()
        self.is_up = asyncio.Lock()
        self.losses = 0

    @property
    def url(self) -> str:
        """How clients find the master."""
        return self._address.url if self._with_replica else self._master.url

    async def __aenter__(self) -> Self:
        self._master = await self._stack.enter_async_context(RedisServer(_made(self._folder / "one"), self._fsync))
        if self._with_replica:
            self._replica = await self._stack.enter_async_context(RedisServer(_made(self._folder / "two"), self._fsync))
            self._address = await self._stack.enter_async_context(Proxy(self._master.url))
            self._link = await self._stack.enter_async_context(Proxy(self._master.url))
            await replicate(self._replica, self._link.url)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def restart(self, length: float) -> None:
        """Kill the master and start it again: what it has written out is there."""
        async with self.is_up:
            await self._master.kill()
            await asyncio.sleep(length)
            await self._master.start()

    async def cut_power(self, length: float) -> None:
        """Kill the master and start it again without what it has acknowledged in the last `length` seconds."""
        async with self.is_up:
            self.losses += 1
            written = self._master.written()
            await asyncio.sleep(length)
            await self._master.cut_power(written)
            await self._master.start()
            self.losses += 1

    async def fail_over(self, length: float) -> None:
        """Kill the master when its replica has heard nothing for `length` seconds, and put the replica in its place."""
        async with self.is_up:
            self.losses += 1
            self._link.block()
            await asyncio.sleep(length)
            await self._master.kill()
            await promote(self._replica)
            self._address.lead_to(self._replica.url)
            await self._address.cut()
            self.losses += 1
            self._master, self._replica = self._replica, self._master
            self._link.restore()
            self._link.lead_to(self._master.url)
            await self._link.cut()
            await self._replica.start()
            await replicate(self._replica, self._link.url)

    async def flush_scripts(self) -> None:
        """Have the master forget the scripts."""
        async with self.is_up, Redis.from_url(self._master.url) as redis:
            await redis.script_flush()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
