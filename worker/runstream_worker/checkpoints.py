"""LangGraph's checkpointers, chosen by URL and opened once per worker."""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from inspect import isawaitable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from redis.exceptions import RedisError

from runstream.connection import shown as shown_url
from runstream.errors import InvalidRequest
from runstream.install import install_command
from runstream.redaction import check_url
from runstream.settings import DEFAULT_REDIS_URL
from runstream_worker.importing import import_file, import_module
from runstream_worker.infrastructure import Unavailable, is_transient
from runstream_worker.patient_saver import DEFAULT_PATIENCE, SaverSource, patient
from runstream_worker.redis_saver import DEFAULT_TTL, RedisSaver
from runstream_worker.strict_serializer import ClassName, StrictSerializer

if TYPE_CHECKING:
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
    from psycopg import AsyncConnection
    from psycopg.rows import DictRow

_SETUP_LOCK = 0x72756E73  # "runs": the number of the advisory lock under which PostgreSQL's tables are made
_SETUP_TIMEOUT = 60.0
_SETUP_POLL = 0.05
_POSTGRES_DEFAULTS: Mapping[str, Any] = {
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""For what the URL leaves open: how soon a server that does not answer is given up, and idle connections are kept
alive through firewalls. In seconds, the last in ms."""
_SQLITE_BUSY_TIMEOUT = 10.0

# A URL whose password can be told from the rest of it: libpq looks for the first `@`, and quotes what it cannot read.
_POSTGRES_URL = re.compile(r"postgres(ql)?://([^@/?#]*@)?[^@?#]*(\?[^@#]*)?")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")

_logger = logging.getLogger("runstream.worker")


class CheckpointerError(Unavailable):
    """The checkpoints' database cannot be used: it is away, refuses, or is no database."""


@asynccontextmanager
async def open_checkpointer(
    url: str | None,
    *,
    runs_url: str = DEFAULT_REDIS_URL,
    namespace: str = "runstream",
    ttl: float = DEFAULT_TTL,
    own_thread_ttl: float | None = None,
    patience: float = DEFAULT_PATIENCE,
    waits_for_runs: bool = True,
    classes: Iterable[ClassName] = (),
) -> AsyncIterator[BaseCheckpointSaver[Any] | None]:
    """A checkpointer for as long as the block lasts; its tables are there. No error tells a password.

    Args:
        url: `redis` (the one that the runs are in), `redis://...`, `rediss://...`, `sqlite:///relative.db`,
            `sqlite:////absolute.db`, `postgresql://...`, `memory://` (one process, nothing kept), or `none`; or
            `path/file.py:attr` or `module:attr`: a function that gives a checkpointer, or opens one (as an async
            context manager), as LangGraph's `checkpointer.path` has it.
        runs_url: of the Redis that the runs are in.
        namespace: of the runs; checkpoints in Redis have it, too.
        ttl: how long Redis keeps a thread after it was last written to, in seconds.
        own_thread_ttl: the same for the thread of a run that was given none; as `ttl` when left out.
        patience: how long a call is made again while the database is away, in seconds.
        waits_for_runs: whether calls to the Redis of the runs wait for it without end, as the events of a run do.
        classes: of which objects are created from what is stored, beside LangGraph's own and those that a graph's state
            is declared with. A checkpointer from a function has a serializer of its own.

    Raises:
        InvalidRequest: the URL is none of these, or what it needs is not installed.
        CheckpointerError: the database cannot be used.
    """
    if url in (None, "none"):
        yield None
        return
    check_url("checkpointer", url)
    scheme, serde = urlsplit(url).scheme, StrictSerializer(classes)
    if url == "redis" or scheme in ("redis", "rediss"):
        own_patience = (None if waits_for_runs else patience) if url == "redis" else 0.0
        options = {"ttl": ttl, "own_thread_ttl": own_thread_ttl, "patience": own_patience, "serde": serde}
        opening: AbstractAsyncContextManager[BaseCheckpointSaver[Any] | SaverSource] = _redis(
            url, runs_url, {"namespace": namespace, **options}
        )
    elif scheme == "sqlite":
        opening = _sqlite(url, serde)
    elif scheme in ("postgres", "postgresql"):
        opening = _postgres(url, serde)
    elif scheme == "memory":
        opening = _memory(serde)
    elif "://" not in url and ":" in url and "@" not in url:
        opening = _own(url)
    else:
        raise InvalidRequest(
            "checkpointer",
            f"{shown_url(url)!r} must begin with redis://, sqlite:///, postgresql:// or memory://, "
            "such as sqlite:///threads.db, or be the word redis, or none, or path/file.py:attr",
        )
    async with opening as opened:
        yield patient(opened, patience)


@asynccontextmanager
async def _memory(serde: StrictSerializer) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    yield InMemorySaver(serde=serde)


@asynccontextmanager
async def _redis(url: str, runs_url: str, options: Mapping[str, Any]) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    # Only beside the runs can a script look whether an attempt still holds its run. Elsewhere each try of a write asks
    # first, so that tries are made by `PatientSaver`, which knows of that.
    beside_runs = url == "redis"
    async with RedisSaver.from_url(runs_url if beside_runs else url, fenced=beside_runs, **options) as saver:
        try:
            await saver.ping()
        except (RedisError, OSError) as error:
            raise CheckpointerError(f"checkpointer: {shown_url(url)!r} cannot be used: {error}") from error
        yield saver


@asynccontextmanager
async def _own(location: str) -> AsyncIterator[SaverSource]:
    """The checkpointer of a project's own."""
    place, _, attribute = location.rpartition(":")
    is_file = "/" in place or place.endswith(".py")
    module = import_file(Path(place)) if is_file else import_module(place)
    made = getattr(module, attribute, None)
    if made is None:
        raise InvalidRequest("checkpointer", f"{location!r}: {place} has no attribute {attribute!r}")
    async with _Own(location, made) as own:
        # An object that the module holds is all that there is; a function can be called again.
        yield SaverSource(await own.open(), None if isinstance(made, BaseCheckpointSaver) else own.open)


class _Own:
    """The checkpointer that a project's own function opens, one at a time.

    Args:
        location: where the function is, for messages.
        made: the function, or the checkpointer itself.
    """

    def __init__(self, location: str, made: Any) -> None:
        self._location = location
        self._made = made
        self._stack: AsyncExitStack | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._stack is not None:
            await self._stack.aclose()

    async def open(self) -> BaseCheckpointSaver[Any]:
        """Open a checkpointer, and close the last one, whose connection is lost.

        Raises:
            CheckpointerError: the function failed.
            InvalidRequest: it does not give a checkpointer.
        """
        async with AsyncExitStack() as stack:
            try:
                opened = await _opened(self._made, stack)
            except Exception as error:
                if self._stack is not None and is_transient(error):
                    raise
                what = " ".join(f"{type(error).__name__}: {error}".split())
                raise CheckpointerError(f"checkpointer: {self._location!r} could not be opened: {what}") from error
            if not isinstance(opened, BaseCheckpointSaver):
                told = f"{self._location!r} must give a BaseCheckpointSaver, and gives {type(opened).__name__}"
                raise InvalidRequest("checkpointer", told)
            last, self._stack = self._stack, stack.pop_all()
        if last is not None:
            _logger.warning("checkpointer: %r had lost its connection and was opened anew", self._location)
            try:
                await last.aclose()
            except Exception as error:  # noqa: BLE001 - of what is left behind, a broken connection
                _logger.debug("the last checkpointer of %r could not be closed: %s", self._location, error)
        return opened


async def _opened(made: Any, stack: AsyncExitStack) -> Any:
    """What a project's own function gives, or opens until the stack is closed."""
    opened = made() if callable(made) and not isinstance(made, BaseCheckpointSaver) else made
    if isawaitable(opened):
        opened = await opened
    if isinstance(opened, AbstractAsyncContextManager) and not isinstance(opened, BaseCheckpointSaver):
        opened = await stack.enter_async_context(opened)
    return opened


@asynccontextmanager
async def _sqlite(url: str, serde: StrictSerializer) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    try:
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver  # noqa: PLC0415 - an extra
    except ImportError:
        told = f"{shown_url(url)!r} needs the extra: {install_command('sqlite')}"
        raise InvalidRequest("checkpointer", told) from None
    path = _sqlite_path(url)
    async with AsyncExitStack() as stack:
        try:
            saver = await stack.enter_async_context(AsyncSqliteSaver.from_conn_string(str(path)))
            saver.serde = serde
            await _set_up_sqlite(saver)
        except sqlite3.Error as error:
            raise CheckpointerError(f"checkpointer: {shown_url(url)!r} cannot be used: {error}") from error
        yield saver


def _sqlite_path(url: str) -> Path:
    path = Path(url.removeprefix("sqlite:///"))
    if not url.startswith("sqlite:///") or not path.name:
        raise InvalidRequest(
            "checkpointer", f"{shown_url(url)!r} names no file; write sqlite:///threads.db or sqlite:////var/threads.db"
        )
    if not path.parent.is_dir():
        raise InvalidRequest("checkpointer", f"{shown_url(url)!r}: the folder {str(path.parent)!r} does not exist")
    return path


async def _set_up_sqlite(saver: AsyncSqliteSaver) -> None:
    """Make the tables, and have a writer wait for another worker's instead of failing.

    Switching a file to write-ahead logging does not wait for others, whatever the timeout, so workers that start
    together try again.
    """
    loop = asyncio.get_running_loop()
    await saver.conn.execute(f"PRAGMA busy_timeout = {round(_SQLITE_BUSY_TIMEOUT * 1000)}")
    give_up = loop.time() + _SQLITE_BUSY_TIMEOUT
    while True:
        try:
            await saver.setup()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or loop.time() > give_up:
                raise
            await asyncio.sleep(_SETUP_POLL)
        else:
            return


@asynccontextmanager
async def _postgres(url: str, serde: StrictSerializer) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    try:
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver  # noqa: PLC0415 - an extra
        from psycopg import Error  # noqa: PLC0415 - an extra

        from runstream_worker.postgres_pool import OPTIONS, BoundedConnection, open_pool  # noqa: PLC0415 - an extra
    except ImportError:
        told = f"{shown_url(url)!r} needs the extra: {install_command('postgres')}"
        raise InvalidRequest("checkpointer", told) from None
    conninfo = _postgres_conninfo(url)
    try:
        # Not over the pool, which keeps the reason of a failure to itself and tries for a while.
        async with await BoundedConnection.connect(conninfo, **OPTIONS) as connection:
            await _set_up_postgres(AsyncPostgresSaver(connection), connection)
    except Error as error:
        reason = " ".join(str(error).split())
        raise CheckpointerError(f"checkpointer: {shown_url(url)!r} cannot be used: {reason}") from error
    async with open_pool(conninfo) as pool:
        yield AsyncPostgresSaver(pool, serde=serde)


def _postgres_conninfo(url: str) -> str:
    """What libpq connects with: the URL, and the defaults for what it leaves open."""
    from psycopg import ProgrammingError  # noqa: PLC0415 - an extra
    from psycopg.conninfo import conninfo_to_dict, make_conninfo  # noqa: PLC0415 - an extra

    if not _POSTGRES_URL.fullmatch(url) or _BAD_ESCAPE.search(url):
        raise InvalidRequest(
            "checkpointer",
            "the postgresql:// URL cannot be read; in its user and password '@', '/', '?', '#' and '%' are written as "
            "%40, %2F, %3F, %23 and %25",
        )
    try:
        parameters: dict[str, Any] = {**_POSTGRES_DEFAULTS, **conninfo_to_dict(url)}
    except ProgrammingError as error:
        raise InvalidRequest("checkpointer", f"{shown_url(url)!r}: {str(error).strip()}") from None
    return make_conninfo("", **parameters)


async def _set_up_postgres(saver: BaseCheckpointSaver[Any], connection: AsyncConnection[DictRow]) -> None:
    """Make the tables, one worker after the other: all but one of several that start together would fail.

    The lock is asked for again and again. A query that waited for it would hold a snapshot all the while, and the
    worker that has the lock waits for every snapshot to end when it builds its indexes: both would wait for ever.
    """
    loop = asyncio.get_running_loop()
    give_up = loop.time() + _SETUP_TIMEOUT
    while not await _try_lock(connection):
        if loop.time() > give_up:
            raise CheckpointerError(f"checkpointer: another worker has been making the tables for {_SETUP_TIMEOUT:g} s")
        await asyncio.sleep(_SETUP_POLL)
    await saver.setup()  # type: ignore[attr-defined]  # the base class does not declare it


async def _try_lock(connection: AsyncConnection[DictRow]) -> bool:
    """Take the lock if nobody has it; it is given back when the connection is closed."""
    row = await (await connection.execute("SELECT pg_try_advisory_lock(%s) AS taken", (_SETUP_LOCK,))).fetchone()
    return bool(row and row["taken"])
