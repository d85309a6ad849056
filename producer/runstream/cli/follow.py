"""Following a run in the shell: `tail`, `enqueue --follow`, `--text`."""

from __future__ import annotations

import argparse
import asyncio
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from redis.exceptions import RedisError

from runstream.cli.exits import Exit
from runstream.cli.render import event_json, event_line
from runstream.cli.terminal import Output, printable
from runstream.client import Client
from runstream.errors import InvalidRequest, RunstreamError
from runstream.model import Event
from runstream.sources import Sources
from runstream.spoken import Retraction, Text
from runstream.stream import EventStream
from runstream.tasks import cancel
from runstream.waiting import Waiting

_PATIENCE = 1.0
_LOOK_AGAIN_AFTER = 5.0
_LOOK_AT_RUNNING_AFTER = 2.0


async def follow(client: Client, output: Output, run_id: str, args: argparse.Namespace) -> int:
    """Show a run's events, or its text, until its end."""
    after, live = getattr(args, "after", None), getattr(args, "live", False)
    nodes = getattr(args, "node", None) or None
    namespaces = getattr(args, "ns", None)
    if args.text and live:
        raise InvalidRequest("--live", "text begins at the start or --after an event; leave --live out")
    async with telling_why_it_waits(client, output, run_id, args):
        if args.text:
            # Text that was written into a pipe cannot be taken back; JSON says which piece replaces the others.
            settled = args.settled if args.settled is not None else not (output.pretty or args.json)
            pieces = client.text(run_id, node=nodes, ns=namespaces, after=after, settled=settled)
            await _follow_text(pieces, output, as_json=args.json)
        else:
            modes = frozenset(getattr(args, "only", None) or ())
            events = client.tail(run_id, after=after, live=live, settled=bool(args.settled))
            await _follow_events(events, output, modes=modes, sources=Sources.of(nodes, namespaces))
            await client.wait(run_id)
    return Exit.OK


async def _follow_events(stream: EventStream, output: Output, *, modes: frozenset[str], sources: Sources) -> None:
    worker = None
    async with stream as events:
        async for event in events:
            if not _is_wanted(event, modes, sources):
                if event.mode == "gap":
                    output.note(f"events after {event.data['after']} have been removed")
            elif output.pretty:
                output.line(event_line(event, output, worker_before=worker))
            else:
                output.json(event_json(event))
            if event.mode == "attempt":
                worker = event.data.get("worker")


async def _follow_text(pieces: AsyncIterator[Text | Retraction], output: Output, *, as_json: bool) -> None:
    if as_json:
        async for piece in pieces:
            text = piece.text if isinstance(piece, Retraction) else piece
            output.json({"id": piece.event_id, "text": text, "replaces": piece.replaces})
        return
    page = _Page(output)
    try:
        async for piece in pieces:
            page.show(piece)
    finally:
        page.end_line()


class _Page:
    """Text as it is shown: in a terminal each message begins on a line of its own, in a pipe nothing is added."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._within_line = False
        self._begun: set[str | None] = set()

    def show(self, piece: Text | Retraction) -> None:
        """Write a piece."""
        if isinstance(piece, Retraction):
            self._begin_anew(piece)
        for message_id, text in piece.parts:
            if self._output.pretty and message_id not in self._begun:
                self.end_line()
            self._begun.add(message_id)
            self._output.write(printable(text) if self._output.pretty else text)
            self._within_line = not text.endswith("\n") if text else self._within_line

    def end_line(self) -> None:
        """Go to a new line, unless this is one."""
        if self._within_line:
            self._output.line()
        self._within_line = False

    def _begin_anew(self, piece: Retraction) -> None:
        """Say that what is shown is void; what is written cannot be taken back, the whole follows on a new line."""
        self.end_line()
        self._begun.clear()
        attempt = piece.event_id.partition("-")[0]
        told = f"attempt {attempt} says some of it again; the whole text that stands now:"
        if self._output.pretty:
            self._output.line(self._output.styled(f"[{told}]", "dim"))
        else:
            self._output.note(told)


@asynccontextmanager
async def telling_why_it_waits(
    client: Client, output: Output, run_id: str, args: argparse.Namespace
) -> AsyncIterator[None]:
    """Tell people, once, when a run has waited for more than a second for something that may not come by itself."""
    telling = asyncio.create_task(_tell_why_it_waits(client, output, run_id, args))
    try:
        yield
    finally:
        await cancel([telling])


async def _tell_why_it_waits(client: Client, output: Output, run_id: str, args: argparse.Namespace) -> None:
    told: set[str] = set()
    await asyncio.sleep(_PATIENCE)
    # What is wrong with the run or with Redis, whoever reads the run is told anyway.
    with suppress(RunstreamError, RedisError, OSError):
        while True:
            waiting = await client.waiting_for(run_id)
            if waiting is not None and waiting.reason not in {"slots", *told}:
                output.note(f"the run waits: {waiting}{_remedy(waiting, args)}")
                told.add(waiting.reason)
            await asyncio.sleep(_LOOK_AGAIN_AFTER if waiting is not None else _LOOK_AT_RUNNING_AFTER)


def _remedy(waiting: Waiting, args: argparse.Namespace) -> str:
    if waiting.reason not in ("worker", "orphan"):
        return ""
    namespace = ["--namespace", args.namespace] if args.namespace else []
    # No --redis: its password is not to be shown again.
    return f"; start one with: {shlex.join(['runstream', 'worker', f'{waiting.graph}=FILE.py:GRAPH', *namespace])}"


def _is_wanted(event: Event, modes: frozenset[str], sources: Sources) -> bool:
    if modes and event.mode not in modes:
        return False
    if not event.is_chunk:
        return True
    nodes = sources.nodes
    return sources.have_ns(event.ns) and (nodes is None or any(node in nodes for node in _nodes_of(event)))


def _nodes_of(event: Event) -> frozenset[str]:
    """The nodes that an event says it is of; only messages, updates and records (`events`) say so."""
    match event.mode, event.data:
        case "messages", [_, {"langgraph_node": str(node)}]:
            return frozenset({node})
        case "events", {"metadata": {"langgraph_node": str(node)}}:
            return frozenset({node})
        case "updates", {**by_node}:
            return frozenset(str(node) for node in by_node)
        case _:
            return frozenset()
