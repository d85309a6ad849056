"""The commands about runs: enqueue, tail, result, stop, runs, dead, requeue."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from runstream.cli.exits import CommandError, Exit, explain
from runstream.cli.follow import follow, telling_why_it_waits
from runstream.cli.inputs import read_input, run_options
from runstream.cli.render import DEAD_HEAD, RUN_HEAD, dead_row, run_row, table
from runstream.cli.session import redis_url
from runstream.cli.terminal import Output, printable
from runstream.client import Client, Run
from runstream.errors import RunstreamError
from runstream.model import RunInfo, Status, StopAction


def take_input(args: argparse.Namespace) -> None:
    """Put the run's input in the place of the argument that says what it is."""
    args.input = read_input(args.input, args.command)


async def enqueue(args: argparse.Namespace, client: Client, output: Output) -> int:
    """Enqueue a run; follow it, or wait for its result, where that was asked for."""
    run = await client.enqueue(args.graph, args.input, **run_options(args))
    if args.follow or args.text:
        output.note(f"run {run.run_id}")
        return await follow(client, output, run.run_id, args)
    if args.result:
        output.note(f"run {run.run_id}")
        return await _show_result(client, output, run.run_id, args)
    if output.pretty:
        output.line(run.run_id)
        again = "" if run.is_new else " (it had been enqueued before)"
        output.note(f"enqueued{again}; follow it with: {_tail_command(run.run_id, args)}")
    else:
        output.json(_told(run))
    return Exit.OK


def _told(run: Run) -> dict[str, Any]:
    return {"run_id": run.run_id, "thread_id": run.thread_id, "graph": run.graph, "is_new": run.is_new}


def _tail_command(run_id: str, args: argparse.Namespace) -> str:
    # No --redis: its password is not to be shown again.
    return shlex.join(["runstream", "tail", run_id, *(["--namespace", args.namespace] if args.namespace else [])])


async def tail(args: argparse.Namespace, client: Client, output: Output) -> int:
    """Show the events of a run until its end."""
    return await follow(client, output, args.run_id, args)


async def result(args: argparse.Namespace, client: Client, output: Output) -> int:
    """Wait for a run and show what it returned."""
    return await _show_result(client, output, args.run_id, args)


async def _show_result(client: Client, output: Output, run_id: str, args: argparse.Namespace) -> int:
    async with telling_why_it_waits(client, output, run_id, args):
        value: Any = await client.result(run_id)
    if output.pretty:
        output.line(printable(json.dumps(value, ensure_ascii=False, indent=2)))
    else:
        output.json(value)
    return Exit.OK


async def stop(args: argparse.Namespace, client: Client, output: Output) -> int:
    """Ask that a run end."""
    action: StopAction = "rollback" if args.rollback else "interrupt"
    stopped = await client.stop(args.run_id, reason=args.reason, action=action)
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
    found = await client.runs(limit=_limit(args), status=Status(args.status) if args.status else None)
    nothing = "there are no runs" + (f" that are {args.status}" if args.status else "")
    return _list(found, output, RUN_HEAD, run_row, nothing)


async def dead(args: argparse.Namespace, client: Client, output: Output) -> int:
    """List the dead letters."""
    return _list(await client.dead(limit=_limit(args)), output, DEAD_HEAD, dead_row, "there are no dead letters")


def _limit(args: argparse.Namespace) -> int:
    if args.limit < 1:
        raise CommandError(f"--limit: {args.limit} must be a whole number over 0", Exit.USAGE)
    return int(args.limit)


def _list(
    found: Sequence[RunInfo],
    output: Output,
    head: Sequence[str],
    row: Callable[[RunInfo, datetime], list[str]],
    nothing: str,
) -> int:
    if not output.pretty:
        for info in found:
            output.line(info.model_dump_json())
    elif not found:
        output.note(nothing)
    else:
        now = datetime.now(UTC)
        for line in table([row(info, now) for info in found], head, output):
            output.line(line)
    return Exit.OK


async def requeue(args: argparse.Namespace, client: Client, output: Output) -> int:
    """Enqueue runs again; one that cannot be does not keep the others from it."""
    worst: int = Exit.OK
    for run_id in args.run_ids:
        try:
            run = await client.requeue(run_id)
        except RunstreamError as error:
            code, told = explain(error, redis_url(args))
            output.note(f"error: {told}")
            worst = worst or code
            continue
        if output.pretty:
            output.line(run.run_id)
            before = "" if run.is_new else " before"
            output.note(f"run {run_id} was requeued{before}; follow it with: {_tail_command(run.run_id, args)}")
        else:
            output.json({**_told(run), "requeued_from": run_id})
    return worst
