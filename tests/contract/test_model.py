"""The scripts against a model of them, in every order of calls that Hypothesis can find.

After every step all that is in Redis is compared with `tests.support.run_model`, and the promises of `docs/PROTOCOL.md`
are looked at one by one, without the model. Time passes by moving what is stored of it.

A failure prints the calls that led to it, the shortest that were found, and is tried again first by the next run (the
folder `.hypothesis`). To search for longer:

    RUNSTREAM_HISTORIES=2000 RUNSTREAM_HISTORY_STEPS=150 pytest tests/contract/test_model.py
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.support.clock import let_pass
from tests.support.forgetting import Memory
from tests.support.promises import check_bells, check_events, check_lives, check_steps, check_threads
from tests.support.run_model import Handed, Model, ModelRun
from tests.support.snapshot import Snapshot, take_snapshot

from runstream.connection import connect
from runstream.keys import Keys
from runstream.model import STRATEGIES, Status, StopAction, Strategy
from runstream.scripts import Append, Cause, Claimed, Enqueue, Hold, Scripts

HISTORIES = int(os.environ.get("RUNSTREAM_HISTORIES", "40"))
STEPS = int(os.environ.get("RUNSTREAM_HISTORY_STEPS", "50"))
TICK = 960_000
"""Milliseconds: a tick is long, so that what a step takes does not matter; and a day is a whole number of them."""
LEASE = 2.5
RETENTION = 3.5
DAY = 24 * 3600 * 1000 / TICK
DEAD_KEPT = 7 * DAY
TTL = 70
"""Longer than all that may pass in one history, in ticks: nothing that is at work expires."""
LONGEST = 60
DATABASE = 9
"""Where nobody else is."""
ROOM = 10_000
MOST = 6
"""How many runs there are at work at once."""

ENDS = tuple(status for status in Status if status.ended and status is not Status.LOST)

T = TypeVar("T")


def ms(ticks: float) -> int:
    """Ticks in milliseconds."""
    return round(ticks * TICK)


def quarter(time: float) -> float:
    """A time in ticks as exactly as it is known: Redis' clock goes on while calls are made."""
    return round(time * 4) / 4


@dataclass(frozen=True)
class Wanted:
    """What a producer asks for. Times are in ticks; without a thread the run has its own."""

    thread: str | None
    graph: str
    strategy: Strategy
    due: int
    absolute: bool
    wait: float
    max_attempts: int
    key: str | None
    digest: str


def wanted() -> st.SearchStrategy[Wanted]:
    """Anything that a producer may ask for."""
    return st.builds(
        Wanted,
        thread=st.sampled_from((None, "a", "a", "a", "b")),
        graph=st.sampled_from(("g", "h")),
        strategy=st.sampled_from(("enqueue", "enqueue", *STRATEGIES)),
        due=st.sampled_from((0, 0, 0, 1, 2, 3)),
        absolute=st.booleans(),
        wait=st.sampled_from((9.25, 9.25, 2.25, DAY + 9.25)),
        max_attempts=st.integers(1, 3),
        key=st.sampled_from((None, None, None, "k")),
        digest=st.sampled_from(("d1", "d1", "d2")),
    )


def one_of(choose: Callable[[RunMachine], list[T]]) -> st.SearchStrategy[T]:
    """One of what the machine has at the moment."""
    return st.runner().flatmap(lambda machine: st.sampled_from(choose(machine)))


def holds() -> st.SearchStrategy[Hold]:
    """An attempt that is executed; or, less often, one that was, or that never was."""
    return one_of(lambda machine: machine.model.holds() * 6 + machine.holds + machine.impostors())


def run_ids() -> st.SearchStrategy[str]:
    """A run, or none."""
    return one_of(lambda machine: [hold.run_id for hold in machine.model.holds()] + [*machine.model.runs, "nobody"])


