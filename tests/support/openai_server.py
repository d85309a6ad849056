"""A server on 127.0.0.1 that speaks OpenAI's chat completions, streamed or not, and says what a test tells it to.

Tests drive the real client against it over real HTTP, so that what they see of tokens, tool calls, rate limits, silence
and broken connections is what the client makes of them:

    async with OpenAIServer([Status(429, retry_after=0.01), Text(["Hel", "lo"])]) as server, server.model() as model:
        await model.ainvoke("hello")

The script is a list, one reply per request, or a function of the request's JSON. A script that is used up answers 400,
which clients do not retry.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

import openai
from langchain_openai import ChatOpenAI

_CREATED = 1_700_000_000
_ARGUMENT_PIECE = 8  # characters of a tool call's arguments per chunk
_WORDS = ("One", " two", " three", " four", " five", " six", " seven", " eight")


@dataclass(frozen=True)
class Text:
    """An answer in these tokens, with `delay` seconds before each."""

    tokens: Sequence[str] = _WORDS
    delay: float = 0.0


@dataclass(frozen=True)
class ToolCall:
    """One call in a `ToolCalls`; the id is made up from the request's number unless given."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None


@dataclass(frozen=True)
class ToolCalls:
    """Calls of tools, in parallel if there are several, after `text` if there is any."""

    calls: Sequence[ToolCall]
    text: Sequence[str] = ()


@dataclass(frozen=True)
class Refusal:
    """The model declines, in the field of its own that the API has for it."""

    text: str


@dataclass(frozen=True)
class Status:
    """An HTTP error; `retry_after` is in seconds."""

    code: int
    message: str = "as the test's script says"
    retry_after: float | None = None


@dataclass(frozen=True)
class Stall:
    """Says `after_tokens` tokens, then nothing more, and keeps the connection open."""

    after_tokens: int = 0
    tokens: Sequence[str] = _WORDS


@dataclass(frozen=True)
class Cut:
    """Says `after_tokens` tokens, then closes the connection in the middle of the answer."""

    after_tokens: int = 0
    tokens: Sequence[str] = _WORDS


_Answer: TypeAlias = Text | ToolCalls | Refusal | Stall | Cut
Reply: TypeAlias = _Answer | Status
Script: TypeAlias = Iterable[Reply] | Callable[[dict[str, Any]], Reply]


