"""Folding loses nothing: what a reader puts together is the JSON of each chunk, whatever a model streams."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any, cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ChatMessageChunk, ToolMessage
from pydantic_core import from_json

from runstream.codec import FORMAT, Decoder
from runstream.errors import EncodingError
from runstream_worker.chunks import Chunk
from runstream_worker.encoding import JsonEncoder
from runstream_worker.events import EventEncoder, Full, MessageFolder, TextDelta
from runstream_worker.origins import Placed

META = {"langgraph_node": "model", "langgraph_step": 1}


class Reader:
    """The format's description in `runstream_worker.events`, followed to the letter."""

    def __init__(self) -> None:
        self._complete: dict[str, dict[str, Any]] = {}

    def read(self, event_id: str, event: bytes) -> dict[str, Any]:
        parsed: dict[str, Any] = from_json(event)
        if "b" not in parsed:
            self._complete[event_id] = parsed
            return parsed
        base = self._complete[parsed["b"]]
        message, metadata = base["d"]
        changed = {"content": parsed["t"]} if "t" in parsed else parsed["d"]
        return {**base, "d": [{**message, **changed}, metadata]}


def token(content: Any = "token", message_id: str | None = "m-1", **fields: Any) -> AIMessageChunk:
    return AIMessageChunk(content=content, id=message_id, **fields)


def chunk(message: BaseMessage, metadata: object = META, ns: tuple[str, ...] = ()) -> Chunk:
    return Chunk("messages", ns, (message, metadata))


def task_of(each: Chunk) -> str:
    """A task for each metadata, as LangGraph has it: the chunks of one call come from one task."""
    _, metadata = cast("tuple[object, object]", each.data)
    return orjson.dumps([each.ns, metadata]).decode()


def encoded(chunks: list[Chunk], open_messages: int = 1024) -> list[dict[str, Any]]:
    """The events of the chunks, after checking that a reader gets all of each chunk back, and its task."""
    encoder, reader, decoder = EventEncoder(JsonEncoder(), open_messages), Reader(), Decoder()
    events = []
    for number, each in enumerate(chunks, 1):
        event = encoder.encode(Placed(each, task_of(each), (number,)), f"1-{number}")
        complete = reader.read(f"1-{number}", event)
        assert complete["d"] == from_json(JsonEncoder().encode_data("messages", each.data))
        assert [*complete["d"][0]] == [*from_json(JsonEncoder().encode_data("messages", each.data))[0]], (
            "the fields keep their order"
        )
        decoded = decoder.decode(f"1-{number}", {FORMAT: event})
        assert (decoded.mode, decoded.ns, decoded.data) == ("messages", each.ns, complete["d"])
        assert (complete["m"], tuple(complete.get("n", ()))) == ("messages", each.ns)
        assert decoded.task == complete["k"] == task_of(each)
        events.append(from_json(event))
    return events


TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, -0.0, 1.0, 2.0]) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
FIELDS = st.fixed_dictionaries(
    {"content": TEXT | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}), max_size=2)},
    optional={
        "additional_kwargs": st.dictionaries(st.sampled_from(["a", "b"]), JSON, max_size=2),
        "response_metadata": st.dictionaries(st.sampled_from(["model_provider", "n"]), JSON, max_size=2),
        "name": st.none() | TEXT,
        "usage_metadata": st.sampled_from([None, {"input_tokens": 1, "output_tokens": 0, "total_tokens": 1}]),
        "tool_call_chunks": st.sampled_from(
            [
                [],
                [{"name": "f", "args": "{", "id": "c", "index": 0}],
                [{"name": None, "args": "}", "id": None, "index": 0}],
            ]
        ),
        "chunk_position": st.sampled_from([None, "last"]),
        "an_extra_field": JSON,
    },
)
CHUNKS = st.builds(
    lambda fields, message_id, ns, metadata: chunk(AIMessageChunk(id=message_id, **fields), metadata, ns),
    FIELDS,
    st.sampled_from(["m-1", "m-1", "m-2", None]),
    st.sampled_from([(), (), ("agent:1",)]),
    st.sampled_from([META, META, dict(META), {"langgraph_step": True}, {"langgraph_step": 1}, {"langgraph_step": 1.0}]),
)


