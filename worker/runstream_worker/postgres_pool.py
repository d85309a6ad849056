"""Connections to PostgreSQL that are looked at before they are used, and given up when they do not answer.

Needs the extra `postgres`.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from psycopg import AsyncConnection
from psycopg.abc import PQGen
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

OPTIONS: Final[dict[str, Any]] = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
"""As LangGraph's checkpointer needs its connections."""

_CONNECTIONS = 10
_ANSWER_WITHIN = 30.0
_CHECK_WITHIN = 5.0
_CONNECTION_WITHIN = 5.0
"""The pool tries to connect after ever longer waits, and begins anew for a new call: so each call is a short one."""
_MAX_IDLE = 300.0
_MAX_LIFETIME = 1800.0


class BoundedConnection(AsyncConnection[DictRow]):
    """A connection that is cut when the server takes too long to answer, in seconds: `answer_within`.

    A firewall may drop a connection without a word, and then nothing else ends the wait: psycopg has no time limit for
    queries, and the server's own is not heard of.
    """

    answer_within = _ANSWER_WITHIN

    async def wait(self, gen: PQGen[Any], *args: Any, **kwargs: Any) -> Any:
        """Wait for the server.

        Raises:
            psycopg.OperationalError: also where it did not answer in time.
        """
        limit = asyncio.get_running_loop().call_later(self.answer_within, self._cut)
        try:
            return await super().wait(gen, *args, **kwargs)
        finally:
            limit.cancel()

    def _cut(self) -> None:
        """Shut the connection down, as if the server had; libpq, which waits for it, finds out by itself."""
        with suppress(OSError), socket.socket(fileno=os.dup(self.pgconn.socket)) as connection:
            connection.shutdown(socket.SHUT_RDWR)


async def check(connection: BoundedConnection) -> None:
    """See whether a connection that has been idle still works.

    Raises:
        psycopg.OperationalError: it does not.
    """
    connection.answer_within = _CHECK_WITHIN
    try:
        await AsyncConnectionPool.check_connection(connection)
    finally:
        connection.answer_within = _ANSWER_WITHIN


@asynccontextmanager
async def open_pool(conninfo: str) -> AsyncIterator[AsyncConnectionPool[AsyncConnection[DictRow]]]:
    """A pool for as long as the block lasts. A call that gets no connection in 5 s raises `PoolTimeout`."""
    pool: Any = AsyncConnectionPool(
        conninfo,
        connection_class=BoundedConnection,
        kwargs=OPTIONS,
        check=check,
        min_size=1,
        max_size=_CONNECTIONS,
        timeout=_CONNECTION_WITHIN,
        max_idle=_MAX_IDLE,
        max_lifetime=_MAX_LIFETIME,
        reconnect_timeout=_CONNECTION_WITHIN,
        open=False,
    )
    async with pool:
        yield pool
