"""Clients that have gone without a word: their systems acknowledge nothing any more.

The system has a limit of its own for that, TCP_USER_TIMEOUT, but it also cuts off who is there and does not read: a
browser's tab in the background, a program that thinks about what it has got. So it is looked for the silence itself.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterable

_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None)
_LENGTH = 104
_PROBES = struct.Struct("=3xB")
_UNACKED = struct.Struct("=24xI")
_LAST_RECEIVED = struct.Struct("=52xII")  # data, acknowledgement; in ms
_LOOKS = 4


async def drop_vanished(transports: Callable[[], Iterable[asyncio.Transport]], after: float) -> None:
    """Cut the connections of those who have gone, until cancelled. Does nothing where the system does not tell.

    Args:
        transports: the connections that there are.
        after: how long, in seconds, somebody has to be silent who should say something.
    """
    if _TCP_INFO is None:
        return
    silent: set[asyncio.Transport] = set()
    while True:
        await asyncio.sleep(after / _LOOKS)
        now_silent = {transport for transport in transports() if _is_silent(transport, after)}
        # Once may be chance: what it was sent may be on its way.
        for transport in now_silent & silent:
            transport.abort()
        silent = now_silent - silent


def _is_silent(transport: asyncio.Transport, after: float) -> bool:
    """Whether the other side has not answered for so long, although it was sent data, or asked for room for data."""
    connection = transport.get_extra_info("socket")
    if _TCP_INFO is None or connection is None or transport.is_closing():
        return False
    try:
        told = connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _LENGTH)
    except (OSError, ValueError):
        return False  # It has been closed, or is none of TCP.
    (probes,), (unacked,) = _PROBES.unpack_from(told), _UNACKED.unpack_from(told)
    return bool(probes or unacked) and min(_LAST_RECEIVED.unpack_from(told)) >= after * 1000
