"""What the scripts do, said in Python: a model that the real ones are compared with. Nothing here does I/O.

It knows runs only. Lines, queues, leases and who holds what are worked out from them, so that the model cannot forget
to keep one of these up to date, as a script can. Times are in ticks; a tick is as long as whoever compares likes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from runstream.model import Status, StopAction, Strategy
from runstream.scripts import Cause, Hold


class Handed(NamedTuple):
    """A run that was given to a worker."""

    run_id: str
    attempt: int
    after: str
    left: str
    undo: frozenset[str]


@dataclass
class ModelRun:
    """A run. `number` counts the runs as they come.

    `ready` is when it may be taken; `look_at`, when its lease or its time to wait is over. `created` is when, by Redis'
    clock. `elsewhere`: another server has given out its last number, so the next one is that server's to choose.
    """

    run_id: str
    number: int
    thread: str
    graph: str
    digest: str
    due: float
    wait: float
    retention: float
    max_attempts: int
    ready: float = 0
    look_at: float = 0
    status: Status = Status.QUEUED
    begun: bool = False
    attempt: int = 0
    seq: int = -1
    after: str = ""
    worker: str = ""
    left: str = ""
    failures: int = 0
    holders: list[tuple[int, str, str]] = field(default_factory=list)
    stop: tuple[str, StopAction] | None = None
    size: int = 0
    error: str = ""
    events: list[str] = field(default_factory=list)
    kept_until: float = 0
    created: int = 0
    elsewhere: bool = False

    @property
    def last(self) -> str:
        """The id of the last event."""
        return f"{self.attempt}-{self.seq}" if self.seq >= 0 else self.after

    def write(self, seq: int) -> None:
        """Append an event."""
        self.seq = seq
        self.events.append(self.last)


class Model:
    """The runs of a cell.

    Args:
        lease: how long a worker's lease lasts, in ticks.
        dead_kept: how long, at least, a run that was lost is kept, in ticks.
        next_wait: how long, at least, a run that has begun waits for its next attempt, in ticks.
        chosen: gives the number that a run has, where it is the server's to choose.
    """

    def __init__(self, lease: float, dead_kept: float, next_wait: float, chosen: Callable[[ModelRun], int]) -> None:
        self._chosen = chosen
        self.now = 0.0
        self.runs: dict[str, ModelRun] = {}
        self.undo: dict[str, set[str]] = {}
        self._lease = lease
        self._dead_kept = dead_kept
        self._next_wait = next_wait
        self._keys: dict[str, str] = {}
        self._looked_at = float("-inf")

    # -- what follows from the runs -----------------------------------------------------------------------------------

    def at_work(self) -> list[ModelRun]:
        """The runs that have not ended."""
        return [run for run in self.runs.values() if not run.status.ended]

    def line(self, thread: str) -> list[ModelRun]:
        """The runs of a thread that have not ended: who has begun, and then as they are due."""
        runs = [run for run in self.at_work() if run.thread == thread]
        return sorted(runs, key=lambda run: (not run.begun, run.due, run.number))

    def queue(self, graphs: Collection[str] | None = None) -> list[ModelRun]:
        """The runs that wait for a worker, of these graphs or of all: the heads of lines."""
        heads = [self.line(thread)[0] for thread in self._threads()]
        waiting = [run for run in heads if run.status is Status.QUEUED and (graphs is None or run.graph in graphs)]
        return sorted(waiting, key=lambda run: (run.ready, run.number))

    def due(self, graphs: Collection[str] | None = None) -> list[ModelRun]:
        """Those that may be taken now."""
        return [run for run in self.queue(graphs) if run.ready <= self.now]

    def holds(self) -> list[Hold]:
        """Who executes what."""
        running = [run for run in self.runs.values() if run.status is Status.RUNNING]
        return [Hold(run.run_id, run.attempt, run.worker) for run in running]

    def overdue(self) -> list[ModelRun]:
        """The runs whose time has passed, the longest first."""
        runs = [run for run in self.at_work() if run.look_at <= self.now]
        return sorted(runs, key=lambda run: run.look_at)

    def _threads(self) -> set[str]:
        return {run.thread for run in self.at_work()}

    # -- what the scripts do ------------------------------------------------------------------------------------------

    def enqueue(self, run: ModelRun, strategy: Strategy, key: str | None) -> tuple[str, str]:
        """`enqueue.lua`; the run's due time is taken as it is, but for one that has passed."""
        known = self.runs.get(self._keys.get(key or "", "")) or self.runs.get(run.run_id)
        if known is not None:
            return "known" if known.digest == run.digest else "taken", known.run_id
        others = self.line(run.thread)
        if others and strategy == "reject":
            return "busy", others[0].run_id
        run.due = run.ready = max(run.due, self.now)
        run.look_at = run.due + run.wait
        self.runs[run.run_id] = run
        if key is not None:
            self._keys[key] = run.run_id
        if strategy in ("interrupt", "rollback"):
            for other in others:
                self.stop(other.run_id, f"run {run.run_id} took its place on the thread", strategy)
        return "new", run.run_id

    def claim(
        self, worker: str, graphs: Collection[str], limit: int, known: Collection[str] | None = None
    ) -> tuple[list[Handed], list[Handed]]:
        """`claim.lua`: what is handed out again, in no order, and what is new."""
        again = [run for run in self.runs.values() if run.status is Status.RUNNING and run.worker == worker]
        again = [] if known is None else [run for run in again if run.run_id not in known]
        for run in again:
            run.look_at = self.now + self._lease
        room = max(limit - len(again), 0)
        new = self.due(graphs)[:room]
        for run in new:
            self._start(run, worker, self._next_number(run))
        return [self._handed(run) for run in again], [self._handed(run) for run in new]

    def _next_number(self, run: ModelRun) -> int:
        number = self._chosen(run) if run.elsewhere else run.attempt + 1
        run.elsewhere = False
        return number

    def _start(self, run: ModelRun, worker: str, number: int) -> None:
        run.after, run.seq = run.last, -1
        run.attempt = number
        run.status, run.begun, run.worker, run.look_at = Status.RUNNING, True, worker, self.now + self._lease
        if not run.after:
            run.write(0)

    def _handed(self, run: ModelRun) -> Handed:
        undo = frozenset(self.undo.get(run.thread, ()))
        return Handed(run.run_id, run.attempt, run.after, run.left, undo)

    def append(self, hold: Hold, first: int, sizes: Sequence[int], limit: int, *, gap: bool) -> tuple[str, str]:
        """`append.lua`, with the sizes of the events."""
        run = self.runs.get(hold.run_id)
        if run is None or hold not in self.holds():
            return "lost", ""
        if first > run.seq + 1 and not gap:
            return "behind", str(run.seq)
        for seq, size in enumerate(sizes, first):
            if seq <= run.seq:
                continue
            if run.size + size > limit:
                return "full", str(run.seq)
            run.size += size
            run.write(seq)
        return ("stop", run.stop[0]) if run.stop is not None else ("ok", "")

    def beat(self, worker: str, attempts: Mapping[str, int]) -> tuple[set[str], dict[str, tuple[str, str]]]:
        """`beat.lua`: what is lost, and what is to be stopped."""
        held = {hold.run_id for hold in self.holds() if (hold.run_id, hold.attempt) in attempts.items()}
        held = {run_id for run_id in held if self.runs[run_id].worker == worker}
        for run_id in held:
            self.runs[run_id].look_at = self.now + self._lease
        wishes = {run_id: self.runs[run_id].stop for run_id in held}
        return set(attempts) - held, {run_id: wish for run_id, wish in wishes.items() if wish is not None}

    def finish(self, hold: Hold, end_seq: int, status: Status, *, gap: bool) -> tuple[str, int]:
        """`finish.lua`."""
        run = self.runs.get(hold.run_id)
        if run is None or (run.attempt, run.worker) != (hold.attempt, hold.worker_id):
            return "lost", 0
        if run.status is status:
            return "ok", 0
        if run.status is not Status.RUNNING:
            return "lost", 0
        if end_seq > run.seq + 1 and not gap:
            return "behind", run.seq
        run.write(max(end_seq, run.seq + 1))
        self._keep_for_undo(run)
        self._end(run, status)
        return "ok", 0

    def release(self, hold: Hold, cause: Cause, delay: float) -> str:
        """`release.lua`."""
        if hold not in self.holds():
            return "not held"
        return self._leave(self.runs[hold.run_id], cause, delay)

    def regain(self, hold: Hold, after: str, created: int, *, may: bool) -> int | None:
        """`regain.lua`: the sequence number of the attempt's last event; None where the run is lost to it."""
        run = self.runs.get(hold.run_id)
        if run is None:
            return None
        if hold in self.holds():
            return run.seq
        is_forgotten = run.status is Status.QUEUED and run.attempt < hold.attempt and run.created == created
        if not may or not is_forgotten or run.last != after or self.line(run.thread)[0] is not run:
            return None
        self._start(run, hold.worker_id, hold.attempt)
        return run.seq

    def disown(self, hold: Hold) -> bool:
        """`disown.lua`: whether Redis had forgotten the attempt."""
        run = self.runs.get(hold.run_id)
        if run is None or run.status.ended:
            return False
        is_others = run.status is Status.RUNNING and run.attempt == hold.attempt and run.worker != hold.worker_id
        if run.attempt >= hold.attempt and not is_others:
            return False
        if run.attempt < hold.attempt:
            run.after, run.seq = run.last, -1
            run.attempt, run.worker, run.left = hold.attempt, hold.worker_id, "lost"
        if run.status is Status.QUEUED:
            run.look_at = self.now + max(run.wait, self._next_wait)
            return True
        if self._leave(run, "lost", 0, failed=False) == Status.QUEUED and is_others:
            run.seq, run.after, run.events = -1, "", []
            self.undo.setdefault(run.thread, set()).add(run.run_id)
        return True

    def stop(self, run_id: str, reason: str, action: StopAction) -> tuple[str, str]:
        """`stop.lua`."""
        run = self.runs.get(run_id)
        if run is None:
            return "missing", ""
        if run.status.ended:
            return "ended", run.status
        if run.stop is not None:
            first, wanted = run.stop
            reason, action = first, "rollback" if "rollback" in (wanted, action) else "interrupt"
        run.stop = (reason, action)
        if run.status is Status.RUNNING and run.look_at >= self.now:
            return "stopping", run.worker
        if run.status is Status.RUNNING:
            self._leave(run, "lost", 0)
        else:
            self._end_stopped(run)
        return "stopped", ""

    def forget(self, run_id: str) -> str:
        """`forget.lua`."""
        run = self.runs.get(run_id)
        if run is None:
            return "missing"
        if not run.status.ended:
            return "active"
        del self.runs[run_id]
        return "ok"

    def look(self) -> bool:
        """What `reap.lua` does first: whether leases mean anything; where they do not, each has one time more."""
        away = self.now - self._looked_at > self._lease
        self._looked_at = self.now
        for run in self.overdue() if away else ():
            run.look_at = self.now + self._lease
        return not away

    def reap(self, run_ids: Iterable[str]) -> dict[str, str]:
        """`reap.lua`, for these of those that are overdue: what became of them, `queued`, `stopped` or `lost`."""
        return {run_id: self._look_after(self.runs[run_id]) for run_id in run_ids}

    def _look_after(self, run: ModelRun) -> str:
        if run.status is Status.RUNNING:
            return self._leave(run, "lost", 0)
        self._end_unheld(run, Status.LOST, "NotStarted")
        return "lost"

    def undone(self, thread: str) -> set[str]:
        """What a worker has removed from the thread that it was told to."""
        return self.undo.pop(thread, set())

    def let_pass(self, ticks: float) -> None:
        """Let time pass; with a negative number the clock is put back."""
        self.now += ticks
        expired = [run for run in self.runs.values() if run.status.ended and run.kept_until <= self.now]
        for run in expired:
            del self.runs[run.run_id]

    # -- how attempts and runs end ------------------------------------------------------------------------------------

    def _leave(self, run: ModelRun, cause: str, delay: float, *, failed: bool | None = None) -> str:
        run.holders.append((run.attempt, run.worker, cause))
        run.failures += cause == "lost" if failed is None else failed
        run.left = cause
        if run.stop is not None:
            self._end_stopped(run)
        elif run.failures >= run.max_attempts:
            self._end_unheld(run, Status.LOST, "WorkerLost")
        else:
            run.status, run.look_at = Status.QUEUED, self.now + delay + max(run.wait, self._next_wait)
            run.ready = self.now + delay if delay else run.due
        return run.status

    def _end_stopped(self, run: ModelRun) -> None:
        self._keep_for_undo(run)
        self._end_unheld(run, Status.STOPPED)

    def _keep_for_undo(self, run: ModelRun) -> None:
        if run.stop is not None and run.stop[1] == "rollback" and run.attempt > 0:
            self.undo.setdefault(run.thread, set()).add(run.run_id)

    def _end_unheld(self, run: ModelRun, status: Status, error: str = "") -> None:
        run.error = error
        run.attempt = self._next_number(run)
        run.write(0)
        self._end(run, status)

    def _end(self, run: ModelRun, status: Status) -> None:
        run.status = status
        run.kept_until = self.now + (max(run.retention, self._dead_kept) if status is Status.LOST else run.retention)

    # -- what can be compared -----------------------------------------------------------------------------------------

    def view(self) -> dict[str, Any]:
        """What should be in Redis; empty keys are none."""
        held = _grouped((hold.worker_id, hold.run_id) for hold in self.holds())
        return {
            "runs": {run.run_id: _record(run) for run in self.runs.values()},
            "lines": {thread: [(run.run_id, run.begun) for run in self.line(thread)] for thread in self._threads()},
            "queues": _grouped((run.graph, run.run_id) for run in self.queue()),
            "leases": {run.run_id: run.look_at for run in self.at_work()},
            "held": {worker: sorted(run_ids) for worker, run_ids in held.items()},
            "undo": {thread: sorted(run_ids) for thread, run_ids in self.undo.items()},
            "dead": sorted(run.run_id for run in self.runs.values() if run.status is Status.LOST),
        }


def _record(run: ModelRun) -> dict[str, Any]:
    return {
        "status": run.status,
        "attempt": run.attempt,
        "last": run.last,
        "worker": run.worker,
        "left": run.left,
        "failures": run.failures,
        "holders": run.holders,
        "stop": run.stop,
        "size": run.size,
        "error": run.error,
        "events": run.events,
    }


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for group, member in pairs:
        groups.setdefault(group, []).append(member)
    return groups
