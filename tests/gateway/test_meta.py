"""Whether the service is well, and what it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypedDict

import httpx
import pytest
from langgraph.graph import START, StateGraph
from langgraph.version import __version__ as langgraph_version
from langgraph_sdk import Auth
from tests.support.proxy import Proxy
from tests.support.workers import Workers

from runstream import __version__
from runstream_gateway.app import create_app
from runstream_gateway.core import open_gateway
from runstream_gateway.settings import GatewaySettings
from runstream_worker.graphs import graph_source


class Count(TypedDict):
    count: int


def plain() -> Any:
    def add(state: Count) -> Count:
        return {"count": state["count"] + 1}

    return StateGraph(Count).add_node("add", add).add_edge(START, "add").compile()


def closed() -> Auth:
    """Nobody may do anything."""
    auth = Auth()

    @auth.authenticate
    async def who() -> str:
        raise Auth.exceptions.HTTPException(status_code=401, detail="no")

    return auth


@asynccontextmanager
async def serving(url: str, namespace: str, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    settings = GatewaySettings(redis_url=url, namespace=namespace, **options)
    async with open_gateway({"agent": graph_source("agent", plain())}, settings, auth=closed()) as gateway:
        transport = httpx.ASGITransport(create_app(gateway))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            yield http


async def test_a_gateway_without_workers_is_well_and_says_that_runs_wait(redis_url: str, namespace: str) -> None:
    async with serving(redis_url, namespace) as http:
        for query in ("", "?check_db=1", "?check_db=true"):
            response = await http.get(f"/ok{query}")
            assert response.status_code == 200
            assert response.json() == {
                "ok": True,
                "redis": {"ok": True, "needed_for": "everything"},
                "checkpointer": {"ok": True, "needed_for": "the state of threads"},
                "workers": {
                    "ok": False,
                    "detail": "there is none; runs wait until there is",
                    "live": 0,
                    "needed_for": "the execution of runs",
                },
            }


async def test_the_workers_are_counted(redis_url: str, namespace: str, workers: Workers) -> None:
    await workers.start(agent=plain())
    await workers.start(agent=plain())
    async with serving(redis_url, namespace) as http:
        told = (await http.get("/ok")).json()["workers"]
    assert told == {"ok": True, "live": 2, "needed_for": "the execution of runs"}


async def test_without_checkpointer(redis_url: str, namespace: str) -> None:
    async with serving(redis_url, namespace, checkpointer_url="none") as http:
        assert (await http.get("/ok")).json()["checkpointer"]["ok"]


@pytest.mark.parametrize("fault", ["away", "silent"])
async def test_a_redis_that_cannot_be_used(redis_url: str, namespace: str, fault: str) -> None:
    async with Proxy(redis_url) as proxy, serving(proxy.url, namespace) as http:
        assert (await http.get("/ok")).status_code == 200
        if fault == "away":
            await proxy.take_away()
        else:
            proxy.block()
        response = await http.get("/ok")
        assert response.status_code == 503
        told = response.json()
        assert told["ok"] is told["redis"]["ok"] is told["checkpointer"]["ok"] is told["workers"]["ok"] is False
        assert "127.0.0.1" not in response.text
        alive = await http.get("/ok?check_db=0")  # for whoever asks only whether to restart the process
        assert (alive.status_code, alive.json()) == (200, {"ok": True})
        proxy.restore()
        assert (await http.get("/ok")).status_code == 200


async def test_what_the_server_is(redis_url: str, namespace: str) -> None:
    async with serving(redis_url, namespace) as http:
        response = await http.get("/info", headers={"x-api-key": "any"})
        assert response.status_code == 200
        told = response.json()
        assert (told["version"], told["langgraph_py_version"]) == (__version__, langgraph_version)
        assert told["flags"]["assistants"] is True
        assert told["flags"]["crons"] is told["flags"]["langsmith"] is False
        assert told["host"]["kind"] == "self-hosted"
        assert (await http.post("/assistants/search", json={})).status_code == 401  # all else is behind the guard


async def test_they_are_on_the_openapi_page(redis_url: str, namespace: str) -> None:
    async with serving(redis_url, namespace) as http:
        page = (await http.get("/openapi.json")).json()
    assert set(page["paths"]["/ok"]["get"]["responses"]) >= {"200", "503"}
    assert "/info" in page["paths"]
