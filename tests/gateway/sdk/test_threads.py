"""`threads`: create, get, update, delete, search, count, copy, prune."""

from __future__ import annotations

import re
import secrets
import uuid
from datetime import datetime
from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import ConflictError, NotFoundError, UnprocessableEntityError
from tests.support.sdk_parts import UNKNOWN, human, slowly
from tests.support.waiting import until


@pytest.fixture
def mark() -> dict[str, str]:
    """Metadata that only this test's threads have."""
    return {"mark": secrets.token_hex(8)}


async def test_a_new_thread(client: Any) -> None:
    thread = await client.threads.create(metadata={"colour": "red"})
    assert str(uuid.UUID(thread["thread_id"])) == thread["thread_id"]
    assert thread["status"] == "idle"
    assert thread["metadata"] == {"colour": "red"}
    assert thread["values"] is None
    assert thread.get("interrupts", {}) == {}
    for moment in ("created_at", "updated_at"):
        assert datetime.fromisoformat(thread[moment]).tzinfo is not None
    assert await client.threads.get(thread["thread_id"]) == thread


async def test_a_thread_with_an_id(client: Any) -> None:
    thread_id = str(uuid.uuid4())
    thread = await client.threads.create(thread_id=thread_id, metadata={"colour": "red"})
    assert thread["thread_id"] == thread_id
    with pytest.raises(ConflictError):
        await client.threads.create(thread_id=thread_id)
    with pytest.raises(ConflictError):
        await client.threads.create(thread_id=thread_id, if_exists="raise")
    again = await client.threads.create(thread_id=thread_id, if_exists="do_nothing", metadata={"colour": "blue"})
    assert again["metadata"] == {"colour": "red"}


async def test_a_thread_of_a_graph(client: Any) -> None:
    thread = await client.threads.create(graph_id="parallel")
    assert thread["metadata"]["graph_id"] == "parallel"
    await client.threads.update_state(thread["thread_id"], {"steps": ["given"]}, as_node="left")
    state = await client.threads.get_state(thread["thread_id"])
    assert state["values"]["steps"] == ["given"]


async def test_a_thread_with_a_past(client: Any) -> None:
    supersteps = [
        {"updates": [{"values": {"steps": ["given"]}, "as_node": "__start__"}]},
        {"updates": [{"values": {"steps": ["left"]}, "as_node": "left"}]},
    ]
    thread = await client.threads.create(graph_id="parallel", supersteps=supersteps)
    state = await client.threads.get_state(thread["thread_id"])
    assert state["values"]["steps"] == ["given", "left"]
    assert len(await client.threads.get_history(thread["thread_id"])) >= 2


async def test_a_thread_after_a_run(client: Any, thread_id: str) -> None:
    before = await client.threads.get(thread_id)
    await client.runs.wait(thread_id, "chat", input=human("hi"))
    thread = await client.threads.get(thread_id)
    assert thread["status"] == "idle"
    assert [message["content"] for message in thread["values"]["messages"]] == ["hi", "You said: hi"]
    assert thread["metadata"]["graph_id"] == "chat"
    assert str(uuid.UUID(thread["metadata"]["assistant_id"])) == thread["metadata"]["assistant_id"]
    assert thread["created_at"] == before["created_at"]
    assert thread["updated_at"] > before["updated_at"]
    assert thread["state_updated_at"] > before["created_at"]


async def test_a_thread_is_busy_while_it_runs(client: Any, thread_id: str) -> None:
    run = await client.runs.create(thread_id, "slow", input=slowly(4))
    assert (await client.threads.get(thread_id))["status"] == "busy"
    await client.runs.join(thread_id, run["run_id"])
    assert (await client.threads.get(thread_id))["status"] == "idle"


async def test_updates_are_merged(client: Any) -> None:
    thread = await client.threads.create(metadata={"colour": "red", "size": 1})
    updated = await client.threads.update(thread["thread_id"], metadata={"colour": "blue", "more": {"a": [1]}})
    assert updated["metadata"] == {"colour": "blue", "size": 1, "more": {"a": [1]}}
    assert (await client.threads.get(thread["thread_id"]))["metadata"] == updated["metadata"]
    assert updated["updated_at"] > thread["updated_at"]


async def test_an_update_that_returns_nothing(client: Any, thread_id: str) -> None:
    assert await client.threads.update(thread_id, metadata={"colour": "blue"}, return_minimal=True) is None
    assert (await client.threads.get(thread_id))["metadata"] == {"colour": "blue"}


async def test_deleting(client: Any, thread_id: str) -> None:
    await client.runs.wait(thread_id, "chat", input=human("hi"))
    (run,) = await client.runs.list(thread_id)
    await client.threads.delete(thread_id)
    for call in (
        client.threads.get(thread_id),
        client.threads.delete(thread_id),
        client.threads.get_state(thread_id),
        client.runs.get(thread_id, run["run_id"]),
    ):
        with pytest.raises(NotFoundError):
            await call
    await client.threads.create(thread_id=thread_id)
    assert (await client.threads.get_state(thread_id))["values"] == {}
    assert await client.runs.list(thread_id) == []


