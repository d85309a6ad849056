"""Threads where something goes wrong: nothing is left half done, and one bad thread hides no other."""

from __future__ import annotations

import operator
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import httpx
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph_sdk import Auth
from pydantic import SecretStr
from redis.asyncio import Redis
from tests.support.attempts import HandAttempt
from typing_extensions import TypedDict

from runstream import Client
from runstream.keys import Keys
from runstream_gateway.app import create_app
from runstream_gateway.core import Gateway, open_gateway
from runstream_gateway.errors import ApiError
from runstream_gateway.removal import delete_runs_of
from runstream_gateway.settings import GatewaySettings
from runstream_worker.graphs import graph_source

OTHER = "01985d2e-6f1c-7b3a-9d44-0c5d6f6f2a11"
LARGE = {"text": "x" * 64_000}


class State(TypedDict, total=False):
    steps: Annotated[list[str], operator.add]
    odd: Any


async def one(state: State) -> State:
    return {"odd": [SecretStr("do not show"), {(0, 1): "a"}]} if state.get("odd") else {"steps": ["one"]}


async def two(state: State) -> State:
    return {"steps": ["two"]}


def graph() -> Any:
    nodes = StateGraph(State).add_node("one", one).add_node("two", two)
    return nodes.add_edge(START, "one").add_edge(START, "two").compile()


