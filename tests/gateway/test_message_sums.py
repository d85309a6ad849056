"""The mode `messages` of the gateway: a client that keeps messages by id, and takes removals out, has what stands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from runstream import Event, Fold
from runstream_gateway.translate import FrameCache, Translator

RUN = "01985d2e-6f1c-7b3a-9d44-0c5d6f6f2a11"
NODE = {"langgraph_node": "model"}


def chunk(seq: int, text: str, message_id: str, call: str) -> Event:
    message = {"content": text, "type": "AIMessageChunk", "id": message_id}
    return Event(f"1-{seq}", "messages", (), [message, NODE], task="t", call=call)


def whole(seq: int, kind: str, text: str, message_id: str) -> Event:
    return Event(f"1-{seq}", "messages", (), [{"content": text, "type": kind, "id": message_id}, NODE], task="u")


def kept(events: Sequence[Event]) -> dict[str, str]:
    """What a client keeps of the frames: by id, and without what was removed."""
    translator = Translator(RUN, ["messages"], FrameCache())
    found: dict[str, str] = {}
    for frame in (frame for event in events for frame in translator.frames(event)):
        messages: Any = json.loads(frame.data) if frame.event in ("messages/partial", "messages/complete") else []
        for message in messages:
            if message["type"] != "remove":
                found[message["id"]] = message["content"]
            elif message["id"] == "__remove_all__":
                found.clear()
            else:
                found.pop(message["id"], None)
    return found


def stands(events: Sequence[Event]) -> dict[str, str]:
    fold = Fold()
    for event in events:
        fold.apply(event)
    return {message["id"]: message["content"] for message in fold.messages}


def test_a_message_that_gets_its_providers_id_late_is_there_once() -> None:
    events = [
        chunk(1, "Al", "lc_run--a", "a"),
        chunk(2, "Be", "lc_run--b", "b"),
        chunk(3, "", "msg_b", "b"),
        chunk(4, "ta", "lc_run--b", "b"),
        chunk(5, "pha", "msg_a", "a"),
    ]
    assert kept(events) == stands(events) == {"msg_a": "Alpha", "msg_b": "Beta"}


def test_what_a_node_removes_is_taken_back() -> None:
    said = [whole(1, "ai", "one", "1"), whole(2, "ai", "two", "2")]
    one = [*said, whole(3, "remove", "", "1")]
    assert kept(one) == stands(one) == {"2": "two"}
    everything = [*said, whole(3, "remove", "", "__remove_all__"), whole(4, "human", "a summary", "s")]
    assert kept(everything) == stands(everything) == {"s": "a summary"}
    again = [*one, whole(4, "ai", "one again", "1")]
    assert kept(again) == stands(again) == {"1": "one again", "2": "two"}
