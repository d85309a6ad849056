"""Chaos: a load, faults, and the oracle over all of it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from random import Random
from typing import Any, Final

from redis.asyncio import Redis
from tests.chaos.faults import Fault, Troublemaker, schedule
from tests.chaos.fleet import Fleet
from tests.chaos.load import Conversation, Ground, Plan, Verdict
from tests.chaos.servers import Servers
from tests.support.oracle import keys_without_end, read_record
from tests.support.proxy import Proxy
from tests.support.redis_server import Fsync

from runstream import Client, ClientSettings, RunNotFound
from runstream.keys import Keys
from runstream_worker.redis_saver import RedisSaver

_NAMESPACE: Final = "chaos"
_DRAIN_WITHIN: Final = 90.0
_ERRORS: Final = re.compile(r"^(?:\S+ \S+ (?:ERROR|CRITICAL) )(.*)", re.MULTILINE)
_IDS: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d+")


@dataclasses.dataclass(frozen=True)
class Chaos:
    """How much of it. Times in seconds.

    Attributes:
        seed: decides the faults, and what the conversations are like.
        seconds: how long faults happen.
        workers: how many worker processes there are.
        conversations: how many threads are at work at a time.
        every: how often something goes wrong, on average.
        lease: of the workers.
        power_cuts: whether Redis loses up to a second of what it has acknowledged, now and then. Then a run that is not
            there any more is none, and settled readers are not asked: what there is has to be right, and what readers
            hold has to be that.
        failovers: whether a replica that is behind takes the master's place, now and then: the same.
        appendfsync: of Redis.
        busy: how many processes there are that do nothing but compute.
    """

    seed: int
    seconds: float
    workers: int = 4
    conversations: int = 12
    every: float = 1.0
    lease: float = 3.0
    power_cuts: bool = False
    failovers: bool = False
    appendfsync: Fsync = "always"
    busy: int = 0

    @property
    def loses(self) -> bool:
        """Whether Redis loses what it has acknowledged."""
        return self.power_cuts or self.failovers


@dataclasses.dataclass
class Report:
    """What came of it."""

    chaos: Chaos
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    violations: list[str] = dataclasses.field(default_factory=list)
    complaints: list[str] = dataclasses.field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For the file."""
        return dataclasses.asdict(self)


async def let_loose(chaos: Chaos, folder: Path, *, tell: bool = False) -> Report:
    """Start Redis and workers, disturb them for a while, let everything end, and judge it.

    Args:
        chaos: how much of it.
        folder: where logs go, and the histories in which something was wrong.
        tell: whether to say on standard error how it goes.
    """
    settings = ClientSettings(namespace=_NAMESPACE, call_timeout=60, reconnect_timeout=120)
    beat = min(1.0, chaos.lease / 3)
    async with AsyncExitStack() as stack:
        for _ in range(chaos.busy):
            stack.push_async_callback(_end_busy, await _begin_busy(chaos.seconds))
        server = await stack.enter_async_context(Servers(folder, chaos.appendfsync, with_replica=chaos.failovers))
        way = await stack.enter_async_context(Proxy(server.url))
        urls = (server.url, server.url, server.url, way.url)
        client, *readers = [await stack.enter_async_context(Client(url, settings=settings)) for url in urls]
        redis = await stack.enter_async_context(Redis.from_url(server.url))
        saver = await stack.enter_async_context(RedisSaver.from_url(server.url, namespace=_NAMESPACE))
        fleet = Fleet(
            folder,
            namespace=_NAMESPACE,
            checkpointer_url="redis",
            lease=chaos.lease,
            beat_interval=beat,
            shutdown_grace=3.0,
            concurrency=8,
        )
        await stack.enter_async_context(fleet)
        trouble = Troublemaker(server, fleet, count=chaos.workers, lease=chaos.lease, readers=way)
        await trouble.start()
        ground = Ground(client, readers, redis, Keys(_NAMESPACE), saver, server if chaos.loses else None)
        return await _Run(chaos, folder, ground, trouble, fleet, tell=tell).run()


