"""Ending tasks for sure."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any


async def cancel(tasks: Iterable[asyncio.Task[Any] | None], *, again_after: float = 0.1) -> None:
    """Cancel tasks and wait until they have ended, whatever they end with.

    A cancellation that arrives in the same turn of the loop as the result that a task waits for can be lost: Python
    3.11's `asyncio.wait_for` drops it. So it is repeated until it has had its effect.
    """
    pending = {task for task in tasks if task is not None and not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=again_after)
