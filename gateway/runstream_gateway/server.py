"""The gateway as a process: one port, until a signal."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette

from runstream.cli.exits import CommandError, Exit
from runstream.tasks import cancel
from runstream_gateway.app import create_app
from runstream_gateway.compose import mounted, routes_of
from runstream_gateway.core import open_gateway
from runstream_gateway.loopback import Process
from runstream_gateway.project import Project
from runstream_gateway.protocol import protocol_with
from runstream_gateway.settings import GatewaySettings
from runstream_gateway.streaming import OpenStreams
from runstream_gateway.vanished import drop_vanished
from runstream_worker.graphs import GraphSource
from runstream_worker.signals import signals_to

_BACKLOG = 2048
_GRACE = 5
_LAST_PATIENCE = 10.0
_MOST_MESSAGE_BYTES = 4096


class _Server(uvicorn.Server):
    """Breaks its streams off when it is told to leave: their readers come back to another gateway, or the next."""

    def __init__(self, config: uvicorn.Config, streams: OpenStreams, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._streams = streams
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._streams.close()

    def transports(self) -> list[asyncio.Transport]:
        """The connections that there are."""
        return [connection.transport for connection in self.server_state.connections]


def run_loop(work: Coroutine[Any, Any, None]) -> None:
    """Run until it is done, in the faster event loop where there is one."""
    # Left to itself, a configuration sets up loggers of uvicorn's, which tell addresses.
    config = uvicorn.Config(run_loop, log_config=None)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(work)


async def serve(
    graphs: Mapping[str, GraphSource],
    settings: GatewaySettings,
    project: Project,
    *,
    host: str,
    port: int,
    on_ready: Callable[[str], None],
    process: Process | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        graphs: by name.
        settings: how the gateway behaves.
        project: what the project wants that it stands before.
        host: where it listens.
        port: where it listens; 0 for any that is free.
        on_ready: is told the URL when requests are served.
        process: what clients in this process call.

    Raises:
        CommandError: the port is taken, or the host is none of this machine's.
    """
    listening = _listen(host, port)
    url = _url(host, listening.getsockname()[1])
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(open_gateway(graphs, settings, auth=project.auth))
        process = Process() if process is None else process
        process.serve(create_app(gateway, disabled=project.disabled))  # the lifespan may call it, too
        state = None if project.app is None else await stack.enter_async_context(_lifespan(project.app))
        routes = routes_of(gateway, project, state)
        process.serve(routes)
        config = uvicorn.Config(
            mounted(routes, project.mount_prefix),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=_GRACE,
            http=protocol_with(settings.head_timeout),
            # Clients have nothing to send over a WebSocket. What is compressed costs each of them 300 KB.
            ws_max_size=_MOST_MESSAGE_BYTES,
            ws_max_queue=1,
            ws_per_message_deflate=False,
        )
        # It tells the addresses of WebSockets, in which tokens may be.
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        logging.getLogger("uvicorn.error").addFilter(_left_open)
        # uvicorn raises the signal again when it has served; the process must not end before the gateway is closed.
        with signals_to(lambda _: None, patience=_GRACE + _LAST_PATIENCE):
            server = _Server(config, gateway.streams, lambda: on_ready(url))
            watching = asyncio.create_task(
                drop_vanished(server.transports, settings.vanished_after), name="gateway-vanished"
            )
            try:
                await server.serve([listening])
            finally:
                await cancel([watching])


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[Mapping[str, Any]]:
    """The lifespan of a project's own application; what it gives for `request.state`."""
    async with AsyncExitStack() as stack:
        try:
            state = await stack.enter_async_context(app.router.lifespan_context(app))
        except Exception as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise CommandError(f"http.app: its lifespan has failed: {what}") from error
        yield state or {}


def _left_open(record: logging.LogRecord) -> bool:
    """Whether a line of uvicorn's is worth a reader: that streams are broken off when it leaves is no error."""
    return "without completing response" not in record.getMessage()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CommandError(f"--host {host}: {error.strerror or error}") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _notice_the_vanished(listening)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        told = f"cannot listen on {host}:{port}: {error.strerror or error}"
        raise CommandError(told, Exit.USAGE) from error
    listening.setblocking(False)
    return listening


def _notice_the_vanished(listening: socket.socket) -> None:
    """Have the system notice who goes while nothing is sent; `vanished` sees to the others. Connections inherit it."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        option = getattr(socket, name, None)
        if option is not None:
            listening.setsockopt(socket.IPPROTO_TCP, option, value)


def _url(host: str, port: int) -> str:
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host  # noqa: S104 - compared
    return f"http://{shown}:{port}"
