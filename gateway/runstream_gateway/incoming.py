"""The body of a request while it arrives: nothing of it is read before somebody asks, and no more than may be kept."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

from starlette.requests import HTTPConnection
from starlette.types import Message, Receive, Scope, Send

from runstream_gateway.errors import ApiError

_BODY = "runstream.body"
_LEAST_CHARGED = 16 * 1024
"""What a body costs that has hardly begun: its request, its connection, its task."""
_MOST_IN_ALL = 16
_MOST_OF_ONE = 4
_LINGERS = 5.0
_MOST_DRAINED = 32 * 1024 * 1024
_WITH_BODY = frozenset(("POST", "PUT", "PATCH", "DELETE"))


@dataclass
class BodyBudget:
    """How many bytes of bodies the process keeps at a time, in all and of one caller.

    A body counts from its first byte until its request is answered, so that a caller who fills its own share keeps no
    other one's request out.

    Attributes:
        max_bytes: the size of the largest body. There may be 16 of that size, and 4 of one caller.
    """

    max_bytes: int
    _total: int = 0
    _of: Counter[str] = field(default_factory=Counter)

    @property
    def _most_charged(self) -> int:
        return self.max_bytes + _LEAST_CHARGED

    def take(self, subject: str, size: int) -> None:
        """Count bytes as a caller's.

        Raises:
            ApiError: 429, the caller has sent too much at once; 503, all callers have.
        """
        one, in_all = _MOST_OF_ONE * self._most_charged, _MOST_IN_ALL * self._most_charged
        if self._of[subject] + size > one:
            raise ApiError(429, f"too much: bodies of more than {one:,} bytes at once", {"retry-after": "1"})
        if self._total + size > in_all:
            raise ApiError(503, "too many large bodies arrive at once", {"retry-after": "1"})
        self._of[subject] += size
        self._total += size

    def give_back(self, subject: str, size: int) -> None:
        """Count bytes no longer."""
        self._total -= size
        self._of[subject] -= size
        if self._of[subject] <= 0:
            del self._of[subject]


class IncomingBody:
    """A request's body: limits what is received of it, and sees to what was not received when it is answered.

    Args:
        scope: of the request.
        receive: gives the server's messages.
        budget: what is received counts there.
        timeout: seconds that the body may take from when it is first asked for.
    """

    def __init__(self, scope: Scope, receive: Receive, budget: BodyBudget, *, timeout: float) -> None:
        headers = {name: value for name, value in scope["headers"] if name in _HEADERS}
        self._receive = receive
        self._budget = budget
        self._timeout = timeout
        self._subject = f"host-{(scope.get('client') or ('',))[0]}"
        self._encoding = headers.get(b"content-encoding", b"identity").decode("latin-1")
        length = headers.get(b"content-length", b"")
        self.declared = int(length) if length.isdigit() else 0
        self._is_complete = not (self.declared or b"transfer-encoding" in headers)
        self._must_be_read = scope["method"] in _WITH_BODY
        self._most: tuple[int, ApiError] = budget.max_bytes, _too_large(budget.max_bytes)
        self._size = 0
        self._charged = 0
        self._until: float | None = None
        self._is_answered = False

    @classmethod
    def of(cls, connection: HTTPConnection) -> IncomingBody | None:
        """Return that of a request; None where no `Bodies` is before the application."""
        found: IncomingBody | None = connection.scope.get(_BODY)
        return found

    def enter(self, scope: Scope) -> Scope:
        """Return the scope in which `of` finds this."""
        return {**scope, _BODY: self}

    def admit(self, subject: str | None, most: int | None) -> None:
        """Let the body be that of a known caller.

        Args:
            subject: for whom it is counted from now on; None for the client's address, as before.
            most: how many bytes the caller may send; None for as many as anybody.

        Raises:
            ApiError: 413, it says that it is larger, or is already.
        """
        self._budget.give_back(self._subject, self._charged)
        self._charged, charged = 0, self._charged
        self._subject = self._subject if subject is None else subject
        if charged:
            self._charge(charged)
        if most is not None and most < self._most[0]:
            self._most = most, ApiError(413, f"the body is larger than the {most} bytes that this caller may send")
        self._check(max(self.declared, self._size))

    async def receive(self) -> Message:
        """Return the next message, within the limits.

        Raises:
            ApiError: 408, 413, 415, 429, 503.
        """
        if self._is_answered or self._is_complete:
            return await self._receive()
        if self._until is None:
            self._begin()
        try:
            async with asyncio.timeout(max(0.0, (self._until or 0.0) - time.monotonic())):
                message = await self._receive()
        except TimeoutError:
            raise ApiError(408, f"the body did not arrive within {self._timeout:g} s") from None
        if message["type"] == "http.request":
            self._take(message)
        return message

    def answering(self, send: Send) -> Send:
        """Return what sends the answer: of a body that was not received, the rest is let go by.

        A connection that is reset takes the answer with it, so the client is asked to close it and given time to.
        """

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.release()
                self._is_answered = True
                if self._is_left:
                    message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            if message["type"] == "http.response.body" and self._is_left and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await self._drain()
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        return answer

    def release(self) -> None:
        """Count the body no longer."""
        self._budget.give_back(self._subject, self._charged)
        self._charged = 0

    @property
    def _is_left(self) -> bool:
        return self._must_be_read and not self._is_complete

    def _begin(self) -> None:
        self._until = time.monotonic() + self._timeout
        if self._encoding.strip().lower() != "identity":
            raise ApiError(415, f"content-encoding: {self._encoding!r} must be left out; send the body uncompressed")
        self._check(self.declared)
        self._charge(_LEAST_CHARGED)

    def _take(self, message: Message) -> None:
        size = len(message.get("body", b""))
        self._size += size
        self._is_complete = not message.get("more_body", False)
        self._check(self._size)
        self._charge(size)

    def _check(self, size: int) -> None:
        most, refusal = self._most
        if size > most:
            raise refusal

    def _charge(self, size: int) -> None:
        self._budget.take(self._subject, size)
        self._charged += size

    async def _drain(self) -> None:
        drained = 0
        try:
            async with asyncio.timeout(_LINGERS):
                more = True
                while more and drained < _MOST_DRAINED:
                    message = await self._receive()
                    drained += len(message.get("body", b""))
                    more = message.get("more_body", False)
        except TimeoutError:
            pass
        self._is_complete = True


_HEADERS = frozenset((b"content-length", b"content-encoding", b"transfer-encoding"))


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"the body is larger than {most:,} bytes")
