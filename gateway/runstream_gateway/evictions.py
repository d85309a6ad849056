"""Evictions that a gateway notices while it serves."""

from __future__ import annotations

import math
import time

from runstream.eviction import Eviction

_RECENT = 300.0


class Evictions:
    """Tells a Redis that is throwing keys away from one that has done so long ago: its count never falls.

    Args:
        recent: seconds for which an eviction is recent.
    """

    def __init__(self, recent: float = _RECENT) -> None:
        self._recent = recent
        self._known: int | None = None
        self._last = -math.inf

    def is_recent(self, eviction: Eviction) -> bool:
        """Take what Redis says now; whether keys were evicted lately, while this gateway was looking."""
        if self._known is not None and eviction.evicted > self._known:
            self._last = time.monotonic()
        self._known = eviction.evicted
        return time.monotonic() - self._last < self._recent
