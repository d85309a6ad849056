"""What the demo plays on: Redis, worker processes, a client, and readers beside each other on a screen."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import IO, TypeAlias

from runstream.cli.exits import CommandError
from runstream.client import Client, Run
from runstream.settings import NAMESPACE_VARIABLE, REDIS_URL_VARIABLE, ClientSettings
from runstream.tasks import cancel
from runstream_worker.commands.demo.reader import Reader
from runstream_worker.commands.demo.screen import Screen, screen_for
from runstream_worker.commands.demo.story import Story
from runstream_worker.commands.redis import SessionRedis
from runstream_worker.supervisor import WorkerCommand, WorkerNotStarted, WorkerProcess

_RETENTION = 60.0
_GRAPH = "agent"

Workers: TypeAlias = dict[str, WorkerProcess]
"""Worker processes that take runs, by the ids of the workers."""
Join: TypeAlias = Callable[[str], Reader]
"""Has a reader begin, under one of the labels."""


class Stage:
    """What the demo plays on.

    Args:
        story: what is told meanwhile.
        redis: where the runs are.
        log: takes what the workers say of themselves; nobody sees it unless one does not start.
        namespace: the runs'. One of its own unless somebody names one: on somebody's Redis, the demo's workers must not
            take other runs.
    """

    def __init__(self, story: Story, redis: SessionRedis, log: IO[bytes], namespace: str | None) -> None:
        self.story = story
        self.redis = redis
        self._log = log
        self._namespace = namespace or f"demo-{secrets.token_hex(4)}"

    def client(self) -> Client:
        """A client of the demo's runs."""
        return Client(self.redis.url, settings=ClientSettings(namespace=self._namespace, retention=_RETENTION))

    @asynccontextmanager
    async def workers(self, count: int, *targets: str) -> AsyncIterator[Workers]:
        """Worker processes, until the end of the block; without targets, with the default agent.

        Raises:
            CommandError: one of them has not started; it tells what that one said.
        """
        environment = {REDIS_URL_VARIABLE: self.redis.url, NAMESPACE_VARIABLE: self._namespace}
        command = WorkerCommand(["--shutdown-grace=0", "--", *targets], environment, self._log)
        processes: list[WorkerProcess] = []
        try:
            for _ in range(count):
                processes.append(await WorkerProcess.spawn(command))  # noqa: PERF401 - each is to be ended, if one fails
            ready = [await process.ready() for process in processes]
            yield {one.worker: process for one, process in zip(ready, processes, strict=True)}
        except WorkerNotStarted as error:
            self._log.seek(0)
            said = self._log.read().decode(errors="replace").strip()
            raise CommandError(f"{error}; it said:\n{said}", error.code) from None
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                await process.wait()

    async def ask(self, client: Client, prompt: str) -> Run:
        """Enqueue the run that is to be seen."""
        message = {"role": "user", "content": prompt}
        run = await client.enqueue(_GRAPH, {"messages": [message]}, stream_mode=["messages", "updates"])
        self.story.step("prompt", prompt)
        return run

    @asynccontextmanager
    async def readers(self, run_id: str, *labels: str) -> AsyncIterator[tuple[Join, Screen]]:
        """A screen for readers of a run, who begin when they join; the block ends when they have read all of it."""
        tasks: list[asyncio.Task[None]] = []

        def join(label: str) -> Reader:
            reader = Reader(label, screen)
            tasks.append(asyncio.create_task(reader.read(self.client(), run_id), name=label))
            return reader

        screen = screen_for(self.story.output, labels)
        try:
            yield join, screen
            await asyncio.gather(*tasks)
        finally:
            await cancel(tasks)
            screen.close()
