"""Processes that take part in a measurement: each plays one role and answers what it is asked.

A role is an async context manager whose value maps names to coroutines; `start` runs it in a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any, TypeAlias

Answers: TypeAlias = Mapping[str, Callable[..., Awaitable[Any]]]
Role: TypeAlias = Callable[..., AbstractAsyncContextManager[Answers]]

FORKSERVER = multiprocessing.get_context("forkserver")
"""Processes that share nothing with this one, and are there at once: what they import has been imported for all."""
FORKSERVER.set_forkserver_preload(["bench.roles"])
_GRACE = 10.0


class ProcessDied(RuntimeError):
    """A process of the benchmark has ended by itself; its own traceback tells why."""


class Remote:
    """A process that plays a role."""

    def __init__(self, process: ForkServerProcess, pipe: Connection) -> None:
        self._process = process
        self._pipe = pipe

    async def ask(self, name: str, *args: Any) -> Any:
        """Have the role do something, and wait for its answer."""
        self._pipe.send((name, args))
        return await self.answer()

    async def answer(self) -> Any:
        """Wait for the next answer.

        Raises:
            ProcessDied: it will not come.
        """
        try:
            return await asyncio.to_thread(self._pipe.recv)
        except (EOFError, ConnectionResetError):
            raise ProcessDied(f"{self._process.name} has died") from None

    async def cpu(self) -> float:
        """The seconds of processor time that it has used so far."""
        return float(await self.ask("cpu"))


@asynccontextmanager
async def start(role: Role, *args: Any) -> AsyncIterator[Remote]:
    """A process that is ready to be asked, to the end of the block.

    Args:
        role: a function of a module, called in the new process.
        *args: its arguments.
    """
    here, there = FORKSERVER.Pipe()
    process = FORKSERVER.Process(
        target=_main, args=(role, args, there), name=getattr(role, "__name__", "role"), daemon=True
    )
    process.start()
    there.close()
    remote = Remote(process, here)
    try:
        await remote.answer()
        yield remote
        with contextlib.suppress(BrokenPipeError):
            here.send(None)
        await asyncio.to_thread(process.join, _GRACE)
    finally:
        process.kill()
        process.join()
        here.close()


def _main(role: Role, args: tuple[Any, ...], pipe: Connection) -> None:
    asyncio.run(_play(role, args, pipe))


async def _play(role: Role, args: tuple[Any, ...], pipe: Connection) -> None:
    async with role(*args) as answers:
        pipe.send(None)
        while (question := await asyncio.to_thread(pipe.recv)) is not None:
            name, arguments = question
            pipe.send(time.process_time() if name == "cpu" else await answers[name](*arguments))
