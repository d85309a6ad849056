"""Graphs that take their time: what they say, how fast and how long is in their input. Workers import this file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, AnyMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph, add_messages
from typing_extensions import TypedDict


def _is_shut(gate: str) -> bool:
    return bool(gate) and not Path(gate).exists()


class Counting(BaseChatModel):
    """Says `topic0 topic1 ...`: so many tokens, and on until a file is there."""

    topic: str
    tokens: int
    delay: float = 0.0
    gate: str = ""

    @property
    def _llm_type(self) -> str:
        return "counting"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        raise NotImplementedError

    async def _astream(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        number = 0
        while number < self.tokens or _is_shut(self.gate):
            yield ChatGenerationChunk(message=AIMessageChunk(content=f"{self.topic}{number} "))
            number += 1
            await asyncio.sleep(self.delay)


async def _said(model: Counting, state: Talk) -> Any:
    """An answer; streamed within, whether anybody reads its tokens or not."""
    whole: AIMessageChunk | None = None
    async for chunk in model.astream(state["messages"]):
        assert isinstance(chunk, AIMessageChunk)
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    return {"messages": [AIMessage(whole.content, id=whole.id)]}


class Talk(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    tokens: int  # that the middle one of the three answers has at least
    delay: float  # seconds between two of them
    gate: str  # a file: that answer goes on until it is there; none if empty


async def plan(state: Talk) -> Any:
    return await _said(Counting(topic="plan", tokens=5), state)


async def write(state: Talk) -> Any:
    model = Counting(
        topic="write", tokens=state.get("tokens", 10), delay=state.get("delay", 0.0), gate=state.get("gate", "")
    )
    return await _said(model, state)


async def check(state: Talk) -> Any:
    return await _said(Counting(topic="check", tokens=5), state)


talk = (
    StateGraph(Talk)
    .add_node("plan", plan)
    .add_node("write", write)
    .add_node("check", check)
    .add_edge(START, "plan")
    .add_edge("plan", "write")
    .add_edge("write", "check")
    .compile()
)


class Flood(TypedDict, total=False):
    events: int
    size: int  # bytes of each


async def pour(state: Flood) -> Any:
    write_ = get_stream_writer()
    for number in range(state.get("events", 10)):
        write_({"number": number, "text": "x" * state.get("size", 10)})
        await asyncio.sleep(0)
    return {}


flood = StateGraph(Flood).add_node("pour", pour).add_edge(START, "pour").compile()
