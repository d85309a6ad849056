"""The commands about runs: enqueue, tail, result, stop, runs."""

from __future__ import annotations

import argparse
import json
import shlex
from datetime import UTC, datetime
from typing import Any

from runstream.cli.exits import CommandError, Exit
from runstream.cli.inputs import read_input, run_options
from runstream.cli.render import RUN_HEAD, event_json, event_line, run_row, table
from runstream.cli.terminal import Output, printable
from runstream.client import Client
from runstream.errors import InvalidRequest
from runstream.model import Event, Status


def take_input(args: argparse.Namespace) -> None:
    """Put the run's input in the place of the argument that says what it is."""
    args.input = read_input(args.input, args.command)


async def enqueue(args: argparse.Namespace, client: Client, output: Output) -> int:
    """Enqueue a run; follow it, or wait for its result, where that was asked for."""
    run = await client.enqueue(args.graph, args.input, **run_options(args))
    if args.follow or args.text:
        output.note(f"run {run.run_id}")
        return await _follow(client, output, run.run_id, args)
    if args.result:
        output.note(f"run {run.run_id}")
        return await _show_result(client, output, run.run_id)
    if output.pretty:
        output.line(run.run_id)
        again = "" if run.is_new else " (it had been enqueued before)"
        output.note(f"enqueued{again}; follow it with: {_tail_command(run.run_id, args)}")
    else:
        told = {"run_id": run.run_id, "thread_id": run.thread_id, "graph": run.graph, "is_new": run.is_new}
        output.json(told)
    return Exit.OK


def _tail_command(run_id: str, args: argparse.Namespace) -> str:
    # No --redis: its password is not to be shown again.
    return shlex.join(["runstream", "tail", run_id, *(["--namespace", args.namespace] if args.namespace else [])])


async def tail(args: argparse.Namespace, client: Client, output: Output) -> int:
    """Show the events of a run until its end."""
    return await _follow(client, output, args.run_id, args)


async def _follow(client: Client, output: Output, run_id: str, args: argparse.Namespace) -> int:
    after, live = getattr(args, "after", None), getattr(args, "live", False)
    nodes = frozenset(getattr(args, "node", None) or ())
    if args.text:
        if live:
            raise InvalidRequest("--live", "text begins at the start or --after an event; leave --live out")
        return await _follow_text(client, output, run_id, nodes=nodes, after=after)
    modes = frozenset(getattr(args, "only", None) or ())
    async with client.tail(run_id, after=after, live=live) as events:
        async for event in events:
            if _is_wanted(event, modes, nodes):
                _show_event(event, output)
            elif event.mode == "gap":
                output.note(f"events after {event.data['after']} have been removed")
    await client.wait(run_id)
    return Exit.OK


async def _follow_text(client: Client, output: Output, run_id: str, *, nodes: frozenset[str], after: str | None) -> int:
    text = ""
    try:
        async for text in client.text(run_id, node=sorted(nodes) or None, after=after):
            output.write(printable(text) if output.pretty else text)
    finally:
        if text and not text.endswith("\n"):
            output.line()
    return Exit.OK


def _show_event(event: Event, output: Output) -> None:
    if output.pretty:
        output.line(event_line(event, output))
    else:
        output.json(event_json(event))


def _is_wanted(event: Event, modes: frozenset[str], nodes: frozenset[str]) -> bool:
    if modes and event.mode not in modes:
        return False
    return not (nodes and event.is_chunk) or not nodes.isdisjoint(_nodes_of(event))


def _nodes_of(event: Event) -> frozenset[str]:
    """The nodes that an event says it is of; only messages and updates say so."""
    match event.mode, event.data:
        case "messages", [_, {"langgraph_node": str(node)}]:
            return frozenset({node})
        case "updates", {**by_node}:
            return frozenset(str(node) for node in by_node)
        case _:
            return frozenset()


async def result(args: argparse.Namespace, client: Client, output: Output) -> int:
    """Wait for a run and show what it returned."""
    return await _show_result(client, output, args.run_id)


async def _show_result(client: Client, output: Output, run_id: str) -> int:
    value: Any = await client.result(run_id)
    if output.pretty:
        output.line(printable(json.dumps(value, ensure_ascii=False, indent=2)))
    else:
        output.json(value)
    return Exit.OK


async def stop(args: argparse.Namespace, client: Client, output: Output) -> int:
    """Ask that a run end."""
    stopped = await client.stop(args.run_id, reason=args.reason)
    if not output.pretty:
        output.json({"outcome": stopped.outcome, "status": stopped.status})
        return Exit.OK
    told = {
        "stopped": "stopped; it was not running",
        "stopping": "its worker has been told to stop it",
        "ended": f"it had ended before: {stopped.status}",
    }
    output.line(told[stopped.outcome])
    return Exit.OK


async def runs(args: argparse.Namespace, client: Client, output: Output) -> int:
    """List the newest runs."""
    if args.limit < 1:
        raise CommandError(f"--limit: {args.limit} must be a whole number over 0", Exit.USAGE)
    found = await client.runs(limit=args.limit, status=Status(args.status) if args.status else None)
    if not output.pretty:
        for info in found:
            output.line(info.model_dump_json())
        return Exit.OK
    if not found:
        output.note("there are no runs" + (f" that are {args.status}" if args.status else ""))
        return Exit.OK
    now = datetime.now(UTC)
    for line in table([run_row(info, now) for info in found], RUN_HEAD, output):
        output.line(line)
    return Exit.OK
