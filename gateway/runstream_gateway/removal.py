"""Removing runs: one, or all of a thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeAlias

from runstream import Client, RunNotFound
from runstream_gateway.endings import PATIENCE, stop_and_wait
from runstream_gateway.errors import ApiError

BeforeForgetting: TypeAlias = Callable[[str], Awaitable[None]]
"""Is told the id of a run that has ended and is about to be forgotten."""

_ROUNDS = 3


async def delete_run(
    client: Client, run_id: str, *, reason: str, before: BeforeForgetting, patience: float = PATIENCE
) -> None:
    """Stop a run if it goes on, and forget it. One that has gone is left gone, so that this can be repeated.

    Raises:
        ApiError: 503, it did not end in time; nothing of it was removed.
    """
    with suppress(RunNotFound):
        await stop_and_wait(client, run_id, reason=reason, patience=patience)
        await before(run_id)
        await client.delete(run_id)


async def delete_runs_of(
    client: Client, thread_id: str, *, reason: str, before: BeforeForgetting, patience: float = PATIENCE
) -> None:
    """Stop all runs of a thread, and forget them; those, too, that come meanwhile.

    Raises:
        ApiError: 503, one of them did not end in time, or more and more came; this can be repeated.
    """
    for _ in range(_ROUNDS):
        run_ids = [info.run_id async for info in client.thread_runs(thread_id)]
        if not run_ids:
            return
        # The newest first: whatever waits must not begin when the one before it has ended.
        for run_id in run_ids:
            with suppress(RunNotFound):
                await client.stop(run_id, reason=reason)
        for run_id in run_ids:
            await delete_run(client, run_id, reason=reason, before=before, patience=patience)
    if [info async for info in client.thread_runs(thread_id)]:
        raise ApiError(503, f"thread {thread_id!r} is given more and more runs; try again", {"retry-after": "1"})
