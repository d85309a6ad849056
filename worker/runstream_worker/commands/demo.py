"""`runstream demo`: one run, executed by a worker process, read by two readers that know nothing of each other."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import IO, Any

from runstream.cli.exits import CommandError, Exit
from runstream.cli.terminal import Output, Style, clipped, printable
from runstream.client import Client, Run
from runstream.model import Event
from runstream.settings import NAMESPACE_VARIABLE, REDIS_URL_VARIABLE, ClientSettings
from runstream.text import text_of
from runstream_worker.commands.redis import SessionRedis, session_redis
from runstream_worker.commands.screen import Screen, screen_for, wrapped
from runstream_worker.supervisor import Ready, WorkerCommand, WorkerNotStarted, WorkerProcess

PROMPT = "What time is it, and what is 6 * 7?"
_LATE = 15
"""How many pieces of text the first reader has seen when the second one comes."""
_RETENTION = 60.0
_LABEL_WIDTH = 8


@dataclass
class _Reader:
    """What one reader has seen.

    Attributes:
        label: what it is called on the screen.
        pieces: how many of the events were text of the model.
        first_text_at: when the first of them came.
        is_ahead: set when it has seen enough for the other to be late, or everything.
    """

    label: str
    events: list[Event] = field(default_factory=list)
    pieces: int = 0
    first_text_at: float = 0.0
    is_ahead: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class _Report:
    """What there is to say in the end."""

    run: Run
    worker: str
    began: float
    took: float
    first: _Reader
    second: _Reader
    late_by: int

    @property
    def end(self) -> dict[str, Any]:
        """The data of the run's end event."""
        data: dict[str, Any] = self.first.events[-1].data
        return data

    @property
    def alike(self) -> bool:
        """Whether both readers have seen the same."""
        return self.first.events == self.second.events


def run(args: argparse.Namespace) -> int:
    """Show it."""
    # A demonstration is for people, even in a pipe.
    output = replace(Output.choose(as_json=args.json), pretty=not args.json)
    with session_redis(args.redis or "", output) as redis, tempfile.TemporaryFile() as log:
        _step(output, "Redis", redis.about)
        args.redis = redis.url  # an error is to name it
        report = asyncio.run(_demonstrate(args, output, redis.url, log))
    _show(report, output, redis)
    return Exit.OK if report.alike and report.end["status"] == "success" else Exit.FAILED


async def _demonstrate(args: argparse.Namespace, output: Output, url: str, log: IO[bytes]) -> _Report:
    # A namespace of its own: on somebody's Redis, the demo's worker must not take other runs.
    settings = ClientSettings(namespace=args.namespace or f"demo-{secrets.token_hex(4)}", retention=_RETENTION)
    async with Client(url, settings=settings) as client:
        await client.ping()
        async with _worker(url, settings.namespace, output, log) as ready:
            message = {"role": "user", "content": args.prompt}
            began = time.monotonic()
            run = await client.enqueue(
                ready.graphs[0], {"messages": [message]}, stream_mode=["messages", "updates"], retention=_RETENTION
            )
            _step(output, "prompt", printable(args.prompt))
            first, second, late_by = await _read_twice(output, url, settings, run.run_id)
            return _Report(run, ready.worker, began, time.monotonic() - began, first, second, late_by)


@asynccontextmanager
async def _worker(url: str, namespace: str, output: Output, log: IO[bytes]) -> AsyncIterator[Ready]:
    """A worker process with the default agent, until the end of the block."""
    environment = {REDIS_URL_VARIABLE: url, NAMESPACE_VARIABLE: namespace}
    _step(output, "worker", "starting (LangChain takes a moment to import) ...", passing=True)
    worker = await WorkerProcess.spawn(WorkerCommand(["--shutdown-grace=0"], environment, log))
    try:
        ready = await worker.ready()
        _step(output, "worker", f"{ready.worker}, a process of its own")
        yield ready
    except WorkerNotStarted as error:
        log.seek(0)
        said = log.read().decode(errors="replace").strip()
        raise CommandError(f"{error}; it said:\n{said}", error.code) from None
    finally:
        worker.terminate()
        await worker.wait()


