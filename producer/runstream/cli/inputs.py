"""From what was typed to what is enqueued."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from runstream.command import Command
from runstream.errors import InvalidRequest

_COMMAND_KEYS = ("resume", "update", "goto")


def read_input(text: str | None, command: str | None) -> Any:
    """The input of a run.

    Args:
        text: a JSON object, array or null; `-` for the same from standard input; any other text is a user's message.
        command: a `Command` as JSON, in place of an input.

    Raises:
        InvalidRequest: both or neither were given, or one is not JSON where it has to be.
    """
    if (text is None) == (command is None):
        raise InvalidRequest(
            "INPUT", "give an input or --command, one of them; null goes on from the thread's last checkpoint"
        )
    if command is not None:
        return read_command(command)
    return _message_or_json(sys.stdin.read() if text == "-" else text or "")


def _message_or_json(text: str) -> Any:
    stripped = text.strip()
    if stripped == "null":
        return None
    if stripped.startswith(("{", "[")):
        return read_json("INPUT", stripped)
    if not stripped:
        raise InvalidRequest("INPUT", "it is empty; give a JSON object, or text for the user's message")
    return {"messages": [{"role": "user", "content": text}]}


def read_command(text: str) -> Command:
    """LangGraph's `Command` from an object of resume, update and goto."""
    given = read_object("--command", text)
    unknown = [key for key in given if key not in _COMMAND_KEYS]
    if unknown or not given:
        raise InvalidRequest("--command", f"{text} must be an object of {', '.join(_COMMAND_KEYS)}")
    return Command(**given)


def read_json(field: str, text: str) -> Any:
    """A JSON value.

    Raises:
        InvalidRequest: the text is none; the message tells where.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        around = text[max(error.pos - 10, 0) : error.pos + 10]
        raise InvalidRequest(field, f"no JSON: {error.msg} at character {error.pos + 1}, near {around!r}") from None


def read_object(field: str, text: str) -> Mapping[str, Any]:
    """A JSON object."""
    value = read_json(field, text)
    if not isinstance(value, dict):
        raise InvalidRequest(field, f"{text} must be a JSON object")
    return value


def run_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `Client.enqueue` that were given."""
    options = {
        "thread_id": args.thread,
        "run_id": args.run_id,
        "idempotency_key": args.idempotency_key,
        "stream_mode": args.mode or ("messages" if args.text else None),
        "config": None if args.config is None else read_object("--config", args.config),
        "context": None if args.context is None else read_json("--context", args.context),
        "metadata": None if args.metadata is None else read_object("--metadata", args.metadata),
        "delay": args.delay,
        "start_at": None if args.start_at is None else _time(args.start_at),
        "retention": args.retention,
        "continues": args.continues,
        "version": args.stream_version,
        "print_mode": args.print_mode,
        "debug": args.debug or None,
        "timeout": args.timeout,
        "start_within": args.start_within,
        "multitask_strategy": args.multitask_strategy,
        "max_attempts": args.max_attempts,
        "restartable": args.restartable or None,
        "strict_json": args.strict_json,
        "durability": args.durability,
        "subgraphs": args.subgraphs or None,
        "interrupt_before": _nodes(args.interrupt_before),
        "interrupt_after": _nodes(args.interrupt_after),
        "output_keys": _keys(args.output_keys),
    }
    return {name: value for name, value in options.items() if value is not None}


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        like = "2026-01-31T09:00:00+01:00"
        raise InvalidRequest("--start-at", f"{text!r} must be a date and time with its offset from UTC, such as {like}")
    return time


def _nodes(given: list[str] | None) -> list[str] | str | None:
    return "*" if given == ["*"] else given


def _keys(given: list[str] | None) -> list[str] | str | None:
    """One key alone gives its value, several give an object: as in `astream`."""
    return given[0] if given is not None and len(given) == 1 else given
