"""LangGraph's own Python client, asynchronous and synchronous, so that one test drives either."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

from langgraph_sdk.client import SyncLangGraphClient, SyncThreadsClient

_RESOURCES: Final = frozenset({"assistants", "runs", "threads"})
_STREAMS: Final = frozenset({"stream", "join_stream"})
_END: Final = object()


class Threaded:
    """The synchronous client with the asynchronous one's face: each of its calls goes through a thread."""

    def __init__(self, client: SyncLangGraphClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        if name not in _RESOURCES:
            raise AttributeError(name)
        return _Resource(getattr(self._client, name))


class _Resource:
    def __init__(self, resource: Any) -> None:
        self._resource = resource

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._resource, name)
        if name in _STREAMS and isinstance(self._resource, SyncThreadsClient):
            return _opened(method)
        if name in _STREAMS:
            return lambda *args, **kwargs: _through_threads(method(*args, **kwargs))
        return lambda *args, **kwargs: asyncio.to_thread(method, *args, **kwargs)


def _opened(method: Callable[..., Iterator[Any]]) -> Callable[..., Any]:
    """Of a thread's stream the asynchronous client makes a coroutine that returns it."""

    async def open_it(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        return _through_threads(method(*args, **kwargs))

    return open_it


async def _through_threads(parts: Iterator[Any]) -> AsyncIterator[Any]:
    try:
        while (part := await asyncio.to_thread(next, parts, _END)) is not _END:
            yield part
    finally:
        await asyncio.to_thread(parts.close)  # type: ignore[attr-defined] # they are generators