async def _read_twice(output: Output, url: str, settings: ClientSettings, run_id: str) -> tuple[_Reader, _Reader, int]:
    first, second = _Reader("A reads from the start"), _Reader("B comes late and misses nothing")
    with _screen(output, first.label, second.label) as screen:
        async with asyncio.TaskGroup() as group:
            group.create_task(_read(first, url, settings, run_id, screen))
            await first.is_ahead.wait()
            late_by = first.pieces
            group.create_task(_read(second, url, settings, run_id, screen))
    return first, second, late_by


async def _read(reader: _Reader, url: str, settings: ClientSettings, run_id: str, screen: Screen | None) -> None:
    """Tail the run from its first event, with a client of its own, as another process would."""
    try:
        async with Client(url, settings=settings) as client:
            async for event in client.tail(run_id):
                reader.events.append(event)
                if text_of(event):
                    reader.pieces += 1
                    reader.first_text_at = reader.first_text_at or time.monotonic()
                if reader.pieces >= _LATE:
                    reader.is_ahead.set()
                if screen is not None:
                    screen.add(reader.label, printable(_told(event)))
    finally:
        reader.is_ahead.set()


def _told(event: Event) -> str:
    """An event as text: what the model says, and the tools that it calls."""
    calls = _tool_calls(event)
    return f"[calls {', '.join(calls)}]\n" if calls else text_of(event)


def _tool_calls(event: Event) -> list[str]:
    if event.mode != "updates":
        return []
    messages = [message for update in event.data.values() if update for message in update.get("messages", ())]
    return [_call(call) for message in messages for call in message.get("tool_calls") or ()]


def _call(call: dict[str, Any]) -> str:
    return f"{call['name']}({', '.join(map(str, call['args'].values()))})"


@contextmanager
def _screen(output: Output, *labels: str) -> Iterator[Screen | None]:
    if not output.pretty:
        yield None
        return
    output.line()
    screen = screen_for(output, labels)
    try:
        yield screen
    finally:
        screen.close()
        output.line()


def _show(report: _Report, output: Output, redis: SessionRedis) -> None:
    to_first = report.first.first_text_at - report.began if report.first.pieces else None
    if not output.pretty:
        output.json(
            {
                "embedded": redis.embedded,
                "run_id": report.run.run_id,
                "worker": report.worker,
                "end": report.end,
                "tokens": report.first.pieces,
                "seconds": round(report.took, 3),
                "seconds_to_first_token": None if to_first is None else round(to_first, 3),
                "events": len(report.first.events),
                "readers_saw_the_same": report.alike,
            }
        )
        return
    error = report.end.get("error")
    because = f": {error['type']}: {error['message']}" if error else ""
    told = f"{report.run.run_id}: {report.end['status']}{because}"
    _step(output, "run", told, ok=report.end["status"] == "success")
    if to_first is not None:
        told = f"{report.first.pieces} in {report.took:.2f} s, the first after {to_first:.2f} s"
        _step(output, "tokens", told)
    same = "the same for both" if report.alike else "NOT the same for both"
    _step(output, "events", f"{len(report.first.events)}, {same}; B came {report.late_by} tokens late", ok=report.alike)
    _step(output, "next", "runstream dev my_agent.py:graph", ok=None)


def _step(output: Output, label: str, told: str, *, passing: bool = False, ok: bool | None = True) -> None:
    """Say a line of the story; one that is `passing` gives way to the next.

    Nothing of the others is cut off: a terminal gets as many lines as they need, a pipe gets one.
    """
    if not output.pretty or (passing and not output.terminal):
        return
    told = " ".join(printable(told).split("\n"))
    room = max(output.width - _LABEL_WIDTH - 6, _LABEL_WIDTH)
    if passing:
        output.write(f"{_erase(output)}    {output.styled(label.ljust(_LABEL_WIDTH), 'dim')} {clipped(told, room)}")
        return
    mark = {True: output.styled("✓", "green"), False: output.styled("✗", "red"), None: " "}[ok]
    first, *others = wrapped(told, room) if output.terminal else [told]
    style: tuple[Style, ...] = ("bold",) if ok is None else ()
    output.line(
        f"{_erase(output)}  {mark} {output.styled(label.ljust(_LABEL_WIDTH), 'dim')} {output.styled(first, *style)}"
    )
    for line in others:
        output.line(f"{' ' * (_LABEL_WIDTH + 5)}{line}")


def _erase(output: Output) -> str:
    """Takes a passing line away."""
    return "\r\x1b[K" if output.terminal else ""
