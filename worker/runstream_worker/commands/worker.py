"""`runstream worker`: one worker in this process, or a supervisor of several."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from redis.exceptions import RedisError

from runstream.cli.exits import CommandError, Exit, explain
from runstream.cli.session import namespace, redis_url
from runstream.cli.terminal import Output
from runstream.client import Client
from runstream.connection import connect
from runstream.redaction import RedactingFormatter, redact_url
from runstream.settings import NAMESPACE_VARIABLE, REDIS_URL_VARIABLE, ClientSettings
from runstream_worker.langgraph_json import ConfiguredCheckpointer
from runstream_worker.settings import WorkerSettings
from runstream_worker.supervisor import Parent, Ready, Supervisor, WorkerCommand

if TYPE_CHECKING:
    from runstream_worker.graphs import GraphSource

_ALIVE_WITHIN = 10.0
"""A worker beats once a second; one that has not for this many seconds is not well."""
_LOG_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"
_LOUD = ("arq", "httpx", "watchfiles")

_logger = logging.getLogger("runstream.worker")


def run(args: argparse.Namespace) -> int:
    """Work until SIGTERM or SIGINT."""
    if args.check:
        return asyncio.run(_check(args))
    # Before LangGraph is imported: of what a checkpoint names, it makes only classes that it knows or that the graph's
    # state has. Otherwise whoever can write to Redis could have any class imported and called.
    os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")
    set_up_logging(args.log_level)
    output = Output(pretty=not args.json, optional=True)
    if args.processes > 1:
        supervisor = Supervisor(command_of(args), args.processes, lambda ready: _announce(ready, output))
        return asyncio.run(supervisor.run())
    parent = Parent(args.supervised_by) if args.supervised_by is not None else None
    if parent is not None:
        parent.watch(args.shutdown_grace)
    asyncio.run(reach_redis(redis_url(args)))
    _install_loopback()
    return _work(load(args), args, output, parent)


def _install_loopback() -> None:
    """Answer `get_client()` without a URL; before the graphs are imported, which may call it."""
    from runstream_worker.loopback import install, to_gateway_of_environment  # noqa: PLC0415 - imports the SDK

    install(to_gateway_of_environment)


def _work(graphs: Mapping[str, GraphSource], args: argparse.Namespace, output: Output, parent: Parent | None) -> int:
    from runstream_worker.app import serve_process  # noqa: PLC0415 - imports arq
    from runstream_worker.collector import tune_collector  # noqa: PLC0415 - with the graphs
    from runstream_worker.unloaded import loaded  # noqa: PLC0415 - imports langgraph

    unknown = sorted(set(args.restartable) - set(graphs))
    if unknown:
        raise CommandError(f"--restartable: there is no graph {unknown[0]!r}; there is {', '.join(graphs)}", Exit.USAGE)
    configured = checkpointer_of(graphs)
    settings = WorkerSettings(
        redis_url=redis_url(args),
        namespace=namespace(args),
        concurrency=args.concurrency,
        checkpointer_url=args.checkpointer or configured.location,
        keep_checkpointer=args.keep_checkpointer,
        checkpoint_ttl=configured.ttl or WorkerSettings.checkpoint_ttl,
        checkpoint_patience=args.checkpoint_patience,
        max_faults=args.max_faults,
        checkpoint_classes=checkpoint_classes(configured),
        restartable=frozenset(args.restartable),
        strict_json=args.strict_json,
        run_timeout=args.run_timeout,
        shutdown_grace=args.shutdown_grace,
    )

    log_notes(graphs, settings.checkpointer_url, keep=settings.keeps_own)

    async def tell(ctx: dict[Any, Any]) -> None:
        ready = Ready(ctx["runner"].worker_id, tuple(loaded(graphs)), settings.concurrency)
        if parent is None:
            _announce(ready, output)
        else:
            parent.tell(ready)

    tune_collector()
    asyncio.run(serve_process(graphs, settings, on_startup=tell))
    return Exit.OK


def load(args: argparse.Namespace, *, warns: bool = True) -> Mapping[str, GraphSource]:
    """The graphs that were named, or the default agent.

    Args:
        args: of the command line.
        warns: whether to log what of a `langgraph.json` has no effect.

    Raises:
        GraphLoadError: one of them cannot be loaded.
    """
    from runstream_worker.graphs import graph_source, load_graphs  # noqa: PLC0415 - imports langgraph

    for target in args.targets:
        if "://" in target:
            raise CommandError(
                f"{redact_url(target)!r} is a URL and no target; --redis takes that of Redis", Exit.USAGE
            )
    if args.targets or args.config:
        loaded = load_graphs(args.targets, config_file=Path(args.config) if args.config else None)
        for warning in loaded.warnings if warns else ():
            _logger.warning("%s", warning)
        for name, problem in loaded.problems.items():
            _logger.error("graph %r cannot be loaded, and the others are served without it: %s", name, problem)
        return loaded
    from runstream_worker.default_agent import default_agent  # noqa: PLC0415 - imports langchain

    model = "the model that OPENAI_API_KEY opens" if os.environ.get("OPENAI_API_KEY") else "the offline model"
    _logger.info("no target was given: running the default agent as 'agent', on %s", model)
    return {"agent": graph_source("agent", default_agent(), location="runstream's default agent")}


def log_notes(graphs: Mapping[str, GraphSource], checkpointer: str | None, *, keep: bool) -> None:
    """Log what an operator should know of what the graphs keep and need."""
    from runstream_worker.persistence import notes  # noqa: PLC0415 - imports langgraph

    for note in notes(graphs, checkpointer=checkpointer, keep=keep):
        _logger.warning("%s", note)


def checkpointer_of(graphs: Mapping[str, GraphSource]) -> ConfiguredCheckpointer:
    """The checkpointer of the project that the graphs come from; the first one's where there are several."""
    from runstream_worker.graphs import LoadedGraphs  # noqa: PLC0415 - imports langgraph

    projects = graphs.projects if isinstance(graphs, LoadedGraphs) else ()
    return projects[0].checkpointer if projects else ConfiguredCheckpointer()


