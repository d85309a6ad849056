"""A run's messages from the events that published them, so that what turns out to be void can be taken out again.

What is kept of a message is one sum for each task that published it, not one for each chunk: a task's events are void
together. Only of events that come from no task is each one kept apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from runstream.characters import well_formed_in
from runstream.merging import Tree, add_usage, merge_content, merge_dicts, merge_lists, plain
from runstream.model import Event
from runstream.toolcalls import Calls, tool_calls_of
from runstream.voids import Voids

_OWN_RULE: Final = frozenset({
    "content", "additional_kwargs", "response_metadata", "usage_metadata", "tool_call_chunks", "tool_calls",
    "invalid_tool_calls", "type", "id",
})  # fmt: skip
_CALL_FIELDS = ("name", "args", "id", "index")
_FROM_LANGCHAIN = "lc_"


REMOVE_ALL: Final = "__remove_all__"
"""The id of LangGraph's `RemoveMessage` that stands for all messages of its graph, and of the graphs below it."""


class _Part:
    """What one task has published of one message in one go, or an event that comes from no task, or a whole message.

    Attributes:
        task, event_id: where it comes from; the event's id only where it is one event.
        call: the model's call that streamed it, where it is known.
        first_id: the id of its first event.
        ids: those under which the message came.
        ns, metadata: of its first event.
        whole: whether it is no chunk, and so takes the place of what came before it.
        removes: whether it is no message but removes one, or all.
        tree: the sum of its chunks.
    """

    __slots__ = ("call", "event_id", "first_id", "ids", "metadata", "ns", "removes", "task", "tree", "whole")

    def __init__(self, event: Event, message: dict[str, Any], metadata: dict[str, Any]) -> None:
        message_id = message.get("id")
        self.whole = not is_chunk(message)
        self.removes = is_removal(message)
        self.task = event.task
        self.call = event.call
        self.event_id = event.id if self.whole or event.task is None else None
        self.first_id = event.id
        self.ids = [] if message_id is None else [message_id]
        self.ns = event.ns
        self.metadata = metadata
        self.tree: Tree = plain(message)

    def takes(self, event: Event) -> bool:
        """Whether a further chunk of its message is void whenever this is."""
        return self.task is not None and self.task == event.task and self.call == event.call and not self.whole


class _Message:
    """One message: its parts in their order, and what they amount to, once somebody has asked."""

    __slots__ = ("is_removed", "left_over", "parts", "told")

    def __init__(self) -> None:
        self.parts: list[_Part] = []
        self.told: dict[str, Any] | None = None
        self.is_removed = False
        self.left_over = 0

    @property
    def is_open(self) -> bool:
        """Whether further chunks of it are to be expected."""
        last = self.parts[-1]
        return not last.whole and not _is_last(last.tree)

    def tell(self, *, ended: bool) -> dict[str, Any] | None:
        """The message as it stands; None where it was removed."""
        if self.is_removed:
            return None
        if self.told is None:
            parts = self.standing()
            ids = [message_id for part in parts for message_id in part.ids]
            self.told = _told(_sum(parts), _best_id(ids), ended=ended)
        return self.told

    def standing(self) -> Sequence[_Part]:
        """The parts that count: a whole message, or another call of the model, takes the place of those before."""
        last = self.parts[-1]
        if last.call is not None:
            return [part for part in self.parts if part.call == last.call]
        whole = [at for at, part in enumerate(self.parts) if part.whole]
        return self.parts[max(self.left_over, *whole[-1:], 0) :]

    def part_for(self, event: Event) -> _Part | None:
        """The part that a further chunk goes into; None where it begins another."""
        if self.is_removed:
            return None
        parts = reversed(self.parts) if event.call is not None else self.parts[-1:]
        return next((part for part in parts if part.takes(event)), None)

    def remove(self) -> None:
        """Take it that the message is gone; should it come again, only what comes of it then counts."""
        self.is_removed = True
        self.left_over = len(self.parts)


