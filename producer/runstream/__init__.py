"""Enqueue LangGraph runs in Redis, tail their streams, get their results.

>>> async with Client.from_url("redis://localhost:6379/0") as client:          # doctest: +SKIP
...     run = await client.enqueue("agent", {"messages": [("user", "hi")]}, stream_mode="messages")
...     async for text in client.text(run.run_id, settled=True):
...         print(text, end="")
"""

from __future__ import annotations

from runstream.client import Client, Run, RunSpec
from runstream.command import Command, Send
from runstream.documents import Document, Documents
from runstream.errors import (
    AttemptFenced,
    EncodingError,
    GraphLoadError,
    InvalidRequest,
    NoRunId,
    ProtocolError,
    RunActive,
    RunErrored,
    RunExists,
    RunFailedError,
    RunLost,
    RunNotFound,
    RunStopped,
    RunstreamError,
    RunTimedOut,
    ThreadBusy,
)
from runstream.fold import Fold
from runstream.model import ErrorInfo, Event, EventId, Holder, RunInfo, Status, StopResult, WorkerInfo
from runstream.request import RunOptions, RunRequest
from runstream.settings import ClientSettings
from runstream.spoken import Retraction, SpokenText, Text
from runstream.stream import EventStream
from runstream.text import text_of
from runstream.voids import Voids
from runstream.waiting import Waiting

__version__ = "0.1.0"

__all__ = [
    "AttemptFenced",
    "Client",
    "ClientSettings",
    "Command",
    "Document",
    "Documents",
    "EncodingError",
    "ErrorInfo",
    "Event",
    "EventId",
    "EventStream",
    "Fold",
    "GraphLoadError",
    "Holder",
    "InvalidRequest",
    "NoRunId",
    "ProtocolError",
    "Retraction",
    "Run",
    "RunActive",
    "RunErrored",
    "RunExists",
    "RunFailedError",
    "RunInfo",
    "RunLost",
    "RunNotFound",
    "RunOptions",
    "RunRequest",
    "RunSpec",
    "RunStopped",
    "RunTimedOut",
    "RunstreamError",
    "Send",
    "SpokenText",
    "Status",
    "StopResult",
    "Text",
    "ThreadBusy",
    "Voids",
    "Waiting",
    "WorkerInfo",
    "__version__",
    "text_of",
]
