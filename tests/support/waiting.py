"""Waiting for facts instead of for time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable


async def until(fact: Callable[[], bool | Awaitable[bool]], what: str, timeout: float = 20.0) -> None:
    """Wait until something is so; fail, saying what was waited for, if it never is."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + timeout
    while True:
        answer = fact()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return
        assert loop.time() < give_up, f"waited {timeout} s in vain: {what}"
        await asyncio.sleep(0.005)
