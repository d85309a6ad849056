"""What goes on while everything is disturbed: conversations of several runs, each judged when it is over."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.types import Command
from redis.asyncio import Redis
from tests.chaos.capture import Capture, capture
from tests.chaos.graphs import ALONE, ASKING, FAMILIES
from tests.chaos.readers import read, read_all, read_on
from tests.chaos.servers import Servers
from tests.support.oracle import (
    History,
    Recording,
    Saved,
    State,
    read_record,
    read_stored,
    violations,
    voided,
)
from tests.support.waiting import until

from runstream import Client, Run
from runstream.faults import patiently
from runstream.keys import Keys
from runstream.model import StopAction, Strategy
from runstream.text import text_of

_MODES: Final = (
    ("messages", "updates", "values", "custom", "tasks"),
    ("messages", "updates", "values", "custom", "tasks", "checkpoints", "debug"),
    ("messages", "updates"),
    ("messages", "custom"),
    ("messages",),
    ("values",),
    ("updates", "tasks"),
    ("messages", "custom", "events"),
)
_MOST_ATTEMPTS: Final = 1000
_PATIENCE: Final = 120.0


@dataclass(frozen=True)
class Plan:
    """What a conversation is like.

    Attributes:
        family: the graph.
        turns: how many inputs it is given, each in a run of its own; where the graph asks, one more for each answer.
        at_once: whether all runs are enqueued together, and wait in line.
        stopped: the number of the run that somebody stops while it goes on, if any.
        action: what becomes of what that run has saved.
        strategy: LangGraph's `multitask_strategy` of the last run.
        options: of every run.
        words: how much the models say.
        pause: between two words, in seconds.
    """

    family: str
    turns: int = 1
    at_once: bool = False
    stopped: int | None = None
    action: StopAction = "interrupt"
    strategy: Strategy = "enqueue"
    options: dict[str, Any] = field(default_factory=dict)
    words: int = 12
    pause: float = 0.004

    @classmethod
    def random(cls, random: Random) -> Plan:
        """Any."""
        family = random.choice(list(FAMILIES))
        turns = random.choice((1, 1, 2, 3))
        options = {
            "durability": random.choice(("sync", "async", "exit")),
            "stream_mode": list(random.choices(_MODES, weights=(6, 2, 2, 2, 1, 1, 1, 1))[0]),
            "subgraphs": random.random() < 0.5,
            "version": random.choice(("v1", "v2")),
            "max_attempts": 3 if random.random() < 0.1 else _MOST_ATTEMPTS,
        }
        return cls(
            family,
            turns,
            at_once=family not in ASKING and random.random() < 0.6,
            stopped=random.randrange(turns) if random.random() < 0.1 else None,
            action=random.choice(("interrupt", "rollback")),
            strategy=random.choices(("enqueue", "interrupt", "rollback"), weights=(8, 1, 1))[0],
            options=options,
            words=random.choice((4, 12, 30)),
            pause=random.choice((0.002, 0.005, 0.02)),
        )


@dataclass
class Ground:
    """What conversations take place on.

    Attributes:
        client: enqueues, and reads what is judged.
        readers: the clients that read while it goes on.
        redis: looks at what is stored.
        keys: of the namespace.
        saver: has the checkpoints.
        losing: the Redis, where it loses what it has acknowledged; then readers have seen what is not there any more.
    """

    client: Client
    readers: Sequence[Client]
    redis: Redis
    keys: Keys
    saver: BaseCheckpointSaver[Any]
    losing: Servers | None = None


@dataclass
class Verdict:
    """What came of a conversation.

    Attributes:
        plan: what it was meant to be.
        runs: its runs, as the oracle sees them.
        checkpoints: those of the graph itself.
        violations: what is wrong.
    """

    plan: Plan
    runs: list[History]
    checkpoints: Sequence[Saved]
    violations: list[str]

    @property
    def attempts(self) -> int:
        """How many there were."""
        return sum(_attempts(run.record) for run in self.runs)

    def voided_by(self) -> Counter[str]:
        """How many tokens were voided, by the cause for which the attempt before was left."""
        counts: Counter[str] = Counter()
        for run in self.runs:
            for at, event in enumerate(run.stored):
                if event.mode == "attempt" and "left" in event.data:
                    gone = voided(run.stored[: at + 1]).keys() - voided(run.stored[:at]).keys()
                    counts[event.data["left"]] += sum(bool(text_of(one)) for one in run.stored if one.id in gone)
        return counts

    def tokens(self) -> int:
        """How many tokens there were, the voided ones included."""
        return sum(bool(text_of(event)) for run in self.runs for event in run.stored)


def _attempts(record: Mapping[str, str]) -> int:
    """How many numbers were attempts."""
    return int(record.get("attempt", 0)) - int(record.get("skipped", 0)) - ("unheld" in record)


class Conversation:
    """A thread and its runs, watched by readers.

    Args:
        plan: what it is like.
        ground: where it takes place.
        random: decides what the plan leaves open.
    """

    def __init__(self, plan: Plan, ground: Ground, random: Random) -> None:
        self._plan = plan
        self._ground = ground
        self._random = random
        self._thread = f"thread-{secrets.token_hex(6)}"
        self._graph = FAMILIES[plan.family]()
        self._graph.checkpointer = ground.saver
        self._asked: list[tuple[Run, str | None]] = []
        self._readers: list[asyncio.Task[list[Recording]]] = []
        self._states: dict[str, State] = {}

    @property
    def thread_id(self) -> str:
        """Its thread."""
        return self._thread

    async def run(self) -> Verdict:
        """Have it, to its end, and judge it."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for turn in range(self._plan.turns):
                run = await self._ask(turn)
                if not self._plan.at_once:
                    await self._over(run)
        return await self._judged()

    async def _ask(self, turn: int) -> Run:
        question = f"question {turn} {secrets.token_hex(4)}"
        strategy = self._plan.strategy if turn == self._plan.turns - 1 else "enqueue"
        given = {"messages": [{"role": "user", "content": question}]}
        run = await self._enqueue(given, question, multitask_strategy=strategy)
        if self._plan.stopped == turn:
            self._group.create_task(self._stop(run))
        return run

    async def _enqueue(self, given: Any, question: str | None, **options: Any) -> Run:
        plan, ground = self._plan, self._ground
        config = {"configurable": {"words": plan.words, "pause": plan.pause}}
        run = await ground.client.enqueue(
            plan.family, given, thread_id=self._thread, config=config, **plan.options, **options
        )
        self._asked.append((run, question))
        self._readers.append(self._group.create_task(self._read(run)))
        return run

    async def _read(self, run: Run) -> list[Recording]:
        seeds = [Random(self._random.random()) for _ in self._ground.readers]
        reading = [
            read(client, run.run_id, f"{number}", random)
            for number, (client, random) in enumerate(zip(self._ground.readers, seeds, strict=True))
        ]
        seed = Random(self._random.random())
        reading.append(read(self._ground.readers[0], run.run_id, "settled", seed, settled=True))
        recordings = await asyncio.gather(*reading)
        return [*recordings, await read_all(self._ground.client, run.run_id, "afterwards")]

    async def _stop(self, run: Run) -> None:
        await asyncio.sleep(self._random.random())
        await self._ground.client.stop(run.run_id, reason="enough", action=self._plan.action)

    async def _over(self, run: Run) -> None:
        """Wait until a run has ended; where it asks, answer, and wait until that has."""
        await self._readers[-1]
        state = await self._capture()
        self._states[run.run_id] = state.latest
        if (await self._ground.client.get(run.run_id)).status == "interrupted":
            answered = await self._enqueue(Command(resume="yes"), None)
            await self._over(answered)

    async def _capture(self) -> Capture:
        return await patiently(lambda: capture(self._graph, self._thread), _PATIENCE)

    async def _all_ended(self) -> bool:
        return all([(await self._ground.client.get(run.run_id)).status.ended for run, _ in self._asked])

    async def _judged(self) -> Verdict:
        losing = self._ground.losing
        if losing is None:
            return await self._judged_once()
        # What is looked at is of one moment: between two losses, when all runs have ended once more.
        while True:
            await until(lambda: losing.losses % 2 == 0, "Redis keeps what it acknowledges again", _PATIENCE)
            losses = losing.losses
            await until(self._all_ended, "all runs have ended once more", _PATIENCE)
            # Of an earlier run it holds: what came later could not be there without it.
            self._states.pop(self._asked[-1][0].run_id, None)
            verdict = await self._judged_once()
            if losing.losses == losses:
                return verdict

    async def _judged_once(self) -> Verdict:
        seen = await self._capture()
        runs: list[History] = []
        before = State()
        for (run, question), reading in zip(self._asked, self._readers, strict=True):
            after = self._states.get(run.run_id) or seen.by_run.get(run.run_id) or before
            recordings = reading.result()
            if self._ground.losing is not None:
                recordings = [await read_on(self._ground.client, run.run_id, one) for one in recordings]
            history = await self._history(run, question, recordings)
            runs.append(replace(history, before=before, after=after))
            before = after
        return Verdict(self._plan, runs, seen.checkpoints, violations(runs, seen.checkpoints))

    async def _history(self, run: Run, question: str | None, recordings: list[Recording]) -> History:
        plan, ground = self._plan, self._ground
        ends = {"success", "interrupted"} if plan.family in ASKING else {"success"}
        if plan.stopped is not None or (plan.at_once and plan.strategy != "enqueue"):
            ends.add("stopped")
        if plan.options.get("max_attempts", 3) < _MOST_ATTEMPTS:
            ends.add("lost")
        return History(
            run_id=run.run_id,
            thread_id=self._thread,
            modes=frozenset(plan.options["stream_mode"]),
            subgraphs=plan.options.get("subgraphs", False),
            durability=plan.options.get("durability", "async"),
            ends=frozenset(ends),
            stored=await patiently(lambda: read_stored(ground.redis, ground.keys, run.run_id), _PATIENCE),
            record=await patiently(lambda: read_record(ground.redis, ground.keys, run.run_id), _PATIENCE),
            after=State(),
            inputs=() if question is None else (question,),
            recordings=recordings,
            alone=plan.family in ALONE,
            forgets=ground.losing is not None,
        )
