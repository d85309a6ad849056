"""HTTP as uvicorn speaks it, for clients that take for ever or send for ever.

uvicorn waits without end for the end of a request's head, and keeps whatever comes of it. Thousands of clients that
say nothing, or a header a minute, would hold the process's file descriptors and memory.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from runstream_gateway.jsonbytes import dumps

_MOST_HEAD_BYTES = 64 * 1024
_MOST_HEADERS = 256
"""Each look for a header goes through all of them."""
_MOST_URL_BYTES = 16 * 1024
_MOST_WAITING = 2048
"""Connections from which the head of a request has not come yet."""


def protocol_with(head_timeout: float) -> type[asyncio.Protocol]:
    """The protocol, as uvicorn wants it: a class.

    Args:
        head_timeout: seconds within which the head of a request has to be there, from the connection's opening or from
            the request's first byte.
    """

    class Impatient(_Impatient):
        _head_timeout = head_timeout
        _without_head: ClassVar[dict[_Impatient, None]] = {}
        _most_without_head = min(_MOST_WAITING, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)

    return Impatient


class _Impatient(HttpToolsProtocol):
    """Refuses a head that does not come, or does not end, and tells in JSON what it refuses."""

    _head_timeout: float
    _without_head: ClassVar[dict[_Impatient, None]]
    _most_without_head: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: asyncio.TimerHandle | None = None
        self._in_head = False
        self._head_bytes = 0
        self._url_bytes = 0
        self._header_bytes = 0
        self._headers = 0
        self._is_refused = False
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
                self._refuse_large_head()
                return
        # Whatever comes ends uvicorn's own patience with an idle connection, also what begins no request.
        if self._waiting is None and not self._is_answering() and self.timeout_keep_alive_task is None:
            self._wait_for_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = self._url_bytes = self._header_bytes = self._headers = 0

    def on_url(self, url: bytes) -> None:
        self._url_bytes += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        # Of what comes behind a body nothing is kept: the request has been begun without it.
        if self._in_head:
            self._headers += 1
            self._header_bytes += len(name) + len(value)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head, self._has_begun = False, True
        self._stop_waiting()
        if self._url_bytes > _MOST_URL_BYTES:
            self._refuse(414, f"the request's path and query are longer than {_MOST_URL_BYTES:,} bytes")
        elif self._headers > _MOST_HEADERS:
            self._refuse(431, f"the request has more than {_MOST_HEADERS} headers")
        elif self._header_bytes > _MOST_HEAD_BYTES:
            self._refuse_large_head()
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._is_refused:
            super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        if not self._is_refused:
            super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - as uvicorn calls it
        self._refuse(400, "this is no HTTP request")

    def _wait_for_head(self) -> None:
        self._waiting = self.loop.call_later(self._head_timeout, self._give_up)
        self._without_head[self] = None
        if len(self._without_head) > self._most_without_head:
            # The process's file descriptors are for those who have something to ask.
            next(iter(self._without_head)).make_room()

    def _stop_waiting(self) -> None:
        self._without_head.pop(self, None)
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def make_room(self) -> None:
        """Give way to another connection."""
        self._stop_waiting()
        if self._is_answering() or (self._has_begun and not self._in_head):
            self.transport.close()
        else:
            self._refuse(408, "the request's head has not arrived, and too many connections wait for one")

    def _give_up(self) -> None:
        self._waiting = None
        self._without_head.pop(self, None)
        if self._is_answering():
            # The next request of this connection has begun; what is being answered is not to be cut off for that.
            self._wait_for_head()
        elif self._has_begun and not self._in_head:
            self.transport.close()
        else:
            self._refuse(408, f"the request's head did not arrive within {self._head_timeout:g} s")

    def _is_answering(self) -> bool:
        return not getattr(self.cycle, "response_complete", True)

    def _refuse_large_head(self) -> None:
        self._refuse(431, f"the request's head is larger than {_MOST_HEAD_BYTES:,} bytes")

    def _refuse(self, status: int, detail: str) -> None:
        self._is_refused = True
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
