"""Reading much without holding the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final, TypeVar

LONGEST: Final = 0.005
"""Seconds for which the loop is held."""

_Item = TypeVar("_Item")


async def paced(items: AsyncIterator[_Item]) -> AsyncIterator[_Item]:
    """Iterate over items; let others have their turn every few milliseconds."""
    begun = time.monotonic()
    async for item in items:
        yield item
        if time.monotonic() - begun > LONGEST:
            await asyncio.sleep(0)
            begun = time.monotonic()
