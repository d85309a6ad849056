"""The bytes of the events of real graphs, one golden file per stream mode.

After a wanted change, write them anew with `RUNSTREAM_UPDATE_GOLDEN=1 pytest tests/fundamentals/test_golden_events.py`
and read the diff: whoever reads streams of the older version must be able to read the new ones.
"""

from __future__ import annotations

import operator
import os
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, nullcontext
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypedDict

import pytest
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, AnyMessage, BaseMessage, ToolMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph, add_messages
from langgraph.types import Command, StreamMode, interrupt
from pydantic_core import from_json

from runstream.model import STREAM_MODES
from runstream_worker.chunks import chunks
from runstream_worker.encoding import JsonEncoder
from runstream_worker.events import EventEncoder
from runstream_worker.origins import Origins

GOLDEN: Final = Path(__file__).parents[1] / "contract" / "golden" / "encoding"

RANDOM: Final = {
    "uuid": re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"),
    "interrupt": re.compile(r"\b[0-9a-f]{32}\b"),
    "time": re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\+00:00"),
    "version": re.compile(r'(?<=")\d+\.\d+\.\d+(?=")'),
}


class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    notes: Annotated[list[str], operator.add]


class ScriptedModel(BaseChatModel):
    """Streams text, then a tool call, then tells its usage."""

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage("Let me see"))])

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        provider = {"model_provider": "scripted"}
        for text in ("", "Let", " me", " see \N{HONEYBEE}"):
            yield ChatGenerationChunk(message=AIMessageChunk(content=text, response_metadata=provider))
        call = tool_call_chunk(name="look_up", args='{"q": 1}', id="call_1", index=0)
        message = AIMessageChunk(content="", response_metadata=provider, tool_call_chunks=[call])
        yield ChatGenerationChunk(message=message)
        message = AIMessageChunk(content="", usage_metadata={"input_tokens": 3, "output_tokens": 5, "total_tokens": 8})
        yield ChatGenerationChunk(message=message)


async def model(state: State) -> dict[str, Any]:
    return {"messages": [await ScriptedModel().ainvoke(state["messages"])]}


async def tool(state: State) -> dict[str, Any]:
    get_stream_writer()({"progress": 0.5, "ids": {2, 1}})
    return {"messages": [ToolMessage("found", tool_call_id="call_1", id="tool-1")]}


async def ask(state: State) -> dict[str, Any]:
    return {"notes": [interrupt({"question": "go on?"})]}


async def fail(state: State) -> dict[str, Any]:
    raise ValueError("boom")


def graph() -> Any:
    inner = StateGraph(State).add_node("model", model).add_edge(START, "model").compile()
    outer = (
        StateGraph(State).add_node("agent", inner).add_node("tool", tool).add_node("ask", ask).add_node("fail", fail)
    )
    outer.add_edge(START, "agent").add_edge("agent", "tool").add_edge("tool", "ask").add_edge("ask", "fail")
    return outer.compile(checkpointer=InMemorySaver())


async def events(mode: StreamMode, version: Literal["v1", "v2"]) -> list[bytes]:
    """The events of two runs: one until the interrupt, one from the answer to the exception.

    As a worker has it, more is streamed than is published: `tasks` and `checkpoints` tell where the rest comes from.
    """
    modes: list[StreamMode] = list(dict.fromkeys([mode, "updates", "tasks", "checkpoints"]))
    compiled = graph()
    config = {"configurable": {"thread_id": "thread-1", "client": object()}}
    encoded: list[bytes] = []
    first: Any = {"messages": [{"type": "human", "content": "hi", "id": "human-1"}], "notes": []}
    answer: Command[Any] = Command(resume="yes")
    for attempt, graph_input in enumerate((first, answer), 1):
        encoder, origins = EventEncoder(JsonEncoder()), Origins()
        running = chunks(compiled, graph_input, config, modes=modes, version=version, subgraphs=True)
        with pytest.raises(ValueError, match="boom") if attempt == 2 else nullcontext():
            async with aclosing(running) as emitted:
                async for chunk in emitted:
                    for placed in origins.place(chunk):
                        if placed.chunk.mode == mode:
                            encoded.append(encoder.encode(placed, f"{attempt}-{len(encoded) + 1}"))
        assert not list(origins.rest()), "everything has been placed by the end"
    return encoded


def normalised(text: str) -> str:
    """Give every random part the number of its first appearance."""
    for kind, pattern in RANDOM.items():
        for number, value in enumerate(dict.fromkeys(pattern.findall(text)), 1):
            text = text.replace(value, f"<{kind} {number}>")
    return text


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("mode", STREAM_MODES)
async def test_golden(mode: StreamMode, version: Literal["v1", "v2"]) -> None:
    encoded = await events(mode, version)
    written = normalised("[\n" + ",\n".join(event.decode() for event in encoded) + "\n]\n")
    assert len(from_json(written)) == len(encoded)
    golden = GOLDEN / f"{mode}.{version}.json"
    if os.environ.get("RUNSTREAM_UPDATE_GOLDEN"):
        golden.write_text(written, encoding="utf-8")
    assert written == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("mode", [mode for mode in STREAM_MODES if mode != "values"])
def test_the_version_changes_the_values_only(mode: StreamMode) -> None:
    assert (GOLDEN / f"{mode}.v1.json").read_bytes() == (GOLDEN / f"{mode}.v2.json").read_bytes()
