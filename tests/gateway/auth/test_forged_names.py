"""LangGraph's names for places and callers never come from a caller, through whichever door they are sent."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypedDict, cast

import httpx
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph_sdk import Auth
from tests.support.workers import Workers

from runstream import Client
from runstream_gateway.app import create_app
from runstream_gateway.core import open_gateway
from runstream_gateway.settings import GatewaySettings, HeaderRules
from runstream_worker.graphs import graph_source

OTHER = "01985d2e-6f1c-7b3a-9d44-0c5d6f6f2a11"
FORGED: dict[str, Any] = {
    "thread_id": OTHER,
    "thread_ts": OTHER,
    "run_id": OTHER,
    "checkpoint_id": OTHER,
    "checkpoint_ns": "node:forged",
    "checkpoint_map": {"": OTHER},
    "graph_id": "forged",
    "assistant_id": OTHER,
    "cron_id": OTHER,
    "langgraph_auth_user": {"identity": "alice", "forged": True},
    "langgraph_auth_user_id": "alice",
    "langgraph_auth_permissions": ["forged"],
    "Langgraph_Auth_User_Id": "alice",
    "langgraph_request_id": "forged",
    "__pregel_task_id": "forged",
    "__pregel_resuming": True,
    "__gateway__": {"stateless": False, "assistant_id": OTHER},
    "__any": "forged",
    "counters_since_delta_snapshot": {"secret": [1, 1]},
}
OWN = {"model": "small", "langgraph": "kept", "thread": "kept", "x-team": "blue"}
CALLED: list[dict[str, Any]] = []


class State(TypedDict, total=False):
    secret: str
    seen: dict[str, Any]


class Context(TypedDict, total=False):
    user_id: str
    thread_id: str
    model: str
    langgraph_auth_user_id: str


def node(state: State, config: RunnableConfig) -> State:
    chosen = {name: value for name, value in config["configurable"].items() if not name.startswith("__")}
    shown = {name: str(chosen[name]) for name in chosen}
    return {"seen": {"configurable": shown, "thread": chosen["thread_id"]}}


def graph(context: Any = None) -> Any:
    return StateGraph(State, context_schema=context).add_node("node", node).add_edge(START, "node").compile()


def made(config: RunnableConfig) -> Any:
    """A factory that notes what it was called with."""
    CALLED.append(dict(config))
    return graph(Context)


@dataclass(frozen=True)
class Service:
    """A gateway that passes all headers to graphs, and what it has enqueued."""

    http: httpx.AsyncClient
    client: Client
    user: dict[str, str]

    async def thread(self) -> str:
        answer = await self.http.post("/threads", json={}, headers=self.user)
        return str(answer.json()["thread_id"])

    async def run(self, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Create a run, and return its request as a worker gets it."""
        sent = [dict(body)] if path.endswith("batch") else dict(body)
        before = {info.run_id for info in await self.client.runs()}
        answer = await self.http.post(path, json=sent, headers={**self.user, **(headers or {})})
        assert answer.status_code == 200, answer.text
        (info,) = [info for info in await self.client.runs() if info.run_id not in before]
        request = await self.client.request(info.run_id)
        await self.client.stop(info.run_id)
        configurable = request.config["configurable"]
        assert configurable["run_id"] == info.run_id
        assert configurable.get("thread_id", info.thread_id) == info.thread_id == request.thread_id
        return {**request.model_dump(), "record": info.metadata}


def users() -> Auth:
    """Everybody is who they say they are; nobody reads what is another's."""
    auth = Auth()

    @auth.authenticate
    async def authenticate(headers: dict[bytes, bytes]) -> str:
        return headers[b"x-user"].decode()

    @auth.on
    async def own(ctx: Auth.types.AuthContext, value: dict[str, Any]) -> dict[str, str]:
        value.setdefault("metadata", {})["owner"] = ctx.user.identity
        return {"owner": ctx.user.identity}

    return auth


@asynccontextmanager
async def serving(
    redis_url: str, namespace: str, client: Client, *, auth: Auth | None, user: str = "bob"
) -> AsyncIterator[Service]:
    settings = GatewaySettings(redis_url=redis_url, namespace=namespace, headers=HeaderRules(("*",), ("x-secret",)))
    sources = {name: graph_source(name, value) for name, value in targets().items()}
    async with open_gateway(sources, settings, auth=auth) as gateway:
        transport = httpx.ASGITransport(create_app(gateway))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", timeout=60) as http:
            yield Service(http, client, {"x-user": user})


def targets() -> dict[str, Any]:
    return {"agent": graph(), "typed": graph(Context), "made": made}


@pytest.fixture
async def service(redis_url: str, namespace: str, client: Client) -> AsyncIterator[Service]:
    async with serving(redis_url, namespace, client, auth=users()) as opened:
        yield opened


