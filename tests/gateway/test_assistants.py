"""Assistants over HTTP: the graphs' own, those that somebody makes, their versions and their graphs."""

from __future__ import annotations

import operator
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict, cast
from uuid import UUID, uuid4, uuid5

import httpx
import pytest
from fastapi import FastAPI
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph_sdk import Auth
from langgraph_sdk.client import LangGraphClient

from runstream import Client
from runstream_gateway.app import create_app
from runstream_gateway.assistants import ASSISTANT_TTL, MAX_VERSION_BYTES, MAX_VERSIONS, Assistants
from runstream_gateway.auth.caller import Filter
from runstream_gateway.core import open_gateway
from runstream_gateway.errors import ApiError
from runstream_gateway.metadata import METADATA_MAX
from runstream_gateway.settings import GatewaySettings
from runstream_worker.graphs import GraphSource, graph_source

NAMESPACE = UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")


class Steps(TypedDict, total=False):
    steps: Annotated[list[str], operator.add]
    total: int


class Context(TypedDict, total=False):
    model: str


class Opaque:
    """A class that has no JSON schema."""


class Holding(TypedDict):
    name: str
    held: Opaque


def add(state: Steps) -> Steps:
    return {"steps": ["added"], "total": len(state.get("steps", []))}


def hold(state: Holding) -> Holding:
    return state


def plain() -> Any:
    return StateGraph(Steps, context_schema=Context).add_node("add", add).add_edge(START, "add").compile(name="Adder")


def nested() -> Any:
    inner = StateGraph(Steps).add_node("add", add).add_edge(START, "add").compile(name="inner")
    middle = StateGraph(Steps).add_node("inner", inner).add_edge(START, "inner").compile(name="middle")
    return StateGraph(Steps).add_node("middle", middle).add_edge(START, "middle").compile()


def made(config: RunnableConfig) -> Any:
    """A graph that is as its config says."""
    node = config.get("configurable", {}).get("node", "nameless")
    if node == "broken":
        raise ConnectionError("postgresql://user:secret@host")
    return StateGraph(Steps).add_node(node, add).add_edge(START, node).compile()


def graphs() -> dict[str, GraphSource]:
    values = {
        "plain": plain(),
        "nested": nested(),
        "made": made,
        "opaque": StateGraph(Holding).add_node("hold", hold).add_edge(START, "hold").compile(),
    }
    return {name: graph_source(name, value) for name, value in values.items()}


def system_id(graph: str) -> str:
    return str(uuid5(NAMESPACE, graph))


def owners() -> Auth:
    """Whoever says who it is owns what it makes; who says nothing may do everything."""
    auth = Auth()

    @auth.authenticate
    async def who(headers: dict[bytes, bytes]) -> str:
        return headers.get(b"x-owner", b"admin").decode()

    @auth.on.assistants
    async def own(ctx: Auth.types.AuthContext, value: Any) -> Any:
        if ctx.user.identity in ("admin", "nobody"):
            return ctx.user.identity == "admin"
        filters = {"owner": ctx.user.identity}
        value.setdefault("metadata", {}).update(filters)
        return filters

    return auth


@asynccontextmanager
async def serving(url: str, namespace: str, graphs: Mapping[str, GraphSource]) -> AsyncIterator[FastAPI]:
    async with open_gateway(graphs, GatewaySettings(redis_url=url, namespace=namespace), auth=owners()) as gateway:
        yield create_app(gateway)


