"""A master, a replica of it, and Sentinels that fail over: Redis processes of the test's own."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

SERVICE = "main"

_CONFIG = """\
bind 127.0.0.1
port {port}
dir {folder}
daemonize no
sentinel monitor {service} 127.0.0.1 {master} 1
sentinel down-after-milliseconds {service} 400
sentinel failover-timeout {service} 2000
"""


class Sentinel:
    """A process that watches a master; `url` is how clients find the master through it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self, master_port: int) -> None:
        """Start it, and wait until it answers."""
        config = self._folder / f"sentinel-{self.port}.conf"
        config.write_text(_CONFIG.format(port=self.port, folder=self._folder, service=SERVICE, master=master_port))
        program = shutil.which("redis-server") or shutil.which("valkey-server")
        assert program is not None
        with config.with_suffix(".log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - is there at once
                [program, str(config), "--sentinel"], stdout=log, stderr=log, start_new_session=True
            )
        async with self.redis() as redis:
            await until(lambda: _answers(redis), "the Sentinel answers")
            # An old master that lives is told to become a replica after some 10 s only, unless these are shorter.
            await redis.execute_command("SENTINEL", "DEBUG", "INFO-PERIOD", 200, "PUBLISH-PERIOD", 200)

    async def kill(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    def redis(self) -> Any:
        """A client of the Sentinel itself."""
        return Redis(port=self.port, decode_responses=True)


class Sentinels:
    """A master and a replica that has all that it has, under so many Sentinels."""

    def __init__(self, folder: Path, *, count: int = 1) -> None:
        self._stack = AsyncExitStack()
        self.servers = [RedisServer(_made(folder / name)) for name in ("one", "two")]
        self.sentinels = [Sentinel(folder) for _ in range(count)]

    @property
    def url(self) -> str:
        """How a client finds the master."""
        addresses = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"sentinel://{addresses}/{SERVICE}"

    async def __aenter__(self) -> Self:
        try:
            for server in self.servers:
                await self._stack.enter_async_context(server)
            await replicate(self.servers[1], self.servers[0].url)
            for sentinel in self.sentinels:
                self._stack.push_async_callback(sentinel.kill)
                await sentinel.start(port_of(self.servers[0].url))
            await until(self._all_know_the_replica, "the Sentinels know the replica", timeout=30)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def fail_over(self) -> None:
        """Have the replica promoted while the master is alive, and wait until the old master is its replica."""
        async with self.sentinels[0].redis() as redis:
            await until(lambda: _begins_failover(redis), "the Sentinel fails over")
        await until(lambda: _role(self.servers[1], "master"), "the replica has been promoted", timeout=30)
        await until(lambda: _role(self.servers[0], "slave"), "the old master is a replica", timeout=30)

    async def _all_know_the_replica(self) -> bool:
        for sentinel in self.sentinels:
            async with sentinel.redis() as redis:
                if not await redis.sentinel_slaves(SERVICE):
                    return False
        return True


async def replicate(replica: RedisServer, master_url: str) -> None:
    """Make a server the replica of another, and wait until it has what that one has."""
    async with Redis.from_url(master_url) as redis:
        await redis.config_set("repl-diskless-sync-delay", 0)
    async with Redis.from_url(replica.url, decode_responses=True) as redis:
        await redis.replicaof("127.0.0.1", port_of(master_url))
        await until(lambda: _is_linked(redis), "the replica has what its master has", timeout=30)


async def promote(replica: RedisServer) -> None:
    """Make a replica a master."""
    async with Redis.from_url(replica.url) as redis:
        await redis.replicaof("NO", "ONE")


def port_of(redis_url: str) -> int:
    """The port of a URL."""
    return int(redis_url.rpartition(":")[2].partition("/")[0])


async def _begins_failover(redis: Any) -> bool:
    try:
        await redis.execute_command("SENTINEL", "FAILOVER", SERVICE)
    except ResponseError as error:
        # It has not looked at the replica since that became one.
        if "NOGOODSLAVE" in str(error):
            return False
        raise
    return True


async def _role(server: RedisServer, role: str) -> bool:
    async with Redis.from_url(server.url, decode_responses=True) as redis:
        try:
            told: Any = await redis.info("replication")
        except RedisConnectionError:
            return False  # Sentinels cut everybody off from a server whose role they change.
        return bool(told["role"] == role)


async def _is_linked(redis: Any) -> bool:
    told = await redis.info("replication")
    return bool(told["master_link_status"] == "up")


async def _answers(redis: Any) -> bool:
    try:
        return bool(await redis.ping())
    except RedisError:
        return False


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
