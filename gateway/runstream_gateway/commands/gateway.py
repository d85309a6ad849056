"""`runstream gateway`: the HTTP API, until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import json

from runstream.cli.exits import Exit
from runstream.cli.session import namespace, redis_url
from runstream.cli.terminal import Output
from runstream_gateway.server import serve
from runstream_gateway.settings import GatewaySettings
from runstream_worker.commands.worker import load, set_up_logging
from runstream_worker.supervisor import Parent


def run(args: argparse.Namespace) -> int:
    """Serve."""
    set_up_logging(args.log_level)
    output = Output.choose(as_json=args.json)
    graphs = load(args)
    settings = GatewaySettings(
        redis_url=redis_url(args),
        namespace=namespace(args),
        checkpointer_url=args.checkpointer,
        show_errors=args.show_errors,
    )

    parent = Parent(args.supervised_by) if args.supervised_by is not None else None
    if parent is not None:
        parent.watch(0.0)

    def tell(url: str) -> None:
        ready = {"ready": True, "url": url, "graphs": list(graphs)}
        if parent is not None:
            parent.tell_line(json.dumps(ready))
        elif output.pretty:
            output.line(f"gateway is ready at {url}: {', '.join(graphs)}")
        else:
            output.json(ready)

    asyncio.run(serve(graphs, settings, host=args.host, port=args.port, on_ready=tell))
    return Exit.OK
