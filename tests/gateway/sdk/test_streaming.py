"""`runs.stream`: every mode, several at once, subgraphs, errors."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import UnprocessableEntityError
from tests.support.sdk_parts import collect, human, names, of, slowly, text_of


async def test_metadata_comes_first_and_names_the_run(client: Any, thread_id: str) -> None:
    parts = await collect(client.runs.stream(thread_id, "chat", input=human("hi")))
    runs = await client.runs.list(thread_id)
    assert parts[0].event == "metadata"
    assert parts[0].data == {"run_id": runs[0]["run_id"], "attempt": 1}


async def test_the_run_and_its_thread_are_told_before_the_first_event(client: Any, thread_id: str) -> None:
    created: list[Any] = []
    stream = client.runs.stream(thread_id, "chat", input=human("hi"), on_run_created=created.append)
    parts = await collect(stream)
    assert created == [{"run_id": parts[0].data["run_id"], "thread_id": thread_id}]


async def test_values(client: Any, thread_id: str) -> None:
    parts = await collect(client.runs.stream(thread_id, "chat", input=human("hi there")))
    assert names(parts) == ["metadata", "values", "values"]
    before, after = of(parts, "values")
    assert [message["content"] for message in before["messages"]] == ["hi there"]
    question, answer = after["messages"]
    assert question == before["messages"][0]
    assert question == {
        "content": "hi there",
        "additional_kwargs": {},
        "response_metadata": {},
        "type": "human",
        "name": None,
        "id": question["id"],
    }
    assert answer == {
        "content": "You said: hi there",
        "additional_kwargs": {},
        "response_metadata": {},
        "type": "ai",
        "name": None,
        "id": answer["id"],
        "tool_calls": [],
        "invalid_tool_calls": [],
        "usage_metadata": None,
    }


async def test_updates(client: Any, thread_id: str) -> None:
    parts = await collect(client.runs.stream(thread_id, "agent", input=human("look up bee"), stream_mode="updates"))
    assert names(parts) == ["metadata", "updates", "updates", "updates"]
    assert [list(update) for update in of(parts, "updates")] == [["model"], ["tools"], ["model"]]
    call, result, answer = (next(iter(update.values()))["messages"] for update in of(parts, "updates"))
    called = {"name": "lookup", "args": {"word": "bee"}, "id": "call_1", "type": "tool_call"}
    assert call[-1]["tool_calls"] == [called]
    assert result[-1]["type"] == "tool"
    assert result[-1]["tool_call_id"] == "call_1"
    assert result[-1]["status"] == "success"
    assert answer[-1]["content"] == "The tool said: bee means something"


async def test_messages_tuple(client: Any, thread_id: str) -> None:
    parts = await collect(client.runs.stream(thread_id, "chat", input=human("hi"), stream_mode="messages-tuple"))
    assert names(parts) == ["metadata", *["messages"] * 4]
    assert text_of(parts) == "You said: hi"
    chunks, metadatas = zip(*of(parts, "messages"), strict=True)
    assert {chunk["type"] for chunk in chunks} == {"AIMessageChunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert [chunk["chunk_position"] for chunk in chunks] == [None, None, None, "last"]
    for metadata in metadatas:
        assert metadata["langgraph_node"] == "answer"
        assert metadata["langgraph_step"] == 1
        assert metadata["thread_id"] == thread_id
        assert metadata["run_id"] == parts[0].data["run_id"]
        assert metadata["graph_id"] == "chat"
        assert metadata["langgraph_checkpoint_ns"].startswith("answer:")
    state = await client.threads.get_state(thread_id)
    # The state has langchain's id of the message, the chunks that of the call; clients match them without the suffix.
    assert state["values"]["messages"][-1]["id"].removesuffix("-0") == chunks[0]["id"].removesuffix("-0")


async def test_messages_tuple_of_a_tool_call(client: Any, thread_id: str) -> None:
    stream = client.runs.stream(thread_id, "agent", input=human("look up bee"), stream_mode=["messages-tuple"])
    messages = [data[0] for data in of(await collect(stream), "messages")]
    pieces = [piece for message in messages for piece in message.get("tool_call_chunks", [])]
    assert [piece["args"] for piece in pieces] == ["", '{"word": ', '"bee"}']
    assert (pieces[0]["name"], pieces[0]["id"], pieces[0]["index"]) == ("lookup", "call_1", 0)
    (result,) = [message for message in messages if message["type"] == "tool"]
    assert result["content"] == "bee means something"


async def test_messages(client: Any, thread_id: str) -> None:
    parts = await collect(client.runs.stream(thread_id, "chat", input=human("hi"), stream_mode="messages"))
    assert names(parts)[:2] == ["metadata", "messages/metadata"]
    assert set(names(parts)[2:]) == {"messages/partial"}
    ((message_id, described),) = parts[1].data.items()
    assert described["metadata"]["langgraph_node"] == "answer"
    partials = of(parts, "messages/partial")
    assert all(len(partial) == 1 for partial in partials)
    assert [partial[0]["content"] for partial in partials][:3] == ["You", "You said:", "You said: hi"]
    assert partials[-1][0]["content"] == "You said: hi"
    assert {(partial[0]["type"], partial[0]["id"]) for partial in partials} == {("ai", message_id)}


async def test_messages_of_a_tool_loop(client: Any, thread_id: str) -> None:
    parts = await collect(client.runs.stream(thread_id, "agent", input=human("look up bee"), stream_mode="messages"))
    said = [name for name, before in zip(names(parts)[1:], names(parts), strict=False) if name != before]
    whole = ["messages/metadata", "messages/complete"]
    streamed = ["messages/metadata", "messages/partial"]
    assert said == [*streamed, *whole, *streamed]
    call = [data[0] for data in of(parts, "messages/partial") if data[0]["tool_calls"]][-1]
    assert call["tool_calls"] == [{"name": "lookup", "args": {"word": "bee"}, "id": "call_1", "type": "tool_call"}]
    (result,) = of(parts, "messages/complete")
    assert result[0]["type"] == "tool"


async def test_custom(client: Any, thread_id: str) -> None:
    parts = await collect(client.runs.stream(thread_id, "slow", input=slowly(3, 0.0), stream_mode="custom"))
    assert of(parts, "custom") == [{"tick": 0}, {"tick": 1}, {"tick": 2}]


async def test_tasks(client: Any, thread_id: str) -> None:
    parts = await collect(client.runs.stream(thread_id, "parallel", input={"steps": ["given"]}, stream_mode="tasks"))
    tasks = of(parts, "tasks")
    starts = {task["name"]: task for task in tasks if "triggers" in task}
    ends = {task["name"]: task for task in tasks if "result" in task}
    assert list(starts) == ["left", "right", "joined"]
    assert starts["left"]["input"] == {"steps": ["given"]}
    assert starts["left"]["triggers"] == ["branch:to:left"]
    for name, end in ends.items():
        assert end == {
            "id": starts[name]["id"],
            "name": name,
            "error": None,
            "result": {"steps": [name]},
            "interrupts": [],
        }


async def test_checkpoints(client: Any, thread_id: str) -> None:
    parts = await collect(client.runs.stream(thread_id, "chat", input=human("hi"), stream_mode="checkpoints"))
    checkpoints = of(parts, "checkpoints")
    history = await client.threads.get_history(thread_id)
    assert [checkpoint["metadata"]["source"] for checkpoint in checkpoints] == ["input", "loop", "loop"]
    assert [checkpoint["next"] for checkpoint in checkpoints] == [["__start__"], ["answer"], []]
    ids = [checkpoint["config"]["configurable"]["checkpoint_id"] for checkpoint in checkpoints]
    assert ids == [state["checkpoint_id"] for state in reversed(history)]
    assert checkpoints[0]["parent_config"] is None
    assert checkpoints[1]["parent_config"]["configurable"]["checkpoint_id"] == ids[0]
    assert checkpoints[-1]["values"]["messages"][-1]["content"] == "You said: hi"


async def test_debug(client: Any, thread_id: str) -> None:
    parts = await collect(client.runs.stream(thread_id, "chat", input=human("hi"), stream_mode="debug"))
    debug = of(parts, "debug")
    steps = [(record["step"], record["type"]) for record in debug]
    assert steps == [(-1, "checkpoint"), (0, "checkpoint"), (1, "task"), (1, "task_result"), (1, "checkpoint")]
    assert all(record["timestamp"] for record in debug)
    assert debug[2]["payload"]["name"] == "answer"
    assert debug[-1]["payload"]["checkpoint"]["thread_id"] == thread_id
    assert debug[-1]["payload"]["parent_checkpoint"] == debug[1]["payload"]["checkpoint"]


async def test_events(client: Any, thread_id: str) -> None:
    parts = await collect(client.runs.stream(thread_id, "chat", input=human("hi"), stream_mode="events"))
    events = of(parts, "events")
    assert [event["event"] for event in events if event["event"].endswith(("start", "end"))] == [
        "on_chain_start",
        "on_chain_start",
        "on_chat_model_start",
        "on_chat_model_end",
        "on_chain_end",
        "on_chain_end",
    ]
    said = [event["data"]["chunk"]["content"] for event in events if event["event"] == "on_chat_model_stream"]
    assert "".join(said) == "You said: hi"
    assert events[0]["run_id"] == parts[0].data["run_id"]
    assert events[1]["parent_ids"] == [events[0]["run_id"]]
    assert events[-1]["data"]["output"]["messages"][-1]["content"] == "You said: hi"


async def test_several_modes(client: Any, thread_id: str) -> None:
    modes = ["values", "updates", "messages-tuple", "custom", "tasks", "checkpoints", "debug", "events"]
    parts = await collect(client.runs.stream(thread_id, "chat", input=human("hi"), stream_mode=modes))
    assert set(names(parts)) == {"metadata", *modes, "messages"} - {"messages-tuple", "custom"}
    assert text_of(parts) == "You said: hi"
    order = [part.event for part in parts if part.event in {"values", "updates"}]
    assert order == ["values", "updates", "values"]
    assert names(parts).index("messages") < names(parts).index("updates")


async def test_values_and_events_are_the_same_run(client: Any, thread_id: str) -> None:
    parts = await collect(client.runs.stream(thread_id, "chat", input=human("hi"), stream_mode=["values", "events"]))
    assert [len(values["messages"]) for values in of(parts, "values")] == [1, 2]
    assert of(parts, "events")[0]["event"] == "on_chain_start"


async def test_the_tuple_form_wins(client: Any, thread_id: str) -> None:
    modes = ["messages", "messages-tuple"]
    parts = await collect(client.runs.stream(thread_id, "chat", input=human("hi"), stream_mode=modes))
    assert set(names(parts)) == {"metadata", "messages"}


async def test_subgraphs_name_where_they_are(client: Any, thread_id: str) -> None:
    modes = ["values", "updates", "messages-tuple", "custom"]
    stream = client.runs.stream(thread_id, "parent", input={}, stream_mode=modes, stream_subgraphs=True)
    parts = await collect(stream)
    assert names(parts) == [
        "metadata",
        "values|child",
        "custom|child",
        *["messages|child"] * 4,
        "updates|child",
        "values|child",
        "updates",
        "values",
        "updates",
        "values",
    ]
    (namespace,) = {part.event.partition("|")[2] for part in parts if "|" in part.event}
    assert re.fullmatch(r"child:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", namespace)
    assert text_of(parts, f"messages|{namespace}") == "You said: inner"


async def test_without_subgraphs_nothing_of_them_is_said(client: Any, thread_id: str) -> None:
    modes = ["values", "updates", "custom", "tasks", "checkpoints"]
    parts = await collect(client.runs.stream(thread_id, "parent", input={}, stream_mode=modes))
    assert {part.event for part in parts} == {"metadata", "values", "updates", "tasks", "checkpoints"}
    assert [list(update) for update in of(parts, "updates")] == [["child"], ["outer"]]


async def test_messages_of_a_subgraph_have_no_namespace(client: Any, thread_id: str) -> None:
    stream = client.runs.stream(thread_id, "parent", input={}, stream_mode="messages", stream_subgraphs=True)
    parts = await collect(stream)
    assert set(names(parts)) == {"metadata", "messages/metadata", "messages/partial"}
    assert of(parts, "messages/partial")[-1][0]["content"] == "You said: inner"


async def test_parallel_nodes_update_one_by_one(client: Any, thread_id: str) -> None:
    parts = await collect(client.runs.stream(thread_id, "parallel", input={}, stream_mode="updates"))
    updates = of(parts, "updates")
    assert sorted(next(iter(update)) for update in updates[:2]) == ["left", "right"]
    assert updates[2] == {"joined": {"steps": ["joined"]}}
    assert len(updates) == 3


async def test_an_error_is_the_last_event(client: Any, thread_id: str) -> None:
    parts = await collect(client.runs.stream(thread_id, "failing", input={}, stream_mode=["values", "updates"]))
    assert names(parts) == ["metadata", "updates", "values", "error"]
    assert parts[-1].data == {"error": "ValueError", "message": "boom"}


async def test_typed_parts(client: Any, thread_id: str) -> None:
    stream = client.runs.stream(
        thread_id,
        "parent",
        input={"pause": True},
        stream_mode=["values", "updates", "custom"],
        stream_subgraphs=True,
        version="v2",
    )
    parts = [part async for part in stream]
    assert parts[0]["type"] == "metadata"
    assert {part["type"] for part in parts} == {"metadata", "values", "updates", "custom"}
    assert parts[-1]["type"] == "values"
    assert parts[-1]["ns"] == []
    assert [interrupt["value"] for interrupt in parts[-1]["interrupts"]] == ["inside?"]
    assert "__interrupt__" not in parts[-1]["data"]
    assert any(part["ns"] and part["ns"][0].startswith("child:") for part in parts)


async def test_a_mode_that_there_is_not(client: Any, thread_id: str) -> None:
    with pytest.raises(UnprocessableEntityError):
        await collect(client.runs.stream(thread_id, "chat", input=human("hi"), stream_mode="nonsense"))
    assert await client.runs.list(thread_id) == []


async def test_the_status_is_final_when_the_stream_ends(client: Any, thread_id: str) -> None:
    await collect(client.runs.stream(thread_id, "chat", input=human("hi")))
    assert [run["status"] for run in await client.runs.list(thread_id)] == ["success"]
    assert (await client.threads.get(thread_id))["status"] == "idle"


@pytest.mark.ours("there is no end event")
async def test_a_stream_ends_with_end(client: Any, thread_id: str) -> None:
    parts = [part async for part in client.runs.stream(thread_id, "chat", input=human("hi"))]
    assert [part.event for part in parts].count("end") == 1
    assert parts[-1].event == "end"


@pytest.mark.ours("ids only on request, and not unique within a millisecond")
async def test_every_event_has_an_id_of_its_own(client: Any, thread_id: str) -> None:
    modes = ["values", "updates", "messages-tuple"]
    parts = await collect(client.runs.stream(thread_id, "chat", input=human("hi"), stream_mode=modes))
    ids = [part.id for part in parts]
    assert None not in ids
    assert len(set(ids)) == len(ids)


async def test_resumable_events_have_ids(client: Any, thread_id: str) -> None:
    parts = await collect(client.runs.stream(thread_id, "chat", input=human("hi"), stream_resumable=True))
    assert all(part.id for part in parts)


async def test_two_at_once(async_client: LangGraphClient, thread_id: str) -> None:
    """Streams of different threads do not mix."""

    async def said(word: str) -> str:
        thread = await async_client.threads.create()
        stream = async_client.runs.stream(thread["thread_id"], "chat", input=human(word), stream_mode="messages-tuple")
        return text_of(await collect(stream))

    words = [f"word{number}" for number in range(8)]
    assert await asyncio.gather(*map(said, words)) == [f"You said: {word}" for word in words]
