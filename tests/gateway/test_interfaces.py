"""What projects are written against that run on LangGraph's server; what is expected was measured there (0.16.7)."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from redis import Redis
from tests.gateway.served import Served, served_beside
from tests.support.processes import Processes

PROJECT: Final = Path(__file__).parent / "interfaces" / "langgraph.json"


@pytest.fixture(scope="module")
def gateway() -> Iterator[Served]:
    with served_beside(config=PROJECT) as gateway:
        yield gateway


@pytest.fixture
async def client(gateway: Served) -> AsyncIterator[LangGraphClient]:
    async with get_client(url=gateway.url, api_key=None) as client:
        yield client


# -- context -----------------------------------------------------------------------------------------------------------

OF_CONTEXT: Final = {"context": {"model": "given", "unknown": 1}}
OF_CONFIGURABLE: Final = {"config": {"configurable": {"model": "given", "unknown": 1}}}


@pytest.mark.parametrize(
    ("graph", "given", "seen"),
    [
        ("dataclass", {}, "DataclassContext(model='default', n=1)"),
        ("dataclass", {"context": {}}, "DataclassContext(model='default', n=1)"),
        ("dataclass", OF_CONTEXT, "DataclassContext(model='given', n=1)"),
        ("dataclass", OF_CONFIGURABLE, "DataclassContext(model='given', n=1)"),
        ("typeddict", {}, "None"),
        ("typeddict", OF_CONTEXT, "{'model': 'given'}"),
        ("typeddict", OF_CONFIGURABLE, "{'model': 'given'}"),
        ("pydantic", {}, "PydanticContext(model='default')"),
        ("pydantic", OF_CONTEXT, "PydanticContext(model='given')"),
        ("pydantic", OF_CONFIGURABLE, "PydanticContext(model='given')"),
        ("strict", {}, "StrictContext(model='default')"),
        ("strict", OF_CONTEXT, "StrictContext(model='given')"),
        ("strict", OF_CONFIGURABLE, "StrictContext(model='given')"),
        ("schemaless", {}, "None"),
        ("schemaless", OF_CONTEXT, "{'model': 'given', 'unknown': 1}"),
        ("schemaless", OF_CONFIGURABLE, "{'model': 'given', 'unknown': 1}"),
    ],
)
async def test_without_a_context_its_defaults_hold_and_what_it_has_not_is_left_out(
    client: LangGraphClient, graph: str, given: Any, seen: str
) -> None:
    result: Any = await client.runs.wait(None, graph, input={}, **given)
    assert result["context"] == seen


@pytest.mark.parametrize(
    ("of_assistant", "given", "seen"),
    [
        ({"context": {"model": "own"}}, {}, "DataclassContext(model='own', n=1)"),
        ({"context": {"model": "own", "unknown": 1}}, {"context": {"n": 7}}, "DataclassContext(model='own', n=7)"),
        ({"context": {"model": "own"}}, {"config": {"configurable": {"n": 8}}}, "DataclassContext(model='own', n=8)"),
        ({"config": {"configurable": {"model": "own"}}}, {}, "DataclassContext(model='own', n=1)"),
        ({"config": {"configurable": {"model": "own"}}}, {"context": {"n": 7}}, "DataclassContext(model='own', n=7)"),
    ],
)
async def test_an_assistants_context_and_the_runs_are_merged(
    client: LangGraphClient, of_assistant: Any, given: Any, seen: str
) -> None:
    assistant = await client.assistants.create("dataclass", **of_assistant)
    result: Any = await client.runs.wait(None, assistant["assistant_id"], input={}, **given)
    assert result["context"] == seen


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ([], "DataclassContext(model='default', n=1)"),
        (["--context", '{"n": 2, "unknown": 1}'], "DataclassContext(model='default', n=2)"),
    ],
)
async def test_the_command_line_gives_a_context_its_defaults_too(
    gateway: Served, options: list[str], seen: str
) -> None:
    ended = await gateway.processes.run("enqueue", "dataclass", "{}", "--result", *options)
    assert ended.json["context"] == seen


# -- what an output schema hides ---------------------------------------------------------------------------------------

PUBLIC: Final = {"answer": "public"}
WHOLE: Final = {"answer": "public", "notes": "private!"}


async def test_streams_and_results_show_what_the_output_schema_does(client: LangGraphClient) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    modes: Any = ["values", "updates", "tasks", "checkpoints", "debug"]
    shown: dict[str, list[Any]] = {mode: [] for mode in modes}
    async for part in client.runs.stream(thread_id, "private", input={"notes": "given"}, stream_mode=modes):
        if part.event in shown:
            shown[part.event].append(part.data)
    assert shown["values"] == [PUBLIC]
    assert shown["updates"] == [{"think": None}, {"reply": PUBLIC}]
    # What shows the graph at work shows all of it, as there.
    assert shown["tasks"][-1]["result"] == WHOLE
    assert shown["checkpoints"][-1]["values"] == WHOLE
    assert shown["debug"][-1]["payload"]["values"] == WHOLE

    run_id = (await client.runs.list(thread_id))[0]["run_id"]
    assert await client.runs.join(thread_id, run_id) == PUBLIC
    assert await client.runs.wait(thread_id, "private", input={}) == PUBLIC
    assert await client.runs.wait(None, "private", input={}) == PUBLIC
    assert (await client.threads.get_state(thread_id))["values"] == WHOLE
    assert (await client.threads.get(thread_id))["values"] == WHOLE


async def test_the_library_streams_what_astream_does(gateway: Served) -> None:
    ended = await gateway.processes.run("enqueue", "private", "{}", "--mode", "values", "--follow", "--json")
    values = [event["data"] for event in ended.json_lines if event.get("mode") == "values"]
    assert values[-1] == WHOLE


# -- factories --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", ["runtime", "config_and_runtime"])
async def test_a_factory_is_given_langgraphs_server_runtime(client: LangGraphClient, graph: str) -> None:
    of_config = {"n": 1} if graph == "config_and_runtime" else {}
    thread_id = (await client.threads.create())["thread_id"]
    executed: Any = await client.runs.wait(thread_id, graph, input={}, context={"n": 1})
    assert executed["told"] == {"access": "threads.create_run", "user": None, "context": {"n": 1}, **of_config}
    drawn: Any = await client.assistants.get_graph(graph)
    (told,) = [node["metadata"]["told"] for node in drawn["nodes"] if node["id"] == "tell"]
    assert told["access"] == "assistants.read"
    assert (await client.threads.get_state(thread_id))["values"] == executed
    assert (await client.threads.update_state(thread_id, {"told": "else"}, as_node="tell"))["checkpoint"]
    assert (await client.threads.get_state(thread_id))["values"] == {"told": "else"}
    assert await client.assistants.get_schemas(await _assistant_of(client, graph))


async def _assistant_of(client: LangGraphClient, graph: str) -> str:
    (assistant,) = await client.assistants.search(graph_id=graph, metadata={"created_by": "system"})
    return assistant["assistant_id"]


async def test_one_graph_that_cannot_be_loaded_is_that_graphs_error(gateway: Served, client: LangGraphClient) -> None:
    assert "graph 'broken' cannot be loaded, and the others are served without it" in gateway.process.err
    assert "not_installed_anywhere" in gateway.process.err

    async with httpx.AsyncClient(base_url=gateway.url) as http:
        answer = await http.get("/ok")
        assert answer.status_code == 200
        assert answer.json()["graphs"]["not_loaded"] == ["broken"]
        assistant_id = await _assistant_of(client, "broken")
        for path in ("graph", "schemas", "subgraphs"):
            refused = await http.get(f"/assistants/{assistant_id}/{path}")
            assert refused.status_code == 424
            assert "graph 'broken' cannot be loaded" in refused.json()["detail"]
    assistant = await client.assistants.get(assistant_id)
    assert assistant["description"] == "imports what is not there"
    assert "cannot be loaded" in str((assistant["metadata"] or {})["error"])

    thread_id = (await client.threads.create())["thread_id"]
    failed: Any = await client.runs.wait(thread_id, "broken", input={}, raise_error=False)
    assert failed["__error__"]["error"] == "GraphLoadError"
    assert await client.runs.wait(None, "private", input={}) == PUBLIC


async def test_its_runs_are_left_to_workers_that_have_it(gateway: Served) -> None:
    ended = await gateway.processes.run("info", "--json")
    assert [sorted(set(worker["graphs"]) & {"private", "broken"}) for worker in ended.json["workers"]] == [["private"]]
    worker = await gateway.processes.worker(f"broken={PROJECT.parent / 'graphs.py'}:private")
    try:
        for _ in range(20):
            ended = await gateway.processes.run("enqueue", "broken", "{}", "--result")
            if ended.code == 0:
                break
            # The worker that could not load it took this one before it looked again whether another has it.
            assert "GraphLoadError" in ended.err
        assert ended.json == PUBLIC
    finally:
        worker.command.terminate()
        await worker.command.ended()


# -- checkpointers and stores ------------------------------------------------------------------------------------------


async def test_a_checkpointer_that_a_graph_was_compiled_with_is_replaced(
    gateway: Served, client: LangGraphClient
) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    await client.runs.wait(thread_id, "in_memory", input={})
    assert (await client.threads.get_state(thread_id))["values"] == {"note": "kept"}
    assert len(await client.threads.get_history(thread_id)) > 1
    note = "graph 'in_memory' was compiled with InMemorySaver, which redis replaces; --keep-checkpointer keeps it"
    assert note in gateway.process.err


async def test_it_is_kept_where_that_is_asked_for(gateway: Served) -> None:
    target = f"kept={PROJECT.parent / 'persistence.py'}:in_memory"
    worker = await gateway.processes.worker(target, "--keep-checkpointer")
    try:
        for _ in range(2):
            ended = await gateway.processes.run("enqueue", "kept", "{}", "--thread", "kept", "--result")
            assert ended.json == {"note": "kept"}
        assert "graph 'kept' keeps the InMemorySaver that it was compiled with" in worker.command.err
        with Redis.from_url(gateway.redis_url) as redis:
            assert list(redis.scan_iter("*:checkpoints:kept")) == []
    finally:
        worker.command.terminate()
        await worker.command.ended()


@pytest.mark.parametrize("graph", ["takes_store", "of_runtime", "of_config", "injected"])
async def test_a_graph_that_needs_a_store_says_so(client: LangGraphClient, graph: str) -> None:
    failed: Any = await client.runs.wait(None, graph, input={}, raise_error=False)
    assert failed["__error__"]["error"] == "NoStore"
    assert failed["__error__"]["message"].startswith("the graph needs a store (")
    assert failed["__error__"]["message"].endswith("compile the graph with one: builder.compile(store=...)")


async def test_nothing_else_is_taken_for_the_lack_of_a_store(gateway: Served, client: LangGraphClient) -> None:
    assert await client.runs.wait(None, "optional", input={}) == {"note": "none"}
    assert await client.runs.wait(None, "own_store", input={}) == {"note": "kept"}
    failed: Any = await client.runs.wait(None, "other_none", input={}, raise_error=False)
    assert failed["__error__"]["error"] == "AttributeError"
    assert "graph 'takes_store' needs a store (node 'node' takes one)" in gateway.process.err
    assert "graph 'own_store' was compiled with InMemoryStore" in gateway.process.err
    assert "graph 'optional' needs" not in gateway.process.err


# -- get_client() without a URL ----------------------------------------------------------------------------------------

READ: Final = ["metadata", "updates", "updates", "end"]


async def test_a_node_calls_its_deployment_by_a_client_without_a_url(client: LangGraphClient) -> None:
    assert await client.runs.wait(None, "calls", input={}) == {"results": [READ, READ]}


async def test_a_projects_routes_call_their_gateway_by_a_client_without_a_url(gateway: Served) -> None:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as http:
        called = (await http.get("/calls")).json()
        assert called["results"] == [READ, READ]
        assert "private" in called["found"]
        assert (await http.get("/calls/thread")).json() == READ
        assert (await http.get("/calls/leave")).json() == "metadata"
        assert (await http.get("/calls/refused")).json() == 422


async def test_under_dev_a_node_calls_the_gateway_of_the_session(
    redis_url: str, namespace: str, tmp_path: Path
) -> None:
    folder = PROJECT.parent
    graphs = {"calls": f"{folder / 'calls.py'}:graph", "private": f"{folder / 'graphs.py'}:private"}
    project = tmp_path / "langgraph.json"
    project.write_text(json.dumps({"graphs": graphs, "http": {"mount_prefix": "/api"}}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with Processes(redis_url, namespace, tmp_path) as processes:
        session = await processes.start("dev", "--json", "--port", str(port), "--redis", redis_url)
        assert (await session.json_line())["url"] == f"http://127.0.0.1:{port}/api"
        ended = await processes.run("enqueue", "calls", "{}", "--result")
        assert ended.json == {"results": [READ, READ]}
        session.terminate()
        await session.ended()


async def test_a_worker_that_does_not_know_its_gateway_says_what_to_set(gateway: Served) -> None:
    target = f"lonely={PROJECT.parent / 'calls.py'}:graph"
    worker = await gateway.processes.worker(target, environment={"RUNSTREAM_GATEWAY_URL": ""})
    try:
        ended = await gateway.processes.run("enqueue", "lonely", "{}", "--result")
        assert ended.code != 0
        assert "get_client() without a URL: this worker does not know its gateway" in ended.err
        assert "RUNSTREAM_GATEWAY_URL" in ended.err
    finally:
        worker.command.terminate()
        await worker.command.ended()
