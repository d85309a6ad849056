"""What calls the deployment that it is in by `get_client()`, without a URL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypedDict

from fastapi import FastAPI
from langgraph.graph import START, StateGraph
from langgraph_sdk import get_client
from langgraph_sdk.errors import APIStatusError

made_at_import = get_client()
found_at_start: list[str] = []


class Called(TypedDict, total=False):
    results: Any


async def call(_: Called) -> Called:
    """Run another graph, by a client of the module's and by one of the node's."""
    return {"results": [await _run(made_at_import), await _run(get_client())]}


async def _run(client: Any) -> Any:
    thread = await client.threads.create()
    await client.runs.wait(thread["thread_id"], "private", input={})
    pieces = client.runs.stream(thread["thread_id"], "private", input={}, stream_mode="updates")
    return [part.event async for part in pieces]


_builder: Any = StateGraph(Called)
graph = _builder.add_node("call", call).add_edge(START, "call").compile()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    found_at_start.extend(one["graph_id"] for one in await get_client().assistants.search(limit=100))
    yield


app = FastAPI(lifespan=lifespan)


@app.get("/calls")
async def calls() -> dict[str, Any]:
    return {"results": [await _run(made_at_import), await _run(get_client())], "found": sorted(found_at_start)}


@app.get("/calls/thread")
def calls_in_a_thread() -> Any:
    """A synchronous route has no loop; its client runs in one of its own."""
    return asyncio.run(_run(get_client()))


@app.get("/calls/leave")
async def leave() -> Any:
    """Stop reading a stream before its end."""
    client = get_client()
    async for part in client.runs.stream(None, "private", input={}, stream_mode="updates"):
        return part.event
    return None


@app.get("/calls/refused")
async def refused() -> Any:
    try:
        return await get_client().threads.get("nothing")
    except APIStatusError as error:
        return error.status_code
