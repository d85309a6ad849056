"""What may be read of a run is what that run streamed and left: nothing of its thread's later turns, by any route."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, TypedDict

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from tests.support.waiting import until
from tests.support.workers import Workers

from runstream import Client
from runstream.apikeys import ApiKeys
from runstream_gateway.app import create_app
from runstream_gateway.core import Gateway, open_gateway
from runstream_gateway.settings import GatewaySettings
from runstream_gateway.webhooks.payload import Payloads
from runstream_worker.graphs import graph_source

LATER = "of-a-later-turn"
CONSOLE = ["/console/runs/{run_id}", "/console/runs/{run_id}/state", "/console/runs/{run_id}/events"]


class State(TypedDict, total=False):
    says: str
    done: list[str]
    private: str


class Output(TypedDict):
    says: str
    done: list[str]


def first(state: State) -> State:
    return {"done": [*state.get("done", []), f"first of {state['says']}"], "private": f"private of {state['says']}"}


async def second(state: State) -> State:
    if "waits" in state["says"]:
        await asyncio.Event().wait()
    if "fails" in state["says"]:
        raise ValueError("it failed")
    answer = interrupt("go on?") if "asks" in state["says"] else ""
    return {"done": [*state["done"], f"second of {state['says']}{answer}"]}


def graph() -> Any:
    built = StateGraph(State, output_schema=Output).add_node("first", first).add_node("second", second)
    return built.add_edge(START, "first").add_edge("first", "second").compile()


@dataclass(frozen=True)
class Place:
    """A gateway that wants keys, its owner, and a worker."""

    gateway: Gateway
    app: FastAPI
    http: httpx.AsyncClient
    client: Client
    key: dict[str, str]

    async def thread(self) -> str:
        return str((await self.http.post("/threads", json={}, headers=self.key)).json()["thread_id"])

    async def turn(self, thread: str, says: str, **body: Any) -> str:
        """A turn that has come to its end; the run's id."""
        sent = {"assistant_id": "agent", "stream_mode": ["values", "updates"], "input": {"says": says}, **body}
        answer = await self.http.post(f"/threads/{thread}/runs", json=sent, headers=self.key)
        assert answer.status_code == 200, answer.text
        run: str = answer.json()["run_id"]
        if "waits" in says:
            await until(lambda: self._has_done_first(thread, says), "the first node is done")
            await self.http.post(f"/threads/{thread}/runs/{run}/cancel?wait=1", headers=self.key)
        else:
            await self.http.get(f"/threads/{thread}/runs/{run}/join", headers=self.key)
        return run

    async def _has_done_first(self, thread: str, says: str) -> bool:
        state = (await self.http.get(f"/threads/{thread}/state", headers=self.key)).json()
        return f"first of {says}" in (state["values"].get("done") or ())

    async def token(self, thread: str, run: str) -> dict[str, str]:
        answer = await self.http.post(f"/threads/{thread}/runs/{run}/token", headers=self.key)
        return {"authorization": f"Bearer {answer.json()['token']}"}

    def paths(self) -> list[str]:
        """Every path by which something can be got with a run's id in it."""
        routes = [route for route in self.app.routes if isinstance(route, APIRoute)]
        known = [route.path for route in routes if "GET" in (route.methods or ()) and "{run_id}" in route.path]
        return sorted({*self.app.openapi()["paths"], *known, *CONSOLE})

    async def opened(self, thread: str, run: str, headers: dict[str, str]) -> dict[str, str]:
        """What every route answers that a token opens."""
        answers: dict[str, str] = {}
        for path in self.paths():
            if "{run_id}" not in path:
                continue
            filled = path.replace("{thread_id}", thread).replace("{run_id}", run)
            answer = await self.http.get(filled, headers={**headers, "last-event-id": "-1"})
            if answer.status_code == 200:
                answers[path] = answer.text
        return answers


@pytest.fixture
async def place(redis_url: str, namespace: str, client: Client, workers: Workers) -> AsyncIterator[Place]:
    await workers.start(agent=graph())
    key, _ = await ApiKeys(client).create("alice")
    settings = GatewaySettings(redis_url=redis_url, namespace=namespace, api_keys=True)
    async with open_gateway({"agent": graph_source("agent", graph())}, settings) as gateway:
        app = create_app(gateway)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway", timeout=60) as http:
            yield Place(gateway, app, http, client, {"x-api-key": key})


ENDS = ["success", "asks", "fails", "waits"]


async def go_on(place: Place, thread: str, how: str) -> None:
    """Have more happen on a thread."""
    if how == "another turn":
        await place.turn(thread, LATER)
    elif how == "a turn that is stopped":
        await place.turn(thread, f"{LATER} waits")
    elif how == "an answer":
        await place.turn(thread, "", input=None, command={"resume": LATER})
    elif how == "an update":
        body = {"values": {"done": [LATER], "private": LATER}, "as_node": "first"}
        answer = await place.http.post(f"/threads/{thread}/state", json=body, headers=place.key)
        assert answer.status_code == 200, answer.text
    else:
        body = {"update": {"done": [LATER]}, "goto": "second"}
        await place.turn(thread, "", input=None, command=body)


