"""A crash at every line: the worker is killed at its n-th word with Redis, for every n in turn; another one takes over.

`python -m tests.chaos.crash_points` does it for every graph, durability and point.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Final, Literal, TypeAlias

from redis.asyncio import Redis
from tests.chaos.fleet import Fleet, Worker
from tests.chaos.graphs import FAMILIES
from tests.chaos.load import Conversation, Ground, Plan
from tests.support.oracle import keys_without_end

from runstream import Client, ClientSettings
from runstream.embedded import EmbeddedRedis
from runstream.keys import Keys
from runstream_worker.redis_saver import RedisSaver

How: TypeAlias = Literal["before", "after"]
LEASE: Final = 0.6
RESULTS: Final = b"\r\nw\0"
"""What is in the words that save the results of tasks of the graph itself: the names of such writes."""
_MODES: Final = ["messages", "updates", "values", "custom", "tasks"]


class Killer:
    """Kills a worker at a point of what it has to say to Redis about runs. The first thing is a claim that took one.

    Args:
        point: which, counted from 0; None for none: it only counts.
        how: before Redis has heard it, or after Redis has answered and before the worker knows.
        only: nothing else is counted than what has this in it.
    """

    def __init__(self, point: int | None, how: How, only: bytes = b"") -> None:
        self._point = point
        self._how = how
        self._only = only
        self._asked: dict[object, int] = {}
        self.worker: Worker | None = None
        self.count = 0
        self.killed = asyncio.Event()

    def request(self, connection: object, command: bytes) -> bool:
        """Count what is about a run."""
        if self.killed.is_set():
            return False
        if self._only not in command or not _is_about_a_run(command):
            return True
        number, self.count = self.count, self.count + 1
        if number != self._point:
            return True
        if self._how == "before":
            self._kill()
            return False
        self._asked[connection] = number
        return True

    def reply(self, connection: object, data: bytes) -> bool:
        """Kill where the answer is not to arrive; and where it is the first run."""
        if self.killed.is_set():
            return False
        if self.count == 0 and b":run:" in data:
            self.count = 1
            if self._point == 0:
                self._kill()
        if connection in self._asked:
            self._kill()
        return not self.killed.is_set()

    def _kill(self) -> None:
        assert self.worker is not None
        self.worker.kill()
        self.killed.set()


def _is_about_a_run(command: bytes) -> bool:
    """Whether it is a word of an attempt; not a claim, a beat, a look at leases, or waiting for a bell."""
    if any(word in command for word in (b":queue:", b":workers\r\n", b":reaper\r\n", b"BLPOP")):
        return False
    return any(word in command for word in (b":run:", b":checkpoints:", b":undo:"))


@dataclass(frozen=True)
class Crash:
    """Where a worker is killed, and in what.

    Attributes:
        family: the graph.
        durability: LangGraph's.
        point: the number of the word with Redis, from 0; None for no crash.
        how: `before` Redis has heard it, or `after` it has answered.
        subgraphs: whether the run streams subgraphs.
        only: nothing else is counted than words that have this in them.
    """

    family: str
    durability: str
    point: int | None
    how: How = "before"
    subgraphs: bool = True
    only: bytes = b""


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        crash: what was done.
        killed: whether the worker got so far that it was killed.
        count: how many words it had with Redis.
        violations: what the oracle found.
    """

    crash: Crash
    killed: bool
    count: int
    violations: list[str]


@asynccontextmanager
async def fleet(folder: Path) -> AsyncIterator[Fleet]:
    """Workers with short leases."""
    settings = {"lease": LEASE, "beat_interval": LEASE / 3, "checkpointer_url": "redis", "shutdown_grace": 0.0}
    async with Fleet(folder, **settings) as fleet:
        yield fleet


async def crash(what: Crash, redis_url: str, workers: Fleet) -> Outcome:
    """Have a conversation whose worker is killed in the middle; another worker, started then, brings it to its end."""
    namespace = f"crash{secrets.token_hex(4)}"
    killer = Killer(what.point, what.how, what.only)
    options = {"durability": what.durability, "subgraphs": what.subgraphs, "stream_mode": _MODES}
    plan = Plan(what.family, options=options, words=3, pause=0.002)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(redis_url, settings=ClientSettings(namespace=namespace)))
        redis = await stack.enter_async_context(Redis.from_url(redis_url))
        saver = await stack.enter_async_context(RedisSaver.from_url(redis_url, namespace=namespace))
        ground = Ground(client, [client], redis, Keys(namespace), saver)
        conversation = Conversation(plan, ground, Random(str(what)))
        victim = await workers.start(redis_url, killer, namespace=namespace)
        killer.worker = victim
        talking = asyncio.create_task(conversation.run())
        dying = asyncio.create_task(killer.killed.wait())
        await asyncio.wait({talking, dying}, return_when=asyncio.FIRST_COMPLETED)
        dying.cancel()
        rescuer = victim if talking.done() else await workers.start(redis_url, namespace=namespace)
        verdict = await talking
        rescuer.kill()
        lasting = [f"key {key} never expires" for key in await keys_without_end(redis, ground.keys)]
        return Outcome(what, killer.killed.is_set(), killer.count, verdict.violations + lasting)


async def crash_everywhere(
    crashes: Sequence[Crash], redis_url: str, workers: Fleet, *, at_once: int = 5
) -> list[Outcome]:
    """Several, some at a time."""
    gate = asyncio.Semaphore(at_once)

    async def one(what: Crash) -> Outcome:
        async with gate, asyncio.timeout(60):
            return await crash(what, redis_url, workers)

    return await asyncio.gather(*(one(what) for what in crashes))


async def _every_point(arguments: argparse.Namespace, redis_url: str, folder: Path) -> list[Outcome]:
    outcomes: list[Outcome] = []
    async with fleet(folder) as workers:
        for family in arguments.family or FAMILIES:
            for durability in arguments.durability or ("sync", "async", "exit"):
                base = Crash(family, durability, None)
                counted = await crash(base, redis_url, workers)
                points = range(0, counted.count, arguments.step)
                crashes = [replace(base, point=point, how=how) for point in points for how in ("before", "after")]
                done = [counted, *await crash_everywhere(crashes, redis_url, workers, at_once=arguments.at_once)]
                outcomes += done
                faulty = [outcome for outcome in done if outcome.violations]
                print(f"{family}, {durability}: {len(crashes)} crashes, {len(faulty)} with violations", flush=True)
                for outcome in faulty:
                    print(f"VIOLATION: {outcome.crash}: {outcome.violations}", flush=True)
    return outcomes


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 1 when something was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.crash_points", description=__doc__)
    parser.add_argument("--family", action="append", choices=list(FAMILIES))
    parser.add_argument("--durability", action="append", choices=["sync", "async", "exit"])
    parser.add_argument("--step", type=int, default=1, help="only every so many-th point (1)")
    parser.add_argument("--at-once", type=int, default=5, help="how many at a time (5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what came of it here")
    arguments = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="runstream-crashes-"))
    with EmbeddedRedis() as server:
        outcomes = asyncio.run(_every_point(arguments, server.url, folder))
    faulty = [outcome for outcome in outcomes if outcome.violations]
    kills = sum(outcome.killed for outcome in outcomes)
    result: dict[str, Any] = {"runs": len(outcomes), "kills": kills, "violations": len(faulty)}
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(result, f"logs are in {folder}")
    return int(bool(faulty))


if __name__ == "__main__":
    sys.exit(main())