class Messages:
    """The messages of a run, in the order in which they appeared."""

    def __init__(self) -> None:
        self._parts: list[_Part] = []
        self._in_order: list[_Message] = []
        self._by_id: dict[str, _Message] = {}
        self._by_call: dict[str, _Message] = {}
        self._ended = False

    def add(self, event: Event) -> None:
        """Take an event of the mode `messages`."""
        message, metadata = event.data
        known = self._known(event, message)
        part = known.part_for(event) if known is not None and is_chunk(message) else None
        if known is None or part is None:
            part = _Part(event, message, metadata)
            self._parts.append(part)
            self._place(part)
            return
        _add_chunk(part.tree, message)
        known.told = None
        message_id = message.get("id")
        if message_id is not None and message_id not in part.ids:
            part.ids.append(message_id)
            if message_id in self._by_id:
                self._place_all()  # the id of an earlier message, whose place this one takes
            else:
                self._by_id[message_id] = known

    def leave_out(self, voids: Voids) -> bool:
        """Take out what is void; tell whether there was any."""
        kept = [part for part in self._parts if not voids.covers_source(part.task, part.event_id, part.first_id)]
        if len(kept) == len(self._parts):
            return False
        self._parts = kept
        self._place_all()
        return True

    def end(self) -> bool:
        """Take it that nothing more will come; tell whether that changes a message."""
        self._ended = True
        open_ones = [message for message in self._in_order if message.is_open]
        for message in open_ones:
            message.told = None
        return bool(open_ones)

    def tell(self) -> list[dict[str, Any]]:
        """The messages as they stand; those that have not changed are the same objects as before."""
        told = (message.tell(ended=self._ended) for message in self._in_order)
        return [message for message in told if message is not None]

    def of(self, event: Event) -> dict[str, Any] | None:
        """The message of an event that has been added, as it stands; None where there is none, or it was removed."""
        message = self._known(event, event.data[0])
        return None if message is None else message.tell(ended=self._ended)

    def message(self, message_id: str) -> dict[str, Any] | None:
        """One message as it stands; None where there is none, or it was removed."""
        message = self._by_id.get(message_id)
        return None if message is None else message.tell(ended=self._ended)

    def metadata_of(self, message_id: str) -> dict[str, Any] | None:
        """What LangGraph says of a message; None where there is none, or it was removed."""
        message = self._by_id.get(message_id)
        return None if message is None or message.is_removed else message.parts[0].metadata

    def knows(self, message_id: str | None) -> bool:
        """Whether a message has come under an id, be it removed by now or not."""
        return message_id in self._by_id

    def _known(self, event: Event, message: dict[str, Any]) -> _Message | None:
        known = self._by_call.get(event.call) if event.call is not None else None
        return known or self._by_id.get(message.get("id", ""))

    def _place_all(self) -> None:
        self._in_order, self._by_id, self._by_call = [], {}, {}
        for part in self._parts:
            self._place(part)

    def _place(self, part: _Part) -> None:
        """Put a part to its message, or begin one."""
        if part.removes:
            self._remove(part)
            return
        message = next((self._by_id[message_id] for message_id in part.ids if message_id in self._by_id), None)
        if part.call is not None:
            message = self._by_call.get(part.call, message)
        if message is None:
            message = _Message()
            self._in_order.append(message)
        elif message.is_removed:
            message.is_removed = False
            self._in_order.append(message)
        message.parts.append(part)
        message.told = None
        self._by_id.update(dict.fromkeys(part.ids, message))
        if part.call is not None:
            self._by_call[part.call] = message

    def _remove(self, part: _Part) -> None:
        """Remove what a removal names."""
        if REMOVE_ALL in part.ids:
            gone = [message for message in self._in_order if message.parts[0].ns[: len(part.ns)] == part.ns]
        else:
            gone = [self._by_id[message_id] for message_id in part.ids if message_id in self._by_id]
        for message in gone:
            message.remove()
        self._in_order = [message for message in self._in_order if not message.is_removed]


