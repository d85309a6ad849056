"""What tests of LangGraph's clients say of the streams that they read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx
import pytest
from langgraph_sdk.schema import StreamPart

UNKNOWN: Final = "00000000-0000-4000-8000-000000000000"


def human(text: str) -> dict[str, Any]:
    """An input of one message."""
    return {"messages": [{"role": "user", "content": text}]}


def slowly(ticks: int = 40, delay: float = 0.05) -> dict[str, Any]:
    """An input of the graph `slow`."""
    return {"ticks": ticks, "delay": delay}


async def collect(stream: AsyncIterator[StreamPart]) -> list[StreamPart]:
    """All parts; the last one, `end`, which LangGraph's server of today does not send, is left out."""
    return [part async for part in stream if part.event != "end"]


def names(parts: Iterable[StreamPart]) -> list[str]:
    """The events' names, without what names a task in them."""
    return ["|".join(segment.split(":")[0] for segment in part.event.split("|")) for part in parts]


def of(parts: Iterable[StreamPart], name: str) -> list[Any]:
    """The data of the events of this name."""
    return [part.data for part in parts if part.event == name]


def text_of(parts: Iterable[StreamPart], name: str = "messages") -> str:
    """What the model said, from the events of mode `messages-tuple`."""
    chunks = [data[0] for data in of(parts, name)]
    return "".join(chunk["content"] for chunk in chunks if chunk["type"] == "AIMessageChunk")


async def first(stream: AsyncIterator[StreamPart], name: str) -> StreamPart:
    """The next part of this name."""
    async for part in stream:
        if part.event == name:
            return part
    raise AssertionError(f"the stream ended without {name}")


@contextmanager
def refused(status: int) -> Iterator[None]:
    """Expect this status, where the client raises httpx's error instead of one of its own (`wait` and `join` do)."""
    with pytest.raises(httpx.HTTPStatusError) as caught:
        yield
    assert caught.value.response.status_code == status
