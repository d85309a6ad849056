"""The chat over HTTP, served by uvicorn, with readers that leave and come back."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

import httpx
import pytest
import uvicorn
from tests.examples.conftest import EXAMPLES
from tests.support.attempts import HandAttempt
from tests.support.waiting import until

from runstream import Client

pytestmark = pytest.mark.usefixtures("worker")


@dataclass(frozen=True)
class Frame:
    """One server-sent event."""

    id: str
    kind: str
    data: Any


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """A client of the example, which uvicorn serves on a port of its own."""
    spec = spec_from_file_location("fastapi_chat_app", EXAMPLES / "fastapi_chat" / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(module.app, log_level="warning", ws="none"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}") as http:
            yield http
        server.should_exit = True
        await serving


async def _frames(response: httpx.Response) -> AsyncIterator[Frame]:
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        else:
            yield Frame(fields["id"], fields["event"], json.loads(fields["data"]))
            fields = {}


async def _ask_and_leave(http: httpx.AsyncClient, *, after: int) -> tuple[str, list[Frame]]:
    """Ask, read some tokens, and close the connection; gives the place to read on."""
    seen: list[Frame] = []
    async with http.stream("POST", "/chat", json={"question": "Why is the sky blue?"}) as response:
        assert response.status_code == 200
        async for frame in _frames(response):
            seen.append(frame)
            if len(seen) == after:
                break
    return response.headers["location"], seen


async def _read(http: httpx.AsyncClient, place: str, last_event_id: str | None = None) -> list[Frame]:
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    async with http.stream("GET", place, headers=headers) as response:
        assert response.status_code == 200
        return [frame async for frame in _frames(response)]


async def test_a_reader_that_leaves_does_not_end_the_run_and_reads_on_where_it_was(
    http: httpx.AsyncClient, client: Client
) -> None:
    place, seen = await _ask_and_leave(http, after=3)
    run_id = place.rpartition("/")[2]
    assert (await client.get(run_id)).status == "running"

    rest = await _read(http, place, last_event_id=seen[-1].id)

    assert rest[-1].kind == "end"
    assert rest[-1].data["status"] == "success"
    assert (await client.get(run_id)).status == "success"
    whole = [*seen, *rest]
    assert len({frame.id for frame in whole}) == len(whole)
    assert whole == await _read(http, place)
    (_, answer) = (await client.result(run_id))["messages"]
    assert "".join(frame.data for frame in whole if frame.kind == "token") == answer["content"]


async def test_the_run_succeeds_when_nobody_comes_back(http: httpx.AsyncClient, client: Client) -> None:
    place, _ = await _ask_and_leave(http, after=1)

    assert (await client.wait(place.rpartition("/")[2])).status == "success"


async def test_a_run_is_stopped_on_request(http: httpx.AsyncClient, client: Client) -> None:
    place, _ = await _ask_and_leave(http, after=1)

    assert (await http.delete(place)).json() == {"status": "running"}

    async def stopped() -> bool:
        return (await client.get(place.rpartition("/")[2])).status == "stopped"

    await until(stopped, "the run is stopped")
    assert (await _read(http, place))[-1].data["reason"] == "the user pressed stop"


@pytest.mark.parametrize(("run_id", "status"), [("00000000-0000-7000-8000-000000000000", 404), ("no-id", 422)])
async def test_what_cannot_be_read_is_told(http: httpx.AsyncClient, run_id: str, status: int) -> None:
    assert (await http.get(f"/chat/{run_id}")).status_code == status


async def test_a_cursor_that_is_none_is_told(http: httpx.AsyncClient) -> None:
    place, _ = await _ask_and_leave(http, after=1)

    response = await http.get(place, headers={"Last-Event-ID": "seven"})

    assert response.status_code == 422
    assert "'seven' is no event id" in response.json()["detail"]


async def test_what_became_void_is_replaced_also_for_a_reader_that_comes_back(
    http: httpx.AsyncClient, make_hand: Callable[..., Awaitable[HandAttempt]]
) -> None:
    hand = await make_hand(stream_mode="messages")
    await hand.say("half an answ")
    await hand.take_over(all=True, count=1)
    await hand.say("an answer", message_id="another")
    await hand.end()

    whole = await _read(http, f"/chat/{hand.run_id}")

    assert [(frame.kind, frame.data) for frame in whole[:-1]] == [
        ("token", "half an answ"),
        ("replace", ""),
        ("token", "an answer"),
    ]
    assert await _read(http, f"/chat/{hand.run_id}", last_event_id=whole[0].id) == whole[1:]
