"""The oracle finds what is wrong: it is given good histories, and histories in which one thing was spoilt."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import pytest
from tests.support.oracle import (
    Call,
    History,
    Mark,
    Recording,
    Said,
    Saved,
    Segment,
    State,
    run_violations,
    valid,
    violations,
    voided,
)

from runstream import Event

Doctor: TypeAlias = Callable[[list[Event]], list[Event]]

MODES = frozenset({"messages", "updates", "values", "custom", "tasks"})
FIRST = Mark("first", "aaaaaaaa", False, 2)
SECOND = Mark("second", "bbbbbbbb", False, 2)
GIVEN_UP = Mark("second", "cccccccc", False, 2)
CALL = Call.of("call_1", "look_up", {"word": "x"})
USER = Said("human-1", "human", "the question")
ANSWER = Said("ai-1", "ai", f"{FIRST} one two", (CALL,))
SECOND_ANSWER = Said("ai-2", "ai", f"{SECOND} one two three")
STATE = State(messages=(USER, ANSWER, SECOND_ANSWER), log=(str(FIRST), str(SECOND)))


class Stream:
    """Writes a stream as a worker would."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._attempt, self._seq = 0, 0

    def attempt(self, **data: Any) -> None:
        self._attempt, self._seq = self._attempt + 1, 0
        after = {"after": self.events[-1].id} if self.events else {}
        self._add("attempt", {"attempt": self._attempt, "worker": f"w{self._attempt}", **after, **data})

    def values(self, *said: Said, log: Sequence[str] = ()) -> None:
        self._add("values", {"messages": [message(one) for one in said], "log": list(log)})

    def begin(self, task: str, mark: Mark) -> None:
        self._add("tasks", {"id": task, "name": mark.name, "input": {}}, task)
        self._add("custom", mark.custom(0), task)

    def say(self, task: str, said: Said, text: str | None = None) -> None:
        for word in (said.text if text is None else text).split(" "):
            self._chunk(task, said.id, word if word.startswith("<") else f" {word}")
        for call in said.calls:
            for part in ({"id": call.id, "name": call.name, "args": ""}, {"id": None, "name": None, "args": call.args}):
                self._chunk(task, said.id, "", {"type": "tool_call_chunk", "index": 0, **part})

    def finish(self, task: str, mark: Mark, said: Said) -> None:
        self._add("custom", mark.custom(1), task)
        self._add("updates", {mark.name: {"messages": [message(said)], "log": [str(mark)]}}, task)
        self._add("tasks", {"id": task, "name": mark.name, "result": {}}, task)

    def end(self, status: str = "success") -> None:
        self._add("end", {"status": status, "at": 1})

    def _chunk(self, task: str, message_id: str, text: str, call: dict[str, Any] | None = None) -> None:
        chunk = {
            "type": "AIMessageChunk",
            "id": message_id,
            "content": text,
            "tool_call_chunks": [call] if call else [],
        }
        self._add("messages", [chunk, {}], task)

    def _add(self, mode: Any, data: Any, task: str | None = None) -> None:
        self.events.append(Event(f"{self._attempt}-{self._seq}", mode, (), data, None, task))
        self._seq += 1


def message(said: Said) -> dict[str, Any]:
    calls = [{"id": call.id, "name": call.name, "args": {"word": "x"}} for call in said.calls]
    return {"type": said.type, "id": said.id, "content": said.text, "tool_calls": calls}


def taken_over() -> list[Event]:
    """The first task was saved, the second was streaming when its worker died."""
    stream = Stream()
    stream.attempt()
    stream.values(USER)
    stream.begin("t1", FIRST)
    stream.say("t1", ANSWER, f"{FIRST} one two")
    stream.finish("t1", FIRST, ANSWER)
    stream.values(USER, ANSWER, log=[str(FIRST)])
    stream.begin("t2", GIVEN_UP)
    stream.say("t2", Said("ai-0", "ai", f"{GIVEN_UP} one"))
    stream.attempt(
        left="lost", checkpoint="c1", voids={"tasks": [{"id": "t2", "name": "second", "ns": []}], "count": 7}
    )
    stream.begin("t2", SECOND)
    stream.say("t2", SECOND_ANSWER)
    stream.finish("t2", SECOND, SECOND_ANSWER)
    stream.values(*STATE.messages, log=STATE.log)
    stream.end()
    return stream.events