def http_of(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")


def assistants_of(client: Client) -> Assistants:
    return Assistants(client.documents("assistant", ttl=ASSISTANT_TTL), graphs())


@pytest.fixture
async def app(redis_url: str, namespace: str) -> AsyncIterator[FastAPI]:
    async with serving(redis_url, namespace, graphs()) as app:
        yield app


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with http_of(app) as http:
        yield http


async def create(http: httpx.AsyncClient, graph: str = "plain", **fields: Any) -> Any:
    response = await http.post("/assistants", json={"graph_id": graph, **fields})
    assert response.status_code == 200, response.text
    return response.json()


# -- the graphs' own ---------------------------------------------------------------------------------------------------


async def test_each_graph_has_an_assistant_of_its_own(http: httpx.AsyncClient) -> None:
    response = await http.post("/assistants/search", json={})
    assert response.status_code == 200
    assert response.headers["x-pagination-total"] == "4"
    assert "x-pagination-next" not in response.headers
    found = {each["graph_id"]: each for each in response.json()}
    assert {graph: each["assistant_id"] for graph, each in found.items()} == {
        graph: system_id(graph) for graph in ("plain", "nested", "made", "opaque")
    }
    assert found["plain"] == {
        "assistant_id": system_id("plain"),
        "graph_id": "plain",
        "config": {},
        "context": {},
        "metadata": {"created_by": "system"},
        "name": "Adder",  # as the graph was compiled
        "description": None,
        "version": 1,
        "created_at": found["plain"]["created_at"],
        "updated_at": found["plain"]["updated_at"],
    }
    assert found["nested"]["name"] == "nested"


async def test_one_is_found_by_its_id_in_any_spelling_and_by_the_graphs_name(http: httpx.AsyncClient) -> None:
    for name in (system_id("plain"), system_id("plain").upper(), "plain"):
        response = await http.get(f"/assistants/{name}")
        assert response.status_code == 200, name
        assert response.json()["assistant_id"] == system_id("plain")


async def test_the_same_assistant_is_told_by_every_gateway(client: Client) -> None:
    one, other = assistants_of(client), assistants_of(client)
    assert await one.resolve("plain") == await other.resolve("plain")


@pytest.mark.parametrize("part", ["", "/schemas", "/graph", "/subgraphs", "/subgraphs/middle"])
async def test_unknown_ones(http: httpx.AsyncClient, part: str) -> None:
    unknown = await http.get(f"/assistants/{uuid4()}{part}")
    assert (unknown.status_code, list(unknown.json())) == (404, ["detail"])
    neither = await http.get(f"/assistants/no-such-graph{part}")
    assert (neither.status_code, list(neither.json())) == (422, ["detail"])


async def test_a_system_assistant_stays_as_it_is(http: httpx.AsyncClient) -> None:
    for name in ("plain", system_id("plain")):
        for refused in (
            await http.delete(f"/assistants/{name}"),
            await http.patch(f"/assistants/{name}", json={"name": "mine"}),
        ):
            assert refused.status_code == 409
            assert "create another" in refused.json()["detail"]
    body = {"graph_id": "plain", "assistant_id": system_id("plain")}
    assert (await http.post("/assistants", json=body)).status_code == 409
    kept = await http.post("/assistants", json={**body, "if_exists": "do_nothing", "name": "other"})
    assert kept.json()["name"] == "Adder"
    versions = (await http.post("/assistants/plain/versions", json={})).json()
    assert [each["version"] for each in versions] == [1]
    assert (await http.post("/assistants/plain/latest", json={"version": 1})).status_code == 200
    assert (await http.post("/assistants/plain/latest", json={"version": 2})).status_code == 404


# -- making and changing -----------------------------------------------------------------------------------------------


async def test_what_was_created_is_found(http: httpx.AsyncClient) -> None:
    fields: dict[str, Any] = {
        "config": {"tags": ["a"], "recursion_limit": 7, "configurable": {"model": "small"}, "own": 1},
        "metadata": {"team": {"name": "red", "size": 3}, "tags": ["x", "y"]},
        "name": "Mine",
        "description": "for tests",
        "surplus": "ignored",
    }
    created = await create(http, **fields)
    UUID(created["assistant_id"])
    assert created["created_at"] == created["updated_at"]
    assert created == {
        "assistant_id": created["assistant_id"],
        "graph_id": "plain",
        "config": fields["config"],
        "context": {"model": "small"},
        "metadata": fields["metadata"],
        "name": "Mine",
        "description": "for tests",
        "version": 1,
        "created_at": created["created_at"],
        "updated_at": created["updated_at"],
    }
    assert (await http.get(f"/assistants/{created['assistant_id']}")).json() == created
    assert (await http.post("/assistants/search", json={"limit": 1})).json() == [created]


async def test_defaults_and_nulls(http: httpx.AsyncClient) -> None:
    nulls: dict[str, Any] = dict.fromkeys(
        ("assistant_id", "config", "context", "metadata", "name", "description", "if_exists")
    )
    for body in ({}, nulls):
        created = await create(http, **body)
        assert (created["name"], created["config"], created["context"]) == ("Untitled", {}, {})
        assert (created["metadata"], created["description"]) == ({}, None)


async def test_a_context_is_the_configs_too(http: httpx.AsyncClient) -> None:
    created = await create(http, context={"model": "big"}, config={"tags": ["t"]})
    assert created["context"] == {"model": "big"}
    assert created["config"] == {"tags": ["t"], "configurable": {"model": "big"}}
    path = f"/assistants/{created['assistant_id']}"

    other_config = (await http.patch(path, json={"config": {"recursion_limit": 9}})).json()
    assert other_config["context"] == {"model": "big"}
    assert other_config["config"] == {"recursion_limit": 9, "configurable": {"model": "big"}}
    other_context = (await http.patch(path, json={"context": {"model": "tiny"}})).json()
    assert other_context["context"] == {"model": "tiny"}
    assert other_context["config"] == {"recursion_limit": 9, "configurable": {"model": "tiny"}}
    none = (await http.patch(path, json={"context": {}})).json()
    assert (none["context"], none["config"]) == ({}, {"recursion_limit": 9})

    both = {"context": {"a": 1}, "config": {"configurable": {"b": 2}}}
    assert (await http.post("/assistants", json={"graph_id": "plain", **both})).status_code == 400
    assert (await http.patch(path, json=both)).status_code == 400


async def test_an_id_is_taken_once(http: httpx.AsyncClient) -> None:
    assistant_id = str(uuid4())
    first = await create(http, assistant_id=assistant_id, name="first")
    again = {"graph_id": "plain", "assistant_id": assistant_id.upper(), "name": "second"}
    refused = await http.post("/assistants", json=again)
    assert (refused.status_code, list(refused.json())) == (409, ["detail"])
    assert (await http.post("/assistants", json={**again, "if_exists": "do_nothing"})).json() == first


async def test_versions(http: httpx.AsyncClient) -> None:
    created = await create(http, name="one", metadata={"a": 1, "b": 1}, description="first")
    path = f"/assistants/{created['assistant_id']}"
    second = (await http.patch(path, json={"name": "two", "metadata": {"b": 2, "c": 3}, "graph_id": "nested"})).json()
    assert (second["version"], second["name"], second["description"]) == (2, "two", "first")
    assert (second["graph_id"], second["metadata"]) == ("nested", {"a": 1, "b": 2, "c": 3})
    assert (await http.get(path)).json() == second

    versions = await http.post(f"{path}/versions", json={})
    assert [(each["version"], each["name"], each["graph_id"]) for each in versions.json()] == [
        (2, "two", "nested"),
        (1, "one", "plain"),
    ]
    of_a_kind = (await http.post(f"{path}/versions", json={"metadata": {"b": 1}})).json()
    assert [each["version"] for each in of_a_kind] == [1]
    page = await http.post(f"{path}/versions", json={"limit": 1, "offset": 1})
    assert [each["version"] for each in page.json()] == [1]

    back = (await http.post(f"{path}/latest", json={"version": 1})).json()
    assert (back["version"], back["name"], back["graph_id"], back["metadata"]) == (1, "one", "plain", {"a": 1, "b": 1})
    third = (await http.patch(path, json={"description": "third"})).json()
    assert (third["version"], third["name"]) == (3, "one")  # from the present one, but no number is used twice
    assert (await http.post(f"{path}/latest", json={"version": 9})).status_code == 404
    assert (await http.get(path)).json() == third


async def test_the_last_versions_are_kept(http: httpx.AsyncClient) -> None:
    path = f"/assistants/{(await create(http))['assistant_id']}"
    for _ in range(MAX_VERSIONS):
        await http.patch(path, json={})
    versions = await http.post(f"{path}/versions", json={"limit": 1000})
    assert [each["version"] for each in versions.json()] == list(range(MAX_VERSIONS + 1, 1, -1))


async def test_deleting(http: httpx.AsyncClient) -> None:
    path = f"/assistants/{(await create(http))['assistant_id']}"
    deleted = await http.delete(path, params={"delete_threads": "true"})
    assert (deleted.status_code, deleted.content) == (204, b"")
    for gone in (
        await http.get(path),
        await http.delete(path),
        await http.patch(path, json={}),
        await http.post(f"{path}/versions", json={}),
        await http.post(f"{path}/latest", json={"version": 1}),
    ):
        assert gone.status_code == 404


async def test_assistants_of_graphs_that_are_not_here_are_not_shown(
    http: httpx.AsyncClient, redis_url: str, namespace: str
) -> None:
    other_graphs = {"other": graph_source("other", plain())}
    async with serving(redis_url, namespace, other_graphs) as elsewhere, http_of(elsewhere) as other:
        path = f"/assistants/{(await create(other, 'other'))['assistant_id']}"
        assert (await other.get(path)).status_code == 200
        assert (await http.get(path)).status_code == 404
        assert (await http.post("/assistants/count", json={})).json() == 4
        assert (await http.patch(path, json={"graph_id": "plain"})).status_code == 200  # but it can be given a graph
        assert (await http.get(path)).status_code == 200


# -- search ------------------------------------------------------------------------------------------------------------


async def test_searching(http: httpx.AsyncClient) -> None:
    red = await create(http, name="Red One", metadata={"team": {"name": "red", "size": 3}, "tags": ["x", "y"]})
    blue = await create(http, "nested", name="blue one", metadata={"team": {"name": "blue"}})

    async def found(**body: Any) -> list[str]:
        response = await http.post("/assistants/search", json=body)
        count = {name: body[name] for name in ("metadata", "graph_id", "name") if name in body}
        assert (await http.post("/assistants/count", json=count)).json() == len(response.json())
        return [each["assistant_id"] for each in response.json()]

    assert await found(metadata={"team": {"name": "red"}}) == [red["assistant_id"]]
    assert await found(metadata={"tags": ["y"]}) == [red["assistant_id"]]
    assert await found(metadata={"team": {"name": "red", "size": 4}}) == []
    assert await found(metadata={"created_by": "system"}, graph_id="nested") == [system_id("nested")]
    assert await found(graph_id="nested") == [blue["assistant_id"], system_id("nested")]
    assert await found(name="ONE") == [blue["assistant_id"], red["assistant_id"]]  # the newest first
    assert await found(name="one", sort_by="created_at", sort_order="asc") == [
        red["assistant_id"],
        blue["assistant_id"],
    ]
    assert await found(name="one", sort_by="name", sort_order="desc") == [red["assistant_id"], blue["assistant_id"]]
    assert (await http.post("/assistants/search", json={"graph_id": "none"})).status_code == 404
    assert (await http.post("/assistants/count", json={"graph_id": "none"})).status_code == 404


async def test_pages(http: httpx.AsyncClient) -> None:
    for _ in range(5):
        await create(http)
    seen, offset = [], 0
    while True:
        page = await http.post("/assistants/search", json={"limit": 4, "offset": offset, "sort_by": "graph_id"})
        assert page.headers["x-pagination-total"] == "9"
        seen += [each["assistant_id"] for each in page.json()]
        if "x-pagination-next" not in page.headers:
            break
        offset = int(page.headers["x-pagination-next"])
    assert len(seen) == len(set(seen)) == 9
    assert offset == 8


async def test_selected_fields(http: httpx.AsyncClient) -> None:
    body = {"select": ["assistant_id", "version"], "graph_id": "plain"}
    response = await http.post("/assistants/search", json=body)
    assert response.json() == [{"assistant_id": system_id("plain"), "version": 1}]
    assert (await http.post("/assistants/search", json={"select": ["nothing"]})).status_code == 422


async def test_bodies_may_be_missing_or_called_text(http: httpx.AsyncClient) -> None:
    assert len((await http.post("/assistants/search")).json()) == 4
    assert (await http.post("/assistants/count", content=b"null")).json() == 4
    as_text = {"content": b'{"metadata":{"created_by":"system"},"limit":2}', "headers": {"content-type": "text/plain"}}
    assert len((await http.post("/assistants/search", **as_text)).json()) == 2  # type: ignore[arg-type]


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (422, {}),
        (422, []),
        (422, {"graph_id": 7}),
        (404, {"graph_id": "none"}),
        (422, {"graph_id": "plain", "assistant_id": "no-uuid"}),
        (422, {"graph_id": "plain", "if_exists": "replace"}),
        (422, {"graph_id": "plain", "config": []}),
        (422, {"graph_id": "plain", "config": {"recursion_limit": "many"}}),
        (422, {"graph_id": "plain", "config": {"configurable": 1}}),
        (422, {"graph_id": "plain", "metadata": "text"}),
        (422, {"graph_id": "plain", "metadata": {"text": "x" * METADATA_MAX}}),
        (413, {"graph_id": "plain", "context": {"text": "x" * MAX_VERSION_BYTES}}),
    ],
)
async def test_refused_at_creation(http: httpx.AsyncClient, status: int, body: Any) -> None:
    response = await http.post("/assistants", json=body)
    assert (response.status_code, list(response.json())) == (status, ["detail"])
    assert (await http.post("/assistants/count", json={})).json() == 4


