"""A worker is killed in mid-sentence: what each kind of reader ends up with, without code of ours in the clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import websockets
from langgraph_sdk.client import LangGraphClient, get_client
from tests.gateway.conftest import GRAPHS
from tests.support.processes import Processes, RunningWorker
from tests.support.waiting import until

from runstream import Client, Event, Retraction, text_of

pytestmark = [pytest.mark.real_redis, pytest.mark.ours("its workers are killed here"), pytest.mark.timeout(180)]

WORDS = 40
SAID = tuple("".join(f"{word}{number} " for number in range(WORDS)) for word in "ab")
TALE: dict[str, Any] = {"messages": [{"type": "human", "content": "go"}], "words": WORDS, "delay": 0.05}
_NOTICE = "[a worker was lost, and another goes on; what stands now:]"


class Site(NamedTuple):
    """A gateway, its workers, and clients of both kinds."""

    url: str
    workers: Sequence[RunningWorker]
    client: Client
    sdk: LangGraphClient

    async def kill_holder(self, run_id: str) -> None:
        """Kill the worker that executes a run, which is in the middle of its second message."""
        await until(lambda: self._is_in_the_second(run_id), "it is in mid-sentence")
        holder = (await self.client.get(run_id)).worker
        (victim,) = (worker for worker in self.workers if worker.worker_id == holder)
        victim.command.kill()

    async def _is_in_the_second(self, run_id: str) -> bool:
        async with self.client.tail(run_id) as events:
            async for event in events:
                if text_of(event).startswith("b9"):
                    return True
        return False


@pytest.fixture
async def site(redis_url: str, namespace: str, tmp_path: Path, client: Client) -> AsyncIterator[Site]:
    async with Processes(redis_url, namespace, tmp_path) as processes:
        workers = [await processes.worker("--config", str(GRAPHS)) for _ in range(2)]
        gateway = await processes.start("gateway", "--config", str(GRAPHS), "--port", "0", "--json")
        url = (await gateway.json_line())["url"]
        sdk = get_client(url=url)
        yield Site(url, workers, client, sdk)
        await sdk.aclose()


async def summed_up(site: Site, thread_id: str, run_id: str, modes: Any, **params: Any) -> list[str]:
    """What a program shows that adds chunks up by their message's id and lets values replace them."""
    shown: dict[str, str] = {}
    stream = site.sdk.runs.join_stream(thread_id, run_id, last_event_id="-1", stream_mode=modes, params=params)
    async for part in stream:
        match part.event:
            case "messages":
                _apply(shown, part.data[0], whole=False)
            case "messages/partial" | "messages/complete":
                _apply(shown, part.data[0], whole=True)
            case "values":
                messages = [one for one in part.data["messages"] if one["type"] != "human"]
                shown = {one["id"]: one["content"] for one in messages}
    return list(shown.values())


def _apply(shown: dict[str, str], message: dict[str, Any], *, whole: bool) -> None:
    """LangGraph's rule for messages: one of the type `remove` takes back the one with its id."""
    if message["type"] == "remove":
        shown.pop(message["id"], None)
    else:
        shown[message["id"]] = message["content"] if whole else shown.get(message["id"], "") + message["content"]


@pytest.mark.parametrize(
    ("streamed", "read"),
    [
        ("messages-tuple", [["messages-tuple"], ["values"], ["messages-tuple", "values"]]),
        ("messages", [["messages"], ["values"], ["messages", "values"]]),
    ],
)
async def test_programs_that_sum_up_by_message_have_what_is_saved(
    site: Site, streamed: str, read: list[list[str]]
) -> None:
    thread_id = (await site.sdk.threads.create())["thread_id"]
    run = await site.sdk.runs.create(thread_id, "tale", input=TALE, stream_mode=[streamed, "values"])  # type: ignore[list-item]
    readers = [asyncio.create_task(summed_up(site, thread_id, run["run_id"], modes)) for modes in read]
    settled = [asyncio.create_task(summed_up(site, thread_id, run["run_id"], modes, settled="1")) for modes in read]
    await site.kill_holder(run["run_id"])
    for modes, reader in zip(read * 2, [*readers, *settled], strict=True):
        assert await reader == list(SAID), modes
    assert (await site.client.get(run["run_id"])).attempts == 2


