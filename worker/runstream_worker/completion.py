"""Messages that have been saved and are not, or not wholly, in the stream.

A worker saves only what it has published, so none is, unless Redis has lost events that a checkpointer elsewhere has
outlived. Then the next attempt says the rest. (Checkpoints in the same Redis are lost before the events that they stand
for are: what Redis has after a crash, or a replica after a failover, is what was written up to some moment.)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.constants import START

from runstream.characters import well_formed
from runstream_worker.chunks import Chunk
from runstream_worker.origins import Placed
from runstream_worker.past import Entry, Past
from runstream_worker.run_saver import is_beside_runs, listed


async def missing_messages(
    saver: BaseCheckpointSaver[Any], thread_id: str, run_id: str, past: Past, told: Collection[str]
) -> AsyncIterator[Placed]:
    """What the stream lacks of the messages that the run has saved at the root, where it can lack any.

    Args:
        saver: has the checkpoints.
        thread_id: the run's thread.
        run_id: the run.
        past: what the stream has of it.
        told: the ids of messages that other runs' streams have.
    """
    if is_beside_runs(saver):
        return
    said = [entry for entry in past if entry.mode == "messages"]
    produced = await _produced(saver, thread_id, run_id)
    saved_ids = {message.id for message in produced}
    for message in produced:
        placed = _rest(message, _said_of(message, said, saved_ids))
        if placed is not None and message.id not in told:
            yield placed


def _said_of(message: BaseMessage, said: Sequence[Entry], saved_ids: Collection[str | None]) -> list[Entry]:
    """What the stream has of a message.

    A provider may give its own id on one chunk only (OpenAI's Responses API does): the others have LangChain's, which
    no saved message has. They are of the same call; or, where that chunk is lost, the saved text begins with theirs.
    """
    own = [entry for entry in said if entry.message == message.id]
    if own:
        calls = {entry.call for entry in own} - {None}
        return [entry for entry in said if entry in own or entry.call in calls]
    strays = [entry for entry in said if entry.message not in saved_ids]
    for stray in strays:
        group = [entry for entry in strays if (entry.call, entry.message) == (stray.call, stray.message)]
        if _text(group) and well_formed(message.text).startswith(_text(group)):
            return group
    return []


def _text(entries: Sequence[Entry]) -> str:
    return "".join(part for entry in entries for part in entry.texts)


async def _produced(saver: BaseCheckpointSaver[Any], thread_id: str, run_id: str) -> list[BaseMessage]:
    """The messages that this run's nodes have added to the thread."""
    config: RunnableConfig = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
    produced: dict[str, BaseMessage] = {}
    before: set[str] = set()
    newer: CheckpointTuple | None = None
    async with listed(saver, config) as checkpoints:
        async for found in checkpoints:
            if found.metadata.get("run_id") != run_id:
                # It stopped there to ask: what others of its tasks had said by then was told in its own stream.
                before |= _ids(messages_in(found))
                break
            if newer is None:
                # What people say is given: with durability `exit` it is in no checkpoint before this one.
                produced = {one.id: one for one in messages_in(found) if one.id and one.type != "human"}
            if found.metadata.get("source") == "input":
                # The input is in the state with the checkpoint behind this one, in which it still waits.
                before |= _ids(messages_in(found))
                if newer is not None and START in _channels(found):
                    before |= _ids(_in(_channels(newer).values()))
                break
            newer = found
    return [message for key, message in produced.items() if key not in before]


def _channels(found: CheckpointTuple) -> dict[str, Any]:
    return found.checkpoint["channel_values"]


def _ids(messages: Iterable[BaseMessage]) -> set[str]:
    return {message.id for message in messages if message.id}


def messages_in(found: CheckpointTuple) -> Iterator[BaseMessage]:
    """The messages of a checkpoint: of the values, and those that tasks have written towards the next ones."""
    return _in([*_channels(found).values(), *(value for _, _, value in found.pending_writes or ())])


def _in(values: Iterable[Any]) -> Iterator[BaseMessage]:
    for value in values:
        if isinstance(value, BaseMessage):
            yield value
        elif isinstance(value, list):
            yield from (item for item in value if isinstance(item, BaseMessage))


def _rest(message: BaseMessage, said: Sequence[Entry]) -> Placed | None:
    if not said:
        return Placed(Chunk("messages", (), (message, {})))
    text, whole = _text(said), well_formed(message.text)
    if not isinstance(message, AIMessage) or not whole.startswith(text) or whole == text:
        return None
    rest = AIMessageChunk(content=whole[len(text) :], id=message.id, chunk_position="last")
    first = said[0]
    return Placed(Chunk("messages", first.ns, (rest, first.metadata), None, first.call), first.task, first.steps)