async def test_searching_by_metadata(client: Any, mark: dict[str, str]) -> None:
    red = await client.threads.create(metadata={**mark, "colour": "red", "deep": {"a": 1, "b": 2}})
    await client.threads.create(metadata={**mark, "colour": "blue"})
    assert len(await client.threads.search(metadata=mark)) == 2
    for metadata in ({**mark, "colour": "red"}, {**mark, "deep": {"a": 1}}):
        assert [thread["thread_id"] for thread in await client.threads.search(metadata=metadata)] == [red["thread_id"]]
    assert await client.threads.search(metadata={**mark, "colour": "green"}) == []


async def test_searching_page_by_page(client: Any, mark: dict[str, str]) -> None:
    made = [(await client.threads.create(metadata={**mark, "n": n}))["thread_id"] for n in range(5)]
    newest_first = made[::-1]
    found = [thread["thread_id"] for thread in await client.threads.search(metadata=mark)]
    assert found == newest_first
    pages = [
        [thread["thread_id"] for thread in await client.threads.search(metadata=mark, limit=2, offset=offset)]
        for offset in (0, 2, 4, 6)
    ]
    assert pages == [newest_first[:2], newest_first[2:4], newest_first[4:], []]


async def test_searching_in_an_order(client: Any, mark: dict[str, str]) -> None:
    made = [(await client.threads.create(metadata=mark))["thread_id"] for _ in range(3)]
    await client.threads.update(made[0], metadata={"touched": True})
    orders = {
        ("created_at", "asc"): made,
        ("created_at", "desc"): made[::-1],
        ("updated_at", "desc"): [made[0], made[2], made[1]],
        ("thread_id", "asc"): sorted(made),
        ("thread_id", "desc"): sorted(made, reverse=True),
    }
    for (by, order), expected in orders.items():
        found = await client.threads.search(metadata=mark, sort_by=by, sort_order=order)
        assert [thread["thread_id"] for thread in found] == expected, (by, order)


async def test_searching_by_status(client: Any, mark: dict[str, str]) -> None:
    threads = {
        status: (await client.threads.create(metadata=mark))["thread_id"] for status in ("idle", "interrupted", "error")
    }
    await client.runs.wait(threads["interrupted"], "approval", input={})
    await client.runs.wait(threads["error"], "failing", input={}, raise_error=False)
    for status, thread_id in threads.items():
        found = await client.threads.search(metadata=mark, status=status)
        assert [thread["thread_id"] for thread in found] == [thread_id]
        assert [thread["status"] for thread in found] == [status]
        assert await client.threads.count(metadata=mark, status=status) == 1
    by_status = await client.threads.search(metadata=mark, sort_by="status", sort_order="asc")
    assert [thread["status"] for thread in by_status] == ["error", "idle", "interrupted"]


async def test_searching_for_the_busy(client: Any, mark: dict[str, str]) -> None:
    thread_id = (await client.threads.create(metadata=mark))["thread_id"]
    run = await client.runs.create(thread_id, "slow", input=slowly())
    found = await client.threads.search(metadata=mark, status="busy")
    assert [thread["thread_id"] for thread in found] == [thread_id]
    await client.runs.cancel(thread_id, run["run_id"], wait=True)
    assert await client.threads.search(metadata=mark, status="busy") == []


async def test_searching_by_values(client: Any, mark: dict[str, str]) -> None:
    thread_id = (await client.threads.create(metadata=mark))["thread_id"]
    await client.runs.wait(thread_id, "parallel", input={})
    values = {"steps": ["left", "right", "joined"]}
    (found,) = await client.threads.search(metadata=mark, values=values)
    assert found["thread_id"] == thread_id
    assert found["values"] == values
    assert await client.threads.search(metadata=mark, values={"steps": ["nonsense"]}) == []


@pytest.mark.ours("a 500, where another thread has no values yet")
async def test_values_beside_a_thread_without_any(client: Any, mark: dict[str, str]) -> None:
    thread_id = (await client.threads.create(metadata=mark))["thread_id"]
    await client.threads.create(metadata=mark)
    await client.runs.wait(thread_id, "parallel", input={})
    values = {"steps": ["left", "right", "joined"]}
    assert [found["thread_id"] for found in await client.threads.search(metadata=mark, values=values)] == [thread_id]
    assert await client.threads.count(metadata=mark, values=values) == 1
    assert await client.threads.count(metadata=mark, values={"steps": ["nonsense"]}) == 0


async def test_searching_by_ids(client: Any, mark: dict[str, str]) -> None:
    made = [(await client.threads.create(metadata=mark))["thread_id"] for _ in range(3)]
    found = await client.threads.search(ids=[made[0], made[2], UNKNOWN])
    assert {thread["thread_id"] for thread in found} == {made[0], made[2]}


async def test_searching_for_some_fields(client: Any, mark: dict[str, str]) -> None:
    thread_id = (await client.threads.create(metadata=mark))["thread_id"]
    found = await client.threads.search(metadata=mark, select=["thread_id", "status"])
    assert found == [{"thread_id": thread_id, "status": "idle"}]


