"""Factories that take what LangGraph's server gives them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypedDict

from langgraph.graph import START, StateGraph

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph_sdk.runtime import ServerRuntime


class Told(TypedDict, total=False):
    told: Any


class Chosen(TypedDict, total=False):
    n: int


def _telling(told: Any) -> Any:
    def tell(_: Told) -> Told:
        return {"told": told}

    builder: Any = StateGraph(Told, context_schema=Chosen)
    # The names of the nodes show in the drawing why the graph was made.
    return builder.add_node("tell", tell, metadata={"told": told}).add_edge(START, "tell")


def _about(runtime: ServerRuntime[Chosen]) -> dict[str, Any]:
    executing = runtime.execution_runtime
    return {
        "access": runtime.access_context,
        "user": None if runtime.user is None else runtime.user.identity,
        "context": None if executing is None else executing.context,
    }


@asynccontextmanager
async def with_runtime(runtime: ServerRuntime[Chosen]) -> AsyncIterator[Any]:
    yield _telling(_about(runtime)).compile()


async def with_both(config: RunnableConfig, runtime: ServerRuntime[Chosen]) -> Any:
    return _telling({**_about(runtime), "n": config["configurable"].get("n")})