def check(request: Mapping[str, Any], user: str = "bob") -> None:
    """Nothing forged is in what a graph finds, and who calls is who called."""
    configurable = request["config"]["configurable"]
    assert configurable["langgraph_auth_user_id"] == configurable["user_id"] == user
    assert configurable["langgraph_auth_user"]["identity"] == user
    whole = json.dumps([request["config"], request["context"], request["record"]])
    assert OTHER not in whole
    assert "forged" not in whole
    assert "alice" not in whole
    for name in FORGED:
        assert name in ("thread_id", "run_id", "graph_id", "assistant_id") or not (
            name in configurable and not name.startswith("langgraph_auth_")
        )


PATHS = ("/runs", "/runs/batch", "/threads/{thread}/runs")


@pytest.mark.parametrize("path", PATHS)
async def test_a_header_names_no_place_and_no_caller(service: Service, path: str) -> None:
    values = {name: value if isinstance(value, str) else json.dumps(value) for name, value in FORGED.items()}
    body = {"assistant_id": "agent", "input": {}}
    headers = {**values, "user_id": "alice", "User_ID": "alice", "x-team": "blue", "thread-name": "mine"}
    request = await service.run(path.format(thread=await service.thread()), body, headers)
    check(request)
    chosen = request["config"]["configurable"]
    assert (chosen["x-team"], chosen["thread-name"], chosen["x-user"]) == ("blue", "mine", "bob")


@pytest.mark.parametrize("assistant", ["agent", "typed", "made"])
@pytest.mark.parametrize("where", ["configurable", "context", "metadata", "config.metadata"])
@pytest.mark.parametrize("path", PATHS)
async def test_a_body_names_no_place_and_no_caller(service: Service, path: str, where: str, assistant: str) -> None:
    places = {"checkpoint_id", "checkpoint_ns", "checkpoint_map"}
    said = {**FORGED, **OWN}
    if where == "configurable":
        # There a request names a checkpoint of its own thread, which is looked up.
        said = {name: value for name, value in said.items() if name not in places} | {"user_id": "alice"}
    bodies: dict[str, Any] = {
        "configurable": {"config": {"configurable": said}},
        "context": {"context": said},
        "metadata": {"metadata": said},
        "config.metadata": {"config": {"metadata": said}},
    }
    if (where, assistant) in (("context", "typed"), ("context", "made")):
        said.pop("thread_id")  # a name of that graph's own context
    body = {"assistant_id": assistant, "input": {}, **bodies[where]}
    request = await service.run(path.format(thread=await service.thread()), body)
    check(request)
    kept = request["config"]["metadata" if "metadata" in where else "configurable"]
    # A context is mirrored as far as the graph has it.
    own = OWN if where != "context" or assistant == "agent" else {name: OWN[name] for name in OWN if name in kept}
    assert own
    assert {name: kept[name] for name in own} == own


@pytest.mark.parametrize("door", ["create", "context", "patch", "patch context", "latest", "metadata"])
async def test_an_assistant_names_no_place_and_no_caller(service: Service, door: str) -> None:
    config = {"configurable": {**FORGED, **OWN, "user_id": "alice"}, "metadata": FORGED, "callbacks": ["forged"]}
    context = {**FORGED, **OWN, "user_id": "alice"}
    plain, bad = {"graph_id": "made"}, {"config": config}
    if "context" in door:
        bad = {"context": context}
    elif door == "metadata":
        bad = {"metadata": dict(FORGED)}
    created = await service.http.post(
        "/assistants", json=plain if door.startswith("patch") else {**plain, **bad}, headers=service.user
    )
    assert created.status_code == 200, created.text
    path = f"/assistants/{created.json()['assistant_id']}"
    if door.startswith("patch"):
        assert (await service.http.patch(path, json=bad, headers=service.user)).status_code == 200
    if door == "latest":
        await service.http.patch(path, json={"config": {"configurable": {"model": "other"}}}, headers=service.user)
        answer = await service.http.post(f"{path}/latest", json={"version": 1}, headers=service.user)
        assert answer.status_code == 200, answer.text
    assistant_id = created.json()["assistant_id"]

    CALLED.clear()
    for view in ("schemas", "graph", "subgraphs"):
        answer = await service.http.get(f"{path}/{view}", headers=service.user)
        assert answer.status_code == 200, answer.text
    assert len(CALLED) == 3
    for target in ("/runs", f"/threads/{await service.thread()}/runs"):
        request = await service.run(target, {"assistant_id": assistant_id, "input": {}, "context": {"model": "tiny"}})
        configurable = request["config"]["configurable"]
        assert configurable.pop("assistant_id") == request["config"]["metadata"]["assistant_id"] == assistant_id
        # The graph's own context has fields of these names.
        check({**request, "context": _without(request["context"], "user_id", *["thread_id"] * ("context" in door))})
    for called in CALLED:
        chosen = called["configurable"]
        assert (chosen.pop("graph_id"), chosen.pop("assistant_id")) == ("made", assistant_id)
        assert "callbacks" not in called
        # The gateway tells a factory who calls: the caller that it has authenticated.
        callers = {name for name in FORGED if name.startswith("langgraph_auth_")}
        assert not ((FORGED.keys() - callers) & chosen.keys())
        assert chosen["langgraph_auth_user_id"] == "bob"
        assert not any(word in json.dumps(called) for word in ("forged", "alice"))


