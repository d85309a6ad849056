"""Searches, lists and projections: whatever a caller sends or has stored, the others are served and the answer ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest
from tests.gateway.inprocess import Here, gateway_here
from tests.gateway.served import Served, served_beside
from tests.security.probing import MEGABYTE, probed

from runstream_gateway.bounded_list import MOST_BYTES
from runstream_gateway.containment import Containment
from runstream_gateway.errors import ApiError

_GREW: Final = 192 * MEGABYTE
"""Four turns, of each a part of what is stored, decoded; and the answers."""


@pytest.fixture(scope="module")
def gateway() -> Iterator[Served]:
    with served_beside() as gateway:
        yield gateway


def _client(gateway: Served) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=gateway.url, timeout=120)


async def _thread(http: httpx.AsyncClient, metadata: dict[str, Any] | None = None) -> str:
    answer = await http.post("/threads", json={"metadata": metadata or {}})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["thread_id"])


async def _thread_with_messages(http: httpx.AsyncClient, of: str, count: int, text: str) -> str:
    thread = await _thread(http, {"graph_id": "chat", "of": of})
    messages = [{"role": "user", "content": f"{at} {text}"} for at in range(count)]
    answer = await http.post(f"/threads/{thread}/state", json={"values": {"messages": messages}})
    assert answer.status_code == 200, answer.text
    return thread


# --- containment ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("whole", "part", "expected"),
    [
        ({"a": [1, 2, {"b": 1, "c": 2}]}, {"a": [{"b": 1}, 2]}, True),
        ({"a": [1, 2]}, {"a": [2, 2, 2]}, True),
        ({"a": [[1, 2], [3]]}, {"a": [[2], [3]]}, True),
        ({"a": [[1], [2]]}, {"a": [[1, 2]]}, False),
        ({"a": [1]}, {"a": [True]}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": 1}, {"a": 1.0}, True),
        ({"a": [None]}, {"a": [None]}, True),
        ({"a": []}, {"a": []}, True),
        ({"a": {}}, {"a": []}, False),
        ({"a": {"b": {"c": 1, "d": 2}}}, {"a": {"b": {"c": 1}}}, True),
        ({}, {"a": None}, False),
    ],
)
def test_one_json_contains_another(whole: Any, part: Any, expected: bool) -> None:
    assert Containment(part, "metadata").is_in(whole) is expected


def test_long_lists_of_texts_are_no_pairs() -> None:
    whole = {"tags": [f"tag {at}" for at in range(30_000)]}
    assert Containment({"tags": whole["tags"][::-1]}, "metadata", most=0).is_in(whole)


def test_pairs_of_objects_are_counted() -> None:
    search = Containment({"a": [{"b": -at} for at in range(1, 1000)]}, "metadata")
    whole = {"a": [{"b": at} for at in range(400)]}
    assert not search.is_in(whole)
    with pytest.raises(ApiError, match="metadata: takes more than 1,000,000 comparisons") as refused:
        search.is_in(whole)
    assert refused.value.status == 422


async def test_a_filter_of_texts_against_a_long_list(gateway: Served) -> None:
    async with _client(gateway) as http:
        for _ in range(4):
            await _thread(http, {"tags": [f"{at:05}" for at in range(7_000)]})
        wanted = {"tags": [f"{at:05}" for at in range(6_999, 6_400, -1)]}
        assert len((await http.post("/threads/search", json={"metadata": wanted})).json()) == 4
        async with probed(gateway) as probe:
            answers = [http.post("/threads/search", json={"metadata": wanted}) for _ in range(30)]
            assert {answer.status_code for answer in await asyncio.gather(*answers)} == {200}
    probe.figures.check(grew=_GREW)


async def test_a_filter_of_objects_against_a_long_list(gateway: Served) -> None:
    async with _client(gateway) as http:
        await _thread(http, {"a": [{"b": at} for at in range(5_000)]})
        wanted = {"a": [{"b": -at} for at in range(1, 400)]}
        async with probed(gateway) as probe:
            answers = [http.post(f"/{of}", json={"metadata": wanted}) for of in ("threads/search", "threads/count") * 3]
            for answer in await asyncio.gather(*answers):
                assert answer.status_code == 422
                assert "comparisons of objects within lists" in answer.json()["detail"]
    probe.figures.check(grew=_GREW)


# --- projections ------------------------------------------------------------------------------------------------------


async def test_extracting_the_same_again_and_again_does_not_multiply(gateway: Served) -> None:
    async with _client(gateway) as http:
        await _thread_with_messages(http, "extract", 2, "x" * 400_000)
        mine = {"metadata": {"of": "extract"}}
        many = {f"name {at}": "values.messages" for at in range(5_000)}
        hundred = {name: many[name] for name in list(many)[:100]}
        async with probed(gateway) as probe:
            refused = await http.post("/threads/search", json={**mine, "extract": many})
            too_large = await http.post("/threads/search", json={**mine, "extract": hundred})
            last = await http.post("/threads/search", json={**mine, "extract": {"t": "values.messages[-1].content"}})
    assert (refused.status_code, refused.json()["detail"]) == (422, "extract: 5000 paths must be at most 100")
    assert too_large.status_code == 422
    assert f"larger than {MOST_BYTES:,} bytes" in too_large.json()["detail"]
    assert last.json()[0]["extracted"]["t"].startswith("1 xxx")
    probe.figures.check(grew=_GREW)


async def test_a_page_of_large_threads_is_refused_with_how_to_page(gateway: Served) -> None:
    async with _client(gateway) as http:
        for _ in range(10):
            await _thread_with_messages(http, "page", 2, "x" * 1_000_000)
        mine = {"metadata": {"of": "page"}}
        async with probed(gateway) as probe:
            answers = [http.post("/threads/search", json={**mine, "limit": 1000}) for _ in range(6)]
            for answer in await asyncio.gather(*answers):
                assert answer.status_code == 422
                assert "ask for less at a time (limit, offset)" in answer.json()["detail"]
            few = await http.post("/threads/search", json={**mine, "limit": 3})
            slim = await http.post("/threads/search", json={**mine, "limit": 1000, "select": ["thread_id", "status"]})
    assert len(few.json()) == 3
    assert len(slim.json()) == 10
    probe.figures.check(grew=2 * _GREW)


async def test_a_history_of_large_states_is_refused_with_how_to_page(gateway: Served) -> None:
    async with _client(gateway) as http:
        thread = await _thread(http, {"graph_id": "chat"})
        for _ in range(8):
            message = {"role": "user", "content": "x" * 1_000_000}
            await http.post(f"/threads/{thread}/state", json={"values": {"messages": [message]}})
        async with probed(gateway) as probe:
            answers = [http.post(f"/threads/{thread}/history", json={"limit": 1000}) for _ in range(4)]
            for answer in await asyncio.gather(*answers):
                assert answer.status_code == 422
                assert "ask for less at a time (limit, before)" in answer.json()["detail"]
            assert len((await http.post(f"/threads/{thread}/history", json={"limit": 2})).json()) == 2
    probe.figures.check(grew=2 * _GREW)


async def test_a_state_of_many_messages_is_shown_beside_the_loop(gateway: Served) -> None:
    async with _client(gateway) as http:
        thread = await _thread_with_messages(http, "many", 4_000, "some words")
        assert (await http.get(f"/threads/{thread}/state")).status_code == 200
        async with probed(gateway) as probe:
            answers = await asyncio.gather(*(http.get(f"/threads/{thread}/state") for _ in range(10)))
    assert {len(answer.json()["values"]["messages"]) for answer in answers} == {4_000}
    probe.figures.check(grew=2 * _GREW)


@pytest.mark.parametrize("path", ["/threads/{thread}/state", "/threads/{thread}/runs", "/threads/{thread}/stream"])
async def test_a_list_in_a_query_is_json_or_names(redis_url: str, namespace: str, path: str) -> None:
    async with gateway_here(redis_url, namespace) as here:
        path = path.format(thread=await here.thread())
        name = "stream_mode" if path.endswith("stream") else "select"
        for text in ("[" * 10_000, "[1]", "[{}]", '["values"', "[]" * 3):
            answer = await here.http.get(path, params={name: text})
            assert answer.status_code == 422, answer.text
            assert "must be names with commas between them, or a list of texts in JSON" in answer.json()["detail"]


async def test_lists_of_what_is_named_have_an_end(redis_url: str, namespace: str) -> None:
    names = ["x"] * 1001
    async with gateway_here(redis_url, namespace) as here:
        thread = await here.thread()
        for path, body in (
            ("/threads/search", {"ids": names}),
            ("/threads/search", {"select": names}),
            ("/threads/prune", {"thread_ids": names}),
            ("/threads", {"supersteps": [{}] * 1001}),
            (f"/threads/{thread}/state", {"values": [{}] * 1001}),
            (f"/threads/{thread}/runs", {"assistant_id": "a", "stream_mode": ["values"] * 51}),
            (f"/threads/{thread}/runs", {"assistant_id": "a", "interrupt_before": names}),
            ("/runs/cancel", {"thread_id": thread, "run_ids": names}),
        ):
            answer = await here.http.post(path, json=body)
            assert answer.status_code == 422, (path, answer.text)
            assert "at most" in answer.json()["detail"], answer.text


async def test_what_an_assistant_adds_to_each_run_of_a_batch_is_bounded(redis_url: str, namespace: str) -> None:
    async with gateway_here(redis_url, namespace, one=_graph()) as here:
        context = {"text": "x" * 120_000}
        made = (await here.http.post("/assistants", json={"graph_id": "one", "context": context})).json()
        answer = await here.http.post("/runs/batch", json=[{"assistant_id": made["assistant_id"]}] * 500)
        assert answer.status_code == 422
        assert "send fewer at once" in answer.json()["detail"]
        assert await _runs(here) == 0


async def test_an_assistant_keeps_no_more_versions_than_may_be_read_at_once(redis_url: str, namespace: str) -> None:
    async with gateway_here(redis_url, namespace, one=_graph()) as here:
        made = (await here.http.post("/assistants", json={"graph_id": "one"})).json()
        path = f"/assistants/{made['assistant_id']}"
        for at in range(10):
            changed = await here.http.patch(path, json={"context": {"text": f"{at}" * 120_000}})
            assert changed.status_code == 200, changed.text
        versions = (await here.http.post(f"{path}/versions", json={"limit": 100})).json()
        assert [each["version"] for each in versions] == [11, 10, 9, 8]
        assert (await here.http.get(path)).json()["context"]["text"].startswith("9")


async def _runs(here: Here) -> int:
    return len((await here.http.get("/console/runs")).json())


def _graph() -> Any:
    from langgraph.graph import START, MessagesState, StateGraph  # noqa: PLC0415 - most tests need none

    return StateGraph(MessagesState).add_node("n", lambda _: {}).add_edge(START, "n").compile()
