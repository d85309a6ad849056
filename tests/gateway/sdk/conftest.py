"""The clients, and threads to run on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from langgraph_sdk import get_client, get_sync_client
from langgraph_sdk.client import LangGraphClient, SyncLangGraphClient
from tests.support.sdk_clients import Threaded
from tests.support.waiting import until


@pytest.fixture(scope="session", autouse=True)
def no_certificates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have the clients read no certificates: no server here has one, and it takes longer than most of these tests."""
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("SSL_CERT_FILE", raising=False)
        environment.setenv("SSL_CERT_DIR", str(tmp_path_factory.mktemp("certificates")))
        yield


@pytest.fixture(autouse=True)
async def streams_are_closed(nothing_left_behind: None) -> AsyncIterator[None]:
    """Wait for what the clients leave to the garbage collector: the streams that they raise in."""
    yield
    await until(lambda: len(asyncio.all_tasks()) == 1, "the clients' streams are closed")


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
