"""LangGraph's shapes of chunks come out as one."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Annotated, Any, Literal, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from langgraph.types import Interrupt, interrupt

from runstream.model import STREAM_MODES
from runstream_worker.chunks import Chunk, chunks


def joined(left: list[str], right: list[str]) -> list[str]:
    return left + right


class State(TypedDict):
    steps: Annotated[list[str], joined]


async def ask(state: State) -> dict[str, Any]:
    return {"steps": [interrupt("go on?")]}


async def step(state: State) -> dict[str, Any]:
    return {"steps": ["step"]}


def graph() -> Any:
    inner = StateGraph(State).add_node("step", step).add_edge(START, "step").compile()
    outer = StateGraph(State).add_node("inner", inner).add_node("ask", ask)
    return outer.add_edge(START, "inner").add_edge("inner", "ask").compile(checkpointer=InMemorySaver())


async def collected(version: Literal["v1", "v2"], **options: Any) -> list[Chunk]:
    config = {"configurable": {"thread_id": "1"}}
    start: Any = {"steps": []}
    async with aclosing(
        chunks(graph(), start, config, modes=["values", "updates"], version=version, **options)
    ) as running:
        return [chunk async for chunk in running]


@pytest.mark.parametrize("subgraphs", [False, True])
async def test_both_versions_give_the_same_updates(subgraphs: bool) -> None:
    v1, v2 = await collected("v1", subgraphs=subgraphs), await collected("v2", subgraphs=subgraphs)
    assert [(chunk.mode, [part.split(":")[0] for part in chunk.ns]) for chunk in v1] == [
        (chunk.mode, [part.split(":")[0] for part in chunk.ns]) for chunk in v2
    ]
    assert any(chunk.ns for chunk in v1) is subgraphs
    assert {chunk.mode for chunk in v1 + v2} <= set(STREAM_MODES)
    assert {type(chunk.ns) for chunk in v1 + v2} == {tuple}


async def test_interrupts_are_in_the_values_or_apart() -> None:
    v1, v2 = await collected("v1"), await collected("v2")
    last_v1, last_v2 = ([chunk for chunk in each if chunk.mode == "values"][-1] for each in (v1, v2))
    (asked,) = last_v2.interrupts or ()
    assert isinstance(asked, Interrupt)
    assert asked.value == "go on?"
    assert isinstance(last_v1.data, dict)
    assert [each.value for each in last_v1.data["__interrupt__"]] == ["go on?"]
    assert last_v1.interrupts is None
    assert {chunk.interrupts for chunk in v2 if chunk.mode == "updates"} == {None}


async def test_options_pass_through() -> None:
    emitted = await collected("v1", interrupt_before=["inner"])
    assert [chunk.data for chunk in emitted if chunk.mode == "updates"] == [{"__interrupt__": ()}]


async def test_leaving_early_stops_the_graph() -> None:
    stopped = asyncio.Event()

    async def endless(state: State) -> dict[str, Any]:
        get_stream_writer()("started")
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return {}

    running = StateGraph(State).add_node("endless", endless).add_edge(START, "endless").compile()
    async with aclosing(chunks(running, {"steps": []}, None, modes=["values", "custom"], version="v2")) as emitted:
        async for chunk in emitted:
            if chunk.data == "started":
                break
    assert stopped.is_set()