@pytest.mark.parametrize("depth", [190, 198, 250, 900, 960, 990, 20_000])
async def test_what_is_stored_can_be_read_again(http: httpx.AsyncClient, depth: int) -> None:
    text = '{"graph_id":"plain","metadata":{"deep":' + "[" * depth + "]" * depth + "}}"
    response = await http.post("/assistants", content=text)
    assert response.status_code in (200, 400, 422)
    assert (await http.post("/assistants/search", json={})).status_code == 200
    searched = await http.post("/assistants/search", content=text.replace('"graph_id":"plain",', ""))
    if response.status_code == 200:
        assert [each["assistant_id"] for each in searched.json()] == [response.json()["assistant_id"]]
    else:
        assert searched.status_code == 422 or searched.json() == []


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff\xfe",
        b'{"graph_id": "plain", "metadata": {"a": NaN}}',
        b'{"graph_id": "plain", "metadata": {"a": "\\ud800"}}',
    ],
)
async def test_bodies_that_are_not_json(http: httpx.AsyncClient, body: bytes) -> None:
    response = await http.post("/assistants", content=body)
    assert response.status_code in (400, 422)
    assert list(response.json()) == ["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {"limit": "5"},
        {"offset": False},
        {"limit": 0},
        {"limit": 1001},
        {"offset": -1},
        {"sort_by": "age"},
        {"sort_order": 1},
    ],
)
async def test_refused_searches(http: httpx.AsyncClient, body: Any) -> None:
    assert (await http.post("/assistants/search", json=body)).status_code == 422


