"""The only place where a Redis key is spelled.

Every key of a cell carries the cell's hash tag, `{<namespace>:<cell>}`, so that a script touches one slot of a Redis
Cluster. arq's own keys are built around the job id, which is the run's key and so carries the tag too.

The name of a graph is any text. It is percent-encoded where it is part of a key or of a list.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote, unquote

from runstream.errors import InvalidRequest

_FORBIDDEN_IN_NAMESPACE = frozenset("{}: \t\r\n")


def quoted(graph: str) -> str:
    """Percent-encode a graph's name: letters, digits, `_`, `.`, `-` and `~` stay, of all else each byte is `%XX`."""
    return quote(graph, safe="")


def join_names(graphs: Iterable[str]) -> str:
    """Write the names of graphs as one text."""
    return ",".join(map(quoted, graphs))


def split_names(text: str) -> list[str]:
    """Read the names of graphs that `join_names` wrote."""
    return [unquote(name) for name in text.split(",")]


class Keys:
    """The keys of one cell of one namespace.

    Args:
        namespace: keeps several deployments apart in one Redis. Must not contain braces, colons or white space.
        cell: the number of the cell; 0 until a deployment has several.

    Raises:
        InvalidRequest: the namespace is empty or contains a forbidden character.
    """

    __slots__ = ("tag",)

    def __init__(self, namespace: str = "runstream", cell: int = 0) -> None:
        if not namespace or not _FORBIDDEN_IN_NAMESPACE.isdisjoint(namespace):
            raise InvalidRequest("namespace", f"{namespace!r} must be a word without braces, colons or white space")
        self.tag = f"{{{namespace}:{cell}}}"

    def run(self, run_id: str) -> str:
        """Hash: the run's record. Also arq's job id, and the member of queues and leases."""
        return f"{self.tag}:run:{run_id}"

    def events(self, run_id: str) -> str:
        """Stream: the run's events. The scripts spell it `<run>:events` from the run's key."""
        return f"{self.tag}:run:{run_id}:events"

    def settled(self, run_id: str) -> str:
        """Stream: the id of its one entry is that of the last settled event; the scripts spell it `<run>:settled`."""
        return f"{self.tag}:run:{run_id}:settled"

    def arq_job(self, run_id: str) -> str:
        """String: the job as arq writes one, in JSON."""
        return f"arq:job:{self.run(run_id)}"

    def queue(self, graph: str) -> str:
        """Sorted set: the runs that wait for a worker that has this graph, by due time in ms. An arq queue."""
        return f"{self.tag}:queue:{quoted(graph)}"

    def bell(self, graph: str) -> str:
        """List: one element per run enqueued; idle workers block on it."""
        return f"{self.tag}:bell:{quoted(graph)}"

    def thread(self, thread_id: str) -> str:
        """Sorted set: a thread's line, its runs that have not ended: by due time in ms, and 0 once they have begun."""
        return f"{self.tag}:thread:{thread_id}"

    def thread_runs(self, thread_id: str) -> str:
        """Sorted set: a thread's runs whose record exists, also those that have ended, by creation time in ms.

        The scripts spell it from the thread's line.
        """
        return f"{self.tag}:thread-runs:{thread_id}"

    def undo(self, thread_id: str) -> str:
        """Set: the runs whose checkpoints the next attempt on this thread removes first.

        The scripts spell it from the thread's line.
        """
        return f"{self.tag}:undo:{thread_id}"

    @property
    def dead(self) -> str:
        """Sorted set: the runs that ended as `lost`, by the time in ms at which they did. The scripts spell it, too."""
        return f"{self.tag}:dead"

    @property
    def leases(self) -> str:
        """Sorted set: the runs that have not ended, by the time in ms at which somebody has to look after them.

        Of a running run, that is when its lease expires; of a queued one, when it has waited for a worker long enough.
        """
        return f"{self.tag}:leases"

    @property
    def reaper(self) -> str:
        """String: when the leases were last looked through, in ms."""
        return f"{self.tag}:reaper"

    @property
    def runs(self) -> str:
        """Sorted set: every run whose record exists, by creation time in ms."""
        return f"{self.tag}:runs"

    def idempotency(self, key: str) -> str:
        """String: the run id that was enqueued under this idempotency key."""
        return f"{self.tag}:idempotency:{key}"

    @property
    def workers(self) -> str:
        """Sorted set: the workers by the time in ms of their last beat."""
        return f"{self.tag}:workers"

    def worker(self, worker_id: str) -> str:
        """Hash: what a worker says of itself."""
        return f"{self.tag}:worker:{worker_id}"

    def held(self, worker_id: str) -> str:
        """Set: the runs that were handed to this worker, until they end or are given back."""
        return f"{self.tag}:worker:{worker_id}:held"

    def worker_bell(self, worker_id: str) -> str:
        """List: the runs of this worker that somebody wants stopped."""
        return f"{self.tag}:worker:{worker_id}:bell"

    def checkpoints(self, thread_id: str) -> str:
        """Hash: a thread's checkpoints, with everything that belongs to them."""
        return f"{self.tag}:checkpoints:{thread_id}"

    def checkpoint_index(self, thread_id: str) -> str:
        """Sorted set: the names of a thread's checkpoints and of their writes, in order.

        Not spelled from `checkpoints`: a thread id is any text, and could be another thread's with the ending.
        """
        return f"{self.tag}:checkpoint-index:{thread_id}"

    @property
    def checkpointed(self) -> str:
        """Sorted set: the threads that have checkpoints, by the time in ms at which these expire."""
        return f"{self.tag}:checkpointed"

    @property
    def jobs(self) -> str:
        """Sorted set: arq's own queue, for a worker's cron jobs and other functions."""
        return f"{self.tag}:jobs"

    def document(self, kind: str, document_id: str) -> str:
        """Hash: a JSON document of a service in front, and its version."""
        return f"{self.tag}:document:{kind}:{document_id}"

    def documents(self, kind: str) -> str:
        """Sorted set: the documents of a kind (by id) by the time in ms of their first write."""
        return f"{self.tag}:documents:{kind}"

    def delivery(self, delivery_id: str) -> str:
        """Hash: what a service in front is to tell somebody when a run has ended."""
        return f"{self.tag}:delivery:{delivery_id}"

    @property
    def deliveries(self) -> str:
        """Sorted set: the shares that have deliveries, by the time in ms when their first one is due.

        The scripts spell from it the key of a share, and that of a delivery.
        """
        return f"{self.tag}:deliveries"

    def deliveries_of(self, share: str) -> str:
        """Sorted set: the deliveries of a share (by id) by the time in ms when a gateway has to attend to them."""
        return f"{self.tag}:deliveries:{share}"

    def rate(self, subject: str) -> str:
        """Hash: what is left of the requests that somebody may make at once."""
        return f"{self.tag}:rate:{subject}"

    def places(self, kind: str, subject: str) -> str:
        """Sorted set: what somebody has of a limited kind, such as open streams, by the time in ms until when."""
        return f"{self.tag}:places:{kind}:{subject}"

    def stored(self, subject: str) -> str:
        """Sorted set: what an owner keeps (`<kind>:<id>`) by its bytes, and the sums of it (`#bytes`, `#<kind>`)."""
        return f"{self.tag}:stored:{subject}"

    def reserved(self, subject: str) -> str:
        """Sorted set: what an owner is about to write (`<kind>:<id>`) by the time in ms until which it counts so."""
        return f"{self.tag}:reserved:{subject}"

    def wake(self, reader_id: str) -> str:
        """Stream: written by a reading process to wake its own blocked read."""
        return f"{self.tag}:wake:{reader_id}"

    def run_id(self, run_key: str) -> str:
        """The run id of a run's key."""
        return run_key[len(self.tag) + len(":run:") :]
