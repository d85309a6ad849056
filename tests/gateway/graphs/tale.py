"""A graph that speaks slowly, so that a test can step in between two tokens.

It imports nothing of ours, so that any server of the same API can run it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypedDict

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, AnyMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.graph import START, StateGraph, add_messages
from langgraph.types import interrupt


class SlowModel(BaseChatModel):
    """Says as many words as it is told to, numbered, with a pause before each."""

    word: str
    words: int
    delay: float

    @property
    def _llm_type(self) -> str:
        return "slow"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        text = "".join(f"{self.word}{number} " for number in range(self.words))
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])

    async def _astream(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for number in range(self.words):
            await asyncio.sleep(self.delay)
            yield ChatGenerationChunk(message=AIMessageChunk(content=f"{self.word}{number} "))
        yield ChatGenerationChunk(message=AIMessageChunk(content="", chunk_position="last"))


class Tale(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    words: int
    delay: float  # seconds before each word
    ask: bool  # whether a human is asked between the two parts


async def begin(state: Tale) -> Any:
    return {"messages": [await _model("a", state).ainvoke(state["messages"])]}


async def ask(state: Tale) -> Any:
    if not state.get("ask"):
        return {}
    return {"ask": False, "messages": [("human", interrupt({"question": "go on?"}))]}


async def end(state: Tale) -> Any:
    return {"messages": [await _model("b", state).ainvoke(state["messages"])]}


def _model(word: str, state: Tale) -> SlowModel:
    return SlowModel(word=word, words=state.get("words", 5), delay=state.get("delay", 0.01))


tale = (
    StateGraph(Tale)
    .add_node("begin", begin)
    .add_node("ask", ask)
    .add_node("end", end)
    .add_edge(START, "begin")
    .add_edge("begin", "ask")
    .add_edge("ask", "end")
    .compile()
)
