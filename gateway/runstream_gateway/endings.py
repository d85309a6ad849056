"""The end of runs that somebody has stopped, also where nobody is left to end them."""

from __future__ import annotations

import asyncio
import time

from runstream import Client, RunFailedError, RunInfo, Status
from runstream.model import StopAction
from runstream_gateway.errors import ApiError

PATIENCE = 30.0
"""Seconds that a request waits for the end of a run that it has stopped."""
_AGAIN = 1.0


def is_rolled_back(info: RunInfo) -> bool:
    """Whether a run was undone: it was stopped, and what it has saved goes. One that came to its end first was not."""
    return info.status is Status.STOPPED and info.stop_action == "rollback"


async def ended(client: Client, run_id: str) -> RunInfo:
    """Wait for a run's end, whatever it ends with.

    Raises:
        RunNotFound: it has gone.
    """
    try:
        return await client.wait(run_id)
    except RunFailedError as failed:
        return failed.info


async def stop_and_wait(
    client: Client, run_id: str, *, reason: str, action: StopAction = "interrupt", patience: float = PATIENCE
) -> RunInfo:
    """Stop a run and wait for its end.

    A worker that has died ends nothing. Another one notices, and where there is none, a stop that comes when the dead
    one's lease is over ends the run itself; so it is asked for again until then.

    Args:
        client: knows the run.
        run_id: the run.
        reason: is kept in its record.
        action: what becomes of what it has saved.
        patience: for how long to wait, in seconds.

    Raises:
        RunNotFound: it has gone.
        ApiError: 503, its worker lives and has not ended it within that time; it has been told to.
    """
    until = time.monotonic() + patience
    while (left := until - time.monotonic()) > 0:
        await client.stop(run_id, reason=reason, action=action)
        try:
            async with asyncio.timeout(min(_AGAIN, left)):
                return await ended(client, run_id)
        except TimeoutError:
            continue
    raise ApiError(503, f"run {run_id!r} does not end; it was told to, try again", {"retry-after": "5"})
