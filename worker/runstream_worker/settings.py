"""How a worker behaves: values with defaults; the command line and the environment fill them at the edge."""

from __future__ import annotations

from dataclasses import dataclass, field

from runstream.settings import check_number

_LONGEST_POLL = 10.0
"""Shorter than the time within which Redis has to answer."""


@dataclass(frozen=True)
class WorkerSettings:
    """How a worker behaves. Times are in seconds, sizes in bytes.

    Attributes:
        redis_url: of Redis.
        namespace: the deployment's namespace, the same as its clients'.
        concurrency: how many runs one process executes at a time.
        checkpointer_url: where LangGraph keeps its checkpoints: `redis` (where the runs are), `redis://...`,
            `sqlite:///PATH`, `postgresql://...`, `memory://`; or `none`, which leaves each graph what it was compiled
            with. None is `redis`.
        keep_checkpointer: whether graphs keep the checkpointer that they were compiled with, if any. None is yes unless
            `checkpointer_url` is given: in code, the graph and the worker have one author. The commands say no.
        checkpoint_classes: classes, `module:Class` each, of which checkpoints may hold objects, beside LangGraph's own
            and those that a graph's state is declared with. Objects of others are read as plain data.
        restartable: the graphs, by name, whose runs may start over where they have no checkpoints to go on from.
        strict_json: whether a value that has no JSON form ends its run with an `EncodingError`, where the run's
            request does not decide; otherwise a marker stands in its place.
        checkpoint_ttl: how long Redis keeps a thread's checkpoints after it was last written to.
        own_thread_ttl: the same, for the thread of a run that was given none.
        checkpoint_patience: how long a call to the checkpoints' database is made again while that is away; then the run
            is given back. (Calls to the Redis of the runs wait for it without end.)
        max_faults: how often a run may be given back for that, before it ends as `lost`.
        run_timeout: what an attempt may take when its request says nothing; None is no limit.
        max_stream_bytes: a run that publishes more than this, or has a larger result, ends with an error.
        buffer_events: how many events of one run wait to be published before the graph is slowed down.
        buffer_bytes: how many bytes of them.
        lease: how long a worker that says nothing keeps its runs.
        beat_interval: how often it says something.
        stall_limit: a worker whose event loop has been blocked for longer than this gives up its runs.
        cancel_grace: how long a node may take to react to being cancelled before it is left behind.
        shutdown_grace: how long the steps that run may take after SIGTERM before they are cut off.
        poll_interval: how often an idle worker looks for due runs when no bell has rung; 10 at most.
    """

    redis_url: str = field(default="redis://localhost:6379/0", repr=False)
    namespace: str = "runstream"
    concurrency: int = 25
    checkpointer_url: str | None = field(default=None, repr=False)
    keep_checkpointer: bool | None = None
    checkpoint_classes: tuple[str, ...] = ()
    restartable: frozenset[str] = frozenset()
    strict_json: bool = False
    checkpoint_ttl: float = 30 * 24 * 3600.0
    own_thread_ttl: float = 24 * 3600.0
    checkpoint_patience: float = 30.0
    max_faults: int = 100
    run_timeout: float | None = None
    max_stream_bytes: int = 64 * 1024 * 1024
    buffer_events: int = 1000
    buffer_bytes: int = 4 * 1024 * 1024
    lease: float = 3.0
    beat_interval: float = 1.0
    stall_limit: float = 60.0
    cancel_grace: float = 5.0
    shutdown_grace: float = 20.0
    poll_interval: float = 1.0

    @property
    def keeps_own(self) -> bool:
        """Whether graphs keep the checkpointer that they were compiled with."""
        return self.checkpointer_url is None if self.keep_checkpointer is None else self.keep_checkpointer

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            InvalidRequest: a value is out of its range.
        """
        for name in ("concurrency", "max_faults", "max_stream_bytes", "buffer_events", "buffer_bytes"):
            check_number(name, getattr(self, name), least=1, whole=True)
        for name in ("beat_interval", "stall_limit", "poll_interval", "checkpoint_patience"):
            check_number(name, getattr(self, name), least=0.001)
        for name in ("cancel_grace", "shutdown_grace"):
            check_number(name, getattr(self, name), least=0)
        # A lease must outlast a beat that fails and the one after it.
        check_number("lease", self.lease, least=self.beat_interval * 1.5)
        check_number("poll_interval", self.poll_interval, least=0.001, most=_LONGEST_POLL)
        if self.run_timeout is not None:
            check_number("run_timeout", self.run_timeout, least=0.001)
