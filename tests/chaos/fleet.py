"""Worker processes that can be killed, frozen, asked to leave, and cut off from Redis, each by itself."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.proxy import Proxy, Watcher

_ROOT = Path(__file__).parents[2]


@dataclass
class Worker:
    """A worker process, and its own way to Redis."""

    number: int
    proxy: Proxy
    log: Path
    pid: int = 0
    worker_id: str = ""
    code: int | None = None
    frozen: bool = False
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it has not ended."""
        if self.code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self.send(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop it where it is."""
        self.frozen = True
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on where it was."""
        self.frozen = False
        self.send(signal.SIGCONT)

    def ask_to_leave(self) -> None:
        """Send SIGTERM."""
        self.send(signal.SIGTERM)


class Fleet:
    """Starts workers, from the beginning to the end of the block, and leaves none of them behind.

    Args:
        folder: where they write their logs.
        settings: of every worker, but the URL of Redis.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        self._folder = folder
        self._settings = settings
        self._numbers = count(1)
        self._starting: list[Worker] = []
        self._by_pid: dict[int, Worker] = {}
        self._zygote: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None
        self.workers: list[Worker] = []

    async def __aenter__(self) -> Self:
        path = os.pathsep.join(str(_ROOT / role) for role in ("producer", "worker", "gateway", "."))
        self._zygote = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "tests.chaos.zygote"),
            env={**os.environ, "PYTHONPATH": path},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._zygote is not None
        assert self._zygote.stdin is not None
        assert self._listening is not None
        for worker in self.workers:
            worker.kill()
        await asyncio.gather(*(worker.ended.wait() for worker in self.workers if worker.pid))
        self._zygote.stdin.close()
        await self._zygote.wait()
        await self._listening
        for worker in self.workers:
            await worker.proxy.__aexit__(None, None, None)

    async def start(self, redis_url: str, watcher: Watcher | None = None, **settings: Any) -> Worker:
        """Start a worker and wait until it takes runs.

        Args:
            redis_url: of the Redis, to which it gets a way of its own.
            watcher: looks at what it sends.
            **settings: in the place of the fleet's.
        """
        assert self._zygote is not None
        assert self._zygote.stdin is not None
        number = next(self._numbers)
        proxy = await Proxy(redis_url, watcher).__aenter__()
        worker = Worker(number, proxy, self._folder / f"worker-{number}.log")
        self.workers.append(worker)
        self._starting.append(worker)
        order = {"settings": {**self._settings, **settings, "redis_url": proxy.url}, "log": str(worker.log)}
        self._zygote.stdin.write(json.dumps(order).encode() + b"\n")
        ready, ended = asyncio.create_task(worker.ready.wait()), asyncio.create_task(worker.ended.wait())
        try:
            await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            ended.cancel()
        assert self._zygote.stdout is not None
        assert not self._zygote.stdout.at_eof(), f"what starts workers has ended: {await self._zygote.wait()}"
        return worker

    async def _listen(self) -> None:
        assert self._zygote is not None
        assert self._zygote.stdout is not None
        while line := await self._zygote.stdout.readline():
            match json.loads(line):
                case {"started": pid}:
                    worker = self._by_pid[pid] = self._starting.pop(0)
                    worker.pid = pid
                case {"ready": pid, "worker": worker_id}:
                    self._by_pid[pid].worker_id = worker_id
                    self._by_pid[pid].ready.set()
                case {"ended": pid, "code": code}:
                    self._by_pid[pid].code = code
                    self._by_pid.pop(pid).ended.set()
        for worker in [*self._starting, *self._by_pid.values()]:
            worker.ended.set()
