"""Redis is cut off, away, or its replies are lost: nothing is lost and nothing is twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, TypedDict

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from redis.exceptions import ConnectionError as RedisConnectionError
from tests.support.proxy import Proxy
from tests.support.waiting import until
from tests.support.workers import Workers

from runstream import Client, ClientSettings, Event
from runstream.faults import patiently


class State(TypedDict, total=False):
    n: int


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(redis_url) as proxy:
        yield proxy


class Steps:
    """A graph that publishes its numbers one by one, each when it is told to."""

    def __init__(self) -> None:
        self.allowed = asyncio.Semaphore(0)
        self.done = 0
        self.graph = StateGraph(State).add_node("count", self.count).add_edge(START, "count").compile()

    async def count(self, state: State) -> State:
        write = get_stream_writer()
        for n in range(state["n"]):
            await self.allowed.acquire()
            write(n)
            self.done = n + 1
        return {"n": -1}

    def allow(self, steps: int) -> None:
        for _ in range(steps):
            self.allowed.release()


async def collect(client: Client, run_id: str) -> list[Event]:
    return [event async for event in client.tail(run_id)]


@pytest.mark.parametrize("fault", ["cut", "away", "lost replies"])
async def test_a_run_and_its_readers_outlast_the_fault(
    client: Client, proxy: Proxy, namespace: str, fault: str
) -> None:
    steps = Steps()
    async with (
        Workers(proxy.url, namespace) as workers,
        Client(proxy.url, settings=ClientSettings(namespace=namespace)) as far,
    ):
        await workers.start({"lease": 30.0}, steps=steps.graph)
        run = await client.enqueue("steps", {"n": 60}, stream_mode="custom")
        reading = [asyncio.create_task(collect(far, run.run_id)) for _ in range(3)]
        for round_ in range(1, 4):
            steps.allow(10)
            await until(lambda done=round_ * 20 - 10: steps.done == done, "ten steps")  # type: ignore[misc] # bound now
            match fault:
                case "cut":
                    await proxy.cut()
                case "away":
                    await proxy.take_away()
                case _:
                    proxy.lose_replies()
            steps.allow(10)
            await until(lambda done=round_ * 20: steps.done == done, "ten more, published by nobody yet")  # type: ignore[misc]
            if fault == "lost replies":
                await until(lambda: proxy.lost_replies > 0, "a reply was lost")
                proxy.lost_replies = 0
            proxy.restore()
        expected = ["1-0", *(f"1-{n}" for n in range(1, 62))]
        for reader in [*reading, asyncio.create_task(collect(client, run.run_id))]:
            events = await reader
            assert [event.id for event in events] == expected
            assert [event.data for event in events if event.mode == "custom"] == list(range(60))
            assert events[-1].data["status"] == "success"
    assert (await client.get(run.run_id)).attempt == 1


async def test_runs_enqueued_while_replies_are_lost_are_executed_once(
    client: Client, proxy: Proxy, namespace: str
) -> None:
    executed: list[int] = []

    def record(state: State) -> State:
        executed.append(state["n"])
        return state

    graph = StateGraph(State).add_node("record", record).add_edge(START, "record").compile()
    async with (
        Workers(proxy.url, namespace) as workers,
        Client(proxy.url, settings=ClientSettings(namespace=namespace)) as far,
    ):
        await workers.start({"lease": 30.0}, record=graph)
        await client.invoke("record", {"n": 0})
        for n in range(1, 6):
            proxy.lose_replies()
            asyncio.get_running_loop().call_later(0.05, proxy.restore)
            assert await far.invoke("record", {"n": n}) == {"n": n}
    assert proxy.lost_replies > 0
    assert executed == list(range(6))


class Endless(BaseChatModel):
    """A model that streams as fast as it is read, and counts."""

    made: list[int]

    @property
    def _llm_type(self) -> str:
        return "endless"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        raise AssertionError("this model only streams")

    async def _astream(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for n in range(20_000):
            self.made.append(n)
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=f"{n} "))
            if (manager := kwargs.get("run_manager")) is not None:
                await manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk
            await asyncio.sleep(0)


async def test_a_slow_redis_slows_the_model_instead_of_filling_memory(
    client: Client, proxy: Proxy, namespace: str
) -> None:
    model = Endless(made=[])

    async def talk(state: State) -> State:
        async for _ in model.astream("go on"):
            pass
        return {"n": 1}

    graph = StateGraph(State).add_node("talk", talk).add_edge(START, "talk").compile()
    async with Workers(proxy.url, namespace) as workers:
        await workers.start({"lease": 60.0, "buffer_events": 100}, talk=graph)
        run = await client.enqueue("talk", {"n": 0}, stream_mode="messages")
        await until(lambda: len(model.made) > 0, "the model speaks")
        proxy.block()
        before = -1

        async def held_back() -> bool:
            nonlocal before
            stands_still, before = len(model.made) == before, len(model.made)
            await asyncio.sleep(0.05)
            return stands_still

        await until(held_back, "the model is held back")
        assert len(model.made) < 20_000
        made = len(model.made)
        proxy.restore()
        await until(lambda: len(model.made) > made, "the model goes on")
        await client.stop(run.run_id)
        tokens = [text async for text in texts(client, run.run_id)]
    assert tokens == [f"{n} " for n in range(len(tokens))]


async def texts(client: Client, run_id: str) -> AsyncIterator[str]:
    async for event in client.tail(run_id):
        if event.mode == "messages" and event.data[0]["content"]:
            yield event.data[0]["content"]


async def test_connections_that_go_dead_without_a_word_cost_no_run(
    client: Client, proxy: Proxy, redis_url: str, namespace: str
) -> None:
    """As when a router forgets them: nothing comes back, nothing is closed; new connections work."""
    steps = Steps()
    idle = StateGraph(State).add_node("n", lambda state: state).add_edge(START, "n").compile()
    async with Workers(proxy.url, namespace) as workers, Workers(redis_url, namespace) as others:
        await workers.start(steps=steps.graph)
        await others.start(idle=idle)
        run = await client.enqueue("steps", {"n": 10}, stream_mode="custom")
        steps.allow(5)
        await until(lambda: steps.done == 5, "five steps")
        proxy.forget()
        # More than twice the lease, by the beats of the other worker.
        first = (await others_beat(client)).timestamp()
        await until(lambda: _later(client, first + 7), "the other worker has looked after leases for 7 s")
        steps.allow(5)
        assert await client.result(run.run_id) == {"n": -1}
    assert [event.data async for event in client.tail(run.run_id) if event.mode == "custom"] == list(range(10))


async def others_beat(client: Client) -> datetime:
    return max(worker.beat_at for worker in await client.workers() if worker.graphs == ["idle"])


async def _later(client: Client, when: float) -> bool:
    return (await others_beat(client)).timestamp() > when


async def test_an_error_of_the_system_is_told_as_one_of_redis() -> None:
    """Services in front of the client answer RedisError with 503, and their loops outlast it."""

    async def call() -> None:
        raise OSError("no route")

    with pytest.raises(RedisConnectionError, match="no route"):
        await patiently(call, 0.05)
