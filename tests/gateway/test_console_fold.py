"""The page's fold of a run's events leaves standing what Python's does. It needs Node."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tests.fundamentals.test_fold import attempt, end, folded, histories, standing, token

from runstream import Event
from runstream.text import text_of_message
from runstream_gateway.routes import console

_NODE: Final = shutil.which("node")
_FOLD: Final = Path(console.__file__).parents[1] / "console" / "fold.js"
_SCRIPT: Final = """
const [, file] = process.argv;
const { readFileSync } = await import("node:fs");
const { Fold } = await import("data:text/javascript," + encodeURIComponent(readFileSync(file, "utf8")));
const told = JSON.parse(readFileSync(0, "utf8")).map((events) => {
  const fold = new Fold();
  for (const event of events) fold.apply(event);
  const texts = fold.entries.filter((one) => one.kind === "message" && !one.void).map((one) => one.text);
  const ids = fold.events.filter((one) => !one.void).map((one) => one.id);
  return { ids, texts, status: fold.status, interrupts: fold.interrupts.map((one) => one.id) };
});
console.log(JSON.stringify(told));
"""

pytestmark = pytest.mark.skipif(_NODE is None, reason="no Node on PATH")


def on_the_page(runs: Sequence[Sequence[Event]]) -> list[dict[str, Any]]:
    """What the page makes of these runs."""
    given = [[_told(event) for event in events] for events in runs]
    command = [str(_NODE), "--input-type=module", "-e", _SCRIPT, str(_FOLD)]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=True, timeout=60)
    told: list[dict[str, Any]] = json.loads(done.stdout)
    return told


def _told(event: Event) -> dict[str, Any]:
    """An event as the gateway tells it."""
    more = {"interrupts": event.interrupts} if event.interrupts else {}
    call = {} if event.call is None else {"call": event.call}
    return {"id": event.id, "mode": event.mode, "ns": event.ns, "task": event.task, "data": event.data, **call, **more}


def _without_empty_lists(event: Event) -> Event:
    """Of a text behind an empty list LangChain's sum has nothing; the page shows it."""
    if event.mode != "messages" or event.data[0]["content"] != []:
        return event
    message, metadata = event.data
    return replace(event, data=[{**message, "content": ""}, metadata])


def _is_own(event: Event) -> bool:
    """Whether it is no event, or one of a message that a single task tells."""
    return event.mode in ("attempt", "end") or (event.mode == "messages" and event.data[0]["id"] != "s")


@settings(max_examples=5, phases=[Phase.generate], deadline=None)
@given(st.lists(histories(), min_size=20, max_size=40))
def test_what_stands_on_the_page_is_what_stands(runs: list[list[Event]]) -> None:
    for events, shown in zip(runs, on_the_page(runs), strict=True):
        assert shown["ids"] == [event.id for event in standing(events)]
        assert shown["status"] == "success"

    owned = [[_without_empty_lists(event) for event in events if _is_own(event)] for events in runs]
    for events, shown in zip(owned, on_the_page(owned), strict=True):
        texts = [text_of_message(message) for message in folded(events).messages]
        assert sorted("".join(shown["texts"])) == sorted("".join(texts))


def test_a_message_that_comes_whole_replaces_what_there_was_of_it() -> None:
    whole = Event("2-1", "messages", (), [{"content": "Hello, world", "type": "ai", "id": "m"}, {}], task="a")
    (shown,) = on_the_page([[attempt(1), token("1-1", "Hello, "), attempt(2, after="1-1"), whole, end("2-2")]])
    assert shown["texts"] == ["Hello, world"]


def test_of_what_comes_from_no_task_each_event_is_void_by_itself() -> None:
    pieces = [token(f"1-{at}", text, task=None) for at, text in enumerate("abc", 1)]
    voids = {"tasks": [], "events": ["1-2"], "count": 1}
    (shown,) = on_the_page([[attempt(1), *pieces, attempt(2, voids, after="1-3"), end("2-1")]])
    assert shown["texts"] == ["ac"]


def removal(event_id: str, message_id: str, task: str, ns: tuple[str, ...] = ()) -> Event:
    return Event(event_id, "messages", ns, [{"type": "remove", "content": "", "id": message_id}, {}], task=task)


def whole(event_id: str, text: str, message_id: str, ns: tuple[str, ...] = ()) -> Event:
    return Event(event_id, "messages", ns, [{"type": "ai", "content": text, "id": message_id}, {}], task="w")


def test_what_was_removed_does_not_stand_until_the_removal_is_void() -> None:
    said = [attempt(1), whole("1-1", "one", "1"), whole("1-2", "two", "2"), whole("1-3", "inner", "i", ("sub:1",))]
    (shown,) = on_the_page([[*said, removal("1-4", "2", "b")]])
    assert shown["texts"] == ["one", "inner"]
    for namespace, left in (((), ["new"]), (("sub:1",), ["one", "two", "new"])):
        gone = [*said, removal("1-4", "__remove_all__", "b", namespace), whole("1-5", "new", "n")]
        (shown,) = on_the_page([gone])
        assert shown["texts"] == left == [text_of_message(one) for one in folded(gone).messages]
        voids = {"tasks": [{"id": "b", "name": "b", "ns": []}], "events": [], "count": 1}
        back = [*gone, attempt(2, voids, after="1-5")]
        (shown,) = on_the_page([back])
        assert sorted(shown["texts"]) == sorted(text_of_message(one) for one in folded(back).messages)
        assert len(shown["texts"]) == 4


def test_chunks_are_of_their_models_call_whatever_id_they_have() -> None:
    def chunk(event_id: str, text: str, message_id: str, call: str) -> Event:
        return replace(token(event_id, text, message_id), call=call)

    events = [
        attempt(1),
        chunk("1-1", "Al", "lc_run--a", "a"),
        chunk("1-2", "Be", "lc_run--b", "b"),
        chunk("1-3", "", "msg_b", "b"),
        chunk("1-4", "", "msg_a", "a"),
        chunk("1-5", "pha", "lc_run--a", "a"),
        chunk("1-6", "ta", "lc_run--b", "b"),
        chunk("1-7", "Gamma", "msg_a", "c"),
    ]
    (shown,) = on_the_page([events])
    assert sorted(shown["texts"]) == ["Beta", "Gamma"]
    assert [(one["id"], one["content"]) for one in folded(events).messages] == [("msg_a", "Gamma"), ("msg_b", "Beta")]
