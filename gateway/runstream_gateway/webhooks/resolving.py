"""Finding the addresses of hosts without letting name servers that are silent hold anybody else up.

The system's resolver cannot be told to stop: a name whose server is silent keeps its thread for as long as the system
has patience, long after whoever asked has gone. In the loop's own pool a few such names would stop every other use of
it. So each name has a thread of its own, of which there are only so many, shared fairly by the owners of the runs. They
are no executor's: those are waited for when the process ends.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeAlias

from runstream_gateway.webhooks.sharing import Places, of_owner

Find: TypeAlias = Callable[[str], Sequence[str]]
"""Gives the addresses of a host, and takes its time. It may raise OSError and UnicodeError."""

MOST = 32
"""Names that are looked up at a time."""
_PLACE_WITHIN = 5.0


class ResolverBusy(Exception):
    """Too many names are being looked up."""


def find_host(host: str) -> list[str]:
    """The addresses of a host, as the system finds them; names by which numbers are spelled are numbers to it, too."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(place[0]) for *_, place in found))


class Resolver:
    """Looks names up; who asks for one that is being looked up already waits for the same answer.

    Args:
        find: looks one up.
        most: how many at a time.
    """

    def __init__(self, find: Find = find_host, *, most: int = MOST) -> None:
        self._find = find
        self._places = Places(most)
        self._open: dict[str, asyncio.Future[Sequence[str]]] = {}

    async def __call__(
        self, host: str, owner: str = "", *, within: float | None = None, waits: bool = False
    ) -> Sequence[str]:
        """Return the addresses of a host.

        Args:
            host: it.
            owner: whose share of the lookups it counts for; nobody's when left out.
            within: seconds that the lookup may take once it has begun.
            waits: wait some seconds for a place where too many others are being looked up.

        Raises:
            ResolverBusy: too many other names are being looked up.
            TimeoutError: no name server has answered within the time.
            OSError: it has none; also a UnicodeError, where it is no name.
        """
        answer = self._open.get(host)
        if answer is None:
            await self._take_place(owner, waits=waits)
            answer = self._open.get(host)
            if answer is None:
                answer = self._begin(host, owner)
            else:  # Begun by another caller meanwhile.
                self._places.release(of_owner(owner))
        # A caller that leaves does not end the lookup for the others.
        async with asyncio.timeout(within):
            return await asyncio.shield(answer)

    async def _take_place(self, owner: str, *, waits: bool) -> None:
        claim = of_owner(owner)
        if self._places.try_take(claim):
            return
        if not waits:
            raise ResolverBusy
        try:
            async with asyncio.timeout(_PLACE_WITHIN):
                await self._places.acquire(claim)
        except TimeoutError:
            raise ResolverBusy from None

    def _begin(self, host: str, owner: str) -> asyncio.Future[Sequence[str]]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Sequence[str]] = loop.create_future()

        def settle(found: Sequence[str] | Exception) -> None:
            self._open.pop(host, None)
            # The place is free when the thread is, however long ago the caller has left.
            self._places.release(of_owner(owner))
            if answer.cancelled():
                return
            if isinstance(found, Exception):
                answer.set_exception(found)
                answer.exception()  # Perhaps nobody waits any more.
            else:
                answer.set_result(found)

        def look_up() -> None:
            found: Sequence[str] | Exception
            try:
                found = self._find(host)
            except Exception as error:  # noqa: BLE001 - whoever asked is told
                found = error
            with suppress(RuntimeError):  # The loop has ended meanwhile.
                loop.call_soon_threadsafe(settle, found)

        threading.Thread(target=look_up, name="gateway-resolver", daemon=True).start()
        self._open[host] = answer
        return answer
