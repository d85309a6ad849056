"""Graphs as projects write them for LangGraph's server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict

# -- a name is any text ------------------------------------------------------------------------------------------------


class Said(TypedDict, total=False):
    text: str


def say(state: Said) -> Said:
    return {"text": state.get("text", "") + "!"}


echo = StateGraph(Said).add_node(say).add_edge(START, "say").compile()

# -- what a context is -------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class DataclassContext:
    model: str = "default"
    n: int = 1


class TypedDictContext(TypedDict, total=False):
    model: str


class PydanticContext(BaseModel):
    model: str = "default"


class StrictContext(BaseModel):
    model_config = ConfigDict(extra="forbid")
    model: str = "default"


class Seen(TypedDict, total=False):
    context: Any
    chosen: Any


def _looking(schema: Any) -> Any:
    async def look(_: Seen, config: RunnableConfig, runtime: Runtime[Any]) -> Seen:
        chosen = {name: config["configurable"].get(name) for name in ("model", "n", "unknown")}
        return {
            "context": repr(runtime.context),
            "chosen": {name: value for name, value in chosen.items() if value is not None},
        }

    builder: Any = StateGraph(Seen, context_schema=schema)
    return builder.add_node("look", look).add_edge(START, "look").compile()


with_dataclass = _looking(DataclassContext)
with_typeddict = _looking(TypedDictContext)
with_pydantic = _looking(PydanticContext)
with_strict = _looking(StrictContext)
without_schema = _looking(None)

# -- what an output schema hides ---------------------------------------------------------------------------------------


class Whole(TypedDict, total=False):
    answer: str
    notes: str


class Shown(TypedDict, total=False):
    answer: str


def think(_: Whole) -> Whole:
    return {"notes": "private"}


def reply(state: Whole) -> Whole:
    return {"answer": "public", "notes": state["notes"] + "!"}


_whole: Any = StateGraph(Whole, output_schema=Shown)
private = _whole.add_node(think).add_node(reply).add_edge(START, "think").add_edge("think", "reply").compile()
