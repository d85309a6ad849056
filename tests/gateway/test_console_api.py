"""What the console asks: who may see what, and the page itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypedDict

import httpx
import pytest
from langgraph.graph import START, StateGraph
from langgraph_sdk import Auth
from redis.asyncio.connection import AbstractConnection
from tests.support.unsent import unsent
from tests.support.workers import Workers

from runstream import Client, RunSpec
from runstream.keys import Keys
from runstream_gateway.app import create_app
from runstream_gateway.core import open_gateway
from runstream_gateway.settings import GatewaySettings
from runstream_worker.graphs import graph_source

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
UNKNOWN = "00000000-0000-4000-8000-000000000000"


class State(TypedDict):
    text: str


def graph() -> Any:
    def shout(state: State) -> State:
        if state["text"] == "fail":
            raise OSError("the password is 1234")
        return {"text": state["text"].upper()}

    return StateGraph(State).add_node("shout", shout).add_edge(START, "shout").compile()


def by_name() -> Auth:
    """Everybody sees what is theirs; who they are, they say themselves."""
    auth = Auth()

    @auth.authenticate
    async def who(headers: dict[bytes, bytes]) -> str:
        name = headers.get(b"x-api-key", b"").decode()
        if not name:
            raise Auth.exceptions.HTTPException(status_code=401, detail="who are you?")
        return name

    @auth.on
    async def own(ctx: Auth.types.AuthContext, value: dict[str, Any]) -> dict[str, str]:
        value.setdefault("metadata", {})["owner"] = ctx.user.identity
        return {"owner": ctx.user.identity}

    return auth


@asynccontextmanager
async def serving(url: str, namespace: str, auth: Auth | None = None) -> AsyncIterator[httpx.AsyncClient]:
    settings = GatewaySettings(redis_url=url, namespace=namespace)
    async with open_gateway({"agent": graph_source("agent", graph())}, settings, auth=auth) as gateway:
        transport = httpx.ASGITransport(create_app(gateway))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            yield http


@pytest.fixture
async def http(redis_url: str, namespace: str) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(redis_url, namespace) as http:
        yield http


def events_of(response: httpx.Response) -> list[tuple[str, str, Any]]:
    """The names, ids and data of a stream's events."""
    blocks = [block for block in response.text.split("\r\n\r\n") if block.startswith("event: ")]
    fields = [dict(line.split(": ", 1) for line in block.split("\r\n")) for block in blocks]
    return [(each["event"], each.get("id", ""), json.loads(each["data"])) for each in fields]


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("text/*", True),
        ("text/html;q=0.9,application/json", False),
        ("application/json", False),
        ("*/*", False),
        ("", False),
        ("text/html;q=nonsense", False),
    ],
)
async def test_browsers_get_the_page_and_clients_what_they_expect(
    http: httpx.AsyncClient, accept: str, is_page: bool
) -> None:
    response = await http.get("/", headers={"accept": accept})

    assert response.status_code == 200
    assert response.headers["vary"].startswith("accept")
    if is_page:
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        assert response.text.startswith("<!doctype html>")
    else:
        assert response.json() == {"ok": True}


async def test_the_page_is_all_there_and_lets_nothing_else_in(http: httpx.AsyncClient) -> None:
    page = await http.get("/", headers={"accept": BROWSER})
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for marker in ("<style", " style=", " on", "http://", "https://", 'src="/', 'href="/'):
        assert marker not in page.text.split("<body>")[0].replace("content=", ""), marker
    for name, kind in (("app.js", "text/javascript"), ("console.css", "text/css"), ("icon.svg", "image/svg+xml")):
        assert f"console/static/{name}" in page.text
        response = await http.get(f"/console/static/{name}")
        assert response.headers["content-type"].startswith(kind)
        assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "name", ["nothing.js", "index.html", "%2e%2e%2fapp.py", "..%2Froutes%2Fconsole.py", "..", "x%00.js"]
)
async def test_no_other_file_is_served(http: httpx.AsyncClient, name: str) -> None:
    assert (await http.get(f"/console/static/{name}")).status_code == 404


async def test_runs_that_came_another_way_are_shown_too(
    http: httpx.AsyncClient, client: Client, workers: Workers
) -> None:
    await workers.start(agent=graph())
    run = await client.enqueue("agent", {"text": "hello " * 100}, stream_mode="updates", metadata={"from": "a backend"})
    await client.wait(run.run_id)

    (shown,) = (await http.get("/console/runs")).json()
    assert (shown["run_id"], shown["status"], shown["attempt"]) == (run.run_id, "success", 1)
    assert (shown["graph"], shown["metadata"], shown["holders"]) == ("agent", {"from": "a backend"}, [])
    titles = (await http.get("/console/titles", params={"run_id": [run.run_id, UNKNOWN]})).json()
    assert list(titles) == [run.run_id]
    assert titles[run.run_id].startswith('{"text":"hello hello')
    assert len(titles[run.run_id]) == 201
    detail = (await http.get(f"/console/runs/{run.run_id}")).json()
    assert detail["input"] == {"text": "hello " * 100}
    state = (await http.get(f"/console/runs/{run.run_id}/state")).json()
    assert state["values"] == {"text": "HELLO " * 100}
    (worker,) = (await http.get("/console/workers")).json()
    assert worker["worker_id"] == shown["worker"]


