"""`runstream gateway`: the HTTP API, until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
from collections.abc import Mapping

from runstream.cli.exits import Exit
from runstream.cli.session import namespace, redis_url
from runstream.cli.terminal import Output
from runstream_worker.commands.worker import (
    checkpoint_classes,
    checkpointer_of,
    load,
    log_notes,
    reach_redis,
    set_up_logging,
)
from runstream_worker.supervisor import Parent

_logger = logging.getLogger("runstream.gateway")


def run(args: argparse.Namespace) -> int:
    """Serve."""
    # As a worker has it, and for the same reason: before LangGraph is imported.
    os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")
    set_up_logging(args.log_level)
    parent = Parent(args.supervised_by) if args.supervised_by is not None else None
    if parent is not None:
        parent.watch(0.0)
    asyncio.run(reach_redis(redis_url(args)))
    return _serve(args, Output.choose(as_json=args.json, optional=True), parent)


def _serve(args: argparse.Namespace, output: Output, parent: Parent | None) -> int:
    from runstream_gateway.loopback import Process  # noqa: PLC0415 - imports the framework
    from runstream_gateway.project import Project, read_project  # noqa: PLC0415 - imports the framework
    from runstream_gateway.server import run_loop, serve  # noqa: PLC0415 - imports the framework
    from runstream_gateway.settings import DEFAULT_THREAD_TTL, GatewaySettings  # noqa: PLC0415 - with the others
    from runstream_worker.collector import tune_collector  # noqa: PLC0415 - with the graphs
    from runstream_worker.graphs import LoadedGraphs  # noqa: PLC0415 - imports langgraph
    from runstream_worker.loopback import install  # noqa: PLC0415 - imports the SDK
    from runstream_worker.unloaded import loaded  # noqa: PLC0415 - imports langgraph

    process = Process()
    install(process.transport)  # before the graphs are imported, which may make clients
    # A gateway of `runstream dev` stands beside a worker that has warned of the same file.
    graphs = load(args, warns=args.supervised_by is None)
    projects = graphs.projects if isinstance(graphs, LoadedGraphs) else ()
    project = read_project(projects[0]) if projects else Project()
    for warning in project.warnings:
        _logger.warning("%s", warning)
    for other in projects[1:]:
        _logger.warning("%s: its 'auth', 'http' and 'checkpointer' have no effect: those of the first do", other.path)
    configured = checkpointer_of(graphs)
    settings = GatewaySettings(
        redis_url=redis_url(args),
        namespace=namespace(args),
        checkpointer_url=args.checkpointer or configured.location,
        keep_checkpointer=args.keep_checkpointer,
        checkpoint_patience=args.checkpoint_patience,
        thread_ttl=configured.ttl or DEFAULT_THREAD_TTL,
        checkpoint_classes=checkpoint_classes(configured),
        head_timeout=args.head_timeout,
        body_timeout=args.body_timeout,
        show_errors=args.show_errors,
        api_keys=args.api_keys,
        token_secret=os.environ.get("RUNSTREAM_TOKEN_SECRET") or None,
        headers=project.headers,
        cors=project.cors,
        webhooks="webhooks" not in project.disabled,
        webhook_allow=_webhook_allow(args),
        limits=dict(args.limit),
        webhook_secret=os.environ.get("RUNSTREAM_WEBHOOK_SECRET") or None,
    )

    log_notes(graphs, settings.checkpointer_url, keep=settings.keeps_own)

    def tell(url: str) -> None:
        _announce({"ready": True, "url": f"{url}{project.mount_prefix}", "graphs": loaded(graphs)}, output, parent)

    tune_collector()
    run_loop(serve(graphs, settings, project, host=args.host, port=args.port, on_ready=tell, process=process))
    return Exit.OK


def _webhook_allow(args: argparse.Namespace) -> tuple[str, ...]:
    known = os.environ.get("RUNSTREAM_WEBHOOK_ALLOW", "").split(",")
    return tuple(args.webhook_allow) or tuple(one.strip() for one in known if one.strip())


def _announce(ready: Mapping[str, object], output: Output, parent: Parent | None) -> None:
    if parent is not None:
        parent.tell_line(json.dumps(ready))
    elif output.pretty:
        output.line(f"gateway is ready at {ready['url']}")
    else:
        output.json(ready)
