"""Receivers of webhooks that do harm, and what others notice of the gateway meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import httpx
import pytest
from tests.gateway.served import Served, served_beside, turn
from tests.security.probing import probed
from tests.support.receivers import Receiver, Respond, answer_without_end, drip, say_nothing

MANY: Final = 150
_GREW: Final = 64 * 1024 * 1024
"""What 150 deliveries with their connections, and 150 runs, may take."""


@pytest.fixture(scope="module")
def gateway() -> Iterator[Served]:
    with served_beside("--api-keys", "--webhook-allow", "127.0.0.0/8") as gateway:
        yield gateway


@asynccontextmanager
async def _client(gateway: Served, name: str) -> AsyncIterator[httpx.AsyncClient]:
    made = await gateway.processes.run("keys", "create", name, "--json")
    headers = {"x-api-key": str(made.json["key"])}
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=60) as http:
        assert (await http.post("/runs/wait", json=turn("hi"))).status_code == 200
        yield http


@pytest.mark.parametrize("respond", [say_nothing, drip, answer_without_end], ids=["silent", "drips", "endless"])
async def test_receivers_that_do_harm_hold_nobody_up(gateway: Served, respond: Respond) -> None:
    answers: list[Respond] = [respond] * 9 * MANY
    async with AsyncExitStack() as stack:
        hostile = await stack.enter_async_context(Receiver(answers))
        prompt = await stack.enter_async_context(Receiver(address="127.0.0.2"))
        anna, bert = [await stack.enter_async_context(_client(gateway, name)) for name in ("anna", "bert")]
        async with probed(gateway) as probe:
            body = {**turn("one"), "webhook": hostile.url()}
            created = await asyncio.gather(*(anna.post("/runs", json=body) for _ in range(MANY)))
            assert {answer.status_code for answer in created} == {200}
            await hostile.called(10)
            for times in (1, 2, 3):
                answer = await bert.post("/runs", json={**turn("two"), "webhook": prompt.url()})
                assert answer.status_code == 200
                await prompt.called(times)
    probe.figures.check(grew=_GREW)
