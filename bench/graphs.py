"""The graphs that are run: as little as possible in each, so that what is measured is not them.

They keep no checkpoints, as what they are compared with keeps none; where the default is asked for instead (`None`), a
worker gives them its own checkpointer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Literal, TypeAlias, TypedDict

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.pregel import Pregel

Checkpointer: TypeAlias = Literal[False] | None
WORDS = ("this ", "is ", "what ", "a model ", "says, ", "one ", "token ", "after ", "another. ")


class State(TypedDict, total=False):
    """The state of graphs that need next to none."""

    tokens: int
    pause: float


class ChatState(MessagesState):
    """Messages, and what the model is to say."""

    tokens: int
    pause: float


class StreamingModel(BaseChatModel):
    """Says so many tokens. With a pause between them each token is the time in ns; without, a word."""

    tokens: int
    pause: float

    @property
    def _llm_type(self) -> str:
        return "bench"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        raise NotImplementedError("this model only streams")

    async def _astream(
        self,
        messages: list[BaseMessage],  # noqa: ARG002 - as langchain calls it
        stop: list[str] | None = None,  # noqa: ARG002 - as langchain calls it
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002 - as langchain calls it
        **kwargs: Any,  # noqa: ARG002 - as langchain calls it
    ) -> AsyncIterator[ChatGenerationChunk]:
        for number in range(self.tokens):
            await asyncio.sleep(self.pause)
            text = f"{time.time_ns()} " if self.pause else WORDS[number % len(WORDS)]
            yield ChatGenerationChunk(message=AIMessageChunk(content=text))


async def _say(state: ChatState) -> dict[str, Any]:
    model = StreamingModel(tokens=state["tokens"], pause=state["pause"])
    return {"messages": [await model.ainvoke(state["messages"])]}


def chat(checkpointer: Checkpointer = False) -> Pregel[Any, Any, Any, Any]:
    """One node that lets the model speak."""
    return _one_node(StateGraph(ChatState).add_node("node", _say), checkpointer)


def chat_in_steps() -> Pregel[Any, Any, Any, Any]:
    """A model that speaks again and again, without end, in a step each."""
    return StateGraph(ChatState).add_node("model", _say).add_edge(START, "model").add_edge("model", "model").compile()


async def _say_nothing(state: ChatState) -> dict[str, Any]:  # noqa: ARG001 - as langgraph calls it
    get_stream_writer()("listening")
    await asyncio.Event().wait()
    return {}


def silent() -> Pregel[Any, Any, Any, Any]:
    """One node that waits for a model that never says anything."""
    graph = StateGraph(ChatState).add_node("model", _say_nothing).add_edge(START, "model")
    return graph.add_edge("model", END).compile()


def chat_input(tokens: int, pause: float = 0.0) -> dict[str, Any]:
    """The input of `chat`."""
    return {"messages": [{"role": "user", "content": "speak"}], "tokens": tokens, "pause": pause}


def _nothing(state: State) -> State:  # noqa: ARG001 - as langgraph calls it
    return {}


def noop(checkpointer: Checkpointer = False) -> Pregel[Any, Any, Any, Any]:
    """One node that does nothing."""
    return _one_node(StateGraph(State).add_node("node", _nothing), checkpointer)


def _tell_time(state: State) -> State:  # noqa: ARG001 - as langgraph calls it
    get_stream_writer()(time.time_ns())
    return {}


def clock(checkpointer: Checkpointer = False) -> Pregel[Any, Any, Any, Any]:
    """One node that emits the time in ns as a custom event."""
    return _one_node(StateGraph(State).add_node("node", _tell_time), checkpointer)


class Gate:
    """Holds jobs back until it is opened, and counts those that are there at the same time, over all processes."""

    def __init__(self, count: Any) -> None:
        self._count = count
        self._opened = asyncio.Event()

    async def pass_through(self) -> None:
        """Wait for the gate to open."""
        self._add(1)
        try:
            await self._opened.wait()
        finally:
            self._add(-1)

    async def open(self) -> None:
        """Let everybody through, from now on."""
        self._opened.set()

    def _add(self, number: int) -> None:
        with self._count.get_lock():
            self._count.value += number


def held(gate: Gate) -> Pregel[Any, Any, Any, Any]:
    """One node that waits at the gate."""

    async def wait(state: State) -> State:  # noqa: ARG001 - as langgraph calls it
        await gate.pass_through()
        return {}

    return _one_node(StateGraph(State).add_node("node", wait), False)


def _one_node(graph: StateGraph[Any, Any, Any, Any], checkpointer: Checkpointer) -> Pregel[Any, Any, Any, Any]:
    return graph.add_edge(START, "node").add_edge("node", END).compile(checkpointer)
