"""The graphs that the clients' tests run, on a model that needs no network.

They import nothing of ours, so that any server of the same API can run them.
"""

from __future__ import annotations

import asyncio
import operator
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, AnyMessage, BaseMessage, ToolMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph, add_messages
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.runtime import Runtime
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict


class EchoModel(BaseChatModel):
    """Says `You said: ...`, a word at a time; where it is asked to `look up X`, it calls the tool first."""

    tools: bool = False

    @property
    def _llm_type(self) -> str:
        return "echo"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        whole = None
        for chunk in self._pieces(messages):
            whole = chunk.message if whole is None else whole + chunk.message
        assert isinstance(whole, AIMessageChunk)
        message = AIMessage(whole.content, tool_calls=whole.tool_calls)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        yield from self._pieces(messages)

    async def _astream(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._pieces(messages):
            yield chunk

    def _pieces(self, messages: list[BaseMessage]) -> Iterator[ChatGenerationChunk]:
        last = messages[-1]
        wanted = re.fullmatch(r"look up (\w+)", last.text) if self.tools else None
        if wanted is not None:
            arguments = ("", '{"word": ', f'"{wanted[1]}"}}')
            for position, args in enumerate(arguments):
                name, call_id = ("lookup", "call_1") if position == 0 else (None, None)
                piece = tool_call_chunk(name=name, args=args, id=call_id, index=0)
                yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[piece]))
        else:
            said = f"The tool said: {last.text}" if isinstance(last, ToolMessage) else f"You said: {last.text}"
            for word in re.findall(r"\s*\S+", said):
                yield ChatGenerationChunk(message=AIMessageChunk(content=word))
        yield ChatGenerationChunk(message=AIMessageChunk(content="", chunk_position="last"))


