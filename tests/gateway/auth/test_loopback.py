"""Clients that a gateway's own code makes are trusted; nothing from outside can pass for one."""

from __future__ import annotations

from typing import Any, TypedDict

import httpx
import pytest
from langgraph.graph import START, StateGraph
from langgraph_sdk import Auth

from runstream_gateway.app import create_app
from runstream_gateway.core import open_gateway
from runstream_gateway.loopback import Process
from runstream_gateway.settings import GatewaySettings
from runstream_worker.graphs import graph_source


class State(TypedDict, total=False):
    text: str


def _graph() -> Any:
    return StateGraph(State).add_node("say", lambda _: {"text": "hi"}).add_edge(START, "say").compile()


async def test_what_comes_from_within_is_not_asked_who_it_is(redis_url: str, namespace: str) -> None:
    auth = Auth()

    @auth.authenticate
    async def authenticate() -> str:
        raise Auth.exceptions.HTTPException(status_code=401, detail="nobody is known")

    settings = GatewaySettings(redis_url=redis_url, namespace=namespace)
    async with open_gateway({"one": graph_source("one", _graph())}, settings, auth=auth) as gateway:
        app = create_app(gateway)
        process = Process()
        with pytest.raises(RuntimeError, match="not open yet"):
            process.transport()
        process.serve(app)
        async with httpx.AsyncClient(transport=process.transport(), base_url="http://api") as within:
            created = await within.post("/threads", json={})
            assert created.status_code == 200
            thread = f"/threads/{created.json()['thread_id']}"
            assert (await within.get(thread)).status_code == 200
            assert (await within.post("/runs", json={"assistant_id": "one", "input": {}})).status_code == 200
            assert (await within.get("/nowhere")).status_code == 404
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app, root_path="/noauth"), base_url="http://gateway"
        ) as outside:
            for headers in ({}, {"runstream.loopback": "true"}, {"x-auth-scheme": "langsmith"}):
                assert (await outside.get(thread, headers=headers)).status_code == 401
