"""The harness itself: it sees a gateway that is held up, and does not see a machine that is busy."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

from tests.gateway.served import served
from tests.security.prober import Schedule
from tests.security.probing import MEGABYTE, probed
from tests.support.waiting import until

_BUSY = "while True: pass"


@contextmanager
def _busy_loops(count: int) -> Iterator[None]:
    loops = [Popen([sys.executable, "-c", _BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


async def test_an_idle_gateway_on_a_busy_machine_is_not_silent() -> None:
    async with served(worker=False) as gateway:
        with _busy_loops(4):
            async with probed(gateway) as probe:
                schedule = Schedule.of_process(gateway.process.pid)
                waited = 0.0
                while waited < 0.5:
                    await asyncio.sleep(0.1)  # the others are to have the processors
                    waited += schedule.since_last().waiting
        probe.figures.check(grew=32 * MEGABYTE)


async def test_a_gateway_that_is_held_up_is_silent() -> None:
    async with served(worker=False) as gateway:
        async with probed(gateway) as probe:
            gateway.process.send(signal.SIGSTOP)
            await until(lambda: _is_stopped(gateway.process.pid), "it is stopped")
            since = time.monotonic()
            await asyncio.sleep(0.6)  # the silence that is to be seen
            held = time.monotonic() - since
            gateway.process.send(signal.SIGCONT)
        assert probe.figures.silence >= held - 0.1


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
