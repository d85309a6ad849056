"""What a node removes from the messages of its graph, published so that readers hold what is saved.

LangGraph emits nothing twice under one id: not the removal of a message that it has emitted, and none that a node keeps
behind the removal of all, or puts back. The node's update has them, so they are published with it, in the order of the
state. Only messages come again that the run's stream has had.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeAlias, cast

from langchain_core.messages import BaseMessage, RemoveMessage
from langgraph.graph.message import REMOVE_ALL_MESSAGES

from runstream_worker.chunks import Chunk
from runstream_worker.origins import Namespace, Placed
from runstream_worker.past import Entry

_DEPTH: Final = 4
_Source: TypeAlias = tuple[Namespace, str]
"""A namespace and the name of a node in it."""


class Removals:
    """Publishes the removals of one attempt's stream in the place of those that LangGraph emits.

    Args:
        past: what the stream has from earlier attempts.
    """

    def __init__(self, past: Iterable[Entry] = ()) -> None:
        self._known: set[str] = set()
        self._removed: set[str] = set()
        for entry in past:
            if entry.removes:
                self._removed |= self._known if entry.message == REMOVE_ALL_MESSAGES else {entry.message}
            elif entry.message:
                self._known.add(entry.message)
                self._removed.discard(entry.message)
        self._waiting: dict[_Source, list[Placed]] = {}

    def pass_on(self, placed: Placed) -> Iterable[Placed]:
        """Return what to publish of a chunk, and behind it."""
        match placed.chunk.mode:
            case "messages":
                return self._at_message(placed)
            case "updates" if self._known or self._waiting:
                return self._at_update(placed)
            case _:
                return (placed,)

    def _at_message(self, placed: Placed) -> Iterable[Placed]:
        message, metadata = cast("tuple[BaseMessage, Any]", placed.chunk.data)
        if isinstance(message, RemoveMessage):
            source = (placed.chunk.ns, str(metadata.get("langgraph_node")))
            self._waiting.setdefault(source, []).append(placed)
            return ()
        if message.id is not None:
            self._known.add(message.id)
            self._removed.discard(message.id)
        return (placed,)

    def _at_update(self, placed: Placed) -> Iterator[Placed]:
        yield placed
        update = placed.chunk.data
        if not isinstance(update, dict):
            return
        for node, written in update.items():
            waiting = self._waiting.pop((placed.chunk.ns, node), [])
            source = waiting[0] if waiting else _message_of(node, placed)
            lists = list(_lists_of_messages(written, _DEPTH))
            for messages in lists:
                yield from self._of(messages, source)
            if not any(isinstance(one, RemoveMessage) for messages in lists for one in messages):
                yield from waiting  # the update leaves out the channel

    def _of(self, messages: list[BaseMessage], source: Placed) -> Iterator[Placed]:
        """The removals in a list of messages that a node has returned, and what comes back behind them."""
        of_all = [at for at, one in enumerate(messages) if _removes_all(one)]
        if of_all:
            # LangGraph looks at nothing before the last of them.
            yield _with_message(source, messages[of_all[-1]])
            messages = messages[of_all[-1] + 1 :]
            self._removed |= self._known
        named = {one.id for one in messages if isinstance(one, RemoveMessage) and one.id is not None}
        self._removed |= named & self._known
        final = {one.id: one for one in messages}
        for one in messages:
            if final[one.id] is not one:
                continue  # a removal with a message of the same id behind it, which takes its place
            if isinstance(one, RemoveMessage):
                yield _with_message(source, one)
            elif one.id in self._removed:
                self._removed.discard(one.id)
                yield _with_message(source, one)


def _with_message(source: Placed, message: BaseMessage) -> Placed:
    _, metadata = cast("tuple[object, object]", source.chunk.data)
    return source._replace(chunk=source.chunk._replace(data=(message, metadata)))


def _message_of(node: str, placed: Placed) -> Placed:
    """Where a message comes from that a node puts back with an update."""
    return placed._replace(chunk=Chunk("messages", placed.chunk.ns, (None, {"langgraph_node": node})))


def _removes_all(message: BaseMessage) -> bool:
    return isinstance(message, RemoveMessage) and message.id == REMOVE_ALL_MESSAGES


def _lists_of_messages(written: object, depth: int) -> Iterator[list[BaseMessage]]:
    """The lists of messages in what a node has written: to one channel, to several, or in several commands."""
    if isinstance(written, BaseMessage):
        yield [written]
    elif isinstance(written, list | tuple):
        if messages := [one for one in written if isinstance(one, BaseMessage)]:
            yield messages
        elif depth:
            for one in written:
                yield from _lists_of_messages(one, depth - 1)
    elif isinstance(written, dict) and depth:
        for one in written.values():
            yield from _lists_of_messages(one, depth - 1)