def history(stored: Sequence[Event], **changes: Any) -> History:
    holder = '[{"attempt": 1, "worker": "w1", "started_at": 10, "ended_at": 20, "cause": "lost"}]'
    record = {
        "status": "success", "attempt": "2", "end_id": stored[-1].id, "holders": holder, "place": "10.000",
        "first_started_at": "10", "ended_at": "30",
    }  # fmt: skip
    whole = Recording("whole", [Segment(None, False, list(stored))])
    parts = Recording(
        "parts",
        [
            Segment(None, True, stored[4:7], left=True),
            Segment(stored[6].id, False, stored[7:20], left=True),
            Segment(stored[19].id, False, stored[20:]),
        ],
    )
    good = History(
        "r1", "t1", MODES, False, "sync", frozenset({"success"}), stored, record, STATE,
        inputs=[USER.text], recordings=[whole, parts], alone=True,
    )  # fmt: skip
    return dataclasses.replace(good, **changes)


def test_a_good_history_is_good() -> None:
    assert run_violations(history(taken_over())) == []
    assert {event.task for event in voided(taken_over()).values()} == {"t2"}


def at(events: Sequence[Event], event_id: str) -> int:
    return [event.id for event in events].index(event_id)


def find(events: Sequence[Event], mode: str, nth: int = 0) -> int:
    return [place for place, event in enumerate(events) if event.mode == mode][nth]


def renumbered(events: Sequence[Event]) -> list[Event]:
    """The events with ids without holes, and attempts that stand behind the right event."""
    done: list[Event] = []
    for event in events:
        attempt = int(event.id.split("-")[0])
        seq = 1 + int(done[-1].id.split("-")[1]) if done and done[-1].id.startswith(f"{attempt}-") else 0
        data = {**event.data, "after": done[-1].id} if event.mode == "attempt" and done else event.data
        done.append(dataclasses.replace(event, id=f"{attempt}-{seq}", data=data))
    return done


def without(place: int) -> Doctor:
    return lambda events: renumbered([*events[:place], *events[place + 1 :]][: len(events)])


def without_mode(mode: str, nth: int) -> Doctor:
    return lambda events: without(find(events, mode, nth) % len(events))(events)


def doubled_mode(mode: str, nth: int) -> Doctor:
    def doctor(events: list[Event]) -> list[Event]:
        place = find(events, mode, nth)
        return renumbered([*events[: place + 1], *events[place:]])

    return doctor


def changed(mode: str, nth: int, **data: Any) -> Doctor:
    def doctor(events: list[Event]) -> list[Event]:
        place = find(events, mode, nth)
        event = dataclasses.replace(events[place], data={**events[place].data, **data})
        return [*events[:place], event, *events[place + 1 :]]

    return doctor


def swapped(events: list[Event]) -> list[Event]:
    """Two tokens in each other's place."""
    last = find(events, "messages", -1)
    data = [events[last - 1].data, events[last].data]
    pair = [dataclasses.replace(events[last - 1 + n], data=data[1 - n]) for n in range(2)]
    return [*events[: last - 1], *pair, *events[last + 1 :]]


def with_zombie(events: list[Event]) -> list[Event]:
    """An event of the first attempt behind the beginning of the second."""
    place = find(events, "attempt", 1)
    return [*events[: place + 1], dataclasses.replace(events[place - 1], id="1-99"), *events[place + 1 :]]


def with_hole(events: list[Event]) -> list[Event]:
    place = find(events, "messages", 1)
    return [*events[:place], *events[place + 1 :]]


def unknown_message(events: list[Event]) -> list[Event]:
    place = find(events, "messages", -1)
    chunk = {**events[place].data[0], "id": "ai-9", "content": "from nowhere"}
    return renumbered(
        [*events[: place + 1], dataclasses.replace(events[place], data=[chunk, {}]), *events[place + 1 :]]
    )


