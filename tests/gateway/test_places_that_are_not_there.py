"""A place that is not there is refused, and never taken for the beginning: nothing runs, and nothing is replaced."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, TypedDict

import httpx
import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from tests.gateway.inprocess import Here, gateway_here
from tests.support.workers import Workers

from runstream import Client, Command, InvalidRequest, RunErrored, RunSpec, Send

NOWHERE = "1f0ca3ae-9f6a-6e64-8000-0c5d6f6f2a11"
LATER = str(uuid.UUID(int=2**128 - 1))
JUNK = [
    "junk",
    "1",
    "1f0ca3ae-9f6a-6e64-8000-0c5d6f6f2a1",
    f"{NOWHERE}\n{{}}",
    f" {NOWHERE}",
    "a|b",
    "x" * 5000,
    "\u0661" * 32,
]


class State(TypedDict, total=False):
    turns: list[str]
    says: str
    asks: bool


EXECUTED: list[str] = []


def inner(state: State) -> State:
    EXECUTED.append("inner")
    if state.get("asks"):
        interrupt("go on?")
    return {}


def node(state: State) -> State:
    EXECUTED.append("node")
    return {"turns": [*state.get("turns", []), state.get("says", "")]}


def graph() -> Any:
    below = StateGraph(State).add_node("inner", inner).add_edge(START, "inner").compile()
    built = StateGraph(State).add_node("below", below).add_node("node", node)
    return built.add_edge(START, "below").add_edge("below", "node").compile()


@dataclass(frozen=True)
class Place:
    """A gateway, and a thread that has had two turns."""

    here: Here
    thread: str
    states: list[dict[str, Any]]

    @property
    def http(self) -> httpx.AsyncClient:
        return self.here.http

    async def post(self, path: str, body: Any) -> httpx.Response:
        return await self.http.post(path.format(thread=self.thread), json=body)

    async def history(self) -> list[dict[str, Any]]:
        states: list[dict[str, Any]] = (await self.http.get(f"/threads/{self.thread}/history?limit=100")).json()
        return states


@pytest.fixture
async def place(redis_url: str, namespace: str, workers: Workers) -> AsyncIterator[Place]:
    await workers.start(agent=graph())
    async with gateway_here(redis_url, namespace, agent=graph()) as here:
        thread = await here.thread()
        for says in ("one", "two"):
            body = {"assistant_id": "agent", "input": {"says": says}}
            answer = await here.http.post(f"/threads/{thread}/runs/wait", json=body)
            assert answer.status_code == 200, answer.text
        states = (await here.http.get(f"/threads/{thread}/history?limit=100")).json()
        assert states[0]["values"]["turns"] == ["one", "two"]
        EXECUTED.clear()
        yield Place(here, thread, states)


def doors_of(named: str) -> dict[str, str]:
    return {"checkpoint_id": named}


def doors(named: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Where a request may name a checkpoint: the path, and what is in the body."""
    bodies: dict[str, dict[str, Any]] = {
        "checkpoint_id": {"checkpoint_id": named},
        "checkpoint": {"checkpoint": {"checkpoint_id": named}},
        "checkpoint with all": {
            "checkpoint": {"checkpoint_ns": "", "checkpoint_id": named, "checkpoint_map": {"": named}}
        },
        "checkpoint_map": {"checkpoint": {"checkpoint_map": {"": named}}},
        "config": {"config": {"configurable": {"checkpoint_id": named}}},
        "config with a map": {"config": {"configurable": {"checkpoint_map": {"": named}}}},
        "a subgraph's": {"checkpoint": {"checkpoint_ns": "below:1", "checkpoint_map": {"": named, "below:1": named}}},
    }
    run = {"assistant_id": "agent", "input": {"says": "three"}}
    runs = {
        f"{path}, {name}": (f"/threads/{{thread}}/runs{path}", {**run, **body})
        for path in ("", "/wait", "/stream")
        for name, body in bodies.items()
    }
    update = {"values": {"turns": ["replaced"]}, "as_node": "node"}
    return {
        **runs,
        "a thread that is created": (
            f"/threads/{uuid.uuid4()}/runs",
            {**run, **bodies["checkpoint_id"], "if_not_exists": "create"},
        ),
        "an update": ("/threads/{thread}/state", {**update, **bodies["checkpoint_id"]}),
        "an update at a checkpoint": ("/threads/{thread}/state", {**update, **bodies["checkpoint with all"]}),
        "a state": ("/threads/{thread}/state/checkpoint", bodies["checkpoint"]),
        "a state by a map": ("/threads/{thread}/state/checkpoint", bodies["checkpoint_map"]),
        "a history": ("/threads/{thread}/history", bodies["checkpoint"]),
        "a history before": ("/threads/{thread}/history", {"before": named}),
        "a history before a checkpoint": ("/threads/{thread}/history", {"before": {"checkpoint_id": named}}),
        "a history before a config": ("/threads/{thread}/history", {"before": {"configurable": doors_of(named)}}),
    }  # fmt: skip


