"""Who asked for a run, as a graph that was written for LangGraph's server looks at it."""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from tests.support.workers import Workers
from typing_extensions import TypedDict

from runstream import Client
from runstream_worker.auth_user import AuthUser, with_auth_user


class Seen(TypedDict, total=False):
    """What a node saw."""

    seen: list[Any]


def look(state: Seen, config: RunnableConfig, runtime: Runtime[None]) -> Seen:
    user = config["configurable"]["langgraph_auth_user"]
    server, execution = runtime.server_info, runtime.execution_info
    assert server is not None
    assert server.user is not None
    assert execution is not None
    return {"seen": [user.identity, user["identity"], user.team, server.user.identity, execution.run_id]}


async def test_a_graph_finds_the_user_as_an_object_and_the_runs_id(client: Client, workers: Workers) -> None:
    graph: Any = StateGraph(Seen)
    await workers.start(look=graph.add_node("look", look).add_edge(START, "look").compile())
    user = {"identity": "ann", "permissions": [], "team": "blue"}
    run = await client.enqueue("look", {}, config={"configurable": {"langgraph_auth_user": user, "graph_id": "look"}})
    result = await client.result(run.run_id)
    assert result["seen"] == ["ann", "ann", "blue", "ann", run.run_id]


def test_what_is_no_user_stays_what_it_is() -> None:
    assert with_auth_user({"langgraph_auth_user": "ann"}) == {"langgraph_auth_user": "ann"}
    assert with_auth_user({}) == {}
    user = AuthUser({"identity": "ann"})
    assert (user.display_name, user.is_authenticated, list(user.permissions)) == ("ann", True, [])
    assert not hasattr(user, "team")
