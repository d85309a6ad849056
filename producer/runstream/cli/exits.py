"""Exit codes, and what is said of an error: one line on standard error, never a password."""

from __future__ import annotations

from enum import IntEnum

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from runstream.errors import InvalidRequest, RunNotFound, RunstreamError
from runstream.redaction import redact_url


class Exit(IntEnum):
    """What the shell is told."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    NO_REDIS = 4
    INTERRUPTED = 130


EXIT_CODES = """\
exit codes:
  0    all went well
  1    the run failed, was stopped, timed out or was lost; or something went wrong
  2    the command was not understood, or the request was refused
  3    there is no such run
  4    Redis cannot be reached, or does not let us in
  130  interrupted with Ctrl-C"""


class CommandError(RunstreamError):
    """A command cannot go on, for a reason that one line tells.

    Attributes:
        code: the exit code.
    """

    def __init__(self, message: str, code: int = Exit.FAILED) -> None:
        super().__init__(message)
        self.code = code


def explain(error: RunstreamError | RedisError, redis_url: str) -> tuple[int, str]:
    """The exit code for an error, and the line that tells it.

    Args:
        error: what was raised.
        redis_url: the Redis that the command talks to.
    """
    if isinstance(error, RedisError):
        return _explain_redis(error, redact_url(redis_url))
    match error:
        case CommandError(code=code):
            return code, str(error)
        case RunNotFound() if not isinstance(error, InvalidRequest):
            return Exit.NOT_FOUND, str(error)
        case InvalidRequest():
            return Exit.USAGE, str(error)
        case _:
            return Exit.FAILED, str(error)


def _explain_redis(error: RedisError, url: str) -> tuple[int, str]:
    told = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    match error:
        case AuthenticationError() | NoPermissionError():
            where = "the URL takes name and password as redis://USER:PASSWORD@HOST"
            return Exit.NO_REDIS, f"Redis at {url} does not let us in: {told}; {where}"
        case RedisConnectionError() | RedisTimeoutError():
            what = "`runstream dev` starts one, --redis or RUNSTREAM_REDIS_URL names another"
            return Exit.NO_REDIS, f"cannot reach Redis at {url}: {told}; {what}"
        case _:
            return Exit.FAILED, f"Redis at {url} refused: {told}"