@pytest.mark.parametrize("door", doors(NOWHERE))
async def test_a_checkpoint_that_is_not_there_is_404(place: Place, door: str) -> None:
    for named in (NOWHERE, LATER):
        path, body = doors(named)[door]
        answer = await place.post(path, body)
        assert answer.status_code == 404, answer.text
        assert named in answer.text
    assert await place.history() == place.states
    assert EXECUTED == []


@pytest.mark.parametrize("door", doors(NOWHERE))
async def test_a_checkpoint_id_that_is_none_is_422(place: Place, door: str) -> None:
    for named in JUNK:
        path, body = doors(named)[door]
        answer = await place.post(path, body)
        assert answer.status_code == 422, (named, answer.text)
        assert "UUID" in answer.json()["detail"]
    assert await place.history() == place.states
    assert EXECUTED == []


async def test_so_it_is_where_the_checkpoint_is_in_the_path(place: Place) -> None:
    for named, status in ((NOWHERE, 404), (LATER, 404), ("junk", 422), ("%0A", 422)):
        assert (await place.http.get(f"/threads/{place.thread}/state/{named}")).status_code == status
        assert (await place.http.get(f"/threads/{place.thread}/history?before={named}")).status_code == status


async def test_a_checkpoint_of_another_thread_is_not_there(place: Place) -> None:
    other = await place.here.thread()
    await place.http.post(f"/threads/{other}/runs/wait", json={"assistant_id": "agent", "input": {"says": "other"}})
    of_other = (await place.http.get(f"/threads/{other}/state")).json()["checkpoint"]
    run = {"assistant_id": "agent", "input": {"says": "three"}}
    for more in ({"checkpoint": of_other}, {"checkpoint_id": of_other["checkpoint_id"]}):
        assert (await place.post("/threads/{thread}/runs/wait", {**run, **more})).status_code == 404
    assert await place.history() == place.states


@pytest.mark.parametrize("path", ["/runs", "/runs/wait", "/runs/stream", "/runs/batch"])
async def test_a_stateless_run_goes_on_from_no_checkpoint(place: Place, path: str) -> None:
    there = place.states[0]["checkpoint_id"]
    for named in (there, NOWHERE, "junk"):
        for more in doors(named).values():
            body = {key: value for key, value in more[1].items() if key in ("checkpoint", "checkpoint_id", "config")}
            whole = {"assistant_id": "agent", "input": {}, **body}
            if body:
                answer = await place.post(path, [whole] if path.endswith("batch") else whole)
                assert answer.status_code == 422, answer.text
    assert EXECUTED == []


@pytest.mark.parametrize(
    "more",
    [
        {"checkpoint": {}},
        {"checkpoint": {"checkpoint_ns": ""}},
        {"checkpoint": None},
        {"checkpoint_id": None},
        {"checkpoint": {"checkpoint_id": "", "checkpoint_map": {}}},
    ],
)
async def test_what_names_no_checkpoint_is_the_newest_one(place: Place, more: dict[str, Any]) -> None:
    for path in ("/threads/{thread}/runs/wait", "/runs/wait"):
        body = {"assistant_id": "agent", "input": {"says": "three"}, **more}
        answer = await place.post(path, body)
        assert answer.json()["turns"] == (["one", "two", "three"] if "{thread}" in path else ["three"])


