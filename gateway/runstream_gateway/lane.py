"""Long computations beside the event loop, one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from runstream_gateway.errors import ApiError

_MOST_WAITING = 64

_T = TypeVar("_T")


class Lane:
    """Runs long computations in one thread, in the order in which they come.

    More threads would compute no faster, since they share the interpreter's lock, and each would have the event loop
    wait for that lock once more.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="gateway-lane")
        self._waiting = 0

    async def run(self, work: Callable[[], _T]) -> _T:
        """Return what the work returns, or raise what it raises.

        Raises:
            ApiError: 503, too many requests wait for their turn.
        """
        if self._waiting >= _MOST_WAITING:
            raise ApiError(503, "too many large requests at once", {"retry-after": "1"})
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Drop what has not begun."""
        self._executor.shutdown(wait=False, cancel_futures=True)
