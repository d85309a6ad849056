"""The clients, and threads to run on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from langgraph_sdk import get_client, get_sync_client
from langgraph_sdk.client import LangGraphClient, SyncLangGraphClient
from tests.support.sdk_clients import Threaded


@pytest.fixture
async def async_client(base_url: str) -> AsyncIterator[LangGraphClient]:
    """The asynchronous client."""
    async with get_client(url=base_url, api_key=None) as client:
        yield client


@pytest.fixture
def sync_client(base_url: str) -> Iterator[SyncLangGraphClient]:
    """The synchronous client."""
    with get_sync_client(url=base_url, api_key=None) as client:
        yield client


@pytest.fixture(params=["async", "sync"])
def client(request: pytest.FixtureRequest) -> Any:
    """Either client, called in the same way."""
    if request.param == "async":
        return request.getfixturevalue("async_client")
    return Threaded(request.getfixturevalue("sync_client"))


@pytest.fixture
async def thread_id(async_client: LangGraphClient) -> str:
    """A new thread."""
    return (await async_client.threads.create())["thread_id"]
