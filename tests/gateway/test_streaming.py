"""Answers that last, as a server sees them: what is sent, and what becomes of a run when they break off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, TypedDict

import httpx
import pytest
from langgraph.graph import START, StateGraph
from starlette.types import ASGIApp, Message
from tests.support.attempts import HandAttempt
from tests.support.waiting import until

from runstream import Client, Status
from runstream_gateway.app import create_app
from runstream_gateway.core import Gateway, open_gateway
from runstream_gateway.frames import HEARTBEAT, Frame
from runstream_gateway.settings import Cors, GatewaySettings
from runstream_gateway.streaming import AwaitedResponse, FrameResponse, OpenStreams, TextResponse, TimedStreams
from runstream_worker.graphs import graph_source

PLACE = {"location": "/threads/t/runs/r/stream"}


class Exchange:
    """One request or WebSocket, as a server hands it to an application.

    Args:
        app: that answers.
        opening: what comes first.
        fails_at: a text; the connection breaks when it is to be sent.
    """

    def __init__(self, app: ASGIApp, scope: Mapping[str, Any], opening: Message, *, fails_at: str = "") -> None:
        self.sent: list[Message] = []
        self._coming: asyncio.Queue[Message] = asyncio.Queue()
        self._coming.put_nowait(opening)
        self._fails_at = fails_at
        self._app = app
        self._task = asyncio.create_task(self._serve(dict(scope)))

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def closed_with(self) -> int | None:
        return next((message["code"] for message in self.sent if message["type"] == "websocket.close"), None)

    def leave(self, told: str = "http.disconnect") -> None:
        self._coming.put_nowait({"type": told})

    async def over(self) -> None:
        """Wait until the application is through with it; raises what it has raised."""
        await asyncio.wait_for(self._task, 20)

    async def _serve(self, scope: dict[str, Any]) -> None:
        await self._app(scope, self._coming.get, self._send)

    async def _send(self, message: Message) -> None:
        await asyncio.sleep(0)
        if self._fails_at and self._fails_at in message.get("text", ""):
            raise OSError("the connection is broken")
        self.sent.append(message)


def get(app: ASGIApp, path: str = "/", query: str = "", **headers: str) -> Exchange:
    return Exchange(
        app, _scope("http", path, query, headers), {"type": "http.request", "body": b"", "more_body": False}
    )


def websocket(app: ASGIApp, path: str, *, fails_at: str = "", query: str = "", **headers: str) -> Exchange:
    scope = _scope("websocket", path, f"last_event_id=-1&{query}", headers)
    return Exchange(app, scope, {"type": "websocket.connect"}, fails_at=fails_at)


def _scope(kind: str, path: str, query: str, headers: Mapping[str, str]) -> dict[str, Any]:
    return {
        "type": kind,
        "method": "GET",
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in {"host": "gateway", **headers}.items()],
    }


class Count(TypedDict):
    count: int


@asynccontextmanager
async def serving(
    url: str, namespace: str, **options: Any
) -> AsyncIterator[tuple[Gateway, ASGIApp, httpx.AsyncClient]]:
    """A gateway in this process, without a worker."""
    graph = StateGraph(Count).add_node("same", lambda state: state).add_edge(START, "same").compile()
    settings = GatewaySettings(redis_url=url, namespace=namespace, **options)
    async with open_gateway({"agent": graph_source("agent", graph)}, settings) as gateway:
        app = create_app(gateway)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as http:
            yield gateway, app, http


# --- a gateway that leaves --------------------------------------------------------------------------------------------


async def _never() -> bytes:
    await asyncio.Event().wait()
    return b""


async def _no_words() -> AsyncGenerator[str, None]:
    await _never()
    yield ""


class Silent:
    """A source that has nothing to say."""

    async def batch(self) -> list[Frame] | None:
        await _never()
        return None


@asynccontextmanager
async def silence() -> AsyncIterator[Silent]:
    yield Silent()


@pytest.mark.parametrize("kind", ["frames", "words", "result"])
async def test_an_answer_that_comes_too_late_still_says_where_to_come_back(kind: str) -> None:
    # Without a beginning the server makes it a 500, at which clients create the run, which is there, once more.
    open_streams = OpenStreams()
    open_streams.close()
    streams, slot = TimedStreams(open_streams, float("inf")), AsyncExitStack()
    answer = get(
        FrameResponse(silence, streams, slot, heartbeat=1, headers=PLACE)
        if kind == "frames"
        else TextResponse(_no_words, streams, slot, headers=PLACE)
        if kind == "words"
        else AwaitedResponse(_never, streams, slot, heartbeat=1, headers=PLACE)
    )
    await answer.over()
    (start,) = answer.sent
    assert (start["type"], start["status"]) == ("http.response.start", 200)
    assert dict(start["headers"])[b"location"] == PLACE["location"].encode()


@pytest.mark.parametrize("path", ["/runs", "/runs/stream", "/runs/wait", "/runs/batch"])
async def test_a_gateway_that_leaves_creates_no_runs(client: Client, redis_url: str, namespace: str, path: str) -> None:
    body: Any = {"assistant_id": "agent", "input": {"count": 1}}
    async with serving(redis_url, namespace) as (gateway, _, http):
        gateway.streams.close()
        refused = await http.post(path, json=[body] if path.endswith("batch") else body)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert await client.runs() == []


@pytest.mark.parametrize("who", ["client", "gateway"])
async def test_a_cancellation_that_is_lost_is_repeated(who: str) -> None:
    # What waits for an answer of Redis may lose one that comes in the same turn of the loop as the answer.
    is_waiting = asyncio.Event()

    class Forgetful:
        async def batch(self) -> list[Frame] | None:
            with suppress(asyncio.CancelledError):
                is_waiting.set()
                await _never()
            await _never()
            return None

    @asynccontextmanager
    async def source() -> AsyncIterator[Forgetful]:
        yield Forgetful()

    streams = OpenStreams()
    answer = get(FrameResponse(source, TimedStreams(streams, float("inf")), AsyncExitStack(), heartbeat=10))
    await is_waiting.wait()
    if who == "client":
        answer.leave()
    else:
        streams.close()
    await answer.over()
    assert len(streams) == 0


# --- heartbeats -------------------------------------------------------------------------------------------------------


async def test_what_takes_longer_than_the_heartbeat_comes() -> None:
    may_come, asked = asyncio.Event(), 0

    class Slow:
        async def batch(self) -> list[Frame] | None:
            nonlocal asked
            asked += 1
            if asked > 1:
                return None
            await may_come.wait()
            return [Frame("custom", b"1", "1-1")]

    @asynccontextmanager
    async def source() -> AsyncIterator[Slow]:
        yield Slow()

    streams = TimedStreams(OpenStreams(), float("inf"))
    answer = get(FrameResponse(source, streams, AsyncExitStack(), heartbeat=0.02))
    await until(lambda: answer.body.count(HEARTBEAT) > 2, "there were a few heartbeats")
    may_come.set()
    await answer.over()
    assert asked == 2
    assert answer.body.replace(HEARTBEAT, b"") == Frame("custom", b"1", "1-1").sse
    assert answer.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_a_result_that_takes_longer_than_the_heartbeat_comes() -> None:
    may_come = asyncio.Event()

    async def result() -> bytes:
        await may_come.wait()
        return b"{}"

    streams = TimedStreams(OpenStreams(), float("inf"))
    answer = get(AwaitedResponse(result, streams, AsyncExitStack(), heartbeat=0.02))
    await until(lambda: answer.body.count(b"\n") > 2, "there were a few line breaks")
    may_come.set()
    await answer.over()
    assert json.loads(answer.body) == {}


# --- words ------------------------------------------------------------------------------------------------------------


async def test_who_leaves_while_words_are_sent_frees_what_gives_them() -> None:
    is_free = False

    async def words() -> AsyncGenerator[str, None]:
        nonlocal is_free
        try:
            while True:
                yield "word "
        finally:
            await asyncio.sleep(0)
            is_free = True

    answer = get(TextResponse(words, TimedStreams(OpenStreams(), float("inf")), AsyncExitStack()))
    await until(lambda: answer.body.count(b"word") > 10, "words are sent")
    answer.leave()
    await answer.over()
    assert is_free


@pytest.mark.parametrize("stateless", [True, False])
async def test_a_run_without_words_is_refused_before_it_is_there(
    client: Client, redis_url: str, namespace: str, stateless: bool
) -> None:
    async with serving(redis_url, namespace) as (_, _, http):
        thread = "" if stateless else f"/threads/{(await http.post('/threads', json={})).json()['thread_id']}"
        body = {"assistant_id": "agent", "input": {"count": 1}, "stream_mode": ["values"]}
        refused = await http.post(f"{thread}/runs/stream", json=body, headers={"accept": "text/plain"})
    assert refused.status_code == 422
    assert "messages-tuple" in refused.json()["detail"]
    assert await client.runs() == []


@pytest.mark.parametrize("stateless", [True, False])
async def test_a_reader_of_words_may_stop_the_run_by_leaving(
    client: Client, redis_url: str, namespace: str, stateless: bool
) -> None:
    run = await client.enqueue("agent", {"count": 1}, stream_mode=["messages"])
    path = f"/runs/{run.run_id}/stream" if stateless else f"/threads/{run.thread_id}/runs/{run.run_id}/stream"
    async with serving(redis_url, namespace) as (_, app, _):
        for query, status in (("", Status.QUEUED), ("cancel_on_disconnect=1", Status.STOPPED)):
            answer = get(app, path, query, accept="text/plain")
            await until(lambda answer=answer: bool(answer.sent), "the answer has begun")  # type: ignore[misc] # bound now
            answer.leave()
            await answer.over()
            assert (await client.get(run.run_id)).status is status


# --- WebSockets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("query", "status"), [("", Status.QUEUED), ("cancel_on_disconnect=1", Status.STOPPED)])
async def test_a_reader_on_a_websocket_may_stop_the_run_by_leaving(
    client: Client, redis_url: str, namespace: str, query: str, status: Status
) -> None:
    run = await client.enqueue("agent", {"count": 1})
    async with serving(redis_url, namespace) as (gateway, app, _):
        exchange = websocket(app, _path(run.run_id, run.thread_id), query=query)
        await until(lambda: gateway.client.tails_watching == 1, "it waits for events")
        exchange.leave("websocket.disconnect")
        await exchange.over()
    assert (await client.get(run.run_id)).status is status


def _path(run_id: str, thread_id: str) -> str:
    return f"/threads/{thread_id}/runs/{run_id}/stream"


async def test_pages_of_other_origins_may_open_a_websocket_where_they_may_call(
    hand: HandAttempt, client: Client, redis_url: str, namespace: str
) -> None:
    await hand.end()
    path = _path(hand.run_id, (await client.get(hand.run_id)).thread_id)
    cors = Cors(allow_origins=("https://app.example",), allow_origin_regex=r"https://.*\.app\.example")
    cases = {
        "https://app.example": 1000,
        "https://new.app.example": 1000,
        "http://gateway": 1000,  # its own pages
        "": 1000,  # no browser
        "https://evil.example": 4403,
        "https://app.example.evil.example": 4403,
        "null": 4403,
    }
    async with serving(redis_url, namespace, cors=cors) as (_, app, _):
        for origin, code in cases.items():
            exchange = websocket(app, path, **({"origin": origin} if origin else {}))
            await exchange.over()
            assert exchange.closed_with == code, origin
            said = [json.loads(message["text"])["event"] for message in exchange.sent if "text" in message]
            assert said == (["metadata", "end"] if code == 1000 else [])
    async with serving(redis_url, namespace) as (_, app, _):
        exchange = websocket(app, path, origin="https://evil.example")  # by default all may
        await exchange.over()
        assert exchange.closed_with == 1000


async def test_who_leaves_a_websocket_while_it_is_sent_something_is_no_failure(
    hand: HandAttempt, client: Client, redis_url: str, namespace: str
) -> None:
    path = _path(hand.run_id, (await client.get(hand.run_id)).thread_id)
    async with serving(redis_url, namespace) as (gateway, app, _):
        exchange = websocket(app, path, fails_at='"metadata"')
        await exchange.over()
        assert exchange.closed_with is None
        assert len(gateway.streams) == 0


async def test_an_event_that_cannot_be_read_closes_a_websocket_with_its_reason(
    hand: HandAttempt, client: Client, redis_url: str, namespace: str
) -> None:
    await hand.append(b"from another version")
    path = _path(hand.run_id, (await client.get(hand.run_id)).thread_id)
    async with serving(redis_url, namespace) as (_, app, _):
        exchange = websocket(app, path)
        await exchange.over()
    assert exchange.closed_with == 1011
    assert "1-1" in exchange.sent[-1]["reason"]