async def test_searching_for_what_is_in_the_values(client: Any, mark: dict[str, str]) -> None:
    thread_id = (await client.threads.create(metadata=mark))["thread_id"]
    await client.runs.wait(thread_id, "chat", input=human("hi"))
    (found,) = await client.threads.search(
        metadata=mark, select=["thread_id"], extract={"said": "values.messages[-1].content"}
    )
    assert found["extracted"] == {"said": "You said: hi"}


async def test_searching_for_the_interrupted_has_what_they_ask(client: Any, mark: dict[str, str]) -> None:
    thread_id = (await client.threads.create(metadata=mark))["thread_id"]
    await client.runs.wait(thread_id, "approval", input={})
    (found,) = await client.threads.search(metadata=mark)
    assert found == await client.threads.get(thread_id)
    assert [[asked["value"] for asked in each] for each in found["interrupts"].values()] == [[{"question": "go on?"}]]


async def test_the_pages_have_headers(base_url: str, async_client: LangGraphClient, mark: dict[str, str]) -> None:
    for _ in range(3):
        await async_client.threads.create(metadata=mark)
    async with httpx.AsyncClient(base_url=base_url) as http:
        more = await http.post("/threads/search", json={"metadata": mark, "limit": 2})
        last = await http.post("/threads/search", json={"metadata": mark, "limit": 2, "offset": 2})
    assert more.headers["x-pagination-next"] == "2"
    assert "x-pagination-next" not in last.headers
    assert re.fullmatch(r"\d+", more.headers["x-pagination-total"])


async def test_counting(client: Any, mark: dict[str, str]) -> None:
    assert await client.threads.count(metadata=mark) == 0
    for _ in range(3):
        await client.threads.create(metadata=mark)
    assert await client.threads.count(metadata=mark) == 3


async def test_copying(client: Any, async_client: LangGraphClient, mark: dict[str, str]) -> None:
    thread_id = (await client.threads.create(metadata=mark))["thread_id"]
    values = await client.runs.wait(thread_id, "chat", input=human("hi"))
    copy = await client.threads.copy(thread_id)
    assert copy["thread_id"] != thread_id
    assert copy["metadata"]["mark"] == mark["mark"]
    state = await client.threads.get_state(copy["thread_id"])
    assert state["values"] == values
    assert state["checkpoint"]["thread_id"] == copy["thread_id"]
    assert len(await client.threads.get_history(copy["thread_id"])) == 3
    await client.runs.wait(copy["thread_id"], "chat", input=human("more"))
    assert len((await client.threads.get_state(copy["thread_id"]))["values"]["messages"]) == 4
    assert (await client.threads.get_state(thread_id))["values"] == values


async def test_pruning(client: Any, thread_id: str) -> None:
    assert await client.threads.prune([thread_id]) == {"pruned_count": 1}
    with pytest.raises(NotFoundError):
        await client.threads.get(thread_id)


@pytest.mark.ours("the development server cannot")
async def test_pruning_all_but_the_latest(client: Any, thread_id: str) -> None:
    kept = thread_id
    for text in ("one", "two"):
        await client.runs.wait(kept, "chat", input=human(text))
    before = await client.threads.get_state(kept)
    assert await client.threads.prune([kept], strategy="keep_latest") == {"pruned_count": 1}
    assert (await client.threads.get_state(kept))["values"] == before["values"]
    assert len(await client.threads.get_history(kept)) == 1


async def test_unknown_threads(client: Any) -> None:
    for call in (
        client.threads.get(UNKNOWN),
        client.threads.update(UNKNOWN, metadata={}),
        client.threads.delete(UNKNOWN),
        client.threads.get_state(UNKNOWN),
        client.threads.get_history(UNKNOWN),
        client.threads.update_state(UNKNOWN, {"steps": []}),
    ):
        with pytest.raises(NotFoundError):
            await call
    with pytest.raises((NotFoundError, ConflictError)):
        await client.threads.copy(UNKNOWN)


async def test_ids_that_are_none(client: Any) -> None:
    for call in (
        client.threads.get("nonsense"),
        client.threads.create(thread_id="nonsense"),
        client.threads.delete("nonsense"),
        client.threads.get_state("nonsense"),
    ):
        with pytest.raises(UnprocessableEntityError):
            await call


async def test_searches_that_make_no_sense(client: Any) -> None:
    for wrong in ({"limit": 0}, {"limit": 100_000}, {"status": "nonsense"}, {"sort_by": "nonsense"}):
        with pytest.raises(UnprocessableEntityError):
            await client.threads.search(**wrong)


async def test_deleting_a_thread_that_runs(client: Any, thread_id: str) -> None:
    run = await client.runs.create(thread_id, "slow", input=slowly())
    await until(lambda: _runs(client, thread_id, run["run_id"]), "the run runs")
    await client.threads.delete(thread_id)
    with pytest.raises(NotFoundError):
        await client.threads.get(thread_id)
    with pytest.raises(NotFoundError):
        await client.runs.get(thread_id, run["run_id"])


async def _runs(client: Any, thread_id: str, run_id: str) -> bool:
    return bool((await client.runs.get(thread_id, run_id))["status"] == "running")