def _best_id(ids: Sequence[str]) -> str | None:
    """A provider's own id, else the first that LangChain has made."""
    return next((one for one in ids if not one.startswith(_FROM_LANGCHAIN)), ids[0] if ids else None)


def is_chunk(message: Mapping[str, Any]) -> bool:
    """Whether a message is a chunk of one."""
    return str(message.get("type", "")).endswith("Chunk")


def is_removal(message: Mapping[str, Any]) -> bool:
    """Whether a message removes one, or all (`REMOVE_ALL`)."""
    return message.get("type") == "remove"


def _is_last(message: dict[str, Any]) -> bool:
    return message.get("chunk_position") == "last"


def _add_chunk(tree: dict[str, Tree], chunk: dict[str, Any]) -> None:
    """Add a chunk to the sum of those before it."""
    tree["content"] = merge_content(_content(tree), _content(chunk))
    for key, value in chunk.items():
        if key not in _OWN_RULE and value is not None:
            tree[key] = plain(value)
    for key in ("additional_kwargs", "response_metadata"):
        if more := chunk.get(key):
            tree[key] = merge_dicts(tree.get(key) or {}, more)
    if usage := chunk.get("usage_metadata"):
        tree["usage_metadata"] = add_usage(tree.get("usage_metadata") or {}, usage)
    if calls := chunk.get("tool_call_chunks"):
        tree["tool_call_chunks"] = merge_lists(tree.get("tool_call_chunks") or [], calls)


def _content(message: dict[str, Tree]) -> Tree:
    content = message.get("content")
    return "" if content is None else content


def _sum(parts: Sequence[_Part]) -> dict[str, Any]:
    total: dict[str, Tree] = plain(parts[0].tree)
    for part in parts[1:]:
        _add_chunk(total, plain(part.tree))
    return {key: plain(value) for key, value in total.items()} if len(parts) > 1 else total


def _told(message: dict[str, Any], message_id: str | None, *, ended: bool) -> dict[str, Any]:
    """A sum of chunks as a message; a whole one as it came."""
    kind = message.get("type", "")
    if not kind.endswith("Chunk"):
        return message
    message["id"] = message_id
    if chunks := message.get("tool_call_chunks"):
        normal = [
            {**{field: chunk.get(field) for field in _CALL_FIELDS}, "type": "tool_call_chunk"} for chunk in chunks
        ]
        message["tool_call_chunks"] = normal
        message["tool_calls"], message["invalid_tool_calls"] = tool_calls_of(normal)
    last = _is_last(message)
    if last and (message.get("response_metadata") or {}).get("output_version") == "v1":
        _finish_blocks(message["content"], message.get("tool_calls") or [])
    if last or ended:
        message["type"] = kind.removesuffix("Chunk").removesuffix("Message").lower()
        message.pop("tool_call_chunks", None)
        message.pop("chunk_position", None)
    return message


def _finish_blocks(content: Any, calls: Calls) -> None:
    """With LangChain's content of version 1, put calls in the place of their chunks."""
    by_id = {call["id"]: call for call in calls if call["id"]}
    for at, block in enumerate(content if isinstance(content, list) else ()):
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "tool_call_chunk" and block.get("id") in by_id:
            call = by_id[block["id"]]
            extras = {"extras": block["extras"]} if "extras" in block else {}
            content[at] = {"type": "tool_call", "name": call["name"], "args": call["args"], "id": call["id"], **extras}
        elif kind in ("server_tool_call", "server_tool_call_chunk"):
            _finish_server_call(block)


def _finish_server_call(block: dict[str, Any]) -> None:
    text = block.get("args") or "{}"
    try:
        args = well_formed_in(json.loads(text)) if isinstance(text, str) else None
    except ValueError:
        return
    if isinstance(args, dict):
        block["type"], block["args"] = "server_tool_call", args