# -- whose they are ----------------------------------------------------------------------------------------------------


async def test_what_is_somebody_elses_is_not_there(http: httpx.AsyncClient) -> None:
    ann, bob = {"x-owner": "ann"}, {"x-owner": "bob"}
    created = (await http.post("/assistants", json={"graph_id": "plain"}, headers=ann)).json()
    assert created["metadata"] == {"owner": "ann"}
    path = f"/assistants/{created['assistant_id']}"
    assert (await http.get(path, headers=ann)).json() == created
    for part in ("", "/schemas", "/graph", "/subgraphs"):
        assert (await http.get(path + part, headers=bob)).status_code == 404
    for method, url, body in (
        ("PATCH", path, {"metadata": {"owner": "bob"}}),
        ("DELETE", path, None),
        ("POST", f"{path}/versions", {}),
        ("POST", f"{path}/latest", {"version": 1}),
    ):
        assert (await http.request(method, url, json=body, headers=bob)).status_code == 404
    assert (await http.post("/assistants/search", json={}, headers=bob)).json() == []
    assert (await http.post("/assistants/count", json={}, headers=ann)).json() == 1
    taken = {"graph_id": "plain", "assistant_id": created["assistant_id"], "if_exists": "do_nothing"}
    assert (await http.post("/assistants", json=taken, headers=bob)).status_code == 409
    assert (await http.get(path, headers={"x-owner": "nobody"})).status_code == 403
    assert (await http.get(path, headers=ann)).json() == created


