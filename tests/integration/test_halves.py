"""A character that comes in two chunks is there wherever the chunks are summed; a half alone is U+FFFD, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessageChunk, AnyMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph, add_messages
from tests.support.graphs.model import ScriptedModel
from tests.support.workers import Workers

from runstream import Client, RunErrored

HI = {"messages": [["user", "Hi!"]]}
SPLIT = ["Hi ", "\ud83d", "\ude00", " bye"]
WHOLE = "Hi \N{GRINNING FACE} bye"
LONE = ["Hi ", "\ud83d", " bye", "\ud83d"]
MENDED = "Hi \N{REPLACEMENT CHARACTER} bye\N{REPLACEMENT CHARACTER}"
CASES = pytest.mark.parametrize(("pieces", "sum_"), [(SPLIT, WHOLE), (LONE, MENDED)], ids=["split", "lone"])


class Chat(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


class Halving(ScriptedModel):
    """Streams these pieces: as text, as reasoning in blocks, and as the arguments of a tool call."""

    pieces: list[str]

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        for piece in self.pieces:
            yield ChatGenerationChunk(
                message=AIMessageChunk(content=piece, additional_kwargs={"reasoning_content": piece})
            )
        args_ = ['{"city": "', *self.pieces, '"}']
        for at, piece in enumerate(args_):
            name, call_id = ("weather", "call") if at == 0 else (None, None)
            call = tool_call_chunk(name=name, args=piece, id=call_id, index=0)
            yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[call]))


def one_node(node: Any) -> Any:
    return StateGraph(Chat).add_node("node", node).add_edge(START, "node").compile()


@CASES
async def test_what_readers_sum_is_what_is_saved(
    pieces: list[str], sum_: str, client: Client, workers: Workers
) -> None:
    model = Halving(replies=[], pieces=pieces)

    async def node(state: Chat) -> Any:
        return {"messages": [await model.ainvoke(state["messages"])]}

    await workers.start(graph=one_node(node))
    run = await client.enqueue("graph", HI, stream_mode=["messages", "events"])
    saved = (await client.result(run.run_id))["messages"][-1]
    assert saved["content"] == sum_
    last: Any = None
    async for messages in client.messages(run.run_id):
        (last,) = messages
    for field in ("content", "tool_calls", "additional_kwargs"):
        assert last[field] == saved[field]
    assert last["tool_calls"][0]["args"] == {"city": sum_}
    assert "".join([str(piece) async for piece in client.text(run.run_id)]) == sum_
    records = [event.data async for event in client.tail(run.run_id) if event.mode == "events"]
    spoken = [one["data"]["chunk"]["content"] for one in records if one["event"] == "on_chat_model_stream"]
    assert "".join(spoken) == sum_


@CASES
@pytest.mark.parametrize("url", ["none", "redis"])
async def test_custom_data_piece_by_piece(
    url: str, pieces: list[str], sum_: str, client: Client, workers: Workers
) -> None:
    async def node(state: Chat) -> Any:
        write = get_stream_writer()
        for piece in pieces:
            write({"token": piece})
            write({"progress": 1})
            await asyncio.sleep(0)
        return {}

    await workers.start({"checkpointer_url": url}, graph=one_node(node))
    run = await client.enqueue("graph", HI, stream_mode=["custom", "updates"])
    await client.wait(run.run_id)
    told = [event.data async for event in client.tail(run.run_id) if event.mode == "custom"]
    assert len(told) == 2 * len(pieces)
    assert "".join(one.get("token", "") for one in told) == sum_


async def test_half_a_character_that_nothing_follows_is_published_before_the_run_fails(
    client: Client, workers: Workers
) -> None:
    async def node(state: Chat) -> Any:
        get_stream_writer()("broken \ud83d")
        raise ValueError("bro\ud83d\ude00ken \ud83d")

    await workers.start(graph=one_node(node))
    run = await client.enqueue("graph", HI, stream_mode="custom")
    with pytest.raises(RunErrored) as caught:
        await client.wait(run.run_id)
    assert caught.value.info.error is not None
    assert caught.value.info.error.message == "bro\N{GRINNING FACE}ken \N{REPLACEMENT CHARACTER}"
    assert [event.data async for event in client.tail(run.run_id) if event.mode == "custom"] == [
        "broken \N{REPLACEMENT CHARACTER}"
    ]


async def test_half_a_character_does_not_wait_for_a_node_that_waits_for_its_reader(
    client: Client, workers: Workers
) -> None:
    seen = asyncio.Event()

    async def node(state: Chat) -> Any:
        get_stream_writer()("broken \ud83d")
        await seen.wait()
        return {}

    await workers.start(graph=one_node(node))
    run = await client.enqueue("graph", HI, stream_mode="custom")
    async for event in client.tail(run.run_id):
        if event.mode == "custom":
            assert event.data == "broken \N{REPLACEMENT CHARACTER}"
            seen.set()
    await client.wait(run.run_id)
