"""What is said of a saved message that the stream has in part, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from runstream_worker.completion import missing_messages
from runstream_worker.past import Past

RUN = "run-2"


async def state(*messages: Any) -> InMemorySaver:
    """A thread on which an older run has said something, and this run these messages."""
    saver = InMemorySaver()

    def build(replies: Sequence[Any]) -> Any:
        graph = StateGraph(MessagesState).add_node("say", lambda state: {"messages": list(replies)})
        return graph.add_edge(START, "say").compile(checkpointer=saver)

    for run_id, replies in (("run-1", [AIMessage("before", id="old")]), (RUN, messages)):
        config: Any = {"configurable": {"thread_id": "t"}, "metadata": {"run_id": run_id}}
        await build(replies).ainvoke({"messages": [HumanMessage("hi")]}, config)
    return saver


def chunk(message_id: str, text: str, task: str = "task") -> dict[str, Any]:
    return {
        "m": "messages",
        "k": task,
        "s": [4],
        "c": "call",
        "d": [{"id": message_id, "content": text, "type": "AIMessageChunk"}, {}],
    }


def past(*events: dict[str, Any]) -> Past:
    return Past.of((b"1-%d" % (number + 1), {b"1": orjson.dumps(event)}) for number, event in enumerate(events))


async def completed(saver: InMemorySaver, said: Past) -> list[tuple[str, str, str | None]]:
    """Type, text and task of what is published."""
    found = [placed async for placed in missing_messages(saver, "t", RUN, said, ())]
    return [(type(p.chunk.data[0]).__name__, p.chunk.data[0].text, p.task) for p in found]  # type: ignore[index]


async def test_the_rest_of_a_text_is_said() -> None:
    saver = await state(AIMessage("one two three", id="m"))
    said = past(chunk("m", "one"), {"b": "1-1", "t": " two"})
    assert await completed(saver, said) == [("AIMessageChunk", " three", "task")]


async def test_a_message_that_the_stream_has_not_is_said_whole_and_older_ones_are_not() -> None:
    saver = await state(AIMessage("one", id="m"), ToolMessage("rain", tool_call_id="c", id="n"))
    assert await completed(saver, past()) == [("AIMessage", "one", None), ("ToolMessage", "rain", None)]


async def test_what_is_whole_is_left_alone() -> None:
    saver = await state(AIMessage("one two", id="m"))
    assert await completed(saver, past(chunk("m", "one"), {"b": "1-1", "t": " two"})) == []
    assert await completed(saver, past(chunk("m", "something else"))) == []


@pytest.mark.parametrize("own", [[], [chunk("resp_1", "")]])
async def test_chunks_under_langchains_id_are_of_the_message_with_the_providers(own: list[dict[str, Any]]) -> None:
    saver = await state(AIMessage("one two three", id="resp_1"))
    said = past(chunk("lc_run--1", "one"), *own, chunk("lc_run--1", " two"))
    assert await completed(saver, said) == [("AIMessageChunk", " three", "task")]
    said = past(chunk("lc_run--1", "one"), *own, chunk("lc_run--1", " two three"))
    assert await completed(saver, said) == []