class Failing(InMemorySaver):
    """A checkpointer whose database refuses some calls, once each."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: set[str] = set()
        self.written = 0

    def _call(self, name: str) -> None:
        if name in self.refused:
            self.refused.remove(name)
            raise OSError(f"{name} is refused")

    async def adelete_thread(self, thread_id: str) -> None:
        self._call("delete")
        await super().adelete_thread(thread_id)

    async def aput(self, *args: Any) -> RunnableConfig:
        self.written += 1
        if self.written == 2:
            self._call("second put")
        return await super().aput(*args)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        self._call("copy")
        raise NotImplementedError


@dataclass
class Place:
    """A gateway, and what its graphs' checkpointer and factories are told to do."""

    gateway: Gateway
    http: httpx.AsyncClient
    saver: Failing
    made: list[str] = field(default_factory=list)

    async def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        answer = await self.http.post(path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def get(self, path: str, status: int = 200) -> Any:
        answer = await self.http.get(path)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def delete(self, path: str) -> int:
        return (await self.http.delete(path)).status_code

    async def thread(self, graph_id: str = "agent", **more: Any) -> str:
        made: str = (await self.post("/threads", {"metadata": {"graph_id": graph_id}, **more}))["thread_id"]
        return made

    async def run(self, thread_id: str, *, odd: bool = False) -> None:
        """Let the graph run on a thread, without a worker."""
        config: RunnableConfig = {"configurable": {"thread_id": thread_id}}
        async with self.gateway.states.graph("agent", config) as agent:
            await agent.ainvoke(State(odd=odd), config)


@asynccontextmanager
async def opened(redis_url: str, namespace: str, auth: Auth | None = None) -> AsyncIterator[Place]:
    made: list[str] = []

    def broken(config: RunnableConfig) -> Any:
        raise RuntimeError("no graph today")

    def counted(config: RunnableConfig) -> Any:
        made.append(config["configurable"]["thread_id"])
        return graph()

    makers = {"agent": graph(), "broken": broken, "counted": counted}
    sources = {name: graph_source(name, maker) for name, maker in makers.items()}
    async with open_gateway(sources, GatewaySettings(redis_url=redis_url, namespace=namespace), auth=auth) as gateway:
        saver = gateway.states.saver = Failing()
        transport = httpx.ASGITransport(create_app(gateway))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            yield Place(gateway, http, saver, made)


@pytest.fixture
async def place(redis_url: str, namespace: str) -> AsyncIterator[Place]:
    async with opened(redis_url, namespace) as place:
        yield place


# -- deleting ---------------------------------------------------------------------------------------------------------


async def test_all_runs_of_a_thread_go_with_it(place: Place, client: Client) -> None:
    thread = await place.thread()
    for _ in range(250):
        await client.enqueue("agent", None, thread_id=thread)
    assert await place.delete(f"/threads/{thread}") == 204
    assert [info async for info in client.thread_runs(thread)] == []
    await place.get(f"/threads/{thread}", 404)


async def test_a_deletion_that_failed_can_be_repeated(place: Place, client: Client) -> None:
    thread = await place.thread()
    await place.run(thread)
    await client.enqueue("agent", None, thread_id=thread)
    place.saver.refused.add("delete")
    assert await place.delete(f"/threads/{thread}") == 500
    assert (await place.get(f"/threads/{thread}"))["thread_id"] == thread
    assert await place.delete(f"/threads/{thread}") == 204
    assert not place.saver.storage.get(thread)
    assert [info async for info in client.thread_runs(thread)] == []


async def test_a_run_whose_worker_was_killed_ends_with_its_lease(
    place: Place, redis: Redis, namespace: str, make_hand: Callable[..., Awaitable[HandAttempt]]
) -> None:
    thread = await place.thread()
    hand = await make_hand(thread_id=thread)
    keys = Keys(namespace)
    await redis.zadd(keys.leases, {keys.run(hand.run_id): time.time() * 1000 + 500})
    assert await place.delete(f"/threads/{thread}") == 204
    assert await place.gateway.client.get_many([hand.run_id]) == [None]


async def test_who_deletes_waits_for_no_run_without_end(
    client: Client, make_hand: Callable[..., Awaitable[HandAttempt]]
) -> None:
    hand = await make_hand(thread_id="t")

    async def before(run_id: str) -> None:
        raise AssertionError(run_id)

    with pytest.raises(ApiError, match="does not end") as refused:
        await delete_runs_of(client, "t", reason="", before=before, patience=0.2)
    assert refused.value.status == 503
    assert (await client.get(hand.run_id)).stop_reason is not None


# -- states that cannot be shown --------------------------------------------------------------------------------------


async def test_what_has_no_json_form_in_a_state_is_a_marker_and_the_rest_is_shown(place: Place) -> None:
    good, bad = await place.thread(), await place.thread()
    await place.run(good)
    await place.run(bad, odd=True)
    marker = {"lc": 1, "type": "not_implemented"}
    odd = [{**marker, "id": ["pydantic", "types", "SecretStr"]}, {**marker, "id": ["builtins", "dict"]}]
    values = {"steps": ["two"], "odd": odd}
    shown = await place.get(f"/threads/{bad}")
    assert (shown["values"], shown["status"]) == (values, "idle")
    for search in ({}, {"status": "idle"}, {"sort_by": "state_updated_at"}):
        found = {one["thread_id"]: one["values"] for one in await place.post("/threads/search", search)}
        assert found.keys() == {good, bad}
        assert found[good]["steps"] == ["one", "two"]
        assert found[bad] == values
    assert [one["thread_id"] for one in await place.post("/threads/search", {"values": {"steps": ["one"]}})] == [good]
    assert await place.post("/threads/count", {"status": "idle"}) == 2
    assert (await place.get(f"/threads/{bad}/state"))["values"] == values
    assert (await place.get(f"/threads/{bad}/history"))[0]["values"] == values


async def test_a_graph_that_cannot_be_made_hides_no_thread(place: Place) -> None:
    thread = await place.thread("broken")
    shown = await place.get(f"/threads/{thread}")
    assert shown["values"] is None
    assert shown["error"] == {
        "error": "StateUnreadable",
        "message": "state: graph 'broken' cannot show it: RuntimeError: no graph today",
    }
    assert len(await place.post("/threads/search", {})) == 1
    told = await place.get(f"/threads/{thread}/state", 422)
    assert told["detail"] == "state: graph 'broken' cannot show it: RuntimeError: no graph today"


async def test_states_are_read_only_where_they_are_asked_for(place: Place) -> None:
    thread = await place.thread("counted")
    for body in ({"select": ["thread_id", "metadata"]}, {"select": ["updated_at"], "extract": {"of": "metadata.a"}}):
        assert len(await place.post("/threads/search", body)) == 1
        assert place.made == []
    for number, field_name in enumerate(("values", "interrupts", "status", "state_updated_at"), 1):
        await place.post("/threads/search", {"select": [field_name]})
        assert place.made == [thread] * number
    await place.post("/threads/search", {"select": ["thread_id"], "extract": {"first": "values.steps[0]"}})
    assert len(place.made) == 5


# -- who narrows a search ---------------------------------------------------------------------------------------------


async def test_a_handler_narrows_a_search_in_place(redis_url: str, namespace: str) -> None:
    auth = Auth()

    @auth.authenticate
    async def authenticate(headers: dict[bytes, bytes]) -> str:
        return headers[b"x-user"].decode()

    @auth.on
    async def mine(ctx: Auth.types.AuthContext, value: dict[str, Any]) -> None:
        value.setdefault("metadata", {})["owner"] = ctx.user.identity

    async with opened(redis_url, namespace, auth) as place:
        made = {}
        for user in ("alice", "bob"):
            place.http.headers["x-user"] = user
            made[user] = await place.thread()
        for user, thread in made.items():
            place.http.headers["x-user"] = user
            for body in ({}, {"metadata": {"graph_id": "agent"}}):
                assert [one["thread_id"] for one in await place.post("/threads/search", body)] == [thread]
                assert await place.post("/threads/count", body) == 1


# -- how much ---------------------------------------------------------------------------------------------------------


async def test_metadata_has_a_limit(place: Place) -> None:
    thread = await place.thread()
    run = {"assistant_id": "agent", "input": {}, "metadata": LARGE}
    for path, body in (
        ("/threads", {"metadata": LARGE}),
        (f"/threads/{thread}/runs", run),
        ("/runs", run),
        ("/runs/batch", [run]),
        ("/assistants", {"graph_id": "agent", "metadata": LARGE}),
    ):
        told = (await place.post(path, body, 422))["detail"]
        assert "metadata: " in told
        assert "must be at most 64,000 bytes of JSON, and is 64,011" in told
    half = {"a": "x" * 40_000}
    assert (await place.http.patch(f"/threads/{thread}", json={"metadata": half})).status_code == 200
    more = await place.http.patch(f"/threads/{thread}", json={"metadata": {"b": half["a"]}})
    assert more.status_code == 422
    assert "at most 64,000" in more.json()["detail"]
    assert (await place.get(f"/threads/{thread}"))["metadata"] == {"graph_id": "agent", **half}


# -- writing states ---------------------------------------------------------------------------------------------------


async def test_updates_are_written_all_or_none(place: Place) -> None:
    thread = await place.thread()
    await place.run(thread)
    before = await place.get(f"/threads/{thread}/history")
    good, bad = {"steps": ["given"]}, {"steps": 7}
    told = await place.post(f"/threads/{thread}/state", {"values": [good, bad], "as_node": "one"}, 422)
    assert "TypeError" in told["detail"]
    await place.post(f"/threads/{thread}/state", {"values": [good, {"none": 1}], "as_node": "nobody"}, 422)
    assert await place.get(f"/threads/{thread}/history") == before
    await place.post(f"/threads/{thread}/state", {"values": [good, good], "as_node": "one"})
    after = await place.get(f"/threads/{thread}/history")
    assert after[0]["values"]["steps"] == ["one", "two", "given", "given"]
    assert after[2:] == before


async def test_a_superstep_is_one_checkpoint(place: Place) -> None:
    first = {"updates": [{"values": {"steps": ["in"]}, "as_node": "__start__"}]}
    both = {"updates": [{"values": {"steps": [name]}, "as_node": name} for name in ("one", "two")]}
    thread = await place.thread(supersteps=[first, both])
    history = await place.get(f"/threads/{thread}/history")
    assert [state["values"].get("steps") for state in history] == [["in", "one", "two"], ["in"]]
    assert [state["next"] for state in history] == [[], ["one", "two"]]


@pytest.mark.parametrize(
    ("second", "status"),
    [
        ({"values": {"steps": 7}, "as_node": "one"}, 422),
        ({"values": {"steps": []}, "as_node": "nobody"}, 422),
        (None, 422),
        ({"values": {"steps": []}, "as_node": "one"}, 503),
    ],
    ids=["a reducer", "no such node", "nothing", "the database"],
)
async def test_supersteps_that_fail_leave_no_thread(place: Place, second: Any, status: int) -> None:
    if status == 503:
        place.saver.refused.add("second put")
    steps = [{"updates": [{"values": {"steps": ["in"]}, "as_node": "one"}]}, {"updates": [second] if second else []}]
    body = {"thread_id": OTHER, "metadata": {"graph_id": "agent"}, "supersteps": steps}
    await place.post("/threads", body, status)
    await place.get(f"/threads/{OTHER}", 404)
    assert not place.saver.storage.get(OTHER)
    assert await place.post("/threads/count", {}) == 0


async def test_a_copy_that_fails_leaves_no_thread(place: Place) -> None:
    thread = await place.thread()
    await place.run(thread)
    place.saver.refused.add("copy")
    await place.post(f"/threads/{thread}/copy", status=500)
    assert [one["thread_id"] for one in await place.post("/threads/search", {})] == [thread]
    copy = (await place.post(f"/threads/{thread}/copy"))["thread_id"]
    assert (await place.get(f"/threads/{copy}/state"))["values"]["steps"] == ["one", "two"]
