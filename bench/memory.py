"""What a token takes of Redis's memory in the mode `messages`, and what it would take as plain JSON."""

from __future__ import annotations

import json
from typing import Any, cast

from redis.asyncio import Redis

from bench.figure import Ground, Measurement, Target
from bench.graphs import chat_input
from bench.processes import start
from bench.roles import client, runners
from runstream.keys import Keys

_TARGET = 100.0


async def memory(ground: Ground) -> list[Measurement]:
    """One run; its events are written a second time as they come out of the client, one JSON text each."""
    tokens = ground.size(1000, 100)
    keys = Keys(ground.namespace)
    plain = f"{keys.tag}:plain"
    async with (
        start(runners, ground.redis_url, ground.namespace, 1),
        client(ground.redis_url, ground.namespace) as producer,
        Redis.from_url(ground.redis_url) as redis,
    ):
        run = await producer.enqueue("chat", chat_input(tokens), stream_mode="messages")
        async for event in producer.tail(run.run_id):
            text = json.dumps([event.mode, event.ns, event.data], separators=(",", ":"))
            await redis.xadd(plain, {"data": text})
        folded = await _bytes(redis, keys.events(run.run_id))
        whole = await _bytes(redis, plain)
        await redis.delete(plain)
    return [
        Measurement("memory: in Redis", folded / tokens, "bytes/token", Target("<=", _TARGET)),
        Measurement("memory: as plain JSON", whole / tokens, "bytes/token"),
    ]


async def _bytes(redis: Redis, key: str) -> int:
    return int(await cast("Any", redis).memory_usage(key, samples=0))