def _without(context: Any, *names: str) -> Any:
    return {name: value for name, value in (context or {}).items() if name not in names}


async def test_metadata_of_a_thread_names_no_place_and_no_caller(service: Service) -> None:
    made = await service.http.post("/threads", json={"metadata": FORGED}, headers=service.user)
    thread = made.json()["thread_id"]
    await service.http.patch(f"/threads/{thread}", json={"metadata": FORGED}, headers=service.user)
    check(await service.run(f"/threads/{thread}/runs", {"assistant_id": "agent", "input": {}}))


async def test_a_caller_without_a_name_is_nobody_else(redis_url: str, namespace: str, client: Client) -> None:
    async with serving(redis_url, namespace, client, auth=users(), user="") as service:
        said = {"user_id": "alice", "langgraph_auth_user_id": "alice"}
        body = {"assistant_id": "agent", "config": {"configurable": said}}
        check(await service.run("/runs", body, {"user_id": "alice"}), "")


async def test_a_user_id_is_the_callers_own_word_where_nobody_is_asked(
    redis_url: str, namespace: str, client: Client
) -> None:
    async with serving(redis_url, namespace, client, auth=None) as service:
        body = {"assistant_id": "typed", "config": {"configurable": {"user_id": "u1", "langgraph_auth_user_id": "u1"}}}
        request = await service.run("/runs", body, {"user_id": "alice"})
        assert request["config"]["configurable"]["user_id"] == request["context"]["user_id"] == "u1"
        assert "langgraph_auth_user_id" not in request["config"]["configurable"]
        request = await service.run("/runs", {"assistant_id": "typed"}, {"user_id": "alice"})
        assert "user_id" not in request["config"]["configurable"]


async def test_the_context_of_a_graph_may_have_a_user_id_of_its_own(service: Service) -> None:
    body = {"assistant_id": "typed", "context": {"user_id": "customer-7", "thread_id": "of-a-chat"}}
    request = await service.run("/runs", body)
    assert request["context"] == {"user_id": "customer-7", "thread_id": "of-a-chat"}
    assert request["config"]["configurable"]["user_id"] == "bob"
    body = {"assistant_id": "typed", "config": {"configurable": {"user_id": "customer-7"}}}
    assert (await service.run("/runs", body))["context"]["user_id"] == "bob"


async def test_a_header_puts_a_stateless_run_on_no_thread_of_another(
    redis_url: str, namespace: str, client: Client, workers: Workers
) -> None:
    await workers.start(**targets())
    async with serving(redis_url, namespace, client, auth=users()) as service:
        alice = {"x-user": "alice"}
        thread = (await service.http.post("/threads", json={}, headers=alice)).json()["thread_id"]
        hers = {"assistant_id": "agent", "input": {"secret": "of-alice"}}
        await service.http.post(f"/threads/{thread}/runs/wait", json=hers, headers=alice)
        state = (await service.http.get(f"/threads/{thread}/state", headers=alice)).json()
        for name in ("thread_id", "THREAD_ID"):
            headers = {**service.user, name: thread, "checkpoint_id": state["checkpoint_id"]}
            for path in ("/runs/wait", "/runs/stream"):
                answer = await service.http.post(path, json={"assistant_id": "agent", "input": {}}, headers=headers)
                assert answer.status_code == 200
                assert "of-alice" not in answer.text
                assert thread not in answer.text
        assert (await service.http.get(f"/threads/{thread}/state", headers=alice)).json() == state
        shown = cast("list[Any]", (await service.http.get(f"/threads/{thread}/runs", headers=alice)).json())
        assert len(shown) == 1


async def test_a_thread_id_that_is_the_path_s_may_be_said_again(
    redis_url: str, namespace: str, client: Client, workers: Workers
) -> None:
    await workers.start(**targets())
    async with serving(redis_url, namespace, client, auth=None) as service:
        thread = await service.thread()
        body = {"assistant_id": "agent", "input": {}, "config": {"configurable": {"thread_id": thread, "own": "1"}}}
        answer = await service.http.post(f"/threads/{thread}/runs/wait", json=body)
        seen = answer.json()["seen"]
        assert (seen["thread"], seen["configurable"]["own"]) == (thread, "1")
