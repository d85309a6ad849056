"""LangGraph's checkpointers, chosen by URL and opened once per worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from langgraph.checkpoint.base import BaseCheckpointSaver

from runstream.errors import InvalidRequest

_SETUP_LOCK = 0x72756E73  # "runs": the number of the advisory lock under which PostgreSQL's tables are made
_POSTGRES_CONNECTIONS = 10


@asynccontextmanager
async def open_checkpointer(url: str | None) -> AsyncIterator[BaseCheckpointSaver[Any] | None]:
    """A checkpointer for as long as the block lasts.

    Args:
        url: `sqlite:///relative.db`, `sqlite:////absolute.db`, `postgresql://...`, `memory://` (one process, nothing
            kept), or None for none.

    Raises:
        InvalidRequest: the URL is none of these, or what it needs is not installed.
    """
    if url is None:
        yield None
        return
    scheme = urlsplit(url).scheme
    if scheme == "sqlite":
        async with _sqlite(url) as saver:
            yield saver
    elif scheme in ("postgres", "postgresql"):
        async with _postgres(url) as saver:
            yield saver
    elif scheme == "memory":
        from langgraph.checkpoint.memory import InMemorySaver  # noqa: PLC0415 - only where it is wanted

        yield InMemorySaver()
    else:
        raise InvalidRequest(
            "checkpointer",
            f"{url!r} must begin with sqlite:///, postgresql:// or memory://, such as sqlite:///threads.db",
        )


@asynccontextmanager
async def _sqlite(url: str) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    try:
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver  # noqa: PLC0415 - an extra
    except ImportError:
        raise InvalidRequest("checkpointer", f"{url!r} needs the extra: pip install 'runstream[sqlite]'") from None
    path = Path(url.removeprefix("sqlite:///"))
    if not url.startswith("sqlite:///") or not path.name:
        raise InvalidRequest(
            "checkpointer", f"{url!r} names no file; write sqlite:///threads.db or sqlite:////var/threads.db"
        )
    if not path.parent.is_dir():
        raise InvalidRequest("checkpointer", f"{url!r}: the folder {str(path.parent)!r} does not exist")
    async with AsyncSqliteSaver.from_conn_string(str(path)) as saver:
        # Several workers of one machine share the file: a writer waits for another instead of failing.
        await saver.conn.execute("PRAGMA busy_timeout = 10000")
        await saver.setup()
        yield saver


@asynccontextmanager
async def _postgres(url: str) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    try:
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver  # noqa: PLC0415 - an extra
        from psycopg import AsyncConnection  # noqa: PLC0415
        from psycopg.rows import DictRow, dict_row  # noqa: PLC0415
        from psycopg_pool import AsyncConnectionPool  # noqa: PLC0415
    except ImportError:
        raise InvalidRequest(
            "checkpointer", f"{url.rsplit('@', maxsplit=1)[-1]!r} needs the extra: pip install 'runstream[postgres]'"
        ) from None
    pool: AsyncConnectionPool[AsyncConnection[DictRow]] = AsyncConnectionPool(
        url,
        min_size=1,
        max_size=_POSTGRES_CONNECTIONS,
        kwargs={"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row},
        open=False,
    )
    async with pool:
        saver = AsyncPostgresSaver(pool)
        # Workers that start together would make the tables at the same time, and all but one would fail.
        async with pool.connection() as connection:
            await connection.execute("SELECT pg_advisory_lock(%s)", (_SETUP_LOCK,))
            try:
                await saver.setup()
            finally:
                await connection.execute("SELECT pg_advisory_unlock(%s)", (_SETUP_LOCK,))
        yield saver