@dataclass
class Request:
    """A request as it came in, and what became of its answer.

    Attributes:
        port: the client's; requests on one connection have it in common.
        ended: set once nothing more will be sent.
        outcome: `complete`, `cut` as the script says, or `left` if the client was gone before the end.
    """

    number: int
    port: int
    headers: Mapping[str, str]
    body: dict[str, Any]
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    outcome: Literal["open", "complete", "cut", "left"] = "open"

    @property
    def messages(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = self.body["messages"]
        return messages


class OpenAIServer:
    """The server; listens while its `async with` lasts and closes every connection at the end."""

    def __init__(self, script: Script) -> None:
        self._reply = script if callable(script) else _in_turn(script)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._arrived = asyncio.Condition()
        self.requests: list[Request] = []

    @property
    def url(self) -> str:
        """What a client takes as `base_url`."""
        if self._server is None:
            raise RuntimeError("the server listens only inside its `async with`")
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"http://{host}:{port}/v1"

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    @asynccontextmanager
    async def model(self, **options: Any) -> AsyncIterator[ChatOpenAI]:
        """A `ChatOpenAI` that talks to this server, without retries unless `options` say otherwise.

        It has connections of its own, and they are closed at the end. Left to itself, `ChatOpenAI` takes its HTTP
        client from a cache that outlives the event loop, and nothing ever closes that client's connections.
        """
        async with openai.DefaultAsyncHttpxClient() as http:
            defaults = {"model": "test", "base_url": self.url, "api_key": "test", "max_retries": 0}
            yield ChatOpenAI(**{**defaults, "http_async_client": http, **options})

    async def request(self, number: int) -> Request:
        """The request of that number, from 0, once it has come in."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) > number)
        return self.requests[number]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is None:
            return
        self._server.close()
        for task in self._connections:
            task.cancel()
        results = await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None
        failures = [result for result in results if isinstance(result, Exception)]
        if failures and error is None:
            raise ExceptionGroup("the server failed to answer", failures)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(_Connection(reader, writer)))
        self._connections.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        """Drop a connection that has ended well; one that failed is kept for `__aexit__` to raise."""
        if task.cancelled() or task.exception() is None:
            self._connections.discard(task)

    async def _serve(self, connection: _Connection) -> None:
        try:
            while (head := await connection.read_head()) is not None:
                await self._answer(connection, *head)
        except ConnectionError:
            return  # the client is gone; its request, if one was open, says so
        except asyncio.CancelledError:
            connection.abort()
            raise
        finally:
            await connection.close()

    async def _answer(self, connection: _Connection, target: str, headers: dict[str, str]) -> None:
        body = await connection.read_body(headers)
        if target != "POST /v1/chat/completions":
            await connection.send_json(404, _error(f"{target} is not served here"))
            return
        request = Request(len(self.requests), connection.port, headers, json.loads(body))
        async with self._arrived:
            self.requests.append(request)
            self._arrived.notify_all()
        try:
            await self._send(connection, request, self._reply(request.body))
        except ConnectionError:
            request.outcome = "left"
            raise
        finally:
            request.ended.set()

    async def _send(self, connection: _Connection, request: Request, reply: Reply) -> None:
        if isinstance(reply, Status):
            retry = {} if reply.retry_after is None else {"retry-after": f"{reply.retry_after:g}"}
            await connection.send_json(reply.code, _error(reply.message), retry)
        elif request.body.get("stream"):
            await _send_stream(connection, request, reply)
        else:
            await _send_whole(connection, request, reply)
        if isinstance(reply, Stall):
            await connection.until_client_leaves()
            raise ConnectionResetError("the client has left")
        if isinstance(reply, Cut):
            await connection.close()
        request.outcome = "cut" if isinstance(reply, Cut) else "complete"


def _in_turn(replies: Iterable[Reply]) -> Callable[[dict[str, Any]], Reply]:
    remaining = iter(replies)
    return lambda _: next(remaining, Status(400, "the test's script has no reply left"))


async def _send_stream(connection: _Connection, request: Request, reply: _Answer) -> None:
    wants_usage = (request.body.get("stream_options") or {}).get("include_usage", False)
    frame: dict[str, Any] = {
        "id": f"chatcmpl-{request.number}",
        "object": "chat.completion.chunk",
        "created": _CREATED,
        "model": request.body.get("model"),
        "system_fingerprint": "fp_test",
    }
    if wants_usage:
        frame["usage"] = None

    async def send(delta: dict[str, Any], finish_reason: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        await connection.send_event({**frame, "choices": [choice]})

    await connection.start_stream()
    await send({"role": "assistant", "content": None if isinstance(reply, ToolCalls) else "", "refusal": None})
    for delta in _deltas(reply, request):
        await asyncio.sleep(_delay(reply))
        await send(delta)
    if isinstance(reply, Stall | Cut):
        return
    await send({}, _finish_reason(reply))
    if wants_usage:
        await connection.send_event({**frame, "choices": [], "usage": _usage(request, reply)})
    await connection.end_stream()


def _deltas(reply: _Answer, request: Request) -> Iterator[dict[str, Any]]:
    match reply:
        case Text(tokens):
            yield from ({"content": token} for token in tokens)
        case Stall(after_tokens, tokens) | Cut(after_tokens, tokens):
            yield from ({"content": token} for token in tokens[:after_tokens])
        case Refusal(text):
            yield from ({"refusal": word} for word in re.findall(r"\s*\S+", text))
        case ToolCalls(calls, text):
            yield from ({"content": token} for token in text)
            for index, call in enumerate(calls):
                yield from _call_deltas(index, call, _call_id(call, request, index))


def _call_deltas(index: int, call: ToolCall, call_id: str) -> Iterator[dict[str, Any]]:
    """The id and the name first, then the arguments in pieces that belong together by index."""
    head = {"id": call_id, "type": "function", "function": {"name": call.name, "arguments": ""}}
    yield {"tool_calls": [{"index": index, **head}]}
    arguments = json.dumps(call.arguments)
    for start in range(0, len(arguments), _ARGUMENT_PIECE):
        piece = arguments[start : start + _ARGUMENT_PIECE]
        yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


async def _send_whole(connection: _Connection, request: Request, reply: _Answer) -> None:
    if isinstance(reply, Stall):
        return
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    for delta in _deltas(reply, request):
        await asyncio.sleep(_delay(reply))
        for key in ("content", "refusal"):
            if key in delta:
                message[key] = (message[key] or "") + delta[key]
    if isinstance(reply, ToolCalls):
        message["tool_calls"] = [
            {
                "id": _call_id(call, request, index),
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
            }
            for index, call in enumerate(reply.calls)
        ]
    completion = {
        "id": f"chatcmpl-{request.number}",
        "object": "chat.completion",
        "created": _CREATED,
        "model": request.body.get("model"),
        "system_fingerprint": "fp_test",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(reply)}],
        "usage": _usage(request, reply),
    }
    await connection.send_json(200, completion, cut=isinstance(reply, Cut))


def _call_id(call: ToolCall, request: Request, index: int) -> str:
    return call.id or f"call_{request.number}_{index}"


def _delay(reply: _Answer) -> float:
    return reply.delay if isinstance(reply, Text) else 0.0


def _finish_reason(reply: _Answer) -> str:
    return "tool_calls" if isinstance(reply, ToolCalls) else "stop"


def _usage(request: Request, reply: _Answer) -> dict[str, int]:
    """A token a word of the prompt, a token a piece of the answer."""
    prompt = sum(len(str(message.get("content") or "").split()) for message in request.messages)
    match reply:
        case ToolCalls(calls, text):
            completion = len(text) + len(calls)
        case Refusal(text):
            completion = len(text.split())
        case _:
            completion = len(reply.tokens)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "test", "param": None, "code": None}}


class _Connection:
    """HTTP/1.1 on one connection, as much of it as OpenAI's clients use."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.port: int = writer.get_extra_info("peername")[1]

    async def read_head(self) -> tuple[str, dict[str, str]] | None:
        """Method and path, and the headers in lower case; None once the connection is closed."""
        if self._writer.is_closing():
            return None
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        pairs = (line.partition(":") for line in lines)
        return first.rpartition(" ")[0], {name.strip().lower(): value.strip() for name, _, value in pairs}

    async def read_body(self, headers: Mapping[str, str]) -> bytes:
        try:
            return await self._reader.readexactly(int(headers.get("content-length", "0")))
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("the client left in the middle of its request") from error

    async def send_json(
        self, code: int, document: object, headers: Mapping[str, str] | None = None, *, cut: bool = False
    ) -> None:
        """A whole response, or with `cut` the first half of one."""
        body = json.dumps(document).encode()
        more = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
        await self._write(_head(code, more) + (body[: len(body) // 2] if cut else body))

    async def start_stream(self) -> None:
        await self._write(_head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"}))

    async def send_event(self, document: object) -> None:
        await self._send_data(json.dumps(document, separators=(",", ":")))

    async def end_stream(self) -> None:
        await self._send_data("[DONE]")
        await self._write(b"0\r\n\r\n")

    async def until_client_leaves(self) -> None:
        while await self._reader.read(1024):
            pass

    async def close(self) -> None:
        """Send what is still to be sent, then close."""
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()

    def abort(self) -> None:
        self._writer.transport.abort()

    async def _send_data(self, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        await self._write(b"%x\r\n%b\r\n" % (len(event), event))

    async def _write(self, data: bytes) -> None:
        if self._reader.at_eof():
            raise ConnectionResetError("the client has left")
        self._writer.write(data)
        await self._writer.drain()


def _head(code: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {code} {HTTPStatus(code).phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