@pytest.mark.parametrize("how", ["another turn", "a turn that is stopped", "an answer", "an update", "a command"])
@pytest.mark.parametrize("says", ENDS)
async def test_a_run_is_answered_as_it_was_left_whatever_came_then(place: Place, says: str, how: str) -> None:
    if how == "an answer" and says == "fails":
        says = "asks"  # there is nothing to answer
    thread = await place.thread()
    await place.turn(thread, "before")
    run = await place.turn(thread, says)
    token = await place.token(thread, run)
    # A token is shown what the run's stream shows; a key sees the private channels of the state, too.
    callers = (token, place.key)
    befores = [await place.opened(thread, run, headers) for headers in callers]
    for before in befores:
        opened = before.keys()
        assert {"/threads/{thread_id}/runs/{run_id}", "/threads/{thread_id}/runs/{run_id}/join", *CONSOLE} <= opened
        assert len(before) >= 9

    await go_on(place, thread, how)

    for headers, before in zip(callers, befores, strict=True):
        after = await place.opened(thread, run, headers)
        for path in befores[0]:
            assert LATER not in after[path], path
            assert _without_links(after[path]) == _without_links(before[path]), path
    state = (await place.http.get(f"/threads/{thread}/state", headers=place.key)).text
    assert LATER in state


def _without_links(text: str) -> str:
    """An answer without what depends on who asks or when."""
    try:
        answer = json.loads(text)
    except ValueError:
        return "\n".join(line for line in text.splitlines() if not line.startswith((":", "retry")))
    if isinstance(answer, dict):
        answer.pop("__feedback__", None)
    return json.dumps(answer, sort_keys=True)


async def test_what_the_run_left_is_answered_as_its_stream_shows_it(place: Place) -> None:
    thread = await place.thread()
    await place.turn(thread, "before")
    run = await place.turn(thread, "waits")
    await place.turn(thread, LATER)
    left = ["first of before", "second of before", "first of waits"]
    for headers in (await place.token(thread, run), place.key):
        for path in (f"/threads/{thread}/runs/{run}/join", f"/runs/{run}/join"):
            answer = (await place.http.get(path, headers=headers)).json()
            assert answer == {"says": "waits", "done": left}
    shown = (await place.http.get(f"/console/runs/{run}/state", headers=place.key)).json()
    assert shown["values"] == {"says": "waits", "done": left, "private": "private of waits"}
    assert (shown["next"], shown["tasks"], shown["interrupts"]) == (["second"], [], [])
    of_token = (await place.http.get(f"/console/runs/{run}/state", headers=await place.token(thread, run))).json()
    assert of_token["values"] == {"says": "waits", "done": left}


async def test_a_run_that_has_saved_nothing_has_left_nothing(place: Place) -> None:
    thread = await place.thread()
    await place.turn(thread, "before")
    body = {"assistant_id": "agent", "input": {"says": "never"}, "after_seconds": 3600}
    run = (await place.http.post(f"/threads/{thread}/runs", json=body, headers=place.key)).json()["run_id"]
    token = await place.token(thread, run)
    state = (await place.http.get(f"/console/runs/{run}/state", headers=token)).json()
    assert (state["values"], state["checkpoint"]) == ({}, None)
    answer = await place.http.post(f"/threads/{thread}/runs/{run}/cancel?wait=1", headers=place.key)
    assert answer.json() == {}
    assert (await place.http.get(f"/threads/{thread}/runs/{run}/join", headers=token)).json() == {}


def payloads_of(place: Place) -> Payloads:
    """What makes the payloads of a gateway's webhooks."""
    deliveries = place.client.deliveries("a-test")
    return Payloads(place.client, deliveries, place.gateway.states, show_errors=False)


async def test_a_webhook_is_sent_what_the_run_left(place: Place) -> None:
    thread = await place.thread()
    for says in ("fails", "waits"):
        run = await place.turn(thread, says)
        await place.turn(thread, LATER)
        payload = (await payloads_of(place).fields_of(run))["payload"]
        assert LATER not in payload
        values = json.loads(payload)["values"]
        assert values["done"][-1] == f"first of {says}"
        assert "private" not in values


async def test_a_token_of_one_run_opens_nothing_of_another(place: Place) -> None:
    thread = await place.thread()
    run, other = await place.turn(thread, "one"), await place.turn(thread, LATER)
    token = await place.token(thread, run)
    assert await place.opened(thread, other, token) == {}
    for path in (f"/threads/{thread}", f"/threads/{thread}/state", f"/threads/{thread}/history",
                 f"/threads/{thread}/runs", f"/threads/{thread}/stream", "/console/runs", "/console/workers",
                 f"/console/titles?run_id={run}"):  # fmt: skip
        assert (await place.http.get(path, headers=token)).status_code in (403, 404), path