def checkpoint_classes(configured: ConfiguredCheckpointer) -> tuple[str, ...]:
    """The classes of which checkpoints may hold objects: the project's, and those of RUNSTREAM_CHECKPOINT_CLASSES."""
    named = os.environ.get("RUNSTREAM_CHECKPOINT_CLASSES", "").split(",")
    return (*configured.classes, *(one.strip() for one in named if one.strip()))


def command_of(args: argparse.Namespace) -> WorkerCommand:
    """The command of one worker process with the same options."""
    arguments = [
        f"--concurrency={args.concurrency}",
        f"--shutdown-grace={args.shutdown_grace}",
        f"--log-level={args.log_level}",
        f"--checkpoint-patience={args.checkpoint_patience}",
        f"--max-faults={args.max_faults}",
    ]
    arguments += [f"--restartable={name}" for name in args.restartable]
    if args.strict_json:
        arguments.append("--strict-json")
    if args.run_timeout is not None:
        arguments.append(f"--run-timeout={args.run_timeout}")
    if args.config is not None:
        arguments.append(f"--config={args.config}")
    if args.keep_checkpointer:
        arguments.append("--keep-checkpointer")
    environment = {REDIS_URL_VARIABLE: redis_url(args), NAMESPACE_VARIABLE: namespace(args)}
    if args.checkpointer is not None:
        environment["RUNSTREAM_CHECKPOINTER"] = args.checkpointer
    return WorkerCommand([*arguments, "--", *args.targets], environment)


def set_up_logging(level: str) -> None:
    """Log to standard error; what only echoes what others do is left out, unless everything is wanted."""
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter(_LOG_FORMAT))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    if level != "debug":
        for name in _LOUD:
            logging.getLogger(name).setLevel(logging.WARNING)


def _announce(ready: Ready, output: Output) -> None:
    if output.pretty:
        output.line(f"worker {ready.worker} is ready: {', '.join(ready.graphs)}; {ready.slots} slots")
    else:
        output.line(ready.to_json())


async def reach_redis(url: str) -> None:
    """Fail at once, rather than behind the import of the graphs."""
    async with aclosing(connect(url, connections=1)) as redis:
        await cast("Any", redis.ping())


async def _check(args: argparse.Namespace) -> int:
    """Whether a worker of this host is alive; for health checks, which know good and bad only."""
    host, url = socket.gethostname(), redis_url(args)
    try:
        async with Client(url, settings=ClientSettings(namespace=namespace(args))) as client:
            workers = await client.workers()
        async with aclosing(connect(url, connections=1)) as redis:
            now = (await cast("Any", redis.time()))[0]
    except RedisError as error:
        raise CommandError(explain(error, url)[1]) from error
    beats = [now - worker.beat_at.timestamp() for worker in workers if worker.host == host]
    if not beats or min(beats) > _ALIVE_WITHIN:
        told = f"the last beat of one was {min(beats):.0f} s ago" if beats else "none has said anything"
        raise CommandError(f"no worker of host {host} is alive: {told}")
    Output(pretty=not args.json).note(f"workers of host {host} that are alive: {len(beats)}")
    return Exit.OK