async def test_who_cannot_take_back_reads_settled(site: Site) -> None:
    thread_id = (await site.sdk.threads.create())["thread_id"]
    run = await site.sdk.runs.create(thread_id, "tale", input=TALE, stream_mode=["messages-tuple"])
    run_id, base = run["run_id"], f"{site.url}/threads/{thread_id}/runs/{run['run_id']}"

    async def library() -> str:
        return "".join([text async for text in site.client.text(run_id, settled=True)])

    async def curl() -> str:
        async with httpx.AsyncClient(timeout=120) as http:
            return (await http.get(f"{base}/text", params={"settled": "1"})).text.removesuffix("\n")

    async def sse() -> str:
        said = []
        stream = site.sdk.runs.join_stream(thread_id, run_id, last_event_id="-1", params={"settled": "1"})
        async for part in stream:
            if part.event == "messages":
                assert part.data[0]["type"] != "remove"
                said.append(part.data[0]["content"])
        return "".join(said)

    async def websocket() -> str:
        said = []
        address = base.replace("http", "ws", 1) + "/stream?last_event_id=-1&settled=1"
        async with websockets.connect(address) as connection:
            async for text in connection:
                frame = json.loads(text)
                if frame["event"] == "messages":
                    said.append(frame["data"][0]["content"])
        return "".join(said)

    readers: list[Callable[[], Awaitable[str]]] = [library, curl, sse, websocket]
    reading = [asyncio.ensure_future(read()) for read in readers]
    await site.kill_holder(run_id)
    for read, one in zip(readers, reading, strict=True):
        assert await one == "".join(SAID), read.__name__


async def test_who_reads_tokens_at_once_sees_what_is_taken_back(site: Site) -> None:
    thread_id = (await site.sdk.threads.create())["thread_id"]
    run = await site.sdk.runs.create(thread_id, "tale", input=TALE, stream_mode=["messages-tuple"])
    run_id = run["run_id"]

    async def screen() -> str:
        shown = ""
        async for piece in site.client.text(run_id):
            if isinstance(piece, Retraction):
                shown = piece.text
            else:
                shown += piece
        return shown

    async def curl() -> str:
        async with httpx.AsyncClient(timeout=120) as http:
            return (await http.get(f"{site.url}/threads/{thread_id}/runs/{run_id}/text")).text

    reading = [asyncio.create_task(screen()), asyncio.create_task(curl())]
    await site.kill_holder(run_id)
    assert await reading[0] == "".join(SAID)
    void, _, standing = (await reading[1]).partition(f"\n{_NOTICE}\n")
    assert standing == "".join(SAID) + "\n"
    assert void.startswith(SAID[0] + "b0 ")


async def test_a_settled_stream_is_resumed_behind_any_of_its_frames(site: Site) -> None:
    thread_id = (await site.sdk.threads.create())["thread_id"]
    run = await site.sdk.runs.create(thread_id, "tale", input=TALE | {"delay": 0.02}, stream_mode=["messages-tuple"])
    await site.kill_holder(run["run_id"])
    options: dict[str, Any] = {"params": {"settled": "1"}}

    async def rest(last_event_id: str) -> list[Any]:
        stream = site.sdk.runs.join_stream(thread_id, run["run_id"], last_event_id=last_event_id, **options)
        return [part async for part in stream]

    whole = await rest("-1")
    for at in range(0, len(whole) - 1, 9):
        event_id = whole[at].id
        assert event_id is not None
        assert await rest(event_id) == whole[at + 1 :]
    seen: list[Event] = [event async for event in site.client.tail(run["run_id"], settled=True)]
    assert [part.id for part in whole] == [event.id for event in seen]