class RunMachine(RuleBasedStateMachine):
    """Calls the scripts and the model alike."""

    url: ClassVar[str] = ""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        # Any: the types of redis-py 5 say that its asynchronous commands may be synchronous.
        self.redis: Any = connect(self.url, connections=1)
        self.call(self.redis.flushdb())
        self.keys = Keys("model")
        self.scripts = Scripts(self.redis, self.keys)
        self.model = Model(LEASE, DEAD_KEPT, next_wait=DAY, chosen=self.chosen)
        self.remembered: tuple[Memory, dict[str, Any], float] | None = None
        self.claims: dict[Hold, Claimed] = {}
        # By run and when it was created: the highest number that anybody can have seen, also of what was lost.
        self.given: dict[tuple[str, int], int] = {}
        self.workers = ["w1", "w2"]
        self.known: dict[str, set[str]] = {}
        self.holds: list[Hold] = []
        self.sent: dict[str, Enqueue] = {}
        self.with_gaps: set[str] = set()
        self.numbered = 0
        self.released = 0
        self.spent = 0.0
        self.moved = False
        self.before: Snapshot | None = None

    def teardown(self) -> None:
        """Close what was opened."""
        self.call(self.redis.flushdb())
        self.call(self.redis.aclose())
        self.runner.close()

    def call(self, coroutine: Any) -> Any:
        """Wait for a call."""
        return self.runner.run(coroutine)

    # -- producers ----------------------------------------------------------------------------------------------------

    @initialize(some=st.lists(wanted(), min_size=1, max_size=4), limit=st.integers(1, 4))
    def begin(self, some: list[Wanted], limit: int) -> None:
        """Let there be runs, and a worker that has taken some of them."""
        for one in some:
            self.enqueue(one)
        self.claim(at=0, graphs=["g", "h"], limit=limit, says=False, reply="heard")

    @precondition(lambda self: len(self.model.at_work()) < MOST)
    @rule(one=wanted())
    def enqueue(self, one: Wanted) -> None:
        """A producer enqueues a run."""
        self.numbered += 1
        number = self.numbered
        run_id = f"r{number}"
        thread = one.thread or run_id
        # An absolute time has its own place between the ticks, so that the order of all due times is known.
        later = one.due + 0.25 + number / TICK if one.absolute else one.due
        now = self.call(self.redis.time())[0] * 1000 if one.absolute else 0
        sent = Enqueue(
            run_id=run_id,
            graph=one.graph,
            thread_id=thread,
            digest=one.digest,
            due=now + ms(later),
            due_is_absolute=one.absolute,
            job_before="[",
            job_after="]",
            queued_ttl=ms(one.wait),
            retention=ms(RETENTION),
            record={"graph": one.graph, "request": run_id, "max_attempts": one.max_attempts},
            idempotency_key=one.key,
            strategy=one.strategy,
        )
        due = self.model.now + later
        self.sent[run_id] = sent
        self.send(
            sent,
            ModelRun(run_id, number, thread, one.graph, one.digest, due, one.wait, RETENTION, one.max_attempts),
        )

    @precondition(lambda self: self.model.runs)
    @rule(run_id=one_of(lambda machine: list(machine.model.runs)), changed=st.booleans())
    def enqueue_again(self, run_id: str, changed: bool) -> None:
        """A producer that heard nothing sends the same again, or another one uses an id twice."""
        digest = "other" if changed else self.sent[run_id].digest
        self.send(
            replace(self.sent[run_id], digest=digest),
            replace(self.model.runs[run_id], digest=digest),
        )

    def send(self, sent: Enqueue, run: ModelRun) -> None:
        """Enqueue a run."""
        (told,) = self.call(self.scripts.enqueue([sent]))
        run.created = told.created_at
        assert (told.outcome, told.run_id) == self.model.enqueue(run, sent.strategy, sent.idempotency_key)

    @rule(
        run_id=run_ids(),
        actions=st.lists(st.sampled_from(("interrupt", "rollback")), min_size=1, max_size=3),
        late=st.booleans(),
    )
    def stop(self, run_id: str, actions: list[StopAction], late: bool) -> None:
        """Some want a run to end, the last of them perhaps when its worker has died and nobody has noticed."""
        for number, action in enumerate(actions, 1):
            if late and number == len(actions) and self.spent < LONGEST:
                self.move_clock(LEASE + 0.5)
            reply = self.call(self.scripts.stop(run_id, f"{action} it", action))
            assert reply == self.model.stop(run_id, f"{action} it", action)

    @precondition(lambda self: self.model.runs)
    @rule(
        run_id=one_of(lambda machine: [*machine.ended() * 3, *machine.model.runs, "nobody"]),
        times=st.integers(1, 2),
        again=st.booleans(),
    )
    def forget(self, run_id: str, times: int, again: bool) -> None:
        """Somebody deletes a run that has ended, or wants to delete another; its id may be used again."""
        run = self.model.runs.get(run_id)
        for _ in range(times):
            expected = self.model.forget(run_id)
            assert self.call(self.scripts.forget(run_id)) == expected
        if again and run is not None and run_id not in self.model.runs and len(self.model.at_work()) < MOST:
            self.all_is_well()
            self.numbered += 1
            self.sent[run_id] = replace(self.sent[run_id], digest="d3", due=0, due_is_absolute=False)
            kept = (run.thread, run.graph, "d3", self.model.now, run.wait, RETENTION, run.max_attempts)
            self.send(self.sent[run_id], ModelRun(run_id, self.numbered, *kept))

    def ended(self) -> list[str]:
        """The runs that have ended and are still kept."""
        return [run.run_id for run in self.model.runs.values() if run.status.ended]

    # -- workers ------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.model.due())
    @rule(
        at=st.integers(0, 1),
        graphs=st.sampled_from((["g", "h"], ["h", "g"], ["g"], ["h"])),
        limit=st.integers(1, 4),
        says=st.booleans(),
        reply=st.sampled_from(("heard", "lost", "lost, and asked for again")),
    )
    def claim(self, *, at: int, graphs: list[str], limit: int, says: bool, reply: str) -> None:
        """A worker takes runs. It may say what it knows that it holds, for it may have missed a reply, as this one."""
        worker = self.workers[at]
        known = self.known.setdefault(worker, set())
        handed = self.claim_and_compare(worker, graphs, limit, sorted(known) if says else None)
        if reply == "lost, and asked for again":
            handed = self.claim_and_compare(worker, graphs, limit, sorted(known))
        known |= set() if reply == "lost" else handed

    def claim_and_compare(self, worker: str, graphs: list[str], limit: int, known: list[str] | None) -> set[str]:
        """Claim; what was handed out."""
        reply = self.call(
            self.scripts.claim(worker, graphs, limit=limit, lease=ms(LEASE), running_ttl=ms(TTL), known=known)
        )
        again, new = self.model.claim(worker, graphs, limit, known)
        handed = [handed_in(claimed) for claimed in reply.claimed]
        assert sorted(handed[: len(again)]) == sorted(again)
        assert handed[len(again) :] == new
        assert [claimed.request.decode() for claimed in reply.claimed] == [one.run_id for one in handed]
        assert reply.dropped == []
        waits = [run.ready - self.model.now for run in self.model.queue(graphs)]
        next_due = quarter(max(min(waits), 0)) if waits else None
        assert (quarter(reply.next_due * 1000 / TICK) if reply.next_due >= 0 else None) == next_due
        self.holds += [Hold(one.run_id, one.attempt, worker) for one in new]
        self.claims |= {Hold(one.run_id, one.attempt, worker): one for one in reply.claimed}
        return {one.run_id for one in handed}

    def impostors(self) -> list[Hold]:
        """Who would write what another holds, as after a restart of Redis that has lost a claim."""
        strangers = [hold._replace(worker_id="stranger") for hold in self.model.holds()]
        return strangers + [hold._replace(attempt=hold.attempt + 1) for hold in self.model.holds()]

    @precondition(lambda self: self.model.holds())
    @rule(
        hold=holds(),
        offset=st.sampled_from((0, 0, 0, -2, -1, 1, 2)),
        count=st.integers(0, 3),
        gap=st.sampled_from((False, False, True)),
        limit=st.sampled_from((ROOM, ROOM, 80)),
        times=st.integers(1, 2),
    )
    def append(self, *, hold: Hold, offset: int, count: int, gap: bool, limit: int, times: int) -> None:
        """An attempt publishes a batch, behind what is there or somewhere else, once or twice."""
        first = max(self.next_seq(hold) + offset, 0)
        events = [self.event(hold, seq) for seq in range(first, first + count)]
        if gap:
            self.with_gaps.add(hold.run_id)
        for _ in range(times):
            (reply,) = self.call(self.scripts.append([Append(hold, first, events, gap)], byte_limit=limit))
            assert reply == self.model.append(hold, first, [len(event) for event in events], limit, gap=gap)

    def next_seq(self, hold: Hold) -> int:
        """The number of the next event of the run's last attempt."""
        run = self.model.runs.get(hold.run_id)
        return run.seq + 1 if run is not None else 0

    def event(self, hold: Hold, seq: int) -> bytes:
        """An attempt's own event, or one of its graph's."""
        data = {"m": "custom", "d": seq} if seq > 0 else {"m": "attempt", "d": {"attempt": hold.attempt}}
        return json.dumps(data).encode()

    def beat_and_compare(self, worker: str, attempts: dict[str, int]) -> None:
        """Beat for a worker."""
        lost, stop = self.model.beat(worker, attempts)
        reply = self.call(
            self.scripts.beat(worker, attempts, lease=ms(LEASE), worker_ttl=ms(TTL), running_ttl=ms(TTL), about={})
        )
        assert (set(reply.lost), len(reply.lost), reply.stop) == (lost, len(lost), stop)

    @precondition(lambda self: self.model.holds())
    @rule(
        hold=holds(),
        offset=st.sampled_from((0, 0, 0, -1, 1)),
        status=st.sampled_from(ENDS),
        gap=st.booleans(),
        times=st.integers(1, 2),
    )
    def finish(self, *, hold: Hold, offset: int, status: Status, gap: bool, times: int) -> None:
        """An attempt ends its run."""
        end_seq = max(self.next_seq(hold) + offset, 0)
        event = json.dumps({"m": "end", "d": {"status": status}}).encode()
        if gap:
            self.with_gaps.add(hold.run_id)
        for _ in range(times):
            expected = self.model.finish(hold, end_seq, status, gap=gap)
            reply = self.call(
                self.scripts.finish(hold, end_seq=end_seq, event=event, status=status, record={}, leave_gap=gap)
            )
            assert reply == expected

    @precondition(lambda self: self.model.holds())
    @rule(
        hold=holds(),
        cause=st.sampled_from(("drained", "fault")),
        wait=st.booleans(),
        times=st.integers(1, 2),
    )
    def release(self, hold: Hold, cause: Cause, wait: bool, times: int) -> None:
        """A worker gives a run back."""
        # Those that wait for the same tick do so in the order in which they were given back.
        self.released += 1
        delay = 1.5 + self.released * 0.000_010 if wait else 0
        for _ in range(times):
            reply = self.call(self.scripts.release(hold, cause, "it broke", delay=ms(delay)))
            assert reply == self.model.release(hold, cause, delay)

    @precondition(lambda self: self.model.due())
    @rule(
        at=st.integers(0, 1),
        counts=st.lists(st.integers(1, 3), max_size=2),
        wishes=st.lists(st.sampled_from(("interrupt", "rollback")), max_size=2),
        then=st.sampled_from(("finish", "finish, ahead of Redis", "give back", "give back for later", "die", "die")),
    )
    def attempt(self, at: int, counts: list[int], wishes: list[StopAction], then: str) -> None:
        """A worker takes a run, publishes, may be told to stop, and ends it, gives it back, or dies."""
        self.claim(at=at, graphs=["g", "h"], limit=1, says=False, reply="heard")
        self.all_is_well()
        hold = self.holds[-1]
        for count in counts:
            self.append(hold=hold, offset=0, count=count, gap=False, limit=ROOM, times=1)
        if wishes:
            self.stop(run_id=hold.run_id, actions=wishes, late=False)
        status = Status.STOPPED if wishes else Status.SUCCESS
        if then == "finish, ahead of Redis":
            # It has published what Redis has lost, is told so, and publishes that again.
            self.finish(hold=hold, offset=2, status=status, gap=False, times=1)
            self.append(hold=hold, offset=0, count=2, gap=False, limit=ROOM, times=1)
        if then.startswith("finish"):
            self.finish(hold=hold, offset=0, status=status, gap=False, times=1)
        elif then.startswith("give back"):
            self.release(hold=hold, cause="drained", wait=then.endswith("later"), times=1)

    @precondition(lambda self: self.ghosts())
    @rule(hold=one_of(lambda machine: machine.ghosts()), first=st.integers(0, 3))
    def wake_up(self, hold: Hold, first: int) -> None:
        """An attempt that is over, perhaps long since, goes on as if nothing had happened."""
        self.append(hold=hold, offset=first - self.next_seq(hold), count=2, gap=False, limit=ROOM, times=1)
        self.release(hold=hold, cause="fault", wait=False, times=1)
        self.beat_and_compare(hold.worker_id, {hold.run_id: hold.attempt})
        self.finish(hold=hold, offset=0, status=Status.SUCCESS, gap=False, times=1)

    def ghosts(self) -> list[Hold]:
        """Attempts that are over, and some that never were."""
        live = self.model.holds()
        return [hold for hold in self.holds if hold not in live] + self.impostors()

    @precondition(lambda self: self.model.undo)
    @rule(thread=one_of(lambda machine: sorted(machine.model.undo)))
    def undone(self, thread: str) -> None:
        """A worker has removed what it was told to."""
        self.call(self.scripts.undone(thread, sorted(self.model.undone(thread))))

    # -- a Redis that forgets ------------------------------------------------------------------------------------------

    def chosen(self, run: ModelRun) -> int:
        """The number that another server has chosen: beyond all that anybody can have seen, and far from the last."""
        number = int(self.call(self.redis.hget(self.keys.run(run.run_id), "attempt")))
        assert number > run.attempt + 1000
        assert number > self.given.get((run.run_id, run.created), 0)
        return number

    @rule()
    def remember(self) -> None:
        """What Redis knows now is what it has written to its disk, or what its replica has."""
        kept = {name: value for name, value in vars(self.model).items() if name != "_chosen"}
        self.remembered = (self.call(Memory.of(self.redis, self.keys)), copy.deepcopy(kept), self.spent)

    @precondition(lambda self: self.remembered)
    @rule(moved=st.booleans(), again=st.booleans())
    def forget_last_writes(self, moved: bool, again: bool) -> None:
        """Redis comes back with what it knew then: as another server; or as the same, which tells nobody anything.

        Who has lost an enqueue with it perhaps enqueues the same again.
        """
        assert self.remembered is not None
        memory, kept, self.spent = self.remembered
        there = set(self.model.runs)
        self.call(memory.put_back())
        vars(self.model).update(copy.deepcopy(kept))
        self.before = None
        for run in self.model.runs.values() if moved else ():
            if self.call(self.redis.hexists(self.keys.run(run.run_id), "server")):
                run.elsewhere = True
                self.call(self.redis.hset(self.keys.run(run.run_id), "server", "another"))
        for run_id in sorted(there - set(self.model.runs)) if again else ():
            self.numbered += 1
            sent = replace(self.sent[run_id], due=0, due_is_absolute=False, idempotency_key=None)
            kept_as = (sent.thread_id, sent.graph, sent.digest, self.model.now, sent.queued_ttl / TICK, RETENTION)
            most = int(sent.record["max_attempts"])
            self.send(sent, ModelRun(run_id, self.numbered, *kept_as, most))
            break

    @precondition(lambda self: self.claims)
    @rule(hold=one_of(lambda machine: list(machine.claims)), may=st.booleans())
    def ask_and_give_up(self, hold: Hold, may: bool) -> None:
        """An attempt that was refused asks whether it holds its run; if not, it has its number taken out of use."""
        claimed = self.claims[hold]
        expected = self.model.regain(hold, claimed.after, claimed.created_at, may=may)
        reply = self.call(self.scripts.regain(claimed, hold.worker_id, lease=ms(LEASE), running_ttl=ms(TTL), may=may))
        assert reply == expected
        self.all_is_well()
        if reply is None:
            forgotten = self.call(self.scripts.disown(hold))
            self.before = None  # Of a number that two have used, nothing stays.
            assert forgotten == self.model.disown(hold)

    # -- time, and whoever looks after runs ---------------------------------------------------------------------------

    @rule(limit=st.integers(1, 10), times=st.integers(1, 2))
    def reap(self, limit: int, times: int) -> None:
        """Somebody looks after runs whose time has passed."""
        for _ in range(times):
            self.reap_and_compare(limit)

    def reap_and_compare(self, limit: int) -> None:
        """Reap. Which of those come first whose time passed in the same tick is not the model's to know."""
        overdue = self.model.overdue() if self.model.look() else []
        reply = self.call(self.scripts.reap(limit=limit, lease=ms(LEASE)))
        chosen = [*reply.queued, *reply.ended]
        times = [quarter(run.look_at) for run in overdue]
        assert sorted(quarter(self.model.runs[run_id].look_at) for run_id in chosen) == times[:limit]
        became = self.model.reap(chosen)
        assert reply.broken == {}
        assert set(reply.queued) == {run_id for run_id, outcome in became.items() if outcome == "queued"}

    @precondition(lambda self: self.spent < LONGEST - 4)
    @rule(ticks=st.integers(1, 4))
    def let_time_pass(self, ticks: int) -> None:
        """Nobody looks, nobody beats: Redis is away, or all workers are."""
        self.move_clock(ticks)

    @precondition(lambda self: self.spent < LONGEST - 4)
    @rule(ticks=st.integers(0, 4), alive=st.sets(st.integers(0, 1)))
    def live_on(self, ticks: int, alive: set[int]) -> None:
        """Time passes as it does; some workers show that they live, and somebody looks after the others' runs."""
        for tick in range(ticks + 1):
            for at in sorted(alive):
                worker = self.workers[at]
                had = {hold.run_id: hold.attempt for hold in self.holds if hold.worker_id == worker}
                self.beat_and_compare(worker, had)
            self.reap_and_compare(10)
            if tick < ticks:
                self.move_clock(1)

    @precondition(lambda self: self.model.holds() and self.spent < LONGEST - 4)
    @rule(at=st.integers(0, 1))
    def crash(self, at: int) -> None:
        """A worker is killed, and the others find out; another of another name comes in its place."""
        self.live_on(3, {0, 1} - {at})
        self.workers[at] += "'"

    @rule(ticks=st.integers(1, 2))
    def put_clock_back(self, ticks: int) -> None:
        """Another Redis takes over, whose clock is behind."""
        self.move_clock(-ticks)

    def move_clock(self, ticks: float) -> None:
        """Let time pass for Redis and for the model."""
        self.call(let_pass(self.redis, self.keys, ms(ticks)))
        self.model.let_pass(ticks)
        self.spent += ticks
        self.moved = True

    # -- what always holds --------------------------------------------------------------------------------------------

    @invariant()
    def all_is_well(self) -> None:
        """Look at everything that is there."""
        now = self.call(take_snapshot(self.redis, self.keys))
        check_threads(now)
        check_events(now, self.with_gaps)
        check_lives(now)
        if self.before is not None:
            check_steps(self.before, now)
            if not self.moved:  # a bell sounds for 60 s
                check_bells(self.before, now)
        there = now.view()
        there["leases"] = {run_id: quarter(self.model.now + left / TICK) for run_id, left in now.leases().items()}
        expected = self.model.view()
        expected["leases"] = {run_id: quarter(at) for run_id, at in expected["leases"].items()}
        assert there == expected
        self.before, self.moved = now, False
        for run in self.model.runs.values():
            key = (run.run_id, run.created)
            self.given[key] = max(self.given.get(key, 0), run.attempt)


def handed_in(claimed: Claimed) -> Handed:
    """What a claim handed out, as the model tells it."""
    return Handed(claimed.run_id, claimed.attempt, claimed.after, claimed.left, frozenset(claimed.undo))


@pytest.fixture(autouse=True)
def _on_this_redis(any_redis_url: str) -> None:
    RunMachine.url = urlsplit(any_redis_url)._replace(path=f"/{DATABASE}").geturl()


# A failure is made as short as it can be before it is told, which may take ten times as long as the search.
@pytest.mark.timeout(HISTORIES * STEPS * 0.3)
def test_the_scripts_do_what_the_model_says() -> None:
    run_state_machine_as_test(
        RunMachine,
        settings=settings(
            max_examples=HISTORIES,
            stateful_step_count=STEPS,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
