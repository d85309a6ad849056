"""Worker and gateway processes: started, watched, ended; and the supervisor that keeps a number of workers.

Parent and worker hold the two ends of a socket pair. The worker writes one line when it is ready; its end of file tells
it that the parent is gone, however that ended, and then it leaves, too.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import IO, Any, Literal, Self

from runstream.cli.exits import CommandError, Exit
from runstream_worker.signals import signals_to

_FIRST_DELAY = 0.5
_LONGEST_DELAY = 30.0
_PROVEN_AFTER = 10.0
"""A worker that has lived this long was all right: the next one is started without much delay."""
_LAST_PATIENCE = 10.0

_logger = logging.getLogger("runstream.supervisor")


@dataclass(frozen=True)
class Ready:
    """What a worker says when it begins to take runs."""

    worker: str
    graphs: tuple[str, ...]
    slots: int

    @classmethod
    def from_json(cls, line: bytes) -> Self:
        """Read what `to_json` wrote."""
        value = json.loads(line)
        return cls(value["worker"], tuple(value["graphs"]), value["slots"])

    def to_json(self) -> str:
        """The one line that the parent reads."""
        return json.dumps({"ready": True, **asdict(self)})


class WorkerNotStarted(CommandError):
    """A worker ended before it was ready; it has said why itself."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the worker did not start: {_told(code)}", code if code > 0 else Exit.FAILED)


@dataclass(frozen=True)
class WorkerCommand:
    """How to start a worker, or a gateway.

    Attributes:
        arguments: those of `runstream worker`, or of what `role` says.
        environment: what is added to this process's. Redis's URL belongs here: everybody can see arguments.
        errors: where its standard error goes; this process's when left out.
        role: which command of `runstream` it is.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    errors: IO[bytes] | None = None
    role: Literal["worker", "gateway"] = "worker"


class WorkerProcess:
    """A worker in a process and a session of its own, so that Ctrl-C reaches only the parent, which decides."""

    def __init__(self, process: asyncio.subprocess.Process, lifeline: socket.socket) -> None:
        self._process = process
        self._lifeline = lifeline

    @classmethod
    async def spawn(cls, command: WorkerCommand) -> Self:
        """Start a worker; it is not ready yet."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            process = await asyncio.create_subprocess_exec(
                # -P: what is in the current folder must not stand for what the worker imports; graphs find it later.
                *(sys.executable, "-P", "-m", "runstream", command.role),
                f"--supervised-by={theirs.fileno()}",
                *command.arguments,
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stderr=command.errors,
                env={**os.environ, **command.environment},
                start_new_session=True,
            )
        return cls(process, ours)

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it has been noticed to have ended."""
        return self._process.returncode is not None

    async def ready(self) -> Ready:
        """Wait until it takes runs.

        Raises:
            WorkerNotStarted: it has ended instead.
        """
        return Ready.from_json(await self.ready_line())

    async def ready_line(self) -> bytes:
        """Wait until it is ready; what it says then, a line of JSON.

        Raises:
            WorkerNotStarted: it has ended instead.
        """
        loop = asyncio.get_running_loop()
        line = b""
        with suppress(ConnectionError):
            while not line.endswith(b"\n") and (received := await loop.sock_recv(self._lifeline, 4096)):
                line += received
        if line.endswith(b"\n"):
            return line
        raise WorkerNotStarted(await self.wait())

    def terminate(self) -> None:
        """Ask it to leave; a second time, to hurry."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End it where it is, as a machine does that is switched off."""
        self._send(signal.SIGKILL)

    async def wait(self) -> int:
        """Wait until it has ended; its exit code, negative if a signal ended it."""
        code = await self._process.wait()
        self._lifeline.close()
        return code

    def _send(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            # Not by Process.send_signal: it can take the exit code of a process that has just ended, and asyncio, which
            # finds none then, tells 255 (python/cpython#127049).
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)


class Parent:
    """The worker's end of the socket pair."""

    def __init__(self, number: int) -> None:
        self._socket = socket.socket(fileno=number)
        self._socket.set_inheritable(False)

    def tell(self, ready: Ready) -> None:
        """Say that this worker takes runs."""
        self.tell_line(ready.to_json())

    def tell_line(self, line: str) -> None:
        """Say that this process is ready."""
        with suppress(ConnectionError):  # it is gone; `watch` notices
            self._socket.sendall(f"{line}\n".encode())

    def watch(self, grace: float) -> None:
        """From now on, leave when the parent is gone: like after SIGTERM, and for good if that takes too long."""
        threading.Thread(target=self._watch, args=(grace,), name="runstream-parent", daemon=True).start()

    def _watch(self, grace: float) -> None:
        with suppress(ConnectionError):
            while self._socket.recv(64):
                pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace + _LAST_PATIENCE)
        os.kill(os.getpid(), signal.SIGKILL)


class Supervisor:
    """Keeps a number of workers: starts another where one has died, later and later where that happens at once.

    Args:
        command: starts one.
        count: how many there are to be.
        on_ready: is told of each that takes runs.
    """

    def __init__(self, command: WorkerCommand, count: int, on_ready: Callable[[Ready], None]) -> None:
        self._command = command
        self._count = count
        self._on_ready = on_ready
        self._workers: set[WorkerProcess] = set()
        self._leaving = asyncio.Event()
        self._any_was_ready = False
        self._code: int = Exit.OK

    async def run(self) -> int:
        """Keep the workers until SIGINT or SIGTERM; a second signal goes on to them, too.

        Raises:
            WorkerNotStarted: not even the first came up: what is wrong is not going to pass.
        """
        with signals_to(lambda _: self.leave()):
            async with asyncio.TaskGroup() as group:
                for _ in range(self._count):
                    group.create_task(self._keep_one())
        return self._code

    def leave(self) -> None:
        """Ask all workers to leave; again, to hurry."""
        self._leaving.set()
        for worker in self._workers:
            worker.terminate()

    async def _keep_one(self) -> None:
        delay = _FIRST_DELAY
        while not self._leaving.is_set():
            began = time.monotonic()
            code = await self._one()
            if self._leaving.is_set():
                return
            if not self._any_was_ready:
                self._code = code if code > 0 else Exit.FAILED
                self.leave()
                return
            delay = _FIRST_DELAY if time.monotonic() - began > _PROVEN_AFTER else min(delay * 2, _LONGEST_DELAY)
            _logger.warning("a worker process %s; another one follows in %.1f s", _told(code), delay)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), delay)

    async def _one(self) -> int:
        """Start a worker and wait for its end."""
        worker = await WorkerProcess.spawn(self._command)
        self._workers.add(worker)
        if self._leaving.is_set():  # told while it was being started
            worker.terminate()
        try:
            with suppress(WorkerNotStarted):
                self._on_ready(await worker.ready())
                self._any_was_ready = True
            code = await worker.wait()
        finally:
            self._workers.discard(worker)
        if self._leaving.is_set() and code > 0:
            self._code = Exit.FAILED
        return code


async def first_of(*works: Coroutine[Any, Any, object] | Awaitable[object]) -> None:
    """Wait for the first of several to be done; cancel the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


def _told(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