class _Run:
    """One time of it."""

    def __init__(
        self, chaos: Chaos, folder: Path, ground: Ground, trouble: Troublemaker, fleet: Fleet, *, tell: bool
    ) -> None:
        self._chaos = chaos
        self._folder = folder
        self._ground = ground
        self._trouble = trouble
        self._fleet = fleet
        self._tell = tell
        self._report = Report(chaos)
        self._over = asyncio.Event()
        self._begun = time.monotonic()
        self._numbers = iter(range(1_000_000))
        self._ends: Counter[str] = Counter()
        self._voided: Counter[str] = Counter()
        self._left: Counter[str] = Counter()
        self._totals: Counter[str] = Counter()
        self._sealed: dict[str, tuple[str, str]] = {}

    async def run(self) -> Report:
        """Disturb, drain, judge."""
        talking = [asyncio.create_task(self._talk()) for _ in range(self._chaos.conversations)]
        telling = asyncio.create_task(self._tell_now_and_then())
        await self._disturb()
        self._over.set()
        _, hanging = await asyncio.wait(talking, timeout=_DRAIN_WITHIN)
        if hanging:
            self._complain(f"{len(hanging)} conversations did not end within {_DRAIN_WITHIN:g} s", violated=True)
        telling.cancel()
        for task in hanging:
            task.cancel()
        await asyncio.gather(telling, *hanging, return_exceptions=True)
        await self._check_what_is_left()
        self._count()
        return self._report

    async def _disturb(self) -> None:
        async with asyncio.TaskGroup() as group:
            chaos = self._chaos
            for fault in _schedule(chaos):
                await asyncio.sleep(self._begun + fault.at - time.monotonic())
                group.create_task(self._trouble.make(fault), name=fault.kind)
            await asyncio.sleep(max(0.0, self._begun + self._chaos.seconds - time.monotonic()))
        await self._trouble.calm_down()

    # -- conversations -------------------------------------------------------------------------------------------------

    async def _talk(self) -> None:
        """One conversation after the other, until it is over."""
        while not self._over.is_set():
            number = next(self._numbers)
            random = Random(f"{self._chaos.seed}-{number}")
            plan = Plan.random(random)
            conversation = Conversation(plan, self._ground, random)
            try:
                verdict = await conversation.run()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told, and the others go on
                if self._chaos.loses and _is_forgotten(error):
                    self._totals["conversations forgotten"] += 1
                    continue
                told = "".join(traceback.format_exc())
                self._complain(f"conversation {number} on {conversation.thread_id} ({plan}): {told}", violated=True)
            else:
                self._take(number, verdict)

    def _take(self, number: int, verdict: Verdict) -> None:
        self._totals["conversations"] += 1
        self._totals["runs"] += len(verdict.runs)
        self._totals["attempts"] += verdict.attempts
        self._totals["tokens"] += verdict.tokens()
        self._totals["events"] += sum(len(run.stored) for run in verdict.runs)
        self._voided += verdict.voided_by()
        for run in verdict.runs:
            self._ends[run.record.get("status", "gone")] += 1
            self._left.update(holder["cause"] for holder in json.loads(run.record.get("holders", "[]")))
            self._sealed[run.run_id] = (run.record.get("status", "gone"), run.record.get("end_id", ""))
        if verdict.violations:
            self._keep(number, verdict)
            for told in verdict.violations:
                self._complain(f"conversation {number}: {told}", violated=True)

    def _keep(self, number: int, verdict: Verdict) -> None:
        """Write down a history in which something was wrong."""
        path = self._folder / f"conversation-{number}.json"
        path.write_text(json.dumps(dataclasses.asdict(verdict), indent=1, default=sorted))

    # -- the end -------------------------------------------------------------------------------------------------------

    async def _check_what_is_left(self) -> None:
        """Nothing was added to what had ended, nothing waits, and nothing stays for ever."""
        redis, keys = self._ground.redis, self._ground.keys
        for run_id, sealed in self._sealed.items() if not self._chaos.loses else ():
            record = await read_record(redis, keys, run_id)
            last: Any = await redis.xrevrange(keys.events(run_id), count=1)
            if (record.get("status"), last[0][0].decode() if last else "") != sealed:
                self._complain(f"run {run_id} ended as {sealed}, and is {record.get('status')} now", violated=True)
        if leases := await redis.zrange(keys.leases, 0, -1):
            self._complain(f"runs that have ended have leases: {leases!r}", violated=True)
        for key in await keys_without_end(redis, keys):
            self._complain(f"key {key} never expires", violated=True)

    def _count(self) -> None:
        logs = [worker.log.read_text(errors="replace") for worker in self._fleet.workers if worker.log.exists()]
        errors = Counter(_IDS.sub("...", line[:200]) for log in logs for line in _ERRORS.findall(log))
        self._report.complaints += [f"logged {count} times: {line}" for line, count in errors.most_common(20)]
        self._report.complaints += self._trouble.odd_ends
        self._report.figures = {
            "seconds": round(time.monotonic() - self._begun, 1),
            **self._totals,
            "kills": self._trouble.done["SIGKILL"],
            "kills of Redis": self._trouble.done["SIGKILL of Redis"],
            "faults": dict(sorted(self._trouble.done.items())),
            "attempts left": dict(self._left),
            "ends": dict(self._ends),
            "tokens voided": {"all": self._voided.total(), **self._voided},
            "violations": len(self._report.violations),
        }

    def _complain(self, told: str, *, violated: bool) -> None:
        (self._report.violations if violated else self._report.complaints).append(told)
        if self._tell:
            print(f"VIOLATION (seed {self._chaos.seed}): {told}", file=sys.stderr, flush=True)

    async def _tell_now_and_then(self) -> None:
        while self._tell:
            await asyncio.sleep(10)
            told = f"{time.monotonic() - self._begun:.0f} s: {self._totals['runs']} runs, "
            told += (
                f"{self._totals['attempts'] - self._totals['runs']} take-overs, {self._trouble.done['SIGKILL']} kills, "
            )
            print(f"{told}{len(self._report.violations)} violations", file=sys.stderr, flush=True)


def _schedule(chaos: Chaos) -> Iterator[Fault]:
    return schedule(
        chaos.seed, chaos.seconds, every=chaos.every, power_cuts=chaos.power_cuts, failovers=chaos.failovers
    )


async def _begin_busy(seconds: float) -> asyncio.subprocess.Process:
    """Start a process that computes; it ends by itself, some time after the chaos should have."""
    code = f"import time\nend = time.monotonic() + {seconds + 2 * _DRAIN_WITHIN}\nwhile time.monotonic() < end: pass"
    return await asyncio.create_subprocess_exec(sys.executable, "-c", code)


async def _end_busy(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def _is_forgotten(error: BaseException) -> bool:
    """Whether it is only that a run is not there any more."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_forgotten, error.exceptions))
    return isinstance(error, RunNotFound)


__all__ = ["Chaos", "Report", "let_loose"]
