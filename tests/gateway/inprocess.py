"""A gateway in the test's own process, with a client of its API; workers only if the test starts some."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx

from runstream_gateway.app import create_app
from runstream_gateway.core import Gateway, open_gateway
from runstream_gateway.runs import Runs
from runstream_gateway.settings import GatewaySettings
from runstream_worker.graphs import graph_source


@dataclass(frozen=True)
class Here:
    """The gateway, and a client that calls it without a network."""

    gateway: Gateway
    http: httpx.AsyncClient

    async def thread(self) -> str:
        """A new thread; its id."""
        return str((await self.http.post("/threads", json={})).json()["thread_id"])


@asynccontextmanager
async def gateway_here(
    redis_url: str, namespace: str, *, forget_after: float | None = None, **graphs: object
) -> AsyncIterator[Here]:
    """Open a gateway with these graphs (compiled, or factories), by name."""
    sources = {name: graph_source(name, graph) for name, graph in graphs.items()}
    async with open_gateway(sources, GatewaySettings(redis_url=redis_url, namespace=namespace)) as opened:
        gateway = opened if forget_after is None else replace(opened, runs=_runs(opened, forget_after))
        transport = httpx.ASGITransport(create_app(gateway))
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway", timeout=30) as http:
                yield Here(gateway, http)
        finally:
            await gateway.runs.aclose()


def _runs(gateway: Gateway, forget_after: float) -> Runs:
    documents: Any = gateway.client.documents("thread", ttl=gateway.settings.thread_ttl)

    async def nobody_is_told(run_id: str) -> None:
        assert run_id

    return Runs(gateway.client, documents, gateway.states, nobody_is_told, show_errors=True, forget_after=forget_after)
