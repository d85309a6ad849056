"""Every exception that runstream raises.

RunstreamError
├── InvalidRequest            what the caller passed cannot be a run; nothing was written (also a ValueError)
├── RunNotFound               no such run, or it has expired
│   └── NoRunId               what was looked up is no run id (also an InvalidRequest)
├── RunExists                 the run id or idempotency key is taken by another request
├── ThreadBusy                a run is on the thread, and the new one was not to wait for it; nothing was written
├── RunActive                 the run has not ended, and cannot be deleted before
├── ProtocolError             something in Redis was not written by a version this one can read
├── GraphLoadError            a worker's target could not be turned into a graph
├── EncodingError             with strict_json, a graph emitted something that JSON cannot carry
├── AttemptFenced             an attempt that has lost its run wanted to write a checkpoint
└── RunFailedError            the run has ended, and not well; `.info` tells how
    ├── RunErrored            the graph raised
    ├── RunStopped            somebody stopped it
    ├── RunTimedOut           it outlasted its timeout
    └── RunLost               its workers died, more often than it has attempts, or nothing could execute it
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runstream.model import RunInfo


class RunstreamError(Exception):
    """The root of the tree: catching it catches everything that runstream raises on purpose."""


class InvalidRequest(RunstreamError, ValueError):
    """What the caller passed cannot be a run. Nothing was written.

    Attributes:
        field: the parameter at fault, with a path into it where that helps (`input.messages[0]`).
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class RunNotFound(RunstreamError, LookupError):
    """No run of this id is known: it was never enqueued here, its retention is over, or it was deleted."""

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"no run {run_id!r}: it was never enqueued in this Redis and namespace, it has been deleted, or it has "
            "expired (ended runs are kept for the retention that their producer chose)"
        )
        self.run_id = run_id


class NoRunId(InvalidRequest, RunNotFound):
    """What was looked up is no run id, so that no run has it: a bad request, and a run that is not found.

    Attributes:
        field: `run_id`.
        run_id: what was given.
    """

    def __init__(self, run_id: object, problem: str) -> None:
        RunstreamError.__init__(self, f"run_id: {problem}")
        self.field = "run_id"
        self.run_id = str(run_id)


class RunExists(RunstreamError):
    """The run id, or the idempotency key, is taken by a run with another request."""

    def __init__(self, run_id: str, idempotency_key: str | None = None) -> None:
        taken = f"run_id: {run_id!r}" if idempotency_key is None else f"idempotency_key: {idempotency_key!r}"
        super().__init__(f"{taken} is taken by a run with a different request; leave it out, or give another one")
        self.run_id = run_id


class ThreadBusy(RunstreamError):
    """A run is on the thread, and the new one was enqueued with the strategy `reject`. Nothing was written.

    Attributes:
        thread_id: the thread.
        run_id: the run that is on it.
    """

    def __init__(self, thread_id: str, run_id: str) -> None:
        super().__init__(
            f"thread_id: run {run_id} is on thread {thread_id!r}, and multitask_strategy is 'reject'; "
            "enqueue again when it has ended, or with another strategy"
        )
        self.thread_id = thread_id
        self.run_id = run_id


class RunActive(RunstreamError):
    """The run has not ended, so it cannot be deleted. Nothing was removed."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run_id: run {run_id} has not ended; stop it first, and wait for its end")
        self.run_id = run_id


class ProtocolError(RunstreamError):
    """Something in Redis was not written by a version of runstream that this one can read."""


class GraphLoadError(RunstreamError):
    """A worker's target could not be turned into a graph."""


class EncodingError(RunstreamError):
    """A run with `strict_json` emitted something that JSON cannot carry."""


class AttemptFenced(RunstreamError):
    """An attempt that does not hold its run any more wanted to write a checkpoint. Nothing was written."""

    def __init__(self, run_id: str, attempt: int) -> None:
        super().__init__(
            f"attempt {attempt} does not hold run {run_id!r} any more (the run has ended, or another attempt has it): "
            "its checkpoint was not written"
        )
        self.run_id = run_id
        self.attempt = attempt


class RunFailedError(RunstreamError):
    """The run has ended, and not well.

    Attributes:
        info: the run's record, as `Client.get` returns it.
    """

    def __init__(self, info: RunInfo, message: str) -> None:
        super().__init__(message)
        self.info = info


class RunErrored(RunFailedError):
    """The graph raised; `info.error` has the exception's type and message."""


class RunStopped(RunFailedError):
    """Somebody stopped the run; `info.stop_reason` says why."""


class RunTimedOut(RunFailedError):
    """The run outlasted its timeout."""


class RunLost(RunFailedError):
    """The run lost more workers than it has attempts, or nothing could execute it; `info.holders` has them."""
