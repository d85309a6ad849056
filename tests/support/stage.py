"""Graphs whose nodes wait at gates, and workers that lose their runs there: take-overs where the test wants them."""

from __future__ import annotations

import asyncio
import operator
import secrets
from collections import Counter, defaultdict
from typing import Annotated, Any, TypedDict, cast

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.config import get_stream_writer
from langgraph.graph import add_messages
from redis.asyncio import Redis
from tests.support.graphs.model import ScriptedModel
from tests.support.waiting import until
from tests.support.workers import Workers

from runstream import Client, Event
from runstream.keys import Keys
from runstream.model import EventId

_EXPIRE = """
local record = redis.call('HMGET', KEYS[1], 'attempt', 'status')
-- Of one that waits for its next attempt, this would be the time that it may wait.
if record[1] == ARGV[1] and record[2] == 'running' then redis.call('ZADD', KEYS[2], 'XX', 1, KEYS[1]) end
"""


class Story(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    steps: Annotated[list[str], operator.add]
    item: int


class Stage:
    """Makes nodes that speak, and holds them where it was told to.

    What a node says is different each time that it runs, so that a text tells which execution it is from.
    """

    def __init__(self) -> None:
        self._gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._held: set[str] = set()
        self.entered: Counter[str] = Counter()
        self.begun: Counter[str] = Counter()

    def hold(self, *names: str) -> None:
        """Have these nodes wait when they have spoken, until `open` is called."""
        self._held |= set(names)

    def open(self, *names: str) -> None:
        """Let these go on, and never hold them again."""
        for name in names:
            self._held.discard(name)
            self._gates[name].set()

    def node(self, name: str) -> Any:
        """A node that says something with a model, waits if it is held, and says something else."""

        async def run(state: Story) -> Story:
            self.begun[name] += 1
            key = f"{name}{state['item']}" if "item" in state else name
            get_stream_writer()(f"{key} begins")
            first = await self._speak(key)
            await self.wait(key)
            second = await self._speak(key)
            return {"messages": [first, second], "steps": [key]}

        run.__name__ = name
        return run

    async def wait(self, name: str) -> None:
        """Wait at a gate, if it is held."""
        self.entered[name] += 1
        if name in self._held:
            await self._gates[name].wait()

    async def _speak(self, name: str) -> AIMessage:
        reply = AIMessage(f"{name} says {secrets.token_hex(4)} and {secrets.token_hex(4)} and no more")
        message = await ScriptedModel(replies=[reply]).ainvoke([HumanMessage("speak")])
        assert isinstance(message, AIMessage)
        return message


class Play:
    """A run on two workers, the first of which loses it."""

    def __init__(self, client: Client, workers: Workers, redis: Redis, namespace: str, stage: Stage) -> None:
        self.client = client
        self.workers = workers
        self.redis = redis
        self.keys = Keys(namespace)
        self.stage = stage

    async def start_worker(self, graph: Any, **settings: Any) -> Any:
        """A worker with the graph under the name `play`, which looks for expired leases often."""
        return await self.workers.start({"beat_interval": 0.05, "lease": 30.0} | settings, play=graph)

    async def lose(self, run_id: str) -> None:
        """Have the run's lease expire, as if its worker had died; it is alive, and tries to go on."""
        before = (await self.client.get(run_id)).attempt
        await until(lambda: self._is_taken_over(run_id, before), "the next attempt has begun")

    async def _is_taken_over(self, run_id: str, before: int) -> bool:
        # Again and again, since its worker renews it; but never the next attempt's.
        await cast("Any", self.redis).eval(_EXPIRE, 2, self.keys.run(run_id), self.keys.leases, before)
        info = await self.client.get(run_id)
        return info.status.ended or info.attempt > before

    async def unend(self, run_id: str) -> None:
        """Take back that the run has ended, as if its worker had died just before it wrote that."""
        redis, run, events = cast("Any", self.redis), self.keys.run(run_id), self.keys.events(run_id)
        end_id, thread_id = await redis.hmget(run, "end_id", "thread")
        await redis.xdel(events, end_id)
        last = EventId.of(end_id.decode()).seq - 1
        await redis.hset(run, mapping={"status": "running", "seq": last})
        await redis.hdel(run, "ended_at", "end_id", "result")
        await redis.zadd(self.keys.thread(thread_id.decode()), {run: 0})
        await redis.expire(self.keys.thread(thread_id.decode()), 60)
        await redis.zadd(self.keys.leases, {run: 1})

    async def events(self, run_id: str) -> list[Event]:
        """All events of the run, to its end."""
        return [event async for event in self.client.tail(run_id)]


def standing(events: list[Event]) -> list[Event]:
    """What is left of a run's events without those that are void; the attempts' counts are checked on the way."""
    kept: list[Event] = []
    for event in events:
        if event.mode != "attempt":
            kept.append(event)
            continue
        voids = event.data.get("voids") or {}
        tasks = {task["id"] for task in voids.get("tasks", ())}
        gone = [one for one in kept if voids.get("all") or one.task in tasks or one.id in voids.get("events", ())]
        assert len(gone) == voids.get("count", 0)
        kept = [one for one in kept if one not in gone]
    return kept


def texts(events: list[Event]) -> dict[str, str]:
    """The text of each message of these events, by id."""
    said: defaultdict[str, str] = defaultdict(str)
    for event in events:
        if event.mode == "messages":
            message = event.data[0]
            said[message["id"]] += message["content"]
    return dict(said)


def spoken(messages: list[dict[str, Any]]) -> dict[str, str]:
    """The text of each AI message of a state, by id."""
    return {message["id"]: message["content"] for message in messages if message["type"] == "ai"}
