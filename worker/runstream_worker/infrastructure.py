"""Telling a failure of what a worker depends on from one of a graph."""

from __future__ import annotations

import sqlite3

from redis.exceptions import RedisError

from runstream.errors import RunstreamError
from runstream.faults import is_passing

_POSTGRES = ("OperationalError", "InterfaceError", "PoolTimeout", "PoolClosed", "TooManyRequests")


class Unavailable(RunstreamError):
    """What a worker depends on is away, or refuses; the run is not at fault."""

    @classmethod
    def because_of(cls, what: str, error: BaseException) -> Unavailable:
        """Say what it was."""
        return cls(f"{what}: {type(error).__name__}: {error}")


def is_infrastructure(error: BaseException) -> bool:
    """Whether a checkpointer raised this because its database is away, is being failed over, or is locked or full.

    psycopg is an extra, and its classes are known by their names. What it raises of a single query (a value that
    PostgreSQL cannot keep, say) is the graph's.
    """
    if isinstance(error, RedisError | OSError):
        return is_passing(error)
    if isinstance(error, sqlite3.OperationalError):
        return True
    names = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.partition(".")[0].startswith("psycopg")}
    return not names.isdisjoint(_POSTGRES)
