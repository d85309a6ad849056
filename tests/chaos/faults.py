"""What goes wrong, and when: a schedule that a seed decides, and the one who carries it out."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

from tests.chaos.fleet import Fleet, Worker
from tests.chaos.servers import Servers
from tests.support.proxy import Proxy

KINDS: Final[Mapping[str, float]] = {
    "kill": 10,
    "kill all": 0.5,
    "freeze": 2,
    "leave": 2,
    "leave all": 0.5,
    "cut": 2,
    "away": 2,
    "lose replies": 2,
    "delay": 2,
    "block": 1,
    "forget": 1,
    "cut readers": 1,
    "flush scripts": 1,
    "restart redis": 0.5,
}
"""The faults, and how often one happens among the others."""
FAIL_OVER: Final = "fail over"
"""What loses up to a second of what the master has acknowledged, since its replica was behind."""
POWER_CUT: Final = "cut power"
"""What loses up to a second of what Redis has acknowledged, as when its machine crashes (`appendfsync everysec`)."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        at: seconds after the beginning.
        kind: one of `KINDS`, `POWER_CUT` or `FAIL_OVER`.
        target: which worker, as a part of their number.
        length: how long it lasts, as a part of the longest time that such a fault lasts.
    """

    at: float
    kind: str
    target: float
    length: float


def schedule(
    seed: int, seconds: float, *, every: float, power_cuts: bool = False, failovers: bool = False
) -> Iterator[Fault]:
    """The faults of so many seconds, one `every` so many on average; the same for the same seed."""
    random = Random(seed)
    kinds = {**KINDS, **({POWER_CUT: 1.0} if power_cuts else {}), **({FAIL_OVER: 1.0} if failovers else {})}
    at = random.expovariate(1 / every)
    while at < seconds:
        kind = random.choices(list(kinds), weights=list(kinds.values()))[0]
        yield Fault(at, kind, random.random(), random.random())
        at += random.expovariate(1 / every)


class Troublemaker:
    """Carries faults out.

    Args:
        servers: the Redis.
        fleet: starts workers.
        count: how many workers there are.
        lease: of the workers, in seconds.
        readers: the way of some of the readers.
    """

    def __init__(self, servers: Servers, fleet: Fleet, *, count: int, lease: float, readers: Proxy) -> None:
        self._servers = servers
        self._fleet = fleet
        self._count = count
        self._lease = lease
        self._readers = readers
        self._slots: list[Worker] = []
        self._replacing = [asyncio.Lock() for _ in range(count)]
        self.done: Counter[str] = Counter()
        self.odd_ends: list[str] = []
        self._means: Mapping[str, Callable[[int, float], Awaitable[None]]] = {
            "kill": self._kill,
            "kill all": self._kill_all,
            "freeze": self._freeze,
            "leave": self._leave,
            "leave all": self._leave_all,
            "cut": self._cut,
            "away": self._away,
            "lose replies": self._lose_replies,
            "delay": self._delay,
            "block": self._block,
            "forget": self._forget,
            "cut readers": self._cut_readers,
            "flush scripts": self._flush_scripts,
            "restart redis": self._restart_redis,
            POWER_CUT: self._cut_power,
            FAIL_OVER: self._fail_over,
        }

    async def start(self) -> None:
        """Start the workers."""
        started = [self._fleet.start(self._servers.url) for _ in range(self._count)]
        self._slots = list(await asyncio.gather(*started))

    async def make(self, fault: Fault) -> None:
        """Carry out a fault, and what follows: what was killed is started again, what was cut is mended."""
        self.done[fault.kind] += 1
        await self._means[fault.kind](int(fault.target * self._count), fault.length)

    async def calm_down(self) -> None:
        """See that everything works again: every worker is there, and nothing is between it and Redis."""
        for slot in range(self._count):
            async with self._replacing[slot]:
                self._slots[slot].proxy.restore()
                self._slots[slot].thaw()
                if self._slots[slot].code is not None:
                    await self._renew(slot)
        self._readers.restore()

    # -- workers -------------------------------------------------------------------------------------------------------

    async def _kill(self, slot: int, length: float) -> None:
        async with self._replacing[slot]:
            self._kill_now(slot)
            await asyncio.sleep(length)
            await self._renew(slot)

    async def _kill_all(self, _: int, length: float) -> None:
        """No worker is left that could take a run over; the next one that starts does."""
        for slot in range(self._count):
            self._kill_now(slot)
        await asyncio.gather(*(self._kill(slot, length * 2 * self._lease) for slot in range(self._count)))

    def _kill_now(self, slot: int) -> None:
        worker = self._slots[slot]
        if worker.code is None and worker.pid:
            self.done["SIGKILL"] += 1
            worker.kill()

    async def _freeze(self, slot: int, length: float) -> None:
        """For longer than the lease: it wakes up as a zombie."""
        worker = self._slots[slot]
        worker.freeze()
        await asyncio.sleep((1.1 + 2 * length) * self._lease)
        worker.thaw()

    async def _leave(self, slot: int, length: float) -> None:
        """As in a rolling restart."""
        async with self._replacing[slot]:
            worker = self._slots[slot]
            worker.ask_to_leave()
            try:
                async with asyncio.timeout(20 + length):
                    await worker.ended.wait()
            except TimeoutError:
                self.odd_ends.append(f"{worker.log.name}: it did not leave within 20 s (frozen: {worker.frozen})")
                worker.send(signal.SIGUSR2)
                await asyncio.sleep(1)
                self._kill_now(slot)
            else:
                if worker.code not in (0, -9):
                    self.odd_ends.append(f"{worker.log.name}: it left with exit code {worker.code}")
            await self._renew(slot)

    async def _leave_all(self, _: int, length: float) -> None:
        for slot in range(self._count):
            await self._leave(slot, length)

    async def _renew(self, slot: int) -> None:
        """Put a new worker in the place of one that has ended; as long as Redis is down none starts."""
        await self._slots[slot].ended.wait()
        await self._slots[slot].proxy.__aexit__(None, None, None)
        while True:
            async with self._servers.is_up:
                worker = await self._fleet.start(self._servers.url)
            if worker.code is None or worker.ready.is_set():
                self._slots[slot] = worker
                return

    # -- the way to Redis ----------------------------------------------------------------------------------------------

    async def _cut(self, slot: int, _: float) -> None:
        await self._slots[slot].proxy.cut()

    async def _away(self, slot: int, length: float) -> None:
        proxy = self._slots[slot].proxy
        await proxy.take_away()
        await asyncio.sleep(length * 2 * self._lease)
        proxy.restore()

    async def _lose_replies(self, slot: int, length: float) -> None:
        proxy = self._slots[slot].proxy
        proxy.lose_replies()
        await asyncio.sleep(length * self._lease)
        proxy.restore()

    async def _delay(self, slot: int, length: float) -> None:
        proxy = self._slots[slot].proxy
        proxy.delay(0.01 + length * 0.2)
        await asyncio.sleep(2.0)
        proxy.restore()

    async def _block(self, slot: int, length: float) -> None:
        proxy = self._slots[slot].proxy
        proxy.block()
        await asyncio.sleep(length * 2 * self._lease)
        proxy.restore()

    async def _forget(self, slot: int, _: float) -> None:
        self._slots[slot].proxy.forget()

    async def _cut_readers(self, _: int, length: float) -> None:
        await self._readers.take_away()
        await asyncio.sleep(length)
        self._readers.restore()

    # -- Redis ---------------------------------------------------------------------------------------------------------

    async def _flush_scripts(self, _: int, __: float) -> None:
        await self._servers.flush_scripts()

    async def _restart_redis(self, _: int, length: float) -> None:
        self.done["SIGKILL of Redis"] += 1
        await self._servers.restart(0.1 + length * 2)

    async def _cut_power(self, _: int, length: float) -> None:
        self.done["SIGKILL of Redis"] += 1
        await self._servers.cut_power(length)

    async def _fail_over(self, _: int, length: float) -> None:
        self.done["SIGKILL of Redis"] += 1
        await self._servers.fail_over(length)