@pytest.mark.parametrize("door", ["/wait, checkpoint_id", "/wait, checkpoint", "/wait, checkpoint with all",
                                  "/wait, checkpoint_map", "/wait, config", "/wait, config with a map"])  # fmt: skip
@pytest.mark.parametrize("spell", [str, str.upper])
async def test_a_run_goes_on_from_a_checkpoint_that_is_there(place: Place, door: str, spell: Any) -> None:
    first = next(state for state in place.states if state["values"].get("turns") == ["one"] and not state["next"])
    path, body = doors(spell(first["checkpoint_id"]))[door]
    assert (await place.post(path, body)).json()["turns"] == ["one", "three"]


async def test_a_run_goes_on_from_a_checkpoint_of_a_subgraph_that_is_named_whole(place: Place) -> None:
    thread = await place.here.thread()
    run = {"assistant_id": "agent", "input": {"says": "one", "asks": True}}
    await place.http.post(f"/threads/{thread}/runs/wait", json=run)
    state = (await place.http.get(f"/threads/{thread}/state?subgraphs=true")).json()
    below = state["tasks"][0]["state"]["checkpoint"]
    assert below["checkpoint_ns"].startswith("below:")
    resumed = {"assistant_id": "agent", "command": {"resume": "yes"}}
    part = {name: below[name] for name in ("checkpoint_ns", "checkpoint_id")}
    answer = await place.http.post(f"/threads/{thread}/runs/wait", json={**resumed, "checkpoint": part})
    assert answer.status_code == 422
    assert "checkpoint_map" in answer.json()["detail"]
    answer = await place.http.post(f"/threads/{thread}/runs/wait", json={**resumed, "checkpoint": below})
    assert answer.json()["turns"] == ["one"]


@pytest.mark.parametrize("named", ["a\nb", "a\0b", "x" * 5000])
async def test_a_namespace_that_is_none_is_422(place: Place, named: str) -> None:
    for path, body in (
        ("/threads/{thread}/runs/wait", {"assistant_id": "agent", "checkpoint": {"checkpoint_ns": named}}),
        ("/threads/{thread}/state/checkpoint", {"checkpoint": {"checkpoint_ns": named}}),
        ("/threads/{thread}/history", {"checkpoint": {"checkpoint_ns": named}}),
        ("/threads/{thread}/state", {"values": {}, "checkpoint": {"checkpoint_ns": named}}),
    ):
        answer = await place.post(path, body)
        assert answer.status_code == 422, answer.text
        assert "checkpoint_ns" in answer.json()["detail"]
    assert await place.history() == place.states


# --- the library, which has no gateway in front ----------------------------------------------------------------------


async def ended(client: Client, thread: str, given: Any, **configurable: Any) -> str:
    """The error that a run ends with."""
    run = await client.enqueue("agent", given, thread_id=thread, config={"configurable": configurable})
    with pytest.raises(RunErrored) as caught:
        await client.result(run.run_id)
    assert caught.value.info.error is not None
    return f"{caught.value.info.error.type}: {caught.value.info.error.message}"


@pytest.mark.parametrize("named", [NOWHERE, LATER, "junk", "0"])
async def test_a_producer_s_run_ends_where_its_checkpoint_is_not_there(
    place: Place, client: Client, named: str
) -> None:
    for configurable in (
        {"checkpoint_id": named},
        {"checkpoint_map": {"": named}},
        {"checkpoint_id": place.states[0]["checkpoint_id"], "checkpoint_map": {"": named}},
        {"checkpoint_ns": "below:1", "checkpoint_id": named, "checkpoint_map": {"": place.states[0]["checkpoint_id"]}},
    ):
        error = await ended(client, place.thread, {"says": "three"}, **configurable)
        assert error.startswith(f"CheckpointNotFound: thread {place.thread!r} has no checkpoint {named!r}")
    error = await ended(client, place.thread, {}, checkpoint_ns="below:1", checkpoint_id=named)
    assert error.startswith("InvalidRequest: checkpoint_map")
    error = await ended(client, str(uuid.uuid4()), {}, checkpoint_id=place.states[0]["checkpoint_id"])
    assert error.startswith("CheckpointNotFound")
    assert await place.history() == place.states
    assert EXECUTED == []


