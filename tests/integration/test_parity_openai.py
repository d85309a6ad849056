"""The real OpenAI client over real HTTP: a run on a worker gives what `astream` gives in process, failures included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from tests.support.openai_server import Cut, OpenAIServer, Refusal, Reply, Stall, Status, Text, ToolCall, ToolCalls
from tests.support.parity import MODES, Emitted, in_process, normalised, on_worker
from tests.support.workers import Workers

from runstream import Client

HI = {"messages": [{"role": "user", "content": "hi", "id": "human-1"}]}
CONFIG = {"configurable": {"thread_id": "thread"}}
CALLS = ToolCalls([ToolCall("weather", {"city": "Łódź"}), ToolCall("weather", {"city": "Bern"})], text=["Let me see."])


@tool
async def weather(city: str) -> str:
    """Tell the weather."""
    return f"rain in {city}"


def agent(server: OpenAIServer, **options: Any) -> Any:
    given = {"model": "test", "base_url": server.url, "api_key": "test", "max_retries": 0, "stream_usage": True}
    return create_agent(ChatOpenAI(**{**given, **options}), [weather], checkpointer=InMemorySaver())


async def both(
    replies: Sequence[Reply], client: Client, workers: Workers, *, model: dict[str, Any], **options: Any
) -> tuple[Emitted, OpenAIServer]:
    """The run here and on a worker, each against a server with the same script; then one more run of the worker."""
    options = {"stream_mode": list(MODES), **options}
    async with OpenAIServer(replies) as here, OpenAIServer([*replies, Text(["fine"])]) as there:
        expected = await in_process(agent(here, **model), HI, CONFIG, **options)
        await workers.start(agent=agent(there, **model))
        published = await on_worker(client, "agent", HI, CONFIG, **options)
        assert normalised(published.chunks) == normalised(expected.chunks)
        assert published.error == expected.error
        assert [request.body for request in there.requests] == [request.body for request in here.requests]
        after = await client.invoke("agent", HI)
        assert after["messages"][-1]["content"] == "fine"
    return published, here


def text_of(emitted: Emitted) -> str:
    return "".join(chunk["data"][0]["content"] for chunk in emitted.chunks if chunk["mode"] == "messages")


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize(
    ("replies", "text"),
    [
        ([Text(["Hel", "lo", " \N{HONEYBEE}"])], "Hello \N{HONEYBEE}"),
        ([CALLS, Text(["It ", "rains."])], "Let me see.rain in Łódźrain in BernIt rains."),
        ([Refusal("I will not say that.")], ""),
    ],
    ids=["text", "parallel tools", "refusal"],
)
async def test_answers(replies: Sequence[Reply], text: str, version: str, client: Client, workers: Workers) -> None:
    emitted, _ = await both(replies, client, workers, model={}, version=version)
    assert emitted.error is None
    assert text_of(emitted) == text
    usage = [chunk["data"][0].get("usage_metadata") for chunk in emitted.chunks if chunk["mode"] == "messages"]
    assert any(usage)


@pytest.mark.parametrize("code", [429, 500])
async def test_a_passing_http_error_is_retried_unseen(code: int, client: Client, workers: Workers) -> None:
    replies: list[Reply] = [Status(code, retry_after=0.01), Text(["Hello"])]
    emitted, server = await both(replies, client, workers, model={"max_retries": 1})
    assert (emitted.error, text_of(emitted), len(server.requests)) == (None, "Hello", 2)


@pytest.mark.parametrize(
    ("reply", "model", "error", "text"),
    [
        (Status(429, "slow down"), {}, "OpenAIRateLimitError", ""),
        (Status(500, "oh dear"), {}, "OpenAIAPIError", ""),
        (Status(401, "who are you?"), {}, "OpenAIAuthenticationError", ""),
        (Stall(2), {"timeout": 0.3}, "OpenAITimeoutError", "One two"),
        (Stall(2), {"stream_chunk_timeout": 0.3}, "StreamChunkTimeoutError", "One two"),
        (Cut(3), {}, "OpenAIConnectionError", "One two three"),
    ],
    ids=["429", "500", "401", "stall", "stall between chunks", "cut"],
)
async def test_failures_end_the_run_and_not_the_worker(
    *, reply: Reply, model: dict[str, Any], error: str, text: str, client: Client, workers: Workers
) -> None:
    emitted, _ = await both([reply], client, workers, model=model)
    assert emitted.error is not None
    assert emitted.error[0] == error
    assert text_of(emitted) == text