@given(st.lists(CHUNKS, max_size=12), st.sampled_from([1, 2, 1024]))
def test_a_reader_gets_every_chunk_back(chunks: list[Chunk], open_messages: int) -> None:
    encoded(chunks, open_messages)


def test_a_token_is_its_text() -> None:
    first, *tokens = encoded([chunk(token(text)) for text in ("", "Hel", "lo")])
    assert first["m"] == "messages"
    assert tokens == [{"b": "1-1", "t": "Hel"}, {"b": "1-1", "t": "lo"}]


def test_other_fields_are_written_when_they_differ() -> None:
    *_, event = encoded([chunk(token("")), chunk(token("", usage_metadata=None, chunk_position="last"))])
    assert event == {"b": "1-1", "d": {"chunk_position": "last"}}


def test_a_field_that_is_back_to_its_default_is_written() -> None:
    call = {"name": "f", "args": "{}", "id": "c", "index": 0, "type": "tool_call_chunk"}
    *_, event = encoded(
        [chunk(token("", tool_call_chunks=[call])), chunk(token("", name="n", tool_call_chunks=[call]))]
    )
    assert event == {"b": "1-1", "d": {"name": "n"}}


def test_a_first_chunk_with_usage_gets_a_plain_second_base() -> None:
    usage = {"input_tokens": 9, "output_tokens": 0, "total_tokens": 9}
    events = encoded([chunk(token("", usage_metadata=usage)), *(chunk(token(text)) for text in "abc")])
    assert [event.get("b") for event in events] == [None, None, "1-2", "1-2"]


def test_equal_in_python_is_not_equal_in_json() -> None:
    events = encoded([chunk(token(additional_kwargs={"n": n})) for n in (1, True, 1.0)])
    assert [event["d"]["additional_kwargs"] for event in events[1:]] == [{"n": True}, {"n": 1.0}]


def test_a_message_that_was_changed_after_it_was_emitted_changes_nothing() -> None:
    encoder, reader = EventEncoder(JsonEncoder()), Reader()
    first = token("a", response_metadata={"model_provider": "p"})
    reader.read("1-1", encoder.encode(Placed(chunk(first)), "1-1"))
    first.response_metadata["model_provider"] = "q"
    second = token("b", response_metadata={"model_provider": "q"})
    read = reader.read("1-2", encoder.encode(Placed(chunk(second)), "1-2"))
    assert read["d"][0] == second.model_dump()


@pytest.mark.parametrize(
    "message",
    [
        ToolMessage("found", tool_call_id="c", id="t"),
        AIMessage("whole", id="a"),
        AIMessageChunk(content="no id"),
        AIMessageChunk(content="the only one", id="x", chunk_position="last"),
    ],
)
def test_what_nothing_can_follow_is_not_remembered(message: BaseMessage) -> None:
    folder = MessageFolder(JsonEncoder())
    assert isinstance(folder.fold((), message, META, "1-1"), Full)
    assert len(folder) == 0


def test_a_message_is_forgotten_with_its_last_chunk() -> None:
    folder = MessageFolder(JsonEncoder())
    folder.fold((), token(), META, "1-1")
    assert isinstance(folder.fold((), token("b"), META, "1-2"), TextDelta)
    folder.fold((), token(chunk_position="last"), META, "1-3")
    assert len(folder) == 0


def test_other_kinds_of_chunks_are_folded_too() -> None:
    events = encoded([chunk(ChatMessageChunk(role="boss", content=text, id="m")) for text in "ab"])
    assert events[1] == {"b": "1-1", "d": {"content": "b"}}


