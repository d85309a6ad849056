"""`RedisSaver` is what LangGraph takes a checkpointer to be: LangGraph's own conformance tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import Capability

from runstream.connection import connect
from runstream.keys import Keys
from runstream_worker.redis_saver import RedisSaver


async def test_every_capability(any_redis_url: str, keys: Keys) -> None:
    redis = connect(any_redis_url, connections=4)

    @checkpointer_test(name="RedisSaver")
    async def saver() -> AsyncGenerator[BaseCheckpointSaver[str], None]:
        yield RedisSaver(redis, keys)

    report = await validate(saver)
    await redis.aclose()

    assert {name: result.failures for name, result in report.results.items() if result.failures} == {}
    assert {name for name, result in report.results.items() if result.passed} == {one.value for one in Capability}
