"""The one answer to "may this attempt go on, and if not, why?". The first reason wins."""

from __future__ import annotations

import asyncio
from enum import Enum, auto


class Cause(Enum):
    """Why an attempt has to end before its graph does."""

    STOP = auto()
    ROLLBACK = auto()
    TIMEOUT = auto()
    FULL = auto()
    REFUSED = auto()
    DRAIN = auto()
    LOST = auto()


class Guard:
    """Ends one attempt, for one cause."""

    def __init__(self) -> None:
        self.cause: Cause | None = None
        self.detail = ""
        self._ended = asyncio.Event()

    def end(self, cause: Cause, detail: str = "") -> None:
        """Ask that the attempt end. Only the first call counts; but what is lost cannot end otherwise."""
        if self.cause is None or cause is Cause.LOST:
            self.cause, self.detail = cause, detail
            self._ended.set()

    @property
    def has_ended(self) -> bool:
        """Whether somebody has asked."""
        return self._ended.is_set()

    async def wait(self) -> None:
        """Wait until somebody has asked."""
        await self._ended.wait()
