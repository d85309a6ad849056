"""`assistants`: one for each graph, those that users make, and their versions."""

from __future__ import annotations

import json
import secrets
import uuid
from pathlib import Path
from typing import Any

import pytest
from langgraph_sdk.errors import ConflictError, NotFoundError, UnprocessableEntityError
from tests.support.sdk_parts import UNKNOWN

GRAPHS = set(json.loads((Path(__file__).parents[1] / "graphs" / "langgraph.json").read_text())["graphs"])
SYSTEM = {"created_by": "system"}
NAMESPACE = uuid.UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")


def assistant_id(graph: str) -> str:
    """The id of the assistant that every graph has."""
    return str(uuid.uuid5(NAMESPACE, graph))


@pytest.fixture
def mark() -> dict[str, str]:
    """Metadata that only this test's assistants have."""
    return {"mark": secrets.token_hex(8)}


async def test_every_graph_has_one(client: Any) -> None:
    assistants = await client.assistants.search(metadata=SYSTEM, limit=100)
    assert {assistant["graph_id"] for assistant in assistants} == GRAPHS
    for assistant in assistants:
        assert assistant["assistant_id"] == assistant_id(assistant["graph_id"])
        assert assistant["version"] == 1
        assert assistant["config"] == {}
        assert assistant["context"] == {}
        assert assistant["name"] == assistant["graph_id"]
        assert await client.assistants.get(assistant["assistant_id"]) == assistant
    (chat,) = [assistant for assistant in assistants if assistant["graph_id"] == "chat"]
    assert chat["description"] == "Answers with the question"


async def test_searching(client: Any) -> None:
    (found,) = await client.assistants.search(graph_id="chat", metadata=SYSTEM)
    assert found["graph_id"] == "chat"
    with pytest.raises(NotFoundError):
        await client.assistants.search(graph_id="nonsense")
    offsets = range(0, len(GRAPHS), 4)
    pages = [await client.assistants.search(metadata=SYSTEM, limit=4, offset=offset) for offset in offsets]
    assert {one["graph_id"] for page in pages for one in page} == GRAPHS
    assert sum(len(page) for page in pages) == len(GRAPHS)
    by_name = await client.assistants.search(metadata=SYSTEM, limit=100, sort_by="name", sort_order="asc")
    assert [one["name"] for one in by_name] == sorted(GRAPHS)
    some = await client.assistants.search(graph_id="chat", metadata=SYSTEM, select=["graph_id", "name"])
    assert some == [{"graph_id": "chat", "name": "chat"}]


async def test_searching_with_the_next_page(client: Any) -> None:
    found = await client.assistants.search(metadata=SYSTEM, limit=4, response_format="object")
    assert len(found["assistants"]) == 4
    assert found["next"] == "4"
    last = await client.assistants.search(metadata=SYSTEM, limit=4, offset=len(GRAPHS) - 4, response_format="object")
    assert last["next"] is None


async def test_counting(client: Any, mark: dict[str, str]) -> None:
    assert await client.assistants.count(metadata=SYSTEM) == len(GRAPHS)
    assert await client.assistants.count(metadata=SYSTEM, graph_id="chat") == 1
    assert await client.assistants.count(metadata=mark) == 0


async def test_schemas(client: Any) -> None:
    schemas = await client.assistants.get_schemas(assistant_id("contextual"))
    assert schemas["graph_id"] == "contextual"
    assert schemas["input_schema"]["properties"].keys() == {"place"}
    assert schemas["output_schema"]["properties"].keys() == {"name", "place", "greeting", "seen"}
    assert schemas["state_schema"]["properties"].keys() == {"name", "place", "greeting", "seen"}
    assert schemas["context_schema"]["properties"].keys() == {"name"}
    messages = (await client.assistants.get_schemas(assistant_id("chat")))["input_schema"]["properties"]["messages"]
    assert messages["type"] == "array"


async def test_the_drawing(client: Any) -> None:
    for which in ("parent", assistant_id("parent")):
        graph = await client.assistants.get_graph(which)
        assert [node["id"] for node in graph["nodes"]] == ["__start__", "child", "outer", "__end__"]
        edges = [(edge["source"], edge["target"]) for edge in graph["edges"]]
        assert sorted(edges) == [("__start__", "child"), ("child", "outer"), ("outer", "__end__")]


@pytest.mark.parametrize("xray", [True, 1])
async def test_the_drawing_with_what_is_inside(client: Any, xray: bool | int) -> None:
    graph = await client.assistants.get_graph(assistant_id("parent"), xray=xray)
    assert "child:inner" in {node["id"] for node in graph["nodes"]}


async def test_conditional_edges(client: Any) -> None:
    graph = await client.assistants.get_graph("agent")
    conditional = {(edge["source"], edge["target"]) for edge in graph["edges"] if edge.get("conditional")}
    assert conditional == {("model", "tools"), ("model", "__end__")}


async def test_subgraphs(client: Any) -> None:
    subgraphs = await client.assistants.get_subgraphs(assistant_id("parent"), recurse=True)
    assert subgraphs.keys() == {"child"}
    assert "steps" in subgraphs["child"]["state_schema"]["properties"]
    assert (await client.assistants.get_subgraphs(assistant_id("parent"), namespace="child")).keys() == {"child"}
    assert await client.assistants.get_subgraphs(assistant_id("chat")) == {}


