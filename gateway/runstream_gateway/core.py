"""The gateway: what all requests of a process share. It holds no run, so any gateway serves any of them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from runstream import Client, ClientSettings
from runstream_gateway.assistants import ASSISTANT_TTL, Assistants
from runstream_gateway.runs import Runs
from runstream_gateway.settings import GatewaySettings
from runstream_gateway.states import States
from runstream_gateway.streaming import OpenStreams
from runstream_gateway.threads import Threads
from runstream_worker.checkpoints import open_checkpointer
from runstream_worker.graphs import GraphSource

logger = logging.getLogger("runstream.gateway")


@dataclass(frozen=True)
class Gateway:
    """One gateway process.

    Attributes:
        settings: how it behaves.
        client: producer and consumer of all runs.
        graphs: those that it can show the state of, by name.
        states, threads, runs, assistants: what it serves.
        streams: those that are open in this process.
    """

    settings: GatewaySettings
    client: Client
    graphs: Mapping[str, GraphSource]
    states: States
    threads: Threads
    runs: Runs
    assistants: Assistants
    streams: OpenStreams = field(default_factory=OpenStreams)


@asynccontextmanager
async def open_gateway(graphs: Mapping[str, GraphSource], settings: GatewaySettings) -> AsyncIterator[Gateway]:
    """A gateway for as long as the block lasts.

    Args:
        graphs: by name, as `runstream_worker.graphs.load_graphs` gives them.
        settings: how it behaves.

    Raises:
        InvalidRequest: a setting is out of its range.
        CheckpointerError: the checkpoints' database cannot be used.
    """
    async with AsyncExitStack() as stack:
        client_settings = ClientSettings(namespace=settings.namespace, max_request_bytes=settings.max_body_bytes)
        client = await stack.enter_async_context(Client(settings.redis_url, settings=client_settings))
        saver = await stack.enter_async_context(
            open_checkpointer(
                settings.checkpointer_url or "redis",
                runs_url=settings.redis_url,
                namespace=settings.namespace,
                ttl=settings.thread_ttl,
            )
        )
        states = States(graphs, saver, keep_own=settings.checkpointer_url is None)
        documents = client.documents("thread", ttl=settings.thread_ttl)
        threads = Threads(client, documents, states, show_errors=settings.show_errors)
        runs = Runs(client, documents, states, show_errors=settings.show_errors)
        stack.push_async_callback(runs.aclose)
        assistants = Assistants(client.documents("assistant", ttl=ASSISTANT_TTL), graphs)
        yield Gateway(settings, client, graphs, states, threads, runs, assistants)
