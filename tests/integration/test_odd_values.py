"""One value must not cost a run: what has no JSON form stays the graph's, and readers see a marker in its place."""

from __future__ import annotations

import threading
from typing import Annotated, Any, NotRequired, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, AgentState
from langchain.agents.middleware.types import PrivateStateAttr
from langchain_core.messages import AIMessage, AnyMessage
from langgraph.channels import UntrackedValue
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph, add_messages
from pydantic import SecretStr
from tests.support.graphs.model import ScriptedModel
from tests.support.workers import Workers

from runstream import Client, RunErrored
from runstream.model import STREAM_MODES

HI = {"messages": [["user", "Hi!"]]}
SHOWN_NOWHERE = "sk-do-not-show"
LOCK = {"lc": 1, "type": "not_implemented", "id": ["_thread", "lock"]}
MODEL = ScriptedModel(replies=[AIMessage("Hello there.")])


class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    lock: NotRequired[Annotated[object, UntrackedValue]]


async def take_lock(state: State) -> Any:
    return {"lock": threading.Lock()}


async def answer(state: State) -> Any:
    assert state["lock"].acquire(blocking=False)  # type: ignore[attr-defined]  # the graph has the lock itself
    return {"messages": [await MODEL.ainvoke(state["messages"])]}


def with_lock() -> Any:
    graph = StateGraph(State).add_node("take", take_lock).add_node("answer", answer)
    return graph.add_edge(START, "take").add_edge("take", "answer").compile()


@pytest.mark.parametrize("mode", STREAM_MODES)
async def test_an_untracked_lock_in_the_state_does_not_end_the_run(
    mode: Any, client: Client, workers: Workers, caplog: pytest.LogCaptureFixture
) -> None:
    await workers.start(graph=with_lock())
    run = await client.enqueue("graph", HI, stream_mode=mode)
    result = await client.result(run.run_id)
    assert result["lock"] == LOCK
    assert result["messages"][-1]["content"] == "Hello there."
    if mode == "messages":
        assert "".join([str(text) async for text in client.text(run.run_id)]) == "Hello there."
    assert "<unlocked" not in str([event.data async for event in client.tail(run.run_id)])
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "values.lock (_thread.lock)" in warning
    assert run.run_id in warning


async def test_with_strict_json_the_run_ends_and_names_the_place(client: Client, workers: Workers) -> None:
    await workers.start({"strict_json": True}, graph=with_lock())
    run = await client.enqueue("graph", HI, stream_mode="messages")
    with pytest.raises(RunErrored, match=r"EncodingError: values\.lock: _thread\.lock is not JSON"):
        await client.result(run.run_id)
    run = await client.enqueue("graph", HI, stream_mode="messages", strict_json=False)
    assert (await client.result(run.run_id))["lock"] == LOCK


class Session:
    def __repr__(self) -> str:
        return SHOWN_NOWHERE


class SessionState(AgentState[Any]):
    session: NotRequired[Annotated[Session, UntrackedValue, PrivateStateAttr]]


class KeepsSession(AgentMiddleware[SessionState, Any, Any]):
    state_schema = SessionState

    async def abefore_agent(self, state: Any, runtime: Any) -> Any:
        return {"session": Session()}


async def test_a_middleware_keeps_a_live_session_in_private_state(client: Client, workers: Workers) -> None:
    await workers.start(graph=create_agent(MODEL, middleware=[KeepsSession()]))
    run = await client.enqueue("graph", HI, stream_mode=["messages", "updates", "values"])
    assert (await client.result(run.run_id))["messages"][-1]["content"] == "Hello there."
    assert SHOWN_NOWHERE not in str([event.data async for event in client.tail(run.run_id)])


async def test_an_object_in_a_models_metadata(client: Client, workers: Workers) -> None:
    async def node(state: State) -> Any:
        model = MODEL.with_config(metadata={"session": Session(), "user": "u"})
        return {"messages": [await model.ainvoke(state["messages"])]}

    await workers.start(graph=StateGraph(State).add_node("node", node).add_edge(START, "node").compile())
    run = await client.enqueue("graph", HI, stream_mode="messages")
    assert "".join([str(text) async for text in client.text(run.run_id)]) == "Hello there."
    metadata = [event.data[1] async for event in client.tail(run.run_id) if event.mode == "messages"]
    shown = {"lc": 1, "type": "not_implemented", "id": [*__name__.split("."), "Session"]}
    assert all((each["session"], each["user"]) == (shown, "u") for each in metadata)


class Odd(TypedDict, total=False):
    key: SecretStr
    grid: dict[Any, Any]
    counts: dict[Any, Any]


async def odd_values(state: Odd) -> Any:
    get_stream_writer()({"key": SecretStr(SHOWN_NOWHERE)})
    return {"key": SecretStr(SHOWN_NOWHERE), "grid": {(0, 1): "x"}, "counts": {1: 1, None: 2}}


@pytest.mark.parametrize("url", ["none", "redis"])
async def test_secrets_and_keys_that_are_no_text(url: str, client: Client, workers: Workers) -> None:
    await workers.start({"checkpointer_url": url}, graph=one_node(odd_values))
    run = await client.enqueue("graph", {}, stream_mode=list(STREAM_MODES))
    result = await client.result(run.run_id)
    assert result == {
        "key": {"lc": 1, "type": "not_implemented", "id": ["pydantic", "types", "SecretStr"]},
        "grid": {"lc": 1, "type": "not_implemented", "id": ["builtins", "dict"]},
        "counts": {"1": 1, "null": 2},
    }
    assert SHOWN_NOWHERE not in str([event.data async for event in client.tail(run.run_id)])


def one_node(node: Any) -> Any:
    return StateGraph(Odd).add_node("node", node).add_edge(START, "node").compile()
