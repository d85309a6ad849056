"""Graphs with a checkpointer or a store of their own, and graphs that need a store."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_store
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedStore, ToolNode
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore


class Noted(TypedDict, total=False):
    note: str


def _one(node: Any, **options: Any) -> Any:
    builder: Any = StateGraph(Noted)
    return builder.add_node("node", node).add_edge(START, "node").compile(**options)


def _note(_: Noted) -> Noted:
    return {"note": "kept"}


async def _takes(_: Noted, *, store: BaseStore) -> Noted:
    await store.aput(("a",), "k", {})
    return {"note": "kept"}


async def _optional(_: Noted, *, store: BaseStore | None = None) -> Noted:
    return {"note": "none" if store is None else "some"}


async def _of_runtime(_: Noted, runtime: Runtime[Any]) -> Noted:
    found = await runtime.store.aget(("a",), "k")  # type: ignore[union-attr] # as projects write it
    return {"note": repr(found)}


def _of_config(_: Noted) -> Noted:
    store = get_store()
    store.put(("a",), "k", {"n": 1})
    return {"note": "kept"}


def _other_none(_: Noted) -> Noted:
    nothing: Any = None
    return {"note": nothing.get("x")}


in_memory = _one(_note, checkpointer=InMemorySaver())
takes_store = _one(_takes)
optional = _one(_optional)
of_runtime = _one(_of_runtime)
of_config = _one(_of_config)
own_store = _one(_of_config, store=InMemoryStore())
other_none = _one(_other_none)


@tool
def remember(text: str, store: Annotated[Any, InjectedStore()]) -> str:
    """Remember a text."""
    store.put(("a",), "k", {"text": text})
    return "kept"


def _call(_: MessagesState) -> dict[str, Any]:
    return {"messages": AIMessage("", tool_calls=[{"name": "remember", "args": {"text": "x"}, "id": "1"}])}


_calling: Any = StateGraph(MessagesState)
injected = (
    _calling.add_node("call", _call)
    .add_node("tools", ToolNode([remember]))
    .add_edge(START, "call")
    .add_edge("call", "tools")
    .compile()
)
