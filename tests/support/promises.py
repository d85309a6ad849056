"""What `docs/PROTOCOL.md` promises of all that is in Redis, whatever has happened; said without a model."""

from __future__ import annotations

import itertools
from typing import Any

from tests.support.snapshot import Snapshot

from runstream.model import TRANSITIONS, EventId, Status


def check_threads(now: Snapshot) -> None:
    """Lines, queues and leases say the same of every run."""
    status = {run_id: Status(now.record(run_id)["status"]) for run_id in now.run_ids}
    lines = now.lines()
    in_line = [run_id for line in lines.values() for run_id, _ in line]
    at_work = sorted(run_id for run_id in status if not status[run_id].ended)
    assert sorted(in_line) == at_work, "every run that has not ended is in one line"
    assert sorted(now.leases()) == at_work, "every run that has not ended is looked after"
    assert {run_id: thread for run_id in in_line for thread in [now.record(run_id)["line"]]} == {
        run_id: now.keys.thread(thread) for thread, line in lines.items() for run_id, _ in line
    }
    for line in lines.values():
        running = [run_id for run_id, _ in line if status[run_id] is Status.RUNNING]
        assert running in ([], [line[0][0]]), "at most one run of a thread is executed, the head of its line"
        assert [begun for _, begun in line[1:]] == [False] * len(line[1:]), "who has begun is at the head"
    heads = [line[0][0] for line in lines.values()]
    waiting = [run_id for run_id in heads if status[run_id] is Status.QUEUED]
    queued = [(graph, run_id) for graph, queue in now.queues().items() for run_id in queue]
    assert sorted(queued) == sorted((now.record(run_id)["graph"], run_id) for run_id in waiting), (
        "the heads of the lines, and nobody else, wait in the queues of their graphs"
    )
    assert now.thread_runs() == now.runs_by_thread(), "a thread's runs are found, also those that have ended"
    lost = [run_id for run_id in status if status[run_id] is Status.LOST]
    assert set(lost) <= set(now.dead()), "what was lost is kept apart"


def check_events(now: Snapshot, with_gaps: set[str]) -> None:
    """Every stream can be read as readers do."""
    for run_id in now.run_ids:
        record, events = now.record(run_id), now.events(run_id)
        ids = [event_id for event_id, _ in events]
        for one, next_ in itertools.pairwise(ids):
            assert one < next_, "ids ascend"
            if one.attempt == next_.attempt and run_id not in with_gaps:
                assert next_.seq == one.seq + 1, "no number is left out within an attempt"
        ended = Status(record["status"]).ended
        ends = [event_id for event_id, event in events if event["m"] == "end"]
        assert ends == (ids[-1:] if ended else []), "one end, the last"
        assert [str(end) for end in ends] == ([record["end_id"]] if ended else [])
        if ended:
            check_end(events[-1][1]["d"], record, ids)


def check_end(end: dict[str, Any], record: dict[str, str], ids: list[EventId]) -> None:
    """The end says how and, where nobody held the run, behind which event."""
    assert end["status"] == record["status"]
    if ids[-1].seq == 0 and "at" in end:
        assert end.get("after") == (str(ids[-2]) if ids[1:] else None)
        assert end.get("reason") == (record["stop"] if record["status"] == "stopped" else None)


def check_lives(now: Snapshot) -> None:
    """Every key expires, and none that many runs share before one of these runs."""
    assert [name for name, left in now.lives.items() if left < 0] == []
    queues = {run_id: graph for graph, queue in now.queues().items() for run_id in queue}
    for run_id in now.run_ids:
        shared = [now.keys.runs, now.keys.thread_runs(now.thread_of(run_id))]
        if run_id in now.leases():
            shared += [now.keys.leases, now.record(run_id)["line"]]
        if run_id in queues:
            shared.append(now.keys.queue(queues[run_id]))
        if now.record(run_id)["status"] == Status.LOST:
            shared.append(now.keys.dead)
        lives = now.lives[now.keys.run(run_id)]
        assert {name: now.lives.get(name) for name in shared if now.lives.get(name, 0) < lives - 1000} == {}
        assert abs(now.lives.get(now.keys.events(run_id), lives) - lives) < 1000


def check_steps(before: Snapshot, now: Snapshot) -> None:
    """What has become of what was there is what may become of it."""
    for run_id in set(before.run_ids) & set(now.run_ids):
        was, is_ = before.record(run_id), now.record(run_id)
        if was["status"] != is_["status"]:
            assert Status(is_["status"]) in TRANSITIONS[Status(was["status"])]
        assert int(is_["attempt"]) >= int(was["attempt"])
        events = before.events(run_id)
        assert now.events(run_id)[: len(events)] == events, "what was written stays as it is"


def check_bells(before: Snapshot, now: Snapshot) -> None:
    """Whoever comes into a queue rings for a worker."""
    for graph, queue in now.queues().items():
        assert set(queue) <= set(before.queues().get(graph, [])) or now.strokes(graph) > 0