SPOILT: list[tuple[str, Doctor, str]] = [
    ("a token is lost", without_mode("messages", -1), "lost ['three']"),
    ("a token is twice", doubled_mode("messages", -1), "twice ['three']"),
    ("tokens in the wrong order", swapped, "in another order"),
    ("a part of a tool call is lost", without_mode("messages", 7), "saved are the calls"),
    ("a message from nowhere", unknown_message, "a message that was not saved by this run"),
    ("a hole", with_hole, "a hole"),
    ("two ends", doubled_mode("end", 0), "2 end events"),
    ("no end", lambda events: events[:-1], "0 end events"),
    ("something behind the end", lambda events: [*events[:-2], events[-1], events[-2]], "out of order"),
    ("a zombie's event", with_zombie, "an older attempt's"),
    ("nothing is void", changed("attempt", 1, voids={"tasks": [], "count": 0}), "not saved by this run"),
    ("too much is void", changed("attempt", 1, voids={"all": True, "count": 18}), "a saved message is missing"),
    ("a wrong count", changed("attempt", 1, voids={"tasks": [{"id": "t2"}], "count": 5}), "voids 5 events, it is 7"),
    ("unknown events are void", changed("attempt", 1, voids={"events": ["1-77"], "count": 0}), "that are not there"),
    ("an attempt does not tell", changed("attempt", 1, voids=None), "does not tell left, checkpoint and voids"),
    ("an attempt in the wrong place", changed("attempt", 1, after="1-3"), "says that it stands behind 1-3"),
    ("a wrong number", changed("attempt", 1, attempt=3), "says that it is attempt 3"),
    ("another cause", changed("attempt", 1, left="drained"), "left as drained, the record lost"),
    ("an update is lost", without_mode("updates", 0), "is in 0 updates"),
    ("an update is twice", doubled_mode("updates", 1), "2 updates of task t2"),
    ("a custom event is lost", without_mode("custom", 1), "the stream has [0]"),
    ("a custom event is twice", doubled_mode("custom", 1), "the stream has [0, 1, 1]"),
    ("a task begins twice", doubled_mode("tasks", 3), "begins 2 times"),
    ("a task does not end", without_mode("tasks", 4), "does not end"),
    ("the last values are old", without_mode("values", 2), "the last values have the messages"),
    ("the end is another", changed("end", 0, status="error"), "the record says success, the end event error"),
]


@pytest.mark.parametrize(("doctor", "told"), [pytest.param(doctor, told, id=name) for name, doctor, told in SPOILT])
def test_a_spoilt_stream_is_found(doctor: Doctor, told: str) -> None:
    stored = doctor(taken_over())
    run = history(stored, recordings=[Recording("whole", [Segment(None, False, stored)])])
    found = run_violations(run)
    assert any(told in one for one in found), found


def test_what_is_left_in_the_state_is_found() -> None:
    stored = taken_over()
    twice = State((USER, Said("human-2", "human", USER.text), *STATE.messages[1:]), STATE.log)
    assert any("'the question' is 2 times" in one for one in run_violations(history(stored, after=twice)))
    without_user = State(STATE.messages[1:], STATE.log)
    assert any("'the question' is 0 times" in one for one in run_violations(history(stored, after=without_user)))
    more = State((*STATE.messages, Said("ai-3", "ai", "said by nobody")), STATE.log)
    assert any("missing in the stream" in one for one in run_violations(history(stored, after=more)))
    forgotten = dataclasses.replace(STATE, facts='{"topic": "x"}')
    assert any("the last values have {}, saved is" in one for one in run_violations(history(stored, after=forgotten)))
    logged = State(STATE.messages, (*STATE.log, "unheard"))
    assert any("'unheard' is in 0 updates" in one for one in run_violations(history(stored, after=logged)))


def test_an_end_that_may_not_be_is_found() -> None:
    record = {**history(taken_over()).record, "status": "error"}
    stored = changed("end", 0, status="error")(taken_over())
    found = run_violations(history(stored, record=record))
    assert any("may end as success" in one for one in found), found


def test_of_a_stopped_run_only_what_was_saved_has_to_be_there() -> None:
    stored = taken_over()
    stored = renumbered([*stored[:-8], dataclasses.replace(stored[-1], data={"status": "stopped"})])
    record = {**history(stored).record, "status": "stopped"}
    saved = State(STATE.messages[:2], STATE.log[:1])
    stopped = history(stored, record=record, after=saved, ends=frozenset({"stopped"}), recordings=[])
    assert run_violations(stopped) == []
    assert any("lost" in one for one in run_violations(dataclasses.replace(stopped, after=STATE)))


def test_a_settled_reader_gets_what_stands_and_nothing_that_is_void() -> None:
    stored = taken_over()
    standing = valid(stored)
    assert len(standing) < len(stored)
    kept = Recording("kept", [Segment(None, False, standing)], settled=True)
    assert run_violations(history(stored, recordings=[kept])) == []
    void = next(event for event in stored if event not in standing)
    rest = [event for event in standing if event not in stored[: stored.index(void)]]
    resumed = Recording("resumed", [Segment(void.id, False, rest)], settled=True)
    assert run_violations(history(stored, recordings=[resumed])) == []
    for events, told in ((stored, f"it saw event {void.id}"), (standing[:2] + standing[3:], "it missed")):
        wrong = Recording("wrong", [Segment(None, False, events)], settled=True)
        assert any(told in one for one in run_violations(history(stored, recordings=[wrong])))