async def test_one_of_ones_own(client: Any, thread_id: str, mark: dict[str, str]) -> None:
    made = await client.assistants.create(
        "contextual", context={"name": "Bo"}, metadata=mark, name="Bo's", description="greets Bo"
    )
    assert str(uuid.UUID(made["assistant_id"])) == made["assistant_id"]
    assert made["graph_id"] == "contextual"
    assert made["context"] == {"name": "Bo"}
    assert made["metadata"] == mark
    assert made["name"] == "Bo's"
    assert made["description"] == "greets Bo"
    assert made["version"] == 1
    assert await client.assistants.get(made["assistant_id"]) == made
    assert await client.assistants.search(metadata=mark) == [made]
    assert await client.assistants.search(metadata=mark, name="bo") == [made]
    assert await client.assistants.search(metadata=mark, graph_id="chat") == []
    values = await client.runs.wait(thread_id, made["assistant_id"], input={"place": "here"})
    assert values["greeting"] == "hello Bo"
    (run,) = await client.runs.list(thread_id)
    assert run["assistant_id"] == made["assistant_id"]
    assert run["metadata"]["mark"] == mark["mark"]
    assert (await client.threads.get(thread_id))["metadata"]["graph_id"] == "contextual"


async def test_its_configuration_is_the_default(client: Any, thread_id: str) -> None:
    config = {"configurable": {"name": "Bo", "mine": "1"}, "tags": ["blue"]}
    made = await client.assistants.create("contextual", config)
    values = await client.runs.wait(thread_id, made["assistant_id"], input={"place": "here"})
    assert values["greeting"] == "hello Bo"
    assert values["seen"]["configurable"]["mine"] == "1"
    assert values["seen"]["tags"] == ["blue"]
    values = await client.runs.wait(thread_id, made["assistant_id"], input={}, config={"configurable": {"name": "Al"}})
    assert values["greeting"] == "hello Al"
    assert values["seen"]["configurable"]["mine"] == "1"


async def test_with_an_id(client: Any) -> None:
    own = str(uuid.uuid4())
    made = await client.assistants.create("chat", assistant_id=own)
    assert made["assistant_id"] == own
    with pytest.raises(ConflictError):
        await client.assistants.create("chat", assistant_id=own)
    again = await client.assistants.create("chat", assistant_id=own, if_exists="do_nothing", name="other")
    assert again == made


async def test_versions(client: Any, thread_id: str) -> None:
    made = await client.assistants.create("contextual", context={"name": "Bo"}, name="one")
    own = made["assistant_id"]
    second = await client.assistants.update(own, context={"name": "Al"}, name="two", metadata={"n": 2})
    assert second["version"] == 2
    assert second["context"] == {"name": "Al"}
    assert second["graph_id"] == "contextual"
    assert await client.assistants.get(own) == second
    versions = await client.assistants.get_versions(own)
    assert [version["version"] for version in versions] == [2, 1]
    assert [version["context"] for version in versions] == [{"name": "Al"}, {"name": "Bo"}]
    assert [version["version"] for version in await client.assistants.get_versions(own, limit=1, offset=1)] == [1]
    values = await client.runs.wait(thread_id, own, input={})
    assert values["greeting"] == "hello Al"
    back = await client.assistants.set_latest(own, 1)
    assert (back["version"], back["name"]) == (1, "one")
    assert (await client.assistants.get(own))["version"] == 1
    third = await client.assistants.update(own, name="three")
    assert third["version"] == 3


@pytest.mark.ours("going back to a version leaves the context as it is")
async def test_going_back_to_a_version(client: Any, thread_id: str) -> None:
    own = (await client.assistants.create("contextual", context={"name": "Bo"}))["assistant_id"]
    await client.assistants.update(own, context={"name": "Al"})
    assert (await client.assistants.set_latest(own, 1))["context"] == {"name": "Bo"}
    values = await client.runs.wait(thread_id, own, input={})
    assert values["greeting"] == "hello Bo"
    assert (await client.assistants.update(own, name="three"))["context"] == {"name": "Bo"}


async def test_deleting(client: Any, thread_id: str) -> None:
    made = await client.assistants.create("chat")
    assert await client.assistants.delete(made["assistant_id"]) is None
    for call in (
        client.assistants.get(made["assistant_id"]),
        client.assistants.delete(made["assistant_id"]),
        client.runs.create(thread_id, made["assistant_id"], input={}),
    ):
        with pytest.raises(NotFoundError):
            await call


async def test_unknown_ones(client: Any) -> None:
    for call in (
        client.assistants.get(UNKNOWN),
        client.assistants.get_schemas(UNKNOWN),
        client.assistants.get_graph(UNKNOWN),
        client.assistants.get_subgraphs(UNKNOWN),
        client.assistants.update(UNKNOWN, name="x"),
        client.assistants.delete(UNKNOWN),
        client.assistants.set_latest(UNKNOWN, 1),
        client.assistants.set_latest(assistant_id("chat"), 7),
        client.assistants.create("nonsense"),
    ):
        with pytest.raises(NotFoundError):
            await call


@pytest.mark.ours("an assistant's graph can be asked for by name, the assistant itself cannot")
async def test_by_the_name_of_the_graph(client: Any) -> None:
    assert (await client.assistants.get("chat"))["assistant_id"] == assistant_id("chat")
    assert (await client.assistants.get_schemas("chat"))["graph_id"] == "chat"


async def test_ids_that_are_none(client: Any) -> None:
    with pytest.raises((UnprocessableEntityError, NotFoundError)):
        await client.assistants.get("nonsense")
