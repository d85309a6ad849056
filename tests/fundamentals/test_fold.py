"""A run's state from its events: what is void leaves nothing, wherever in the run it was and whatever it was."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream import ErrorInfo, Event, EventId, Fold, Retraction, SpokenText, Status, Text, Voids
from runstream.spoken import Part

TASKS = ("a", "b", "c")


def attempt(number: int, voids: Any = None, **told: Any) -> Event:
    data = {"attempt": number, "worker": f"w{number}", "at": 0, **told}
    return Event(f"{number}-0", "attempt", (), data if voids is None else {**data, "voids": voids})


def end(event_id: str, status: str = "success", **told: Any) -> Event:
    return Event(event_id, "end", (), {"status": status, "at": 0, **told})


def token(event_id: str, text: Any, message_id: str = "m", task: str | None = "a", **fields: Any) -> Event:
    message = {"content": text, "type": "AIMessageChunk", "id": message_id, **fields}
    return Event(event_id, "messages", (), [message, {"langgraph_node": f"node {task}"}], task=task)


def values(event_id: str, data: Any, *, ns: tuple[str, ...] = (), **fields: Any) -> Event:
    return Event(event_id, "values", ns, data, **fields)


def folded(events: Iterable[Event]) -> Fold:
    fold = Fold()
    for event in events:
        fold.apply(event)
    return fold


def told(fold: Fold) -> Any:
    return fold.messages, fold.values, fold.interrupts, fold.status, fold.attempt


def contents(fold: Fold) -> list[Any]:
    return [message["content"] for message in fold.messages]


OWN_CONTENT = st.text("xy", max_size=3) | st.lists(
    st.fixed_dictionaries({"type": st.just("text"), "text": st.text("xy", max_size=2)}, optional={"index": st.just(0)}),
    max_size=2,
)


@st.composite
def published(draw: st.DrawFn, event_id: str) -> Event:
    """An event of one of the tasks, or of none."""
    task = draw(st.sampled_from(TASKS))
    kind = draw(st.sampled_from(["own", "own", "own", "shared", "whole", "values", "interrupt"]))
    if kind == "own":
        # What a task streams is its own: with the id that LangChain made for it or, in some chunks, the provider's.
        message_id = draw(st.sampled_from(["lc_run-{}", "msg_{}", "lc_run-{}-2"])).format(task)
        position = draw(st.sampled_from([None, None, None, "last"]))
        return token(event_id, draw(OWN_CONTENT), message_id, task, chunk_position=position)
    of = draw(st.sampled_from([task, None]))
    metadata = {"langgraph_node": "shared"}
    if kind == "shared":
        text, more = draw(st.text("pq", max_size=2)), {"n": draw(st.integers(0, 2))}
        message = {"content": text, "type": "AIMessageChunk", "id": "s", "response_metadata": more}
        return Event(event_id, "messages", (), [message, metadata], task=of)
    if kind == "whole":
        message = {"content": event_id, "type": draw(st.sampled_from(["ai", "tool", "remove"])), "id": "s"}
        return Event(event_id, "messages", (), [message, metadata], task=of)
    if kind == "interrupt":
        asked = [{"value": event_id, "id": draw(st.sampled_from("ij"))}]
        return Event(event_id, "updates", (), {"__interrupt__": asked}, task=of)
    ns = draw(st.sampled_from([(), (), ("inner:1",)]))
    return values(event_id, {"at": event_id}, ns=ns, task=None, interrupts=draw(st.sampled_from([None, ()])))


@st.composite
def after(draw: st.DrawFn, events: Sequence[Event], voids: dict[str, Any]) -> str:
    """The event behind which an attempt begins: the last, or an earlier one, where Redis has lost what came then.

    A task of which Redis has lost a part has not been saved, so it is void as a whole.
    """
    at = draw(st.integers(0, 3))
    known, lost = events[: len(events) - at] or events[:1], events[len(events) - at :]
    cut = {event.task for event in lost if event.task is not None} & {event.task for event in known}
    voids.setdefault("tasks", []).extend({"id": task, "name": task, "ns": []} for task in sorted(filter(None, cut)))
    return known[-1].id


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """A run of several attempts, each of which voids some of what those before it have published."""
    events: list[Event] = []
    for number in range(1, draw(st.integers(2, 4)) + 1):
        voids: dict[str, Any] | None = None
        if number > 1:
            loose = [event.id for event in events if event.task is None and event.mode != "attempt"]
            some = draw(st.lists(st.sampled_from(loose), unique=True)) if loose else []
            tasks = [{"id": task, "name": task, "ns": []} for task in draw(st.sets(st.sampled_from(TASKS)))]
            wanted: list[dict[str, Any]] = [{"tasks": tasks, "events": some}, {"all": True}]
            voids = draw(st.sampled_from(wanted))
        events.append(attempt(number, voids, **({} if voids is None else {"after": draw(after(events, voids))})))
        events += [draw(published(f"{number}-{seq}")) for seq in range(1, draw(st.integers(0, 8)) + 1)]
    return [*events, end(f"{number}-99")]


def standing(events: Sequence[Event]) -> list[Event]:
    """The rule of the protocol, followed to the letter: the events that are left, of attempts that void nothing."""
    left: list[Event] = []
    for event in events:
        if voids := event.data.get("voids") if event.mode == "attempt" else None:
            tasks = {task["id"] for task in voids.get("tasks", ())}
            known = [one for one in left if EventId.of(one.id) <= EventId.of(event.data["after"])]
            left = [
                one
                for one in left
                if one.mode == "attempt"
                or (one in known and not (voids.get("all") or one.task in tasks or one.id in voids.get("events", ())))
            ]
            event = attempt(int(event.id.partition("-")[0]))  # noqa: PLW2901 - the same, but it voids nothing
        left.append(event)
    return left


@given(histories())
def test_what_is_void_leaves_nothing(events: list[Event]) -> None:
    fold = Fold()
    for number, event in enumerate(events, 1):
        before = told(fold)
        changed = fold.apply(event)
        assert told(fold) == told(folded(standing(events[:number])))
        for name, was, now in zip(("messages", "values", "interrupts"), before, told(fold), strict=False):
            assert name in changed or was == now


@given(histories())
def test_what_voids_cover_is_what_the_protocol_says(events: list[Event]) -> None:
    left: list[Event] = []
    for event in events:
        if voids := Voids.of(event):
            left = [one for one in left if not voids.covers(one)]
            assert not voids.covers(event)
        left.append(event)
    assert [event.id for event in left] == [event.id for event in standing(events)]


@given(histories(), st.sampled_from([None, {"node a"}, {"node a", "shared"}]))
def test_the_pieces_of_a_runs_text_make_what_stands_of_it(events: list[Event], nodes: set[str] | None) -> None:
    spoken, shown = SpokenText(nodes), ""
    for event in events:
        piece = spoken.apply(event)
        if piece is not None:
            shown = piece.text if isinstance(piece, Retraction) else shown + piece
    by_message = folded_texts(standing(events), nodes)
    assert sorted(shown) == sorted("".join(by_message.values()))
    if not any(Voids.of(event) for event in events) and len(by_message) == 1:
        assert shown == "".join(by_message.values())


def folded_texts(events: Iterable[Event], nodes: set[str] | None) -> dict[str, str]:
    """The text of every AI message by its id, whoever published it."""
    texts: dict[str, str] = {}
    for event in events:
        if event.mode != "messages" or (nodes is not None and event.data[1]["langgraph_node"] not in nodes):
            continue
        message = event.data[0]
        content = message["content"]
        text = content if isinstance(content, str) else "".join(block["text"] for block in content)
        if message["type"] == "AIMessageChunk":
            texts[message["id"]] = texts.get(message["id"], "") + text
        elif message["type"] == "ai":
            texts[message["id"]] = text
    return texts


def test_an_attempt_that_takes_over_voids_tasks_and_events_without_one() -> None:
    fold = folded(
        [
            attempt(1),
            token("1-1", "finished", "m1", "a"),
            token("1-2", "cut o", "m2", "b"),
            values("1-3", {"n": 1}),
            values("1-4", {"n": 2}),
        ]
    )
    assert (contents(fold), fold.values) == (["finished", "cut o"], {"n": 2})

    changed = fold.apply(
        attempt(2, {"tasks": [{"id": "b", "name": "b", "ns": []}], "events": ["1-4"], "count": 2}, after="1-4")
    )

    assert changed == {"status", "messages", "values"}
    assert (contents(fold), fold.values, fold.voided, fold.attempt) == (["finished"], {"n": 1}, 2, 2)
    fold.apply(token("2-1", "whole", "m3", "b"))
    assert contents(fold) == ["finished", "whole"]


def test_what_is_voided_twice_over_stays_void_and_is_counted() -> None:
    everything = [attempt(1), token("1-1", "A"), attempt(2, {"all": True, "count": 1}), token("2-1", "B")]
    fold = folded([*everything, attempt(3, {"all": True, "count": 1})])
    assert (contents(fold), fold.voided) == ([], 2)


def test_an_attempt_that_voids_nothing_leaves_everything() -> None:
    fold = folded([attempt(1), token("1-1", "A"), attempt(2, {"tasks": [], "events": [], "count": 0}, left="drained")])
    assert (contents(fold), fold.voided, fold.attempt) == (["A"], 0, 2)


def test_a_message_is_a_chunk_until_its_last_one_or_the_end() -> None:
    fold = folded([attempt(1), token("1-1", "A", "m1"), token("1-2", "B", "m2", chunk_position="last")])
    assert [message["type"] for message in fold.messages] == ["AIMessageChunk", "ai"]
    assert fold.apply(end("1-3", "stopped", reason="enough")) == {"status", "messages"}
    assert [message["type"] for message in fold.messages] == ["ai", "ai"]
    assert "chunk_position" not in fold.messages[1]
    assert (fold.status, fold.reason) == (Status.STOPPED, "enough")


def test_messages_that_do_not_change_stay_the_same_objects_and_no_event_is_changed() -> None:
    first, second = token("1-1", [{"type": "text", "text": "A", "index": 0}], "m1"), token("1-2", "B", "m2")
    fold = folded([attempt(1), first, second])
    before = fold.messages
    fold.apply(token("1-3", "C", "m2"))
    after = fold.messages
    assert after[0] is before[0]
    assert (before[1]["content"], after[1]["content"]) == ("B", "BC")
    fold.apply(token("1-4", [{"type": "text", "text": "!", "index": 0}], "m1"))
    assert first.data[0]["content"] == [{"type": "text", "text": "A", "index": 0}]


def test_states_and_failures_are_told() -> None:
    fold = Fold()
    assert (fold.status, fold.attempt, fold.messages, fold.values) == (Status.QUEUED, 0, [], None)
    assert fold.apply(attempt(1)) == {"status"}
    assert fold.status is Status.RUNNING
    error = {"type": "ValueError", "message": "no"}
    assert fold.apply(end("1-1", "error", error=error)) == {"status"}
    assert (fold.status, fold.error) == (Status.ERROR, ErrorInfo(type="ValueError", message="no"))


def test_interrupts_in_all_their_places_are_told_once() -> None:
    asked = {"value": "sure?", "id": "i1"}
    fold = folded(
        [
            attempt(1),
            Event("1-1", "updates", (), {"__interrupt__": [asked]}),
            values("1-2", {"n": 1, "__interrupt__": [asked]}),
            values("1-3", {"n": 1}, interrupts=(asked, {"value": "really?", "id": "i2"})),
            Event("1-4", "updates", ("inner:1",), {"__interrupt__": [{"value": "inside", "id": "i3"}]}),
            Event("1-5", "updates", (), {"__interrupt__": []}),
            Event("1-6", "updates", (), {"node": None}),
        ]
    )
    assert fold.interrupts == [asked, {"value": "really?", "id": "i2"}]


def test_values_of_subgraphs_are_not_the_graphs() -> None:
    assert folded([attempt(1), values("1-1", {"n": 1}, ns=("inner:1",))]).values is None


@pytest.mark.parametrize(
    ("events", "complete"),
    [
        ([], True),
        ([attempt(1), token("1-1", "A")], True),
        ([end("1-0", "stopped")], True),
        ([end("3-0", "lost")], True),
        ([end("3-0", "lost", after="2-7")], False),
        ([token("1-1", "A")], False),
        ([Event("1-3", "gap", (), {"after": "0-0", "before": "1-3"}), token("1-3", "A")], False),
        ([attempt(1), Event("1-3", "gap", (), {"after": "1-0", "before": "1-3"})], False),
        ([token("1-7", "A"), attempt(2, {"all": True})], True),
        ([token("1-7", "A"), attempt(2, {"tasks": [{"id": "a", "name": "a", "ns": []}]})], False),
    ],
)
def test_a_fold_knows_whether_something_is_missing(events: list[Event], complete: bool) -> None:
    assert folded(events).complete is complete


def test_a_fold_that_begins_in_the_middle_has_what_comes_from_there_on() -> None:
    tasks = [{"id": "b", "name": "b", "ns": []}]
    fold = folded([token("1-7", "end of A"), token("1-8", "B", "m2", "b"), attempt(2, {"tasks": tasks, "count": 5})])
    assert (contents(fold), fold.voided) == (["end of A"], 5)


def test_a_piece_of_text_says_where_it_is_from_and_what_it_replaces() -> None:
    spoken = SpokenText()
    piece = spoken.apply(token("1-1", "A"))
    assert isinstance(piece, Text)
    assert (piece, piece.replaces, piece.event_id) == ("A", False, "1-1")
    assert spoken.apply(token("1-2", "")) is None
    assert spoken.apply(token("1-3", "B", "m2", "b")) == "B"
    assert spoken.apply(attempt(2, {"tasks": [{"id": "c"}]})) is None
    piece = spoken.apply(attempt(3, {"tasks": [{"id": "a"}]}))
    assert isinstance(piece, Retraction)
    assert (piece.text, piece.replaces, piece.event_id) == ("B", True, "3-0")
    assert not isinstance(piece, str)
    piece = spoken.apply(attempt(4, {"all": True}))
    assert piece == Retraction([], "4-0")


def test_a_message_that_comes_whole_adds_what_was_missing_of_it() -> None:
    def whole(event_id: str, text: str, kind: str = "ai") -> Event:
        return Event(event_id, "messages", (), [{"content": text, "type": kind, "id": "m"}, {}], task="a")

    spoken = SpokenText()
    assert spoken.apply(token("1-1", "All ")) == "All "
    assert spoken.apply(whole("1-2", "All of it")) == "of it"
    assert spoken.apply(whole("1-3", "All of it")) is None
    piece = spoken.apply(whole("1-4", "Something else"))
    assert piece == Retraction([Part("m", "Something else")], "1-4")
    assert spoken.apply(token("1-5", "!")) == "!"
    piece = spoken.apply(attempt(2, {"tasks": [{"id": "b"}], "events": ["1-4"]}))
    assert piece == Retraction([Part("m", "All of it!")], "2-0")
