"""What factories are given of the caller when the gateway opens their graphs."""

from __future__ import annotations

from typing import Any, TypedDict

import httpx
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph_sdk import Auth
from langgraph_sdk.runtime import ServerRuntime

from runstream_gateway.app import create_app
from runstream_gateway.core import open_gateway
from runstream_gateway.settings import GatewaySettings
from runstream_worker.graphs import graph_source


class State(TypedDict, total=False):
    text: str


async def test_a_factory_in_the_gateway_is_given_the_user(redis_url: str, namespace: str) -> None:
    auth = Auth()
    seen: list[tuple[str, str, str]] = []

    @auth.authenticate
    async def authenticate(authorization: str) -> str:
        return authorization

    def make(config: RunnableConfig, runtime: ServerRuntime[Any]) -> Any:
        user = config["configurable"]["langgraph_auth_user"]
        seen.append((runtime.access_context, runtime.ensure_user().identity, user["identity"]))
        return StateGraph(State).add_node("say", lambda _: {"text": "hi"}).add_edge(START, "say")

    settings = GatewaySettings(redis_url=redis_url, namespace=namespace)
    async with open_gateway({"made": graph_source("made", make)}, settings, auth=auth) as gateway:
        transport = httpx.ASGITransport(create_app(gateway))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            for user in ("ann", "bob"):
                http.headers["authorization"] = user
                created = await http.post("/threads", json={"metadata": {"graph_id": "made"}})
                thread = f"/threads/{created.json()['thread_id']}"
                assert (await http.get("/assistants/made/graph")).status_code == 200
                written = await http.post(f"{thread}/state", json={"values": {"text": "x"}, "as_node": "say"})
                assert written.status_code == 200
                assert (await http.get(f"{thread}/state")).json()["values"] == {"text": "x"}
    for user in ("ann", "bob"):
        reasons = {reason for reason, identity, configured in seen if identity == configured == user}
        assert reasons == {"assistants.read", "threads.update", "threads.read"}