async def test_a_graph_that_keeps_no_checkpoints_has_none(client: Client, workers: Workers) -> None:
    forgets = StateGraph(State).add_node("node", node).add_edge(START, "node").compile(checkpointer=False)
    await workers.start(agent=forgets)
    EXECUTED.clear()
    assert (await ended(client, "t", {}, checkpoint_id=NOWHERE)).startswith("CheckpointNotFound")
    assert EXECUTED == []


@pytest.mark.parametrize("goto", ["nope", ["node", "nope"], [Send("nope", {})], Send("nope", {}), "below:1", "inner"])
async def test_a_node_that_the_graph_has_not_is_gone_to_by_nobody(place: Place, client: Client, goto: Any) -> None:
    for thread in (place.thread, str(uuid.uuid4())):
        error = await ended(client, thread, Command(goto=goto, update={"turns": ["replaced"]}))
        assert error.startswith("InvalidRequest: command.goto: the graph has no node")
        assert "it has below, node" in error
    assert await place.history() == place.states
    assert EXECUTED == []


async def test_a_node_that_the_graph_has_is_gone_to(place: Place, client: Client) -> None:
    run = await client.enqueue("agent", Command(goto="node", update={"says": "there"}), thread_id=place.thread)
    result: Any = await client.result(run.run_id)
    assert result["turns"] == ["one", "two", "there"]


async def test_with_nothing_to_resume_nothing_begins(place: Place, client: Client) -> None:
    for answer in ("yes", {"a" * 32: 1}, None):
        error = await ended(client, str(uuid.uuid4()), Command(resume=answer))
        assert error.startswith("InvalidRequest: command.resume")
    thread = await place.here.thread()
    body = {"assistant_id": "agent", "command": {"resume": "yes"}}
    told = (await place.http.post(f"/threads/{thread}/runs/wait", json=body)).json()["__error__"]
    assert "nothing to resume" in told["message"] or told["error"] == "InvalidRequest"
    assert (await place.http.get(f"/threads/{thread}/state")).json()["checkpoint"] is None
    assert EXECUTED == []


def test_a_line_break_is_refused_where_it_enters() -> None:
    spec = RunSpec("agent", {}, {"config": {"configurable": {"checkpoint_id": f"{NOWHERE}\n{{}}"}}})
    with pytest.raises(InvalidRequest, match=r"config\.configurable\.checkpoint_id"):
        Client("redis://127.0.0.1:1/0").prepare(spec)


# --- other places ----------------------------------------------------------------------------------------------------


async def test_other_things_that_are_not_there_are_404(place: Place) -> None:
    made = (await place.http.post("/assistants", json={"graph_id": "agent"})).json()["assistant_id"]
    nobody = str(uuid.uuid4())
    for path, body in (
        (f"/threads/{nobody}/copy", None),
        (f"/threads/{nobody}/state", {"values": {}}),
        (f"/threads/{nobody}/history", {}),
        (f"/assistants/{made}/latest", {"version": 2}),
        (f"/assistants/{nobody}/latest", {"version": 1}),
        ("/threads/{thread}/runs", {"assistant_id": nobody}),
    ):
        assert (await place.post(path, body)).status_code == 404, path
    assert await place.history() == place.states


async def test_an_update_of_a_subgraph_that_there_is_not_is_refused(place: Place) -> None:
    body = {"values": {"turns": []}, "checkpoint": {"checkpoint_ns": "nope:1"}}
    answer = await place.post("/threads/{thread}/state", body)
    assert answer.status_code == 422
    assert await place.history() == place.states


async def test_the_stream_of_a_run_that_has_ended_ends_behind_its_end(place: Place) -> None:
    run = (await place.http.get(f"/threads/{place.thread}/runs")).json()[0]["run_id"]
    for beyond in ("1-999", "9-0", "9-9"):
        path = f"/threads/{place.thread}/runs/{run}/stream"
        answer = await place.http.get(path, headers={"last-event-id": beyond})
        assert answer.status_code in (200, 404, 422)
