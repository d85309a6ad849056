"""What others notice of a gateway while it is attacked: for how long `/ok` is silent, and what memory it takes.

    async with served("--api-keys") as gateway:
        async with probed(gateway) as probe:
            await attack(gateway)
        probe.figures.check(grew=64 * MEGABYTE)

`Probe.figures` is there behind the block. A process of its own (`prober.py`) asks `/ok` every 20 ms, each time on a new
connection, and looks at the gateway's memory every 5 ms.

**Silence** is the time from one answer of `/ok` to the next, without the time for which the gateway's threads (or the
prober's) were ready to run while other processes had the processors, which Linux counts for each thread
(`/proc/PID/task/TID/schedstat`); and no less than what the gateway has computed meanwhile. So it is what the gateway
did, on a busy machine as on an idle one: computing on the event loop, holding the interpreter's lock in another thread,
or waiting for something in the loop's thread. An idle gateway shows up to 40 ms. `silence_wall` is the same by the
clock on the wall, for information.

**Grew** is the highest resident memory during the block, less that at its beginning. Serve once what is attacked before
the block, so that lazy imports and pools are not counted.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.gateway.served import Served

MEGABYTE: Final = 1024 * 1024
LONGEST_SILENCE: Final = 0.25
"""Seconds that `/ok` may be silent, whatever the attack."""
_PROBER: Final = Path(__file__).with_name("prober.py")


@dataclass(frozen=True)
class Figures:
    """What was measured; times are in seconds, memory in bytes.

    Attributes:
        probes, failed: how often `/ok` was asked, and how often it did not answer with 200.
        silence: the longest time between two answers that the gateway is to blame for.
        silence_wall: the longest by the clock.
        before, peak, after: the gateway's resident memory.
    """

    probes: int
    failed: int
    silence: float
    silence_wall: float
    before: int
    peak: int
    after: int

    @property
    def grew(self) -> int:
        """Bytes of memory that the gateway took at most."""
        return self.peak - self.before

    def check(self, *, grew: int, silence: float = LONGEST_SILENCE) -> None:
        """Fail where `/ok` failed or was silent for longer than `silence`, or the gateway grew by more than `grew`."""
        assert self.probes > 0, self
        assert self.failed == 0, self
        assert self.silence <= silence, self
        assert self.grew <= grew, f"grew by {self.grew / MEGABYTE:.1f} MiB: {self}"


class Probe:
    """A gateway that is being probed; `figures` is set when that is over."""

    figures: Figures


@asynccontextmanager
async def probed(gateway: Served) -> AsyncIterator[Probe]:
    """Probe a gateway for as long as the block lasts."""
    host, port = gateway.address
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", str(_PROBER), host, str(port), str(gateway.process.pid)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    probe = Probe()
    try:
        assert await process.stdout.readline() == b"ready\n"
        yield probe
        process.stdin.close()
        probe.figures = Figures(**json.loads(await process.stdout.readline()))
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