async def test_events_are_told_as_they_are_from_any_place(
    http: httpx.AsyncClient, client: Client, workers: Workers
) -> None:
    await workers.start(agent=graph())
    run = await client.enqueue("agent", {"text": "hello"}, stream_mode="updates")
    await client.wait(run.run_id)
    path = f"/console/runs/{run.run_id}/events"

    events = events_of(await http.get(path))

    assert [(name, event_id) for name, event_id, _ in events] == [
        ("attempt", "1-0"),
        ("updates", "1-1"),
        ("end", "1-2"),
    ]
    assert events[1][2]["data"] == {"shout": {"text": "HELLO"}}
    assert events[1][2]["task"]
    assert events_of(await http.get(path, headers={"last-event-id": "1-0"})) == events[1:]
    assert events_of(await http.get(path, headers={"last-event-id": "1-2"})) == []
    assert (await http.get(path, headers={"last-event-id": "yesterday"})).status_code == 422


async def test_errors_say_no_more_than_elsewhere(http: httpx.AsyncClient, client: Client, workers: Workers) -> None:
    await workers.start(agent=graph())
    run = await client.enqueue("agent", {"text": "fail"}, stream_mode="updates")
    await asyncio.gather(client.wait(run.run_id), return_exceptions=True)

    for path in ("/console/runs", f"/console/runs/{run.run_id}", f"/console/runs/{run.run_id}/events"):
        text = (await http.get(path)).text
        assert "OSError" in text
        assert "1234" not in text


async def test_an_error_of_the_system_is_503_too(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runstream_gateway.core._CALL_TIMEOUT", 0.2)
    async with serving(redis_url, namespace) as http:
        with unsent(Keys(namespace).runs, OSError("no route")):
            answer = await http.get("/console/runs")
    assert (answer.status_code, answer.json()) == (503, {"detail": "Redis cannot be reached"})
    assert answer.headers["retry-after"] == "1"


async def test_what_is_another_s_is_not_looked_at_one_by_one(redis_url: str, namespace: str, client: Client) -> None:
    await client.enqueue_many([RunSpec("agent", {"text": "from a backend"}, {}) for _ in range(250)])
    async with serving(redis_url, namespace, by_name()) as http:
        sent = 0
        send = AbstractConnection.send_packed_command

        async def count(self: AbstractConnection, command: Any, *rest: Any, **others: Any) -> None:
            nonlocal sent
            sent += 1
            await send(self, command, *rest, **others)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(AbstractConnection, "send_packed_command", count)
            found = await http.get("/console/runs", headers={"x-api-key": "ada"}, params={"limit": 1})
    assert found.json() == []
    assert sent < 20


async def test_titles_are_read_side_by_side_and_not_all_at_once(http: httpx.AsyncClient, client: Client) -> None:
    runs = await client.enqueue_many([RunSpec("agent", {"text": f"{number}"}, {}) for number in range(30)])
    waiting, most = 0, 0
    send, read = AbstractConnection.send_packed_command, AbstractConnection.read_response

    async def count(self: AbstractConnection, *rest: Any, **others: Any) -> None:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        await send(self, *rest, **others)

    async def answer(self: AbstractConnection, *rest: Any, **others: Any) -> Any:
        nonlocal waiting
        try:
            return await read(self, *rest, **others)
        finally:
            waiting = max(0, waiting - 1)  # a pipeline is sent at once

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AbstractConnection, "send_packed_command", count)
        patch.setattr(AbstractConnection, "read_response", answer)
        titles = (await http.get("/console/titles", params={"run_id": [run.run_id for run in runs]})).json()
    assert titles == {run.run_id: f'{{"text":"{number}"}}' for number, run in enumerate(runs)}
    assert 5 < most <= 20  # a new connection sends a few by itself


async def test_nobody_sees_what_is_another_s(redis_url: str, namespace: str, workers: Workers, client: Client) -> None:
    await workers.start(agent=graph())
    nobodys = await client.enqueue("agent", {"text": "from a backend"}, stream_mode="updates")
    async with serving(redis_url, namespace, by_name()) as http:
        runs: dict[str, str] = {}
        for name in ("ada", "bob"):
            headers = {"x-api-key": name}
            thread = (await http.post("/threads", json={}, headers=headers)).json()
            body = {"assistant_id": "agent", "input": {"text": f"{name}'s"}}
            run = await http.post(f"/threads/{thread['thread_id']}/runs", json=body, headers=headers)
            assert run.status_code == 200, run.text
            runs[name] = run.json()["run_id"]
            await client.wait(runs[name])

        for name, other in (("ada", "bob"), ("bob", "ada")):
            headers = {"x-api-key": name}
            shown = (await http.get("/console/runs", headers=headers, params={"limit": 1})).json()
            assert [run["run_id"] for run in shown] == [runs[name]]
            asked = {"run_id": [*runs.values(), nobodys.run_id]}
            titles = (await http.get("/console/titles", headers=headers, params=asked)).json()
            assert titles == {runs[name]: f'{{"text":"{name}\'s"}}'}
            assert (await http.get("/console/workers", headers=headers)).json() is None
            for leaf in ("", "/state", "/events"):
                assert (await http.get(f"/console/runs/{runs[name]}{leaf}", headers=headers)).status_code == 200
                for hidden in (runs[other], nobodys.run_id, UNKNOWN):
                    response = await http.get(f"/console/runs/{hidden}{leaf}", headers=headers)
                    assert (response.status_code, response.json()) == (404, {"detail": f"run '{hidden}' not found"})

        for path in (
            "runs",
            "titles?run_id=x",
            "workers",
            *(f"runs/{runs['ada']}{leaf}" for leaf in ("", "/state", "/events")),
        ):
            assert (await http.get(f"/console/{path}")).status_code == 401
        assert (await http.get("/", headers={"accept": BROWSER})).status_code == 200
        assert (await http.get("/console/static/app.js")).status_code == 200
