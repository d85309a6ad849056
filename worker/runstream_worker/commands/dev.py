"""`runstream dev`: Redis, a worker and a gateway, which start anew when a file changes."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from runstream.cli.exits import Exit
from runstream.cli.session import namespace
from runstream.cli.terminal import Output
from runstream.settings import REDIS_URL_VARIABLE
from runstream_worker.commands.redis import SessionRedis, session_redis
from runstream_worker.commands.worker import command_of, set_up_logging
from runstream_worker.supervisor import (
    Ready,
    WorkerCommand,
    WorkerNotStarted,
    WorkerProcess,
    first_of,
    signals_to,
)

_WATCHED_SUFFIXES = (".py",)
_PROJECT_FILE = "langgraph.json"
_WATCHED_NAMES = (_PROJECT_FILE, ".env")
_DEFAULT_PORT = 2024
"""LangGraph's own server listens here, and so its clients look here."""


def run(args: argparse.Namespace) -> int:
    """Develop until SIGINT or SIGTERM."""
    set_up_logging(args.log_level)
    if not args.targets and args.config is None and Path(_PROJECT_FILE).is_file():
        args.config = _PROJECT_FILE
    output = Output.choose(as_json=args.json)
    # The local default does not count: a newcomer's machine has no Redis, or somebody else's.
    named = args.redis or os.environ.get(REDIS_URL_VARIABLE, "")
    with session_redis(named, output) as redis:
        if output.pretty:
            output.line(f"{output.styled('Redis  ', 'dim')}  {redis.about}")
        args.redis = redis.url
        return asyncio.run(_Dev(args, output, redis).run())


class _Dev:
    """One session."""

    def __init__(self, args: argparse.Namespace, output: Output, redis: SessionRedis) -> None:
        self._args = args
        self._output = output
        self._redis = redis
        self._folders = watched_folders(args.targets, args.config)
        self._changed = asyncio.Event()
        self._leaving = asyncio.Event()
        self._processes: list[WorkerProcess] = []
        self._commands = [command_of(args)]
        self._port: int | None = None
        if not args.no_gateway:
            self._port = args.port if args.port is not None else free_port(args.host, _DEFAULT_PORT)
            self._commands.append(gateway_command_of(args, self._port))
        self._starts = 0

    async def run(self) -> int:
        """Keep a worker and a gateway until a signal."""
        with signals_to(self._leave):
            async with _watching(self._folders, self._changed):
                while not self._leaving.is_set():
                    await self._one_round()
        return Exit.OK

    def _leave(self) -> None:
        """End the session: the worker drains, for it is asked once. Only when told again has it to hurry."""
        if self._leaving.is_set():
            for process in self._processes:
                process.terminate()
        self._leaving.set()

    async def _one_round(self) -> None:
        """Start the processes; end them when a file changes. What ends by itself is started anew after a change."""
        self._changed.clear()
        self._processes = [await WorkerProcess.spawn(command) for command in self._commands]
        await first_of(self._live(self._processes), self._changed.wait(), self._leaving.wait())
        ended = next((number for number, process in enumerate(self._processes) if process.has_ended), 0)
        for process in self._processes:
            process.terminate()
        codes = await asyncio.gather(*(process.wait() for process in self._processes))
        self._processes = []
        if self._leaving.is_set():
            return
        if self._changed.is_set():
            self._output.note("a file has changed: starting anew")
            return
        role = self._commands[ended].role
        self._output.note(f"the {role} has ended ({codes[ended]}); it starts anew when a file changes")
        await first_of(self._changed.wait(), self._leaving.wait())

    async def _live(self, processes: Sequence[WorkerProcess]) -> None:
        """Announce the processes, and wait until one of them has ended."""
        with suppress(WorkerNotStarted):
            worker, *gateways = processes
            ready = await worker.ready()
            urls = [json.loads(await gateway.ready_line())["url"] for gateway in gateways]
            self._announce(ready, urls[0] if urls else None)
        await first_of(*(process.wait() for process in processes))

    def _announce(self, ready: Ready, url: str | None) -> None:
        self._starts += 1
        if not self._output.pretty:
            redis = {"redis": self._redis.shown_url, "embedded": self._redis.embedded}
            gateway = {} if url is None else {"url": url}
            self._output.json({**redis, "worker": ready.worker, "graphs": list(ready.graphs), **gateway})
            return
        for name, told in self._lines(ready, url) if self._starts == 1 else [("worker", self._about(ready))]:
            self._output.line(f"{self._output.styled(f'{name:7}', 'dim')}  {told}")

    def _lines(self, ready: Ready, url: str | None) -> list[tuple[str, str]]:
        folders = ", ".join(map(str, self._folders))
        gateway = [] if url is None else [("gateway", f"{self._output.styled(url, 'bold')} (a console; {url}/docs)")]
        return [
            ("", self._redis.shown_url),
            ("worker", self._about(ready)),
            *gateway,
            ("reload", f"when a .py file changes in {folders}"),
            ("try", self._output.styled(self._example(ready), "bold")),
            ("", "Ctrl-C ends it all"),
        ]

    def _about(self, ready: Ready) -> str:
        return f"{ready.worker}: {', '.join(ready.graphs)}; {ready.slots} slots"

    def _example(self, ready: Ready) -> str:
        url = self._redis.url
        where = shlex.quote(url) if self._redis.shown_url == url else f'"${REDIS_URL_VARIABLE}"'
        also = f" --namespace {namespace(self._args)}" if self._args.namespace else ""
        return f'runstream enqueue {ready.graphs[0]} "What time is it?" --text --redis {where}{also}'


def free_port(host: str, wanted: int) -> int:
    """A port that nobody listens on: the wanted one, if it is free."""
    for port in (wanted, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            chosen: int = probe.getsockname()[1]
            return chosen
    return wanted


def gateway_command_of(args: argparse.Namespace, port: int) -> WorkerCommand:
    """The command of a gateway in front of the session's worker."""
    arguments = [f"--host={args.host}", f"--port={port}", "--show-errors", f"--log-level={args.log_level}"]
    if args.config is not None:
        arguments.append(f"--config={args.config}")
    environment = dict(command_of(args).environment)
    return WorkerCommand([*arguments, "--", *args.targets], environment, role="gateway")


def watched_folders(targets: Sequence[str], config: str | None) -> list[Path]:
    """The current folder, and those of targets that are files elsewhere."""
    here = Path.cwd()
    folders = [here]
    for target in [*targets, *([config] if config else [])]:
        location = target.rpartition("=")[2]
        path = Path(location if location.endswith(".json") else location.rpartition(":")[0] or location)
        folder = path.resolve().parent
        if path.exists() and not any(folder.is_relative_to(known) for known in folders):
            folders.append(folder)
    return folders


@asynccontextmanager
async def _watching(folders: Sequence[Path], changed: asyncio.Event) -> AsyncIterator[None]:
    """Set the event whenever a file changes that a worker may have read."""
    from watchfiles import Change, DefaultFilter, awatch  # noqa: PLC0415 - an extra

    outside_of_caches = DefaultFilter()

    def is_watched(change: Change, path: str) -> bool:
        name = Path(path).name
        return (name.endswith(_WATCHED_SUFFIXES) or name in _WATCHED_NAMES) and outside_of_caches(change, path)

    async def watch() -> None:
        async for _ in awatch(*folders, watch_filter=is_watched):
            changed.set()

    watching = asyncio.create_task(watch(), name="runstream-watch")
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