class Chat(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


async def answer(state: Chat) -> Any:
    return {"messages": [await EchoModel().ainvoke(state["messages"])]}


chat = StateGraph(Chat).add_node("answer", answer).add_edge(START, "answer").compile()


# --- a model and a tool -----------------------------------------------------------------------------------------------


@tool
async def lookup(word: str) -> str:
    """Look a word up."""
    return f"{word} means something"


async def model(state: Chat) -> Any:
    return {"messages": [await EchoModel(tools=True).ainvoke(state["messages"])]}


agent = (
    StateGraph(Chat)
    .add_node("model", model)
    .add_node("tools", ToolNode([lookup]))
    .add_edge(START, "model")
    .add_conditional_edges("model", tools_condition)
    .add_edge("tools", "model")
    .compile()
)


# --- a human in the loop ----------------------------------------------------------------------------------------------


class Steps(TypedDict, total=False):
    steps: Annotated[list[str], operator.add]


async def plan(state: Steps) -> Any:
    return {"steps": ["plan"]}


async def ask(state: Steps) -> Any:
    reply = interrupt({"question": "go on?"})
    return {"steps": [f"answer: {reply}"]}


async def act(state: Steps) -> Any:
    return {"steps": ["act"]}


approval = (
    StateGraph(Steps)
    .add_node("plan", plan)
    .add_node("ask", ask)
    .add_node("act", act)
    .add_edge(START, "plan")
    .add_edge("plan", "ask")
    .add_edge("ask", "act")
    .compile()
)


async def first_question(state: Steps) -> Any:
    return {"steps": [f"first: {interrupt('first?')}"]}


async def second_question(state: Steps) -> Any:
    return {"steps": [f"second: {interrupt('second?')}"]}


questions = (
    StateGraph(Steps)
    .add_node("first", first_question)
    .add_node("second", second_question)
    .add_edge(START, "first")
    .add_edge(START, "second")
    .compile()
)


# --- a graph in a graph -----------------------------------------------------------------------------------------------


class Family(Steps, total=False):
    pause: bool
    messages: Annotated[list[AnyMessage], add_messages]


async def inner(state: Family) -> Any:
    get_stream_writer()({"from": "inner"})
    reply = interrupt("inside?") if state.get("pause") else "not asked"
    said = await EchoModel().ainvoke("inner")
    return {"steps": [f"inner: {reply}"], "messages": [said]}


async def outer(state: Family) -> Any:
    return {"steps": ["outer"]}


parent = (
    StateGraph(Family)
    .add_node("child", StateGraph(Family).add_node("inner", inner).add_edge(START, "inner").compile())
    .add_node("outer", outer)
    .add_edge(START, "child")
    .add_edge("child", "outer")
    .compile()
)


# --- branches ---------------------------------------------------------------------------------------------------------


async def left(state: Steps) -> Any:
    return {"steps": ["left"]}


async def right(state: Steps) -> Any:
    return {"steps": ["right"]}


async def joined(state: Steps) -> Any:
    return {"steps": ["joined"]}


parallel = (
    StateGraph(Steps)
    .add_node("left", left)
    .add_node("right", right)
    .add_node("joined", joined)
    .add_edge(START, "left")
    .add_edge(START, "right")
    .add_edge(["left", "right"], "joined")
    .compile()
)


# --- failing ----------------------------------------------------------------------------------------------------------


async def fail(state: Steps) -> Any:
    raise ValueError("boom")


failing = (
    StateGraph(Steps)
    .add_node("plan", plan)
    .add_node("fail", fail)
    .add_edge(START, "plan")
    .add_edge("plan", "fail")
    .compile()
)


# --- slow -------------------------------------------------------------------------------------------------------------


class Slow(Steps, total=False):
    ticks: int
    delay: float  # seconds between two ticks


async def begin(state: Slow) -> Any:
    return {"steps": ["begin"]}


async def tick(state: Slow) -> Any:
    write = get_stream_writer()
    for number in range(state.get("ticks", 3)):
        write({"tick": number})
        await asyncio.sleep(state.get("delay", 0.05))
    return {"steps": ["tick"]}


async def finish(state: Slow) -> Any:
    return {"steps": ["finish"]}


slow = (
    StateGraph(Slow)
    .add_node("begin", begin)
    .add_node("tick", tick)
    .add_node("finish", finish)
    .add_edge(START, "begin")
    .add_edge("begin", "tick")
    .add_edge("tick", "finish")
    .compile()
)


# --- what a run was given ---------------------------------------------------------------------------------------------


@dataclass
class Settings:
    name: str = "nobody"


class Seen(TypedDict, total=False):
    name: str
    place: str
    greeting: str
    seen: dict[str, Any]


class SeenInput(TypedDict, total=False):
    place: str


async def look(state: SeenInput, config: RunnableConfig, runtime: Runtime[Settings]) -> Any:
    context: Settings | None = runtime.context  # None where the run was given none
    name = "nobody" if context is None else context.name
    get_stream_writer()({"greeting": name})
    configurable = config.get("configurable", {})
    given = ("thread_id", "run_id", "graph_id", "assistant_id", "mine", "x-mine")
    seen = {
        "configurable": {key: str(configurable[key]) for key in given if key in configurable},
        "metadata": {key: value for key, value in config.get("metadata", {}).items() if key in {"colour", "run_id"}},
        "tags": config.get("tags", []),
    }
    return {"greeting": f"hello {name}", "seen": seen}


seeing: Any = StateGraph(Seen, context_schema=Settings, input_schema=SeenInput)
contextual = seeing.add_node("look", look).add_edge(START, "look").compile()


# --- commands ---------------------------------------------------------------------------------------------------------


class Count(TypedDict, total=False):
    count: int
    path: Annotated[list[str], operator.add]


async def one(state: Count) -> Command[Any]:
    count = state.get("count", 0) + 1
    return Command(goto="two", update={"count": count, "path": [f"one {count}"]})


async def two(state: Count) -> Any:
    return {"path": [f"two {state.get('count')}"]}


async def three(state: Count) -> Any:
    return {"path": [f"three {state.get('count')}"]}


counter = (
    StateGraph(Count)
    .add_node("one", one, destinations=("two",))
    .add_node("two", two)
    .add_node("three", three)
    .add_edge(START, "one")
    .add_edge("two", END)
    .add_edge("three", END)
    .compile()
)
