"""Failures of what a worker or a gateway depends on, told apart from those of a graph."""

from __future__ import annotations

import errno
import socket
import sqlite3

from redis.exceptions import RedisError

from runstream.errors import RunstreamError
from runstream.faults import is_passing

_DB_API = frozenset(("OperationalError", "InterfaceError"))
"""PEP 249: the database cannot be reached, or cannot serve. Drivers of all databases have classes of these names."""
_CONNECTION_CLASSES = _DB_API | frozenset((
    "ConnectionError", "ConnectionFailure", "ConnectionDoesNotExistError", "ConnectTimeout", "DisconnectionError",
    "EndpointConnectionError", "PoolTimeout", "PostgresConnectionError", "TooManyConnectionsError", "TransportError",
))  # fmt: skip
"""What drivers and HTTP clients of other databases raise while these cannot be reached."""

_TRANSIENT_SQLSTATES = frozenset((
    "25006",  # read-only: a server that was the primary before a failover, and a client that has not left it yet
    "25P03", "57P05",  # the server closed an idle session
    "40001", "40P01", "40003",  # serialization failure, deadlock, completion unknown
    "53200", "53300", "53400",  # out of memory, too many connections, a configured limit
    "55P03", "57014",  # a lock was not available, the statement was cancelled
    "57P01", "57P02", "57P03",  # shut down by an administrator, by a crash, not accepting connections yet
))  # fmt: skip
_CONNECTION_CLASS = "08"
_NO_DATABASE = "3D000"
_DATA_CLASS = "54"
"""Of PostgreSQL's operational errors, "program limit exceeded" is about what the graph saves."""

_UNREACHABLE = frozenset((errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN))
_SQLITE_TRANSIENT = frozenset((sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL))


class Unavailable(RunstreamError):
    """A database that the worker or the gateway depends on is away or refuses; the run is not at fault.

    Attributes:
        kind: the class of the driver's error. Its message may name hosts and users, which API callers must not see.
    """

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind

    @property
    def public(self) -> str:
        """What API callers may see of it."""
        reason = f" ({self.kind})" if self.kind else ""
        return f"the checkpoints' database cannot be reached{reason}; nothing that it keeps is lost: try again later"

    @classmethod
    def because_of(cls, what: str, error: BaseException) -> Unavailable:
        """Name what is unavailable, and the driver's error, on one line."""
        kind = type(error).__name__
        return cls(f"{what}: {kind}: {' '.join(str(error).split())}", kind)


def is_infrastructure(error: BaseException) -> bool:
    """Whether a checkpointer raised this because its database is away, is failing over, or is locked or full.

    Only for what a checkpointer or the opening of a graph has raised: a node may talk to databases of its own. Drivers
    are extras, and their classes are known by their names. What they raise of a single query (a value that PostgreSQL
    cannot keep, say) is the graph's.
    """
    if isinstance(error, RedisError):
        return is_passing(error)
    if isinstance(error, OSError | sqlite3.OperationalError | Unavailable):
        return True
    state = _sqlstate(error)
    if state.startswith(_DATA_CLASS):
        return False
    return state == _NO_DATABASE or _is_transient_state(state) or not _CONNECTION_CLASSES.isdisjoint(_names(error))


def is_transient(error: BaseException) -> bool:
    """Whether the same call of a checkpointer may succeed a moment later, over another connection.

    A connection that was lost, refused or not to be had in time; a server that starts, shuts down, is failing over or
    has too many connections; a lock. Not a disk that is full, nor a table that is missing: somebody has to act.
    """
    if isinstance(error, RedisError):
        return is_passing(error)
    if isinstance(error, sqlite3.OperationalError):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE_TRANSIENT
    if isinstance(error, OSError):
        return isinstance(error, ConnectionError | TimeoutError | socket.gaierror) or error.errno in _UNREACHABLE
    names = _names(error)
    if "PoolClosed" in names:
        return False
    state = _sqlstate(error)
    # Without a state no server has answered: the connection was lost, or could not be made.
    return _is_transient_state(state) or (not state and not _CONNECTION_CLASSES.isdisjoint(names))


def _is_transient_state(state: str) -> bool:
    return state in _TRANSIENT_SQLSTATES or state.startswith(_CONNECTION_CLASS)


def _sqlstate(error: BaseException) -> str:
    state = getattr(error, "sqlstate", None)
    return state if isinstance(state, str) else ""


def _names(error: BaseException) -> frozenset[str]:
    return frozenset(kind.__name__ for kind in type(error).__mro__)