def test_the_oldest_open_message_is_written_completely_again() -> None:
    messages = ["m-1", "m-2", "m-3", "m-1", "m-3"]
    events = encoded([chunk(token(message_id=each)) for each in messages], open_messages=2)
    assert [event.get("b") for event in events] == [None, None, None, None, "1-3"]


def test_memory_is_bounded() -> None:
    encoder = EventEncoder(JsonEncoder(), open_messages=10)
    tracemalloc.start()
    for number in range(1000):
        encoder.encode(Placed(chunk(token(message_id=f"m-{number}"))), "1-1")
    gc.collect()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 10 * 4096


def test_an_event_that_waits_to_be_sent_takes_its_own_size() -> None:
    """What orjson returns occupies 4 KiB however short it is; a thousand tokens must not wait as 4 MiB."""
    encoder = EventEncoder(JsonEncoder())
    chunks = [chunk(token(str(number))) for number in range(1000)]
    tracemalloc.start()
    waiting = [encoder.encode(Placed(each), "1-1") for each in chunks]
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < len(waiting) * 100


def test_half_a_character_in_a_token_does_not_end_the_run() -> None:
    encoder = EventEncoder(JsonEncoder())
    encoder.encode(Placed(chunk(token(""))), "1-1")
    assert from_json(encoder.encode(Placed(chunk(token("a\ud83d"))), "1-2")) == {"b": "1-1", "t": "a"}
    assert from_json(encoder.encode(Placed(chunk(token("b"))), "1-3")) == {
        "b": "1-1",
        "t": "\N{REPLACEMENT CHARACTER}b",
    }


@pytest.mark.parametrize(
    ("bad", "path"),
    [
        (chunk(token(additional_kwargs={"x": object()})), r"messages\[0\]\.additional_kwargs\.x: object"),
        (chunk(token(), {"conn": object()}), r"messages\[1\]\.conn: object"),
        (chunk(ToolMessage("t", tool_call_id="c", artifact=object())), r"messages\[0\]\.artifact: object"),
    ],
)
def test_a_fault_names_its_place_and_leaves_no_base(bad: Chunk, path: str) -> None:
    encoder = EventEncoder(JsonEncoder(strict=True))
    with pytest.raises(EncodingError, match=path):
        encoder.encode(Placed(bad), "1-1")
    assert "b" not in from_json(encoder.encode(Placed(chunk(token())), "1-2"))


@pytest.mark.parametrize(
    ("placed", "event"),
    [
        (Placed(Chunk("custom", (), 1)), b'{"m":"custom","d":1}'),
        (Placed(Chunk("updates", ("a:1", "b:2"), {})), b'{"m":"updates","n":["a:1","b:2"],"d":{}}'),
        (Placed(Chunk("updates", (), {}), "task-1", (3,)), b'{"m":"updates","k":"task-1","s":[3],"d":{}}'),
        (Placed(Chunk("custom", ("a:1",), 1), None, (3, 0)), b'{"m":"custom","n":["a:1"],"s":[3,0],"d":1}'),
        (Placed(Chunk("custom", (), 1), "task-1", (None,)), b'{"m":"custom","k":"task-1","s":[null],"d":1}'),
        (Placed(Chunk("values", (), {}, ())), b'{"m":"values","d":{},"i":[]}'),
        (
            Placed(Chunk("values", (), {}, ({"id": "x"},)), None, (-1,)),
            b'{"m":"values","s":[-1],"d":{},"i":[{"id":"x"}]}',
        ),
    ],
)
def test_the_other_modes_are_written_as_they_are(placed: Placed, event: bytes) -> None:
    assert EventEncoder(JsonEncoder()).encode(placed, "1-1") == event


def test_where_a_message_comes_from_is_written_once() -> None:
    encoder = EventEncoder(JsonEncoder())
    base, further = (
        from_json(encoder.encode(Placed(chunk(token(text)), "task-1", (2,)), f"1-{number}"))
        for number, text in enumerate(("", "Hel"), 1)
    )
    assert (base["k"], base["s"]) == ("task-1", [2])
    assert further == {"b": "1-1", "t": "Hel"}