async def test_runs_of_system_assistants_are_everybodys(client: Client) -> None:
    assistants = assistants_of(client)
    assert (await assistants.resolve("plain", Filter({"owner": "ann"}))).graph_id == "plain"
    assert (await assistants.resolve(system_id("plain"), Filter({"owner": "ann"}))).is_system
    with pytest.raises(ApiError) as refused:
        await assistants.get("plain", Filter({"owner": "ann"}))
    assert refused.value.status == 404


# -- graphs ------------------------------------------------------------------------------------------------------------


async def test_schemas(http: httpx.AsyncClient) -> None:
    schemas = (await http.get("/assistants/plain/schemas")).json()
    assert list(schemas) == [
        "graph_id",
        "input_schema",
        "output_schema",
        "state_schema",
        "config_schema",
        "context_schema",
    ]
    for kind in ("input_schema", "output_schema", "state_schema"):
        assert set(schemas[kind]["properties"]) == {"steps", "total"}
    assert schemas["context_schema"] == schemas["config_schema"]
    assert schemas["context_schema"]["properties"]["model"]["type"] == "string"
    assert (await http.get("/assistants/nested/schemas")).json()["context_schema"] is None


async def test_what_has_no_schema_may_be_anything(http: httpx.AsyncClient) -> None:
    schemas = (await http.get("/assistants/opaque/schemas")).json()
    for kind in ("input_schema", "output_schema", "state_schema"):
        assert schemas[kind]["properties"]["name"]["type"] == "string"
        assert "type" not in schemas[kind]["properties"]["held"]
    assert schemas["input_schema"]["required"] == ["name", "held"]


