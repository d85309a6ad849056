"""The worker's commands of `runstream`: worker, dev, demo.

Every call of `runstream` imports this package, so it imports nothing of LangGraph; the commands do, when they run.
"""

from __future__ import annotations

import argparse
import math
import os
from importlib.util import find_spec

from runstream.cli.app import Commands
from runstream.cli.checks import port, with_extra
from runstream_worker.commands import demo, dev, worker

_NEEDED = ("arq", "langgraph", "langchain", "langchain_openai", "orjson", "watchfiles")
_NEEDED_BY_GATEWAY = ("runstream_gateway", "fastapi", "uvicorn")
_FOREVER = 1e9


def register(commands: Commands) -> None:
    """Add the commands; the entry point of `runstream.commands`."""
    _add_demo(commands)
    _add_dev(commands)
    _add_worker(commands)


def _add_demo(commands: Commands) -> None:
    parser = commands.add(
        "demo",
        with_extra(demo.run, "worker", _NEEDED),
        about="see it work: Redis, a worker process, and two readers of one run",
        example='runstream demo\nrunstream demo --kill\nrunstream demo --prompt "What is 6 * 7?"',
        helps={
            "redis": "of Redis; else an embedded one, whatever RUNSTREAM_REDIS_URL says",
            "namespace": "else one of its own, that no other worker shares",
            "json": "a line of JSON in place of the story",
        },
    )
    parser.add_argument("--prompt", metavar="TEXT", help="what to ask the agent")
    parser.add_argument(
        "--kill",
        action="store_true",
        help="two workers; kill -9 for the one at work, in the middle of a sentence, and the other one goes on",
    )


def _add_dev(commands: Commands) -> None:
    parser = commands.add(
        "dev",
        with_extra(dev.run, "worker", _NEEDED),
        about="develop: a worker and the HTTP API, which reload when a file changes; and Redis, unless one is named",
        example="runstream dev my_agent.py:graph\nrunstream dev      # in the folder of a langgraph.json",
        helps={"redis": "of Redis; else RUNSTREAM_REDIS_URL, else an embedded one"},
    )
    _add_worker_options(parser, grace=5.0)
    parser.add_argument(
        "--data",
        type=_not_empty,
        metavar="DIR",
        help="keep threads and runs in this folder for the next time; else they end with the session",
    )
    parser.add_argument("--no-gateway", action="store_true", default=not has_gateway(), help="no HTTP API")
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help="where the HTTP API listens (127.0.0.1)")
    parser.add_argument("--port", type=port, metavar="P", help="2024, or another if that is taken")


def _add_worker(commands: Commands) -> None:
    parser = commands.add(
        "worker",
        with_extra(worker.run, "worker", _NEEDED),
        about="run graphs: claim runs, stream them, until SIGTERM; then drain",
        example="""
runstream worker
runstream worker my_agent.py:graph --concurrency 50 --processes 2
runstream worker support=agents.support:graph sales=agents.sales:graph --redis redis://redis:6379/0""",
        helps={"json": "a line of JSON for each worker that is ready"},
    )
    _add_worker_options(parser, grace=20.0)
    parser.add_argument("--processes", type=_count, default=1, metavar="N", help="how many, each with N slots (1)")
    parser.add_argument("--check", action="store_true", help="exit 0 if a worker of this host is alive, else 1")
    parser.add_argument("--supervised-by", type=int, help=argparse.SUPPRESS)


def _add_worker_options(parser: argparse.ArgumentParser, *, grace: float) -> None:
    parser.add_argument(
        "targets",
        metavar="[NAME=]TARGET",
        nargs="*",
        type=_not_empty,
        help="module:attr, path/file.py:attr or langgraph.json; without any, the default agent as 'agent'",
    )
    parser.add_argument("--config", type=_not_empty, metavar="FILE", help="a langgraph.json, as a target")
    parser.add_argument("--concurrency", type=_count, default=25, metavar="N", help="runs at a time, per process (25)")
    parser.add_argument(
        "--checkpointer",
        type=_not_empty,
        metavar="URL",
        default=os.environ.get("RUNSTREAM_CHECKPOINTER") or None,
        help="redis, sqlite:///FILE, postgresql://..., memory:// or none; else RUNSTREAM_CHECKPOINTER, else redis",
    )
    parser.add_argument(
        "--keep-checkpointer", action="store_true", help="graphs keep the checkpointer that they were compiled with"
    )
    parser.add_argument(
        "--restartable",
        action="append",
        type=_not_empty,
        default=[],
        metavar="NAME",
        help="a graph whose runs may start over where they have no checkpoints to go on from (repeatable)",
    )
    parser.add_argument("--strict-json", action="store_true", help="a value that has no JSON form ends its run")
    parser.add_argument(
        "--checkpoint-patience",
        type=_seconds_over_0,
        default=30.0,
        metavar="S",
        help="for how long a checkpoints' database that is away is asked again before a run is given back (30)",
    )
    parser.add_argument(
        "--max-faults", type=_count, default=100, metavar="N", help="how often a run may be given back for that (100)"
    )
    parser.add_argument("--run-timeout", type=_seconds_over_0, metavar="S", help="what an attempt may take")
    parser.add_argument(
        "--shutdown-grace", type=_seconds, default=grace, metavar="S", help=f"for steps to end in ({grace:g})"
    )
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info", metavar="LEVEL")


def has_gateway() -> bool:
    """Whether the HTTP API is installed."""
    return all(find_spec(name) is not None for name in _NEEDED_BY_GATEWAY)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number over 0")
    return int(text)


def _seconds(text: str) -> float:
    seconds = _number(text)
    if not 0 <= seconds < _FOREVER:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of seconds, 0 or more")
    return seconds


def _seconds_over_0(text: str) -> float:
    seconds = _number(text)
    if not 0 < seconds < _FOREVER:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of seconds over 0")
    return seconds


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan  # is in no range


def _not_empty(text: str) -> str:
    """Refuses what a variable of the shell leaves that is not set: it must not stand for something else."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is empty; was it meant to be a variable of the shell?")
    return text
