"""`runstream gateway`: the HTTP API, until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import asyncio

from runstream.cli.exits import Exit
from runstream.cli.session import namespace, redis_url
from runstream.cli.terminal import Output
from runstream_gateway.server import serve
from runstream_gateway.settings import GatewaySettings
from runstream_worker.commands.worker import load, set_up_logging


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

    def tell(url: str) -> None:
        if output.pretty:
            output.line(f"gateway is ready at {url}: {', '.join(graphs)}")
        else:
            output.json({"ready": True, "url": url, "graphs": list(graphs)})

    asyncio.run(serve(graphs, settings, host=args.host, port=args.port, on_ready=tell))
    return Exit.OK
