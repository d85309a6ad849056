"""Clients that take for ever, that open thousands of connections, or that speak old or odd HTTP: over real sockets."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx
import psutil
import pytest
from tests.gateway.served import Served, check_it_still_serves, served, served_beside, turn
from tests.support.waiting import until

_HOST: Final = b"Host: gateway\r\n"
_CLOSE: Final = _HOST + b"Connection: close\r\n"
_GET: Final = b"GET /ok?check_db=false HTTP/1.1\r\n"
_TURN: Final = json.dumps(turn("hi")).encode()
_MANY: Final = 1000
_MEGABYTE: Final = 1024 * 1024
_KEPT: Final = 40
"""Connections to Redis that a busy process has more of than an idle one, and keeps."""


@pytest.fixture(scope="module")
def gateway() -> Iterator[Served]:
    """A gateway with little patience."""
    with served_beside("--head-timeout", "1", "--body-timeout", "1") as gateway:
        yield gateway


@dataclass(frozen=True)
class Answer:
    """What has come on a connection until the other side closed it."""

    raw: bytes

    @property
    def status(self) -> int:
        return int(self.raw.split(b" ", 2)[1]) if self.raw else 0

    @property
    def detail(self) -> str:
        return str(json.loads(self.raw.partition(b"\r\n\r\n")[2])["detail"])


@asynccontextmanager
async def connected(gateway: Served) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(*gateway.address)
    try:
        yield reader, writer
    finally:
        writer.close()


async def say(gateway: Served, *parts: bytes, drip: bytes = b"") -> Answer:
    """Send this, then a bit of `drip` now and then, until the other side has closed the connection."""
    async with connected(gateway) as (reader, writer):
        writer.write(b"".join(parts))
        dripping = asyncio.create_task(_drip(writer, drip)) if drip else None
        try:
            async with asyncio.timeout(60):
                return Answer(await _all_of(reader))
        finally:
            if dripping is not None:
                dripping.cancel()
                await asyncio.wait([dripping])


async def _drip(writer: asyncio.StreamWriter, drip: bytes) -> None:
    at = 0
    while not writer.is_closing():
        await asyncio.sleep(0.05)  # slowness is what is being tested
        writer.write(drip[at % len(drip) :][:1])
        at += 1


async def _all_of(reader: asyncio.StreamReader) -> bytes:
    parts = []
    try:
        while part := await reader.read(65536):
            parts.append(part)
    except ConnectionError:
        # Who is still sending when the other side closes is reset.
        pass
    return b"".join(parts)


async def test_who_takes_for_ever_is_sent_away_and_others_are_served(gateway: Served) -> None:
    head = b"POST /threads HTTP/1.1\r\n" + _HOST
    slow = {
        "says nothing": say(gateway),
        "a header a minute": say(gateway, _GET, _HOST, drip=b"X-A: b\r\n"),
        "a header without end": say(gateway, _GET, b"X-A: ", drip=b"a"),
        "a path without end": say(gateway, b"GET /", drip=b"a"),
        "a body byte by byte": say(gateway, head, b"Content-Length: 1000000\r\n\r\n", drip=b" "),
        "chunks byte by byte": say(gateway, head, b"Transfer-Encoding: chunked\r\n\r\n", drip=b"1\r\na\r\n"),
        "no body": say(gateway, head, b"Content-Length: 10\r\n\r\n"),
        "trailers without end": say(
            gateway, head, b"Transfer-Encoding: chunked\r\n\r\n0\r\n", drip=b"X-Trailer: value\r\n"
        ),
    }
    before = gateway.written()["threads"]
    async with asyncio.TaskGroup() as meanwhile:
        meanwhile.create_task(check_it_still_serves(gateway))
        answers = dict(zip(slow, await asyncio.gather(*slow.values()), strict=True))
    assert {name: answer.status for name, answer in answers.items()} == dict.fromkeys(slow, 408)
    for answer in answers.values():
        assert "did not arrive within 1 s" in answer.detail
    assert gateway.written()["threads"] == before + 1


async def test_who_drips_after_an_answer_is_sent_away(gateway: Served) -> None:
    answers = await asyncio.gather(
        say(gateway, _GET, _HOST, b"\r\n", drip=b"\r\n"),
        say(gateway, _GET, _HOST, b"Content-Length: 1000000\r\n\r\n", drip=b"a"),
        say(gateway, _GET, _HOST, b"\r\n", drip=b"GET /"),
        say(gateway, _GET, _HOST, b"\r\n"),
    )
    for answer in answers:
        assert answer.raw.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_what_drips_beside_a_stream_does_not_end_it(gateway: Served) -> None:
    body = json.dumps({"assistant_id": "slow", "input": {"ticks": 30, "delay": 0.1}}).encode()
    ask = b"POST /runs/stream HTTP/1.1\r\n" + _HOST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    answer = await say(gateway, ask, b"GET /ok HTTP/1.1\r\n", drip=b"X-A: b\r\n")
    assert answer.status == 200
    assert b"event: end" in answer.raw


async def test_a_head_without_measure_is_refused(gateway: Served) -> None:
    for begun in (_GET + _HOST + b"X-A: ", b"GET /"):
        refused = await say(gateway, begun, b"a" * 2 * _MEGABYTE)
        assert refused.status == 431
        assert "65,536 bytes" in refused.detail


async def test_a_request_that_breaks_off_is_none(gateway: Served) -> None:
    before = gateway.written()
    for length in (b"Content-Length: 10000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n5000\r\n"):
        for path, body in ((b"/threads", b""), (b"/threads", b"{}"), (b"/runs", _TURN)):
            async with connected(gateway) as (_, writer):
                writer.write(b"POST " + path + b" HTTP/1.1\r\n" + _HOST + length + body)
                await writer.drain()
    await check_it_still_serves(gateway)
    assert gateway.written() == {"runs": before["runs"] + 2, "threads": before["threads"] + 1, "assistants": 0}
    assert "Traceback" not in gateway.process.err, gateway.process.err


BROKEN: Final[Sequence[bytes]] = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 100,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"FOO /ok HTTP/1.1\r\n" + _CLOSE + b"\r\n",
    b"CONNECT gateway:443 HTTP/1.1\r\n" + _CLOSE + b"\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\n" + _CLOSE + b"\r\n",
    b"GET /a\x00b HTTP/1.1\r\n" + _CLOSE + b"\r\n",
    _GET + b"X-A: a\x00b\r\n" + _CLOSE + b"\r\n",
    _GET + b"X A: b\r\n" + _CLOSE + b"\r\n",
    b"POST /runs HTTP/1.1\r\n" + _CLOSE + b"Content-Length: abc\r\n\r\n",
    b"POST /runs HTTP/1.1\r\n" + _CLOSE + b"Content-Length: -5\r\n\r\n",
    b"POST /runs HTTP/1.1\r\n" + _CLOSE + b"Content-Length: 99999999999999999999999\r\n\r\n",
    b"POST /runs HTTP/1.1\r\n" + _CLOSE + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    b"POST /runs HTTP/1.1\r\n" + _CLOSE + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /runs HTTP/1.1\r\n" + _CLOSE + b"Transfer-Encoding: gzip\r\n\r\n",
    b"POST /runs HTTP/1.1\r\n" + _CLOSE + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /runs HTTP/1.1\r\n" + _CLOSE + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcdefgh\r\n",
)


async def test_what_is_no_http_is_told_so(gateway: Served) -> None:
    for broken in BROKEN:
        refused = await say(gateway, broken)
        assert refused.status == 400, (broken, refused)
        assert b"\r\ncontent-type: application/json\r\n" in refused.raw
        assert refused.detail == "this is no HTTP request"
    await check_it_still_serves(gateway)
    assert "Traceback" not in gateway.process.err, gateway.process.err


async def test_odd_but_right_http_is_answered(gateway: Served) -> None:
    wait = b"POST /runs/wait HTTP/1.1\r\n" + _CLOSE
    length = b"Content-Length: %d\r\n" % len(_TURN)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in _TURN) + b"0\r\nX-Trailer: a\r\n\r\n"
    right = {
        "HTTP/1.0": b"GET /ok HTTP/1.0\r\n\r\n",
        "HTTP/1.0 that would stay": b"GET /ok HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "HTTP/1.0 that waits": b"POST /runs/wait HTTP/1.0\r\n" + length + b"\r\n" + _TURN,
        "HTTP/1.0 that streams": b"POST /runs/stream HTTP/1.0\r\n" + length + b"\r\n" + _TURN,
        "no host": _GET + b"Connection: close\r\n\r\n",
        "a whole URL": b"GET http://gateway/ok HTTP/1.1\r\n" + _CLOSE + b"\r\n",
        "line breaks before": b"\r\n\r\n" + _GET + _CLOSE + b"\r\n",
        "chunks": wait + b"Transfer-Encoding: chunked\r\n\r\n" + chunks,
        "a look before": wait + length + b"Expect: 100-continue\r\n\r\n" + _TURN,
        "HTTP/2, if you can": _GET + _HOST + b"Connection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n",
        "a preflight": b"OPTIONS /threads HTTP/1.1\r\nOrigin: http://a\r\nAccess-Control-Request-Method: POST\r\n"
        + _CLOSE
        + b"\r\n",
    }
    for name, request in right.items():
        answer = await say(gateway, request)
        raw = answer.raw.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert raw.startswith(b"HTTP/1.1 200 OK\r\n"), (name, answer)
        assert (len(raw) < len(answer.raw)) is (name == "a look before")


async def test_who_asks_before_sending_too_much_is_told_no(gateway: Served) -> None:
    ask = b"POST /runs HTTP/1.1\r\n" + _HOST + b"Expect: 100-continue\r\nContent-Length: 20000000\r\n\r\n"
    async with connected(gateway) as (reader, writer):
        writer.write(ask)
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")


async def test_requests_in_a_row_are_answered_in_a_row(gateway: Served) -> None:
    asked = (
        b"POST /runs/wait HTTP/1.1\r\n" + _HOST + b"Content-Length: %d\r\n\r\n" % len(_TURN) + _TURN,
        _GET + _HOST + b"\r\n",
        b"HEAD /ok HTTP/1.1\r\n" + _HOST + b"\r\n",
        b"GET /nope HTTP/1.1\r\n" + _CLOSE + b"\r\n",
    )
    answer = await say(gateway, *asked)
    assert re.findall(rb"HTTP/1.1 (\d+) ", answer.raw) == [b"200", b"200", b"405", b"404"]


async def test_a_thousand_connections_that_say_nothing() -> None:
    async with served("--head-timeout", "5") as gateway, AsyncExitStack() as stack:
        process = psutil.Process(gateway.process.pid)
        await check_it_still_serves(gateway)
        files, memory = process.num_fds(), process.memory_info().rss
        opened = [await stack.enter_async_context(connected(gateway)) for _ in range(_MANY)]
        await check_it_still_serves(gateway)
        assert process.memory_info().rss - memory < 100 * _MEGABYTE
        answers = [Answer(await _all_of(reader)) for reader, _ in opened]
        assert Counter(answer.status for answer in answers) == {408: _MANY}
        await until(lambda: process.num_fds() <= files + _KEPT, "what was open has been closed")


async def test_a_thousand_streams_with_one_key() -> None:
    async with served("--api-keys") as gateway, AsyncExitStack() as stack:
        process = psutil.Process(gateway.process.pid)
        key, other = [await _new_key(gateway, name) for name in ("many", "other")]
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=gateway.url, headers={"x-api-key": key}, timeout=30)
        )
        run = (await http.post("/runs", json={"assistant_id": "slow", "input": {"ticks": 1, "delay": 600}})).json()
        path = f"/threads/{run['thread_id']}/runs/{run['run_id']}"
        files, memory = process.num_fds(), process.memory_info().rss
        ask = f"GET {path}/stream HTTP/1.1\r\nHost: gateway\r\nx-api-key: {key}\r\n\r\n".encode()

        async with AsyncExitStack() as streams:
            heads = [await _opened(streams, gateway, ask) for _ in range(_MANY)]
            assert Counter(head.status for head in heads) == {200: 500, 429: 500}
            for head in heads:
                assert head.status == 200 or b"\r\nretry-after: 5\r\n" in head.raw
            assert process.memory_info().rss - memory < 300 * _MEGABYTE
            # The key's other requests, and other keys, are served.
            assert (await http.get(path)).is_success
            refused = await http.post("/runs/wait", json=turn("hi"))
            assert (refused.status_code, refused.json()) == (429, {"detail": "too much: more than 500 open streams"})
            said = await http.post("/runs/wait", json=turn("hi"), headers={"x-api-key": other})
            assert said.json()["messages"][-1]["content"] == "You said: hi"

        assert (await http.post(f"{path}/cancel")).is_success
        await until(lambda: process.num_fds() <= files + _KEPT, "what was open has been closed")
        ended: Any = await http.post("/runs/wait", json=turn("hi"))
        assert ended.json()["messages"][-1]["content"] == "You said: hi"
        assert "Traceback" not in gateway.process.err, gateway.process.err


async def _new_key(gateway: Served, name: str) -> str:
    made = await gateway.processes.run("keys", "create", name, "--rate", "none", "--json")
    assert made.code == 0, made.err
    return str(made.json["key"])


async def _opened(streams: AsyncExitStack, gateway: Served, ask: bytes) -> Answer:
    """Ask on a connection of its own that stays open, and read the head of the answer."""
    reader, writer = await streams.enter_async_context(connected(gateway))
    writer.write(ask)
    return Answer(await reader.readuntil(b"\r\n\r\n"))
