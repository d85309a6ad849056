"""Two owners on one gateway: nothing of one is there for the other, by any route or id."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypedDict

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph_sdk import Auth
from tests.support.waiting import until
from tests.support.workers import Workers
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

from runstream import Client, Status
from runstream.apikeys import ApiKeys
from runstream_gateway.app import create_app
from runstream_gateway.core import open_gateway
from runstream_gateway.settings import GatewaySettings
from runstream_worker.graphs import graph_source

NOBODY = "01985d2e-6f1c-7b3a-9d44-0c5d6f6f2a11"


class State(TypedDict, total=False):
    hidden: str
    wait: bool
    seen: list[Any]


async def node(state: State, config: RunnableConfig) -> State:
    if state.get("wait"):
        await asyncio.Event().wait()
    chosen = config["configurable"]
    return {"seen": [chosen.get("langgraph_auth_user_id"), (chosen.get("langgraph_auth_user") or {}).get("identity")]}


def graph() -> Any:
    return StateGraph(State).add_node("node", node).add_edge(START, "node").compile()


@dataclass(frozen=True)
class Owner:
    """Somebody with a key, and what it has made."""

    http: httpx.AsyncClient
    headers: dict[str, str]
    address: str
    thread: str = ""
    run: str = ""
    running: str = ""
    stateless: str = ""
    assistant: str = ""

    async def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        """The answer to a request, which has to have this status."""
        answer = await self.http.post(path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None

    async def get(self, path: str, status: int = 200) -> Any:
        """The same."""
        answer = await self.http.get(path)
        assert answer.status_code == status, answer.text
        return answer.json()


@asynccontextmanager
async def served(redis_url: str, namespace: str, auth: Auth | None = None) -> AsyncIterator[tuple[str, FastAPI]]:
    """A gateway that wants keys, or asks these handlers, served by uvicorn."""
    settings = GatewaySettings(redis_url=redis_url, namespace=namespace, api_keys=auth is None)
    async with open_gateway({"agent": graph_source("agent", graph())}, settings, auth=auth) as gateway:
        app = create_app(gateway)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="websockets-sansio", lifespan="off"))
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            try:
                yield f"127.0.0.1:{listening.getsockname()[1]}", app
            finally:
                server.should_exit = True
                await serving


@asynccontextmanager
async def owner(address: str, **headers: str) -> AsyncIterator[Owner]:
    async with httpx.AsyncClient(base_url=f"http://{address}", headers=headers, timeout=60) as http:
        yield Owner(http, headers, address)


async def with_things(who: Owner, client: Client) -> Owner:
    """An owner that has a thread with a run that has ended and one that goes on, a stateless run, an assistant."""
    thread = (await who.post("/threads", {"metadata": {"of": "alice"}}))["thread_id"]
    secret = {"assistant_id": "agent", "input": {"hidden": "42"}}
    await who.post(f"/threads/{thread}/runs/wait", secret)
    (run,) = await who.get(f"/threads/{thread}/runs")
    waiting = {"assistant_id": "agent", "input": {"wait": True}}
    running = (await who.post(f"/threads/{thread}/runs", waiting))["run_id"]
    stateless = (await who.post("/runs", secret))["run_id"]
    await client.wait(stateless)
    assistant = (await who.post("/assistants", {"graph_id": "agent", "name": "hers"}))["assistant_id"]
    return Owner(who.http, who.headers, who.address, thread, run["run_id"], running, stateless, assistant)


@pytest.fixture
async def place(
    redis_url: str, namespace: str, client: Client, workers: Workers
) -> AsyncIterator[tuple[Owner, Owner, FastAPI]]:
    """Alice, who has all kinds of things, and Bob, who has none."""
    await workers.start(agent=graph())
    keys = ApiKeys(client)
    hers, his = [(await keys.create(name))[0] for name in ("alice", "bob")]
    async with (
        served(redis_url, namespace) as (address, app),
        owner(address, **{"x-api-key": hers}) as alice,
        owner(address, authorization=f"Bearer {his}") as bob,
    ):
        yield await with_things(alice, client), bob, app


BODIES: dict[str, Any] = {
    "/threads/{thread_id}/runs": {"assistant_id": "agent"},
    "/threads/{thread_id}/runs/stream": {"assistant_id": "agent"},
    "/threads/{thread_id}/runs/wait": {"assistant_id": "agent"},
    "/threads/{thread_id}/state": {"values": {"hidden": "his"}},
    "/threads/{thread_id}/state/checkpoint": {"checkpoint": {}},
    "/threads/{thread_id}": {"metadata": {"owner": "bob"}},
    "/assistants/{assistant_id}": {"name": "his"},
    "/assistants/{assistant_id}/latest": {"version": 1},
}


async def test_by_any_route_that_names_a_thing_there_is_none(
    place: tuple[Owner, Owner, FastAPI], client: Client
) -> None:
    alice, bob, app = place
    before = await everything_of(alice)
    paths = app.openapi()["paths"]
    named = [(path, method) for path, methods in paths.items() for method in methods if "{" in path]
    assert len(named) > 30
    for path, method in named:
        for run in (alice.run, alice.running, alice.stateless):
            ids = {"thread_id": alice.thread, "run_id": run, "assistant_id": alice.assistant, "key": "taste"}
            ids["checkpoint_id"] = NOBODY
            if run == alice.stateless and "{run_id}" in path:
                ids["thread_id"] = run
            answers = {}
            for name, known in (("hers", ids), ("nobody's", dict.fromkeys(ids, NOBODY))):
                filled = re.sub(r"\{(\w+)(:path)?\}", lambda found, known=known: known.get(found[1], "x"), path)  # type: ignore[misc]
                answer = await bob.http.request(method.upper(), filled, json=BODIES.get(path, {}))
                said = answer.text
                for one in {*known.values()}:
                    said = said.replace(one, "ID")
                answers[name] = (answer.status_code, said)
            assert answers["hers"][0] == 404, (method, path, answers)
            # What is refused is answered as what is not there.
            assert answers["hers"] == answers["nobody's"], (method, path)
            if "{run_id}" not in path:
                break
    assert await everything_of(alice) == before
    assert (await client.get(alice.running)).status == Status.RUNNING
    assert len(await client.runs()) == 3


async def everything_of(who: Owner) -> Any:
    return [
        await who.get(path)
        for path in (
            f"/threads/{who.thread}",
            f"/threads/{who.thread}/state",
            f"/threads/{who.thread}/runs",
            f"/threads/{who.thread}/runs/{who.run}",
            f"/runs/{who.stateless}",
            f"/assistants/{who.assistant}",
        )
    ]


async def test_in_no_list_and_no_count_is_anything_of_another(place: tuple[Owner, Owner, FastAPI]) -> None:
    alice, bob, _ = place
    for body in ({}, {"metadata": {"owner": "alice"}}, {"ids": [alice.thread]}, {"status": "busy"}):
        assert await bob.post("/threads/search", body) == []
        assert await bob.post("/threads/count", body) == 0
    assert len(await alice.post("/threads/search", {})) == 1
    assert [one["metadata"] for one in await bob.post("/assistants/search", {})] == [{"created_by": "system"}]
    assert await bob.post("/assistants/count", {}) == 1
    assert await alice.post("/assistants/count", {}) == 2
    await bob.post("/runs/cancel", {"status": "all"}, status=404)
    await bob.post("/runs/cancel", {"thread_id": alice.thread, "run_ids": [alice.running]}, status=404)
    assert await bob.post("/threads/prune", {"thread_ids": [alice.thread]}) == {"pruned_count": 0}
    assert (await alice.get(f"/threads/{alice.thread}"))["status"] == "busy"


async def test_nobody_takes_an_id_that_is_anothers(place: tuple[Owner, Owner, FastAPI], client: Client) -> None:
    alice, bob, _ = place
    runs = len(await client.runs())
    for thread in (alice.thread, alice.stateless, alice.run):
        for if_exists in ("raise", "do_nothing"):
            answer = await bob.http.post("/threads", json={"thread_id": thread, "if_exists": if_exists})
            if thread != alice.run:  # no thread of hers has that id
                assert answer.status_code == 409, answer.text
        for path in ("", "/stream", "/wait"):
            body = {"assistant_id": "agent", "if_not_exists": "create", "input": {"seen": []}}
            if thread != alice.run:
                answer = await bob.http.post(f"/threads/{thread}/runs{path}", json=body)
                assert answer.status_code in (404, 409), answer.text
    assert len(await client.runs()) == runs
    await bob.get(f"/threads/{alice.stateless}/state", status=404)
    await bob.get(f"/threads/{alice.stateless}/runs/{alice.stateless}", status=404)
    assert (await alice.get(f"/runs/{alice.stateless}"))["run_id"] == alice.stateless
    body = {"graph_id": "agent", "assistant_id": alice.assistant, "if_exists": "do_nothing"}
    assert (await bob.http.post("/assistants", json=body)).status_code == 409
    await bob.post("/assistants", {"graph_id": "agent", "metadata": {"created_by": "system"}}, status=403)


async def test_whose_a_thing_is_nobody_says_by_metadata(place: tuple[Owner, Owner, FastAPI]) -> None:
    alice, bob, _ = place
    thread = await bob.post("/threads", {"metadata": {"owner": "alice"}})
    assert thread["metadata"]["owner"] == "bob"
    patched = await bob.http.patch(f"/threads/{thread['thread_id']}", json={"metadata": {"owner": "alice"}})
    assert patched.json()["metadata"]["owner"] == "bob"
    body = {
        "assistant_id": "agent",
        "input": {"seen": []},
        "metadata": {"owner": "alice"},
        "config": {"metadata": {"owner": "alice"}},
    }
    run = await bob.post("/runs", body)
    await alice.get(f"/runs/{run['run_id']}", status=404)
    await bob.get(f"/runs/{run['run_id']}")
    kept = await bob.post("/runs", {**body, "on_completion": "keep"})
    await alice.get(f"/threads/{kept['thread_id']}", status=404)
    assert len(await alice.post("/threads/search", {})) == 1


async def test_an_assistant_of_another_runs_for_nobody_else(place: tuple[Owner, Owner, FastAPI]) -> None:
    alice, bob, _ = place
    body = {"assistant_id": alice.assistant, "input": {"seen": []}}
    assert (await bob.http.post("/runs/wait", json=body)).status_code == 404
    assert (await alice.post("/runs/wait", body))["seen"] == ["alice", "alice"]


@pytest.mark.parametrize("where", ["configurable", "context"])
async def test_who_calls_is_not_for_the_caller_to_say(place: tuple[Owner, Owner, FastAPI], where: str) -> None:
    _, bob, _ = place
    claimed = {"langgraph_auth_user_id": "alice", "langgraph_auth_user": {"identity": "alice"}, "user_id": "alice"}
    more = {"config": {"configurable": claimed}} if where == "configurable" else {"context": claimed}
    answer = await bob.post("/runs/wait", {"assistant_id": "agent", "input": {"seen": []}, **more})
    assert answer["seen"] == ["bob", "bob"]


async def test_a_checkpoint_leads_into_no_other_thread(place: tuple[Owner, Owner, FastAPI]) -> None:
    alice, bob, _ = place
    state = await alice.get(f"/threads/{alice.thread}/state")
    assert state["values"]["hidden"] == "42"
    thread = (await bob.post("/threads", {}))["thread_id"]
    await bob.post(f"/threads/{thread}/runs/wait", {"assistant_id": "agent", "input": {"seen": []}})
    hers = state["checkpoint"]
    for path, body in (
        ("state/checkpoint", {"checkpoint": hers}),
        ("history", {"before": {"configurable": hers}}),
        ("history", {"checkpoint": hers}),
        ("runs/wait", {"assistant_id": "agent", "input": {"seen": []}, "checkpoint": hers}),
        ("runs/wait", {"assistant_id": "agent", "input": {"seen": []}, "config": {"configurable": hers}}),
    ):
        assert "42" not in (await bob.http.post(f"/threads/{thread}/{path}", json=body)).text
    assert "42" not in (await bob.http.get(f"/threads/{thread}/state/{hers['checkpoint_id']}")).text


async def test_without_a_key_only_what_says_how_the_service_is_answers(place: tuple[Owner, Owner, FastAPI]) -> None:
    alice, _, app = place
    async with httpx.AsyncClient(base_url=f"http://{alice.address}") as http:
        for path, methods in app.openapi()["paths"].items():
            for method in methods:
                filled = re.sub(r"\{\w+(:path)?\}", alice.thread, path)
                answer = await http.request(method.upper(), filled, json=BODIES.get(path, {}))
                if answer.status_code != 401:
                    # For feedback a link is needed, and no key.
                    is_refused = path.endswith("/feedback/{key}") and answer.status_code == 404
                    assert is_refused or path in ("/", "/ok", "/info", "/metrics"), (method, path, answer.text)


# -- read tokens ------------------------------------------------------------------------------------------------------


async def test_a_run_s_token_reads_that_run_and_does_nothing(
    place: tuple[Owner, Owner, FastAPI], client: Client
) -> None:
    alice, bob, app = place
    base = f"/threads/{alice.thread}/runs/{alice.running}"
    token = (await alice.post(f"{base}/token"))["token"]
    async with owner(alice.address, authorization=f"Bearer {token}") as holder:
        await holder.get(base)
        for path, methods in app.openapi()["paths"].items():
            for method in methods:
                if path in ("/", "/ok", "/info", "/metrics") or (method == "get" and "{run_id}" in path):
                    continue
                ids = {"thread_id": alice.thread, "run_id": alice.running, "assistant_id": alice.assistant}
                filled = re.sub(r"\{(\w+)(:path)?\}", lambda found, ids=ids: ids.get(found[1], "x"), path)  # type: ignore[misc]
                body = BODIES.get(path, {"assistant_id": "agent", "graph_id": "agent", "thread_ids": [alice.thread]})
                answer = await holder.http.request(method.upper(), filled, json=body)
                assert answer.status_code in (403, 404, 422), (method, path, answer.text)
        for run in (alice.run, alice.stateless):
            await holder.get(f"/runs/{run}", status=404)
    # To leave would stop it.
    answer = await bob.http.get(f"{base}/stream?cancel_on_disconnect=1&token={token}", headers={"authorization": ""})
    assert answer.status_code == 403
    answer = await bob.http.get(f"{base}/join?cancel_on_disconnect=1&token={token}", headers={"authorization": ""})
    assert answer.status_code == 403
    assert (await client.get(alice.running)).status == Status.RUNNING


async def test_a_token_opens_a_websocket_of_its_run_alone(place: tuple[Owner, Owner, FastAPI]) -> None:
    alice, _, _ = place
    token = (await alice.post(f"/threads/{alice.thread}/runs/{alice.run}/token"))["token"]
    for run, code in ((alice.run, 1000), (alice.running, 4404)):
        url = f"ws://{alice.address}/threads/{alice.thread}/runs/{run}/stream?last_event_id=-1&token={token}"
        async with connect(url) as websocket:
            with contextlib.suppress(ConnectionClosedError):
                async for _ in websocket:
                    pass
            assert websocket.close_code == code


async def test_a_stream_ends_with_the_token_it_was_opened_with(place: tuple[Owner, Owner, FastAPI]) -> None:
    alice, _, _ = place
    base = f"/threads/{alice.thread}/runs/{alice.running}"
    token = (await alice.post(f"{base}/token", {"seconds": 1}))["token"]
    async with httpx.AsyncClient(base_url=f"http://{alice.address}", timeout=60) as http:
        broken = pytest.raises(httpx.RemoteProtocolError)  # an orderly end would be the run's
        async with http.stream("GET", f"{base}/stream?token={token}", headers={"last-event-id": "-1"}) as stream:
            assert stream.status_code == 200
            with broken:
                await stream.aread()
        assert (await http.get(f"{base}/stream?token={token}")).status_code == 401


# -- limits -----------------------------------------------------------------------------------------------------------


async def test_over_a_limit_nothing_is_enqueued_and_nothing_written(
    place: tuple[Owner, Owner, FastAPI], client: Client
) -> None:
    alice, _, _ = place
    key, _ = await ApiKeys(client).create("limited", limits={"runs": 2, "streams": 1, "request_bytes": 1000})
    waiting = {"assistant_id": "agent", "input": {"wait": True}}
    async with owner(alice.address, **{"x-api-key": key}) as limited:
        before = len(await client.runs())
        answer = await limited.http.post("/runs/batch", json=[waiting] * 3)
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert "detail" in answer.json()
        assert len(await client.runs()) == before
        runs = await limited.post("/runs/batch", [waiting] * 2)
        answer = await limited.http.post(f"/threads/{NOBODY}/runs", json={**waiting, "if_not_exists": "create"})
        assert answer.status_code == 429
        await limited.get(f"/threads/{NOBODY}", status=404)
        await client.stop(runs[0]["run_id"])
        await client.stop(runs[1]["run_id"])
        # Runs that were not enqueued take no place.
        for _ in range(4):
            await limited.post("/runs", {"assistant_id": NOBODY}, status=404)
            await limited.post("/runs/batch", [waiting, {**waiting, "command": {"resume": 1}}], status=400)
        last = await limited.post("/runs", waiting)

        url = f"/runs/{last['run_id']}/stream"
        async with limited.http.stream("GET", url) as stream:
            assert stream.status_code == 200
            assert (await limited.http.get(url)).status_code == 429
            there = len(await client.runs())
            for path in (
                "/runs/stream",
                "/runs/wait",
                f"/threads/{NOBODY}/runs/stream",
                f"/threads/{NOBODY}/runs/wait",
            ):
                answer = await limited.http.post(path, json={**waiting, "if_not_exists": "create"})
                assert answer.status_code == 429
            assert len(await client.runs()) == there

        async def has_place() -> bool:
            answer = await limited.http.post("/runs/stream", json={"assistant_id": NOBODY})
            return answer.status_code == 404

        # A stream that came to nothing takes no place, and one that was left gives it back.
        for _ in range(3):
            await until(has_place, "there is a place for a stream")
        large = {**waiting, "metadata": {"text": "x" * 1000}}
        assert (await limited.http.post("/runs", json=large)).status_code == 413
        await limited.post("/runs/cancel", {"status": "all"}, status=204)


# -- a project's own handlers -----------------------------------------------------------------------------------------


def handlers() -> Auth:
    """As LangGraph's documentation has them: nothing is allowed but what is one's own."""
    auth = Auth()

    @auth.authenticate
    async def authenticate(authorization: str | None) -> str:
        if not authorization:
            raise Auth.exceptions.HTTPException(status_code=401)
        return authorization.removeprefix("Bearer ")

    @auth.on
    async def deny(ctx: Auth.types.AuthContext, value: Any) -> bool:
        return False

    @auth.on.threads
    async def threads(ctx: Auth.types.AuthContext, value: dict[str, Any]) -> dict[str, str]:
        value.setdefault("metadata", {})["owner"] = ctx.user.identity
        return {"owner": ctx.user.identity}

    return auth


async def test_a_project_s_own_handlers_keep_users_apart(
    redis_url: str, namespace: str, client: Client, workers: Workers
) -> None:
    await workers.start(agent=graph())
    async with (
        served(redis_url, namespace, handlers()) as (address, _),
        owner(address, authorization="Bearer alice") as alice,
        owner(address, authorization="Bearer bob") as bob,
    ):
        thread = (await alice.post("/threads", {}))["thread_id"]
        body = {"assistant_id": "agent", "input": {"hidden": "42"}}
        # That nothing is said of assistants does not keep anybody from the graphs' own.
        answer = await alice.post(f"/threads/{thread}/runs/wait", body)
        assert answer["seen"] == ["alice", "alice"]
        stateless = await alice.post("/runs", body)
        await client.wait(stateless["run_id"])
        await alice.get(f"/runs/{stateless['run_id']}")
        assert len(await alice.post("/threads/search", {})) == 1

        await bob.get(f"/threads/{thread}", status=404)
        await bob.get(f"/runs/{stateless['run_id']}", status=404)
        await bob.post(f"/threads/{thread}/runs", body, status=404)
        assert await bob.post("/threads/search", {}) == []
        await bob.post("/assistants/search", {}, status=403)
