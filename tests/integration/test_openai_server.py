"""The scripted server as the real client sees it: what the other tests build on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from contextlib import AsyncExitStack
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessageChunk
from langchain_openai import ChatOpenAI
from tests.support.openai_server import Cut, OpenAIServer, Refusal, Reply, Stall, Status, Text, ToolCall, ToolCalls


async def streamed(model: ChatOpenAI, prompt: str = "hello there") -> list[AIMessageChunk]:
    return [chunk async for chunk in model.astream(prompt)]


async def read_into(tokens: list[str], model: ChatOpenAI) -> None:
    """Keep what comes before an error."""
    async for chunk in model.astream("hello"):
        tokens += [chunk.text]


async def give_up(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel until it takes effect.

    On Python 3.11 one cancellation may be lost: langchain-openai waits for each chunk with `asyncio.wait_for`, which
    there returns the chunk and forgets that it was cancelled if both come in the same turn of the event loop.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.1)


def joined(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    return sum(chunks[1:], chunks[0])


async def test_text_comes_token_by_token() -> None:
    async with OpenAIServer([Text(["Hel", "lo", " there"])]) as server, server.model() as model:
        chunks = await streamed(model)
    assert [chunk.text for chunk in chunks if chunk.text] == ["Hel", "lo", " there"]
    assert joined(chunks).response_metadata["finish_reason"] == "stop"
    assert joined(chunks).usage_metadata is None
    assert server.requests[0].messages == [{"role": "user", "content": "hello there"}]
    assert server.requests[0].headers["authorization"] == "Bearer test"
    assert server.requests[0].outcome == "complete"


async def test_usage_comes_when_it_is_asked_for() -> None:
    async with OpenAIServer([Text(["Hel", "lo"])]) as server, server.model(stream_usage=True) as model:
        message = joined(await streamed(model))
    assert server.requests[0].body["stream_options"] == {"include_usage": True}
    assert message.usage_metadata is not None
    assert message.usage_metadata["input_tokens"] == 2
    assert message.usage_metadata["output_tokens"] == 2


CALLS = ToolCalls(
    [ToolCall("weather", {"city": "Łódź", "days": 3}), ToolCall("clock", id="mine")], text=["Let me see."]
)


async def test_parallel_tool_calls() -> None:
    async with OpenAIServer([CALLS]) as server, server.model() as model:
        chunks = await streamed(model)
    message = joined(chunks)
    assert message.text == "Let me see."
    assert [(call["name"], call["args"], call["id"]) for call in message.tool_calls] == [
        ("weather", {"city": "Łódź", "days": 3}, "call_0_0"),
        ("clock", {}, "mine"),
    ]
    assert message.response_metadata["finish_reason"] == "tool_calls"
    assert sum(bool(chunk.tool_call_chunks) for chunk in chunks) > 4


async def test_without_streaming() -> None:
    script: list[Reply] = [CALLS, Text(["Hel", "lo"]), Refusal("I will not.")]
    async with OpenAIServer(script) as server, server.model() as model:
        called, said, refused = [await model.ainvoke("hello there") for _ in range(3)]
    assert called.text == "Let me see."
    assert [call["args"] for call in called.tool_calls] == [{"city": "Łódź", "days": 3}, {}]
    assert said.text == "Hello"
    assert said.usage_metadata is not None
    assert said.usage_metadata["total_tokens"] == 4
    assert refused.text == ""
    assert refused.additional_kwargs["refusal"] == "I will not."


async def test_a_refusal_is_streamed_in_its_own_field() -> None:
    """Through OpenAI's own client: langchain-openai drops the field from a stream."""
    async with (
        OpenAIServer([Refusal("I will not."), Refusal("I will not.")]) as server,
        server.model() as model,
        openai.AsyncOpenAI(base_url=server.url, api_key="test") as raw,
    ):
        stream = await raw.chat.completions.create(
            model="test", messages=[{"role": "user", "content": "do it"}], stream=True
        )
        deltas = [chunk.choices[0].delta async for chunk in stream]
        message = joined(await streamed(model))
    assert [delta.refusal for delta in deltas if delta.refusal] == ["I", " will", " not."]
    assert not any(delta.content for delta in deltas)
    assert message.text == ""


async def test_the_client_tries_again_after_429_and_500() -> None:
    script: list[Reply] = [Status(429, retry_after=0.01), Status(500, retry_after=0.01), Text(["ok"])]
    async with OpenAIServer(script) as server, server.model(max_retries=2) as model:
        assert joined(await streamed(model)).text == "ok"
    assert [request.headers["x-stainless-retry-count"] for request in server.requests] == ["0", "1", "2"]