READERS: list[tuple[str, Callable[[list[Event]], list[Segment]], str]] = [
    ("missed one", lambda events: [Segment(None, False, [*events[:5], *events[6:]])], "it missed ['1-5']"),
    ("missed the first", lambda events: [Segment(None, False, events[1:])], "it missed ['1-0']"),
    ("saw one twice", lambda events: [Segment(None, False, [*events[:6], *events[5:]])], "saw 1-5 again"),
    (
        "went on in the wrong place",
        lambda events: [Segment(None, False, events[:5], left=True), Segment("1-4", False, events[6:])],
        "it missed ['1-5']",
    ),
    ("never saw the end", lambda events: [Segment(None, False, events[:-1])], "it read to the end, and stood at 2-"),
    ("saw nothing", lambda events: [Segment(None, True, [], cursor="1-4")], "it read to the end, and stood at 1-4"),
    (
        "was told of a gap",
        lambda events: [
            Segment(None, False, [Event("1-3", "gap", (), {"after": "1-1", "before": "1-3"}), *events[3:]])
        ],
        "told of a gap",
    ),
    (
        "saw what is not stored",
        lambda events: [Segment(None, False, [*events[:3], dataclasses.replace(events[3], id="1-999"), *events[3:]])],
        "which is not stored",
    ),
    (
        "saw something else",
        lambda events: [Segment(None, False, [dataclasses.replace(events[0], data={}), *events[1:]])],
        "it saw event 1-0 as",
    ),
]


@pytest.mark.parametrize(("read", "told"), [pytest.param(read, told, id=name) for name, read, told in READERS])
def test_a_reader_who_saw_something_else_is_found(read: Callable[[list[Event]], list[Segment]], told: str) -> None:
    stored = taken_over()
    found = run_violations(history(stored, recordings=[Recording("r", read(stored))]))
    assert any(told in one for one in found), found


def turn(run_id: str, began: int, ended: int, place: float, after: State = STATE) -> History:
    stored = taken_over()
    record = {**history(stored).record, "first_started_at": str(began), "ended_at": str(ended), "place": f"{place:.3f}"}
    return history(stored, run_id=run_id, record=record, after=after)


def line(*run_ids: str) -> list[Saved]:
    return [Saved(f"c{n}", f"c{n - 1}" if n else None, run_id, n) for n, run_id in enumerate(run_ids)]


def test_runs_that_take_turns_are_good() -> None:
    assert violations([turn("r1", 10, 20, 1), turn("r2", 20, 30, 2)], line("r1", "r1", "r2")) == []


@pytest.mark.parametrize(
    ("runs", "checkpoints", "told"),
    [
        ([turn("r1", 10, 21, 1), turn("r2", 20, 30, 2)], line("r1", "r2"), "while r1 had not ended"),
        ([turn("r1", 20, 30, 1), turn("r2", 10, 20, 2)], line("r1", "r2"), "while r1 had not ended"),
        ([turn("r1", 10, 20, 1), turn("r2", 20, 30, 2)], line("r1", "r2", "r1"), "checkpoints were written by runs"),
        ([turn("r1", 10, 20, 1)], [*line("r1", "r1"), Saved("c2", "c0", "r1", 2)], "stands on c0, and not on c1"),
        (
            [turn("r1", 10, 20, 1), turn("r2", 20, 30, 2, State(STATE.messages[:1], STATE.log))],
            line("r1", "r2"),
            "are not in the state after r2",
        ),
    ],
    ids=["overlapping", "out of order", "a zombie's checkpoint", "a fork", "forgotten"],
)
def test_runs_in_each_others_way_are_found(runs: list[History], checkpoints: list[Saved], told: str) -> None:
    found = violations(runs, checkpoints)
    assert any(told in one for one in found), found


def test_what_waited_for_other_tasks_may_go() -> None:
    first, second = turn("r1", 10, 20, 1), turn("r2", 20, 30, 2, State(STATE.messages[:1], STATE.log))
    waiting = dataclasses.replace(STATE, pending=frozenset({"ai-1", "ai-2"}))
    found = violations([dataclasses.replace(first, after=waiting), second], line("r1", "r2"))
    assert not any("are not in the state after" in one for one in found), found


def test_what_was_rolled_back_and_stays_is_found() -> None:
    stopped = turn("r1", 10, 20, 1)
    stopped = dataclasses.replace(stopped, record={**stopped.record, "status": "stopped", "stop_action": "rollback"})
    told = "run r1 was rolled back, and the state after r2 has"
    assert any(told in one for one in violations([stopped, turn("r2", 20, 30, 2)], line("r2")))
    clean = turn("r2", 20, 30, 2, State())
    found = violations([dataclasses.replace(stopped, after=State()), clean], line("r2"))
    assert not any(told in one for one in found), found
