"""A gateway of a test's own, with its worker and its Redis, for tests that do not speak LangGraph's clients."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from redis import Redis
from tests.gateway.conftest import GRAPHS
from tests.support.processes import Processes, Running
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

from runstream.keys import Keys

NAMESPACE = "served"
_KEYS = Keys(NAMESPACE)


@dataclass(frozen=True)
class Served:
    """A gateway that answers."""

    url: str
    redis_url: str
    process: Running
    processes: Processes

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.url.rpartition(":")[2])

    def written(self) -> dict[str, int]:
        """How many runs, threads and assistants there are."""
        with Redis.from_url(self.redis_url) as redis:
            return {
                "runs": _count(redis, _KEYS.runs),
                "threads": _count(redis, _KEYS.documents("thread")),
                "assistants": _count(redis, _KEYS.documents("assistant")),
            }


def _count(redis: Redis, key: str) -> int:
    count = redis.zcard(key)
    assert isinstance(count, int)
    return count


@asynccontextmanager
async def served(*arguments: str, worker: bool = True, config: Path = GRAPHS) -> AsyncIterator[Served]:
    """Start Redis, a worker and a gateway, as an operator starts them.

    Args:
        arguments: the gateway's further ones.
        worker: whether there is a worker.
        config: the project's `langgraph.json`.
    """
    with tempfile.TemporaryDirectory() as folder:
        async with (
            RedisServer(Path(folder), fsync="no") as redis,
            Processes(redis.url, NAMESPACE, Path(folder)) as processes,
        ):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = str(probe.getsockname()[1])
            if worker:
                called = {"RUNSTREAM_GATEWAY_URL": f"http://127.0.0.1:{port}"}
                await processes.worker("--config", str(config), environment=called)
            process = await processes.start(
                "gateway", "--config", str(config), "--host", "127.0.0.1", "--port", port, *arguments
            )
            gateway = Served(f"http://127.0.0.1:{port}", redis.url, process, processes)
            await until(lambda: _answers(gateway), "the gateway answers", timeout=60)
            yield gateway


async def _answers(gateway: Served) -> bool:
    assert not gateway.process.has_ended, gateway.process.err
    try:
        async with httpx.AsyncClient() as client:
            return (await client.get(f"{gateway.url}/ok")).is_success
    except httpx.TransportError:
        return False


@contextmanager
def served_beside(*arguments: str, config: Path = GRAPHS) -> Iterator[Served]:
    """The same for tests that are not asynchronous."""
    with asyncio.Runner() as runner:
        gateway = served(*arguments, config=config)
        yield runner.run(gateway.__aenter__())
        runner.run(gateway.__aexit__(None, None, None))


async def check_it_still_serves(gateway: Served) -> None:
    """Have a whole conversation: a thread, two turns of it, one of them streamed, and its state."""
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as http:
        thread = (await http.post("/threads", json={})).json()["thread_id"]
        first = await http.post(f"/threads/{thread}/runs/wait", json=turn("one"))
        assert first.json()["messages"][-1]["content"] == "You said: one"
        async with http.stream("POST", f"/threads/{thread}/runs/stream", json=turn("two")) as stream:
            text = (await stream.aread()).decode()
        assert text.rstrip().endswith("data:") or "event: end" in text
        state = (await http.get(f"/threads/{thread}/state")).json()
        said = [message["content"] for message in state["values"]["messages"]]
        assert said == ["one", "You said: one", "two", "You said: two"]


def turn(text: str) -> dict[str, Any]:
    """A turn of a conversation with the graph `chat`."""
    return {"assistant_id": "chat", "input": {"messages": [{"role": "user", "content": text}]}}
