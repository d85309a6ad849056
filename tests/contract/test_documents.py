"""Documents: each write is of the version that its writer has read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from tests.support.cell import Cell
from tests.support.waiting import until

from runstream import Client, Document, Documents, InvalidRequest


async def test_a_document_is_written_once_and_changed_by_version(client: Client) -> None:
    notes = client.documents("note", ttl=60)
    created = await notes.create("a", {"text": "one"})
    assert created is not None
    assert (created.version, created.data) == (1, {"text": "one"})
    assert await notes.create("a", {"text": "two"}) is None
    changed = await notes.update("a", lambda data: {**data, "more": [1, {}, []]})
    assert changed is not None
    assert changed.version == 2
    assert await notes.get("a") == changed
    assert await notes.get_many(["b", "a"]) == [None, changed]


async def test_no_change_of_another_writer_is_lost(client: Client) -> None:
    notes = client.documents("note", ttl=60)
    await notes.create("n", {"n": 0})

    def add(data: dict[str, Any]) -> dict[str, Any]:
        return {"n": data["n"] + 1}

    await asyncio.gather(*(notes.update("n", add) for _ in range(20)))
    found = await notes.get("n")
    assert found is not None
    assert found.data == {"n": 20}


async def test_the_newest_come_first_and_what_was_deleted_not_at_all(client: Client) -> None:
    notes = client.documents("note", ttl=60)
    for at in range(250):
        await notes.create(f"n{at}", {"at": at})
    assert await notes.delete("n100")
    assert not await notes.delete("n100")
    assert [note.data["at"] async for note in notes.newest_first()] == [at for at in reversed(range(250)) if at != 100]
    assert await notes.update("n100", lambda data: data) is None


async def test_what_comes_and_goes_during_a_scan_hides_and_doubles_nothing(any_client: Client) -> None:
    notes = any_client.documents("note", ttl=60)
    made = [f"n{at}" for at in range(150)]
    for name in made:
        await notes.create(name, {})
    seen: list[str] = []
    async for note in notes.newest_first():
        seen.append(note.id)
        if len(seen) == 50:
            await notes.create("later", {})
            for gone in made[100:120]:
                await notes.delete(gone)
    assert len(seen) == len(set(seen))
    assert set(seen) >= set(made[:100]) | set(made[120:])


async def test_documents_of_the_same_moment_are_all_read(any_client: Client, cell: Cell) -> None:
    notes = any_client.documents("note", ttl=60)
    made = [f"n{at}" for at in range(250)]
    for name in made:
        await notes.create(name, {})
    index = cell.keys.documents("note")
    await cell.redis.zadd(index, dict.fromkeys(made[20:], 1234.0625))
    found = [note.id async for note in notes.newest_first()]
    assert sorted(found) == sorted(made)
    for name in made[:150]:
        await cell.redis.delete(cell.keys.document("note", name))
    assert sorted([note.id async for note in notes.newest_first()]) == sorted(made[150:])
    assert await cell.redis.zcard(index) == 100


async def test_large_documents_are_read_a_few_at_a_time(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = client.documents("note", ttl=60)
    for at in range(30):
        await notes.create(f"n{at}", {"text": "x" * (1_500_000 if at < 5 else 1)})
    read: list[int] = []
    get_many = notes.get_many

    async def counted(names: Sequence[str]) -> list[Document | None]:
        read.append(len(names))
        return await get_many(names)

    monkeypatch.setattr(notes, "get_many", counted)
    assert len([note async for note in notes.newest_first()]) == 30
    assert read == [20, 7, 2, 1]


async def test_expired_ones_leave_the_index(client: Client) -> None:
    short, long = client.documents("note", ttl=0.05), client.documents("note", ttl=60)
    await long.create("stays", {})
    await short.create("goes", {})
    await long.touch("stays")
    await until(lambda: _is_gone(short, "goes"), "the document has expired")
    assert [note.id async for note in long.newest_first()] == ["stays"]


async def test_kinds_are_words_and_do_not_mix(client: Client) -> None:
    await client.documents("note", ttl=60).create("a", {})
    assert await client.documents("memo", ttl=60).get("a") is None
    with pytest.raises(InvalidRequest, match="kind"):
        client.documents("a:b", ttl=60)


def _nested(depth: int) -> Any:
    data: Any = 0
    for _ in range(depth):
        data = [data]
    return data


@pytest.mark.parametrize("data", ["\ud800", float("nan"), float("inf"), _nested(200), _nested(5000), object()])
async def test_what_could_not_be_read_again_is_refused(client: Client, data: Any) -> None:
    notes = client.documents("note", ttl=60)
    kept = await notes.create("a", {"text": "one"})
    with pytest.raises(InvalidRequest, match="document"):
        await notes.create("b", {"text": data})
    with pytest.raises(InvalidRequest, match="document"):
        await notes.update("a", lambda _: {"text": data})
    assert [note async for note in notes.newest_first()] == [kept]


async def _is_gone(documents: Documents, document_id: str) -> bool:
    return await documents.get(document_id) is None