async def test_a_schema_that_cannot_be_made_is_null(redis_url: str, namespace: str) -> None:
    @dataclass
    class State:
        held: Opaque

    async def same(state: State) -> Any:
        return {"held": state.held}

    graph = (
        StateGraph(State, context_schema=cast("Any", Opaque)).add_node("same", same).add_edge(START, "same").compile()
    )
    async with serving(redis_url, namespace, {"g": graph_source("g", graph)}) as app, http_of(app) as http:
        schemas = (await http.get("/assistants/g/schemas")).json()
    assert schemas["input_schema"] is schemas["output_schema"] is schemas["context_schema"] is None
    assert set(schemas["state_schema"]["properties"]) == {"held"}


async def test_the_drawing(http: httpx.AsyncClient) -> None:
    drawn = (await http.get("/assistants/plain/graph")).json()
    assert drawn == {
        "nodes": [
            {"id": "__start__", "type": "runnable", "data": {"name": "__start__"}},
            {"id": "add", "type": "runnable", "data": {"name": "add"}},
            {"id": "__end__"},
        ],
        "edges": [{"source": "__start__", "target": "add"}, {"source": "add", "target": "__end__"}],
    }


@pytest.mark.parametrize(
    ("xray", "node"),
    [("false", "middle"), ("true", "middle\ninner\nadd"), ("True", "middle\ninner\nadd"), ("1", "middle\ninner")],
)
async def test_subgraphs_are_drawn_as_deep_as_wanted(http: httpx.AsyncClient, xray: str, node: str) -> None:
    drawn = (await http.get("/assistants/nested/graph", params={"xray": xray})).json()
    assert node.replace("\n", ":") in [each["id"] for each in drawn["nodes"]]


@pytest.mark.parametrize("xray", ["0", "-1", "deep", "", "99999"])
async def test_depths_that_are_none(http: httpx.AsyncClient, xray: str) -> None:
    assert (await http.get("/assistants/nested/graph", params={"xray": xray})).status_code == 422


