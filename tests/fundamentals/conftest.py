"""Attempts by hand, for tests of reading."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from tests.support.attempts import HandAttempt

from runstream import Client
from runstream.connection import connect
from runstream.keys import Keys
from runstream.scripts import Scripts


@pytest.fixture
async def make_hand(
    client: Client, redis_url: str, namespace: str
) -> AsyncIterator[Callable[..., Awaitable[HandAttempt]]]:
    """Enqueues a run and executes it by hand."""
    redis = connect(redis_url, connections=1)
    scripts = Scripts(redis, Keys(namespace))

    async def make(*, claim: bool = True, **options: Any) -> HandAttempt:
        graph = f"hand-{secrets.token_hex(4)}"
        run = await client.enqueue(graph, None, **options)
        hand = HandAttempt(client, scripts, run.run_id, graph)
        if claim:
            await hand.claim()
        return hand

    yield make
    await redis.aclose()


@pytest.fixture
async def hand(make_hand: Callable[..., Awaitable[HandAttempt]]) -> HandAttempt:
    """A run that is being executed by hand."""
    return await make_hand()
