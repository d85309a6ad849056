"""HTTP as uvicorn speaks it, for clients that take for ever or send for ever.

uvicorn waits without end for the end of a request's head, and keeps whatever comes of it. Thousands of clients that
say nothing, or a header a minute, would hold the process's file descriptors and memory.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from runstream_gateway.jsonbytes import dumps

_MOST_HEAD_BYTES = 64 * 1024


def protocol_with(head_timeout: float) -> type[asyncio.Protocol]:
    """The protocol, as uvicorn wants it: a class.

    Args:
        head_timeout: seconds within which the head of a request has to be there, from the connection's opening or from
            the request's first byte.
    """

    class Impatient(_Impatient):
        _head_timeout = head_timeout

    return Impatient


class _Impatient(HttpToolsProtocol):
    """Refuses a head that does not come, or does not end, and tells in JSON what it refuses."""

    _head_timeout: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: asyncio.TimerHandle | None = None
        self._in_head = False
        self._head_bytes = 0
        self._has_begun = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type] # uvicorn narrows it
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _MOST_HEAD_BYTES:
                self._refuse(431, f"the request's head is larger than {_MOST_HEAD_BYTES:,} bytes")
                return
        # Whatever comes ends uvicorn's own patience with an idle connection, also what begins no request.
        if self._waiting is None and not self._is_answering() and self.timeout_keep_alive_task is None:
            self._wait_for_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        # Of what comes behind a body nothing is kept: the request has been begun without it.
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head, self._has_begun = False, True
        self._stop_waiting()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - as uvicorn calls it
        self._refuse(400, "this is no HTTP request")

    def _wait_for_head(self) -> None:
        self._waiting = self.loop.call_later(self._head_timeout, self._give_up)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        self._waiting = None
        if self._is_answering():
            # The next request of this connection has begun; what is being answered is not to be cut off for that.
            self._wait_for_head()
        elif self._has_begun and not self._in_head:
            self.transport.close()
        else:
            self._refuse(408, f"the request's head did not arrive within {self._head_timeout:g} s")

    def _is_answering(self) -> bool:
        return not getattr(self.cycle, "response_complete", True)

    def _refuse(self, status: int, detail: str) -> None:
        if self.transport.is_closing():
            return
        # In the midst of an answer, or before one that has its turn, nothing can be said.
        if not self.pipeline and not (self._is_answering() and self.cycle.response_started):
            body = dumps({"detail": detail})
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[status] + head + body)
        if self._is_answering():
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
