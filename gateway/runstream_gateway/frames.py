"""Frames: what a reader of a run is sent, whatever carries it (SSE, WebSocket)."""

from __future__ import annotations

from dataclasses import dataclass

from runstream_gateway.jsonbytes import dumps

HEARTBEAT = b": heartbeat\r\n"
"""A comment, which ends no event: at an empty line LangGraph's older JavaScript clients see one without a name."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message to a reader.

    Attributes:
        event: its name: a stream mode, with a subgraph's namespace behind bars; or `metadata`, `error`, `end`, `gap`.
        data: JSON, on one line.
        id: where a reader that has seen it goes on; None of one that is followed by others of the same event.
    """

    event: str
    data: bytes
    id: str | None = None

    @property
    def sse(self) -> bytes:
        """The frame as a server-sent event. LangGraph's JavaScript client needs its data on one line."""
        return b"".join((self.head, self.data, self.tail))

    @property
    def head(self) -> bytes:
        """What stands before the data in a server-sent event."""
        return b"event: %b\r\ndata: " % self.event.encode()

    @property
    def tail(self) -> bytes:
        """What stands behind it."""
        return b"\r\n\r\n" if self.id is None else b"\r\nid: %b\r\n\r\n" % self.id.encode()

    @property
    def text(self) -> str:
        """The frame as a WebSocket message: an object with `event`, `data` and, where it has one, `id`."""
        head = dumps({"event": self.event, **({} if self.id is None else {"id": self.id})}).decode()
        return f'{head[:-1]},"data":{self.data.decode()}}}'


def frame(event: str, data: object, event_id: str | None = None) -> Frame:
    """A frame of JSON data."""
    return Frame(event, dumps(data), event_id)
