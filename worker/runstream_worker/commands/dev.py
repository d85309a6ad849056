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
from dataclasses import dataclass, field, replace
from pathlib import Path

from runstream.cli.exits import CommandError, Exit
from runstream.cli.session import namespace
from runstream.cli.terminal import Output
from runstream.errors import GraphLoadError
from runstream.settings import GATEWAY_URL_VARIABLE, REDIS_URL_VARIABLE
from runstream_worker.commands.redis import SessionRedis, session_redis
from runstream_worker.commands.worker import command_of, set_up_logging
from runstream_worker.signals import signals_to
from runstream_worker.supervisor import (
    Ready,
    WorkerCommand,
    WorkerNotStarted,
    WorkerProcess,
    first_of,
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
    output = Output.choose(as_json=args.json, optional=True)
    # The local default does not count: a newcomer's machine has no Redis, or somebody else's.
    named = args.redis or os.environ.get(REDIS_URL_VARIABLE, "")
    if named and args.data is not None:
        raise CommandError("--data is for the Redis that dev starts; one that is named keeps its own data", Exit.USAGE)
    data = None if args.data is None else Path(args.data)
    with session_redis(named, output, data) as redis:
        if output.pretty:
            output.line(f"{output.styled('Redis  ', 'dim')}  {redis.about}")
        args.redis = redis.url
        return asyncio.run(_Dev(args, output, redis).run())


@dataclass
class _Kept:
    """A process of the session that is kept: its command, and what is known of the one that is there now.

    Attributes:
        role: what it is called.
        command: starts it.
        changed: whether it has to start anew, or to leave.
        process: the one that is there.
        said: what it said when it was ready, a line of JSON.
        was_ready: whether any of them ever was.
        ready: whether one has been since the last change.
    """

    role: str
    command: WorkerCommand
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    process: WorkerProcess | None = None
    said: bytes | None = None
    was_ready: bool = False
    ready: asyncio.Event = field(default_factory=asyncio.Event)


class _Dev:
    """One session."""

    def __init__(self, args: argparse.Namespace, output: Output, redis: SessionRedis) -> None:
        self._args = args
        self._output = output
        self._redis = redis
        self._folders = watched_folders(args.targets, args.config)
        self._changed = asyncio.Event()
        self._leaving = asyncio.Event()
        worker = command_of(args)
        self._kept = [_Kept("worker", worker)]
        if not args.no_gateway:
            port = args.port if args.port is not None else free_port(args.host, _DEFAULT_PORT)
            if args.port is None and port != _DEFAULT_PORT:
                output.note(f"port {_DEFAULT_PORT} is taken; the gateway listens on {port} (--port chooses)")
            self._kept[0].command = _calling(worker, f"http://{_own(args.host)}:{port}{_mount_prefix(args)}")
            self._kept.append(_Kept("gateway", gateway_command_of(args, port)))
        self._starts = 0
        self._spreading = False
        self._failure: WorkerNotStarted | None = None

    async def run(self) -> int:
        """Keep a worker and a gateway until a signal.

        Raises:
            WorkerNotStarted: one of them did not start, for a reason that no change of a file mends.
        """
        with signals_to(lambda _: self._leave()):
            async with _watching(self._folders, self._changed), asyncio.TaskGroup() as group:
                for kept in self._kept:
                    group.create_task(self._keep(kept))
                group.create_task(self._spread_changes())
        if self._failure is not None:
            raise self._failure
        return Exit.OK

    def _leave(self) -> None:
        """End the session: the worker drains, for it is asked once. Only when told again has it to hurry."""
        is_first = not self._leaving.is_set()
        self._leaving.set()
        for kept in self._kept:
            kept.changed.set()
            if not is_first and kept.process is not None:
                kept.process.terminate()

    async def _spread_changes(self) -> None:
        """Tell the keepers of a change: first the worker's, and the gateway's when a worker has come up with it.

        While a file is half written, its worker does not start; and the gateway that is there goes on answering.
        """
        worker, *others = self._kept
        while not self._leaving.is_set():
            await first_of(self._changed.wait(), self._leaving.wait())
            self._changed.clear()
            self._spreading = bool(others)
            for kept in self._kept:
                kept.ready.clear()
            worker.changed.set()
            await first_of(worker.ready.wait(), self._changed.wait(), self._leaving.wait())
            for kept in others if worker.ready.is_set() else ():
                kept.changed.set()

    async def _keep(self, kept: _Kept) -> None:
        """Start a process anew when a file changes, and when it has been killed; the others go on meanwhile."""
        while not self._leaving.is_set():
            kept.changed.clear()
            code = await self._one(kept)
            if self._leaving.is_set():
                return
            if kept.changed.is_set():
                self._output.note(f"a file has changed: starting the {kept.role} anew")
            elif code < 0:
                self._output.note(f"the {kept.role} was ended by a signal ({code}): starting another one")
            elif not kept.was_ready and code not in (Exit.OK, Exit.FAILED):
                self._fail(WorkerNotStarted(code))
            else:
                self._output.note(f"the {kept.role} has ended ({code}); it starts anew when a file changes")
                await kept.changed.wait()

    async def _one(self, kept: _Kept) -> int:
        """Start a process and wait until it has ended, by itself or because it has to; its exit code."""
        process = kept.process = await WorkerProcess.spawn(kept.command)
        try:
            await first_of(self._live(kept, process), kept.changed.wait())
            process.terminate()
            return await process.wait()
        finally:
            kept.process = None

    async def _live(self, kept: _Kept, process: WorkerProcess) -> None:
        """Take down what a process says when it is ready, and wait until it has ended."""
        with suppress(WorkerNotStarted):
            kept.said = await process.ready_line()
            kept.was_ready = True
            kept.ready.set()
            self._tell(kept)
        await process.wait()

    def _fail(self, failure: WorkerNotStarted) -> None:
        """End the session: what is wrong is not going to pass."""
        self._failure = self._failure or failure
        self._leave()

    def _tell(self, kept: _Kept) -> None:
        """Announce the session when all are ready for the first time, and then each worker that is."""
        said = [each.said for each in self._kept if each.said is not None]
        if self._spreading or not self._starts:
            if not all(each.ready.is_set() for each in self._kept):
                return
            self._spreading = False
        elif kept.role != "worker":
            return
        url = json.loads(said[1])["url"] if len(said) > 1 else None
        self._announce(Ready.from_json(said[0]), url)

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
            ("data", self._about_data()),
            ("reload", f"when a .py file changes in {folders}"),
            ("try", self._output.styled(self._example(ready), "bold")),
            ("", "Ctrl-C ends it all"),
        ]

    def _about_data(self) -> str:
        if self._redis.embedded is None:
            return "threads and runs are kept by that Redis"
        if self._args.data is None:
            return "threads and runs end with this session (--data DIR keeps them)"
        return f"threads and runs are kept in {Path(self._args.data).resolve()}"

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
    if args.keep_checkpointer:
        arguments.append("--keep-checkpointer")
    environment = dict(command_of(args).environment)
    return WorkerCommand([*arguments, "--", *args.targets], environment, role="gateway")


def _calling(worker: WorkerCommand, url: str) -> WorkerCommand:
    """A worker's command, with the gateway that its nodes call where they make clients without a URL."""
    named = os.environ.get(GATEWAY_URL_VARIABLE) or url
    return replace(worker, environment={**worker.environment, GATEWAY_URL_VARIABLE: named})


def _own(host: str) -> str:
    """A host by which this machine reaches itself where it listens on `host`."""
    wildcards = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - compared
    return wildcards.get(host, f"[{host}]" if ":" in host else host)


def _mount_prefix(args: argparse.Namespace) -> str:
    """The path under which the project has its gateway; the gateway itself says what is wrong with the file."""
    from runstream_worker.langgraph_json import read_langgraph_json  # noqa: PLC0415 - imports python-dotenv

    file = args.config or next((target for target in args.targets if target.endswith(".json")), None)
    try:
        prefix = None if file is None else read_langgraph_json(Path(file)).gateway["http"].get("mount_prefix")
    except GraphLoadError:
        return ""
    return prefix if isinstance(prefix, str) else ""


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