@pytest.mark.parametrize(("code", "error"), [(429, openai.RateLimitError), (500, openai.InternalServerError)])
async def test_an_error_that_lasts(code: int, error: type[openai.APIStatusError]) -> None:
    script = [Status(code, "too much", retry_after=0.01)] * 2
    async with OpenAIServer(script) as server, server.model(max_retries=1) as model:
        with pytest.raises(error, match="too much"):
            await streamed(model)
    assert len(server.requests) == 2


async def test_silence_ends_by_the_clients_timeout() -> None:
    tokens: list[str] = []
    script = [Stall(after_tokens=2, tokens=["a", "b", "c"])]
    async with OpenAIServer(script) as server, server.model(timeout=0.2) as model:
        with pytest.raises(openai.APITimeoutError):
            await read_into(tokens, model)
        await server.requests[0].ended.wait()
    assert "".join(tokens) == "ab"
    assert server.requests[0].outcome == "left"


async def test_silence_without_streaming() -> None:
    async with OpenAIServer([Stall()]) as server, server.model(timeout=0.2) as model:
        with pytest.raises(openai.APITimeoutError):
            await model.ainvoke("hello")


async def test_a_connection_cut_in_the_middle() -> None:
    tokens: list[str] = []
    script = [Cut(after_tokens=2, tokens=["a", "b", "c"]), Cut(after_tokens=2)]
    async with OpenAIServer(script) as server, server.model() as model:
        with pytest.raises(openai.APIConnectionError):
            await read_into(tokens, model)
        with pytest.raises(openai.APIConnectionError):
            await model.ainvoke("hello")
    assert "".join(tokens) == "ab"
    assert [request.outcome for request in server.requests] == ["cut", "cut"]


async def test_the_server_knows_when_a_client_gives_up() -> None:
    async with OpenAIServer([Stall(after_tokens=1)]) as server, server.model() as model:
        reading = asyncio.create_task(streamed(model))
        request = await server.request(0)
        await give_up([reading])
        await request.ended.wait()
    assert request.outcome == "left"


async def test_a_script_may_be_a_function_of_the_request() -> None:
    async with (
        OpenAIServer(lambda body: Text([body["messages"][-1]["content"].upper()])) as server,
        server.model() as model,
    ):
        assert joined(await streamed(model, "hello")).text == "HELLO"


async def test_a_script_that_is_used_up_is_told_and_not_tried_again() -> None:
    async with OpenAIServer([]) as server, server.model(max_retries=5) as model:
        with pytest.raises(openai.BadRequestError, match="no reply left"):
            await streamed(model)
    assert len(server.requests) == 1


async def test_a_script_that_fails_fails_the_test() -> None:
    def script(body: dict[str, Any]) -> Text:
        raise LookupError("mistake in the script")

    with pytest.RaisesGroup(pytest.RaisesExc(LookupError, match="mistake in the script")):
        async with OpenAIServer(script) as server, server.model() as model:
            with pytest.raises(openai.APIConnectionError):
                await streamed(model)


async def test_an_unknown_path() -> None:
    async with (
        OpenAIServer([]) as server,
        openai.AsyncOpenAI(base_url=server.url, api_key="test") as raw,
    ):
        with pytest.raises(openai.NotFoundError, match=json.dumps("GET /v1/models")[1:-1]):
            await raw.models.list()


async def test_hundreds_of_streams_at_once() -> None:
    """All of them are open at the same time: none ends before the last has come in."""
    count = 300
    async with OpenAIServer([Stall(after_tokens=3)] * count) as server, server.model() as model:
        reading = [asyncio.create_task(streamed(model)) for _ in range(count)]
        await server.request(count - 1)
        assert {request.outcome for request in server.requests} == {"open"}
        await give_up(reading)
        for request in server.requests:
            await request.ended.wait()


async def test_streams_in_turn_share_a_connection() -> None:
    async with OpenAIServer([Text()] * 3) as server, server.model() as model:
        for _ in range(3):
            await streamed(model)
    assert len({request.port for request in server.requests}) == 1


async def test_leaving_closes_what_is_open() -> None:
    server = OpenAIServer([Stall(after_tokens=1)])
    async with AsyncExitStack() as stack:
        async with server:
            model = await stack.enter_async_context(server.model())
            reading = asyncio.create_task(streamed(model))
            await server.request(0)
        with pytest.raises(openai.APIConnectionError):
            await reading
    assert server.connections == 0
