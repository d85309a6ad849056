"""LangGraph's checkpoints in plain Redis: `RedisSaver`."""

from __future__ import annotations

from runstream_worker.redis_saver.fence import EventsLost, Fence
from runstream_worker.redis_saver.saver import DEFAULT_TTL, RedisSaver

__all__ = ["DEFAULT_TTL", "EventsLost", "Fence", "RedisSaver"]
