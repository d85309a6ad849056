"""Bodies that are sent to do harm: large, deep, many, slow, compressed; with a key and without."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
import pytest
from tests.gateway.served import Served, served_beside, turn
from tests.gateway.test_slow_clients import Answer, connected, say
from tests.security.probing import MEGABYTE, probed
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError

_LARGEST: Final = 10 * MEGABYTE
_EMPTY_LISTS: Final = b"[" + b"[]," * (_LARGEST // 3 - 2) + b"[]]"
_AT_ONCE: Final = 8


@pytest.fixture(scope="module")
def keyed() -> Iterator[Served]:
    """A gateway that asks for keys."""
    with served_beside("--api-keys") as gateway:
        yield gateway


@pytest.fixture(scope="module")
def opened() -> Iterator[Served]:
    """A gateway that asks nobody for anything."""
    with served_beside("--body-timeout", "3") as gateway:
        yield gateway


@asynccontextmanager
async def _client(gateway: Served, key: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    headers = {} if key is None else {"x-api-key": key}
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=60) as http:
        # What is made once for a process is not to be counted as growth.
        (await http.post("/runs", json=turn("hi"))).read()
        yield http


async def _key(gateway: Served, name: str) -> str:
    made = await gateway.processes.run("keys", "create", name, "--json")
    assert made.code == 0, made.err
    return str(made.json["key"])


async def _send(http: httpx.AsyncClient, path: str, body: bytes, times: int = _AT_ONCE) -> set[tuple[int, str]]:
    """Send a body several times at once; what it is answered with."""
    answers = await asyncio.gather(*(http.post(path, content=body) for _ in range(times)))
    return {(answer.status_code, answer.text) for answer in answers}


async def test_ten_megabytes_without_a_key_are_not_read(keyed: Served) -> None:
    async with _client(keyed) as http, probed(keyed) as probe:
        for path in ("/runs", "/threads", "/threads/search", "/assistants", "/runs/batch", "/runs/cancel"):
            answers = await _send(http, path, _EMPTY_LISTS)
            assert {status for status, _ in answers} == {401}, answers
    probe.figures.check(grew=32 * MEGABYTE)


def _run(value: Any) -> bytes:
    return json.dumps({"assistant_id": "chat", "input": value}, separators=(",", ":"), ensure_ascii=False).encode()


def _raw(text: bytes) -> bytes:
    return b'{"assistant_id":"chat","input":' + text + b"}"


def _many(item: bytes, room: int = _LARGEST - 1000) -> bytes:
    return b"[" + b",".join([item] * (room // (len(item) + 1))) + b"]"


REFUSED: Final[dict[str, tuple[bytes, int, str]]] = {
    "empty lists": (_EMPTY_LISTS, 413, "50,000 values"),
    "empty objects": (_raw(_many(b"{}")), 413, "50,000 values"),
    "numbers": (_raw(_many(b"1")), 413, "50,000 values"),
    "texts": (_raw(_many(b'""')), 413, "50,000 values"),
    "keys": (_raw(b"{" + b",".join(b'"%d":1' % one for one in range(800_000)) + b"}"), 413, "50,000 values"),
    "the same key": (_raw(b"{" + b'"a":1,' * 1_700_000 + b'"a":1}'), 413, "50,000 values"),
    "long numbers": (_raw(_many(b"9" * 4000)), 413, "400 digits"),
    "commas in texts and out of them": (_raw(_many(b'"\\",[\\\\"')), 413, "50,000 values"),
    "blanks": (b" " * _LARGEST, 422, "not JSON"),
    "brackets that close": (b"]" * _LARGEST, 422, "not JSON"),
    "colons": (b":" * _LARGEST, 413, "50,000 values"),
    "quotes": (b'"' * _LARGEST, 413, "50,000 values"),
    "backslashes": (b"\\" * _LARGEST, 422, "not JSON"),
    "levels": (b"[" * 49_000, 422, "nested too deep"),
    "one too large": (b" " * (_LARGEST + 1), 413, "10,485,760 bytes"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_body_that_costs_much_is_refused_before_it_is_parsed(opened: Served, name: str) -> None:
    body, status, words = REFUSED[name]
    async with _client(opened) as http, probed(opened) as probe:
        # Four bodies of the largest size are what one address may have on their way.
        for path in ("/runs", "/threads/search"):
            answers = await _send(http, path, body, 3)
            assert {one for one, _ in answers} == {status}, (path, answers)
            assert all(words in text and len(text) < 500 for _, text in answers), answers
    probe.figures.check(grew=160 * MEGABYTE)


def _nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


TAKEN: Final[dict[str, bytes]] = {
    "a text of the largest size": _run({"messages": [{"role": "user", "content": "a," * (_LARGEST // 2 - 1000)}]}),
    "objects": _run({"x": [{"a": {}} for _ in range(16_000)]}),
    "lists": _run({"x": [[] for _ in range(24_000)]}),
    "levels": _run({"x": [_nested(80) for _ in range(600)]}),
    "keys": _run({"x": {f"k{at}": at for at in range(49_000)}}),
    "long numbers": _run({"x": [10**390 + at for at in range(20_000)]}),
    "texts": _run({"x": ["é" * 100 for _ in range(45_000)]}),
    "a batch": json.dumps([turn("hi")] * 1000).encode(),
}


@pytest.mark.parametrize("name", TAKEN)
async def test_the_largest_bodies_that_are_taken_hold_nobody_up(opened: Served, name: str) -> None:
    path = "/runs/batch" if name == "a batch" else "/runs"
    async with _client(opened) as http, probed(opened) as probe:
        for _ in range(2):
            answers = await _send(http, path, TAKEN[name], 3)
            assert {status for status, _ in answers} == {200}, (name, [text[:200] for _, text in answers])
    probe.figures.check(grew=256 * MEGABYTE)


WRONG: Final[dict[str, tuple[str, Any]]] = {
    "stream modes": ("/runs", {"assistant_id": "chat", "stream_mode": [5] * 45_000}),
    "nodes": ("/runs", {"assistant_id": "chat", "interrupt_before": [5] * 45_000}),
    "extracts": ("/threads/search", {"extract": {str(at): 5 for at in range(45_000)}}),
    "runs of a batch": ("/runs/batch", [{}] * 24_000),
    "steps": ("/threads", {"supersteps": [{"updates": [5] * 900}] * 50}),
    "ids": ("/threads/search", {"ids": [5] * 45_000}),
    "fields": ("/assistants/search", {"select": ["x"] * 45_000}),
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_body_that_is_wrong_in_very_many_places_holds_nobody_up(opened: Served, name: str) -> None:
    path, body = WRONG[name]
    async with _client(opened) as http, probed(opened) as probe:
        answers = await _send(http, path, json.dumps(body).encode())
        assert {status for status, _ in answers} == {422}, answers
        assert all("wrong" in text or "more" in text or "at most" in text for _, text in answers), answers
    probe.figures.check(grew=64 * MEGABYTE)


_HEAD: Final = b"POST /runs HTTP/1.1\r\nHost: gateway\r\n"


async def test_who_calls_is_asked_before_how_large_and_that_before_what_it_says(keyed: Served) -> None:
    key = f"x-api-key: {await _key(keyed, 'order')}\r\n".encode()
    too_large = b"Content-Length: 99999999\r\n\r\n"
    chunks = b"Transfer-Encoding: chunked\r\n\r\n" + b"100000\r\n" + b"a" * 0x100000 + b"\r\n"
    wrong = b"Content-Length: 1\r\n\r\n{"
    asked = {
        "a large one of nobody": (too_large, 401),
        "an endless one of nobody": (chunks, 401),
        "a wrong one of nobody": (wrong, 401),
        "a wrong key's": (b"x-api-key: rs_" + b"a" * 43 + b"\r\n" + too_large, 401),
        "a large one": (key + too_large, 413),
        "an endless one": (key + chunks + (b"100000\r\n" + b"a" * 0x100000 + b"\r\n") * 10, 413),
        "a wrong one": (key + b"Connection: close\r\n" + wrong, 422),
        "a packed one": (key + b"Content-Encoding: gzip\r\n" + wrong, 415),
    }
    answers = await asyncio.gather(*(_first_of(keyed, _HEAD + sent) for sent, _ in asked.values()))
    found = {name: answer.status for name, answer in zip(asked, answers, strict=True)}
    assert found == {name: status for name, (_, status) in asked.items()}


async def _first_of(gateway: Served, sent: bytes) -> Answer:
    """Send this and read the head of the answer, whatever else is still to be sent."""
    async with connected(gateway) as (reader, writer):
        writer.write(sent)
        async with asyncio.timeout(60):
            return Answer(await reader.readuntil(b"\r\n\r\n"))


async def test_slow_bodies_keep_no_more_than_a_share_and_others_are_served(opened: Served) -> None:
    begun = _HEAD + b"Content-Length: 10000000\r\n\r\n" + b" " * 9_000_000
    async with _client(opened) as http, probed(opened) as probe:
        sending = [asyncio.create_task(say(opened, begun)) for _ in range(12)]
        answers = await asyncio.gather(*sending)
        assert {answer.status for answer in answers} == {408, 429}
        # What was kept is free again.
        assert {status for status, _ in await _send(http, "/runs", TAKEN["a text of the largest size"], 2)} == {200}
    probe.figures.check(grew=256 * MEGABYTE)


async def test_a_storm_of_wrong_keys_keeps_nobody_out(keyed: Served) -> None:
    key = await _key(keyed, "calm")
    async with _client(keyed, key) as http, probed(keyed) as probe:
        wrong = [{"x-api-key": f"rs_{at:043d}"} for at in range(600)]
        storm = asyncio.gather(*(http.get("/threads/x/state", headers=one) for one in wrong))
        while not storm.done():
            assert (await http.post("/threads/search", json={})).status_code == 200
        assert {answer.status_code for answer in await storm} == {401}
    probe.figures.check(grew=32 * MEGABYTE)


async def test_heads_that_take_long_to_look_at_are_refused(opened: Served) -> None:
    get = b"GET /threads HTTP/1.1\r\nHost: gateway\r\n"
    async with probed(opened) as probe:
        asked = {
            b"GET /threads?" + b"&token=a" * 2_100 + b" HTTP/1.1\r\nHost: gateway\r\n\r\n": 414,
            b"GET /" + b"a/" * 9_000 + b" HTTP/1.1\r\nHost: gateway\r\n\r\n": 414,
            get + b"a:b\r\n" * 10_000 + b"\r\n": 431,
            get + b"a: " + b"b" * 66_000 + b"\r\n\r\n": 431,
        }
        for sent, status in asked.items():
            answers = await asyncio.gather(*(say(opened, sent) for _ in range(20)))
            assert {answer.status for answer in answers} == {status}
    probe.figures.check(grew=32 * MEGABYTE)


async def test_large_messages_over_a_websocket_are_not_kept(opened: Served) -> None:
    async with _client(opened) as http, probed(opened) as probe:
        run = (await http.post("/runs", json={"assistant_id": "slow", "input": {"ticks": 1, "delay": 600}})).json()
        place = f"/threads/{run['thread_id']}/runs/{run['run_id']}/stream"
        for _ in range(_AT_ONCE):
            async with connect(f"ws://{opened.url.removeprefix('http://')}{place}") as websocket:
                with pytest.raises(ConnectionClosedError):
                    await _shout(websocket)
        assert (await http.post(f"{place.removesuffix('stream')}cancel")).is_success
    probe.figures.check(grew=32 * MEGABYTE)


async def _shout(websocket: ClientConnection) -> None:
    await websocket.send("[" * (10 * MEGABYTE))
    await websocket.recv()