async def test_subgraphs(http: httpx.AsyncClient) -> None:
    async def names(path: str, **query: Any) -> list[str]:
        response = await http.get(f"/assistants/nested/subgraphs{path}", params=query)
        assert response.status_code == 200
        for schemas in response.json().values():
            assert set(schemas["state_schema"]["properties"]) == {"steps", "total"}
            assert "graph_id" not in schemas
        return list(response.json())

    assert await names("") == ["middle"]
    assert await names("", recurse="true") == ["middle", "middle|inner"]
    assert await names("/middle") == ["middle"]
    assert await names("/middle|inner") == ["middle|inner"]
    assert await names("/nothing") == []


async def test_a_factory_gets_the_assistants_config(http: httpx.AsyncClient) -> None:
    path = f"/assistants/{(await create(http, 'made', context={'node': 'chosen'}))['assistant_id']}"
    drawn = (await http.get(f"{path}/graph")).json()
    assert "chosen" in [each["id"] for each in drawn["nodes"]]


async def test_a_graph_that_cannot_be_made(http: httpx.AsyncClient) -> None:
    path = f"/assistants/{(await create(http, 'made', context={'node': 'broken'}))['assistant_id']}"
    failed = await http.get(f"{path}/schemas")
    assert failed.status_code == 500
    assert failed.json() == {"detail": "graph 'made' could not be made (ConnectionError)"}


def sdk_of(app: FastAPI) -> LangGraphClient:
    return LangGraphClient(http_of(app))


# -- clients and pages -------------------------------------------------------------------------------------------------


async def test_the_official_client(app: FastAPI) -> None:
    async with sdk_of(app) as sdk:
        created = await sdk.assistants.create("plain", {"tags": ["t"]}, name="mine", metadata={"k": "v"})
        assert await sdk.assistants.get(created["assistant_id"]) == created
        assert await sdk.assistants.search(metadata={"k": "v"}) == [created]
        page = await sdk.assistants.search(limit=2, response_format="object")
        assert (len(page["assistants"]), page["next"]) == (2, "2")
        assert await sdk.assistants.count(graph_id="plain") == 2
        changed = await sdk.assistants.update(created["assistant_id"], name="other", context={"model": "m"})
        assert (changed["version"], changed["context"]) == (2, {"model": "m"})
        versions = await sdk.assistants.get_versions(created["assistant_id"])
        assert [each["version"] for each in versions] == [2, 1]
        assert (await sdk.assistants.set_latest(created["assistant_id"], 1))["name"] == "mine"
        assert (await sdk.assistants.get_schemas(created["assistant_id"]))["graph_id"] == "plain"
        assert set(await sdk.assistants.get_graph("nested", xray=True)) == {"nodes", "edges"}
        assert list(await sdk.assistants.get_subgraphs(system_id("nested"), "middle|inner", recurse=True)) == [
            "middle|inner"
        ]
        await sdk.assistants.delete(created["assistant_id"], delete_threads=True)
        assert await sdk.assistants.count() == 4


async def test_the_openapi_page_tells_bodies_and_answers(app: FastAPI) -> None:
    paths = app.openapi()["paths"]
    schemas = app.openapi()["components"]["schemas"]
    assert {path for path in paths if path.startswith("/assistants")} == {
        "/assistants",
        "/assistants/search",
        "/assistants/count",
        "/assistants/{assistant_id}",
        "/assistants/{assistant_id}/versions",
        "/assistants/{assistant_id}/latest",
        "/assistants/{assistant_id}/schemas",
        "/assistants/{assistant_id}/graph",
        "/assistants/{assistant_id}/subgraphs",
        "/assistants/{assistant_id}/subgraphs/{namespace}",
    }
    for path, methods in paths.items():
        if not path.startswith("/assistants"):
            continue
        for method, operation in methods.items():
            assert operation["summary"], (path, method)
            assert "422" in operation["responses"]
            if method in ("post", "patch"):
                assert "application/json" in operation["requestBody"]["content"]
    assert set(schemas["AssistantShape"]["required"]) == set(schemas["AssistantPart"]["properties"])
    assert "required" not in schemas["AssistantPart"]
    assert schemas["Error"]["required"] == ["detail"]
