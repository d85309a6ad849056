"""The gateway's commands of `runstream`. Every call of `runstream` imports this package, so it imports no framework."""

from __future__ import annotations

import argparse
import os

from runstream.cli.app import Commands
from runstream.cli.checks import port, with_extra
from runstream_gateway.commands import keys

_NEEDED = ("fastapi", "uvicorn", "langgraph", "langgraph_sdk", "httpx", "orjson")


def register(commands: Commands) -> None:
    """Add the commands; the entry point of `runstream.commands`."""
    _add_gateway(commands)
    keys.add(commands)


def _gateway(args: argparse.Namespace) -> int:
    from runstream_gateway.commands.gateway import run  # noqa: PLC0415 - imports the framework

    return run(args)


def _add_gateway(commands: Commands) -> None:
    parser = commands.add(
        "gateway",
        with_extra(_gateway, "gateway", _NEEDED),
        about="serve LangGraph's HTTP API in front of the runs, until SIGTERM",
        example="""
runstream gateway my_agent.py:graph --port 2024
runstream gateway --config langgraph.json --redis redis://redis:6379/0 --host 0.0.0.0""",
        helps={"json": "a line of JSON when it is ready"},
    )
    parser.add_argument(
        "targets",
        metavar="[NAME=]TARGET",
        nargs="*",
        help="module:attr, path/file.py:attr or langgraph.json, as the workers have them; else the default agent",
    )
    parser.add_argument("--config", metavar="FILE", help="a langgraph.json, as a target")
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help="where it listens (127.0.0.1)")
    parser.add_argument("--port", type=port, default=2024, metavar="P", help="0 for any that is free (2024)")
    parser.add_argument(
        "--checkpointer",
        metavar="URL",
        default=os.environ.get("RUNSTREAM_CHECKPOINTER") or None,
        help="as the workers have it; else RUNSTREAM_CHECKPOINTER, else redis",
    )
    parser.add_argument("--keep-checkpointer", action="store_true", help="as the workers have it")
    parser.add_argument(
        "--checkpoint-patience",
        type=_seconds,
        default=10.0,
        metavar="S",
        help="for how long a request waits for a checkpoints' database that is away (10)",
    )
    parser.add_argument("--api-keys", action="store_true", help="callers need a key: `runstream keys create NAME`")
    parser.add_argument("--show-errors", action="store_true", help="tell clients the messages of all exceptions")
    for name, what, default in (("head", "the first line and the headers", 10), ("body", "the body", 30)):
        parser.add_argument(
            f"--{name}-timeout",
            type=_seconds,
            default=default,
            metavar="S",
            help=f"seconds that {what} of a request may take to arrive ({default})",
        )
    parser.add_argument("--supervised-by", type=int, help=argparse.SUPPRESS)
    parser.add_argument(
        "--webhook-allow",
        action="append",
        default=[],
        metavar="HOST_OR_NETWORK",
        help="a host, address or network that webhooks may go to although it is not public; may be repeated; "
        "else RUNSTREAM_WEBHOOK_ALLOW, with commas",
    )
    parser.add_argument(
        "--limit",
        action="append",
        type=keys.limit,
        default=[],
        metavar="NAME=N",
        help="what callers may do or keep who have no limit of their own, such as stored_bytes=1073741824 or "
        "threads=none; may be repeated; the names are those of `runstream keys create`",
    )
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info", metavar="LEVEL")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of seconds over 0")
    return seconds
